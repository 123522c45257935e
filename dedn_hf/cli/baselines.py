"""dedn baselines: what simple zero-shot classifiers reach on the features that DEDN is trained on."""

from __future__ import annotations

import argparse
from typing import Any

from dedn_hf.cli.backbone import add_backbone_arguments, pooled_photos, take_backbone
from dedn_hf.cli.check import add_reading_arguments, add_traits_argument, reading_of


def add_baselines(commands: argparse._SubParsersAction) -> None:
    """dedn baselines: what simple zero-shot classifiers reach on the features that DEDN is trained on."""
    parser = commands.add_parser(
        "baselines",
        help="scores of simple classifiers on the same features and splits: the bar that DEDN has to beat",
        description="Trains ESZSL, ridge regression, attribute prediction (DAP) and a nearest class by cosine on "
        "pooled features, on the splits that training uses, with settings chosen on folds of seen classes; prints "
        "T1, U, S, H and AUSUC of each in percent.",
    )
    parser.add_argument(
        "photos", nargs="?", metavar="PHOTOS", help="folder with one folder a class, or a list of files"
    )
    add_traits_argument(parser)
    parser.add_argument(
        "--data", metavar="NAME", help="in place of PHOTOS: cub, sun, awa2, shapes, or a prepared folder"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the images of --data")
    add_backbone_arguments(parser, required=True)
    add_reading_arguments(parser)
    parser.set_defaults(run=run_baselines)


def run_baselines(
    photos: str | None = None,
    traits: str | list[str] | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    **options: Any,
) -> None:
    """Print the scores. Raises ValueError for arguments that do not go together, and as `load` and `baselines`."""
    from dedn_hf.studies.baselines import baselines, format_baselines

    backbone = take_backbone(options)
    if (photos is None) == (data is None) or (photos is None) != (traits is None):
        raise ValueError("Give PHOTOS with --traits FILE, or --data NAME with --data-dir.")
    if data is None:
        source = {"name": "folder", "data_dir": photos, "csv": traits, **reading_of(options)}
    else:
        source = {"name": data, "data_dir": data_dir, **options}
    pooled, table = pooled_photos(source, **backbone)
    print(format_baselines(baselines(pooled, table), table))
