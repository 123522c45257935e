"""Measures whether explanations are faithful: does the answer depend on the regions and attributes they name?

Deletion and insertion curves follow Petsiuk et al., "RISE" (BMVC 2018), with these differences. Whole regions of the
feature map are deleted, not pixels, and replaced by the image's mean colour, not by grey. Insertion starts from an
image of the regions' mean colours, smoothly joined, not from a Gaussian blur. Importance comes from the model's own
attention in one forward pass, not from thousands of masked images. The other measure corrects attributes.

Letters of the shapes: B images, K classes, A attributes, E experts, R = H x W regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from dedn_hf.explain.explainer import on_grid

if TYPE_CHECKING:
    from dedn_hf.explain.explanation import Explanation
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

KINDS = ("deletion", "insertion")
ORDERS = ("most important first", "centre first", "random", "least important first")
Curves = dict[str, dict[str, np.ndarray]]  # kind -> order -> B x (steps + 1)


@torch.no_grad()
def region_importance(model: DEDNForZeroShot, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What each region adds, through the region attention of all experts, to the lead of a class: B x H x W.

    The lead is the class's logit minus the mean logit of all classes. A region score is the sum of the attribute's
    region map, and logits are linear in the scores, so this is an exact share of a sum:

        sum_e w_e f_e sum_a (T_ya - mean_k T_ka) map_ear

    with the experts' weights w_e; f_e is the weight of region attention, with cosine logits times logit_scale / |s_e|.
    The regions add up to the lead without the channel attention's part and the constants for seen and unseen classes.
    The attention itself depends on the whole image, so this does not say what the lead would be without the region.
    Deletion curves show that.

    Args:
        pixel_values: B x 3 x image_size x image_size, from `model.image_processor()`. labels: B, the classes.

    Raises:
        ValueError: a model without region attention.
    """
    scores, region_maps = model.attention_scores(pixel_values)
    region_maps = on_grid(model, region_maps)
    share = scores.new_full((scores.shape[1], 1), model.config.region_weight if scores.shape[2] == 2 else 1.0)
    share[len(model.experts) :] = 1  # the pooled expert has no other part
    weights = model.expert_weights(scores) * share
    if model.config.normalize_scores:
        weights = weights * model.logit_scale.exp() / model.mix_attentions(scores).norm(dim=-1, keepdim=True)
    class_attributes = model.normalized_class_attributes()
    directions = class_attributes[labels] - class_attributes.mean(dim=0)
    return torch.einsum("bea,beahw->bhw", weights * directions[:, None], region_maps)


