"""dedn describe: a class more, or another description of one, without training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def add_describe(commands: argparse._SubParsersAction) -> None:
    """dedn describe: a class more, or another description of one, without training."""
    parser = commands.add_parser(
        "describe",
        help="add a class by its traits, or change one, without training",
        description="Describes a class in the words of the model's table, and says which classes it is now nearest "
        "to, and what sets them apart. What is left out is average, as in the class given with --like, or, for a "
        "class that the model knows, as it was. Code in the model's folder is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the class (without it: all classes of --traits)")
    parser.add_argument("--like", metavar="CLASS", help="it is like this class in all that is not said")
    parser.add_argument(
        "--set", dest="settings", action="append", metavar="TRAIT=VALUE", help="as in bill=hooked; may be repeated"
    )
    parser.add_argument("--traits", metavar="FILE", help="table of traits with a row for the class")
    parser.add_argument("--out", metavar="MODEL2", help="folder of the new model")
    parser.add_argument("--overwrite", action="store_true", help="replace the model in --out, which may be MODEL")
    parser.add_argument("--print", dest="only_print", action="store_true", help="show the description, write nothing")
    parser.set_defaults(run=run_describe)


def run_describe(
    model: str,
    only_print: bool,
    overwrite: bool,
    name: str | None = None,
    out: str | None = None,
    settings: Sequence[str] = (),
    **given: Any,
) -> None:
    """Describe, compare, and write. Raises as `dedn_hf.publish.describe_classes`."""
    from dedn_hf.classify.describing import compare, described_row, described_rows, with_classes
    from dedn_hf.cli.explain import attribute_and_value
    from dedn_hf.publish.describing import require_free, write_described
    from dedn_hf.publish.saved import load_model, saved_table

    if (out is None) != only_print:
        raise ValueError("Give --out, the folder of the new model, or --print, which writes nothing.")
    if name is None and (settings or "like" in given or "traits" not in given):
        raise ValueError("Give the NAME of the class. Without it, --traits alone describes all classes of a table.")
    if name is not None and not (settings or given):
        raise ValueError("Say what the class is like: --set TRAIT=VALUE, --like CLASS, or --traits FILE.")
    if out is not None:
        require_free(out, overwrite)  # before the work
    loaded = load_model(model)
    before = saved_table(model, loaded)
    if name is None:
        rows = described_rows(before, given["traits"])
    else:
        description = dict(map(attribute_and_value, settings))
        if len(description) < len(settings):
            raise ValueError("--set gives a trait twice; give one value for each.")
        rows = dict([described_row(before, name, description, **given)])
    table = with_classes(before, rows)
    found = [compare(loaded, table, each, before) for each in rows]
    print(*found, sep="\n")
    if out is not None:
        write_described(model, loaded, table, found, out)
        print(f"Wrote {out}")
