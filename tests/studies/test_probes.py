"""Each probe recognises classes that it only knows from a description."""

import numpy as np
import pytest

from dedn_hf.studies.probes import DAP, ESZSL, PROBES, Ridge, directions
from dedn_hf.studies.trials import choose, hold_out_classes
from tests.pooled_photos import made_up

every_probe = pytest.mark.parametrize("kind", PROBES, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def birds():
    return made_up()


@every_probe
def test_described_classes_are_recognised(birds, kind):
    photos, table = birds
    train, test = photos["train"], photos["test_unseen"]
    probe = kind(train.features, train.labels, table.class_attributes[:16])
    probe.fit(kind.settings[0])
    answers = probe.scores(test.features, table.class_attributes[16:]).argmax(axis=1)
    assert (answers + 16 == test.labels).mean() > 0.7  # guessing: 0.25


@every_probe
def test_scores_mean_the_same_whatever_the_scale_of_features_and_rows(birds, kind):
    photos, table = birds
    train, rows = photos["train"], table.class_attributes[:16]
    probes = [kind(train.features, train.labels, rows), kind(1000 * train.features, train.labels, 100 * rows)]
    for probe in probes:
        probe.fit(kind.settings[-1])
    one, other = probes[0].scores(train.features, rows), probes[1].scores(1000 * train.features, 100 * rows)
    np.testing.assert_allclose(one, other, atol=0.02)
    assert one.std(axis=1).mean() == pytest.approx(1, abs=1e-3)


def test_eszsl_is_the_formula_of_the_paper(birds):
    photos, table = birds
    train, rows = photos["train"], directions(table.class_attributes[:16])
    probe = ESZSL(train.features, train.labels, rows)
    probe.fit((1e-2, 3e-3))
    x = directions((train.features - train.features.mean(0)) / (train.features.std(0) + 1e-6))
    targets = np.where(train.labels[:, None] == np.arange(16), 1, -1)
    gamma, lam = 1e-2 * len(x), 3e-3 * 16  # the package's penalties are those of means
    v = np.linalg.inv(x.T @ x + gamma * np.eye(x.shape[1])) @ x.T @ targets @ rows
    v = v @ np.linalg.inv(rows.T @ rows + lam * np.eye(rows.shape[1]))
    expected = x @ v @ rows.T
    np.testing.assert_allclose(
        probe.scores(train.features, rows), expected / expected.std(axis=1).mean(), rtol=1e-3, atol=1e-3
    )


def test_ridge_predicts_attributes_that_the_features_show(birds):
    photos, table = birds
    train, test = photos["train"], photos["test_unseen"]
    probe = Ridge(train.features, train.labels, table.class_attributes[:16])
    probe.fit((1e-4,))
    predicted, true = probe.predict(test.features), directions(table.class_attributes)[test.labels]
    assert np.corrcoef(predicted[:, 0], true[:, 0])[0, 1] > 0.6


def test_the_logistic_regressions_find_the_most_likely_weights(birds):
    """At the optimum the penalty pulls as hard as the errors push."""
    photos, table = birds
    train = photos["train"]
    probe = DAP(train.features, train.labels, table.class_attributes[:16])
    probe.fit((1e-2,))
    has = (probe.rows > probe.middle)[train.labels]
    errors = 1 / (1 + np.exp(-probe.features @ probe.weights - probe.bias)) - has
    slope = probe.features.T @ errors / len(errors) + 2 * 1e-2 * probe.weights
    assert np.abs(slope).max() < 1e-3


def test_photos_of_held_out_classes_are_not_learned_from(birds):
    photos, table = birds
    train = photos["train"]
    tested, trained, held_out = train.held_out(), list(range(12)), [12, 13, 14, 15]
    (trial,) = hold_out_classes(ESZSL, train, tested, table.class_attributes, trained, held_out, [(1e-2, 3e-3)])
    assert trial.classes.tolist() == [*trained, *held_out]
    assert trial.seen.tolist() == [True] * 12 + [False] * 4
    asked = (tested & (train.labels < 12)) | (train.labels >= 12)
    assert trial.labels.tolist() == train.labels[asked].tolist()
    spoiled = train.of(np.ones(len(train.labels), bool))
    spoiled.features = np.where(asked[:, None], 1e3, train.features)
    (other,) = hold_out_classes(ESZSL, spoiled, tested, table.class_attributes, trained, held_out, [(1e-2, 3e-3)])
    assert np.allclose(other.logits, other.logits[0], atol=1e-3)  # these photos are all alike now; nothing else is
    learned = hold_out_classes(
        ESZSL, train.of(~asked), np.zeros((~asked).sum(), bool), table.class_attributes, trained, [], [(1e-2, 3e-3)]
    )
    assert not len(learned[0].labels)


def test_the_setting_with_the_best_folds_is_chosen(birds):
    photos, table = birds
    train = photos["train"]
    folds = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    setting, constant = choose(Ridge, train, train.held_out(), table.class_attributes, folds)
    areas = {}
    for each in Ridge.settings:
        areas[each] = 0
        for fold in folds:
            rest = [index for index in range(16) if index not in fold]
            (trial,) = hold_out_classes(Ridge, train, train.held_out(), table.class_attributes, rest, fold, [each])
            areas[each] += trial.scores()["AUSUC"]
    assert areas[setting] == max(areas.values())
    assert constant > 0  # unseen classes score lower
