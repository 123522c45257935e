"""dedn baselines: what simple zero-shot classifiers reach on the features that DEDN is trained on."""

from __future__ import annotations

import argparse
from typing import Any

from dedn_hf.cli.check import add_reading_arguments, kinds_of


def add_baselines(commands: argparse._SubParsersAction) -> None:
    """dedn baselines: what simple zero-shot classifiers reach on the features that DEDN is trained on."""
    parser = commands.add_parser(
        "baselines",
        help="scores of simple classifiers on the same features and splits: the bar that DEDN has to beat",
        description="Trains ESZSL, ridge regression, attribute prediction (DAP) and a nearest class by cosine on pooled "
        "features, on the splits that training uses, with settings chosen on folds of seen classes; prints T1, U, S, H "
        "and AUSUC of each in percent.",
    )
    parser.add_argument(
        "photos", nargs="?", metavar="PHOTOS", help="folder with one folder a class, or a list of files"
    )
    parser.add_argument("--traits", metavar="FILE", help="table of traits: CSV of any kind, or Excel")
    parser.add_argument(
        "--data", metavar="NAME", help="in place of PHOTOS: cub, sun, awa2, shapes, or a prepared folder"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the images of --data")
    add_backbone_arguments(parser, required=True)
    add_reading_arguments(parser)
    parser.set_defaults(run=run_baselines)


def add_backbone_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The backbone that sees the photos, for `pooled_photos`."""
    parser.add_argument("--backbone", metavar="NAME", required=required, help="timm name of the network that looks")
    parser.add_argument("--weights", metavar="FILE", help="file of its weights, in place of timm's download")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--crop-pct", type=float, metavar="SHARE", help="share of the shorter side that is looked at")
    parser.add_argument("--features", metavar="DIR", help="keep its feature maps there; a training uses them again")


def run_baselines(
    photos: str | None = None,
    traits: str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    kinds: list[str] | None = None,
    **options: Any,
) -> None:
    """Print the scores. Raises ValueError for arguments that do not go together, and as `load` and `baselines`."""
    from dedn_hf.studies.baselines import baselines, format_baselines

    backbone = take_backbone(options)
    if (photos is None) == (data is None) or (photos is None) != (traits is None):
        raise ValueError("Give PHOTOS with --traits FILE, or --data NAME with --data-dir.")
    if data is None:
        source = {"name": "folder", "data_dir": photos, "csv": traits, **options}
        source |= {"kinds": kinds_of(kinds)} if kinds else {}
    else:
        source = {"name": data, "data_dir": data_dir, **options}
    pooled, table = pooled_photos(source, **backbone)
    print(format_baselines(baselines(pooled, table), table))


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
) -> tuple[dict, Any]:
    """Pooled features of each split, and the table. source: arguments of `load`."""
    from dedn_hf.data.loading import load
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.studies.pooled import pool

    splits, table = load(**source)
    options = {} if crop_pct is None else {"crop_pct": crop_pct}
    model = DEDNForZeroShot.from_timm(backbone, table, image_size=image_size, pretrained=weights or True, **options)
    return pool(splits, model, features), table
