"""Peers of DEDN on the same features and splits: what the simple classifiers of the field reach on this data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dedn_hf.data.catalog import class_folds
from dedn_hf.metrics.scores import SCORES, chance, percent
from dedn_hf.studies.pooled import PooledPhotos, joined
from dedn_hf.studies.probes import PROBES, Probe
from dedn_hf.studies.trials import choose, hold_out_classes

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable

FOLDS = 5


@dataclass
class Baseline:
    """What one probe reached.

    Args:
        name: of the probe. setting: of the probe. constant: added to its scores of unseen classes. Both were chosen on
            folds of seen classes. scores: T1, U, S, H, AUSUC, 0..1, None where there was nothing to test.
    """

    name: str
    setting: tuple
    constant: float
    scores: dict[str, float | None]


def baselines(
    photos: Mapping[str, PooledPhotos], table: AttributeTable, probes: Sequence[type[Probe]] = PROBES
) -> list[Baseline]:
    """Each probe, trained on 'train' and tested once on 'test_seen' and 'test_unseen'.

    Settings and the constant on the scores of unseen classes are chosen on five folds of the seen classes, each held
    out once. No test photo is looked at for that.

    Args:
        photos: as `pool` gives them for the splits of `dedn_hf.data.load`. table: of the K classes.

    Raises:
        ValueError: fewer than three seen classes with photos, no unseen class, or no photo to test on.
    """
    table.require_seen_and_unseen()
    train = photos["train"]
    test = [photos["test_seen"], photos["test_unseen"]]
    if not sum(len(part.labels) for part in test):
        raise ValueError("There is no photo to test on. Add photos: two of a seen class, or one of an unseen class.")
    folds = folds_of(train, table)
    seen, unseen = sorted({index for fold in folds for index in fold}), np.flatnonzero(~table.seen)
    together = joined([train, *test])
    tested = np.arange(len(together.labels)) >= len(train.labels)
    found = []
    for kind in probes:
        setting, constant = choose(kind, train, train.held_out(), table.class_attributes, folds)
        (trial,) = hold_out_classes(kind, together, tested, table.class_attributes, seen, unseen, [setting])
        scores = trial.scores(constant)
        found.append(Baseline(kind.name, setting, constant, {name: scores[name] for name in SCORES}))
    return found


def folds_of(photos: PooledPhotos, table: AttributeTable) -> list[list[int]]:
    """Five folds of the classes that have photos, as indices of the table. Raises ValueError as `class_folds`."""
    names = table.class_names
    position = {names[label]: int(label) for label in np.unique(photos.labels)}
    return [[position[name] for name in fold] for fold in class_folds(list(position), FOLDS)]


def format_baselines(found: Sequence[Baseline], table: AttributeTable) -> str:
    """A table of the scores in percent, with guessing below."""
    seen = int(table.seen.sum())
    lines = [("guessing", chance(seen, len(table) - seen)), *((each.name, each.scores) for each in found)]
    width = max(len(name) for name, _ in lines)
    head = " " * width + "".join(f"{name:>12}" for name in SCORES)
    return "\n".join(
        [
            head,
            *(name.ljust(width) + "".join(f"{percent(scores[key]):>12}" for key in SCORES) for name, scores in lines),
        ]
    )
