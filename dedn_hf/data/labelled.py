"""Photos with the labels that a person gave them, in a column of a list: such as answers that were confirmed.

An answer of a model is no label. A row counts only where a person has filled the column: with the class, or with 'yes'
where the answer beside it is right.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedn_hf.data.catalog import Catalog, abbreviate, assign_portions, stamp, with_validation_classes
from dedn_hf.data.own_photos import TableReader, require_described, require_share, split_photos, warn_same_photos
from dedn_hf.data.photos import (
    FILE_COLUMNS,
    LABEL_COLUMNS,
    Photo,
    Photos,
    column_of,
    find_photos,
    place_in,
    read_list,
    required_column,
    text_of,
    why_unused,
)
from dedn_hf.modeling.attribute_table import AttributeTable, near_names
from dedn_hf.modeling.inputs import NO, YES
from dedn_hf.traits import TraitReport, matching, read_traits

logger = logging.getLogger(__name__)

CONFIRMED, WRONG = YES | {"ok", "right", "correct"}, NO | {"wrong"}
UNKNOWN = "unknown"


@dataclass
class Label:
    """What a person says of a photo.

    Args:
        row: number in the spreadsheet, from 1, the header included. file: as it is written there. path: where it is.
        name: of the class, as the person wrote it.
    """

    row: int
    file: str
    path: str
    name: str


@dataclass
class Labelled:
    """Labelled photos, those beside them, and the table that describes their classes.

    Args:
        photos: of the list. old: of a folder of classes, if one was given. table: K classes, with their roles.
        report: on the table, where it was read.
    """

    photos: Photos
    old: Photos | None
    table: AttributeTable
    report: TraitReport | None = None


def read_labelled(
    labels: str | os.PathLike,
    data_dir: str | os.PathLike,
    csv: str | Path | Sequence[str | Path] | None,
    old_photos: str | os.PathLike | None = None,
    like: str | None = None,
    groups: str | Path | dict[str, str] | None = None,
    **reading: Any,
) -> Labelled:
    """Photos and table, without a look into the photos; arguments and errors as `labelled_catalog`."""
    found = Photos(os.path.abspath(data_dir))
    rows = read_labels(labels, found)
    if like is not None:
        return of_known_classes(rows, labels, found, model_table(like, csv, reading), old_photos)
    reader = TableReader(Path(data_dir) / "attributes.csv" if csv is None else csv, groups, reading)
    names: dict[str, str] = {}

    def match(folders: set[str]) -> dict[str, str]:
        names.update(one_name_each((row.name for row in rows), sorted(folders)))
        try:
            return reader({*folders, *names.values()})
        except ValueError as error:
            raise ValueError(
                f"{error} The labels are those of {labels}, the first in row {rows[0].row}: {rows[0].name!r}."
            ) from None

    old = None if old_photos is None else find_photos(old_photos, match)
    if old is None:
        match(set())
    else:
        require_described(old, reader.table.class_names, reader.path)
    add_labelled(found, rows, names, reader.table, labels)
    without_repeats(found, rows, old, labels)
    return Labelled(found, old, reader.table, reader.report)


def labelled_catalog(
    labels: str | os.PathLike,
    data_dir: str | os.PathLike,
    csv: str | Path | Sequence[str | Path] | None,
    test_fraction: float,
    **options: Any,
) -> Catalog:
    """The catalog of labelled photos. Folders mean nothing: the labels alone say which photo is which class.

    Args:
        labels: list with a column of files and a column 'label', see `read_labels`. data_dir: folder that relative
            paths in it are relative to, besides its own. csv: table of traits. test_fraction: as of `Folder`, of
            the photos of each list or folder.
        options: old_photos, a folder of classes whose photos are used as well. like: a saved model, whose classes
            keep their roles, with photos here or without; its own table is used without a csv. groups, and arguments
            of `read_traits`, as of `Folder`.

    Raises:
        FileNotFoundError: no such list, folder or table.
        ValueError: a row with an unknown class or a photo that is not there, two labels for one photo, no label.
    """
    require_share(test_fraction)
    every = read_labelled(labels, data_dir, csv, **options)
    sources = [every.photos] if every.old is None else [every.old, every.photos]
    root = sources[0].root
    together = Photos(root, [photo for found in sources for photo in found.photos])
    for line in [line for found in sources for line in found.describe_skipped()]:
        logger.warning("Not used: %s.", line)
    warn_same_photos(together)
    table, dropped = every.table, []
    if options.get("like") is None:
        counts = together.counts()
        dropped = [name for name, seen in zip(table.class_names, table.seen, strict=True) if seen and not counts[name]]
        table = table.select([name for name in table.class_names if name not in dropped])
    table = with_validation_classes(table)
    paths = {together.relative(photo): photo.path for photo in together.photos}
    listed = [row for found in sources for row in split_photos(Photos(root, found.photos), table, test_fraction)]
    images = [image._replace(stamp=stamp(paths[image.file])) for image in assign_portions(listed, table.roles)]
    return Catalog(table, images, root, dropped, paths)


# Labels --------------------------------------------------------------------------------------------------------------


def read_labels(path: str | os.PathLike, found: Photos) -> list[Label]:
    """The rows of a list that a person has labelled. What is left out goes into `found`, with the reason.

    A label is the name of a class, or a word such as 'yes', which confirms the answer of the row. Rows without a
    label, with 'no' or 'unknown', and photos that cannot be read are left out.

    Raises:
        FileNotFoundError: no such file. ValueError: no column of labels, a photo that is not there, or no label.
    """
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no list of labels {path}.")
    rows = read_list(path)
    columns = [str(column) for column in rows[0]] if rows else []
    file_column = required_column(path, columns, FILE_COLUMNS, "files")
    label_column = column_of([column for column in columns if column != file_column], LABEL_COLUMNS)
    if label_column is None:
        raise ValueError(
            f"{path} has no column 'label'. Answers of a model are not taken for labels: add the column (`dedn "
            "classify --label-column` does) and write the class there, or yes where the answer is right."
        )
    first = 2 if Path(path).suffix.lower() in (".csv", ".tsv", ".txt") else 1
    labels, missing = [], []
    for number, row in enumerate(rows, first):
        file, word = text_of(row[file_column]), text_of(row[label_column])
        confirms = word.casefold() in CONFIRMED
        name = text_of(row.get("answer")) if confirms else word
        if confirms and "answer" not in row:
            raise ValueError(f"{path}, row {number}: the label is {word!r}, and there is no column 'answer'.")
        reason = why_no_label(file, word, name, text_of(row.get("error")))
        place = None if reason else place_of(file, (found.root, os.path.dirname(path)))
        if not reason and place is None:
            missing.append((number, file))
        elif reason := reason or why_unused(place):
            found.skipped[reason].append(file.removeprefix(found.root + os.sep) or f"row {number}")
        else:
            labels.append(Label(number, file, place, name))
    if missing:
        raise ValueError(
            f"{path}, row {missing[0][0]}: there is no photo {missing[0][1]!r}; {len(missing)} such in all. Paths are "
            f"relative to {found.root} or to the folder of the list."
        )
    if not labels:
        raise ValueError(" ".join([f"{path} labels no photo.", *(f"{each}." for each in found.describe_skipped())]))
    return labels


def why_no_label(file: str, word: str, name: str, error: str) -> str | None:
    """Why a row labels nothing; None where it does."""
    if not file:
        return "rows without a file"
    if not word:
        return "rows without a label"
    if error:
        return "photos that could not be read"
    if word.casefold() in WRONG:
        return "answers marked as wrong, without the class"
    if name.casefold() == UNKNOWN or not name:
        return "photos of an unknown class"
    return None


def place_of(file: str, folders: Sequence[str]) -> str | None:
    """Where a photo is; None where it is in none of the folders."""
    return next(filter(os.path.isfile, (place_in(folder, file) for folder in folders)), None)


def one_name_each(names: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Name -> what the class is called: as one of `known`, or as the first of `names` that means the same."""
    known, found = list(known), {}
    for name in dict.fromkeys(names):
        found[name] = meant(name, known) or name
        if found[name] not in known:
            known.append(name)
    return found


