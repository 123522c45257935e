"""What to classify: files, folders, lists of files and data sets of images, as one sequence of photos.

A photo is a name and where its bytes are: (text, path) or (text, bytes). A million photos take the memory of their
paths: no object is kept for each.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import ArrowInvalid, parquet
from pyarrow.types import is_struct

from dedn_hf.data.photos import (
    FILE_COLUMNS,
    Photos,
    column_of,
    csv_rows,
    printable,
    required_column,
    text_of,
    walk,
    why_unused,
)
from dedn_hf.modeling.inputs import near_names

if TYPE_CHECKING:
    import datasets

LISTS = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
DATA_SETS = ("dataset_dict.json", "state.json", "dedn.json")  # of `save_to_disk`, and of `dedn prepare`
TABLES = (".parquet", ".arrow")


class Files(Sequence):
    """Photos in files, by name below a root. The names are one piece of memory, which worker processes share."""

    def __init__(self, names: Iterable[str], root: str = "") -> None:
        self.root, self.joined, self.starts = root, bytearray(), array("q", [0])
        for name in names:
            self.joined += os.fsencode(name)
            self.starts.append(len(self.joined))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[str, str]:  # type: ignore[override]  # no slices
        name = self.name(index)
        return printable(name), os.path.join(self.root, name)

    def name(self, index: int) -> str:
        """As it was given."""
        return os.fsdecode(bytes(self.joined[self.starts[index] : self.starts[index + 1]]))

    def identity(self) -> Iterator[bytes | bytearray]:
        """Bytes that change with the files' names."""
        yield from (os.fsencode(self.root), self.starts.tobytes(), self.joined)


class Rows(Sequence):
    """The images of one split of a data set."""

    def __init__(self, rows: datasets.Dataset, column: str, split: str) -> None:
        import datasets

        texts = [name for name, feature in rows.features.items() if getattr(feature, "dtype", "") == "string"]
        self.column, self.split, self.file = column, split, column_of(texts, FILE_COLUMNS)
        self.rows = rows.select_columns([column, *[self.file] * bool(self.file)])
        self.rows = self.rows.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, str | bytes | None]:  # type: ignore[override]
        row = self.rows[index]
        stored = row[self.column] or {}
        source = stored.get("path") if stored.get("bytes") is None else stored["bytes"]
        return printable(f"{self.split}/{row[self.file] if self.file else index}"), source

    def identity(self) -> Iterator[bytes]:
        """Bytes that change with the data set."""
        yield f"{self.rows._fingerprint} {self.split}".encode()


@dataclass
class Collection(Sequence):
    """Photos of several sources, one after the other.

    Args:
        parts: `Files` and `Rows`. skipped: one line for each reason why files are not among them.
    """

    parts: list[Files | Rows] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> tuple[str, str | bytes | None]:  # type: ignore[override]
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]

    def digest(self) -> str:
        """16 hexadecimal digits that change with the photos' names."""
        found = hashlib.sha256()
        for part in self.parts:
            for content in part.identity():
                found.update(content)
        return found.hexdigest()[:16]


def collect(sources: Iterable[str | os.PathLike], file_column: str | None = None) -> Collection:
    """The photos of all sources in the order given: those of a folder sorted, each file once.

    Args:
        sources: photos; folders, with the folders in them; lists of files (.csv, .tsv, .txt, .jsonl, .parquet), with
            paths relative to the list's folder; data sets of images, folders or names on the Hub. file_column: of a
            list, the column with the files; of a data set, that with the images. Default: found out.

    Raises:
        FileNotFoundError: no such file, folder or data set, or no photo in all of them.
        ValueError: a list or data set without such a column, or a list that names no file that is there.
    """
    unused, single = Photos(""), []
    parts: list[Files | Rows] = []
    for source in (os.fspath(each) for each in sources):
        path = os.path.abspath(source)
        if os.path.isfile(path) and Path(path).suffix.lower() not in LISTS:
            single.append(path)
            continue
        if single:
            parts.append(Files(single))
            single = []
        parts += parts_of(source, path, file_column, unused)
    parts = without_repeats([*parts, Files(single)])
    if not any(map(len, parts)):
        raise FileNotFoundError(" ".join(["There are no photos.", *unused.describe_skipped()]))
    return Collection(parts, unused.describe_skipped())


