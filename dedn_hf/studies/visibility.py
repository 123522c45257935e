"""What of a table of traits can be seen in photos, and which classes look alike to someone who sees only that."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.spatial.distance import cdist

from dedn_hf.studies.pooled import PooledPhotos
from dedn_hf.studies.probes import Ridge, directions
from dedn_hf.studies.trials import Trial, choose

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable

SHOWN, NOT_SHOWN = 0.7, 0.6  # AUC from which on, and below which, we say so
MOST_PAIRS = 100
TRAITS = 3  # named, of those that set two classes apart


@dataclass
class Visible:
    """How well photos show an attribute.

    Args:
        attribute: its name. auc: how likely a photo of a class that has more of it than the average gets the higher
            prediction, against a photo of another class; 0.5 is guessing, None where all classes are equal.
    """

    attribute: str
    auc: float | None


@dataclass
class Pair:
    """Two classes that are likely to be confused.

    Args:
        first: an unseen class. second: another class; seen: whether it has photos. share: of the photos of one, for
            which the other gets the higher score; measured on pairs of classes as near as these. differ: attributes
            that set them apart in photos, most important first.
    """

    first: str
    second: str
    seen: bool
    share: float
    differ: list[str]


def visible_traits(photos: PooledPhotos, table: AttributeTable, folds: Sequence[Sequence[int]]) -> list[Visible]:
    """Each attribute, predicted by ridge regression on photos of classes that it did not learn from.

    Args:
        photos: of seen classes, labelled by rows of the table. folds: of these rows, each held out once.
    """
    setting, _ = choose(Ridge, photos, photos.held_out(), table.class_attributes, folds)
    predicted = np.full((len(photos.labels), table.num_attributes), np.nan)
    for fold in folds:
        held_out = np.isin(photos.labels, fold)
        learned = photos.of(~held_out)
        classes, labels = np.unique(learned.labels, return_inverse=True)
        probe = Ridge(learned.features, labels, table.class_attributes[classes])
        probe.fit(setting)
        predicted[held_out] = probe.predict(photos.features[held_out])
    average = table.class_attributes[np.unique(photos.labels)].mean(axis=0)
    has_more = table.class_attributes[photos.labels] > average
    return [
        Visible(name, area_under_roc(predicted[:, place], has_more[:, place]))
        for place, name in enumerate(table.attribute_names)
    ]


def area_under_roc(predicted: np.ndarray, positive: np.ndarray) -> float | None:
    """How likely a positive is above a negative, of N predictions; None without one of both."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    ranks = predicted.argsort().argsort()[positive]
    return float((ranks.sum() - positives * (positives - 1) / 2) / (positives * negatives))


def visible_rows(table: AttributeTable, traits: Sequence[Visible]) -> np.ndarray:
    """K x A: the classes' rows, L2-normalised, each attribute as far as photos show it."""
    weights = [max(0.0, 2 * (0.5 if trait.auc is None else trait.auc) - 1) for trait in traits]
    return directions(table.class_attributes) * np.array(weights)


def likely_confusions(table: AttributeTable, rows: np.ndarray, trials: Sequence[Trial]) -> list[Pair]:
    """Pairs of classes, one at least unseen, by how often pairs of held-out classes as near as they were confused.

    The likeliest ones, a hundred at most. Where the table has no unseen class, all classes count as such.

    Args:
        rows: as of `visible_rows`; near are classes whose rows are. trials: of seen classes, where they were held out.
    """
    distances = cdist(rows, rows)
    unseen = ~table.seen if not table.seen.all() else table.seen
    found = []
    for with_seen in (False, True):
        possible = np.outer(unseen, ~unseen) if with_seen else np.triu(np.outer(unseen, unseen), 1)
        first, second = np.nonzero(possible)
        far = distances[first, second]
        shares = np.interp(far, *measured_pairs(trials, distances, with_seen))
        found += zip(-shares, far, first, second, [with_seen] * len(far), strict=True)
    return [
        Pair(
            table.class_names[first],
            table.class_names[second],
            with_seen,
            float(-share),
            differences(rows[first] - rows[second], table.attribute_names),
        )
        for share, _, first, second, with_seen in heapq.nsmallest(MOST_PAIRS, found)
    ]


def differences(gaps: np.ndarray, names: Sequence[str]) -> list[str]:
    """The names of the attributes with the largest gaps."""
    largest = np.abs(gaps).argsort(kind="stable")[::-1][:TRAITS]
    return [names[place] for place in largest if gaps[place]]


def least_like_any_seen(table: AttributeTable, rows: np.ndarray) -> list[str]:
    """The unseen classes, first the one that is farthest from its nearest seen class. rows: as of `visible_rows`."""
    unseen = np.flatnonzero(~table.seen)
    nearest = cdist(rows[unseen], rows[table.seen]).min(axis=1, initial=np.inf)
    return [table.class_names[unseen[place]] for place in nearest.argsort(kind="stable")[::-1]]


def measured_pairs(trials: Sequence[Trial], distances: np.ndarray, with_seen: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distances, ascending, and the share of photos confused at each, which falls with the distance.

    It is the isotonic regression over all pairs: of two held-out classes, or, `with_seen`, of a held-out class and one
    that was learned.
    """
    found = []
    for trial in trials:
        beaten = confusions(trial)
        held_out = np.flatnonzero(~trial.seen)
        for first in held_out:
            others = np.flatnonzero(trial.seen) if with_seen else held_out[held_out > first]
            for second in others:
                shares = beaten[first, second] if with_seen else (beaten[first, second] + beaten[second, first]) / 2
                found.append((distances[trial.classes[first], trial.classes[second]], shares))
    if not found:
        return np.zeros(1), np.zeros(1)
    near, confused = np.array(sorted(found)).T
    return near, isotonic_regression(confused, increasing=False).x


def confusions(trial: Trial) -> np.ndarray:
    """K x K: the share of the photos of one class for which another one scores at least as high; 0 without photos."""
    own = trial.logits[np.arange(len(trial.labels)), trial.labels][:, None]
    beaten = (trial.logits >= own).astype(float)
    return np.array(
        [
            beaten[trial.labels == label].mean(axis=0) if (trial.labels == label).any() else np.zeros(len(trial.seen))
            for label in range(len(trial.seen))
        ]
    )
