"""The procedural data set: reproducible, compositional, and not to be solved without looking at places."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from dedn_hf.data import Shapes, load
from dedn_hf.data.creatures import PART_NAMES
from dedn_hf.data.shapes import creatures, render, shapes_table


def test_the_same_arguments_draw_the_same_picture():
    (one, boxes), (again, boxes_again), (other, _) = render(3, 7), render(3, 7), render(3, 8)
    assert one.tobytes() == again.tobytes() != other.tobytes()
    assert boxes == boxes_again


@pytest.mark.parametrize("size", [32, 64, 100])
def test_every_part_lies_wholly_inside_the_picture(size):
    for class_index in range(40):
        picture, boxes = render(class_index, 1, size)
        assert picture.size == (size, size) and set(boxes) == set(PART_NAMES)
        for x0, y0, x1, y1 in boxes.values():
            assert 0 < x0 < x1 < size and 0 < y0 < y1 < size


def test_the_head_box_holds_the_eye():
    picture, boxes = render(0, 2, 128)
    x0, y0, x1, y1 = boxes["head"]
    middle = np.asarray(picture)[int((y0 + y1) / 2), int((x0 + x1) / 2)]
    corner = np.asarray(picture.crop((int(x0), int(y0), int(x1), int(y1))))
    assert corner.min(axis=2).max() > 110, "the white of the eye is in the box"
    assert middle.max() < 110, "the pupil is in its middle"


def test_no_class_that_does_not_exist():
    with pytest.raises(ValueError, match="classes 0 to 39"):
        render(40)


def test_forty_classes_are_forty_combinations():
    table = shapes_table()
    assert (len(table), table.num_attributes, len(set(table.attribute_groups))) == (40, 26, 4)
    assert len(set(creatures())) == 40 == len({tuple(row) for row in table.class_attributes})
    assert [table.roles.count(role) for role in ("train", "val", "unseen")] == [24, 8, 8]


def test_every_attribute_is_learnable_from_two_training_classes():
    table = shapes_table()
    training = np.array(table.roles) == "train"
    assert table.class_attributes[training].sum(axis=0).min() >= 2


def test_unseen_classes_come_in_pairs_that_swap_colours():
    unseen = [creature for creature, role in zip(creatures(), shapes_table().roles, strict=True) if role == "unseen"]
    for one, other in zip(unseen[::2], unseen[1::2], strict=True):
        assert one == other._replace(body_colour=other.head_colour, head_colour=other.body_colour) != other


def test_the_builder_writes_what_render_draws(tmp_path):
    splits, table = load("shapes", images_per_class=5, image_size=32, seed=4, cache_dir=tmp_path)
    row = splits["test_unseen"][0]
    picture, boxes = render(row["label"], (4, int(row["file"][-8:-4])), 32)
    assert row["image"].tobytes() == picture.tobytes()
    assert {part["name"]: part["box"] for part in row["parts"]} == {k: pytest.approx(v) for k, v in boxes.items()}
    assert table.class_names == splits["train"].features["label"].names


def test_splits_are_disjoint_and_follow_the_roles(tmp_path):
    plain, table = load("shapes", images_per_class=10, image_size=16, cache_dir=tmp_path)
    validation, _ = load("shapes", images_per_class=10, image_size=16, cache_dir=tmp_path, validation=True)
    assert [len(plain[split]) for split in ("train", "test_seen", "test_unseen")] == [256, 64, 80]
    assert {table.roles[label] for label in plain["test_unseen"]["label"]} == {"unseen"}
    assert {table.roles[label] for label in validation["val_unseen"]["label"]} == {"val"}
    files = [file for dataset in validation.values() for file in dataset["file"]]
    assert sorted(files) == sorted(plain["train"]["file"])


def test_another_seed_is_another_cache_with_other_pictures(tmp_path):
    one, other = (Shapes(images_per_class=5, image_size=16, seed=seed, cache_dir=tmp_path).load() for seed in (0, 1))
    assert one["train"][0]["image"].tobytes() != other["train"][0]["image"].tobytes()


@pytest.mark.parametrize("options", [{"image_size": 8}, {"images_per_class": 4}])
def test_too_small_a_data_set_is_refused(options):
    with pytest.raises(ValueError, match="image_size >= 16 and images_per_class >= 5"):
        Shapes(**options)


def pooled_features(picture) -> np.ndarray:
    """Colour histogram (4 x 4 x 4 bins) and the picture at 8 x 8 pixels: what there is without looking at parts."""
    pixels = np.asarray(picture)
    bins = (pixels // 64).reshape(-1, 3) @ [16, 4, 1]
    small = np.asarray(picture.resize((8, 8))).ravel() / 255
    return np.concatenate([np.bincount(bins, minlength=64) / len(bins), small])


def test_a_linear_probe_on_pooled_features_does_not_solve_it():
    table = shapes_table()
    attributes = table.class_attributes / np.linalg.norm(table.class_attributes, axis=1, keepdims=True)
    seen, unseen = np.flatnonzero(table.seen), np.flatnonzero(~table.seen)
    train = [(label, pooled_features(render(label, seed)[0])) for label in seen for seed in range(30)]
    test = [(label, pooled_features(render(label, seed)[0])) for label in unseen for seed in range(12)]
    scale = StandardScaler().fit([features for _, features in train])
    probe = Ridge(100.0).fit(scale.transform([x for _, x in train]), [attributes[label] for label, _ in train])
    scores = probe.predict(scale.transform([x for _, x in test])) @ attributes[unseen].T
    correct = unseen[scores.argmax(axis=1)] == [label for label, _ in test]
    assert correct.mean() < 0.5
