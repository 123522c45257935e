"""Classes play the unseen ones: a probe learns from photos of the others, and then scores photos of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dedn_hf.metrics.scores import calibrate, gzsl_scores

if TYPE_CHECKING:
    from dedn_hf.studies.pooled import PooledPhotos
    from dedn_hf.studies.probes import Probe


@dataclass
class Trial:
    """Photos, and what a probe says of them.

    Args:
        classes: K indices of the classes that compete. logits: N x K. labels: N indices into `classes`. seen: K bool,
            the classes that the probe learned from photos.
    """

    classes: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    seen: np.ndarray

    def scores(self, constant: float = 0.0) -> dict:
        """T1, U, S, H, AUSUC as `gzsl_scores`, with a constant on the scores of unseen classes."""
        return gzsl_scores(self.logits + constant * ~self.seen, self.labels, self.seen)

    def best_constant(self) -> float:
        """The constant that gives the best H; 0 where there are photos of one kind of class only."""
        of_seen = self.seen[self.labels]
        return 0.0 if of_seen.all() or not of_seen.any() else calibrate(self.logits, self.labels, self.seen)

    def shifted(self, constant: float) -> Trial:
        """The same with a constant added to the scores of unseen classes."""
        return replace(self, logits=self.logits + constant * ~self.seen)

    def accuracies(self, unseen: int) -> tuple[float, float, float]:
        """T1, U and S, as expected where only so many of the unseen classes compete, drawn at random.

        NaN without photos to measure one of them on. A tie counts as a loss.
        """
        own = self.logits[np.arange(len(self.labels)), self.labels][:, None]
        ahead = self.logits >= own
        ahead[np.arange(len(self.labels)), self.labels] = False
        of_seen, count = self.seen[self.labels], int((~self.seen).sum())
        rivals, beaten = ahead[:, ~self.seen].sum(axis=1), ahead[:, self.seen].any(axis=1)
        drawn = np.where(of_seen, unseen, unseen - 1)
        none_drawn = _none_drawn(rivals, np.where(of_seen, count, count - 1), drawn)
        right = [none_drawn[~of_seen], (none_drawn * ~beaten)[~of_seen], (none_drawn * ~beaten)[of_seen]]
        labels = [self.labels[~of_seen], self.labels[~of_seen], self.labels[of_seen]]
        t1, u, s = (_mean_over_classes(*pair) for pair in zip(right, labels, strict=True))
        return t1, u, s


def _none_drawn(rivals: np.ndarray, of: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The probability that none of the rivals is among those drawn, of so many."""
    probability = np.ones(len(rivals))
    for turn in range(int(drawn.max(initial=0))):
        left = of - turn
        probability *= np.where(turn < drawn, np.clip(left - rivals, 0, None) / np.maximum(left, 1), 1)
    return probability


def _mean_over_classes(right: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the classes' means; NaN without a photo."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)])) if len(labels) else np.nan


def hold_out_classes(
    kind: type[Probe],
    photos: PooledPhotos,
    tested: np.ndarray,
    rows: np.ndarray,
    trained: Sequence[int] | np.ndarray,
    held_out: Sequence[int] | np.ndarray,
    settings: Sequence[tuple],
) -> list[Trial]:
    """One trial for each setting: the held-out classes are described only.

    Args:
        kind: of probe. photos: N. tested: N bool; photos of trained classes that are not learned from, but tested.
            All photos of held-out classes are tested. rows: of all classes. trained, held_out: indices of rows, the
            classes that compete.
    """
    classes = np.array([*trained, *held_out])
    position = np.full(len(rows), -1)
    position[classes] = np.arange(len(classes))
    labels = position[photos.labels]
    seen = np.arange(len(classes)) < len(trained)
    of_trained = (labels >= 0) & (labels < len(trained))
    learned, asked = of_trained & ~tested, (of_trained & tested) | (labels >= len(trained))
    probe = kind(photos.features[learned], labels[learned], rows[classes[seen]])
    trials = []
    for setting in settings:
        probe.fit(setting)
        scores = probe.scores(photos.features[asked], rows[classes])
        trials.append(Trial(classes, scores, labels[asked], seen))
    return trials


def choose(
    kind: type[Probe], photos: PooledPhotos, tested: np.ndarray, rows: np.ndarray, folds: Sequence[Sequence[int]]
) -> tuple[tuple, float]:
    """The setting with the best mean over folds of classes, and the mean of their best constants.

    The best is that of AUSUC, or of T1 where no photo of a trained class is tested. Arguments as `hold_out_classes`;
    each of the folds, indices of rows, is held out once.
    """
    everyone = sorted({index for fold in folds for index in fold})
    of_fold = [
        hold_out_classes(
            kind, photos, tested, rows, [index for index in everyone if index not in fold], fold, kind.settings
        )
        for fold in folds
    ]
    merits = [np.mean([_merit(trial) for trial in trials]) for trials in zip(*of_fold, strict=True)]
    best = int(np.argmax(merits))
    return kind.settings[best], float(np.mean([trials[best].best_constant() for trials in of_fold]))


def _merit(trial: Trial) -> float:
    scores = trial.scores()
    return scores["T1"] if scores["AUSUC"] is None else scores["AUSUC"]
