"""Photos are found where they are; what is not used is named with the reason."""

import os
import shutil
import unicodedata
import zipfile
from importlib.util import find_spec

import datasets
import pytest
from PIL import Image

from dedn_hf.data import load, prepare
from dedn_hf.data.photos import find_photos
from tests.fake_data import jpeg, write_csv, write_folder

ROLES = {"Wren": "train", "Kite": "train", "Swan": "unseen"}


@pytest.fixture
def birds(tmp_path):
    """A folder of photos, and the table beside it."""
    write_csv(tmp_path / "table.csv", ROLES)
    return write_folder(tmp_path / "photos", dict.fromkeys(ROLES, 4))


def loaded(root, tmp_path, table="table.csv", **options):
    return load("folder", root, csv=tmp_path / table, cache_dir=tmp_path / "cache", **options)


def counts(splits) -> dict[str, int]:
    return {split: len(images) for split, images in splits.items()}


def only(known: dict[str, str]):
    return lambda names: {name: known[name] for name in names if name in known}


# Layouts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "photos", "2024/site 1", "Birds/Europe"])
def test_classes_are_found_at_any_depth(above, tmp_path):
    write_folder(tmp_path / "all" / above, {"Wren": 2, "Kite": 1, "Wren/day 1": 1})
    found = find_photos(tmp_path / "all", only({"Wren": "Wren", "Kite": "Kite"}))
    assert found.counts() == {"Wren": 3, "Kite": 1} and not found.skipped


def test_the_nearest_folder_that_is_a_class_counts(tmp_path):
    write_folder(tmp_path / "all", {"Gull/Herring Gull": 2, "Gull": 1})
    assert find_photos(tmp_path / "all", only({"Gull": "Gull", "Herring Gull": "Herring Gull"})).counts() == {
        "Gull": 1,
        "Herring Gull": 2,
    }


def test_train_and_test_folders_say_what_to_test_on(birds, tmp_path):
    (tmp_path / "split" / "train").mkdir(parents=True)
    (tmp_path / "split" / "test").mkdir()
    for name in ("Wren", "Kite"):
        shutil.copytree(birds / name, tmp_path / "split" / "train" / name)
    write_folder(tmp_path / "split" / "test", {"Wren": 1, "Swan": 3})
    splits, table = loaded(tmp_path / "split", tmp_path)
    tested = splits["test_seen"]["file"]
    assert "test/Wren/0.jpg" in tested and not [file for file in tested if file.startswith("train/Wren")]
    assert len(splits["test_unseen"]) == 3


def test_without_a_table_the_folders_of_train_and_test_are_the_classes(tmp_path):
    write_folder(tmp_path / "all", {"train/Wren": 1, "test/Wren": 1, "valid/Kite": 1})
    found = find_photos(tmp_path / "all")
    assert [(photo.label, photo.split) for photo in found.photos] == [
        ("Wren", "test"),
        ("Wren", "train"),
        ("Kite", "train"),
    ]


@pytest.mark.parametrize("columns", ["file_name,label", "label,file_name", "Path;Species", "FILE\tClass"])
def test_a_list_names_files_and_labels(columns, birds, tmp_path):
    delimiter = next(mark for mark in ",;\t" if mark in columns)
    first_is_file = "file" in columns.split(delimiter)[0].lower() or "path" in columns.lower().split(delimiter)[0]
    rows = [[f"{path.parent.name}/{path.name}", path.parent.name] for path in sorted(birds.rglob("*.jpg"))]
    lines = [columns, *(delimiter.join(row if first_is_file else row[::-1]) for row in rows)]
    (birds / "metadata.csv").write_text("\n".join(lines) + "\n")
    assert find_photos(birds).counts() == {"Wren": 4, "Kite": 4, "Swan": 4}
    assert find_photos(birds / "metadata.csv").counts() == {"Wren": 4, "Kite": 4, "Swan": 4}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_other_forms_of_lists_are_read_too(suffix, birds):
    rows = [{"file_name": f"{name}/0.jpg", "label": name, "split": "test"} for name in ROLES]
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(birds / "metadata.parquet") if suffix == "parquet" else data.to_json(birds / "metadata.jsonl")
    found = find_photos(birds)
    assert found.counts() == dict.fromkeys(ROLES, 1) and {photo.split for photo in found.photos} == {"test"}


