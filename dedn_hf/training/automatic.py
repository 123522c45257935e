"""Settings for one's own photos, from their number, the machine, and the effort one will spend.

The losses and weights are those published for CUB (Rao et al., IJCAI 2024), on features of a frozen backbone, with
what `docs/recipe.md` found to hold on classes held out: the square root of class attributes, less their mean over the
seen classes; a pooled expert in closed form beside the two with attention; an average of the weights, a constant on
unseen logits, and more views of every photo the more effort there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dedn_hf.data.catalog import abbreviate
from dedn_hf.data.cpu import available_cores
from dedn_hf.data.tasks import fold_tasks, test_task
from dedn_hf.training.backbones import backbone_options

if TYPE_CHECKING:
    import datasets

    from dedn_hf.modeling.attribute_table import AttributeTable

BACKBONE = "tf_efficientnet_lite0"
FEWEST_FOR_FOLDS = 4  # seen classes: two to hold out, two to train on
BATCH_SIZE = 50
SMALLEST_PART = 0.3  # of the photos, that a training on part of the classes has left, where that is not known
FEWEST_TO_LEARN = 0.1  # of the photos; a training on fewer says nothing of one on all
POWER = 0.5  # of class attributes


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Args:
        views: how many views of each photo to train on, the plain one among them. mirrored: also the mirror images, in
            training and in every answer. epochs, steps: to train at most; the epochs are more where there are so few
            photos that they would not make these steps. folds: see `TrainingSettings`.
    """

    views: int
    mirrored: bool
    epochs: int
    steps: int
    learning_rate: float
    ema_decay: float
    folds: int


EFFORTS = {
    "quick": Effort(1, False, epochs=12, steps=200, learning_rate=3e-4, ema_decay=0.98, folds=2),
    "normal": Effort(1, True, epochs=24, steps=400, learning_rate=2e-4, ema_decay=0.99, folds=3),
    "best": Effort(8, True, epochs=48, steps=800, learning_rate=2e-4, ema_decay=0.99, folds=5),
}


