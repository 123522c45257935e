"""dedn describe: a class more, or another description of one, without training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


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
    parser.add_argument("--photos", metavar="DIR", help="a few photos of it: what they show is put into its row")
    parser.add_argument("--reference", metavar="PHOTOS", help="photos of the training, where it left no scores")
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
    reference: str | None = None,
    settings: Sequence[str] = (),
    **given: str,
) -> None:
    """Describe, compare, and write. Raises as `dedn_hf.publish.describe_classes`.

    given: like, traits, photos.
    """
    from dedn_hf.cli.explain import attribute_and_value
    from dedn_hf.publish.describing import Describer, require_free

    require_sense(name, out, only_print, settings, given)
    if out is not None:
        require_free(out, overwrite)  # before the work
    description = dict(map(attribute_and_value, settings))
    if len(description) < len(settings):
        raise ValueError("--set gives a trait twice; give one value for each.")
    describer = Describer(model, reference)
    if "photos" in given and only_print:
        print(describer.shown(given["photos"]))
    if name is not None:
        describer.add(name, description, **given)
    elif "traits" in given:
        describer.add_all(given["traits"])
    found = describer.compared()
    print(*found, sep="\n", end="\n" * bool(found))
    for file in dict.fromkeys(describer.unreadable):
        print(f"Not a photo that can be read: {file}")
    if out is not None:
        describer.write(out, found)
        print(f"Wrote {out}")


def require_sense(
    name: str | None, out: str | None, only_print: bool, settings: Sequence[str], given: dict[str, str]
) -> None:
    """Raise ValueError for arguments that do not go together."""
    if (out is None) != only_print:
        raise ValueError("Give --out, the folder of the new model, or --print, which writes nothing.")
    if name is None and not (only_print and set(given) == {"photos"}) and (settings or set(given) != {"traits"}):
        raise ValueError(
            "Give the NAME of the class. Without it, --traits alone describes all classes of a table, and --photos "
            "with --print says what photos show."
        )
    if name is not None and not (settings or given):
        raise ValueError("Say what the class is like: --set TRAIT=VALUE, --like CLASS, --traits FILE, --photos DIR.")
    if set(given) == {"like"} and not settings:
        raise ValueError(
            f"{name!r} would be the same as {given['like']!r}. Say what sets it apart: --set TRAIT=VALUE."
        )
