"""Explains a model: `explain` for one image; for batches, region maps and evidence as tensors.

Letters of the shapes: B images, K classes, A attributes, E experts, H x W regions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dedn_hf import __version__
from dedn_hf.explain.evidence import descending_order
from dedn_hf.explain.explanation import Explanation
from dedn_hf.explain.heat import crop_of
from dedn_hf.modeling.pipeline_dedn import open_image

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot


@torch.no_grad()
def explain(
    model: DEDNForZeroShot,
    image: Any,
    *,
    class_name: str | None = None,
    against: str | None = None,
    attributes: Sequence[str] = (),
    top_k: int = 5,
    corrections: Mapping[str, float] | None = None,
    min_confidence: float | None = None,
    precision: float | None = None,
) -> Explanation:
    """Run the model on an image once, and keep what is needed to say why it answers as it does.

    Example:

    ```python
    explanation = explain(model, "bird.jpg", against="Cardinal")
    explanation.save("why.html")  # or .png, .svg, .json
    explanation.correct({"has_bill_shape::hooked": 80}).ranking
    ```

    Args:
        image: a path, a URL, a base64 string, bytes or a PIL image.
        class_name: the class to explain; default: the best one. Names of classes and attributes are those of the
            table, or as people say them ('cardinal', 'bill shape: hooked') if that fits only one.
        against: the class to compare it with; default: the best of the others.
        attributes: names of attributes to show heat maps of; default: those found that decided most.
        top_k: how many classes to report, 1 or more.
        corrections: attribute name -> true value in the scale of the model's table, see `Explanation.correct`.
        min_confidence: 0..1; below it, the answer is 'unknown', as it is for a picture of none of the classes, where
            the model can tell. precision: 0..1, in its place: the confidence is the one that was chosen for this
            precision in training.

    Raises:
        ValueError: an unknown class or attribute (similar names are suggested), a broken image, a precision that the
            model has no confidence for, or a model in training mode or without a backbone.
    """
    require_explainable(model, top_k)
    threshold = model.config.confidence_threshold(min_confidence, precision)
    picture = open_image(str(image) if isinstance(image, Path) else image)
    processor = model.image_processor()
    pixel_values = processor(images=picture, return_tensors="pt")["pixel_values"].to(model.device)
    scores, region_maps = model.attention_scores(pixel_values)
    if region_maps is not None:
        region_maps = as_array(on_grid(model, region_maps[0]))
    weights = as_array(model.expert_weights(scores)[:, 0])
    found = Explanation(
        picture=picture,
        crop=crop_of(model.config, picture),
        table=model.attribute_table,
        experts=tuple(model.config.expert_names),
        expert_weights=weights / weights.sum(),  # in float32 their sum is only nearly 1
        expert_scores=as_array(model.scale_scores(model.mix_attentions(scores))[0]),
        class_directions=as_array(model.normalized_class_attributes()),
        class_bias=as_array(model.class_bias(model.seen)),
        temperature=model.config.temperature,
        min_confidence=threshold,
        region_maps=region_maps,
        compared_classes=(class_name, against),
        attributes=tuple(dict.fromkeys(attributes)),
        top_k=top_k,
        origin=origin_of(model, image),
    )
    none = model.config.shows_none(found.logits.max(), np.linalg.norm(found.attribute_scores))
    found = replace(found, shows_none=bool(none)).correct(corrections or {})
    found.require_known_names()
    return found


def require_explainable(model: DEDNForZeroShot, top_k: int) -> None:
    """Raise ValueError for a model or a `top_k` that `explain` cannot use."""
    if model.training:
        raise ValueError("The model is in training mode, in which it scores differently; call model.eval() first.")
    if model.backbone is None:
        raise ValueError("This model has no backbone (config.backbone is None), so it cannot look at an image.")
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be 1 or more.")


def origin_of(model: DEDNForZeroShot, image: Any) -> dict[str, str]:
    """Names of image and model, if they have one (of a path: its last part), and the version of this package."""
    origin = {"model": model.config.name_or_path, "dedn_hf": __version__}
    if origin["model"] and Path(origin["model"]).is_dir():  # else the id of a repository
        origin["model"] = Path(origin["model"]).resolve().name
    if isinstance(image, Path) or (isinstance(image, str) and os.path.isfile(image)):
        origin["image"] = Path(image).name
    return {key: value for key, value in origin.items() if value}


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """In float64, so that many contributions add up exactly."""
    return tensor.double().cpu().numpy()


@torch.no_grad()
def region_maps_of(model: DEDNForZeroShot, pixel_values: torch.Tensor) -> torch.Tensor:
    """Attention times value of every attribute in every region, B x E x A x H x W: the paper's heat maps.

    Args:
        pixel_values: B x 3 x image_size x image_size, from `model.image_processor()`. Experts are in the order of
            `model.config.expert_names`.

    Raises:
        ValueError: a model without region attention.
    """
    return on_grid(model, model(pixel_values, output_attentions=True).region_maps)


def on_grid(model: DEDNForZeroShot, region_maps: torch.Tensor | None) -> torch.Tensor:
    """Region maps, ... x R, to ... x H x W. Raises ValueError for None: a model without region attention."""
    if region_maps is None:
        raise ValueError(f"This model has no region attention (its attentions: {', '.join(model.config.attentions)}).")
    return region_maps.unflatten(-1, tuple(model.config.feature_shape[1:]))


@torch.no_grad()
def attribute_evidence(model: DEDNForZeroShot, pixel_values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How much each attribute speaks for a class and against the average one: s_a (T_ya - mean_k T_ka), B x A.

    Args:
        pixel_values: B x 3 x image_size x image_size. labels: B, the class of each image that is to be explained.
    """
    class_attributes = model.normalized_class_attributes()
    scores = model(pixel_values).attribute_scores
    return scores * (class_attributes[labels] - class_attributes.mean(dim=0))


def strongest_attributes(evidence: np.ndarray, class_attributes: np.ndarray, count: int) -> list[int]:
    """Indices of the attributes that speak most for a class, the strongest first, at most `count`.

    Args:
        evidence: A, see `attribute_evidence`. class_attributes: A, of that class. Attributes of value 0 are left out:
            the class does not have them, so there is nothing to see.
    """
    return [a for a in descending_order(np.asarray(evidence)) if class_attributes[a] > 0][:count]


def unnormalized(model: DEDNForZeroShot, pixel_values: torch.Tensor) -> np.ndarray:
    """An input of the model as a picture: 3 x H x W, resized, cropped and normalised, to H x W x 3 in 0..1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    return (pixel_values.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
