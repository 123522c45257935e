"""Stops trainings within an epoch and continues them on another number of processes. test_resuming.py runs it."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from dedn_hf.data.tasks import test_task
from dedn_hf.training.experiment import inputs_of
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import TrainingSettings
from tests.distributed_worker import FSDP_GOES_ON, IMAGES, randomise_keys, shard
from tests.forked import finished, in_processes, stopped
from tests.tiny_runs import feature_model, feature_task, image_model, load_tiny


def on_features(accelerator: Accelerator, folder: Path) -> tuple[dict, list]:
    """Weights and losses of a training on cached features, with everything else that a checkpoint must hold."""
    task, inputs = feature_task()
    model = randomise_keys(feature_model(calibration_weight=1.0))
    settings = TrainingSettings(
        epochs=2, batch_size=5, sampling="uniform", ema_decay=0.5, schedule="cosine", warmup=0.3, max_grad_norm=1
    )
    history = fit(model, task, inputs, settings, accelerator, folder)
    return model.state_dict(), [epoch["loss"] for epoch in history.epochs]


def on_images(accelerator: Accelerator, folder: Path) -> tuple[dict, list]:
    """Weights and losses of a training on augmented images, with the backbone."""
    task = test_task(*load_tiny())
    torch.manual_seed(0)
    model = randomise_keys(image_model())
    settings = TrainingSettings(**IMAGES, augmentation="crop", jitter=0.4, schedule="cosine")
    history = fit(model, task, inputs_of(task, model, settings, []), settings, accelerator, folder)
    return accelerator.get_state_dict(model), [epoch["loss"] for epoch in history.epochs]


def each_kind(accelerator: Accelerator, act: Callable[[str, Callable], None]) -> None:
    """Call `act` with a training on features, one on images, and one with a sharded model."""
    act("features", on_features)
    accelerator.free_memory()
    act("images", on_images)
    accelerator.free_memory()
    if FSDP_GOES_ON:
        shard(accelerator)
        act("sharded", on_images)


def one_process_first(accelerator: Accelerator, folder: Path) -> None:
    """On one process: train without a stop, for comparison, and again until the training is stopped."""

    def act(name: str, train: Callable) -> None:
        finished(train, accelerator, folder / "whole" / name)
        stopped(train, accelerator, folder / "1 to 2" / name)

    each_kind(accelerator, act)


def two_processes(accelerator: Accelerator, folder: Path) -> None:
    """On two processes: continue what one process began, and begin what one process will continue."""

    def act(name: str, train: Callable) -> None:
        finished(train, accelerator, folder / "1 to 2" / name)
        stopped(train, accelerator, folder / "2 to 1" / name)

    each_kind(accelerator, act)


def one_process_again(accelerator: Accelerator, folder: Path) -> None:
    """On one process: continue what two processes began."""
    each_kind(accelerator, lambda name, train: finished(train, accelerator, folder / "2 to 1" / name))


if __name__ == "__main__":
    for processes, act in ((1, one_process_first), (2, two_processes), (1, one_process_again)):
        in_processes(processes, act, Path(sys.argv[1]))
