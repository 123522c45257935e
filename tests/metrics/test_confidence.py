"""Confidence against accuracy: numbers worked out by hand, and scikit-learn."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from dedn_hf.metrics.confidence import (
    accuracy_of_surest,
    answered_above,
    choose_none_of_these,
    expected_calibration_error,
    reliability,
    risk_coverage,
)

# Confidences 0.9, 0.8, 0.6, 0.6 and 0.5; the second and the fourth answer are wrong.
PROBABILITIES = [[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.6, 0.3, 0.1], [0.5, 0.25, 0.25]]
LABELS = [0, 0, 2, 1, 0]


def random_problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 6, 400)
    return generator.normal(size=(400, 6)) + 2 * np.eye(6)[labels], labels


def test_calibration_error_is_the_hand_computed_one():
    # Bins of a fifth: (0.8, 1]: 0.9 right; (0.6, 0.8]: 0.8 wrong; (0.4, 0.6]: 0.6, 0.6, 0.5, two of three right.
    expected = (0.1 + 0.8 + 3 * abs(2 / 3 - 1.7 / 3)) / 5
    assert expected_calibration_error(PROBABILITIES, LABELS, bins=5) == pytest.approx(expected)


def test_one_bin_compares_the_mean_confidence_with_the_accuracy():
    assert expected_calibration_error(PROBABILITIES, LABELS, bins=1) == pytest.approx(abs(3.4 / 5 - 3 / 5))


def test_bins_are_those_of_scikit_learn():
    logits, labels = random_problem(0)
    probabilities = softmax(logits, axis=1)
    right = probabilities.argmax(1) == labels
    accuracies, confidences = calibration_curve(right, probabilities.max(1), n_bins=15)
    rows = reliability(probabilities, labels)
    np.testing.assert_allclose([row["accuracy"] for row in rows], accuracies)
    np.testing.assert_allclose([row["confidence"] for row in rows], confidences)
    assert sum(row["images"] for row in rows) == 400
    assert all(row["low"] < row["confidence"] <= row["high"] for row in rows)


def test_a_confidence_that_is_always_right_and_sure_has_no_error():
    assert expected_calibration_error(np.eye(4), range(4)) == 0
    assert expected_calibration_error(np.eye(4), [1, 2, 3, 0]) == 1


def test_logits_count_as_their_softmax():
    logits, labels = random_problem(1)
    assert expected_calibration_error(logits, labels) == pytest.approx(
        expected_calibration_error(softmax(logits, axis=1), labels)
    )


def test_the_surest_answers_come_first_and_equal_confidences_together():
    coverages, accuracies, confidences = risk_coverage(PROBABILITIES, LABELS)
    np.testing.assert_allclose(coverages, [0.2, 0.4, 0.8, 1.0])
    np.testing.assert_allclose(accuracies, [1, 1 / 2, 2 / 4, 3 / 5])
    np.testing.assert_allclose(confidences, [0.9, 0.8, 0.6, 0.5])


@pytest.mark.parametrize("share, accuracy", [(0.1, 1), (0.2, 1), (0.25, 0.5), (0.5, 0.5), (1, 0.6)])
def test_accuracy_of_the_surest_share(share, accuracy):
    assert accuracy_of_surest(PROBABILITIES, LABELS, share) == pytest.approx(accuracy)


def test_answers_above_a_threshold_and_the_share_of_them_that_is_right():
    assert answered_above(PROBABILITIES, LABELS, 0.6) == (pytest.approx(0.8), pytest.approx(0.5))
    assert answered_above(PROBABILITIES, LABELS, 0.95) == (0, None)


@pytest.mark.parametrize(
    "probabilities, labels, message",
    [
        ([[0.5, 0.5]], [0, 1], "one label per image"),
        (np.zeros((0, 3)), [], "one image at least"),
        ([[np.nan, 1.0]], [0], "NaN or infinity"),
    ],
)
def test_what_is_no_problem_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, labels)


def test_shares_and_bins_out_of_range_are_refused():
    with pytest.raises(ValueError, match="share is 0"):
        accuracy_of_surest(PROBABILITIES, LABELS, 0)
    with pytest.raises(ValueError, match="bins is 0"):
        reliability(PROBABILITIES, LABELS, 0)


def test_nearly_all_images_of_the_classes_have_more_evidence_than_the_least():
    generator = np.random.default_rng(0)
    best, lengths = generator.normal(10, 2, 1000), generator.normal(30, 6, 1000)
    weight, least = choose_none_of_these(best, lengths)
    assert weight == pytest.approx(1 / 3, abs=0.02)  # both parts count the same
    assert np.mean(best + weight * lengths >= least) == pytest.approx(0.95, abs=0.002)


def test_a_class_of_few_images_counts_as_much_in_the_least_evidence():
    best = np.concatenate([np.linspace(10, 20, 95), np.linspace(0, 9, 5)])
    _, least = choose_none_of_these(best, np.ones(100), np.repeat([1 / 95, 1 / 5], [95, 5]))
    assert least == 0  # a fifth of half the weight is more than 5 %
    assert choose_none_of_these(best, np.ones(100))[1] == 10


def test_lengths_that_are_all_the_same_do_not_count():
    assert choose_none_of_these(np.arange(40.0), np.full(40, 7.0) + 1e-7 * np.arange(40)) == [0.0, 2.0]
    assert choose_none_of_these(np.arange(5.0), np.ones(5)) is None
