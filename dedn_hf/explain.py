"""What a model looked at: region maps of the attributes, and how much each attribute spoke for a class.

Letters of the shapes: B images, K classes, A attributes, E experts, H x W regions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot


@torch.no_grad()
def region_maps_of(model: DEDNForZeroShot, pixel_values: torch.Tensor) -> torch.Tensor:
    """Attention times value of every attribute in every region, B x E x A x H x W: the paper's heat maps.

    Args:
        pixel_values: B x 3 x image_size x image_size, from `model.image_processor()`. Experts are in the order of
            `model.config.experts`.

    Raises:
        ValueError: a model without region attention.
    """
    maps = model(pixel_values, output_attentions=True).region_maps
    if maps is None:
        raise ValueError(f"This model has no region attention (its attentions: {', '.join(model.config.attentions)}).")
    return maps.unflatten(-1, tuple(model.config.feature_shape[1:]))


@torch.no_grad()
def attribute_evidence(model: DEDNForZeroShot, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How much each attribute speaks for a class and against the average one: s_a (T_ya - mean_k T_ka), B x A.

    Args:
        pixel_values: B x 3 x image_size x image_size. labels: B, the class of each image that is to be explained.
    """
    class_attributes = model.normalized_class_attributes()
    scores = model(pixel_values).attribute_scores
    return scores * (class_attributes[labels] - class_attributes.mean(dim=0))


def telling_attributes(evidence: np.ndarray, class_attributes: np.ndarray, count: int) -> list[int]:
    """Indices of the attributes of a class that speak most for it, the strongest first, `count` at most.

    Args:
        evidence: A, see `attribute_evidence`. class_attributes: A, of that class; attributes of value 0 are left out,
            for there is nothing to see of them.
    """
    order = np.argsort(-np.asarray(evidence), kind="stable").tolist()
    return [a for a in order if class_attributes[a] > 0][:count]


def image_seen(model: DEDNForZeroShot, pixel_values: torch.Tensor) -> np.ndarray:
    """The picture that went into the model, resized and cropped: 3 x H x W, normalised, to H x W x 3 in 0..1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    return (pixel_values.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
