"""What to expect of classes without photos, before any training: classes with photos are held out and only described.

The probe is ESZSL on pooled features. Seen classes play the unseen ones in turn, as many at a time as there are unseen
classes, because more candidates are harder. What is left to learn from is then fewer classes than a training will
have. Two sizes are measured, and the scores are taken further along the logarithm of the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dedn_hf.data.catalog import abbreviate
from dedn_hf.metrics.scores import SCORES, chance, harmonic_mean, percent
from dedn_hf.studies.baselines import folds_of
from dedn_hf.studies.pooled import PooledPhotos
from dedn_hf.studies.probes import ESZSL
from dedn_hf.studies.trials import Trial, choose, hold_out_classes
from dedn_hf.studies.visibility import (
    NOT_SHOWN,
    SHOWN,
    Pair,
    Visible,
    least_like_any_seen,
    likely_confusions,
    visible_rows,
    visible_traits,
)

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable

FORECAST = ("T1", "U", "S", "H")
LEAST_CLASSES = 4  # with photos
LEAST_TRIALS, MOST_TRIALS = 24, 100  # enough for a steady mean, and for patience
FEWER = 2 / 3  # share of the classes that the second, smaller size learns from
PAIRS = 5  # named on the screen


@dataclass
class Forecast:
    """What to expect.

    Args:
        seen, unseen: numbers of classes. held_out: classes that played the unseen ones at a time, in so many trials.
        expected, spread: T1, U, S and H, 0..1, and the standard deviation of one set of unseen classes around them.
        guessing: the same scores of guessing. per_doubling: what T1 gains when twice as many classes have photos.
        traits: every attribute and how well the photos show it. pairs: classes likely to be confused, likeliest first.
        to_photograph: unseen classes, first the one of which photos would help most.
    """

    seen: int
    unseen: int
    held_out: int
    trials: int
    expected: dict[str, float]
    spread: dict[str, float]
    guessing: dict[str, float]
    per_doubling: float
    traits: list[Visible] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    to_photograph: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"what to expect of {self.unseen} classes without photos (ESZSL on pooled features; {self.trials} times, "
            f"{self.held_out} of {self.seen} classes with photos were only described):"
        ]
        for name in FORECAST:
            expected, spread, guessing = (percent(of[name]) for of in (self.expected, self.spread, self.guessing))
            lines.append(f"  {name:2} {expected:>4} ± {spread:<4} {SCORES[name]}; guessing: {guessing}")
        if self.expected["T1"] - self.spread["T1"] < 2 * self.guessing["T1"]:
            lines.append("  ! that is near guessing: these traits are hardly seen in photos, or the classes too few")
        lines += self._trait_lines() + self._pair_lines()
        return "\n".join(lines)

    def _trait_lines(self) -> list[str]:
        known = [(trait.attribute, trait.auc) for trait in self.traits if trait.auc is not None]
        known.sort(key=lambda pair: -pair[1])
        shown = [f"{attribute} ({auc:.2f})" for attribute, auc in known if auc >= SHOWN]
        hidden = [f"{attribute} ({auc:.2f})" for attribute, auc in known[::-1] if auc < NOT_SHOWN]
        lines = [f"  photos show {len(shown)} of {len(self.traits)} attributes: {abbreviate(shown) or 'none'}"]
        if hidden:
            lines.append(f"  and not {len(hidden)}: {abbreviate(hidden)}")
        return lines

    def _pair_lines(self) -> list[str]:
        lines = []
        for pair in self.pairs[:PAIRS]:
            differ = ", ".join(pair.differ) or "nothing"
            lines.append(
                f"  likely confused: {pair.first} and {pair.second}, in {pair.share:.0%} of their photos; photos set "
                f"them apart by {differ}"
            )
        if self.pairs:
            first, second = self.pairs[0].first, self.pairs[0].second
            lines.append(f"  would help: traits that photos show, and in which {first} and {second} differ")
        if self.to_photograph:
            names = ", then ".join(self.to_photograph[:PAIRS])
            lines.append(f"  would help: photos of the classes that are least like any with photos: {names}")
        if self.per_doubling > 0:
            more = round(self.seen / 4)
            gain = self.per_doubling * math.log2(1 + more / self.seen)
            lines.append(f"  would help: photos of any {more} more classes, about {100 * gain:.0f} points of T1")
        return lines


def forecast(photos: PooledPhotos, table: AttributeTable) -> Forecast:
    """What ESZSL would reach on the unseen classes of the table, as far as its seen classes tell.

    Args:
        photos: of seen classes, pooled, labelled by rows of the table. Where the table has no unseen class, the
            forecast is for a fifth as many as there are classes with photos, described later.

    Raises:
        ValueError: fewer than four classes with photos.
    """
    seen = np.unique(photos.labels)
    if len(seen) < LEAST_CLASSES:
        raise ValueError(
            f"A forecast needs {LEAST_CLASSES} classes with photos, of which some play the unseen ones; there are "
            f"{len(seen)}."
        )
    unseen = int((~table.seen).sum()) or max(2, round(len(seen) / 5))
    folds = folds_of(photos, table)
    setting, _ = choose(ESZSL, photos, photos.held_out(), table.class_attributes, folds)
    at_a_time = min(unseen, len(seen) // 2)
    rest = len(seen) - at_a_time
    trials = hold_out_in_turn(photos, table, setting, at_a_time, rest)
    measured = accuracies(trials, unseen)
    per_doubling = np.zeros(3)
    if (fewer := max(2, round(FEWER * rest))) < rest:
        with_fewer = accuracies(hold_out_in_turn(photos, table, setting, at_a_time, fewer), unseen)
        per_doubling = (measured - with_fewer).mean(axis=0) / math.log2(rest / fewer)
    expected = (measured.mean(axis=0) + per_doubling * math.log2(len(seen) / rest)).clip(0, 1).tolist()
    measured = np.column_stack([measured, [harmonic_mean(u, s) for _, u, s in measured]])
    # What is measured on the classes that are there is itself a sample, of so many sets of classes.
    spread = measured.std(axis=0, ddof=1) * math.sqrt(1 + at_a_time / len(seen))
    traits = visible_traits(photos, table, folds)
    rows = visible_rows(table, traits)
    return Forecast(
        seen=len(seen),
        unseen=unseen,
        held_out=at_a_time,
        trials=len(trials),
        expected=dict(zip(FORECAST, [*expected, harmonic_mean(*expected[1:])], strict=True)),
        spread=dict(zip(FORECAST, spread.tolist(), strict=True)),
        guessing={name: chance(len(seen), unseen)[name] or 0.0 for name in FORECAST},
        per_doubling=float(per_doubling[0]),
        traits=traits,
        pairs=likely_confusions(table, rows, trials),
        to_photograph=least_like_any_seen(table, rows),
    )


def hold_out_in_turn(
    photos: PooledPhotos, table: AttributeTable, setting: tuple, at_a_time: int, learned: int
) -> list[Trial]:
    """Trials in each of which other classes are held out, until each was, and there are enough trials.

    The constant on the scores of unseen classes is in their logits: the mean of what is best for the other trials.

    Args:
        at_a_time: classes held out. learned: classes to learn from, drawn from the others.
    """
    seen, tested, trials = np.unique(photos.labels), photos.held_out(), []
    for held_out in sets_of(seen, at_a_time):
        others = np.random.default_rng(len(trials)).permutation(np.setdiff1d(seen, held_out))[:learned]
        trials += hold_out_classes(ESZSL, photos, tested, table.class_attributes, np.sort(others), held_out, [setting])
    best = np.array([trial.best_constant() for trial in trials])
    others = (best.sum() - best) / (len(best) - 1)
    return [trial.shifted(constant) for trial, constant in zip(trials, others, strict=True)]


def sets_of(classes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Sets of classes to hold out: whole rounds, each with every class, and no more than `MOST_TRIALS`."""
    random, in_a_round = np.random.default_rng(0), math.ceil(len(classes) / size)
    for number in range(min(MOST_TRIALS, in_a_round * math.ceil(LEAST_TRIALS / in_a_round))):
        if number % in_a_round == 0:
            order = random.permutation(classes)
        start = size * (number % in_a_round)
        yield np.sort(order.take(range(start, start + size), mode="wrap"))


def accuracies(trials: Sequence[Trial], unseen: int) -> np.ndarray:
    """T1, U and S of each trial (trials x 3), with as many unseen classes as given.

    With more than were held out, each falls further as it did from half of them to all of them: its logit along the
    logarithm of the number. (A small number has no half to speak of. There each falls as a power of the number.)
    """
    held_out = int((~trials[0].seen).sum())
    measured = np.array([trial.accuracies(held_out) for trial in trials])
    if unseen <= held_out:
        return measured
    fewer, curve, inverse = (held_out // 2, _logit, _logistic) if held_out >= 6 else (1, np.log, np.exp)
    fewer_measured = np.array([trial.accuracies(fewer) for trial in trials])
    end, start = (curve(each.mean(axis=0).clip(0.001, 0.999)) for each in (measured, fewer_measured))
    fall = (end - start) / math.log(held_out / fewer) * math.log(unseen / held_out)
    return measured * inverse(end + fall) / inverse(end)


def _logit(share: np.ndarray) -> np.ndarray:
    return np.log(share / (1 - share))


def _logistic(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))
