"""Variants compared with a reference over the same seeds and test images, and the tables that say so.

Two kinds of chance are kept apart: a paired t-test over seeds says what another seed might change, a paired bootstrap
over test images what other test images might.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dedn_hf.metrics.scores import SCORES, gzsl_scores

COMPARED = ("T1", "H", "AUSUC")
LEVEL = 0.05


@dataclass
class Predictions:
    """What a model said of N test images: logits N x K, labels N, and K booleans, true for seen classes."""

    logits: np.ndarray
    labels: np.ndarray
    seen: np.ndarray

    @property
    def scores(self) -> dict[str, float]:
        """T1, U, S, H and AUSUC, 0..1."""
        scores = gzsl_scores(self.logits, self.labels, self.seen)
        return {name: scores[name] for name in SCORES}

    @property
    def right(self) -> tuple[np.ndarray, np.ndarray]:
        """N booleans each: right among all classes, and right among the unseen ones."""
        among_unseen = np.where(self.seen, -np.inf, self.logits).argmax(1)
        return self.logits.argmax(1) == self.labels, among_unseen == self.labels


def compare(predictions: Mapping[str, Mapping[int, Predictions]], reference: str) -> dict[str, dict]:
    """Scores of every variant, and how the variants differ from the reference.

    Args:
        predictions: variant -> seed -> predictions; every variant has the same seeds.

    Returns:
        Variant -> `scores` (name -> one number a seed), `mean` and `std` (of a sample; None of one seed) and, but for
        the reference, `differences`: score -> `mean` difference to the reference, `p` (paired t-test over seeds),
        `holm` (p corrected for the number of variants by Holm's method) and `interval` (95 %, over test images).
    """
    scores = {
        variant: {name: [p.scores[name] for p in of_seeds.values()] for name in SCORES}
        for variant, of_seeds in predictions.items()
    }
    rows = {}
    for variant, of_seeds in predictions.items():
        values = np.array([scores[variant][name] for name in SCORES])
        spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else [None] * len(SCORES)
        rows[variant] = {
            "scores": scores[variant],
            "mean": dict(zip(SCORES, values.mean(axis=1).tolist(), strict=True)),
            "std": dict(zip(SCORES, map(_number, spread), strict=True)),
        }
        if variant != reference:
            intervals = bootstrap(list(predictions[reference].values()), list(of_seeds.values()))
            rows[variant]["differences"] = {
                name: {
                    "mean": rows[variant]["mean"][name] - float(np.mean(scores[reference][name])),
                    "p": paired_p(scores[variant][name], scores[reference][name]),
                    "interval": intervals.get(name),
                }
                for name in COMPARED
            }
    for name in COMPARED:
        others = [row["differences"][name] for variant, row in rows.items() if variant != reference]
        for difference, corrected in zip(others, holm([other["p"] for other in others]), strict=True):
            difference["holm"] = corrected
    return rows


def paired_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """p of the two-sided paired t-test; None for fewer than two pairs, or where no pair differs."""
    from scipy.stats import ttest_rel

    if len(first) < 2 or np.allclose(first, second, rtol=0, atol=1e-12):
        return None
    return float(ttest_rel(first, second).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm, 1979); None stays None and does not count."""
    known = {i: p for i, p in enumerate(p_values) if p is not None}
    order = sorted(known, key=known.__getitem__)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * known[i]))
        corrected[i] = largest
    return corrected


