"""Going on with a saved model, also with a few photos of classes that it knew from descriptions only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

FEW = 2.0  # times fewer photos than the others have
STRENGTH = 1.5  # chosen on eight of 40 bird classes, held out, see docs/corrections.md


def started(name: str, table: AttributeTable, labels: Sequence[int]) -> DEDNForZeroShot:
    """The saved model `name`, to go on with, for the classes of a table.

    Args:
        labels: of the photos to train on, indices into the table. Classes that become seen ones by few of them get
            handicaps.

    Raises:
        ValueError: the table has other attributes.
    """
    model = DEDNForZeroShot.from_pretrained(name)
    if set(model.config.attribute_names) != set(table.attribute_names):
        raise ValueError(
            f"{name} was trained with {model.config.num_attributes} attributes, and this table gives "
            f"{table.num_attributes}, not the same ones. Give the table that it was trained with."
        )
    known = dict(zip(model.attribute_table.class_names, model.seen.tolist(), strict=True))
    model.set_classes(table)
    model.learned_before = {name for name, is_seen in known.items() if is_seen}
    was_seen = np.array([known.get(class_name, False) for class_name in table.class_names])
    counts = np.bincount(np.asarray(labels, dtype=int), minlength=len(table))
    found = handicaps(counts, was_seen)
    if found is not None:  # the experts that are trained have only a share in the prediction
        model.handicaps = found / (1 - model.config.pooled_weight)
    return model


def handicaps(counts: np.ndarray, was_seen: np.ndarray) -> torch.Tensor | None:
    """What the logits of newly learned classes have to make up for in training, K; None without photos of others.

    A class that was only described loses its constant on the logits when it becomes a seen one, and a few photos do
    not make up for that: nearly all its photos would be taken for classes with many photos. So, in the losses, its
    logit is lowered by 1.5 times the logarithm of how many times as many photos the others have, on average (the
    logit adjustment of Menon et al., ICLR 2021, for these classes only).

    Args:
        counts: K, photos to train on. was_seen: K bool, classes that were learned before.
    """
    others = counts[was_seen & (counts > 0)]
    if not len(others):
        return None
    new = ~was_seen & (counts > 0)
    shares = np.where(new, others.mean() / np.maximum(counts, 1), 1.0)
    return torch.from_numpy(STRENGTH * np.log(np.maximum(shares, 1.0))).float()


def has_enough_photos(model: DEDNForZeroShot) -> torch.Tensor | None:
    """K bool, False for newly learned classes that have few photos beside the others; None where no class is new."""
    if model.handicaps is None:
        return None
    return model.handicaps * (1 - model.config.pooled_weight) <= STRENGTH * math.log(FEW)
