"""Whether the confidence of answers means something: calibration error, reliability, risk-coverage curve.

Shapes: B images, K classes. The confidence of an answer is the probability of the class that wins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

BINS = 15  # of the confidence, as in Guo et al.


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy, weighted by the images in each bin (Naeini et al., AAAI 2015;
    Guo et al., ICML 2017, equation 3).

    Args:
        probabilities: B x K, or logits with temperature 1, see `answers`. labels: B integers in 0..K-1.
        bins: number of bins of equal width over the confidences 0..1.

    Returns:
        0..1; 0 is a confidence that is exactly as often right as it says.

    Raises:
        ValueError: as `answers`.
    """
    rows = reliability(probabilities, labels, bins)
    images = sum(row["images"] for row in rows)
    return float(sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / images)


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> list[dict[str, float]]:
    """The reliability diagram (Niculescu-Mizil and Caruana, ICML 2005): one row for each bin that holds an answer.

    Arguments and errors as `expected_calibration_error`.

    Returns:
        Rows with `low` and `high`, the limits of the bin (above low, up to high), `images`, their number, and
        `confidence` and `accuracy`, their means (0..1).
    """
    confidences, right = answers(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be 1 or more.")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    return [
        {
            "low": float(edges[number]),
            "high": float(edges[number + 1]),
            "images": int(inside.sum()),
            "confidence": float(confidences[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for number in np.unique(bin_of)
        for inside in [bin_of == number]
    ]


def risk_coverage(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is right among the surest answers (El-Yaniv and Wiener, JMLR 2010).

    Arguments and errors as `answers`.

    Returns:
        Coverages (rising to 1), the accuracy of that share of the answers, and the lowest confidence among them, each
        of P entries. Answers of equal confidence come together, so P is the number of different confidences.
    """
    confidences, right = answers(probabilities, labels)
    order = np.argsort(-confidences, kind="stable")
    ordered = confidences[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    count = last + 1
    return count / len(ordered), np.cumsum(right[order])[last] / count, ordered[last]


def accuracy_of_surest(probabilities: ArrayLike, labels: ArrayLike, share: float) -> float:
    """Accuracy of the surest `share` (above 0, up to 1) of the answers. Arguments and errors as `answers`."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must lie above 0, up to 1.")
    coverages, accuracies, _ = risk_coverage(probabilities, labels)
    return float(accuracies[np.searchsorted(coverages, share - 1e-12)])


def answered_above(probabilities: ArrayLike, labels: ArrayLike, threshold: float) -> tuple[float, float | None]:
    """Share of images whose confidence reaches `threshold` (0..1), and the share of these that is right (None: there
    are none). Arguments and errors as `answers`."""
    confidences, right = answers(probabilities, labels)
    given = confidences >= threshold
    return float(given.mean()), float(right[given].mean()) if given.any() else None


def answers(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each answer (B floats, 0..1) and whether it is right (B bool). Of equal classes, the first wins.

    Args:
        probabilities: B x K, rows that sum to 1, or logits, of which the softmax is taken. labels: B integers.

    Raises:
        ValueError: shapes disagree, there is no image, or a value is not finite.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}; pass images x classes and one "
            "label per image, and one image at least."
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold NaN or infinity; check the images and the training.")
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        probabilities = softmax(probabilities, axis=1)
    best = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(best)), best], best == labels