def bootstrap(
    reference: Sequence[Predictions], variant: Sequence[Predictions], draws: int = 2000, seed: int = 0
) -> dict[str, list[float]]:
    """95 % intervals of variant minus reference in T1 and H, mean over the seeds, as test images are drawn again.

    Images are drawn with replacement within their class, the same for both and for all seeds. Empty where the two
    were not tested on the same images.
    """
    labels, seen = reference[0].labels, reference[0].seen
    if not all(np.array_equal(p.labels, labels) for p in (*reference, *variant)):
        return {}
    # 2 x 2E x N: among all and among unseen classes, E seeds of the reference and then of the variant
    right = np.stack([p.right for p in (*reference, *variant)], axis=1).astype(np.float64)
    rng, accuracies = np.random.default_rng(seed), {True: [], False: []}
    for label in np.unique(labels):
        images = np.flatnonzero(labels == label)
        times_drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=draws)
        accuracies[bool(seen[label])].append(np.einsum("dn,aen->ade", times_drawn, right[:, :, images]) / len(images))
    s, u = (np.mean(accuracies[role], axis=0) for role in (True, False))  # 2 x draws x 2E
    total = s[0] + u[0]
    samples = {"T1": u[1], "H": np.divide(2 * s[0] * u[0], total, out=np.zeros_like(total), where=total > 0)}
    half = len(reference)
    differences = {name: values[:, half:].mean(1) - values[:, :half].mean(1) for name, values in samples.items()}
    return {name: np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2]).tolist() for name, values in differences.items()}


def what_seeds_can_show(count: int) -> str:
    """What a paired t-test over so many seeds is able to find."""
    from scipy.stats import t

    if count < 2:
        return "One seed shows nothing about the spread over seeds: no test is possible."
    factor = t.ppf(1 - LEVEL / 2, count - 1) / count**0.5
    return (
        f"{count} seeds: the paired t-test finds a difference (p < {LEVEL}) only where its mean is more than "
        f"{factor:.2f} times its standard deviation over the seeds; a sign test could not get below "
        f"p = {2 * 0.5**count:.2g}. A large p says that {count} seeds cannot tell, not that there is no difference."
    )


def markdown_tables(rows: Mapping[str, dict], reference: str) -> str:
    """Two tables in percent: the scores, and the differences to the reference."""
    lines = ["| | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for variant, row in rows.items():
        cells = [spread(row["mean"][name], row["std"][name]) for name in SCORES]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    lines += ["", f"| minus *{reference}* | " + " | ".join(COMPARED) + " |", "|---" * (len(COMPARED) + 1) + "|"]
    for variant, row in rows.items():
        if variant != reference:
            cells = [difference(row["differences"][name]) for name in COMPARED]
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def latex_table(rows: Mapping[str, dict], reference: str, caption: str) -> str:
    """One `table` for booktabs, in percent: the scores, and p of the difference in each of T1, H and AUSUC."""
    heads = [*SCORES, *(f"$p$({name})" for name in COMPARED)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'c' * len(heads)}}}",
        r"\toprule",
        " & ".join(["", *heads]) + r" \\",
        r"\midrule",
    ]
    for variant, row in rows.items():
        cells = [spread(row["mean"][name], row["std"][name]).replace("±", r"$\pm$") for name in SCORES]
        found = [row.get("differences", {}).get(name, {}).get("p") for name in COMPARED]
        cells += [r"\textendash" if p is None else p_text(p).replace("<", "$<$") for p in found]
        lines.append(" & ".join([escape(variant), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def spread(mean: float, std: float | None) -> str:
    """Mean ± standard deviation in percent."""
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")


def difference(found: Mapping) -> str:
    """A difference in percent, its interval over test images, p over seeds; a star where p holds after correction."""
    text = f"{100 * found['mean']:+.1f}"
    if found["interval"]:
        text += " [{:+.1f}, {:+.1f}]".format(*(100 * end for end in found["interval"]))
    if found["p"] is not None:
        text += f", p {p_text(found['p'])}" + "*" * (found["holm"] < LEVEL)
    return text


def p_text(p: float) -> str:
    """Two digits."""
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def escape(text: str) -> str:
    """For LaTeX."""
    codes = {"\\": r"\textbackslash ", "δ": r"$\delta$", "λ": r"$\lambda$", "×": r"$\times$", "±": r"$\pm$"}
    codes |= {character: f"\\{character}" for character in "&%#_"}
    return "".join(codes.get(character, character) for character in text)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
