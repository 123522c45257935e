"""What is chosen on held-out seen classes: epoch, constant on unseen logits, temperature, thresholds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from scipy.special import softmax

from dedn_hf.metrics.confidence import answers, choose_none_of_these, choose_temperature, choose_thresholds
from dedn_hf.metrics.scores import calibrate, calibrate_over, gzsl_scores, harmonic_mean
from dedn_hf.training.loop import fit
from dedn_hf.training.output_folder import CHECKPOINTS

if TYPE_CHECKING:
    from dedn_hf.data.tasks import Inputs, Task
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.training.evaluation import Predictions
    from dedn_hf.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

FEW_CLASSES = 4  # held-out classes; with fewer, what is chosen by them says little of others
SCORES_OF_FOLDS = ("T1", "U", "S", "H", "AUSUC")
VALIDATION_SPLITS = {"train": "train", "val_seen": "seen", "val_unseen": "unseen"}


@dataclass
class Selection:
    """What was chosen, and what it was chosen by.

    Args:
        epoch: how long to train. record: for run.json. bias: constant for unseen logits, on top of what there is.
        temperature, precision_thresholds, none_of_these: for the model's configuration.
    """

    epoch: int
    record: dict
    bias: float = 0.0
    temperature: float = 1.0
    precision_thresholds: list | None = None
    none_of_these: list | None = None


@dataclass
class Fold:
    """Of one fold at one epoch: logits N x K, labels N, seen, K bool, and N lengths of attribute scores."""

    logits: np.ndarray
    labels: np.ndarray
    seen: np.ndarray
    lengths: np.ndarray

    def __iter__(self):
        return iter((self.logits, self.labels, self.seen))  # as `metrics.scores` takes them

    def class_weights(self) -> np.ndarray:
        """N; every class counts the same, as it does in T1, U and S."""
        return 1 / np.bincount(self.labels, minlength=len(self.seen))[self.labels]


def select(
    tasks: Sequence[Task],
    prepare: Callable[[Task], tuple[DEDNForZeroShot, Inputs]],
    settings: TrainingSettings,
    output: Path,
    accelerator: Accelerator,
    **options,
) -> Selection:
    """Train on every task, and choose by all of them together.

    With a schedule that decays, the number of epochs is part of the recipe and is kept.

    Args:
        tasks: validation tasks, whose unseen classes are held-out seen ones. prepare: gives a new model for a task,
            and the task's inputs. output: folder of the run, which keeps checkpoints and predictions to resume by.
        options: of `fit`.
    """
    warn_of_few_classes(tasks, settings)
    histories: list[list[dict]] = []
    files = [output / CHECKPOINTS / f"predictions-{task.name}" for task in tasks]
    for task, folder in zip(tasks, files, strict=True):
        model, inputs = prepare(task)

        def keep(_model: torch.nn.Module, epoch: dict, predictions: Predictions, folder: Path = folder) -> None:
            if settings.calibrate and accelerator.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
                np.savez(folder / f"{epoch['epoch']}.npz", **predictions._asdict())

        def calibrated(scores: dict, logits: np.ndarray, labels: np.ndarray, seen=task.table.seen) -> dict:
            return calibrated_scores(scores, logits, labels, seen) if settings.calibrate else scores

        where = output / CHECKPOINTS
        fitted = fit(model, task, inputs, settings, accelerator, where, keep, calibrated, **options)
        histories.append(fitted.epochs)
        accelerator.free_memory()  # the next model needs the room
    # Only the main process has the predictions: another may run on another machine.
    chosen = [conclude(tasks, histories, files, settings) if accelerator.is_main_process else None]
    return broadcast_object_list(chosen)[0]


def conclude(
    tasks: Sequence[Task], histories: Sequence[list[dict]], files: Sequence[Path], settings: TrainingSettings
) -> Selection:
    """Choose by the records of all epochs, and by the predictions in `files`, a folder for each task."""
    history = histories[0] if len(tasks) == 1 else joint_history(histories, tasks, files, settings.calibrate)
    evaluated = [epoch for epoch in history if epoch.get("H") is not None]
    chosen = max(evaluated, key=lambda epoch: epoch["H"]) if settings.schedule == "constant" else history[-1]
    record = {"chosen": chosen, "history": history, "images": images_of(tasks[0])}
    if settings.folds:
        record["folds"] = describe_folds(tasks, histories, chosen["epoch"])
    if not settings.calibrate:
        return Selection(chosen["epoch"], record)
    bias = chosen["calibration_bias"]
    confidence = choose_confidence(read_predictions(files, tasks, chosen["epoch"]), bias)
    return Selection(chosen["epoch"], {**record, **confidence}, bias, **confidence)


def calibrated_scores(scores: dict, logits: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> dict:
    """The scores with the constant on unseen logits that is best for these images, and that constant."""
    bias = calibrate(logits, labels, seen)
    better = gzsl_scores(logits + bias * ~np.asarray(seen), labels, seen)
    better = {key: better[key] for key in ("U", "S", "H")}
    return {**scores, **better, "H_uncalibrated": scores["H"], "calibration_bias": bias}


def read_predictions(folders: Sequence[Path], tasks: Sequence[Task], epoch: int) -> list[Fold]:
    """What every fold's model said at an epoch."""
    found = []
    for folder, task in zip(folders, tasks, strict=True):
        with np.load(folder / f"{epoch}.npz", allow_pickle=False) as file:
            found.append(Fold(file["logits"], file["labels"], task.table.seen, file["lengths"]))
    return found


