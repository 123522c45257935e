"""dedn reproduce: a recorded run once more."""

from __future__ import annotations

import argparse
from typing import Any


def add_reproduce(commands: argparse._SubParsersAction) -> None:
    """dedn reproduce: a recorded run once more."""
    parser = commands.add_parser(
        "reproduce",
        help="run again what a run.json records, and say whether the numbers are the same",
        description="Checks data and backbone against the record, trains again, and compares every number. Exit "
        "status 0: they match (the same bits; or within the tolerance, where versions or machine differ). 1: they do "
        "not, or the data are others and nothing was run. 2: it cannot be run.",
    )
    parser.add_argument("run_file", metavar="RUN.JSON", help="of a finished run, or its folder")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the images, or of the prepared data set")
    parser.add_argument("--weights", metavar="FILE", help="file of backbone weights, where the run began with one")
    parser.add_argument(
        "--features-dir", metavar="DIR", help="feature cache to use or to make (default: made again, not kept)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder to keep the second run in (default: not kept)")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference of a score, 0..1 (default 0.02)"
    )
    parser.set_defaults(run=run_reproduce)


def run_reproduce(run_file: str, **given: Any) -> int:
    """Reproduce a run and say what came out; 0 where it matches, else 1. Raises as `reproduce`."""
    from dedn_hf.studies.reproduction import reproduce

    found = reproduce(run_file, **given)
    print(found.summary())
    return 0 if found.matches else 1
