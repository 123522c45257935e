"""What is said of classes without photos, before any training, comes true."""

import numpy as np
import pytest

from dedn_hf.data import load
from dedn_hf.studies.baselines import baselines
from dedn_hf.studies.forecast import FORECAST, accuracies, forecast, hold_out_in_turn, sets_of
from dedn_hf.studies.pooled import PooledPhotos, joined, pool, redivided
from dedn_hf.studies.probes import ESZSL
from dedn_hf.studies.visibility import area_under_roc
from tests.pooled_photos import made_up, photos_of
from tests.tiny_runs import image_model


@pytest.fixture(scope="module")
def birds():
    photos, table = made_up(seen=20, unseen=4)
    return photos, table, forecast(photos["train"], table)


def test_over_many_divisions_forecast_and_truth_are_the_same(tmp_path):
    """Drawn creatures, seen by a network with random weights, of which others are unseen in each division."""
    splits, table = load("shapes", images_per_class=20, cache_dir=tmp_path)
    photos = pool(splits, image_model(table, image_size=64), progress=False)
    expected, truth = [], []
    for seed in range(8):
        parts, divided = redivided(photos, table, 8, seed)
        expected.append(list(forecast(parts["train"], divided).expected.values()))
        (found,) = baselines(parts, divided, [ESZSL])
        truth.append([found.scores[name] for name in FORECAST])
    off = np.mean(expected, axis=0) - np.mean(truth, axis=0)
    assert np.mean(truth, axis=0)[0] > 0.2  # guessing: 0.125
    assert np.abs(off).max() < 0.06, dict(zip(FORECAST, off, strict=True))


def test_it_says_how_far_one_set_of_classes_may_be_from_the_mean():
    off = []
    for seed in range(12):
        photos, table = made_up(seen=20, unseen=4, noise=1.0, seed=seed)
        (found,) = baselines(photos, table, [ESZSL])
        said = forecast(photos["train"], table)
        off.append((said.expected["T1"] - found.scores["T1"]) / said.spread["T1"])
    assert np.mean(np.abs(off) < 2) > 0.7
    assert abs(np.mean(off)) < 1


def test_as_many_classes_play_the_unseen_ones_as_there_are_and_each_at_least_once(birds):
    _, _, said = birds
    assert (said.seen, said.unseen, said.held_out) == (20, 4, 4)
    assert said.trials >= 24
    for size in (1, 3, 4, 10):
        sets = list(sets_of(np.arange(3, 23), size))
        assert {len(set(each)) for each in sets} == {size}
        assert set(np.concatenate(sets)) == set(range(3, 23))


def test_no_test_photo_and_no_photo_of_an_unseen_class_is_needed(birds):
    photos, table, said = birds
    assert table.seen[photos["train"].labels].all()
    assert forecast(photos["train"], table).to_dict() == said.to_dict()


def test_more_unseen_classes_are_harder():
    photos, table = made_up(seen=12, unseen=4)
    trials = hold_out_in_turn(photos["train"], table, (1e-2, 3e-3), at_a_time=4, learned=8)
    of = [accuracies(trials, unseen).mean(axis=0) for unseen in (4, 6, 12, 24)]
    t1, u, s = np.array(of).T
    assert list(t1) == sorted(t1)[::-1] and list(u) == sorted(u)[::-1] and list(s) == sorted(s)[::-1]
    assert 0 < t1[-1] < t1[0]


def test_what_is_measured_with_few_classes_foretells_more():
    """T1 with 16 unseen classes, from trials with 8 of them at a time."""
    photos, table = made_up(seen=16, unseen=16, noise=1.0)
    everything = joined(list(photos.values()))
    trained = table.replace(roles=["train"] * len(table))
    eight, sixteen = (
        accuracies(hold_out_in_turn(everything, trained, (1e-2, 3e-3), size, learned=16), 16).mean(axis=0)
        for size in (8, 16)
    )
    assert np.abs(eight - sixteen).max() < 0.06


