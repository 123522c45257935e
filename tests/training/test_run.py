"""From images to a trained model: batches, the feature cache, the loop, interruptions, and what a run writes down."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from dedn_hf import AttributeTable, DEDNConfig, DEDNForZeroShot
from dedn_hf.data.cached import CachedFeatures
from dedn_hf.data.features import weights_hash
from dedn_hf.data.sampling import Batches, SeededIndices
from dedn_hf.data.tasks import test_task as full_task
from dedn_hf.data.tasks import validation_task
from dedn_hf.data.transforms import evaluation_transform, training_transform
from dedn_hf.training import loop as training
from dedn_hf.training.checkpoint import Checkpoint
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.experiment import Experiment, inputs_of, open_caches, run
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import PRESETS, TrainingSettings, preset_names, read_preset
from tests.tiny_runs import (
    FeatureMaps,
    feature_model,
    feature_task,
    image_data,
    image_model,
    load_tiny,
    tiny_table,
)


def settings(**changes) -> TrainingSettings:
    basic = {"epochs": 4, "batch_size": 6, "sampling": "uniform", "learning_rate": 0.003, "select_on": "last"}
    return TrainingSettings(**{**basic, **changes})


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def seeded_model(seed: int = 0, **config) -> DEDNForZeroShot:
    torch.manual_seed(seed)
    return image_model(**config)


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    assert not [name for name in first if not torch.equal(first[name], second[name])]


# Batches ----------------------------------------------------------------------------------------------------------

LABELS = [0] * 7 + [3] * 5 + [5] * 8 + [6] * 4


def test_uniform_batches_draw_every_image_once():
    batches = list(Batches(LABELS, 6))
    assert [len(batch) for batch in batches] == [6, 6, 6, 6]
    assert sorted(index for batch in batches for index in batch) == list(range(24))


def test_an_epoch_leaves_out_what_fills_no_batch():
    batches = list(Batches(LABELS, 5))
    drawn = [index for batch in batches for index in batch]
    assert len(batches) == len(Batches(LABELS, 5)) == 4
    assert len(set(drawn)) == 20


@pytest.mark.parametrize(
    ("batch_size", "classes", "each"), [(8, 4, 2), (11, 4, 2), (4, 4, 1), (3, 3, 1), (24, 4, 6), (7, 4, 1)]
)
def test_class_balanced_batches_hold_as_many_images_of_each_class(batch_size, classes, each):
    batches = Batches(LABELS, batch_size, "class_balanced")
    assert len(batches) == 24 // batch_size
    for batch in batches:
        _, counts = np.unique(np.array(LABELS)[batch], return_counts=True)
        assert counts.tolist() == [each] * classes
        assert len(batch) == batches.joint_size == classes * each


def test_batches_depend_on_seed_and_epoch_only():
    for sampling in ("uniform", "class_balanced"):
        batches = Batches(LABELS, 8, sampling, seed=1)
        first = list(batches)
        assert first == list(batches) == list(Batches(LABELS, 8, sampling, seed=1))
        assert first != list(Batches(LABELS, 8, sampling, seed=2))
        batches.set_epoch(1)
        assert first != list(batches)


@pytest.mark.parametrize(
    ("sampling", "first", "second"),
    [
        ("uniform", [16, 2, 18, 9, 0, 4], [17, 10, 12, 1, 7, 3]),
        ("class_balanced", [0, 20, 17, 7], [3, 10, 21, 15]),
    ],
)
def test_what_a_seed_and_an_epoch_draw_stays_what_published_numbers_rest_on(sampling, first, second):
    batches = Batches(LABELS, 6, sampling, seed=3)
    batches.set_epoch(2)
    assert list(batches)[:2] == [first, second]


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
@pytest.mark.parametrize("batch_size", [7, 8])
def test_the_shares_of_the_processes_unite_to_the_joint_batch_with_its_seeds(sampling, batch_size):
    joint = list(Batches(LABELS, batch_size, sampling))
    shares = [list(Batches(LABELS, batch_size, sampling, rank=rank, world_size=2)) for rank in (0, 1)]
    for whole, *parts in zip(joint, *shares, strict=True):
        drawn = [pair for part in parts for pair in zip(part, part.seeds, strict=True)]
        assert sorted(zip(whole, whole.seeds, strict=True)) == sorted(drawn)
        assert abs(len(parts[0]) - len(parts[1])) <= 1


def test_every_drawn_image_has_a_seed_of_its_own_also_when_it_is_drawn_again():
    batches, seeds = Batches(LABELS, 24, "class_balanced"), []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        seeds += [seed for batch in batches for seed in batch.seeds]
    assert len(set(seeds)) == len(seeds) == 48
    skipped = Batches(LABELS, 6)
    skipped.set_epoch(0, skip=2)
    assert [batch.seeds for batch in skipped] == [batch.seeds for batch in Batches(LABELS, 6)][2:]


def test_batches_that_cannot_be_drawn_are_refused_with_what_would_do():
    with pytest.raises(ValueError, match="'random'; use class_balanced or uniform"):
        Batches(LABELS, 4, "random")
    with pytest.raises(ValueError, match="batch_size is 25, but it must be 1 to 24: .* --set training.batch_size=24"):
        Batches(LABELS, 25)
    with pytest.raises(ValueError, match="batch_size is 1, but it must be 2 to 24"):
        Batches(LABELS, 1, world_size=2)
    with pytest.raises(ValueError, match="batch of 7 from 4 classes has 4 images, fewer than the 5 processes"):
        Batches(LABELS, 7, "class_balanced", world_size=5)


# Tasks and transforms ---------------------------------------------------------------------------------------------


def names_of(task, split: str) -> list[str]:
    return [task.table.class_names[label] for label in task.labels[split]]


def test_no_truly_unseen_class_competes_in_validation_and_labels_keep_their_classes():
    splits, table = load_tiny(validation=True)
    task = validation_task(splits, table)
    assert task.table.class_names == [f"bird {letter}" for letter in "acdeg"]
    assert task.table.roles == ["train", "train", "unseen", "train", "train"]
    for split, source in (("train", "train"), ("seen", "val_seen"), ("unseen", "val_unseen")):
        assert names_of(task, split) == [file.split("/")[0] for file in splits[source]["file"]]
    assert set(names_of(task, "unseen")) == {"bird d"}
    assert "bird d" not in names_of(task, "train")


def test_the_test_task_trains_on_all_seen_classes():
    splits, table = load_tiny()
    task = full_task(splits, table)
    assert task.table.class_names == table.class_names
    assert set(names_of(task, "train")) == {f"bird {letter}" for letter in "acdeg"}
    assert set(names_of(task, "unseen")) == {"bird b", "bird f"}


def test_tasks_without_images_or_roles_are_refused():
    splits, table = load_tiny()
    with pytest.raises(ValueError, match="no seen class"):
        full_task(splits, table.replace(roles=["unseen"] * 7))
    without_training = {**splits, "train": splits["train"].select([])}
    with pytest.raises(ValueError, match="no image to train on"):
        full_task(without_training, table)
    untested = {name: images if name == "train" else images.select([]) for name, images in splits.items()}
    with pytest.raises(ValueError, match="no photo to test on"):
        full_task(untested, table)


def test_evaluation_sees_what_the_image_processor_gives():
    model, (splits, table) = seeded_model(), load_tiny()
    inputs = inputs_of(full_task(splits, table), model, settings(augmentation="crop"), [])
    batch = inputs("seen").__getitems__([2, 0])
    pictures = [splits["test_seen"][i]["image"] for i in (2, 0)]
    expected = model.image_processor()(images=pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)
    assert batch["labels"].tolist() == [splits["test_seen"][i]["label"] for i in (2, 0)]


def test_augmentation_gives_other_views_of_the_same_size_and_none_gives_the_same():
    model, image = seeded_model(), image_data([(0, 0)])[0]["image"]
    torch.manual_seed(0)
    views = {name: [training_transform(model, name)(image) for _ in range(8)] for name in ("none", "flip", "crop")}
    plain = evaluation_transform(model)(image)
    assert all(torch.equal(view, plain) for view in views["none"])
    assert {torch.equal(view, plain) for view in views["flip"]} == {True, False}
    assert all(torch.equal(view, plain) or torch.equal(view, plain.flip(2)) for view in views["flip"])
    assert len({view.sum().item() for view in views["crop"]}) == 8
    assert all(view.shape == plain.shape and view.dtype == plain.dtype for view in views["crop"])
    mean, spread = torch.stack(views["crop"]).mean(), torch.stack(views["crop"]).std()
    assert mean.item() == pytest.approx(plain.mean().item(), abs=0.3)
    assert spread.item() == pytest.approx(plain.std().item(), abs=0.3)
    with pytest.raises(ValueError, match="'rotate'; use one of none, flip, crop"):
        training_transform(model, "rotate")


# The loop ---------------------------------------------------------------------------------------------------------


class Interruption(Exception):
    pass


def fitted(accelerator, folder, chosen: TrainingSettings, on_evaluation=None, **config):
    model = feature_model(**config)
    task, inputs = feature_task()
    history = fit(model, task, inputs, chosen, accelerator, folder, on_evaluation)
    return model, history


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("rmsprop", 0.001), ("adamw", 0.03)])
@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
def test_training_learns_the_seen_classes(accelerator, tmp_path, optimizer, learning_rate, sampling):
    chosen = settings(
        optimizer=optimizer, learning_rate=learning_rate, sampling=sampling, epochs=12, checkpoint_every=0
    )
    _, history = fitted(accelerator, tmp_path, chosen)
    assert [epoch["epoch"] for epoch in history.epochs] == list(range(1, 13))
    assert history.epochs[-1]["loss"] < 0.2 * history.epochs[0]["loss"]
    assert history.epochs[-1]["S"] > 0.8


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(accelerator, tmp_path):
    first, second, other = (
        weights(fitted(accelerator, tmp_path / str(i), settings(epochs=1, seed=seed), feature_dropout=0.2)[0])
        for i, seed in enumerate((0, 0, 1))
    )
    assert_same_bits(first, second)
    assert not torch.equal(first["experts.coarse.region_value"], other["experts.coarse.region_value"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": "class_balanced", "schedule": "cosine", "warmup": 0.2, "ema_decay": 0.9, "optimizer": "adamw"},
        {"gradient_accumulation_steps": 3, "max_grad_norm": 1.0, "checkpoint_every": 2},
    ],
)
def test_an_interrupted_training_ends_with_the_same_bits(accelerator, tmp_path, changes):
    chosen = settings(epochs=5, **changes)
    whole, expected = fitted(accelerator, tmp_path / "whole", chosen, feature_dropout=0.2)
    accelerator.free_memory()

    def interrupt(_model, epoch, _predictions):
        if epoch["epoch"] == 4:
            raise Interruption

    with pytest.raises(Interruption):
        fitted(accelerator, tmp_path / "cut", chosen, interrupt, feature_dropout=0.2)
    accelerator.free_memory()
    resumed, history = fitted(accelerator, tmp_path / "cut", chosen, feature_dropout=0.2)
    assert_same_bits(weights(resumed), weights(whole))
    assert history.epochs == expected.epochs


def test_a_finished_training_is_not_repeated(accelerator, tmp_path):
    model, expected = fitted(accelerator, tmp_path, settings())
    accelerator.free_memory()
    again, history = fitted(accelerator, tmp_path, settings(), lambda *_: pytest.fail("trained again"))
    assert_same_bits(weights(again), weights(model))
    assert history.epochs == expected.epochs


def test_a_checkpoint_survives_an_interruption_between_its_two_renames(accelerator, tmp_path):
    _, expected = fitted(accelerator, tmp_path, settings())
    shutil.rmtree(tmp_path / "checkpoint-tiny.old")
    (tmp_path / "checkpoint-tiny").rename(tmp_path / "checkpoint-tiny.old")
    _, history = fitted(accelerator, tmp_path, settings(), lambda *_: pytest.fail("trained again"))
    assert history.epochs == expected.epochs


def test_a_checkpoint_of_other_settings_is_refused_and_the_message_names_them(accelerator, tmp_path):
    fitted(accelerator, tmp_path, settings(epochs=1))
    other = "another experiment: training.learning_rate is 0.003, not 0.02; training.seed is 0, not 3. Use the same"
    with pytest.raises(ValueError, match=other):
        fitted(accelerator, tmp_path, settings(epochs=1, learning_rate=0.02, seed=3))
    accelerator.free_memory()
    fitted(accelerator, tmp_path, settings(epochs=1, checkpoint_every=3))  # this one changes no result


def test_a_checkpoint_of_another_model_or_other_data_is_refused_and_the_message_names_them(accelerator, tmp_path):
    fitted(accelerator, tmp_path, settings(epochs=1), margin=3.0)
    with pytest.raises(ValueError, match="another experiment: model.margin is 3.0, not 0.0. Use the same"):
        fitted(accelerator, tmp_path, settings(epochs=1), margin=0.0)
    task, inputs = feature_task()
    task.labels["train"] = task.labels["train"].flip(0)
    with pytest.raises(ValueError, match="another experiment: data: train split is "):
        fit(feature_model(margin=3.0), task, inputs, settings(epochs=1), accelerator, tmp_path)
    table = tiny_table().replace(class_attributes=tiny_table().class_attributes * 2)
    task, inputs = feature_task()
    with pytest.raises(ValueError, match="another experiment: data: class table is "):
        fit(feature_model(margin=3.0), replace(task, table=table), inputs, settings(epochs=1), accelerator, tmp_path)


def test_a_loss_that_is_no_number_stops_the_training_and_the_checkpoint_before_it_stays(accelerator, tmp_path):
    model, (task, inputs) = feature_model(), feature_task()

    def spoil(_model, epoch, _predictions):
        if epoch["epoch"] == 2:
            inputs("train").features[0] = float("nan")

    with pytest.raises(FloatingPointError, match="loss is nan at epoch 3, step .*lower learning_rate"):
        fit(model, task, inputs, settings(), accelerator, tmp_path, spoil)
    state = json.loads((tmp_path / "checkpoint-tiny" / "state.json").read_text())
    assert [epoch["epoch"] for epoch in state["epochs"]] == [1, 2]
    saved = load_file(tmp_path / "checkpoint-tiny" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def watch(monkeypatch, look) -> list:
    """What `look(optimizer)` gives before every step of the training's optimizer."""
    seen, build = [], training.build_optimizer

    def watched(*arguments):
        optimizer = build(*arguments)
        optimizer.register_step_pre_hook(lambda *_: seen.append(look(optimizer)))
        return optimizer

    monkeypatch.setattr(training, "build_optimizer", watched)
    return seen


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda share: 1.0),
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: (1 + math.cos(math.pi * share)) / 2),
    ],
)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_learning_rates_follow_the_schedule_after_the_warm_up(
    accelerator, tmp_path, monkeypatch, schedule, factor, warmup
):
    rates = watch(monkeypatch, lambda optimizer: optimizer.param_groups[0]["lr"])
    fitted(accelerator, tmp_path, settings(epochs=3, schedule=schedule, warmup=warmup, learning_rate=0.01))
    first = round(12 * warmup)
    expected = [0.01 * step / first for step in range(first)]
    expected += [0.01 * factor((step - first) / (12 - first)) for step in range(first, 12)]
    assert rates == pytest.approx(expected)


