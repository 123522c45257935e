"""The losses of DEDN, one function each (Rao et al., IJCAI 2024, section 3.3).

Letters: B images, K classes, A attributes. `logits` are z = s T^t + m, the seen bias m included.
"""

import torch
from torch.nn import functional as F

from .configuration_dedn import DEDNConfig

EPSILON = 1e-9


def margin_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    seen: torch.Tensor,
    margin: float,
    seen_bias: float = 1.0,
    label_smoothing: float = 0.0,
    seen_only: bool = False,
) -> torch.Tensor:
    """Margin-aware loss (MAL): cross-entropy in which the true class must win by a margin over the seen classes.

    Args:
        logits: B x K. labels: B, 0..K-1. seen: K bool.
        margin: delta, taken from the true class; every seen class gets `seen_bias`, unseen classes nothing.
        seen_only: leave unseen classes out of the competition (labels must then be seen classes).

    Returns:
        Scalar, mean over the batch.
    """
    bias = seen_bias_vector(seen, seen_bias, logits.dtype)
    handicap = seen.to(logits.dtype) * seen_bias - margin * F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    handicapped = logits - bias + handicap
    if seen_only:
        handicapped, labels = handicapped[:, seen], (seen.cumsum(0) - 1)[labels]
    return F.cross_entropy(handicapped, labels, label_smoothing=label_smoothing)


def seen_bias_vector(seen: torch.Tensor, seen_bias: float, dtype: torch.dtype) -> torch.Tensor:
    """m: -seen_bias for seen, +seen_bias for unseen classes. K bool to K."""
    return seen_bias * (1 - 2 * seen.to(dtype))


def self_calibration_loss(logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """-log of the batch mean of the probability that falls on unseen classes. B x K, K bool to a scalar."""
    unseen_mass = (logits.softmax(dim=-1) * ~seen).sum(dim=-1)
    return -unseen_mass.mean().clamp_min(EPSILON).log()


def distillation_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mutual distillation of two predictions, with gradients into both (equation L of the method).

    The cubed distance over the norm, sum_k |d_k|^3 / ||d||, plus the Jensen-Shannon divergence of the softmaxes.

    Args:
        first, second: B x N (logits over classes, or attribute scores for the alignment loss).

    Returns:
        Scalar, mean over the batch.
    """
    difference = first - second
    norm = (difference.square().sum(dim=-1) + EPSILON).sqrt()
    cubed = (difference.abs() ** 3).sum(dim=-1) / norm
    return cubed.mean() + jensen_shannon(first, second)


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence (natural log) of the softmaxes of two B x N tensors, mean over the batch."""
    log_first, log_second = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    log_mean = torch.logaddexp(log_first, log_second) - torch.log(torch.tensor(2.0))
    kl_first = F.kl_div(log_mean, log_first, log_target=True, reduction="batchmean")
    kl_second = F.kl_div(log_mean, log_second, log_target=True, reduction="batchmean")
    return (kl_first + kl_second) / 2


def regression_loss(attribute_scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity between attribute scores (B x A) and the label's class attributes (B x A), batch mean."""
    return (1 - F.cosine_similarity(attribute_scores, targets, dim=-1)).mean()


def require_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Raise ValueError unless all labels (B) lie in 0..num_classes-1."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels lie between {int(labels.min())} and {int(labels.max())}; the model has {num_classes} classes, "
            f"0 to {num_classes - 1}. Use the label order of model.config.id2label."
        )


def loss_terms(
    config: DEDNConfig,
    scores: torch.Tensor,
    summed_scores: torch.Tensor,
    logits: torch.Tensor,
    class_attributes: torch.Tensor,
    seen: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Every loss term, unweighted, by name: 'coarse.margin', ..., 'distillation'.

    Args:
        scores: B x E x 2 x A, of both attentions; summed_scores: B x E x A, their sum. logits: B x E x K, from that.
        class_attributes: K x A, rows normalised. seen: K bool. labels: B.
    """
    losses = {}
    for i, name in enumerate(config.experts):
        losses[f"{name}.margin"] = margin_loss(
            logits[:, i],
            labels,
            seen,
            config.margin,
            config.seen_bias,
            config.label_smoothing,
            seen_only=config.loss_classes == "seen",
        )
        losses[f"{name}.calibration"] = self_calibration_loss(logits[:, i], seen)
        losses[f"{name}.regression"] = regression_loss(summed_scores[:, i], class_attributes[labels])
        if scores.shape[2] == 2:
            losses[f"{name}.alignment"] = distillation_loss(scores[:, i, 0], scores[:, i, 1])
    if len(config.experts) == 2:
        losses["distillation"] = distillation_loss(logits[:, 0], logits[:, 1])
    return losses


def total_loss(config: DEDNConfig, losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum: a term 'coarse.margin' or 'distillation' is weighted by `config.<kind>_weight`.

    Terms of weight 0 are left out; where all are, the loss is 0, with gradients of 0.
    """
    weights = {name: getattr(config, f"{name.split('.')[-1]}_weight") for name in losses}
    if not any(weights.values()):
        return 0 * sum(losses.values())
    return sum(weight * losses[name] for name, weight in weights.items() if weight)
