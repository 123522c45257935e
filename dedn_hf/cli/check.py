"""dedn check: what training would make of photos and a table of traits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dedn_hf.cli.backbone import add_backbone_arguments, pooled_photos, take_backbone

if TYPE_CHECKING:
    from dedn_hf.studies.forecast import Forecast
    from dedn_hf.studies.short_trainings import ShortTrainings

READING = (
    *("names", "name_column", "use", "ignore", "kinds", "sheet", "long_columns", "transposed", "delimiter"),
    *("encoding", "header", "decimal", "missing"),
)
FEW = 5  # photos; below, a class is hardly learned and hardly tested


def add_check(commands: argparse._SubParsersAction) -> None:
    """dedn check: what training would make of photos and a table of traits."""
    parser = commands.add_parser(
        "check",
        help="say what would be made of photos and a table of traits, before anything is trained",
        description="Reads photos and table, and prints one screen: photos by class, files that are not used and why, "
        "what each column became, gaps, classes that nothing tells apart. Trains nothing. With --backbone, it also "
        "says what accuracy to expect of classes without photos, which traits photos show, and what would help.",
    )
    parser.add_argument("photos", metavar="PHOTOS", help="folder with one folder a class, or a list of files")
    add_traits_argument(parser, required=True)
    add_backbone_arguments(parser)
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="with --backbone: also train DEDN a little, with classes held out",
    )
    add_reading_arguments(parser)
    parser.add_argument("--out", metavar="FILE", help="also write all of it to this .html file")
    parser.set_defaults(run=run_check)


class OneOrSeveral(argparse.Action):
    """An option that may be given again: one value, or a list of all."""

    def __call__(self, parser, namespace, value, option_string=None) -> None:
        before = getattr(namespace, self.dest)
        before = [before] if isinstance(before, str) else before
        setattr(namespace, self.dest, value if before is None else [*before, value])


def add_traits_argument(parser: argparse.ArgumentParser, **options: Any) -> None:
    """--traits FILE, once or several times."""
    what = "table of traits: CSV of any kind, or Excel; give it again for a further table, which adds columns"
    parser.add_argument("--traits", metavar="FILE", action=OneOrSeveral, help=what, **options)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """How to read a table of traits where the guesses are wrong: arguments of `read_traits`."""
    reading = parser.add_argument_group("reading the table, where a guess is wrong")
    reading.add_argument("--names", metavar="FILE", help="CSV of folder,name, where folders and table differ")
    reading.add_argument("--name-column", metavar="NAME", help="column with the names of the classes")
    reading.add_argument("--use", nargs="+", metavar="COLUMN", help="columns that are traits, whatever they look like")
    reading.add_argument("--ignore", nargs="+", metavar="COLUMN", help="columns that are no traits")
    reading.add_argument(
        "--kind",
        dest="kinds",
        nargs="+",
        metavar="COLUMN=KIND",
        help="number, percent, yes/no or category, as in body_mass=number",
    )
    reading.add_argument("--sheet", metavar="NAME", help="sheet of an Excel file, by name or number")
    reading.add_argument(
        "--long",
        dest="long_columns",
        nargs="+",
        metavar="COLUMN",
        help="one trait a row: columns of the trait, the value and, where there is one, the unit",
    )
    reading.add_argument(
        "--transposed", action=argparse.BooleanOptionalAction, default=None, help="classes stand in columns"
    )
    reading.add_argument("--delimiter", metavar="SIGN", help="between columns, such as ';' or tab")
    reading.add_argument("--encoding", metavar="NAME", help="of the text, such as cp1250")
    reading.add_argument("--header", type=int, metavar="LINE", help="line of the names of columns, from 1")
    reading.add_argument("--decimal", choices=(".", ","), metavar="SIGN", help="decimal sign: . or ,")
    reading.add_argument("--missing", nargs="+", metavar="MARK", help="further marks of gaps, such as -7")


def reading_of(given: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of a command, those that `add_reading_arguments` added, as `read_traits` takes them."""
    reading = {name: given[name] for name in READING if given.get(name) is not None}
    if "kinds" in reading:
        reading["kinds"] = kinds_of(reading["kinds"])
    if reading.get("delimiter", "").lower() in ("tab", "\\t"):
        reading["delimiter"] = "\t"
    return reading


def kinds_of(texts: list[str]) -> dict[str, str]:
    """COLUMN=KIND of the command line as a mapping. Raises ValueError for text of another form."""
    for text in texts:
        if "=" not in text:
            raise ValueError(f"--kind {text!r} is not COLUMN=KIND; e.g. --kind body_mass=number")
    return dict(text.rpartition("=")[::2] for text in texts)


def run_check(
    photos: str, traits: str | list[str], out: str | None = None, thorough: bool = False, **given: Any
) -> None:
    """Print what was found, and with a backbone what to expect; write it all to `out`.

    Raises:
        FileNotFoundError, ValueError: as `dedn_hf.data.own_photos.check`, and as `dedn_hf.studies.forecast`.
    """
    from dedn_hf.cli.check_page import write_page
    from dedn_hf.data.own_photos import check, describe_twice, why_refused
    from dedn_hf.modeling.saving import require_writable

    if out is not None:
        require_writable(out, (".html",))
    backbone, reading = take_backbone(given), reading_of(given)
    if backbone and "backbone" not in backbone:
        raise ValueError(
            f"--{next(iter(backbone)).replace('_', '-')} is of a network that looks: give --backbone NAME."
        )
    if thorough and not backbone:
        raise ValueError("--thorough trains on what a network sees: give --backbone NAME.")
    found, report = check(photos, traits, **reading)
    counts = found.counts()
    print(f"{found.root}: {len(found.photos)} photos of {len(counts)} classes")
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    if few:
        print(f"  fewer than {FEW} photos: {', '.join(few[:8])}{f' and {len(few) - 8} more' if len(few) > 8 else ''}")
    for line in found.describe_skipped():
        print(f"  not used: {line}")
    twice = describe_twice(found)
    for line in twice:
        print(f"  ! {line}")
    print(report)
    if problem := why_refused(found, report):
        print(f"  ! cannot be trained with as it is: {problem}")
    expected, trained = None, None
    source = {"name": "folder", "data_dir": photos, "csv": traits, **reading}
    if backbone:
        expected = expected_of(source, backbone)
        print(expected)
    if thorough:
        trained = trained_on(source, **backbone)
        print(trained)
    if out is not None:
        write_page(out, found, report, [f"fewer than {FEW} photos: {name}" for name in few] + twice, expected, trained)
        print(f"Wrote {out}")


def expected_of(source: dict[str, Any], backbone: dict[str, Any]) -> Forecast:
    """Look at the photos; what to expect. source: arguments of `load`. backbone: of `pooled_photos`."""
    from dedn_hf.studies.forecast import forecast

    pooled, table = pooled_photos(source, **backbone)
    return forecast(pooled["train"], table)


def trained_on(
    source: dict[str, Any], backbone: str, weights: str | None = None, features: str | None = None, **model: Any
) -> ShortTrainings:
    """Train for a short time. source: arguments of `load`. model: image_size and crop_pct, where given."""
    from dedn_hf.studies.short_trainings import short_trainings

    return short_trainings(source, {"backbone": backbone, "pretrained": weights or True, **model}, features)
