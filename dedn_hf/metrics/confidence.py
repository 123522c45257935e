"""Whether the confidence of answers means something: calibration error, reliability, risk-coverage curve.

Shapes: B images, K classes. The confidence of an answer is the probability of the class that wins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15  # of the confidence, as in Guo et al.
PRECISIONS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
FEWEST_ANSWERS = 20
SHOWN = 0.95  # share of the images of known classes that are taken for such


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
    given, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if given.ndim != 2 or labels.shape != given.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities have shape {given.shape} and labels {labels.shape}; pass images x classes and one "
            "label per image, and one image at least."
        )
    if not np.isfinite(given).all():
        raise ValueError("probabilities hold NaN or infinity; check the images and the training.")
    if given.min() < 0 or np.abs(given.sum(axis=1) - 1).max() > 1e-3:
        given = softmax(given, axis=1)
    best = given.argmax(axis=1)
    return given[np.arange(len(best)), best], best == labels


def choose_temperature(logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The temperature that makes the right classes most probable ("temperature scaling", Guo et al., ICML 2017).

    Args:
        logits: B x K. labels: B integers in 0..K-1. weights: B, how much each image counts; default, all alike.

    Returns:
        0.01..100, the minimiser of the mean negative log-likelihood.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    image = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -np.average(log_softmax(logits / np.exp(log_temperature), axis=1)[image, labels], weights=weights)

    limits = np.log([0.01, 100])
    return float(np.exp(minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-4}).x))


def choose_thresholds(
    confidences: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None
) -> list[list[float]] | None:
    """For each of `PRECISIONS`, the lowest confidence from which on that share of the answers is right.

    Args:
        confidences: B, 0..1. right: B, whether the answer is. weights: B; default, all alike.

    Returns:
        Pairs of precision and confidence, both rising. A precision that the surest `FEWEST_ANSWERS` answers do not
        have is left out, since fewer answers say too little. None where all are.
    """
    confidences, right = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=bool)
    weights = np.ones(len(right)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(-confidences, kind="stable")
    ordered, answered = confidences[order], np.cumsum(weights[order])
    precisions = np.cumsum((weights * right)[order]) / answered
    whole = np.append(np.diff(ordered) < 0, True)  # answers of equal confidence are given together
    enough = whole & (np.arange(len(ordered)) >= FEWEST_ANSWERS - 1)
    pairs = []
    for precision in PRECISIONS:
        reached = np.flatnonzero(enough & (precisions >= precision))
        if len(reached):
            pairs.append([precision, float(ordered[reached[-1]])])
    return pairs or None


def choose_none_of_these(
    best_logits: ArrayLike, lengths: ArrayLike, weights: ArrayLike | None = None
) -> list[float] | None:
    """[weight, least]: an image whose best logit plus the weight times the length of its attribute scores is less
    than the least shows none of the classes. `SHOWN` of these images, which all show one, have more.

    Both parts count the same: the weight is the ratio of their standard deviations; 0 where all lengths are the same.

    Args:
        best_logits: B, of the class that wins. lengths: B. weights: B; default, all alike.

    Returns:
        None for fewer than `FEWEST_ANSWERS` images.
    """
    best_logits, lengths = np.asarray(best_logits, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if len(best_logits) < FEWEST_ANSWERS:
        return None
    weights = np.ones(len(lengths)) if weights is None else np.asarray(weights, dtype=np.float64)
    varied = lengths.std() > 1e-3 * lengths.mean()  # cosine logits: but for rounding, all have the same length
    weight = best_logits.std() / lengths.std() if varied else 0.0
    evidence = best_logits + weight * lengths
    order = np.argsort(evidence)
    below = np.cumsum(weights[order]) - weights[order]
    place = np.searchsorted(below, (1 - SHOWN) * weights.sum(), side="right") - 1
    return [float(weight), float(evidence[order][place])]
