"""What is chosen on held-out seen classes, by folds of them."""

import json

import numpy as np
import pytest
from accelerate import Accelerator

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.tasks import fold_tasks
from dedn_hf.metrics.confidence import choose_temperature, choose_thresholds
from dedn_hf.metrics.scores import calibrate, calibrate_over, gzsl_scores, harmonic_mean
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.selection import Fold, choose_confidence
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import image_model, load_tiny, tiny_table


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def random_fold(seed: int, classes: int = 8, unseen: int = 3, images: int = 60) -> tuple:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes)) + 2 * np.eye(classes)[labels]
    seen = np.arange(classes) >= unseen
    return logits + 1.5 * seen, labels, seen


# Metrics -------------------------------------------------------------------------------------------------------------


def test_the_constant_of_one_fold_is_that_of_its_own_curve():
    fold = random_fold(0)
    bias, u, s = calibrate_over([fold])
    assert bias == calibrate(*fold)
    scores = gzsl_scores(fold[0] + bias * ~fold[2], *fold[1:])
    assert (u, s) == pytest.approx((scores["U"], scores["S"]))


def test_no_constant_is_better_for_all_folds_together_than_the_chosen_one():
    folds = [random_fold(seed) for seed in range(3)]
    bias, u, s = calibrate_over(folds)

    def joint(constant: float) -> float:
        scores = [gzsl_scores(logits + constant * ~seen, labels, seen) for logits, labels, seen in folds]
        return harmonic_mean(np.mean([one["U"] for one in scores]), np.mean([one["S"] for one in scores]))

    assert joint(bias) == pytest.approx(harmonic_mean(u, s))
    assert joint(bias) >= max(joint(constant) for constant in np.linspace(-1, 4, 101)) - 1e-9
    assert joint(bias) > joint(0.0)


def test_the_temperature_undoes_what_logits_were_multiplied_by():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    labels = np.array([rng.choice(5, p=row) for row in np.exp(logits) / np.exp(logits).sum(1, keepdims=True)])
    assert choose_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert choose_temperature(3 * logits, labels) == pytest.approx(3, abs=0.15)


def test_from_a_threshold_on_answers_are_right_as_often_as_it_promises():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(size=2000)
    right = rng.uniform(size=2000) < confidences
    pairs = choose_thresholds(confidences, right)
    for precision, threshold in pairs:
        given = confidences >= threshold
        assert right[given].mean() >= precision and given.sum() >= 20
        one_more = confidences >= np.sort(confidences[~given])[-1] if not given.all() else given
        assert given.all() or right[one_more].mean() < precision
    assert [precision for precision, _ in pairs] == sorted(precision for precision, _ in pairs)


def test_a_precision_that_too_few_answers_have_is_left_out():
    confidences, right = np.linspace(1, 0, 100), np.arange(100) < 15
    assert choose_thresholds(confidences, right) == [
        [0.5, confidences[29]],
        [0.55, confidences[26]],
        [0.6, confidences[24]],
        [0.65, confidences[22]],
        [0.7, confidences[20]],
        [0.75, confidences[19]],
    ]
    assert choose_thresholds(confidences, np.zeros(100, bool)) is None


def test_a_class_counts_as_much_as_another_however_many_its_photos():
    fold = Fold(np.zeros((6, 3)), np.array([0, 0, 0, 0, 1, 2]), np.array([True, True, False]), np.ones(6))
    assert fold.class_weights().tolist() == [0.25] * 4 + [1, 1]


def test_folds_of_different_sizes_give_one_temperature():
    folds = [Fold(*random_fold(0), np.ones(60)), Fold(*random_fold(1, classes=7), np.ones(60))]
    found = choose_confidence(folds, 1.5)
    assert 0.2 < found["temperature"] < 5 and found["precision_thresholds"]


# Folds ---------------------------------------------------------------------------------------------------------------


