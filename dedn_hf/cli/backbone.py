"""The backbone that a command looks at photos with, before there is a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.studies.pooled import PooledPhotos


def add_backbone_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The backbone that sees the photos, for `pooled_photos`."""
    parser.add_argument(
        "--backbone", metavar="NAME", required=required, help="network that looks: dinov2_base, or any timm model"
    )
    parser.add_argument("--weights", metavar="FILE", help="file of its weights, in place of timm's download")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of what it sees (default: its own)")
    parser.add_argument(
        "--crop-pct", type=float, metavar="SHARE", help="share of the shorter side that it sees (default: its own)"
    )
    parser.add_argument("--features", metavar="DIR", help="keep its feature maps there; a training uses them again")


def take_backbone(options: dict[str, Any]) -> dict[str, Any]:
    """Takes what `add_backbone_arguments` added out of the options, and adds what the backbone itself asks for."""
    names = ("backbone", "weights", "image_size", "crop_pct", "features")
    given = {name: options.pop(name) for name in names if name in options}
    if "backbone" in given:
        from dedn_hf.training.backbones import backbone_options

        given = {**backbone_options(given.pop("backbone")), **given}
    return given


def pooled_photos(
    source: dict[str, Any],
    backbone: str,
    weights: str | None = None,
    features: str | None = None,
    **options: Any,
) -> tuple[dict[str, PooledPhotos], AttributeTable]:
    """Pooled features of each split, and the table.

    Args:
        source: arguments of `load`. options: of `DEDNForZeroShot.from_timm`, such as image_size.
    """
    from dedn_hf.data.loading import load
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.studies.pooled import pool

    splits, table = load(**source)
    model = DEDNForZeroShot.from_timm(backbone, table, pretrained=weights or True, **options)
    return pool(splits, model, features), table
