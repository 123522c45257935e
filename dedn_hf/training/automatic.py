"""Settings for one's own photos, from their number, the machine, and the effort one will spend.

The losses and weights are those published for CUB (Rao et al., IJCAI 2024), on features of a frozen backbone, with
what `docs/recipe.md` found to hold on classes held out: the square root of class attributes, less their mean over the
seen classes; a pooled expert in closed form beside the two with attention; an average of the weights, a constant on
unseen logits, and more views of every photo the more effort there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from dedn_hf.data.cpu import available_cores
from dedn_hf.training.backbones import backbone_options

BACKBONE = "tf_efficientnet_lite0"
FEWEST_FOR_FOLDS = 4  # seen classes: two to hold out, two to train on
BATCH_SIZE = 50
SMALLEST_PART = 0.3  # of the photos, that a training on part of the classes may have left


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
) -> dict[str, dict]:
    """A preset, as `read_preset` gives one, for photos that nobody has tuned settings for.

    Args:
        data: section of the preset, as arguments of `load`. images: number of photos to train on. seen_classes: of
            how many classes they are. effort: 'quick', 'normal' or 'best'. backbone: as `backbone_options`.
            weights: file of its weights, in place of timm's download.

    Raises:
        ValueError: an unknown effort, or as `backbone_options`.
    """
    if effort not in EFFORTS:
        raise ValueError(f"There is no effort {effort!r}; use {', '.join(EFFORTS)}.")
    chosen, batch_size = EFFORTS[effort], min(BATCH_SIZE, max(int(SMALLEST_PART * images), 1))
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
    if seen_classes >= FEWEST_FOR_FOLDS:  # a mean over fewer classes is too near each of them
        model.update(attribute_power=0.5, center_attributes=True, pooled_weight=0.6)
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
    if seen_classes < FEWEST_FOR_FOLDS:
        training["select_on"] = "last"
    else:
        training.update(select_on="val", calibrate=True, folds=chosen.folds)
    return {"data": data, "model": model, "training": training}


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
