"""Lists of photos as programs and people write them, and what the check makes of folders that are no classes."""

import os

import pytest

from dedn_hf.cli import main
from dedn_hf.data import load
from dedn_hf.data.own_photos import check, describe_twice
from dedn_hf.data.photos import find_photos
from dedn_hf.traits import read_traits
from tests.fake_data import jpeg, write_folder

ROWS = [(f"pictures/{name} {i}.jpg", name) for name in ("Wren", "Kite") for i in range(2)]
TABLE = "class,a,b,c\nWren,1,0,1\nKite,0,1,1\nGrünspecht,1,1,0\nSwan,0,0,1\n"


@pytest.fixture
def root(tmp_path):
    for i, (file, _) in enumerate(ROWS):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(jpeg(i))
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path


def text(delimiter, header=("file", "species")):
    return "\n".join(delimiter.join(row) for row in (header, *ROWS))


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\n" + text(";"),
        text("\t").encode("utf-16"),
        text(",").encode("utf-8-sig"),
        text("|"),
        text(";").replace("/", "\\"),
        text(",") + "\n" + ",".join(ROWS[0]),
    ],
    ids=["sep=", "UTF-16", "UTF-8 with a mark", "bars", "Windows", "a row twice"],
)
def test_a_list_in_another_dialect_names_the_same_photos(root, content):
    (root / "list.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = find_photos(root / "list.csv")
    assert found.counts() == {"Wren": 2, "Kite": 2}
    assert all(os.path.isfile(photo.path) for photo in found.photos)


def test_a_list_may_be_an_excel_file(root):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("photo", "taxon"), *ROWS):
        book.active.append(row)
    book.save(root / "list.xlsx")
    assert find_photos(root / "list.xlsx").counts() == {"Wren": 2, "Kite": 2}


def test_labels_in_latin_1_are_read(root):
    (root / "list.csv").write_bytes(text(",").replace("0.jpg,Wren", "0.jpg,Grünspecht").encode("cp1252"))
    found, report = check(root / "list.csv", root / "table.csv")
    assert found.counts()["Grünspecht"] == 1
    assert not report.photos_without_row


def test_a_folder_named_in_latin_1_finds_its_class(root):
    folder = os.path.join(os.fsencode(root / "pictures"), "Gr\xfcnspecht".encode("latin-1"))
    os.mkdir(folder)
    os.rename(os.fsencode(root / "pictures" / "Wren 0.jpg"), os.path.join(folder, b"0.jpg"))
    found, report = check(root / "pictures", root / "table.csv")
    assert found.counts() == {"Grünspecht": 1}
    assert not report.photos_without_row


def test_lists_in_train_and_test_folders_are_read_as_imagefolder_reads_them(root):
    for split in ("train", "test"):
        (root / "data" / split).mkdir(parents=True)
        for i in range(2):
            (root / "data" / split / f"{i}.jpg").write_bytes(jpeg(i + 5 * len(split)))
        (root / "data" / split / "metadata.csv").write_text("file_name,label\n0.jpg,Wren\n1.jpg,Kite\n")
    splits, _ = load("folder", root / "data", csv=root / "table.csv", cache_dir=root / "cache")
    assert {split: len(images) for split, images in splits.items()} == {"train": 2, "test_seen": 2, "test_unseen": 0}


def test_numbers_as_labels_do_not_match_a_column_of_values(root):
    with pytest.raises(ValueError, match="no class is a photo folder"):
        read_traits(root / "table.csv", photos=["0", "1"])
    (root / "numbered.csv").write_text("number,size,wing\n0,1,5\n1,0,7\n2,1,8\n")
    assert read_traits(root / "numbered.csv", photos=["0", "1"]).class_names == ["0", "1", "2"]


def test_only_folders_that_are_meant_as_classes_are_said_to_have_no_row(tmp_path):
    write_folder(tmp_path / "photos" / "2024" / "site A", {"Wren/day 1": 2, "Kite": 2, "Otter": 2})
    (tmp_path / "table.csv").write_text(TABLE)
    found, report = check(tmp_path / "photos", tmp_path / "table.csv")
    assert found.counts() == {"Wren": 2, "Kite": 2, "Otter": 2}
    assert list(report.photos_without_row) == ["Otter"]
    assert "2 of 3 photo classes found in it" in str(report)


def test_the_check_says_what_training_would_refuse(tmp_path, capsys):
    write_folder(tmp_path / "photos", {"Wren": 2, "Otter": 2})
    (tmp_path / "table.csv").write_text(TABLE)
    main(["check", str(tmp_path / "photos"), "--traits", str(tmp_path / "table.csv")])
    assert "cannot be trained with as it is: 1 folders of" in capsys.readouterr().out
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "0.jpg").write_bytes(jpeg(0))
    main(["check", str(tmp_path / "loose"), "--traits", str(tmp_path / "table.csv")])
    screen = capsys.readouterr().out
    assert "4 classes (0 seen)" in screen
    assert "holds no images. Put the images of each class in a folder" in screen


def test_of_many_photos_under_two_classes_the_first_few_are_named(tmp_path):
    for name in ("Wren", "Kite"):
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / f"{i}.jpg").write_bytes(jpeg(i))
    lines = describe_twice(find_photos(tmp_path))
    assert len(lines) == 6
    assert lines[-1] == "3 more photos under several classes"