def test_a_list_is_loaded_like_a_folder(birds, tmp_path):
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}" for path in sorted(birds.rglob("*.jpg"))]
    (birds / "list.csv").write_text("\n".join(["file_name,label", *rows]))
    assert counts(loaded(birds / "list.csv", tmp_path)[0]) == counts(loaded(birds, tmp_path)[0])


def test_a_list_without_a_column_of_labels_says_which_it_needs(birds):
    (birds / "metadata.csv").write_text("file_name,date\nWren/0.jpg,today\n")
    with pytest.raises(ValueError, match="no column of labels: call it 'label'. It has date"):
        find_photos(birds)


def test_a_list_whose_files_are_elsewhere_is_refused(birds):
    (birds / "metadata.csv").write_text("file_name,label\nnowhere/0.jpg,Wren\n")
    with pytest.raises(ValueError, match="names 1 files, and none is there. The first is 'nowhere/0.jpg'"):
        find_photos(birds)


# What is not used ---------------------------------------------------------------------------------------------------


def skipped_after(birds, change) -> dict[str, list[str]]:
    before = find_photos(birds, only({name: name for name in ROLES}))
    change(birds)
    after = find_photos(birds, only({name: name for name in ROLES}))
    assert after.counts() == before.counts()
    return dict(after.skipped)


def test_hidden_folders_and_litter_are_skipped_at_every_level(birds):
    def litter(root):
        for folder in (root / "__MACOSX" / "Wren", root / "Wren" / ".ipynb_checkpoints"):
            folder.mkdir(parents=True)
            (folder / "0.jpg").write_bytes(jpeg(0))
        (root / "Wren" / "._0.jpg").write_bytes(b"\0\5\x16\7")
        (root / "Wren" / "thumbs.db").write_bytes(b"x")
        write_folder(root, {"$RECYCLE.BIN": 1, "Wren/@eaDir/0.jpg": 1, "Kite/#recycle": 1})

    (names,) = skipped_after(birds, litter).values()
    inside = ["Wren/._0.jpg", "Wren/.ipynb_checkpoints", "Wren/@eaDir", "Wren/thumbs.db"]
    assert names == ["$RECYCLE.BIN", "Kite/#recycle", *inside, "__MACOSX"]


def test_what_a_stopped_command_has_left_is_no_photo(birds):
    def stop(root):
        write_folder(root, {"answers.csv.unfinished": 1})

    assert skipped_after(birds, stop) == {"of a command that was stopped": ["answers.csv.unfinished"]}


HEIC = b"\0\0\0\x18ftypheic" + bytes(50)
without_heic = pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.txt", b"no picture", "no pictures"),
        ("clip.mp4", b"\0\0\0\x18ftypmp42" + bytes(50), "no pictures"),
        ("bird.nef", b"II*\0", "raw pictures"),
        ("bird.zip", b"PK", "archives: unpack them"),
        pytest.param("bird.HEIC", HEIC, "pip install pillow-heif", marks=without_heic),
    ],
)
def test_a_file_that_is_not_used_is_named_with_the_reason(name, content, reason, birds):
    found = skipped_after(birds, lambda root: (root / "Wren" / name).write_bytes(content))
    ((why, names),) = found.items()
    assert reason in why and names == [f"Wren/{name}"]


def test_a_photo_outside_the_folders_of_classes_is_named(birds):
    assert skipped_after(birds, lambda root: (root / "0.jpg").write_bytes(jpeg(0))) == {
        "outside the folders of classes": ["0.jpg"]
    }


def test_a_dead_link_is_named(birds):
    assert skipped_after(birds, lambda root: (root / "Wren" / "dead.jpg").symlink_to("/nowhere.jpg")) == {
        "links to files that are not there": ["Wren/dead.jpg"]
    }


def test_a_folder_that_contains_itself_through_a_link_ends(birds):
    assert skipped_after(birds, lambda root: (root / "Wren" / "again").symlink_to(root)) == {
        "linked folders that contain themselves": ["Wren/again"]
    }


