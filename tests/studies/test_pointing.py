"""The pointing game: parts become regions where they lie, and only a peak on the right part is a hit."""

import numpy as np
import pytest

from dedn_hf.data.benchmarks import attribute_table
from dedn_hf.data.creatures import PART_NAMES
from dedn_hf.data.shapes import render, shapes_table
from dedn_hf.studies.pointing import (
    cub_parts_of,
    play_pointing_game,
    pointing_accuracy,
    pointing_hits,
    read_cub_birds,
    read_cub_parts,
    regions_of,
    shapes_parts_of,
)
from tests.explain.test_explain import red_finder, square

SQUARE = (0.0, 0.0, 80.0, 80.0)


def covered(*boxes, crop=SQUARE, margin=0.0) -> list[tuple[int, int]]:
    """Row and column of the regions, of 10 pixels each."""
    return [tuple(place) for place in np.argwhere(regions_of(boxes, crop, (8, 8), margin)).tolist()]


def test_a_box_covers_the_regions_whose_centre_it_holds():
    assert covered((0, 0, 20, 10)) == [(0, 0), (0, 1)]
    assert covered((6, 0, 24, 10)) == [(0, 1)]  # the centres are at 5, 15, 25
    assert covered((0, 0, 10, 10), (70, 70, 80, 80)) == [(0, 0), (7, 7)]


def test_what_is_smaller_than_a_region_has_the_region_that_holds_it():
    assert covered((31, 52, 33, 53)) == [(5, 3)]
    assert covered((38, 59, 38, 59)) == [(5, 3)]  # a point
    assert covered((10, 21, 30, 22)) == [(2, 1), (2, 2)]  # a thin bar


def test_a_margin_adds_the_regions_around():
    assert covered((35, 35, 35, 35), margin=1) == [(row, column) for row in (2, 3, 4) for column in (2, 3, 4)]


def test_regions_divide_what_the_model_saw_of_the_picture():
    crop = (40.0, 0.0, 120.0, 80.0)
    assert covered((40, 0, 50, 10), crop=crop) == [(0, 0)]
    assert covered((0, 0, 30, 80), crop=crop) == []


def test_only_a_peak_on_the_target_is_a_hit():
    maps = np.zeros((1, 2, 3, 2, 2))
    maps[0, 0, :, 0, 1] = 1.0  # the first expert points to the upper right, the second to the lower left
    maps[0, 1, :, 1, 0] = 1.0
    maps[0, 1, 2] = -1.0  # or finds nothing
    targets = np.zeros((1, 3, 2, 2), dtype=bool)
    targets[0, 0, 0, 1] = targets[0, 1, 1, 0] = True
    targets[0, 2] = True
    assert pointing_hits(maps, targets).tolist() == [[[True, False, True], [False, True, False]]]


def test_a_model_that_finds_red_points_at_the_red_part():
    model = red_finder()
    picture, red, blue = square(96, 64, (40, 16, 48, 24)), (40.0, 16.0, 48.0, 24.0), (60.0, 40.0, 76.0, 64.0)
    part_names = [("red",)] * 4 + [("blue",)] * 3 + [("elsewhere",)]
    hits, targets = play_pointing_game(model, [picture], [0], [{"red": [red], "blue": [blue]}], part_names)
    table = model.attribute_table.class_attributes
    expected = np.array([1.0] * 4 + [0.0] * 3 + [np.nan])  # no part of the last is in the picture
    expected[table[0] < table.max() / 2] = np.nan  # nor is what the class does not have
    assert np.array_equal(hits[0], np.stack([expected, expected]), equal_nan=True)
    assert 0 < np.isnan(expected[:7]).sum() < 7
    assert targets[0, 0].sum() == 1 and np.argwhere(targets[0, 0]).tolist() == [[2, 3]]  # the crop starts at 16


def test_accuracy_is_by_group_and_expert_beside_what_needs_no_model():
    hits = np.full((2, 2, 3), np.nan)
    hits[0, 0], hits[0, 1] = [1, 0, 1], [1, 1, 1]
    hits[1, :, 0] = [0, 1]
    targets = np.zeros((2, 3, 4, 4), dtype=bool)
    targets[:, 0, 1:3, 1:3] = True  # the middle, a quarter
    targets[:, 1:, 0, 0] = True
    results = pointing_accuracy(hits, targets, ["body", "head", "head"], ["coarse", "fine"])
    assert results["body"] == {"pairs": 2, "coarse": 0.5, "fine": 1.0, "chance": 0.25, "centre": 1.0}
    assert results["head"] == {"pairs": 2, "coarse": 0.5, "fine": 1.0, "chance": 1 / 16, "centre": 0.0}
    assert results["all"] == {"pairs": 4, "coarse": 0.5, "fine": 1.0, "chance": 5 / 32, "centre": 0.5}
    assert list(results) == ["body", "head", "all"]


def test_a_group_of_which_nothing_counts_is_left_out():
    hits = np.full((1, 1, 2), np.nan)
    hits[0, 0, 0] = 1
    results = pointing_accuracy(hits, np.ones((1, 2, 3, 3), dtype=bool), ["body", "head"], ["coarse"])
    assert list(results) == ["body", "all"]


def test_every_attribute_of_shapes_has_a_part_that_is_drawn():
    _, boxes = render(0)
    parts = {name: shapes_parts_of(name) for name in shapes_table().attribute_names}
    assert set().union(*parts.values()) == set(PART_NAMES) == set(boxes)
    assert parts["head colour: red"] == ("head",) and parts["leg count: four"] == ("legs",)


def test_every_attribute_of_cub_but_those_of_the_whole_bird_has_a_part():
    names = attribute_table("cub").attribute_names
    without = {name.split("::")[0] for name in names if not cub_parts_of(name)}
    assert without == {"has_size", "has_shape", "has_primary_color"}
    assert cub_parts_of("has_under_tail_color::blue") == ("tail",)
    assert cub_parts_of("has_wing_shape::rounded-wings") == ("left wing", "right wing")


@pytest.fixture
def annotations(tmp_path):
    (tmp_path / "images.txt").write_text("1 001.Ani/a.jpg\n2 001.Ani/b.jpg\n")
    (tmp_path / "bounding_boxes.txt").write_text("1 60.0 27.0 325.0 304.0\n2 1.0 2.0 10.0 20.0\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "parts.txt").write_text("1 back\n2 beak\n9 left wing\n")
    points = "1 1 0.0 0.0 0\n1 2 312.0 182.0 1\n1 9 200.5 80.0 1\n2 2 7.0 8.0 1\n"
    (tmp_path / "parts" / "part_locs.txt").write_text(points)
    return tmp_path


def test_cubs_boxes_and_visible_part_points_are_read(annotations):
    assert read_cub_birds(annotations)["001.Ani/a.jpg"] == {"bird": [(60.0, 27.0, 385.0, 331.0)]}
    parts = read_cub_parts(annotations)
    assert parts["001.Ani/a.jpg"] == {"beak": [(312, 182, 312, 182)], "left wing": [(200.5, 80, 200.5, 80)]}
    assert parts["001.Ani/b.jpg"] == {"beak": [(7, 8, 7, 8)]}


def test_missing_annotations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="images.txt"):
        read_cub_birds(tmp_path)
