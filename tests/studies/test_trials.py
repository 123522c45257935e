"""How accuracy depends on the number of classes that compete is computed, not drawn."""

import itertools

import numpy as np
import pytest

from dedn_hf.studies.trials import Trial


@pytest.fixture
def trial():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    logits = random.normal(size=(48, 8)) + 1.2 * (labels[:, None] == np.arange(8))
    return Trial(np.arange(8), logits, labels, np.arange(8) < 4)


@pytest.mark.parametrize("unseen", [1, 2, 3, 4])
def test_the_expected_accuracy_is_the_mean_over_all_sets_of_so_many_unseen_classes(trial, unseen):
    found = []
    for kept in itertools.combinations(range(4, 8), unseen):
        classes = [0, 1, 2, 3, *kept]
        inside = np.isin(trial.labels, classes)
        labels = np.searchsorted(classes, trial.labels[inside])
        scores = Trial(
            np.array(classes), trial.logits[inside][:, classes], labels, np.arange(len(classes)) < 4
        ).scores()
        found.append([scores[name] for name in ("T1", "U", "S")])
    np.testing.assert_allclose(trial.accuracies(unseen), np.mean(found, axis=0))


def test_with_all_classes_it_is_the_accuracy(trial):
    scores = trial.scores()
    assert trial.accuracies(4) == pytest.approx([scores["T1"], scores["U"], scores["S"]])


def test_a_constant_helps_unseen_classes_at_the_cost_of_seen_ones(trial):
    (_, u, s), (_, more_u, less_s) = trial.accuracies(4), trial.shifted(1.0).accuracies(4)
    assert more_u > u and less_s < s
    assert trial.scores(1.0)["U"] == pytest.approx(more_u)


def test_the_best_constant_needs_photos_of_both_kinds(trial):
    of_seen = trial.labels < 4
    one_kind = Trial(trial.classes, trial.logits[of_seen], trial.labels[of_seen], trial.seen)
    assert one_kind.best_constant() == 0
    assert np.isnan(one_kind.accuracies(2)[0])
