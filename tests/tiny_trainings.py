"""Trainings of a few steps, for tests that stop them or make something go wrong."""

import json
from pathlib import Path

import torch

from dedn_hf.training import loop as training
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import feature_model, feature_task


def settings(**changes) -> TrainingSettings:
    basic = {"epochs": 3, "batch_size": 6, "sampling": "uniform", "learning_rate": 0.003, "select_on": "last"}
    return TrainingSettings(**{**basic, **changes})


def fitted(accelerator, folder, **changes) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Weights and epoch records of a short training with 4 steps an epoch."""
    model, (task, inputs) = feature_model(feature_dropout=0.2), feature_task()
    history = fit(model, task, inputs, settings(**changes), accelerator, folder)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, history.epochs


def assert_same(found: tuple, expected: tuple) -> None:
    assert found[1] == expected[1]
    assert not [name for name in expected[0] if not torch.equal(found[0][name], expected[0][name])]


def state_of(folder: Path) -> dict:
    return json.loads((folder / "checkpoint-tiny" / "state.json").read_text())


def at_step(monkeypatch, step: int, act) -> None:
    """Call `act` after optimizer step number `step` of the next training."""
    build, done = training.build_optimizer, []

    def watched(*arguments):
        optimizer = build(*arguments)
        optimizer.register_step_post_hook(lambda *_: (done.append(1), len(done) == step and act()))
        return optimizer

    monkeypatch.setattr(training, "build_optimizer", watched)