def meant(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` names that a person means; None where none or several fit."""
    if name in known:
        return name
    try:
        return next(iter(matching.match(known, [name]).folder_of), None)
    except ValueError:
        return None


def add_labelled(
    found: Photos, rows: Sequence[Label], names: dict[str, str], table: AttributeTable, source: Any
) -> None:
    """Add the photos of the rows. names: in a row -> in the table. Raises ValueError for a class not in the table."""
    known = set(table.class_names)
    for row in rows:
        label = names[row.name]
        if label not in known:
            raise ValueError(
                f"{source}, row {row.row}: the table has no class {row.name!r}."
                f"{near_names(row.name, table.class_names)} Correct the label, or describe the class in the table."
            )
        found.photos.append(Photo(row.path, label))


def without_repeats(found: Photos, rows: Sequence[Label], old: Photos | None, source: Any) -> None:
    """Keep each photo once. Raises ValueError where two rows, or a row and a folder, give it two labels."""
    first = {os.path.realpath(photo.path): (photo.label, "its folder") for photo in (old.photos if old else ())}
    kept = []
    for photo, row in zip(found.photos, rows, strict=True):
        path = os.path.realpath(photo.path)
        label, where = first.get(path, (photo.label, ""))
        if label != photo.label:
            raise ValueError(
                f"{source}, row {row.row}: {row.file} is {photo.label!r} here, and {label!r} in {where}. Keep one."
            )
        if path not in first:
            kept.append(photo)
        first.setdefault(path, (label, f"row {row.row}"))
    found.photos = sorted(kept, key=lambda photo: photo.path)


# Going on with a model -----------------------------------------------------------------------------------------------


def model_table(like: str, csv: str | Path | Sequence[str | Path] | None, reading: dict[str, Any]) -> AttributeTable:
    """The classes of a saved model, or of a table in the model's terms. Those that it was trained on are seen.

    Raises ValueError where the table lacks a class that the model was trained on.
    """
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

    own = DEDNForZeroShot.from_pretrained(like).attribute_table
    if csv is None:
        return own
    reading = {name: value for name, value in reading.items() if value is not None}
    table = read_traits(csv, photos=own.class_names, like=own, **reading)
    roles = dict(zip(own.class_names, own.roles, strict=True))
    lost = [name for name, role in roles.items() if role != "unseen" and name not in table.class_names]
    if lost:
        raise ValueError(f"{csv} lacks {len(lost)} classes that {like} was trained on: {abbreviate(lost)}. Add them.")
    return table.replace(roles=[roles.get(name, "unseen") for name in table.class_names])


def of_known_classes(
    rows: Sequence[Label], source: Any, found: Photos, table: AttributeTable, old_photos: str | os.PathLike | None
) -> Labelled:
    """Photos of the classes of a table, of which those with photos become seen ones."""
    old = None
    if old_photos is not None:
        old = find_photos(old_photos, lambda folders: {f: c for f in folders if (c := meant(f, table.class_names))})
        require_described(old, table.class_names, "the table of the model")
    add_labelled(found, rows, one_name_each((row.name for row in rows), table.class_names), table, source)
    without_repeats(found, rows, old, source)
    pictured = {photo.label for each in (found, old) if each for photo in each.photos}
    roles = [
        "train" if role == "unseen" and name in pictured else role
        for name, role in zip(table.class_names, table.roles, strict=True)
    ]
    return Labelled(found, old, table.replace(roles=roles))