def parts_of(source: str, path: str, file_column: str | None, unused: Photos) -> list[Files | Rows]:
    """The photos of a folder, a list or a data set; `path` is `source` made absolute."""
    if os.path.isfile(path):
        return listed(path, file_column)
    if not os.path.isdir(path):
        if source.count("/") != 1 or source[0] in "./":
            raise FileNotFoundError(f"There is no file or folder {path}.")
        return rows_of(source, file_column, f"There is no file or folder {path}, and ")
    if any(os.path.isfile(os.path.join(path, name)) for name in DATA_SETS):
        return rows_of(path, file_column)
    inside = Photos(path)
    files = Files(photos_in(path, inside))
    if not files and any(name.endswith(TABLES) for names in inside.skipped.values() for name in names):
        return rows_of(path, file_column)
    for reason, names in inside.skipped.items():
        unused.skipped[reason] += names
    return [files]


def photos_in(folder: str, unused: Photos) -> Iterator[str]:
    """The paths of the photos in a folder and the folders in it, sorted."""
    for path, parts in walk(folder, unused):
        if reason := why_unused(path):
            unused.skipped[reason].append(printable("/".join(parts)))
        else:
            yield path


def rows_of(source: str, column: str | None, otherwise: str = "") -> list[Files | Rows]:
    """The images of a data set. otherwise: how the message begins where there is none."""
    from dedn_hf.data.stored import find_images, open_dataset

    try:
        splits = open_dataset(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{otherwise}{error}") from error
    features = next(iter(splits.values())).features
    if column is not None and column not in features:
        raise ValueError(f"{source} has no column {column!r}.{near_names(column, features)}")
    column = column or find_images(features)
    return [Rows(rows, column, split) for split, rows in splits.items()]


def without_repeats(parts: Sequence[Files | Rows]) -> list[Files | Rows]:
    """The same parts with each file once, where it comes first."""
    files = [part for part in parts if isinstance(part, Files)]
    hashes = np.fromiter((hash(path) for part in files for _, path in part), np.int64, sum(map(len, files)))
    if len(np.unique(hashes)) == len(hashes):  # none is there twice, which is found out without a set of them all
        return list(parts)
    seen: set[str] = set()

    def first(part: Files) -> Iterator[str]:
        for index, (_, path) in enumerate(part):
            if path not in seen:
                seen.add(path)
                yield part.name(index)

    return [Files(first(part), part.root) if isinstance(part, Files) else part for part in parts]


# Lists ---------------------------------------------------------------------------------------------------------------


def listed(path: str, column: str | None) -> list[Files | Rows]:
    """The files that a list names, or the images that a Parquet file holds."""
    try:
        if path.lower().endswith(".parquet") and (images := image_column(path, column)):
            import datasets

            return [Rows(datasets.Dataset.from_parquet(path), images, Path(path).stem)]
        files = Files(names_in(path, column), os.path.dirname(path))
    except (csv.Error, json.JSONDecodeError, ArrowInvalid) as error:
        raise ValueError(f"{path} is no list of photos that can be read: {error}") from error
    if files and not any(os.path.isfile(place) for _, place in files):
        raise ValueError(
            f"{path} names {len(files)} files, and none is there. The first is {files[0][1]!r}: paths are relative to "
            "the folder of the list."
        )
    return [files]


def image_column(path: str, column: str | None) -> str | None:
    """The column with images, and not with their paths, of a Parquet file."""
    found = [each.name for each in parquet.read_schema(path) if is_struct(each.type)]
    return next((name for name in found if column in (None, name)), None)


def names_in(path: str, column: str | None) -> Iterator[str]:
    """What a list names, row by row; empty cells are left out."""
    if path.lower().endswith(".parquet"):
        file = parquet.ParquetFile(path)
        column = chosen_column(path, file.schema_arrow.names, column)
        for batch in file.iter_batches(columns=[column]):
            yield from filter(None, map(text_of, batch.column(0).to_pylist()))
        return
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        if path.lower().endswith(".txt"):
            yield from filter(None, map(str.strip, file))
            return
        rows = csv_rows(file) if path.lower().endswith((".csv", ".tsv")) else map(json.loads, filter(str.strip, file))
        for number, row in enumerate(rows):
            if number == 0:
                column = chosen_column(path, [name for name in row if name is not None], column)
            if name := text_of(row.get(column)):
                yield name


def chosen_column(path: str, columns: Sequence[str], column: str | None) -> str:
    """The column of files; raises ValueError where there is none."""
    if column is None:
        return required_column(path, columns, FILE_COLUMNS, "files")
    if column not in columns:
        raise ValueError(f"{path} has no column {column!r}.{near_names(column, columns)} It has {', '.join(columns)}.")
    return column