def joint_history(
    histories: Sequence[list[dict]], tasks: Sequence[Task], files: Sequence[Path], calibrating: bool
) -> list[dict]:
    """The mean scores of every evaluated epoch over all folds, with one constant for all where one is chosen."""
    found = []
    for records in zip(*histories, strict=True):
        if records[0].get("H") is None:
            continue
        means: dict[str, Any] = {
            key: float(np.mean([record[key] for record in records])) for key in ("loss", *SCORES_OF_FOLDS)
        }
        means.update(epoch=records[0]["epoch"], H=harmonic_mean(means["U"], means["S"]))
        if calibrating:
            means["H_uncalibrated"] = float(np.mean([record["H_uncalibrated"] for record in records]))
            bias, u, s = calibrate_over([tuple(p) for p in read_predictions(files, tasks, means["epoch"])])
            means.update(U=u, S=s, H=harmonic_mean(u, s), calibration_bias=bias)
        found.append(means)
    return found


def describe_folds(tasks: Sequence[Task], histories: Sequence[list[dict]], epoch: int) -> list[dict]:
    """Of every fold, the classes that played the unseen ones, numbers of images, and scores of the chosen epoch."""
    return [
        {
            "held_out": held_out_classes(task),
            "images": images_of(task),
            **{key: history[epoch - 1][key] for key in SCORES_OF_FOLDS},
        }
        for task, history in zip(tasks, histories, strict=True)
    ]


def images_of(task: Task) -> dict[str, int]:
    """Split -> number of images, by the names that the validation splits have."""
    return {name: len(task.labels[split]) for name, split in VALIDATION_SPLITS.items()}


def held_out_classes(task: Task) -> list[str]:
    """The classes that play the unseen ones."""
    return [name for name, seen in zip(task.table.class_names, task.table.seen, strict=True) if not seen]


def choose_confidence(folds: Sequence[Fold], bias: float) -> dict:
    """Temperature, the confidence that each precision needs, and what tells other pictures, over all folds."""
    weights = np.concatenate([fold.class_weights() for fold in folds])
    shifted = [fold.logits + bias * ~fold.seen for fold in folds]
    width = max(logits.shape[1] for logits in shifted)
    # Folds may have one class more or less: a logit that no softmax notices stands for a missing one.
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=-1e9) for one in shifted]
    logits, labels = np.concatenate(padded), np.concatenate([fold.labels for fold in folds])
    temperature = choose_temperature(logits, labels, weights)
    confidences, right = answers(softmax(logits / temperature, axis=1), labels)
    lengths = np.concatenate([fold.lengths for fold in folds])
    return {
        "temperature": temperature,
        "precision_thresholds": choose_thresholds(confidences, right, weights),
        "none_of_these": choose_none_of_these(logits.max(axis=1), lengths, weights),
    }


def warn_of_few_classes(tasks: Sequence[Task], settings: TrainingSettings) -> None:
    """Warn where epoch and constant rest on so few classes that they say little of others."""
    held_out = {name for task in tasks for name in held_out_classes(task)}
    if len(held_out) < FEW_CLASSES:
        constant = " and the constant on unseen logits (calibrate=true)" if settings.calibrate else ""
        logger.warning(
            "The epoch%s will be chosen with %d held-out class%s playing the unseen ones. That is too few: scores "
            "promised there may not hold, and described classes may win far too often, or never. Add classes with "
            "photos, let more of them play the unseen ones in turn (training.folds=5), or use select_on='last' "
            "without calibrate.",
            *(constant, len(held_out), "es" * (len(held_out) > 1)),
        )
