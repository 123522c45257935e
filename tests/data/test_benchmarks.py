"""The packaged splits of CUB, SUN and AWA2, and the loaders of their official folders."""

from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from dedn_hf.data import AWA2, CUB, SUN, attribute_table, load
from dedn_hf.data.benchmarks import METADATA, image_list
from dedn_hf.data.catalog import assign_portions
from tests.fake_data import LAYOUTS, SHARED, classes_of, write_benchmark

BUILDERS = {"cub": CUB, "sun": SUN, "awa2": AWA2}
COUNTS = {"cub": (7057, 1764, 2967), "sun": (10320, 2580, 1440), "awa2": (23527, 5882, 7913)}
SHAPES = {"cub": (200, 312, 50), "sun": (717, 102, 72), "awa2": (50, 85, 10)}


def labels_by_split(splits: datasets.DatasetDict) -> dict[str, set[int]]:
    return {split: set(dataset["label"]) for split, dataset in splits.items()}


@pytest.mark.parametrize("name", BUILDERS)
def test_packaged_splits_have_the_published_sizes(name):
    sizes = Counter(image.split for image in image_list(name))
    assert (sizes["trainval"], sizes["test_seen"], sizes["test_unseen"]) == COUNTS[name]


@pytest.mark.parametrize("name", BUILDERS)
def test_packaged_tables_are_whole(name):
    table, (classes, attributes, unseen) = attribute_table(name), SHAPES[name]
    assert table.class_attributes.shape == (classes, attributes)
    assert table.roles.count("unseen") == unseen
    assert table.attribute_embeddings.shape == (attributes, 300)
    assert len(table.attribute_groups) == attributes


@pytest.mark.parametrize("name", BUILDERS)
def test_unseen_classes_have_test_images_only(name):
    roles = attribute_table(name).roles
    assert {image.split for image in image_list(name) if roles[image.label] == "unseen"} == {"test_unseen"}


def test_awa2s_four_missing_values_become_the_mean_of_their_attribute():
    with np.load(METADATA / "awa2.npz") as arrays:
        raw = arrays["class_attributes"]
    filled = attribute_table("awa2").class_attributes
    missing = np.argwhere(raw == -1)
    assert len(missing) == 4
    for row, column in missing:
        assert filled[row, column] == pytest.approx(raw[raw[:, column] >= 0, column].mean(), rel=1e-5)
    assert np.array_equal(filled[raw >= 0], raw[raw >= 0])


def test_unknown_benchmark_names_a_near_one():
    with pytest.raises(ValueError, match="Did you mean 'awa2'"):
        attribute_table("awa")


@pytest.mark.parametrize("name", BUILDERS)
def test_official_layout_loads_with_the_proposed_split(name, tmp_path):
    write_benchmark(tmp_path, name, classes := classes_of(name))
    splits, table = load(name, data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "train": 24,
        "test_seen": len(splits["test_seen"]),
        "test_unseen": 8,
    }
    assert sorted(table.class_names) == sorted(classes)
    official = {image.file: image.split for image in image_list(name)}
    for split, listed in (("train", "trainval"), ("test_seen", "test_seen"), ("test_unseen", "test_unseen")):
        assert {official[file] for file in splits[split]["file"]} == {listed}
    assert all(table.seen[label] for split in ("train", "test_seen") for label in splits[split]["label"])
    assert not any(table.seen[label] for label in splits["test_unseen"]["label"])


@pytest.mark.parametrize("given", ["", "CUB_200_2011", "CUB_200_2011/images"])
def test_data_dir_may_be_the_parent_the_folder_or_the_images(given, tmp_path):
    write_benchmark(tmp_path, "cub", classes_of("cub"))
    assert CUB(tmp_path / given, cache_dir=tmp_path / "cache").catalog.root == str(tmp_path / LAYOUTS["cub"])


