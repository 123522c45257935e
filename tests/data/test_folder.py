"""A folder of one's own images with a CSV of class attributes."""

import pytest

from dedn_hf.data import Folder, load
from dedn_hf.data.preparing import prepare
from tests.fake_data import write_csv, write_folder

ROLES = {"lynx": "train", "okapi": "train", "panda": "train", "tapir": "train", "zebra": "unseen"}


@pytest.fixture
def zoo(tmp_path):
    root = write_folder(tmp_path / "zoo", dict.fromkeys(ROLES, 10))
    write_csv(root / "attributes.csv", ROLES)
    return root


def test_images_are_split_by_role(zoo, tmp_path):
    splits, table = load("folder", zoo, cache_dir=tmp_path)
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "train": 32,
        "test_seen": 8,
        "test_unseen": 10,
    }
    assert {table.class_names[label] for label in splits["test_unseen"]["label"]} == {"zebra"}
    assert table.attribute_groups == ["coat", "coat", "size"]


def test_every_image_is_in_one_split_under_its_class(zoo, tmp_path):
    splits, table = load("folder", zoo, cache_dir=tmp_path)
    rows = [
        (row["file"], table.class_names[row["label"]]) for ds in splits.values() for row in ds.remove_columns("image")
    ]
    assert len({file for file, _ in rows}) == len(rows) == 50
    assert all(file.startswith(f"{class_name}/") for file, class_name in rows)


def test_test_fraction_sets_the_share_of_test_seen(zoo, tmp_path):
    splits, _ = load("folder", zoo, cache_dir=tmp_path, test_fraction=0.5)
    assert len(splits["test_seen"]) == 20


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_test_fraction_has_to_leave_both_sides(fraction, zoo):
    with pytest.raises(ValueError, match="above 0, below 1"):
        Folder(zoo, test_fraction=fraction)


def test_validation_takes_a_fifth_of_the_seen_classes(zoo, tmp_path):
    plain, _ = load("folder", zoo, cache_dir=tmp_path)
    splits, table = load("folder", zoo, cache_dir=tmp_path, validation=True)
    assert table.roles.count("val") == 1 and table.seen.sum() == 4
    assert {table.roles[label] for label in splits["val_unseen"]["label"]} == {"val"}
    held_in = {file for dataset in splits.values() for file in dataset["file"]}
    assert held_in == set(plain["train"]["file"])


def test_validation_classes_of_the_csv_are_kept(zoo, tmp_path):
    csv = write_csv(tmp_path / "roles.csv", {**ROLES, "okapi": "val"})
    splits, table = load("folder", zoo, cache_dir=tmp_path, validation=True, csv=csv)
    assert {table.class_names[label] for label in splits["val_unseen"]["label"]} == {"okapi"}


def test_one_seen_class_can_train_but_not_validate(tmp_path):
    root = write_folder(tmp_path / "zoo", {"lynx": 4, "zebra": 4})
    write_csv(root / "attributes.csv", {"lynx": "train", "zebra": "unseen"})
    assert len(load("folder", root, cache_dir=tmp_path)[0]["train"]) == 3
    with pytest.raises(ValueError, match="two seen classes"):
        load("folder", root, cache_dir=tmp_path, validation=True)


def test_groups_may_come_from_a_file(zoo, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("striped,pattern\nspotted,pattern\ntall,body\n")
    assert Folder(zoo, groups=groups, cache_dir=tmp_path).table.attribute_groups == ["pattern", "pattern", "body"]


def test_an_unseen_class_may_be_known_by_description_only(zoo, tmp_path, caplog):
    csv = write_csv(tmp_path / "more.csv", {**ROLES, "quagga": "unseen"})
    _, table = load("folder", zoo, cache_dir=tmp_path, csv=csv)
    assert "quagga" in table.class_names
    assert "1 unseen classes have no images to test on: quagga" in caplog.text


def test_a_seen_class_without_images_is_left_out(zoo, tmp_path, caplog):
    csv = write_csv(tmp_path / "more.csv", {**ROLES, "quagga": "train"})
    splits, table = load("folder", zoo, cache_dir=tmp_path, csv=csv)
    assert "quagga" not in table.class_names and "quagga" in caplog.text
    assert splits["train"].features["label"].names == table.class_names


def test_a_folder_that_no_row_describes_is_named_with_near_rows(zoo):
    write_folder(zoo, {"zebras": 1})
    with pytest.raises(ValueError, match="first 'zebras'. Did you mean 'zebra'"):
        Folder(zoo)


def test_no_image_of_a_seen_class_is_an_error(tmp_path):
    root = write_folder(tmp_path / "zoo", {"zebra": 3})
    with pytest.raises(ValueError, match="nothing to train on"):
        Folder(root, csv=write_csv(tmp_path / "a.csv", ROLES))


def test_a_seen_class_is_needed(zoo, tmp_path):
    csv = write_csv(tmp_path / "one_role.csv", dict.fromkeys(ROLES, "unseen"))
    with pytest.raises(ValueError, match="no seen class"):
        Folder(zoo, csv=csv)


def test_a_table_of_seen_classes_only_is_that_of_a_plain_classifier(zoo, tmp_path):
    csv = write_csv(tmp_path / "one_role.csv", dict.fromkeys(ROLES, "train"))
    builder = Folder(zoo, csv=csv)
    assert builder.table.seen.all() and not builder.images["test_unseen"]


def test_a_folder_without_images_is_an_error(tmp_path):
    root = write_folder(tmp_path / "zoo", {"lynx": 0})
    (root / "lynx" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="holds no images"):
        Folder(root, csv=write_csv(tmp_path / "a.csv", ROLES))


def test_no_such_folder_is_an_error(zoo):
    with pytest.raises(FileNotFoundError, match="one folder of images a class"):
        Folder(zoo / "nowhere", csv=zoo / "attributes.csv")


@pytest.mark.parametrize("name", ["folder", "shapes", "cub", "existing"])
def test_an_option_that_no_data_set_has_is_refused_before_anything_is_read(name, tmp_path):
    with pytest.raises(ValueError, match=r"No option 'keep_metdata' of the data set. Did you mean 'keep_metadata'\?"):
        load(name, tmp_path / "missing", keep_metdata=True)
    with pytest.raises(ValueError, match="No option 'keep_metdata' of the data set"):
        prepare(name, tmp_path / "out", tmp_path / "missing", keep_metdata=True)
    assert not list(tmp_path.iterdir())
