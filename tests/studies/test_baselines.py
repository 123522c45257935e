"""Peers of DEDN, chosen on folds of seen classes and tested once."""

import numpy as np
import pytest

from dedn_hf.metrics.scores import SCORES, chance
from dedn_hf.studies.baselines import baselines, format_baselines
from dedn_hf.studies.pooled import PooledPhotos, redivided
from dedn_hf.studies.probes import ESZSL, PROBES, Cosine, Ridge
from tests.pooled_photos import made_up


def test_every_peer_beats_guessing_in_every_score():
    photos, table = made_up()
    guessing = chance(16, 4)
    found = baselines(photos, table)
    assert [each.name for each in found] == [kind.name for kind in PROBES]
    for each in found:
        assert all(each.scores[name] > 2 * guessing[name] for name in SCORES), each


def test_test_photos_choose_nothing():
    photos, table = made_up()
    noise = np.random.default_rng(0)
    spoiled = dict(photos)
    for name in ("test_seen", "test_unseen"):
        part = photos[name]
        spoiled[name] = PooledPhotos(noise.normal(size=part.features.shape).astype("f"), part.labels, part.files)
    for one, other in zip(
        baselines(photos, table, [ESZSL, Cosine]), baselines(spoiled, table, [ESZSL, Cosine]), strict=True
    ):
        assert (one.setting, one.constant) == (other.setting, other.constant)
        assert one.scores["T1"] > 0.6 > other.scores["T1"]


def test_what_has_no_photo_to_test_on_is_not_tested():
    photos, table = made_up()
    (found,) = baselines({**photos, "test_unseen": photos["test_unseen"].of(np.zeros(48, bool))}, table, [Ridge])
    assert found.scores["T1"] is None and found.scores["S"] > 0.2
    assert "not tested" in format_baselines([found], table)


def test_data_that_cannot_be_tested_is_refused():
    photos, table = made_up()
    nothing = {name: part.of(np.zeros(len(part.labels), bool)) for name, part in photos.items()}
    with pytest.raises(ValueError, match="no photo to test on"):
        baselines({**nothing, "train": photos["train"]}, table)
    with pytest.raises(ValueError, match="no unseen class"):
        baselines(photos, table.replace(roles=["train"] * len(table)))
    with pytest.raises(ValueError, match="2 seen classes are too few"):
        baselines({**photos, "train": photos["train"].of(photos["train"].labels < 2)}, table)


def test_guessing_is_what_random_answers_reach():
    random = np.random.default_rng(0)
    labels, seen = np.repeat(np.arange(6), 4000), np.arange(6) < 4
    from dedn_hf.metrics.scores import gzsl_scores

    scores = gzsl_scores(random.normal(size=(len(labels), 6)), labels, seen)
    guessing = chance(4, 2)
    assert all(scores[name] == pytest.approx(guessing[name], abs=0.02) for name in SCORES)


def test_another_division_has_other_unseen_classes_and_loses_no_photo():
    photos, table = made_up()
    divisions = [redivided(photos, table, 5, seed) for seed in (0, 0, 1)]
    for parts, divided in divisions:
        assert (~divided.seen).sum() == 5
        assert set(divided.seen[parts["train"].labels]) == {True}
        assert set(divided.seen[parts["test_unseen"].labels]) == {False}
        assert sum((part.files for part in parts.values()), []) != []
        assert sorted(sum((part.files for part in parts.values()), [])) == sorted(
            sum((part.files for part in photos.values()), [])
        )
    assert divisions[0][1].roles == divisions[1][1].roles != divisions[2][1].roles


def test_the_table_of_scores_names_each_peer_below_guessing():
    photos, table = made_up()
    lines = format_baselines(baselines(photos, table, [ESZSL]), table).splitlines()
    assert lines[0].split() == list(SCORES)
    assert lines[1].split() == ["guessing", "25.0", "5.0", "5.0", "5.0", "0.8"]
    assert lines[2].startswith("ESZSL") and len(lines) == 3