def test_rows_show_the_image_that_the_file_name_says(tmp_path):
    root = write_benchmark(tmp_path, "sun", classes_of("sun"))
    splits, table = load("sun", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    paths = splits["test_unseen"].cast_column("image", datasets.Image(decode=False))
    row = paths[0]
    assert row["image"] == {"path": str(root / row["file"]), "bytes": None}
    assert Path(row["file"]).parent.name == table.class_names[row["label"]]
    assert splits["test_unseen"].features["label"].names == table.class_names
    assert splits["test_unseen"][0]["image"].size == (24, 16)


def test_validation_never_shows_a_test_image_or_an_unseen_class(tmp_path):
    write_benchmark(tmp_path, "cub", classes_of("cub"))
    splits, table = load("cub", data_dir=tmp_path, validation=True, cache_dir=tmp_path / "cache")
    official = {image.file: image.split for image in image_list("cub")}
    files = {split: set(dataset["file"]) for split, dataset in splits.items()}
    assert list(splits) == ["train", "val_seen", "val_unseen"]
    assert {official[file] for of_split in files.values() for file in of_split} == {"trainval"}
    assert not files["train"] & files["val_seen"]
    labels = labels_by_split(splits)
    assert {table.roles[label] for label in labels["train"] | labels["val_seen"]} == {"train"}
    assert {table.roles[label] for label in labels["val_unseen"]} == {"val"}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_fifth_of_every_training_class_is_val_seen(name):
    portions = assign_portions(image_list(name), attribute_table(name).roles)
    fit, held_out = (Counter(i.label for i in portions if i.portion == portion) for portion in ("fit", "val_seen"))
    shares = [held_out[label] / (held_out[label] + fit[label]) for label in fit]
    assert set(fit) == set(held_out)
    assert min(shares) > 0.1 and max(shares) < 0.3 and np.mean(shares) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(("split", "role"), [("test_unseen", "train"), ("test_unseen", "val"), ("trainval", "unseen")])
def test_a_list_of_images_that_contradicts_the_roles_of_the_classes_is_refused(split, role):
    with pytest.raises(ValueError, match=rf"plum/1.jpg is listed as '{split}', but the role of its class is '{role}'"):
        assign_portions([("plum/1.jpg", 0, split)], [role])


def test_the_portion_of_an_image_does_not_depend_on_the_other_images(tmp_path):
    classes = classes_of("cub", train=3)
    few = write_benchmark(tmp_path / "few", "cub", classes[1:], images_per_split=4)
    many = write_benchmark(tmp_path / "many", "cub", classes, images_per_split=20)
    portions = [{i.file: i.portion for i in CUB(root, cache_dir=tmp_path).catalog.images} for root in (few, many)]
    assert portions[0] and portions[0].items() <= portions[1].items()


def test_classes_without_a_folder_are_left_out_and_named(tmp_path, caplog):
    write_benchmark(tmp_path, "awa2", classes := classes_of("awa2"))
    builder = AWA2(tmp_path, cache_dir=tmp_path / "cache")
    assert set(builder.missing_classes) == set(attribute_table("awa2").class_names) - set(classes)
    assert "no image of 46 classes" in caplog.text and builder.missing_classes[0] in caplog.text
    assert builder.table.num_attributes == 85


def test_listed_images_that_are_absent_are_counted(tmp_path, caplog):
    write_benchmark(tmp_path, "cub", classes_of("cub"))
    CUB(tmp_path, cache_dir=tmp_path / "cache")
    assert "images of the official list are not under" in caplog.text


def test_a_folder_without_known_classes_says_what_was_looked_for(tmp_path):
    (tmp_path / "images" / "holiday").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"CUB_200_2011/images.*001\.Black_footed_Albatross.*data_dir"):
        CUB(tmp_path)


def test_no_data_dir_says_where_to_get_the_data():
    with pytest.raises(FileNotFoundError, match="https://.*AwA2"):
        load("awa2")


def test_seen_classes_alone_are_no_zero_shot_problem(tmp_path):
    write_benchmark(tmp_path, "awa2", classes_of("awa2", unseen=0))
    with pytest.raises(ValueError, match="of no unseen one"):
        AWA2(tmp_path)


def test_without_validation_classes_a_training_class_takes_the_role(tmp_path):
    write_benchmark(tmp_path, "awa2", classes_of("awa2", train=4, val=0))
    splits, table = load("awa2", data_dir=tmp_path, validation=True, cache_dir=tmp_path / "cache")
    assert table.roles.count("val") == 1 and len(splits["val_unseen"]) == 8


def test_unknown_data_set_names_a_near_one():
    with pytest.raises(ValueError, match="Did you mean 'shapes'"):
        load("shape")


def test_real_photos_of_fifty_birds(tmp_path):
    if not (SHARED / "cub50").is_dir():
        pytest.skip("needs the photos of shared/cub50, which are not part of the project")
    splits, table = load("cub", data_dir=SHARED / "cub50", cache_dir=tmp_path)
    assert sum(map(len, splits.values())) == 2889
    assert (table.seen.sum(), len(table)) == (40, 50)
    assert splits["train"][0]["image"].mode == "RGB"