def test_every_seen_class_plays_an_unseen_one_where_there_are_few():
    splits, table = load_tiny()
    tasks = fold_tasks(splits, table, count=1)
    held_out = [
        {name for name, seen in zip(t.table.class_names, t.table.seen, strict=True) if not seen} for t in tasks
    ]
    known = {name for name, seen in zip(table.class_names, table.seen, strict=True) if seen}
    assert set().union(*held_out) == known and all(len(names) >= 2 for names in held_out)
    for task, names in zip(tasks, held_out, strict=True):
        trained = {task.table.class_names[label] for label in task.labels["train"].tolist()}
        assert trained == known - names
        assert set(task.table.class_names) == known  # the true unseen classes do not take part
        files = [set(task.images[split]["file"]) for split in ("train", "seen", "unseen")]
        assert not files[0] & files[1] and set().union(*files) == set(splits["train"]["file"])


def experiment(tmp_path) -> Experiment:
    return Experiment(
        load=lambda validation: load_tiny(validation),
        build=lambda table: image_model(table),
        features=tmp_path / "features",
    )


def test_a_run_chooses_by_all_folds_and_says_what_each_gave(accelerator, tmp_path):
    chosen = TrainingSettings(epochs=2, batch_size=8, calibrate=True, folds=3)
    record = run(experiment(tmp_path), chosen, tmp_path / "run", accelerator)
    selection = record["selection"]
    assert len(selection["folds"]) >= 2 and len(selection["history"]) == 2
    assert selection["chosen"]["T1"] == pytest.approx(np.mean([fold["T1"] for fold in selection["folds"]]))
    assert selection["chosen"]["H"] == max(epoch["H"] for epoch in selection["history"])
    config = DEDNForZeroShot.from_pretrained(tmp_path / "run").config
    assert config.temperature == selection["temperature"] != 1
    assert config.none_of_these == selection["none_of_these"] and len(config.none_of_these) == 2
    assert config.calibration_bias == selection["chosen"]["calibration_bias"]
    assert "groups of them in turn" in (tmp_path / "run" / "README.md").read_text()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_that_is_stopped_within_the_folds_ends_as_one_that_is_not(accelerator, tmp_path, monkeypatch):
    chosen = TrainingSettings(epochs=2, batch_size=8, calibrate=True, folds=3)
    whole = run(experiment(tmp_path), chosen, tmp_path / "whole", accelerator)
    calls = []

    def stop_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calibrated_scores(*arguments)

    from dedn_hf.training.selection import calibrated_scores

    monkeypatch.setattr("dedn_hf.training.selection.calibrated_scores", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(experiment(tmp_path), chosen, tmp_path / "stopped", accelerator)
    monkeypatch.undo()
    resumed = run(experiment(tmp_path), chosen, tmp_path / "stopped", accelerator)
    assert json.dumps(resumed["selection"]) == json.dumps(whole["selection"])
    assert resumed["results"] == whole["results"]


def test_a_table_of_seen_classes_only_trains_a_classifier_to_which_classes_can_be_added(accelerator, tmp_path):
    def load(validation: bool):
        splits, table = load_tiny(validation)
        known = [name for name, seen in zip(table.class_names, table.seen, strict=True) if seen]
        position = {table.class_names.index(name): label for label, name in enumerate(known)}
        features = splits["train"].features
        kept = {
            name: part.filter(lambda row: row["label"] in position).map(
                lambda row: {"label": position[row["label"]]}, features=features
            )
            if len(part)
            else part
            for name, part in splits.items()
        }
        return type(splits)(kept), table.select(known)

    given = Experiment(load, lambda table: image_model(table), tmp_path / "features")
    record = run(
        given, TrainingSettings(epochs=1, batch_size=8, folds=2, calibrate=True), tmp_path / "run", accelerator
    )
    assert record["results"]["S"] is not None and record["results"]["H"] is None and record["results"]["T1"] is None
    model = DEDNForZeroShot.from_pretrained(tmp_path / "run")
    model.set_classes(tiny_table())
    assert model.config.num_labels == 7 and model.seen.sum() == 5
