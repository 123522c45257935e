"""A class described by a few photos: fitted to the table, and combined with words."""

import numpy as np
import pytest

from dedn_hf import AttributeTable
from dedn_hf.classify.from_photos import ScoreFit, row_with_photos, shown_traits

CLASSES, NEW, ATTRIBUTES = 30, 8, 24


def tables(reference: np.ndarray, values: np.ndarray) -> tuple[AttributeTable, AttributeTable]:
    """Mean scores of the classes with photos, and a table with one class more."""
    names, attributes = [f"class {i}" for i in range(len(values))], [f"trait {i}" for i in range(values.shape[1])]
    roles = ["train"] * len(reference) + ["unseen"] * (len(values) - len(reference))
    return AttributeTable(names[: len(reference)], attributes, reference), AttributeTable(
        names, attributes, values, roles=roles
    )


def test_scores_on_a_line_come_back_as_the_values_of_the_table():
    values = np.random.default_rng(0).uniform(0.1, 1, (6, 4))
    reference, table = tables((values * [2, -3, 0.5, 1] + 7)[:5], values)
    fit = ScoreFit.over(reference, table)
    inside = values[:5].mean(axis=0) + 0.1
    np.testing.assert_allclose(fit.row(inside * [2, -3, 0.5, 1] + 7), inside, rtol=1e-5)
    np.testing.assert_allclose(np.abs(fit.correlations), 1)


def test_a_trait_that_photos_do_not_show_stays_average():
    values = np.array([[0.0, 1], [1, 1], [0, 0.5], [1, 0.5]])
    reference, table = tables(np.array([[1.0, 2], [3, 2], [1, 1], [3, 1]])[:, ::-1], values)
    fit = ScoreFit.over(reference, table)  # scores of each trait speak of the other one
    np.testing.assert_allclose(fit.row(np.array([9.0, 9.0])), values.mean(axis=0), atol=1e-6)


def test_no_value_lies_beyond_those_that_classes_have():
    values = np.random.default_rng(0).uniform(0.1, 1, (6, 4))
    reference, table = tables(values[:5], values)
    row = ScoreFit.over(reference, table).row(np.array([99.0, -99, 99, -99]))
    np.testing.assert_allclose(row, np.where([1, 0, 1, 0], values[:5].max(axis=0), values[:5].min(axis=0)), rtol=1e-6)


def test_words_weigh_more_beside_one_photo_than_beside_many():
    values = np.random.default_rng(0).uniform(0.1, 1, (6, 4)).astype(np.float32)
    reference, table = tables(values[:5], values)
    fit, scores = ScoreFit.over(reference, table), values[:5].max(axis=0)
    words = table.describe("mine", {"trait 0": 0.15})
    one, many = (row_with_photos(fit, table, scores, photos, words) for photos in (1, 100))
    assert words[0] < one[0] < many[0] < scores[0]
    np.testing.assert_allclose(one[1:], many[1:])  # of which no word is said
    only_photos = row_with_photos(fit, table, scores, 1, None)
    np.testing.assert_allclose(only_photos[1:], one[1:])
    assert only_photos[0] > many[0]


def test_two_classes_with_photos_are_too_few():
    values = np.random.default_rng(0).uniform(0.1, 1, (6, 4))
    with pytest.raises(ValueError, match="photos of 2 classes .* 3 are needed"):
        ScoreFit.over(*tables(values[:2], values))


def test_only_traits_that_can_be_told_are_shown_the_most_special_first():
    values = np.random.default_rng(0).uniform(0, 1, (9, 4))
    scores = values[:8].copy()
    scores[:, 3] = np.argsort(np.argsort(values[:8, 3])) % 2  # photos do not tell this one
    reference, table = tables(scores, values)
    fit = ScoreFit.over(reference, table)
    lines = shown_traits(fit, table, fit.scores + np.array([0.05, 0.4, -0.2, 0.4]))
    assert [line.split(":")[0] for line in lines] == ["trait 1", "trait 2", "trait 0"]


@pytest.mark.parametrize("photos", [1, 5])
def test_words_and_photos_together_find_more_than_either(photos):
    """Simulated: words are imprecise, and photos scatter around what a class looks like."""
    right = {"words": [], "photos": [], "both": []}
    for seed in range(30):
        draw = np.random.default_rng(seed)
        truth = draw.uniform(0, 1, (CLASSES + NEW, ATTRIBUTES))
        gains = draw.uniform(0.2, 2, ATTRIBUTES)
        described = (truth + draw.normal(0, 0.35, truth.shape)).clip(0.01, 1)

        def look(k: int, count: int, truth=truth, gains=gains, draw=draw) -> np.ndarray:
            return truth[k] * gains + draw.normal(0, 0.5, (count, ATTRIBUTES)) * gains

        reference, table = tables(np.stack([look(k, 10).mean(axis=0) for k in range(CLASSES)]), described)
        fit, rows = ScoreFit.over(reference, table), {"words": [], "photos": [], "both": []}
        for k in range(CLASSES, CLASSES + NEW):
            scores, words = look(k, photos).mean(axis=0), table.class_attributes[k]
            rows["words"].append(words)
            rows["photos"].append(row_with_photos(fit, table, scores, photos, None))
            rows["both"].append(row_with_photos(fit, table, scores, photos, words))
        for way, found in rows.items():
            directions = np.stack(found) - fit.values
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            for k in range(NEW):
                seen = (look(CLASSES + k, 20) - fit.scores) * fit.slopes
                right[way].append((seen @ directions.T).argmax(axis=1) == k)
    accuracy = {way: np.mean(found) for way, found in right.items()}
    assert accuracy["both"] > accuracy["words"] + 0.02 and accuracy["both"] > accuracy["photos"], accuracy