def region_orders(importance: torch.Tensor, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    """The regions' indices in each of `ORDERS`, B x R.

    'centre first' goes from the middle outwards. It is a baseline: photographers aim at their object.

    Args:
        importance: B x H x W. generator: for the random order.
    """
    height, width = importance.shape[1:]
    flat = importance.flatten(1)
    most = flat.argsort(dim=1, descending=True, stable=True)
    row, column = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    distance = (row[:, None] ** 2 + column**2).flatten().to(flat)
    return {
        "most important first": most,
        "centre first": distance.argsort(stable=True).expand_as(most),
        "random": torch.rand(flat.shape, generator=generator).argsort(dim=1).to(most.device),
        "least important first": most.flip(1),
    }


def without_detail(pixel_values: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Images of the regions' mean colours, smoothly joined, in the shape of `pixel_values`. grid: H and W."""
    colours = F.adaptive_avg_pool2d(pixel_values, tuple(grid))
    return F.interpolate(colours, size=pixel_values.shape[2:], mode="bicubic")


@torch.no_grad()
def class_probability(model: DEDNForZeroShot, pixel_values: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Probability of one class for each image, B, 0..1. labels: B."""
    probabilities = model.probabilities(model(pixel_values).logits)
    return probabilities.gather(1, labels[:, None])[:, 0].double().cpu().numpy()


def replace_regions(start: torch.Tensor, end: torch.Tensor, order: torch.Tensor, count: int, grid: Sequence[int]):
    """Images of `start` whose first `count` regions in `order` (B x H W, indices) come from `end`."""
    chosen = (order.argsort(dim=1) < count).view(-1, 1, *grid)
    return torch.where(F.interpolate(chosen.to(start), size=start.shape[2:], mode="nearest").bool(), end, start)


@torch.no_grad()
def faithfulness_curves(
    model: DEDNForZeroShot, pixel_values: torch.Tensor, steps: int = 7, generator: torch.Generator | None = None
) -> Curves:
    """Deletion and insertion curves of the class that the model predicts for each whole image.

    Deletion replaces region after region by the image's mean colour. Insertion puts region after region back on the
    image without detail. If the importance is faithful, the order 'most important first' makes the probability fall
    faster under deletion, and rise faster under insertion, than any other order.

    Args:
        pixel_values: B x 3 x image_size x image_size, from `model.image_processor()`.
        steps: in how many steps all regions are replaced; each step takes about the same number of regions.
        generator: for the random order.

    Returns:
        Kind -> order -> B x (steps + 1) probabilities, 0..1, from no region replaced to all of them.

    Raises:
        ValueError: a model in training mode or without region attention, or fewer than 1 step.
    """
    if model.training:
        raise ValueError("The model is in training mode, in which it scores differently; call model.eval() first.")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be 1 or more.")
    labels, grid = model(pixel_values).logits.argmax(dim=-1), tuple(model.config.feature_shape[1:])
    orders = region_orders(region_importance(model, pixel_values, labels), generator)
    mean_colour = pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
    counts = np.linspace(0, grid[0] * grid[1], steps + 1).round().astype(int).tolist()
    ends = {"deletion": (pixel_values, mean_colour), "insertion": (without_detail(pixel_values, grid), pixel_values)}
    curves: Curves = {}
    for kind, (start, end) in ends.items():
        first, last = (class_probability(model, images, labels) for images in (start, end))
        curves[kind] = {}
        for name, order in orders.items():
            between = (replace_regions(start, end, order, count, grid) for count in counts[1:-1])
            values = [class_probability(model, images, labels) for images in between]
            curves[kind][name] = np.stack([first, *values, last], axis=1)
    return curves


def area_under(curve: np.ndarray) -> np.ndarray:
    """Area under curves over the share of the regions, 0..1: ... x (steps + 1) to ..., by trapezoids."""
    return np.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), axis=-1)


def join_batches(parts: Iterable[Curves]) -> Curves:
    """The curves of several batches, in one array each."""
    parts = list(parts)
    return {kind: {name: np.concatenate([part[kind][name] for part in parts]) for name in ORDERS} for kind in KINDS}


def balanced_sample(labels: Sequence[int], per_class: int, seed: int = 0) -> list[int]:
    """Indices of `per_class` images of every class, in ascending order; all images of a class that has fewer.

    The same labels, number and seed give the same indices. Raises ValueError for fewer than 1 image a class.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; take 1 or more.")
    rng, classes = np.random.default_rng(seed), np.asarray(labels)
    chosen = [rng.permutation(np.flatnonzero(classes == label))[:per_class] for label in np.unique(classes)]
    return sorted(np.concatenate(chosen).tolist())


def right_after_corrections(
    explanation: Explanation, label: int, counts: Sequence[int], rng: np.random.Generator | None = None
) -> list[bool]:
    """For each of `counts`: does a wrong answer become right when that many attributes are corrected?

    The attributes that speak most against the true class, and for the best other class, are corrected first. Their
    'true' values are those of the true class in the model's table; nobody has looked at the image. So this measures
    what a few true statements about the class achieve, not what an observer of the image would achieve.

    Args:
        explanation: of a wrongly classified image, without corrections. label: its true class.
        rng: if given, attributes are corrected in random order, as a baseline.

    Raises:
        ValueError: the answer is already right.
    """
    names, attributes = explanation.table.class_names, explanation.table.attribute_names
    if explanation.ranking[0] == label:
        raise ValueError(f"The answer {names[label]!r} is right; give the explanation of a wrong answer.")
    contributions = explanation.compare(names[label]).contributions
    order = np.argsort(contributions, kind="stable") if rng is None else rng.permutation(len(contributions))
    values = explanation.table.class_attributes[label]
    results = []
    for count in counts:
        corrections = {attributes[a]: float(values[a]) for a in order[:count]}
        results.append(explanation.correct(corrections).ranking[0] == label)
    return results
