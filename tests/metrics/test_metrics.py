"""The metrics against numbers worked out by hand, scikit-learn, and brute force."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from dedn_hf.metrics import gzsl as metric_file
from dedn_hf.metrics.gzsl import GZSL
from dedn_hf.metrics.scores import (
    ausuc,
    calibrate,
    gzsl_scores,
    harmonic_mean,
    per_class_accuracy,
    seen_unseen_curve,
)

# Six images of classes 0, 1 (seen) and 2, 3 (unseen).
# Thresholds (best seen minus best unseen logit): 2, 1, -1, 1, 3, -2
SEEN = [True, True, False, False]
LABELS = [0, 0, 1, 2, 2, 3]
LOGITS = [
    [5.0, 1.0, 3.0, 0.0],  # seen, right
    [2.0, 4.0, 3.0, 0.0],  # seen, wrong: taken for 1
    [1.0, 3.0, 4.0, 0.0],  # seen, taken for 2; right among seen classes
    [3.0, 0.0, 2.0, 1.0],  # unseen, taken for 0; right among unseen classes
    [5.0, 0.0, 1.0, 2.0],  # unseen, taken for 0; wrong among unseen classes too
    [0.0, 1.0, 2.0, 3.0],  # unseen, right
]


def random_problem(seed, images=120, classes=9, digits=None):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    seen = np.arange(classes) < 6
    logits[:, seen] += 1.0
    return (logits if digits is None else logits.round(digits)), labels, seen


def scan(logits, labels, seen):
    """U and S at a constant in every gap between thresholds, each from predictions made anew."""
    thresholds = np.unique((logits[:, seen].max(1) - logits[:, ~seen].max(1)).round(9))
    constants = [thresholds[0] - 1, *(thresholds[:-1] + thresholds[1:]) / 2, thresholds[-1] + 1]
    points = []
    for constant in constants:
        predicted = (logits + constant * ~seen).argmax(1)
        accuracies = per_class_accuracy(predicted, labels, np.arange(len(seen)))
        points.append((np.nanmean(accuracies[~seen]), np.nanmean(accuracies[seen])))
    return np.array(points), np.array(constants)


def test_scores_equal_the_hand_computed_ones():
    scores = gzsl_scores(LOGITS, LABELS, SEEN)
    assert scores["per_class_accuracy"] == [0.5, 0.0, 0.0, 1.0]
    assert scores["T1"] == pytest.approx(0.75)  # class 2: 1/2, class 3: 1/1
    assert scores["U"] == pytest.approx(0.5)
    assert scores["S"] == pytest.approx(0.25)
    assert scores["H"] == pytest.approx(1 / 3)
    # Right images flip at -2 (U + 1/2), -1 (S - 1/2), 1 (U + 1/4), 2 (S - 1/4): 1/2 * 3/4 + 1/4 * 1/4
    assert scores["AUSUC"] == pytest.approx(0.4375)


def test_curve_equals_the_hand_computed_one():
    u, s, constants = seen_unseen_curve(LOGITS, LABELS, SEEN)
    np.testing.assert_allclose(u, [0, 0.5, 0.5, 0.75, 0.75])
    np.testing.assert_allclose(s, [0.75, 0.75, 0.25, 0.25, 0])
    np.testing.assert_allclose(constants, [-np.inf, -1.5, 0, 1.5, np.inf])


def test_images_that_flip_together_make_one_diagonal_step():
    logits, labels, seen = [[1.0, 0.0], [1.0, 0.0]], [0, 1], [True, False]
    assert ausuc(logits, labels, seen) == pytest.approx(0.5)
    assert ausuc(logits[::-1], labels, seen) == pytest.approx(0.5)


def test_differences_below_float32_do_not_split_a_step():
    logits = [[0.3, 0.1], [0.2, 0.0]]  # 0.3 - 0.1 is not 0.2 in binary
    u, _, constants = seen_unseen_curve(logits, [0, 1], [True, False])
    assert 0.3 - 0.1 != 0.2
    assert (len(u), len(constants)) == (2, 2)


def test_perfect_and_useless_classifiers_bound_ausuc():
    labels, seen = np.array([0, 1, 2, 3]), np.array(SEEN)
    assert ausuc(np.eye(4)[labels], labels, seen) == pytest.approx(1)
    assert ausuc(np.eye(4)[labels[[1, 0, 3, 2]]], labels, seen) == 0


@pytest.mark.parametrize("u, s, h", [(0, 0, 0), (0, 1, 0), (0.5, 0.5, 0.5), (0.25, 0.75, 0.375)])
def test_harmonic_mean(u, s, h):
    assert harmonic_mean(u, s) == pytest.approx(h)


def test_per_class_accuracy_keeps_the_order_asked_for_and_marks_empty_classes():
    accuracies = per_class_accuracy([0, 1, 1, 2], [0, 0, 1, 2], [2, 7, 0, 1])
    np.testing.assert_array_equal(accuracies, [1, np.nan, 0.5, 1])


def test_accuracies_coincide_with_balanced_accuracy_of_scikit_learn():
    logits, labels, seen = random_problem(0)
    scores = gzsl_scores(logits, labels, seen)
    of_unseen = ~seen[labels]
    unseen_classes = np.flatnonzero(~seen)
    among_unseen = unseen_classes[logits[of_unseen][:, ~seen].argmax(1)]
    assert scores["T1"] == pytest.approx(balanced_accuracy_score(labels[of_unseen], among_unseen))
    assert np.mean(scores["per_class_accuracy"]) == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


@pytest.mark.parametrize("digits", [None, 1, 0], ids=["distinct logits", "some ties", "many ties"])
@pytest.mark.parametrize("seed", range(5))
def test_ausuc_equals_a_brute_force_scan(seed, digits):
    problem = random_problem(seed, digits=digits)
    points, _ = scan(*problem)
    u, s = points.T
    assert (u[0], s[-1]) == (0, 0)
    assert ausuc(*problem) == pytest.approx(np.trapezoid(s, u), abs=1e-12)


@pytest.mark.parametrize("digits", [None, 1], ids=["distinct logits", "some ties"])
@pytest.mark.parametrize("seed", range(5))
def test_calibrate_reaches_the_best_h_of_a_brute_force_scan(seed, digits):
    logits, labels, seen = random_problem(seed, digits=digits)
    points, _ = scan(logits, labels, seen)
    best = max(harmonic_mean(u, s) for u, s in points)
    constant = calibrate(logits, labels, seen)
    assert gzsl_scores(logits + constant * ~seen, labels, seen)["H"] == pytest.approx(best)


def test_the_calibrating_constant_works_in_float32_too():
    logits, labels, seen = random_problem(1)
    constant = calibrate(logits, labels, seen)
    in_float32 = logits.astype(np.float32) + np.float32(constant) * ~seen
    calibrated = gzsl_scores(logits + constant * ~seen, labels, seen)
    assert gzsl_scores(in_float32, labels, seen)["H"] == pytest.approx(calibrated["H"])


def test_calibrate_gives_the_middle_of_the_best_interval():
    assert calibrate(LOGITS, LABELS, SEEN) == pytest.approx(-1.5)  # H is 0.6 from -2 to -1, and lower elsewhere


def test_calibrate_leaves_the_best_logits_alone():
    somewhere_in_the_best_interval = np.array(LOGITS) - 1.2 * ~np.array(SEEN)
    assert calibrate(somewhere_in_the_best_interval, LABELS, SEEN) == 0


def test_a_constant_on_unseen_logits_changes_neither_t1_nor_ausuc():
    logits, labels, seen = random_problem(4)
    before, after = gzsl_scores(logits, labels, seen), gzsl_scores(logits + 0.7 * ~seen, labels, seen)
    assert after["U"] > before["U"]
    assert (after["T1"], after["AUSUC"]) == pytest.approx((before["T1"], before["AUSUC"]))


@pytest.mark.parametrize("role, known, unknown", [(True, {"S"}, {"T1", "U"}), (False, {"T1", "U"}, {"S"})])
def test_images_of_one_role_give_what_they_can(role, known, unknown):
    logits, labels, seen = random_problem(0)
    of_role = seen[labels] == role
    everything = gzsl_scores(logits, labels, seen)
    scores = gzsl_scores(logits[of_role], labels[of_role], seen)
    assert {name: scores[name] for name in known} == {name: everything[name] for name in known}
    assert all(scores[name] is None for name in unknown | {"H", "AUSUC"})


def test_without_unseen_classes_only_s_is_measured_and_without_seen_ones_only_t1_and_u():
    only_seen, only_unseen = (gzsl_scores(LOGITS, LABELS, [role] * 4) for role in (True, False))
    assert only_seen["S"] == only_unseen["U"] == only_unseen["T1"] == pytest.approx(3 / 8)
    assert {name for name, score in only_seen.items() if score is None} == {"T1", "U", "H", "AUSUC"}
    assert {name for name, score in only_unseen.items() if score is None} == {"S", "H", "AUSUC"}
    with pytest.raises(ValueError, match="no images of unseen classes"):
        calibrate(LOGITS, LABELS, [True] * 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [0, 0, 1, 2, 2, 4]}, "subtract 1"),
        ({"labels": [0, 0, 1, 2, 2, -1]}, r"outside 0\.\.3"),
        ({"labels": [0.0, 0.0, 1.0, 2.0, 2.0, 3.0]}, "as integers"),
        ({"labels": [0, 0, 1]}, "one label per image"),
        ({"logits": LOGITS[0]}, "images x classes"),
        ({"logits": np.zeros((0, 4)), "labels": np.zeros(0, int)}, "no images"),
        ({"logits": [[np.nan] * 4, *LOGITS[1:]]}, "first: image 0"),
        ({"seen": [True, False]}, "one boolean of seen per class"),
        ({"seen": [0, 1, 2, 3]}, "not the indices"),
    ],
)
def test_wrong_inputs_raise_errors_that_name_the_fix(change, message):
    with pytest.raises(ValueError, match=message):
        gzsl_scores(**{"logits": LOGITS, "labels": LABELS, "seen": SEEN, **change})


@pytest.mark.parametrize("measure", [seen_unseen_curve, ausuc, calibrate])
@pytest.mark.parametrize("role, missing", [(slice(0, 3), "unseen"), (slice(3, 6), "seen")])
def test_the_trade_off_needs_images_of_both_roles(measure, role, missing):
    with pytest.raises(ValueError, match=f"no images of {missing} classes"):
        measure(LOGITS[role], LABELS[role], SEEN)


def test_per_class_accuracy_refuses_logits():
    with pytest.raises(ValueError, match="argmax"):
        per_class_accuracy(LOGITS, LABELS, [0, 1])


@pytest.fixture(params=["imported", "loaded by path"])
def metric(request, tmp_path):
    if request.param == "imported":
        return GZSL(cache_dir=str(tmp_path))
    return evaluate.load(str(Path(metric_file.__file__)), cache_dir=str(tmp_path))


def test_evaluate_module_gives_the_scores_of_all_batches(metric):
    for start in (0, 4):
        metric.add_batch(
            predictions=np.array(LOGITS[start : start + 4], dtype=np.float32), references=LABELS[start : start + 4]
        )
    assert metric.compute(seen=SEEN) == gzsl_scores(LOGITS, LABELS, SEEN)


def test_evaluate_module_works_in_one_call(metric):
    assert metric.compute(predictions=LOGITS, references=LABELS, seen=SEEN) == gzsl_scores(LOGITS, LABELS, SEEN)
