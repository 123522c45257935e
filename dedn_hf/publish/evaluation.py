"""What a test of a model showed, for people and for programs: scores, classes, confidence, and what is mixed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dedn_hf.explain.names import spoken_class
from dedn_hf.explain.page import template
from dedn_hf.metrics.confidence import (
    accuracy_of_surest,
    answered_above,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from dedn_hf.metrics.scores import SCORES, chance, gzsl_scores, percent
from dedn_hf.modeling.saving import whole_file

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable

EXPLAINED = {
    "T1": "described classes, told from each other",
    "U": "described classes, told from all classes",
    "S": "classes learned from photos, told from all classes",
    "H": "harmonic mean of U and S: high only where both are",
    "AUSUC": "area under the curve of U over S: how well both go together",
}
SHARES = {0.25: "quarter", 0.5: "half", 1.0: "whole"}  # of the answers, the surest first
SHOWN_CLASSES, SHOWN_MISTAKES = 10, 20
CURVE_POINTS, RECORDED_POINTS = 200, 50


@dataclass
class Evaluation:
    """Answers of a model to N test photos of its K classes.

    Args:
        table: the K classes that competed; a class is *seen* if the model was trained on photos of it.
        logits: N x K. probabilities: N x K. labels: N. files: names of the N photos.
        thresholds: precision -> confidence from which on answers have it, as estimated in training. shows_none: N
            bool, which photos are taken for pictures of something else; None: the model cannot tell.
        notes: what to know about the photos, one sentence each. bar: of a simple classifier that the model should
            beat, the name, the number of photos it was trained on, and T1, U, S, H, AUSUC.
    """

    table: AttributeTable
    logits: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    files: Sequence[str]
    thresholds: dict[float, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shows_none: np.ndarray | None = None
    bar: dict[str, Any] | None = None

    @cached_property
    def scores(self) -> dict[str, Any]:
        """As `gzsl_scores`."""
        return gzsl_scores(self.logits, self.labels, self.table.seen)

    @cached_property
    def answers(self) -> np.ndarray:
        """The class that wins, N."""
        return self.logits.argmax(axis=1)

    @property
    def photos(self) -> dict[str, int]:
        """Number of test photos of seen and of unseen classes."""
        seen = int(self.table.seen[self.labels].sum())
        return {"seen": seen, "unseen": len(self.labels) - seen}

    def chance(self) -> dict[str, float | None]:
        """What guessing would score, each class as often as any other; None where the score is not tested."""
        seen = int(self.table.seen.sum())
        guessed = chance(seen, len(self.table) - seen)
        return {name: None if self.scores[name] is None else guessed[name] for name in SCORES}

    @cached_property
    def confusion(self) -> np.ndarray:
        """K x K numbers of photos: the rows are what the photos show, the columns are the answers."""
        counts = np.zeros((len(self.table),) * 2, dtype=int)
        np.add.at(counts, (self.labels, self.answers), 1)
        return counts

    def classes(self) -> list[dict[str, Any]]:
        """Each of the K classes: name, learned_from, photos, accuracy (None without photos), and taken_for, the
        wrong answers with their numbers, most frequent first."""
        rows = []
        for k, name in enumerate(self.table.class_names):
            wrong = Counter(
                {self.table.class_names[j]: int(n) for j, n in enumerate(self.confusion[k]) if n and j != k}
            )
            rows.append(
                {
                    "name": name,
                    "learned_from": "photos" if self.table.seen[k] else "description",
                    "photos": int(self.confusion[k].sum()),
                    "accuracy": self.scores["per_class_accuracy"][k],
                    "taken_for": dict(wrong.most_common()),
                }
            )
        return rows

    def confidence(self) -> dict[str, Any]:
        """How far confidences can be trusted, each number 0..1: calibration errors, the reliability diagram, the
        accuracy of the surest answers, and what 'unknown' under the model's thresholds would give."""
        of_unseen = ~self.table.seen[self.labels]
        both = self.probabilities, self.labels
        coverage, accuracy, confidence = risk_coverage(*both)
        kept = np.unique(np.linspace(0, len(coverage) - 1, CURVE_POINTS).round().astype(int))
        return {
            "calibration_error": expected_calibration_error(*both),
            "calibration_error_unseen": expected_calibration_error(
                self.probabilities[of_unseen], self.labels[of_unseen]
            )
            if of_unseen.any()
            else None,
            "accuracy_of_surest": {share: accuracy_of_surest(*both, share) for share in SHARES},
            "reliability": reliability(*both),
            "risk_coverage": [
                {"coverage": float(coverage[i]), "accuracy": float(accuracy[i]), "confidence": float(confidence[i])}
                for i in kept
            ],
            "precision": [self._answered(*pair) for pair in sorted(self.thresholds.items())],
            "taken_for_none": None if self.shows_none is None else float(self.shows_none.mean()),
        }

    def confidence_record(self) -> dict[str, Any]:
        """`confidence` for run.json, with fewer points of the curve, and in words."""
        found = self.confidence()
        thinned = found["risk_coverage"][:: CURVE_POINTS // RECORDED_POINTS]
        return {**found, "risk_coverage": thinned, "sentences": self.confidence_sentences()}

    def _answered(self, precision: float, threshold: float) -> dict[str, float | None]:
        answered, right = answered_above(self.probabilities, self.labels, threshold)
        return {"wanted": precision, "threshold": threshold, "answered": answered, "right": right}

    def surest_mistakes(self, count: int = SHOWN_MISTAKES) -> list[dict[str, Any]]:
        """Wrong answers, the surest first: where the photo may be labelled wrongly."""
        confidences = self.probabilities[np.arange(len(self.labels)), self.answers]
        wrong = np.flatnonzero(self.answers != self.labels)
        names = self.table.class_names
        return [
            {
                "file": self.files[i],
                "label": names[self.labels[i]],
                "answer": names[self.answers[i]],
                "confidence": float(confidences[i]),
            }
            for i in wrong[np.argsort(-confidences[wrong], kind="stable")][:count]
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as data for JSON."""
        classes = self.classes()
        return {
            "notes": self.notes,
            "photos": self.photos,
            "results": self.scores,
            "chance": self.chance(),
            "bar": self.bar,
            "accuracy_of_class": {row["name"]: row["accuracy"] for row in classes if row["photos"]},
            "classes": classes,
            "confidence": self.confidence(),
            "surest_mistakes": self.surest_mistakes(),
        }

    def to_text(self) -> str:
        """One screen."""
        others = {"by chance": self.chance(), **({self.bar["name"]: self.bar} if self.bar else {})}
        heads = ("", *(f"{head:>12}" for head in ("right, %", *others)))
        lines = [self.summary(), *self.notes, "", f"{'':5}{''.join(heads)}"]
        for name in SCORES:
            scores = [percent(self.scores[name]), *(self._reported(of[name]) for of in others.values())]
            lines.append(f"{name:5}{''.join(f'{score:>12}' for score in scores)}   {EXPLAINED[name]}")
        if self.bar:
            lines.append(bar_sentence(self.bar))
        lines += ["", *self.confidence_sentences(), "", *self._class_lines()]
        return "\n".join(lines)

    @staticmethod
    def _reported(score: float | None) -> str:
        return "" if score is None else percent(score)

    def summary(self) -> str:
        """How many photos of how many classes were tested, among how many."""
        parts = []
        for seen, kind in ((True, "learned from photos"), (False, "only described")):
            labels = self.labels[self.table.seen[self.labels] == seen]
            if len(labels):
                parts.append(f"{len(labels)} of {_plural(len(np.unique(labels)), 'class', 'classes')} {kind}")
        photos = _plural(len(self.labels), "photo", "photos")
        return f"Tested on {photos}: {' and '.join(parts)}. {len(self.table)} classes compete."

    def confidence_sentences(self) -> list[str]:
        """What the numbers of `confidence` mean, a sentence each."""
        found = self.confidence()
        unseen = found["calibration_error_unseen"]
        both = unseen is not None and self.photos["seen"]
        surest = found["accuracy_of_surest"]
        sentences = [
            f"Confidence and accuracy differ by {_percent(found['calibration_error'])} (calibration error)"
            + (f", for photos of described classes by {_percent(unseen)}." if both else "."),
            f"Of the surest quarter of the answers {_percent(surest[0.25])} are right, of the surest half "
            f"{_percent(surest[0.5])}, of all {_percent(surest[1.0])}.",
        ]
        for row in found["precision"]:
            asked = f"--precision {row['wanted']:g} (a confidence of {row['threshold']:.2f} or more)"
            if row["right"] is None:
                sentences.append(f"With {asked} every answer would be 'unknown'.")
            else:
                sentences.append(
                    f"With {asked} {_percent(row['answered'])} of the photos get an answer, and "
                    f"{_percent(row['right'])} of these are right; the others are 'unknown'."
                )
        if found["taken_for_none"] is not None:
            sentences.append(
                f"{_percent(found['taken_for_none'])} of these photos would be taken for pictures of none of the "
                "classes, wrongly."
            )
        return sentences

    def _class_lines(self) -> list[str]:
        tested = [row for row in self.classes() if row["photos"]]
        worst = sorted(tested, key=lambda row: row["accuracy"])[:SHOWN_CLASSES]
        left = len(tested) - len(worst)
        lines = [f"Hardest classes ({left} more with --html or --json):" if left else "Classes, the hardest first:"]
        for row in worst:
            described = "" if row["learned_from"] == "photos" else " (described)"
            taken = ", ".join(f"{spoken_class(name)} {count}" for name, count in list(row["taken_for"].items())[:3])
            lines.append(
                f"{_percent(row['accuracy']):>8} of {row['photos']:<4} {spoken_class(row['name'])}{described}"
                + (f"; taken for {taken}" if taken else "")
            )
        return lines

    def to_html(self, title: str) -> str:
        """One page that loads nothing from elsewhere. It has no scripts, and every name in it is escaped."""
        order = np.argsort(~self.table.seen, kind="stable")  # seen classes first
        found = self.to_dict()
        return template("publish/evaluation.html").render(
            found,
            title=title,
            summary=self.summary(),
            scores=[
                (name, self.scores[name], found["chance"][name], (self.bar or {}).get(name), EXPLAINED[name])
                for name in SCORES
            ],
            bar_sentence=self.bar and bar_sentence(self.bar),
            sentences=self.confidence_sentences(),
            names=[spoken_class(self.table.class_names[k]) for k in order],
            seen_count=int(self.table.seen.sum()),
            matrix=self.confusion[np.ix_(order, order)].tolist(),
        )

    def save(self, path: str | Path, title: str) -> None:
        """Write the page to a file."""
        with whole_file(path) as unfinished:
            unfinished.write_text(self.to_html(title), encoding="utf-8")


def bar_sentence(bar: dict[str, Any]) -> str:
    """What the bar to beat is."""
    return (
        f"{bar['name']} is the bar to beat: a closed-form probe on the same features, trained on the "
        f"{bar['photos']:,} photos here that are not tested on."
    )


def _percent(share: float) -> str:
    return f"{percent(share)} %"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
