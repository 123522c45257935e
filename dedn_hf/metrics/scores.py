"""The scores of generalized zero-shot learning as plain numpy functions: T1, U, S, H, AUSUC, per-class accuracies.

Shapes: B images, K classes. All values lie in [0, 1]. Accuracy is always the mean of per-class top-1 accuracies over
the classes that have images (Xian et al., TPAMI 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from transformers import EvalPrediction

SCORES = {  # of a model, in the order in which they are reported
    "T1": "accuracy of unseen classes among themselves",
    "U": "accuracy of unseen classes among all classes",
    "S": "accuracy of seen classes among all classes",
    "H": "harmonic mean of U and S",
    "AUSUC": "area under the curve of U over S",
}
NOT_TESTED = "not tested"  # what reports say of a score without images to measure it on
_ROUNDING = 1e-12  # sums of per-class accuracies may differ by this much in floating point


def percent(score: float | None) -> str:
    """A score as reports give it, such as '63.9'."""
    return NOT_TESTED if score is None else f"{100 * score:.1f}"


def chance(seen: int, unseen: int) -> dict[str, float | None]:
    """T1, U, S, H and AUSUC of guessing, each of so many seen and unseen classes as often as any other.

    None for what there is not without classes of that kind.
    """
    every = 1 / (seen + unseen)
    return {
        "T1": 1 / unseen if unseen else None,
        "U": every if unseen else None,
        "S": every if seen else None,
        "H": every if seen and unseen else None,
        "AUSUC": 1 / (2 * seen * unseen) if seen and unseen else None,
    }


def per_class_accuracy(predicted: ArrayLike, labels: ArrayLike, classes: ArrayLike) -> np.ndarray:
    """Top-1 accuracy of each class.

    Args:
        predicted: B predicted class indices.
        labels: B true class indices.
        classes: class indices to report, in this order.

    Returns:
        One float in [0, 1] per entry of `classes`; NaN for a class without images.

    Raises:
        ValueError: if `predicted` and `labels` differ in shape.
    """
    predicted, labels, classes = np.asarray(predicted), np.asarray(labels), np.asarray(classes, dtype=np.int64)
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ValueError(
            f"predicted has shape {predicted.shape} and labels {labels.shape}; "
            "pass one class index per image in both (logits.argmax(-1) turns logits into predictions)"
        )
    size = max((int(part.max()) + 1 for part in (labels, classes) if part.size), default=0)
    images = np.bincount(labels, minlength=size)[classes]
    hits = np.bincount(labels[predicted == labels], minlength=size)[classes]
    return np.divide(hits, images, out=np.full(len(classes), np.nan), where=images > 0)


def harmonic_mean(u: float, s: float) -> float:
    """H = 2us / (u + s); 0 when both are 0."""
    return 0.0 if u + s == 0 else 2 * u * s / (u + s)


def gzsl_scores(logits: ArrayLike, labels: ArrayLike, seen: ArrayLike) -> dict[str, Any]:
    """T1, U, S, H, AUSUC and per-class accuracies.

    Args:
        logits: B x K finite class scores.
        labels: B integers in 0..K-1.
        seen: K booleans, true for seen classes.

    Returns:
        `T1`, `U`, `S`, `H`, `AUSUC`: floats in [0, 1]. `T1` and `U` are None without images of unseen classes, `S` is
        None without images of seen classes, and `H` and `AUSUC` are None if either kind is missing. So a plain
        classifier, without unseen classes, has `S` only.
        `per_class_accuracy`: K floats among all classes, None for classes without images. Of equal logits, the one
        with the lower class index wins.

    Raises:
        ValueError: if shapes disagree, there is no image, a label is out of range, or a logit is not finite.
    """
    logits, labels, seen = _checked(logits, labels, seen)
    accuracies = per_class_accuracy(logits.argmax(1), labels, np.arange(len(seen)))
    among_unseen = np.where(seen, -np.inf, logits).argmax(1)
    t1 = _mean_of_present(per_class_accuracy(among_unseen, labels, np.flatnonzero(~seen)))
    u, s = _mean_of_present(accuracies[~seen]), _mean_of_present(accuracies[seen])
    return {
        "T1": t1,
        "U": u,
        "S": s,
        "H": None if u is None or s is None else harmonic_mean(u, s),
        "AUSUC": None if u is None or s is None else ausuc(logits, labels, seen),
        "per_class_accuracy": [None if np.isnan(accuracy) else float(accuracy) for accuracy in accuracies],
    }


def gzsl_compute_metrics(seen: ArrayLike) -> Callable[[EvalPrediction], dict[str, float]]:
    """What `transformers.Trainer(compute_metrics=...)` takes: T1, U, S, H and AUSUC of an evaluation.

    Args:
        seen: K booleans, true for seen classes; `model.seen`, for instance.

    Returns:
        A function of an `EvalPrediction` (its logits, B x K, and labels, B). It leaves out the scores about which the
        images say nothing, and raises ValueError as `gzsl_scores`.
    """
    seen = np.array(seen.tolist() if hasattr(seen, "tolist") else seen)  # a tensor may lie on a GPU

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        scores = gzsl_scores(logits[0] if isinstance(logits, tuple) else logits, prediction.label_ids, seen)
        return {name: score for name, score in scores.items() if isinstance(score, float)}

    return compute_metrics


def seen_unseen_curve(
    logits: ArrayLike, labels: ArrayLike, seen: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All points (U, S) that a constant added to unseen logits can reach (Chao et al., ECCV 2016).

    The result is exact, and takes O(B log B) after the row maxima. An image's prediction changes from its best seen to
    its best unseen class when the constant exceeds the difference of the two logits. So only these thresholds matter,
    and only for images that are right among the classes of their own role. Images whose thresholds float32 cannot
    distinguish change together.

    Args:
        logits: B x K finite class scores.
        labels: B integers in 0..K-1, with images of seen and of unseen classes.
        seen: K booleans, true for seen classes.

    Returns:
        U, S and the constants, each with P >= 2 entries. U rises from 0, S falls to 0. The constants are midpoints
        between neighbouring thresholds. The first is -inf, the last +inf.

    Raises:
        ValueError: as in `gzsl_scores`, and if seen or unseen classes have no images.
    """
    return _curve([_thresholds(logits, labels, seen)])


