"""The backbone that a command looks at photos with, before there is a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.studies.pooled import PooledPhotos


def add_backbone_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The backbone that sees the photos, for `pooled_photos`."""
    parser.add_argument("--backbone", metavar="NAME", required=required, help="timm name of the network that looks")
    parser.add_argument("--weights", metavar="FILE", help="file of its weights, in place of timm's download")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--crop-pct", type=float, metavar="SHARE", help="share of the shorter side that is looked at")
    parser.add_argument("--features", metavar="DIR", help="keep its feature maps there; a training uses them again")


def take_backbone(options: dict[str, Any]) -> dict[str, Any]:
    """Takes what `add_backbone_arguments` added out of the options."""
    names = ("backbone", "weights", "image_size", "crop_pct", "features")
    return {name: options.pop(name) for name in names if name in options}


def pooled_photos(
    source: dict[str, Any],
    backbone: str,
    weights: str | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    features: str | None = None,
) -> tuple[dict[str, PooledPhotos], AttributeTable]:
    """Pooled features of each split, and the table. source: arguments of `load`."""
    from dedn_hf.data.loading import load
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.studies.pooled import pool

    splits, table = load(**source)
    options: dict[str, Any] = {} if crop_pct is None else {"crop_pct": crop_pct}
    model = DEDNForZeroShot.from_timm(backbone, table, image_size=image_size, pretrained=weights or True, **options)
    return pool(splits, model, features), table