@pytest.mark.parametrize("inside", ["", "day 1"])
def test_linked_folders_are_used_like_others(inside, birds, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_folder(elsewhere, {"more": 2})
    link = birds / "Wren" / inside if inside else birds / "Tern"
    link.symlink_to(elsewhere / "more")
    assert find_photos(birds).counts()["Wren" if inside else "Tern"] == (6 if inside else 2)


@pytest.mark.parametrize("name", ["photo", "photo.jpg_large", "photo.jfif", "photo.JPG", "photo.jpeg!d"])
def test_a_photo_is_one_by_its_content_whatever_its_suffix(name, birds):
    (birds / "Wren" / name).write_bytes(jpeg(7))
    assert find_photos(birds).counts()["Wren"] == 5


def test_skipped_files_are_said_when_data_are_loaded(birds, tmp_path, caplog):
    with zipfile.ZipFile(birds / "Wren.zip", "w") as archive:
        archive.write(birds / "Wren" / "0.jpg")
    loaded(birds, tmp_path)
    assert "Not used: 1 archives: unpack them: Wren.zip" in caplog.text


def test_the_same_photo_under_two_classes_is_said(birds, tmp_path, caplog):
    (birds / "Swan" / "copy.jpg").write_bytes(jpeg(99))
    (birds / "Wren" / "original.jpg").write_bytes(jpeg(99))
    for name in ROLES:
        for number in range(4):
            Image.new("RGB", (9, 9), (number, len(name) * 9, ord(name[0]))).save(birds / name / f"{number}.jpg")
    loaded(birds, tmp_path)
    assert "under several classes: Swan/copy.jpg, Wren/original.jpg" in caplog.text
    assert caplog.text.count("several classes") == 1


# Names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a::b", "Wren #1", "Kite 50%", "Wren [m]", "Kite*", "Swan?", "Larus sp.", "NA"])
def test_a_class_may_have_any_name(name, tmp_path):
    roles = {name: "train", "Kite": "train", "Swan": "unseen"}
    root = write_folder(tmp_path / "photos", dict.fromkeys(roles, 3))
    write_csv(tmp_path / "table.csv", roles)
    for _ in range(2):  # `datasets` replaces parts of a builder's module at the first time
        splits, table = loaded(root, tmp_path)
        files = [row["file"] for images in splits.values() for row in images]  # which decodes every image
        assert sum(file.startswith(f"{name}/") for file in files) == 3
        shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"a\nb.jpg", b"a::b.jpg"])
def test_a_file_may_have_any_name(name, birds, tmp_path):
    with open(os.path.join(os.fsencode(birds / "Wren"), name), "wb") as file:
        file.write(jpeg(50))
    splits, _ = loaded(birds, tmp_path)
    files = [row["file"] for images in splits.values() for row in images]
    assert len(files) == 13
    folder = prepare("folder", tmp_path / "parquet", birds, csv=tmp_path / "table.csv")
    assert sorted(files) == sorted(row["file"] for images in load(folder)[0].values() for row in images)


@pytest.mark.parametrize(
    ("folder", "row"),
    [
        ("wren", "Wren"),
        ("001.Wren", "Wren"),
        ("Wren ", "Wren"),
        ("House_Wren", "House Wren"),
        ("House\u00a0Wren", "House Wren"),
        ("Cooper\u2019s Hawk", "Cooper's Hawk"),
        (unicodedata.normalize("NFD", "Gr\u00fcnspecht"), "Gr\u00fcnspecht"),
    ],
)
def test_folders_and_rows_that_mean_the_same_class_find_each_other(folder, row, tmp_path):
    root = write_folder(tmp_path / "photos", {folder: 3, "Kite": 3, "Swan": 2})
    write_csv(tmp_path / "table.csv", {row: "train", "Kite": "train", "Swan": "unseen"})
    splits, _ = loaded(root, tmp_path)
    assert sum(len(images) for images in splits.values()) == 8


def test_a_class_with_photos_is_seen_and_one_without_is_unseen(tmp_path):
    root = write_folder(tmp_path / "photos", {"Wren": 3, "Kite": 3})
    (tmp_path / "table.csv").write_text("species;bill;mass g\nWren;fine;9\nKite;hooked;950\nSwan;broad;11000\n")
    splits, table = loaded(root, tmp_path)
    assert dict(zip(table.class_names, table.seen.tolist(), strict=True)) == {
        "Wren": True,
        "Kite": True,
        "Swan": False,
    }
    assert table.attribute_names == ["bill=broad", "bill=fine", "bill=hooked", "mass g"]
    assert table.class_attributes.min() >= 0 and table.class_attributes[:2].max() <= 1
    assert len(splits["test_unseen"]) == 0


# Classes without photos ---------------------------------------------------------------------------------------------


