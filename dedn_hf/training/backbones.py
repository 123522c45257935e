"""Backbones known by a short name, and what is read of large pretrained networks: pixels, and which of their maps."""

from __future__ import annotations

import re
from typing import Any

from dedn_hf.modeling.attribute_table import near_names

BACKBONES = {  # short name -> timm name; docs/howto/backbone.md has pixels, sizes and licences
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov3_small": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_base": "vit_base_patch16_dinov3.lvd1689m",
    "dinov3_convnext_tiny": "convnext_tiny.dinov3_lvd1689m",
    "siglip2_base": "vit_base_patch16_siglip_gap_256.v2_webli",  # gap: without the head, which no map needs
    "clip_base": "vit_base_patch16_clip_quickgelu_224.openai",  # with timm's plain GELU, its numbers would be others
    "clip_laion_base": "vit_base_patch16_clip_224.laion2b",
    "clip_convnext_base": "convnext_base.clip_laion2b_augreg",
}
LARGE_TRANSFORMERS = re.compile(r"vit_\w*(dinov2|dinov3|siglip|clip)")
DINOV2_PIXELS = 224  # most of its training; at its last size, 518 pixels, a map has five times as many regions


def backbone_options(name: str) -> dict[str, Any]:
    """Options of a model with this backbone: `backbone`, and where timm's own are not the right ones, others.

    Transformers of DINOv2, DINOv3, SigLIP and CLIP are read after their last normalisation, which is what their
    training looked at: before it, a few large channels drown the others.

    Args:
        name: short, of `BACKBONES`, or of any timm model.

    Raises:
        ValueError: the beginning of a short name only.
    """
    if any(short.startswith(f"{name}_") for short in BACKBONES):
        raise ValueError(f"There is no backbone {name!r}.{near_names(name, BACKBONES)}")
    options: dict[str, Any] = {"backbone": BACKBONES.get(name, name)}
    family = LARGE_TRANSFORMERS.match(options["backbone"])
    if family:
        options["feature_source"] = "head"
        if family[1] == "dinov2":
            options["image_size"] = DINOV2_PIXELS
    return options