def _thresholds(logits: ArrayLike, labels: ArrayLike, seen: ArrayLike) -> tuple[np.ndarray, ...]:
    """Of the images that are right among the classes of their own role: the constant above which an unseen class is
    predicted, whether the image is of a seen class, and its weight; and the resolution of the constants."""
    logits, labels, seen = _checked(logits, labels, seen)
    _require_both_roles(labels, seen)
    threshold, right = _flips(logits, labels, seen)
    resolution = np.finfo(np.float32).eps * np.abs(logits).max()
    return threshold[right], seen[labels[right]], _image_weights(labels, seen)[right], resolution


def _curve(folds: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean U and mean S over folds at all constants where one of them changes; see `seen_unseen_curve`."""
    threshold, of_seen = (np.concatenate([fold[part] for fold in folds]) for part in (0, 1))
    weight = np.concatenate([fold[2] / len(folds) for fold in folds])
    if not len(threshold):  # nothing is ever right: both end points are (0, 0)
        return np.zeros(2), np.zeros(2), np.array([-np.inf, np.inf])
    order = threshold.argsort()
    ordered, of_seen, weight = threshold[order], of_seen[order], weight[order]
    apart = np.diff(ordered) > max(fold[3] for fold in folds)
    step = np.concatenate([[0], np.cumsum(apart)])

    gained, lost = np.bincount(step, weight * ~of_seen), np.bincount(step, weight * of_seen)
    u = np.concatenate([[0.0], np.cumsum(gained)])
    s = np.concatenate([np.cumsum(lost[::-1])[::-1], [0.0]])
    midpoints = (ordered[:-1] + ordered[1:])[apart] / 2
    return np.minimum(u, 1.0), np.minimum(s, 1.0), np.concatenate([[-np.inf], midpoints, [np.inf]])


def ausuc(logits: ArrayLike, labels: ArrayLike, seen: ArrayLike) -> float:
    """Area under the seen-unseen curve, in [0, 1] (Chao et al., ECCV 2016), by trapezoids between its exact points.

    Arguments and errors as in `seen_unseen_curve`.
    """
    u, s, _ = seen_unseen_curve(logits, labels, seen)
    return float(np.sum(np.diff(u) * (s[1:] + s[:-1])) / 2)


def calibrate(logits: ArrayLike, labels: ArrayLike, seen: ArrayLike) -> float:
    """The constant to add to all unseen logits that maximises H.

    Choose it on validation classes. On test images it would be tuned to the images that it is then measured on.

    Arguments and errors as in `seen_unseen_curve`.

    Returns:
        A finite constant in the unit of the logits: 0.0 if that is already best, else the middle of the best
        interval. Of several best intervals, it is the one nearest to 0.
    """
    return calibrate_over([(logits, labels, seen)])[0]


def calibrate_over(folds: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> tuple[float, float, float]:
    """The constant to add to all unseen logits that maximises the harmonic mean of mean U and mean S over folds.

    Args:
        folds: logits, labels and seen of each, as in `seen_unseen_curve`, with errors as there.

    Returns:
        The constant, as `calibrate` chooses it of several, and the mean U and mean S that it gives, each 0..1.
    """
    u, s, constants = _curve([_thresholds(*fold) for fold in folds])
    h = np.array([harmonic_mean(*point) for point in zip(u, s, strict=True)])
    unchanged = [gzsl_scores(*fold) for fold in folds]
    at_zero = np.mean([[scores["U"], scores["S"]] for scores in unchanged], axis=0)
    if harmonic_mean(*at_zero) >= h.max() - _ROUNDING:
        return 0.0, float(at_zero[0]), float(at_zero[1])
    best = np.flatnonzero(h >= h.max() - _ROUNDING)
    chosen = best[np.abs(constants[best]).argmin()]
    return float(constants[chosen]), float(u[chosen]), float(s[chosen])


def _flips(logits: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the B images, the constant above which an unseen class is predicted, and whether the image is right
    among the classes of its own role."""
    by_seen, by_unseen = np.where(seen, logits, -np.inf), np.where(seen, -np.inf, logits)
    right = np.where(seen[labels], by_seen.argmax(1), by_unseen.argmax(1)) == labels
    return by_seen.max(1) - by_unseen.max(1), right


def _mean_of_present(accuracies: np.ndarray) -> float | None:
    present = accuracies[~np.isnan(accuracies)]
    return float(present.mean()) if present.size else None


def _image_weights(labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """For each of the B images, how much a right answer adds to the mean accuracy of its role."""
    images = np.bincount(labels, minlength=len(seen))
    present = images > 0
    classes_of_role = np.where(seen, (present & seen).sum(), (present & ~seen).sum())
    return 1 / (images[labels] * classes_of_role[labels])


def _require_both_roles(labels: np.ndarray, seen: np.ndarray) -> None:
    for role, found in (("seen", seen[labels].any()), ("unseen", (~seen[labels]).any())):
        if not found:
            raise ValueError(
                f"there are no images of {role} classes, so there is no trade-off between seen and unseen classes; "
                "pass the logits of the test_seen and test_unseen splits together"
            )


def _checked(logits: ArrayLike, labels: ArrayLike, seen: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logits B x K (float64), labels B (int64), seen K (bool); raises ValueError that says what to do."""
    logits, labels, seen = np.asarray(logits, dtype=np.float64), np.asarray(labels), np.asarray(seen)
    _check_shapes(logits, labels, seen)
    if not np.isfinite(logits).all():
        images = np.flatnonzero(~np.isfinite(logits).all(1))
        raise ValueError(
            f"logits of {len(images)} images (first: image {images[0]}) hold NaN or infinity; "
            "check the training loss, or the inputs of these images, for overflow"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels have the type {labels.dtype}; pass class indices as integers")
    if labels.min() < 0 or labels.max() >= len(seen):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, outside 0..{len(seen) - 1}, the indices of the "
            f"{len(seen)} classes; subtract 1 if yours start at 1, and leave out images without a class"
        )
    return logits, labels.astype(np.int64), seen.astype(bool)


def _check_shapes(logits: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or seen.shape != logits.shape[1:]:
        raise ValueError(
            f"logits have shape {logits.shape}, labels {labels.shape}, seen {seen.shape}; "
            "pass logits as images x classes, one label per image and one boolean of seen per class"
        )
    if len(logits) == 0:
        raise ValueError("there are no images; call add_batch at least once, or check that the split is not empty")
    if seen.dtype != bool and not np.isin(seen, (0, 1)).all():
        raise ValueError("seen must hold one boolean per class (K of them), not the indices of the seen classes")
