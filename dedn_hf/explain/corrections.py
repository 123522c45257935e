"""Corrections of traits as a table that people keep and edit: one row for each photo and trait."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from dedn_hf.data.photos import csv_rows, required_column, text_of
from dedn_hf.explain.evidence import corrected_values
from dedn_hf.modeling.saving import require_writable, whole_file

if TYPE_CHECKING:
    from dedn_hf.explain.explanation import Explanation
    from dedn_hf.modeling.attribute_table import AttributeTable

COLUMNS = {  # name -> what it says
    "file": "the photo",
    "trait": "what was corrected, as the model's table calls it",
    "value": "the true value, in the words of that table",
    "answer_before": "the answer without the correction",
    "answer_after": "the answer with all corrections that were given together",
    "bytes": "size of the file; may be empty",
    "sha256": "of the file's content, by which a photo is found that was moved or renamed; may be empty",
}
NEEDED = ("file", "trait", "value")


@dataclass
class Correction:
    """One row.

    Args:
        row: its number in the spreadsheet, from 1, the header included. value: as `given_value` reads it.
        size, digest: of the photo's bytes; None where the row does not say.
    """

    row: int
    file: str
    trait: str
    value: float | str
    size: int | None = None
    digest: str | None = None

    @property
    def photo(self) -> str:
        """What two corrections of one photo have in common."""
        return self.digest or os.path.abspath(self.file)


def given_value(text: str) -> float | str:
    """A value as a person writes it: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text.strip()


def trait_of(table: AttributeTable, name: str, value: Any) -> str:
    """What the table calls the trait, or attribute, that a correction speaks of. Raises ValueError as `correct`."""
    corrected = set(corrected_values(table, {name: value}))
    if table.traits is None:
        return corrected.pop()
    places = [place for place, attribute in enumerate(table.attribute_names) if attribute in corrected]
    column = table.traits[places[0]]["column"]
    whole = len(places) == sum(trait["column"] == column for trait in table.traits)
    return column if whole else table.attribute_names[places[0]]


def sha256_of(photo: str | bytes) -> str:
    """The hash of a file's content, or of bytes."""
    return hashlib.sha256(photo if isinstance(photo, bytes) else Path(photo).read_bytes()).hexdigest()


# Reading -------------------------------------------------------------------------------------------------------------


def read_corrections(path: str | os.PathLike) -> list[Correction]:
    """The corrections of a file, in its order; empty rows are left out.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no such table, or a row lacks its photo, trait or value.
    """
    _, rows, _ = _read(Path(path))
    found = []
    for number, row in enumerate(rows, start=2):
        cells = {name: text_of(row.get(name)) for name in COLUMNS}
        if not any(cells[name] for name in NEEDED):
            continue
        for name in NEEDED:
            if not cells[name]:
                raise ValueError(f"{path}, row {number}: the column {name!r} is empty. Fill it in, or delete the row.")
        size = cells["bytes"]
        if size and not size.isdigit():
            raise ValueError(f"{path}, row {number}: bytes is {size!r}, no size of a file. Empty that cell.")
        correction = Correction(number, cells["file"], cells["trait"], given_value(cells["value"]))
        correction.size, correction.digest = int(size) if size else None, cells["sha256"].lower() or None
        found.append(correction)
    return found


def _read(path: Path) -> tuple[list[str], list[dict], tuple[str, str]]:
    """Columns, rows, and how the file is written: its delimiter and its encoding."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no file of corrections {path}. `dedn explain MODEL PHOTO --set TRAIT=VALUE --save {path}` "
            "writes one."
        ) from None
    encoding = "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"
    try:
        # What is no UTF-8, as of older spreadsheets, is kept as it is.
        reader = csv_rows(io.StringIO(content.decode(encoding, "surrogateescape"), newline=""))
        rows, columns = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise ValueError(f"{path} is no table of corrections: {error}") from error
    for name in NEEDED:
        required_column(str(path), columns, (name,), "corrections")
    return columns, rows, (reader.reader.dialect.delimiter if columns else ",", encoding)


# Writing -------------------------------------------------------------------------------------------------------------


def require_keepable(path: str | os.PathLike, image: str) -> None:
    """Raise ValueError before the work, where corrections of that image cannot be kept in that file."""
    require_writable(path, (".csv",))
    if Path(path).exists():
        read_corrections(path)
    if not os.path.isfile(image):
        raise ValueError(f"--save keeps corrections of photos in files, and {image!r} is none.")


def keep_corrections(
    path: str | os.PathLike, image: str | os.PathLike, explanation: Explanation, given: Mapping[str, float | str]
) -> int:
    """Add what was corrected of a photo to a file, whole or not at all.

    A correction of the same trait of the same photo is replaced. All else that people wrote into the file stays.

    Args:
        image: a file. explanation: of it, with the corrections. given: trait -> true value, as they were given.

    Returns:
        How many corrections of this photo the file now holds.
    """
    path, image = Path(path).absolute(), os.path.abspath(image)
    same = {"file": image, "bytes": os.path.getsize(image), "sha256": sha256_of(image)}
    same |= {"answer_before": explanation.uncorrected.answer, "answer_after": explanation.answer}
    new = {trait_of(explanation.table, name, value): in_cell(value) for name, value in given.items()}
    with _alone_with(path):
        columns, rows, (delimiter, encoding) = _read(path) if path.exists() else (list(COLUMNS), [], (",", "utf-8"))
        of_photo = [row for row in rows if same["sha256"] == _photo_of(row) or image == _photo_of(row)]
        replaced = [row for row in of_photo if _trait_of(explanation.table, row) in new]
        kept = [row for row in rows if not any(row is each for each in replaced)]
        kept += [{**same, "trait": trait, "value": value} for trait, value in new.items()]
        _write(path, list(dict.fromkeys([*columns, *COLUMNS])), kept, delimiter, encoding)
    return len(of_photo) - len(replaced) + len(new)


def in_cell(value: float | str) -> str:
    """A value as text that `given_value` reads back."""
    return value if isinstance(value, str) else np.format_float_positional(value, trim="-")


def _photo_of(row: Mapping[str, Any]) -> str:
    return text_of(row.get("sha256")).lower() or os.path.abspath(text_of(row.get("file")))


def _trait_of(table: AttributeTable, row: Mapping[str, Any]) -> str:
    """The trait of a row; as it is written where this model does not know it, or not the value."""
    trait = text_of(row["trait"])
    try:
        return trait_of(table, trait, given_value(text_of(row["value"])))
    except ValueError:
        return trait


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping], delimiter: str, encoding: str) -> None:
    with (
        whole_file(path) as unfinished,
        open(unfinished, "w", newline="", encoding=encoding, errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns, delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Within `with`, no other command adds to the file, so that no correction is lost."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows does not remove an open file
                os.unlink(lock.lock_file)  # while it is held: no lock is taken on a file that has lost its name