def automatic_preset(
    data: dict[str, Any],
    images: int,
    seen_classes: int,
    effort: str = "normal",
    backbone: str | None = None,
    weights: str | None = None,
    smallest: int | None = None,
) -> dict[str, dict]:
    """A preset, as `read_preset` gives one, for photos that nobody has tuned settings for.

    Args:
        data: section of the preset, as arguments of `load`. images: number of photos to train on. seen_classes: of
            how many classes they are. effort: 'quick', 'normal' or 'best'. backbone: as `backbone_options`.
            weights: file of its weights, in place of timm's download. smallest: as `smallest_part` gives it.

    Raises:
        ValueError: an unknown effort, or as `backbone_options`.
    """
    if effort not in EFFORTS:
        raise ValueError(f"There is no effort {effort!r}; use {', '.join(EFFORTS)}.")
    chosen, few_classes = EFFORTS[effort], seen_classes < FEWEST_FOR_FOLDS
    batch_size = min(BATCH_SIZE, max(int(SMALLEST_PART * images), 1), smallest or images)
    epochs = max(chosen.epochs, math.ceil(chosen.steps / max(images // batch_size, 1)))
    evaluate_every = max(epochs // 8, 1)
    model = {
        **backbone_options(backbone or BACKBONE),
        "pretrained": weights or True,
        "flip_test": chosen.mirrored,
        "margin": 3.0,
        "region_weight": 0.8,
        "coarse_weight": 0.9,
        "calibration_weight": 0.0,
    }
    if not few_classes:  # a mean over fewer classes is too near each of them
        model.update(attribute_power=POWER, center_attributes=True, pooled_weight=0.6)
    training = {
        "epochs": math.ceil(epochs / evaluate_every) * evaluate_every,
        "batch_size": batch_size,
        "learning_rate": chosen.learning_rate,
        "ema_decay": chosen.ema_decay,
        "evaluate_every": evaluate_every,
        "checkpoint_every": evaluate_every,
        "num_workers": workers(),
        "feature_precision": "auto",
    }
    if chosen.views > 1:
        training.update(feature_views=chosen.views, augmentation="crop", crop_scale=0.35, jitter=0.3)
    if few_classes or smallest == 0:
        training["select_on"] = "last"
    else:
        training.update(select_on="val", calibrate=True, folds=chosen.folds)
    return {"data": data, "model": model, "training": training}


def require_trainable(splits: datasets.DatasetDict, table: AttributeTable) -> None:
    """Raise ValueError, before anything is done, for photos and a table that no settings help.

    splits: train, test_seen, test_unseen. table: K classes, whose seen ones are to be learned from 'train'.
    """
    labels = set(splits["train"]["label"][:])
    seen = [name for name, is_seen in zip(table.class_names, table.seen, strict=True) if is_seen]
    lost = [name for label, name in enumerate(table.class_names) if table.seen[label] and label not in labels]
    if lost:
        raise ValueError(
            f"No photo of {abbreviate(lost)} is left to learn from: those there are cannot be read. Replace them, or "
            "move them away: then the class is only described."
        )
    if len(seen) < 2:
        raise ValueError(
            f"Photos of {len(seen)} class ({seen[0]}) are too few: what is learned is what tells classes apart. Give "
            "photos of two classes at least."
        )
    test_task(splits, table)
    if table.num_attributes < 2:
        raise ValueError(
            f"The table has 1 attribute, {table.attribute_names[0]!r}. The model compares directions, and one number "
            "has none: describe the classes by more traits."
        )
    if same := nothing_of_their_own(table, centred=len(seen) >= FEWEST_FOR_FOLDS):
        raise ValueError(
            f"{abbreviate(same)}: nothing sets {'this class' if len(same) == 1 else 'these classes'} apart from the "
            "others. Describe them by traits in which they differ, or take them out."
        )


def nothing_of_their_own(table: AttributeTable, centred: bool) -> list[str]:
    """Seen classes, where all are described alike; with `centred`, also classes that are their mean."""
    values = table.class_attributes.astype(np.float64)
    rows = np.sign(values) * np.abs(values) ** POWER
    seen = rows[table.seen] / np.linalg.norm(rows[table.seen], axis=1, keepdims=True)
    if np.allclose(seen, seen[0]):
        return [name for name, is_seen in zip(table.class_names, table.seen, strict=True) if is_seen]
    left = np.linalg.norm(rows - rows[table.seen].mean(axis=0), axis=1) / np.linalg.norm(rows, axis=1)
    return [name for name, share in zip(table.class_names, left, strict=True) if centred and share < 1e-6]


def smallest_part(splits: datasets.DatasetDict, table: AttributeTable) -> int:
    """How many photos the smallest training has that settings are chosen by; 0 where there is too little to choose by.

    Classes are held out in turn. Too little are a training on one class, on classes that are described alike or on
    hardly any of the photos, and a test without photos.
    """
    if table.seen.sum() < FEWEST_FOR_FOLDS:
        return 0
    try:
        tasks = fold_tasks(splits, table, max(each.folds for each in EFFORTS.values()))
    except ValueError:
        return 0
    if any(len(task.labels["train"].unique()) < 2 or nothing_of_their_own(task.table, centred=True) for task in tasks):
        return 0
    smallest = min(len(task.labels["train"]) for task in tasks)
    return smallest if smallest >= FEWEST_TO_LEARN * len(splits["train"]) else 0


def continued(preset: dict[str, dict], start: str) -> dict[str, dict]:
    """The preset for going on with the saved model `start`, whose constant, temperature and thresholds are kept.

    Nothing is chosen anew: `start` was trained on the classes that would be held out. A third of the epochs will do.
    """
    training = {key: value for key, value in preset["training"].items() if key not in ("calibrate", "folds")}
    training.update(select_on="last", epochs=max(training["epochs"] // 3, 1))
    return {**preset, "model": {"start_from": start}, "training": training}


def workers() -> int:
    """Processes that decode photos: none where there are two cores, which the network keeps busy."""
    cores = available_cores()
    return min(8, cores // 2) if cores > 2 or torch.accelerator.is_available() else 0