def test_unseen_classes_that_are_only_described_leave_an_empty_split(birds, tmp_path):
    shutil.rmtree(birds / "Swan")
    splits, table = loaded(birds, tmp_path)
    assert counts(splits) == {"train": 6, "test_seen": 2, "test_unseen": 0} and "Swan" in table.class_names
    splits, _ = loaded(birds, tmp_path, validation=True)
    assert counts(splits) == {"train": 2, "val_seen": 1, "val_unseen": 3}


def test_a_prepared_folder_of_them_opens_too(birds, tmp_path):
    shutil.rmtree(birds / "Swan")
    folder = prepare("folder", tmp_path / "parquet", birds, csv=tmp_path / "table.csv")
    assert counts(load(folder, cache_dir=tmp_path / "a")[0]) == {"train": 6, "test_seen": 2, "test_unseen": 0}
    assert counts(load(folder, validation=True, cache_dir=tmp_path / "a")[0])["val_unseen"] == 3
    assert counts(datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "b"))) == {"train": 6, "test_seen": 2}


def test_links_to_themselves_and_pipes_are_named_as_skipped(birds):
    os.symlink("loop", birds / "Wren" / "loop")
    os.mkfifo(birds / "Wren" / "pipe.jpg")
    found = find_photos(birds)
    assert found.counts()["Wren"] == 4
    assert found.skipped["links to files that are not there"] == ["Wren/loop"]
    assert found.skipped["pipes and devices"] == ["Wren/pipe.jpg"]


def test_a_column_of_a_list_may_be_called_with_spaces(tmp_path):
    write_folder(tmp_path, {"Wren": 1})
    photo = next((tmp_path / "Wren").iterdir()).name
    (tmp_path / "metadata.csv").write_text(f"File Name,Class Name\nWren/{photo},Wren\n")
    assert find_photos(tmp_path).counts() == {"Wren": 1}


def test_a_class_whose_photos_are_all_to_test_on_is_only_described(tmp_path, caplog):
    write_folder(tmp_path / "photos" / "train", {"Wren": 3, "Kite": 3})
    write_folder(tmp_path / "photos" / "test", {"Wren": 2, "Swan": 3})
    (tmp_path / "table.csv").write_text("species;bill;mass g\nWren;fine;9\nKite;hooked;950\nSwan;broad;11000\n")
    splits, table = loaded(tmp_path / "photos", tmp_path)
    assert counts(splits) == {"train": 6, "test_seen": 2, "test_unseen": 3}
    assert dict(zip(table.class_names, table.seen.tolist(), strict=True)) == {
        "Wren": True,
        "Kite": True,
        "Swan": False,
    }
    assert "all photos of Swan are to test on: described, not learned" in caplog.text


def test_photos_of_which_none_can_be_read_are_refused_with_the_first_reason(birds, tmp_path):
    for path in birds.rglob("*.jpg"):
        path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"None of the 12 images of .* can be read. The first: \w+/\d.jpg \(\w+: "):
        loaded(birds, tmp_path)


@pytest.mark.parametrize("second", ["Wren/0.jpg", "./Wren/0.jpg"])
def test_a_photo_with_two_labels_in_a_list_is_refused(second, birds):
    (birds / "metadata.csv").write_text(f"file_name,label\nWren/0.jpg,Wren\nKite/0.jpg,Kite\n{second},Kite\n")
    with pytest.raises(ValueError, match="Wren/0.jpg is 'Wren' in one row and 'Kite' in another. Keep one."):
        find_photos(birds)


def test_a_file_of_that_name_that_is_no_list_of_photos_can_be_moved_away(birds):
    (birds / "metadata.csv").write_text("place,date\nhere,today\n")
    with pytest.raises(ValueError, match="has no column of files.*Or move .*metadata.csv away"):
        find_photos(birds)


@pytest.mark.parametrize("make", ["zip", "gztar"])
def test_an_archive_in_place_of_a_folder_is_to_be_unpacked(make, birds, tmp_path):
    with pytest.raises(ValueError, match="is an archive. Unpack it, and give the folder."):
        find_photos(shutil.make_archive(str(tmp_path / "all"), make, birds))


def test_a_photo_in_place_of_a_folder_is_no_list(birds):
    with pytest.raises(ValueError, match="it is no text. Give a folder of photos, or a list"):
        find_photos(birds / "Wren" / "0.jpg")