def test_traits_that_photos_show_are_told_from_those_that_they_hide(birds):
    _, table, said = birds
    found = {trait.attribute: trait.auc for trait in said.traits}
    assert list(found) == table.attribute_names
    shown, hidden = ([auc for name, auc in found.items() if name.startswith(kind)] for kind in ("shown", "hidden"))
    assert np.mean(shown) > 0.85
    assert np.mean(hidden) < 0.7
    assert min(shown) > np.mean(hidden)


def test_classes_that_differ_in_what_photos_hide_are_likely_to_be_confused():
    _, table = made_up(seen=20, unseen=4)
    values = table.class_attributes.copy()
    values[21] = values[20]
    values[21, -1] = 1 - values[20, -1]  # a hidden attribute
    table = table.replace(class_attributes=values)
    said = forecast(photos_of(table)["train"], table)
    pairs = [pair for pair in said.pairs if not pair.seen]
    assert {pairs[0].first, pairs[0].second} == {"bird 20", "bird 21"}
    assert pairs[0].share > 2 * pairs[-1].share
    text = str(said)
    assert "likely confused: bird 20 and bird 21" in text
    assert "traits that photos show, and in which bird 20 and bird 21 differ" in text


def test_one_screen_says_it_all(birds):
    *_, said = birds
    text = str(said)
    assert text.startswith("what to expect of 4 classes without photos")
    for name in FORECAST:
        assert f"  {name:2} {100 * said.expected[name]:4.1f} ± " in text
    assert "guessing: 25.0" in text and "near guessing" not in text
    assert "would help: photos of any 5 more classes" in text
    assert len(text.splitlines()) < 20


def test_photos_help_most_of_the_class_that_is_least_like_those_with_photos():
    _, table = made_up(seen=20, unseen=4)
    values = table.class_attributes.copy()
    values[:20, 0], values[20:, 0] = values[:20, 0] * (np.arange(20) % 2), 0
    values[20:23], values[23, :8] = values[:3], 1  # three are as others are; one has everything
    said = forecast(photos_of(table.replace(class_attributes=values))["train"], table.replace(class_attributes=values))
    assert said.to_photograph[0] == "bird 23"
    assert "least like any with photos: bird 23, then" in str(said)


def test_photos_that_show_nothing_are_called_so():
    photos, table = made_up(seen=20, unseen=4)
    noise = np.random.default_rng(0).normal(size=photos["train"].features.shape).astype(np.float32)
    said = forecast(PooledPhotos(noise, photos["train"].labels, photos["train"].files), table)
    assert "near guessing" in str(said)
    assert said.expected["T1"] == pytest.approx(0.25, abs=0.1)


def test_a_table_without_unseen_classes_is_asked_about_a_fifth():
    photos, table = made_up(seen=20, unseen=0)
    said = forecast(photos["train"], table)
    assert (said.unseen, said.held_out) == (4, 4)
    assert said.expected["T1"] > 0.5 and len(said.pairs) == 100


@pytest.mark.parametrize(("seen", "unseen"), [(4, 1), (4, 3), (5, 9), (30, 1)])
def test_few_classes_and_few_photos_do(seen, unseen):
    photos, table = made_up(seen=seen, unseen=unseen)
    few = np.array([int(name.split("/")[1][:-4]) < 2 for name in photos["train"].files])
    for part in (photos["train"], photos["train"].of(few)):
        said = forecast(part, table)
        for name in FORECAST:
            assert 0 <= said.expected[name] <= 1 and np.isfinite(said.spread[name]), said
        assert str(said)


def test_too_few_classes_are_refused_with_the_number_that_is_needed():
    photos, table = made_up(seen=3, unseen=2)
    with pytest.raises(ValueError, match="4 classes with photos.*there are 3"):
        forecast(photos["train"], table)


def test_the_area_under_the_curve_counts_pairs():
    assert area_under_roc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert area_under_roc(np.array([0.1, 0.4]), np.array([True, True])) is None