def test_gradients_are_clipped_to_the_norm(accelerator, tmp_path, monkeypatch):
    def norm(optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return torch.stack([gradient.norm() for gradient in gradients]).norm().item()

    norms = watch(monkeypatch, norm)
    fitted(accelerator, tmp_path / "free", settings(epochs=1))
    assert min(norms) > 0.1
    norms.clear()
    fitted(accelerator, tmp_path / "clipped", settings(epochs=1, max_grad_norm=0.05))
    assert norms == pytest.approx([0.05] * 4, rel=1e-3)


def test_two_accumulated_half_batches_are_one_batch(accelerator, tmp_path):
    whole, _ = fitted(accelerator, tmp_path / "whole", settings(batch_size=8))
    halves, _ = fitted(accelerator, tmp_path / "half", settings(batch_size=4, gradient_accumulation_steps=2))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(halves)[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_what_an_epoch_leaves_over_is_not_carried_into_the_next(accelerator, tmp_path, monkeypatch):
    rates = watch(monkeypatch, lambda optimizer: optimizer.param_groups[0]["lr"])
    fitted(accelerator, tmp_path, settings(epochs=2, gradient_accumulation_steps=3, schedule="linear"))
    assert rates == pytest.approx([0.003, 0.00225, 0.0015, 0.00075])  # 4 batches an epoch: 3 and 1


def test_the_averaged_weights_are_the_moving_average_and_are_what_is_evaluated_and_kept(
    accelerator, tmp_path, monkeypatch
):
    before_step = watch(monkeypatch, lambda o: [p.detach().clone() for p in o.param_groups[0]["params"]])
    evaluated = []
    model, _ = fitted(
        accelerator,
        tmp_path,
        settings(epochs=2, ema_decay=0.8),
        lambda averaged, *_: evaluated.append([p.detach().clone() for p in averaged.parameters()]),
    )
    accelerator.free_memory()
    plain, _ = fitted(accelerator, tmp_path / "plain", settings(epochs=2))
    steps = [*before_step[1:8], [p.detach() for p in plain.parameters()]]
    average = steps[0]
    for step in steps[1:]:
        average = [0.8 * old + 0.2 * new for old, new in zip(average, step, strict=True)]
    torch.testing.assert_close([p.detach() for p in model.parameters()], average)
    torch.testing.assert_close(evaluated[-1], average)


def test_the_averaged_weights_are_evaluated_in_the_same_precision_as_the_plain_ones(accelerator, tmp_path):
    logits = []
    for precision, decay in (("no", None), ("bf16", None), ("bf16", 0.5)):
        AcceleratorState._reset_state()
        mixed = Accelerator(cpu=True, mixed_precision=precision)
        one_step = settings(epochs=1, batch_size=24, ema_decay=decay)  # after which the average is the plain weights
        fitted(mixed, tmp_path / f"{precision} {decay}", one_step, lambda *given: logits.append(given[2][0]))
    assert np.array_equal(logits[1], logits[2]) and not np.array_equal(logits[0], logits[1])


def test_evaluation_comes_every_so_many_epochs_and_after_the_last(accelerator, tmp_path):
    _, history = fitted(accelerator, tmp_path, settings(epochs=5, evaluate_every=2))
    assert [epoch["epoch"] for epoch in history.epochs if "H" in epoch] == [2, 4, 5]
    assert history.best()["H"] == max(epoch["H"] for epoch in history.epochs if "H" in epoch)


def test_fine_tuning_trains_the_backbone_but_not_its_frozen_stages(accelerator, tmp_path):
    model, (splits, table) = seeded_model(), load_tiny()
    before = weights(model.backbone.body)
    chosen = settings(
        epochs=1, train_backbone=True, frozen_stages=["conv1", "layer1"], freeze_batch_norm=True, augmentation="crop"
    )
    task = full_task(splits, table)
    fit(model, task, inputs_of(task, model, chosen, []), chosen, accelerator, tmp_path)
    moved = {
        name for name, tensor in model.backbone.body.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert {name.split(".")[0] for name in moved} == {"bn1", "layer2", "layer3", "layer4"}
    assert not [name for name in moved if "running" in name]


# Whole runs -------------------------------------------------------------------------------------------------------


def experiment(tmp_path, **changes) -> Experiment:
    config = changes.pop("config", {})
    defaults = {"load": load_tiny, "build": lambda table: image_model(table, **config), "features": tmp_path / "cache"}
    return Experiment(**{**defaults, **changes})


def measured(model: DEDNForZeroShot) -> tuple[float, float]:
    """U and S on the tiny test images, worked out by hand: one class, one accuracy."""
    splits, table = load_tiny()
    processor, accuracies = model.image_processor(), {True: [], False: []}
    for split in ("test_seen", "test_unseen"):
        pixels = processor(images=list(splits[split]["image"]), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            right = model.eval()(pixels).logits.argmax(1) == torch.tensor(splits[split]["label"][:])
        for label in set(splits[split]["label"]):
            of_class = right[torch.tensor(splits[split]["label"][:]) == label]
            accuracies[bool(table.seen[label])].append(of_class.float().mean().item())
    return np.mean(accuracies[False]), np.mean(accuracies[True])


@pytest.mark.parametrize("select_on", ["val", "test", "last"])
def test_a_run_leaves_a_model_that_loads_and_a_record_of_what_was_done(accelerator, tmp_path, select_on):
    output = tmp_path / "run"
    chosen = settings(select_on=select_on, epochs=3)
    described = {"data": {"name": "tiny"}}
    record = run(experiment(tmp_path, describe=described), chosen, output, accelerator)
    assert json.loads((output / "run.json").read_text()) == json.loads(json.dumps(record))
    assert record["protocol"].startswith({"val": "epoch", "test": "published protocol", "last": "last"}[select_on])
    assert record["settings"]["select_on"] == select_on and record["experiment"] == described
    assert {"torch", "timm", "transformers", "dedn_hf"} <= set(record["versions"])

    model = DEDNForZeroShot.from_pretrained(output)
    assert model.attribute_table.class_names == tiny_table().class_names
    u, s = measured(model)
    # the cache holds 16 bits, the images do not: no prediction of these few is that close
    assert (record["results"]["U"], record["results"]["S"]) == pytest.approx((u, s))
    assert record["model"]["weights"] == weights_hash(model)
    assert AttributeTable.load(output).roles == tiny_table().roles
    if select_on == "val":
        assert record["selection"]["chosen"]["epoch"] == len(record["history"]) == record["results"]["epoch"]
        assert len(record["selection"]["history"]) == 3
        assert len(record["selection"]["chosen"]["per_class_accuracy"]) == 5
    else:
        assert record["selection"] is None and len(record["history"]) == 3
    if select_on == "test":
        assert record["results"]["H"] == max(epoch["H"] for epoch in record["history"])
    else:
        assert [epoch["epoch"] for epoch in record["history"] if "H" in epoch] == [len(record["history"])]


def test_the_chosen_calibration_is_part_of_the_saved_model(accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr("dedn_hf.training.selection.calibrate", lambda *_: 0.375)
    chosen = settings(select_on="val", calibrate=True, epochs=2)
    record = run(experiment(tmp_path), chosen, tmp_path / "run", accelerator)
    assert record["calibration_bias"] == 0.375
    assert all("H_uncalibrated" in epoch for epoch in record["selection"]["history"])
    model = DEDNForZeroShot.from_pretrained(tmp_path / "run").eval()
    assert model.config.calibration_bias == 0.375
    features = torch.rand(2, *model.config.feature_shape)
    output = model(features=features)
    mixed = 0.5 * output.coarse_logits + 0.5 * output.fine_logits
    torch.testing.assert_close(output.logits - mixed, (~model.seen * 0.375).expand(2, 7))


def test_the_best_epoch_so_far_is_told_by_the_calibrated_scores_that_choose_it(accelerator, tmp_path, monkeypatch):
    scores = iter([0.1, 0.5, 0.3])
    chosen_there = "dedn_hf.training.selection.calibrated_scores"
    monkeypatch.setattr(chosen_there, lambda *_: {"H": next(scores), "T1": 1.0, "calibration_bias": 0.0})
    chosen = settings(select_on="val", calibrate=True, epochs=3)
    selection = run(experiment(tmp_path), chosen, tmp_path / "run", accelerator)["selection"]
    assert [epoch["best_so_far"] for epoch in selection["history"]] == [True, True, False]
    assert (selection["chosen"]["epoch"], selection["chosen"]["best_so_far"]) == (2, True)


@pytest.mark.parametrize(("calibrated", "expected"), [(False, 0.5), (True, 0.875)])
def test_a_calibration_of_the_settings_is_kept_and_the_chosen_one_added(
    calibrated, expected, accelerator, tmp_path, monkeypatch
):
    monkeypatch.setattr("dedn_hf.training.selection.calibrate", lambda *_: 0.375)
    given = experiment(tmp_path, config={"calibration_bias": 0.5})
    record = run(given, settings(select_on="val", calibrate=calibrated, epochs=1), tmp_path / "run", accelerator)
    assert record["calibration_bias"] == expected


def test_the_revision_is_that_of_this_clone_or_none():
    from dedn_hf.training.record import git_revision

    revision = git_revision()
    assert revision is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", revision)


def test_a_run_on_images_gives_what_cached_features_give(accelerator, tmp_path):
    chosen = settings(epochs=2)
    cached = run(experiment(tmp_path), chosen, tmp_path / "cached", accelerator)
    accelerator.free_memory()
    decoded = run(experiment(tmp_path, features=None), chosen, tmp_path / "decoded", accelerator)
    losses = [[epoch["loss"] for epoch in record["history"]] for record in (cached, decoded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_with_flip_test_cached_features_give_what_images_give(accelerator, tmp_path):
    chosen = settings(epochs=1, select_on="last", batch_size=20, sampling="uniform", learning_rate=1e-9)
    logits = {}
    for name in ("cached", "decoded"):
        given = experiment(tmp_path, **({} if name == "cached" else {"features": None}))
        given.build = lambda table: image_model(table, flip_test=True)
        torch.manual_seed(0)
        run(given, chosen, tmp_path / name, accelerator)
        accelerator.free_memory()
        model = DEDNForZeroShot.from_pretrained(tmp_path / name)
        task = full_task(*load_tiny())
        caches = open_caches(given, model, chosen, accelerator)
        assert len(caches) == (2 if name == "cached" else 0)
        logits[name] = evaluate(model, inputs_of(task, model, chosen, caches), task.table.seen, accelerator)[1].logits
    np.testing.assert_allclose(logits["cached"], logits["decoded"], rtol=1e-2, atol=1e-2)


def test_training_draws_the_mirror_images_too(accelerator, tmp_path):
    given, model = experiment(tmp_path), seeded_model(flip_test=True)
    caches = open_caches(given, model, settings(), accelerator)
    assert [len(cache) for cache in caches] == [35, 35]
    assert not torch.equal(caches[0].read(range(35)), caches[1].read(range(35)))
    task = full_task(*load_tiny())
    data = inputs_of(task, model, settings(), caches)("train")
    file = task.images["train"]["file"][3]
    ways = [cache.read(cache.rows([file]))[0] for cache in caches]
    drawn = [data.__getitems__([3])["features"][0] for _ in range(40)]
    assert {way for features in drawn for way in (0, 1) if torch.equal(features, ways[way])} == {0, 1}


def test_a_finished_run_is_not_overwritten(accelerator, tmp_path):
    run(experiment(tmp_path), settings(epochs=1), tmp_path / "run", accelerator)
    content = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match="finished run.*another output folder"):
        run(experiment(tmp_path), settings(epochs=2), tmp_path / "run", accelerator)
    assert (tmp_path / "run" / "run.json").read_bytes() == content


def test_a_trained_backbone_takes_no_cached_features(accelerator, tmp_path):
    with pytest.raises(ValueError, match="train_backbone=True needs images.*Leave out the folder of features"):
        run(experiment(tmp_path), settings(train_backbone=True), tmp_path / "run", accelerator)


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        (("validation", 2), {"select_on": "val", "ema_decay": 0.5, "schedule": "cosine", "epochs": 3}),
        (("test", 2), {"select_on": "val", "ema_decay": 0.5, "schedule": "cosine", "epochs": 3}),
        (("test", 5), {"select_on": "test", "epochs": 6}),  # the best epoch comes before the interruption
    ],
)
def test_an_interrupted_run_ends_as_if_nothing_had_happened(accelerator, tmp_path, monkeypatch, where, changes):
    chosen = settings(**changes)
    tiny = experiment(tmp_path, config={"feature_dropout": 0.2} if "ema_decay" in changes else {})
    expected = run(tiny, chosen, tmp_path / "whole", accelerator)
    accelerator.free_memory()
    report = training.report

    def interrupt(accelerator, settings, task, record, *quiet):
        if (task.name, record["epoch"]) == where:
            raise Interruption
        report(accelerator, settings, task, record, *quiet)

    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(training, "report", interrupt)
        run(tiny, chosen, tmp_path / "cut", accelerator)
    assert not (tmp_path / "cut" / "run.json").exists()
    accelerator.free_memory()
    record = run(tiny, chosen, tmp_path / "cut", accelerator)
    assert (expected.pop("time")["resumed"], record.pop("time")["resumed"]) == (False, True)
    assert record == expected
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "cut")]
    assert_same_bits(*map(load_file, files))


def other_pictures(validation: bool = False) -> tuple[datasets.DatasetDict, AttributeTable]:
    """The same files with other contents."""
    splits, table = load_tiny(validation)
    return datasets.DatasetDict({name: split.map(darkened) for name, split in splits.items()}), table


def darkened(row: dict) -> dict:
    return {"image": row["image"].point(lambda value: value // 2)}


@pytest.mark.parametrize(
    ("phase", "changes", "different"),
    [
        ("validation", {"config": {"margin": 0.0}}, "model.margin is 3.0, not 0.0"),
        ("test", {"load": other_pictures}, "data: images of train is .*; data: images of test_seen is "),
    ],
)
def test_a_run_does_not_go_on_from_another_model_or_other_data(
    phase, changes, different, accelerator, tmp_path, monkeypatch
):
    """Also where the phase that the checkpoint is of is finished."""
    first = experiment(tmp_path, config={"margin": 3.0}, features=None)
    second = experiment(tmp_path, **{"config": {"margin": 3.0}, "features": None, **changes})
    chosen, done = settings(select_on="val", epochs=1), []

    def interrupt(*_) -> None:
        done.append(1)
        if len(done) == (1 if phase == "validation" else 2):
            raise Interruption

    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(training, "report", lambda *_: None)
        patched.setattr(Checkpoint, "save", interrupted(Checkpoint.save, interrupt))
        run(first, chosen, tmp_path / "run", accelerator)
    with pytest.raises(ValueError, match=f"checkpoint-validation belongs to another experiment: .*{different}"):
        run(second, chosen, tmp_path / "run", accelerator)
    assert not (tmp_path / "run" / "run.json").exists()


def interrupted(save, interrupt):
    """`save`, and `interrupt` after it."""

    def save_and_interrupt(*arguments) -> None:
        save(*arguments)
        interrupt()

    return save_and_interrupt


def test_selection_on_the_test_splits_keeps_the_best_epoch_also_over_an_interruption(
    accelerator, tmp_path, monkeypatch
):
    two = run(experiment(tmp_path), settings(epochs=2), tmp_path / "two", accelerator)
    accelerator.free_memory()
    report, evaluate, scores = training.report, training.evaluate, [0.1, 0.5, 0.2, 0.3, 0.4]

    def pretend(*arguments, **options):
        found, predictions = evaluate(*arguments, **options)
        return {**found, "H": scores.pop(0)}, predictions

    def interrupt(*arguments):
        if arguments[3]["epoch"] == 3:
            raise Interruption
        report(*arguments)

    monkeypatch.setattr(training, "evaluate", pretend)
    chosen = settings(select_on="test", epochs=4)
    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(training, "report", interrupt)
        run(experiment(tmp_path), chosen, tmp_path / "best", accelerator)
    accelerator.free_memory()
    record = run(experiment(tmp_path), chosen, tmp_path / "best", accelerator)
    assert [epoch["H"] for epoch in record["history"]] == [0.1, 0.5, 0.3, 0.4]
    assert (record["results"]["epoch"], record["results"]["H"]) == (2, 0.5)
    assert record["model"]["weights"] == two["model"]["weights"]
    assert_same_bits(*(load_file(tmp_path / name / "model.safetensors") for name in ("two", "best")))


def test_a_tracker_writes_the_numbers_of_every_epoch(tmp_path, accelerator):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path / "logs")
    tracked.init_trackers("dedn")
    record = run(experiment(tmp_path), settings(epochs=2, tracker="tensorboard"), tmp_path / "run", tracked)
    tracked.end_training()
    events = next((tmp_path / "logs").rglob("events.out.tfevents*"))
    written = EventAccumulator(str(events.parent)).Reload()
    losses = [point.value for point in written.Scalars("test/loss")]
    assert losses == pytest.approx([epoch["loss"] for epoch in record["history"]])
    assert written.Scalars("test/H")[0].step == 2


# Settings and presets ---------------------------------------------------------------------------------------------


def test_unknown_settings_are_answered_with_near_names():
    with pytest.raises(ValueError, match="No training setting 'learning_rat'. Did you mean 'learning_rate'"):
        TrainingSettings.from_dict({"learning_rat": 1})
    assert TrainingSettings.from_dict(settings().to_dict()) == settings()


def test_numbers_that_yaml_reads_as_text_are_numbers():
    parsed = TrainingSettings(
        learning_rate="1e-5", weight_decay="1e-3", warmup="5e-2", epochs="3", max_grad_norm="1e1"
    )
    assert (parsed.learning_rate, parsed.weight_decay, parsed.warmup) == (1e-5, 1e-3, 0.05)
    assert (parsed.epochs, parsed.max_grad_norm, parsed.ema_decay) == (3, 10.0, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; use one of rmsprop, adamw"),
        ({"sampling": "random"}, "sampling is 'random'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"select_on": "train"}, "select_on is 'train'; use one of val, test, last"),
        ({"augmentation": "all"}, "augmentation is 'all'"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'"),
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"epochs": None}, "epochs is None; it must be a whole number"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"learning_rate": 0}, "learning_rate is 0.* must be positive"),
        ({"warmup": 1}, "warmup is 1"),
        ({"calibrate": True, "select_on": "test"}, "calibrate=True .* needs select_on='val'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, expected):
    with pytest.raises(ValueError, match=expected):
        TrainingSettings(**values)


def write_preset(tmp_path, text: str) -> Path:
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    return path


PRESET = """
data: {name: shapes}
model: {margin: 2.0, query_rank: 4}
training: {epochs: 2}
variants:
  zsl: {model: {margin: 3.0}, training: {sampling: uniform}}
"""


def test_a_variant_and_then_the_overrides_change_a_preset(tmp_path):
    path = write_preset(tmp_path, PRESET)
    assert read_preset(path) == {
        "data": {"name": "shapes"},
        "model": {"margin": 2.0, "query_rank": 4},
        "training": {"epochs": 2},
    }
    changed = read_preset(path, "zsl", ["model.margin=4", "training.frozen_stages=[conv1]", "model.query_rank=null"])
    assert changed["model"] == {"margin": 4, "query_rank": None}
    assert changed["training"] == {"epochs": 2, "sampling": "uniform", "frozen_stages": ["conv1"]}


def test_an_empty_section_is_an_empty_one(tmp_path):
    preset = read_preset(write_preset(tmp_path, "data:\nmodel:\n"), overrides=["data.name=cub"])
    assert preset == {"data": {"name": "cub"}, "model": {}, "training": {}}


@pytest.mark.parametrize(
    ("text", "variant", "overrides", "expected"),
    [
        ("data: [", None, [], "not valid YAML"),
        ("dataset: {}", None, [], "unknown section 'dataset'; use data, model, training, variants"),
        (PRESET, "gzsl", [], "no variant 'gzsl'; it has zsl"),
        (PRESET, None, ["epochs=5"], "Cannot read 'epochs=5'. Write section.key=value"),
        (PRESET, None, ["training.epochs"], "Cannot read 'training.epochs'"),
        (PRESET, None, ["train.epochs=5"], "Unknown section 'train'"),
    ],
)
def test_presets_that_cannot_be_read_are_refused(tmp_path, text, variant, overrides, expected):
    with pytest.raises(ValueError, match=expected):
        read_preset(write_preset(tmp_path, text), variant, overrides)


def test_a_missing_preset_is_answered_with_those_that_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml.*awa2, cub, "):
        read_preset(tmp_path / "none.yaml")
    with pytest.raises(FileNotFoundError, match="Did you mean 'cub_views'"):
        read_preset("cub_view")


# Table of the published settings: input, epochs, calibration, region weight, coarse weight, margin, rank, sampling.
PUBLISHED = {
    ("cub", None): (448, 80, 0, 0.8, 0.9, 3, None, "class_balanced"),
    ("cub", "zsl"): (448, 80, 0.18, 0.6, 0.9, 3, None, "class_balanced"),
    ("sun", None): (448, 80, 0, 0.95, 0.3, 2, 256, "uniform"),
    ("sun", "zsl"): (448, 80, 0, 0.95, 0.3, 2, 128, "uniform"),
    ("awa2", None): (224, 20, 0.11, 0.8, 0.5, 2, None, "class_balanced"),
    ("awa2", "zsl"): (224, 20, 0.11, 0.8, 0.5, 2, None, "uniform"),
}


@pytest.mark.parametrize(("name", "variant"), PUBLISHED)
def test_the_presets_hold_the_published_numbers(name, variant):
    preset = read_preset(name, variant)
    chosen, config = TrainingSettings.from_dict(preset["training"]), DEDNConfig(**preset["model"])
    assert preset["data"]["name"] == name
    assert PUBLISHED[name, variant] == (
        config.image_size,
        chosen.epochs,
        config.calibration_weight,
        config.region_weight,
        config.coarse_weight,
        config.margin,
        config.query_rank,
        chosen.sampling,
    )
    assert config.backbone.startswith("resnet101") and config.freeze_backbone and not chosen.train_backbone
    assert (config.distillation_weight, config.alignment_weight, config.margin_weight) == (0.1, 0.001, 1)
    assert (config.crop_pct, config.seen_bias, config.regression_weight, config.label_smoothing) == (1, 1, 0, 0)
    assert (chosen.optimizer, chosen.learning_rate, chosen.weight_decay) == ("rmsprop", 1e-4, 1e-4)
    assert (chosen.momentum, chosen.batch_size, chosen.schedule, chosen.augmentation) == (0.9, 50, "constant", "none")


@pytest.mark.parametrize("name", preset_names())
def test_every_key_of_a_preset_is_known(name):
    variants = [None, *(yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8")).get("variants") or {})]
    builder = {"pretrained", "groups", "num_groups", "backbone_kwargs"}
    for variant in variants:
        preset = read_preset(name, variant)
        TrainingSettings.from_dict(preset["training"])
        assert not [key for key in preset["model"] if key not in builder and not hasattr(DEDNConfig, key)]


# Views ---------------------------------------------------------------------------------------------------------------


def views(**changes) -> TrainingSettings:
    return settings(augmentation="crop", feature_views=3, select_on="last", epochs=2, **changes)


def test_cached_views_differ_from_the_plain_one_and_are_the_same_every_time(accelerator, tmp_path):
    caches = {}
    for name in ("a", "b"):
        given = experiment(tmp_path, features=tmp_path / name)
        caches[name] = open_caches(given, seeded_model(), views(num_workers=2 if name == "b" else 0), accelerator)
    assert [len(cache) for cache in caches["a"]] == [35, 20, 20]
    rows = caches["a"][0].rows(load_tiny()[0]["train"]["file"])
    plain, first, second = caches["a"][0].read(rows), caches["a"][1].read(range(20)), caches["a"][2].read(range(20))
    assert not torch.equal(first, second) and not torch.equal(plain, first)
    for cache, again in zip(caches["a"], caches["b"], strict=True):
        assert torch.equal(cache.read(range(len(cache))), again.read(range(len(again))))


def test_training_draws_every_view_and_evaluation_the_plain_one(accelerator, tmp_path):
    given, chosen = experiment(tmp_path), views()
    caches = open_caches(given, seeded_model(), chosen, accelerator)
    task = full_task(*load_tiny())
    inputs = inputs_of(task, seeded_model(), chosen, caches)
    file = task.images["train"]["file"][3]
    ways = [cache.read(cache.rows([file]))[0] for cache in caches]
    drawn = [inputs("train").__getitems__([3, 5])["features"][0] for _ in range(60)]
    counts = [sum(torch.equal(features, way) for features in drawn) for way in ways]
    assert sum(counts) == 60 and min(counts) > 0
    seen = inputs("seen").__getitems__([0])["features"][0]
    assert torch.equal(seen, caches[0].read(caches[0].rows([task.images["seen"]["file"][0]]))[0])


def test_a_seed_decides_on_the_view_of_an_image_and_on_nothing_else(accelerator, tmp_path):
    caches = open_caches(experiment(tmp_path), seeded_model(), views(), accelerator)
    task, augment = full_task(*load_tiny()), training_transform(seeded_model(), "crop", jitter=0.4)
    cached, decoded = task.cached(*caches)("train"), task.decoded(augment, augment)("train")
    for data, key in ((cached, "features"), (decoded, "pixel_values")):
        random_state = torch.get_rng_state()
        together = data.__getitems__(SeededIndices([4, 7, 4], [10, 11, 12]))[key]
        alone = [data.__getitems__(SeededIndices([i], [seed]))[key][0] for i, seed in ((4, 10), (7, 11), (4, 12))]
        assert torch.equal(together, torch.stack(alone))
        assert not torch.equal(together[0], together[2])
        assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("changes", [{"train_backbone": True, "freeze_batch_norm": True}, {"feature_views": 3}])
def test_workers_that_load_images_change_no_bit_also_after_an_interruption(
    accelerator, tmp_path, monkeypatch, changes
):
    chosen = {"augmentation": "crop", "jitter": 0.4, "epochs": 3, "batch_size": 10, **changes}
    given = experiment(tmp_path, config={"feature_dropout": 0.2})
    if "feature_views" not in changes:
        given.features = None
    run(given, settings(**chosen), tmp_path / "one", accelerator)
    report = training.report

    def interrupt(*arguments):
        if arguments[3]["epoch"] == 2:
            raise Interruption
        report(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(training, "report", interrupt)
        run(given, settings(**chosen, num_workers=2), tmp_path / "two", accelerator)
    run(given, settings(**chosen, num_workers=2), tmp_path / "two", accelerator)
    assert_same_bits(*(load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")))


class TellingWhere(FeatureMaps):
    """Feature maps whose labels, in evaluation, are those of class 1 where a worker process has loaded them."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        worker = torch.utils.data.get_worker_info() is not None
        return {**batch, "labels": torch.full_like(batch["labels"], int(worker))}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_in_training_has_its_images_loaded_by_the_workers_too(accelerator, tmp_path, num_workers):
    task, inputs = feature_task()
    telling, labels = TellingWhere([0] * 5, seed=1), []
    fit(
        feature_model(),
        task,
        lambda split: inputs(split) if split == "train" else telling,
        settings(epochs=1, num_workers=num_workers),
        accelerator,
        tmp_path,
        rescore=lambda scores, _, found: labels.extend(found.tolist()) or {**scores, "H": 0.0},
    )
    assert labels == [num_workers] * 10


def test_a_batch_keeps_its_order_whatever_the_views(accelerator, tmp_path):
    caches = open_caches(experiment(tmp_path), seeded_model(), views(), accelerator)
    task = full_task(*load_tiny())
    data = CachedFeatures(caches, list(task.images["train"]["file"]), task.labels["train"])
    batch = data.__getitems__([7, 2, 7, 0])
    assert torch.equal(batch["labels"], task.labels["train"][[7, 2, 7, 0]])
    for features, index in zip(batch["features"], [7, 2, 7, 0], strict=True):
        file = task.images["train"]["file"][index]
        assert any(torch.equal(features, cache.read(cache.rows([file]))[0]) for cache in caches)


def test_views_made_otherwise_are_refused(accelerator, tmp_path):
    given = experiment(tmp_path)
    open_caches(given, seeded_model(), views(), accelerator)
    with pytest.raises(ValueError, match="view-1 does not fit.* views .* in another way: crop_scale 0.4, not 0.9"):
        open_caches(given, seeded_model(), views(crop_scale=0.9), accelerator)
    with pytest.raises(ValueError, match="another precision of computing: float32, not bfloat16"):
        open_caches(given, seeded_model(), views(feature_precision="bfloat16"), accelerator)


def test_a_run_with_views_trains_and_is_on_record(accelerator, tmp_path):
    record = run(experiment(tmp_path), views(), tmp_path / "run", accelerator)
    assert record["settings"]["feature_views"] == 3
    assert math.isfinite(record["results"]["H"])


@pytest.mark.parametrize(
    ("changes", "features"), [({"augmentation": "crop"}, True), ({"augmentation": "crop", "feature_views": 2}, False)]
)
def test_augmentation_that_would_not_happen_is_refused(changes, features, accelerator, tmp_path):
    given = experiment(tmp_path, **({} if features else {"features": None}))
    with pytest.raises(ValueError, match="Augmentation of cached features needs feature_views > 1"):
        run(given, settings(**changes), tmp_path / "run", accelerator)
    with pytest.raises(ValueError, match="all views would be the same"):
        settings(feature_views=2)


def test_confidence_is_on_record_also_where_the_run_was_stopped_after_its_test(accelerator, tmp_path, monkeypatch):
    whole = run(experiment(tmp_path), settings(epochs=2), tmp_path / "whole", accelerator)
    accelerator.free_memory()

    def interrupt(*arguments):
        raise Interruption

    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr("dedn_hf.training.experiment.write_card", interrupt)
        run(experiment(tmp_path), settings(epochs=2), tmp_path / "stopped", accelerator)
    accelerator.free_memory()
    record = run(experiment(tmp_path), settings(epochs=2), tmp_path / "stopped", accelerator)
    assert record["confidence"] == whole["confidence"] and record["confidence"]["reliability"]
