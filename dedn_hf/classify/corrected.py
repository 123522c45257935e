"""Which corrections belong to which of the photos that are classified."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dedn_hf.classify.collection import Collection
from dedn_hf.data.catalog import abbreviate
from dedn_hf.explain.corrections import Correction, in_cell, read_corrections, sha256_of, trait_of
from dedn_hf.explain.evidence import corrected_values
from dedn_hf.modeling.attribute_table import AttributeTable


@dataclass
class Corrected:
    """The corrections of one photo.

    Args:
        values: place of an attribute -> its true value on the table's scale. words: the same as a person wrote it.
    """

    values: dict[int, float] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(self.words)


def corrections_of(
    path: str | os.PathLike, photos: Collection, table: AttributeTable
) -> tuple[dict[int, Corrected], list[str]]:
    """Place of a photo among `photos` -> its corrections; and a line for those of other photos, if any.

    Raises:
        FileNotFoundError: no such file. ValueError: no such table, or a row with an unknown trait, a bad value, or a
            trait that another row corrects in the same photo.
    """
    rows = read_corrections(path)
    encoded = [encode(path, row, table) for row in rows]
    require_each_once(path, rows, [trait for trait, _ in encoded])
    places = places_of(rows, photos, os.path.dirname(os.path.abspath(path)))
    found: dict[int, Corrected] = defaultdict(Corrected)
    position = {name: place for place, name in enumerate(table.attribute_names)}
    for row, (trait, values), where in zip(rows, encoded, places, strict=True):
        for place in where:
            found[place].values |= {position[name]: value for name, value in values.items()}
            found[place].words.append(f"{trait} = {in_cell(row.value)}")
    elsewhere = list(dict.fromkeys(row.file for row, where in zip(rows, places, strict=True) if not where))
    unused = f"{path}: corrections of {len(elsewhere)} photos are not used, because these are not among the photos "
    unused += f"here, or have changed: {abbreviate(elsewhere, 3)}."
    return dict(found), [unused] * bool(elsewhere)


def encode(path: str | os.PathLike, row: Correction, table: AttributeTable) -> tuple[str, dict[str, float]]:
    """The trait as the table calls it, and attribute -> value. Raises ValueError that names the row."""
    try:
        return trait_of(table, row.trait, row.value), corrected_values(table, {row.trait: row.value})
    except ValueError as error:
        raise ValueError(f"{path}, row {row.row}: {error}") from None


def require_each_once(path: str | os.PathLike, rows: Sequence[Correction], traits: Sequence[str]) -> None:
    """Raise ValueError where two rows correct the same trait of the same photo."""
    first: dict[tuple[str, str], int] = {}
    for row, trait in zip(rows, traits, strict=True):
        number = first.setdefault((row.photo, trait), row.row)
        if number != row.row:
            raise ValueError(
                f"{path}, rows {number} and {row.row} both correct {trait!r} of {row.file}. Delete one of them."
            )


def places_of(rows: Sequence[Correction], photos: Collection, folder: str) -> list[list[int]]:
    """Of each correction, the places of its photo: those with the same content, or of the same path without a hash.

    Only photos of a size that is asked for are read. folder: that paths in the rows are relative to.
    """
    by_path, by_digest = defaultdict(list), defaultdict(list)
    for number, row in enumerate(rows):
        if row.digest is None:
            for path in {row.file, os.path.abspath(row.file), os.path.join(folder, row.file)}:
                by_path[path].append(number)
        else:
            by_digest[row.digest].append(number)
    sizes = {row.size for row in rows if row.digest is not None}
    found: list[set[int]] = [set() for _ in rows]
    for place, (name, source) in enumerate(photos if rows else ()):
        wanted = {*by_path.get(name, ())}
        if isinstance(source, str):
            wanted |= {*by_path.get(source, ()), *by_path.get(os.path.abspath(source), ())}
        if source and may_be_wanted(source, sizes):
            wanted |= {*by_digest.get(sha256_of(source), ())}
        for number in wanted:
            found[number].add(place)
    return [sorted(places) for places in found]


def may_be_wanted(source: str | bytes, sizes: set[int | None]) -> bool:
    """Whether a photo has a size that is asked for, so that it is worth reading. None among `sizes`: any."""
    try:
        return bool(sizes) and (None in sizes or size_of(source) in sizes)
    except OSError:
        return False


def size_of(source: str | bytes) -> int:
    """Number of bytes."""
    return len(source) if isinstance(source, bytes) else os.path.getsize(source)


def as_facts(corrections: Mapping[int, Corrected]) -> list | None:
    """What the answers depend on, for JSON; None without corrections."""
    return [
        [place, [[a, each.values[a]] for a in sorted(each.values)], str(each)]
        for place, each in sorted(corrections.items())
    ] or None
