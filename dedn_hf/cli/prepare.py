"""dedn prepare: any data set as a Parquet folder."""

from __future__ import annotations

import argparse
from typing import Any

from dedn_hf.cli.check import READING, OneOrSeveral, add_reading_arguments, reading_of


def add_prepare(commands: argparse._SubParsersAction) -> None:
    """dedn prepare: any data set as a Parquet folder."""
    parser = commands.add_parser(
        "prepare",
        help="write a data set as Parquet files that plain datasets.load_dataset opens",
        description="Writes images, labels and class attributes to one folder. It holds test splits (configuration "
        "'default') and the validation splits (configuration 'validation'). Pixels stay as they are; what the "
        "photos say of place, time and camera is removed.",
    )
    parser.add_argument(
        "name", metavar="NAME", help="cub, sun, awa2, shapes (drawn), or folder: your own, in --data-dir"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the images: the unpacked archive, or its parent")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        action=OneOrSeveral,
        help="folder: table of traits (default: attributes.csv in the data folder); give it again for a further table",
    )
    add_reading_arguments(parser)
    parser.add_argument("--groups", metavar="FILE", help="folder: CSV file of attribute,group")
    parser.add_argument(
        "--test-fraction", type=float, metavar="SHARE", help="folder: share of a seen class to test on (default 0.2)"
    )
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="shapes: (default 64)")
    parser.add_argument(
        "--images-per-class", type=int, metavar="N", help="shapes: pictures of each class (default 50)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="shapes: another seed, other pictures (default 0)")
    parser.add_argument("--strict", action="store_true", help="stop at an image that does not decode")
    parser.add_argument(
        "--keep-metadata",
        action="store_true",
        help="keep what photos say of place, time and camera (default: removed)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out, whatever it holds")
    parser.set_defaults(run=run_prepare)


def run_prepare(
    name: str,
    strict: bool,
    overwrite: bool,
    keep_metadata: bool,
    out: str,
    **given: Any,
) -> None:
    """Prepare a data set and say where it is. Raises as `dedn_hf.data.prepare`."""
    from dedn_hf.data.preparing import prepare

    require_arguments_of(name, given)
    given |= reading_of(given)
    folder = prepare(name, out, strict=strict, overwrite=overwrite, keep_metadata=keep_metadata, **given)
    print(f"Wrote {folder}\nOpen it with datasets.load_dataset({str(folder)!r}) or dedn_hf.data.load({str(folder)!r})")


def require_arguments_of(name: str, given: dict[str, Any]) -> None:
    """Raise ValueError where an argument is given that data set `name` does not take, or lacks one it needs."""
    import inspect

    from dedn_hf.data.loading import builder_class

    known = {*inspect.signature(builder_class(name).__init__).parameters}
    known |= set(READING) if "csv" in known else set()
    for argument in given:
        if argument not in known:
            raise ValueError(f"{name} takes no --{argument.replace('_', '-')}. Leave it out.")
    if "data_dir" in known and "data_dir" not in given:
        raise ValueError(f"{name} needs --data-dir, the folder of its images.")
