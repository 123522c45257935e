"""Classes that are described after the training: their rows, their nearest classes, and what would set them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dedn_hf.data.catalog import abbreviate
from dedn_hf.explain.names import find_name, spoken, spoken_class
from dedn_hf.modeling.attribute_table import AttributeTable, near_names
from dedn_hf.traits import matching, read_traits
from dedn_hf.traits.wording import columns_of, described_columns, filled_from, fills_of, in_words

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.traits.reading import TraitTable

SAME = 0.9999  # cosine; nothing sets the classes apart
AVERAGE = 0.25  # share of the seen classes that are as near to the average class; see docs/describing.md
NEAREST, TELLING, SHOWN = 3, 4, 12  # classes, and traits, that are named


@dataclass
class Neighbour:
    """A class that a described one is near to.

    Args:
        name: of the class. seen: whether the model was trained on its photos. similarity: cosine of the class
            attributes as the model compares them, -1..1; 1 is the same. apart: what differs most, in words.
    """

    name: str
    seen: bool
    similarity: float
    apart: list[str]


@dataclass
class Described:
    """A class that was described, and what to know about it; `str` gives a few lines.

    Args:
        name: of the class. is_new: False where the model knew the class. traits: column -> value, in words; many of
            them with the most special first.
        left_out: columns that are not described, so that the class is average in them. nearest: the classes that it
            is most likely confused with. warnings: what will spoil its answers, and what to say besides. photos: how
            many it was described by.
    """

    name: str
    is_new: bool
    traits: dict[str, str]
    left_out: list[str]
    nearest: list[Neighbour]
    warnings: list[str] = field(default_factory=list)
    photos: int = 0

    def __str__(self) -> str:
        seen_in = f", from {self.photos} photo{'s' * (self.photos > 1)} too" if self.photos else ""
        lines = [f"{self.name}, {'a new class' if self.is_new else 'changed'}{seen_in}:"]
        lines += [f"  {spoken(name)}: {value}" for name, value in list(self.traits.items())[:SHOWN]]
        if len(self.traits) > SHOWN:
            lines.append(f"  and {len(self.traits) - SHOWN} more traits, which are less special")
        if self.left_out:
            lines.append(f"  not described, so average: {abbreviate([spoken(name) for name in self.left_out], 8)}")
        lines.append("  nearest classes (1 would be the same):")
        for each in self.nearest:
            source = "photos" if each.seen else "description"
            apart = f"; apart by {'; '.join(each.apart)}" if each.apart else ""
            lines.append(f"    {each.similarity:5.2f}  {spoken_class(each.name)} (known from {source}){apart}")
        return "\n".join([*lines, *(f"  ! {warning}" for warning in self.warnings)])


# Rows ----------------------------------------------------------------------------------------------------------------


def described_row(
    table: AttributeTable,
    name: str,
    description: Mapping[str, Any],
    like: str | None = None,
    traits: str | Path | None = None,
) -> tuple[str, np.ndarray]:
    """Name and row, A, of one class.

    Args:
        name: of a new class, or of one in the table, which is changed. description: as of `AttributeTable.describe`;
            attributes may be called as people say them, such as 'bill shape: hooked'.
        like: the class that it is like in all that is left out; default: itself where the table knows it, else the
            average class. traits: a table of traits with a row for it; `description` overrules that.

    Raises:
        ValueError: an unknown class, trait or value; a new class of which nothing is said.
        FileNotFoundError: no such file.
    """
    known = table.known_name(name)
    start = like if like is None else table.class_names[find_name(like, table.class_names, spoken_class, "class")]
    start, base = start or known, table
    if start is not None:
        base = filled_from(table, table.class_attributes[table.class_names.index(start)])
    if traits is not None:
        base = filled_from(base, row_of(read_traits(traits, like=base), name))
    if not description and base is not table:
        return known or name, fills_of(base)
    return known or name, base.describe(name, in_words_of(table, description))


def in_words_of(table: AttributeTable, description: Mapping[str, Any]) -> dict[str, Any]:
    """The description, with attributes that are called as people say them as the table calls them.

    Raises ValueError where both names of one are given.
    """
    plain = [spoken(attribute).casefold() for attribute in table.attribute_names]
    found = {}
    for said, value in description.items():
        places = [place for place, name in enumerate(plain) if name == str(said).casefold()]
        name = table.attribute_names[places[0]] if len(places) == 1 else said
        if name in found:
            raise ValueError(f"{name!r} is given twice. Leave out one.")
        found[name] = value
    return found


def row_of(table: TraitTable, name: str) -> np.ndarray:
    """The row of a class, A, in a table that was read; its only row, whatever that is called. Raises ValueError."""
    found = matching.match(table.class_names, [name]).folder_of
    if not found and len(table) > 1:
        raise ValueError(f"{table.report.source} has no row {name!r}.{near_names(name, table.class_names)}")
    return table.class_attributes[table.class_names.index(next(iter(found), table.class_names[0]))]


def described_rows(table: AttributeTable, traits: str | Path) -> dict[str, np.ndarray]:
    """Name -> row, A, of all classes of a table of traits. Those that `table` knows are called as there."""
    read = read_traits(traits, like=table)
    names = matching.match(read.class_names, table.class_names).folder_of
    return {names.get(name, name): row for name, row in zip(read.class_names, read.class_attributes, strict=True)}


def with_classes(table: AttributeTable, rows: Mapping[str, np.ndarray]) -> AttributeTable:
    """The table with these rows, A each: in place of those of the same names, or after the others, as unseen."""
    new = [name for name in rows if name not in table.class_names]
    values = [rows.get(name, row) for name, row in zip(table.class_names, table.class_attributes, strict=True)]
    return table.replace(
        class_names=table.class_names + new,
        class_attributes=np.stack([*values, *(rows[name] for name in new)]),
        roles=table.roles + ["unseen"] * len(new),
    )


# What a class is confused with --------------------------------------------------------------------------------------


def compare(
    model: DEDNForZeroShot, table: AttributeTable, name: str, before: AttributeTable, photos: int = 0
) -> Described:
    """What to know about class `name` of `table`; before: the table without it, or without its change.

    photos: how many it was described by.
    """
    index = table.class_names.index(name)
    row, directions = table.class_attributes[index], directions_of(model, table)
    similarities = directions @ directions[index]
    similarities[index] = -np.inf
    order = np.argsort(-similarities, kind="stable")[: min(NEAREST, len(table) - 1)]
    told = most_special(table, directions, index)
    names, seen = table.class_names, table.seen.tolist()
    nearest = [Neighbour(names[k], seen[k], float(similarities[k]), apart(table, directions, index, k)) for k in order]
    missing = [column for column in columns_of(table) if column not in told]
    found = Described(
        name,
        name not in before.class_names,
        {column: in_words(table, row, column) for column in told},
        missing,
        nearest,
    )
    found.photos = photos
    found.warnings = warnings_of(model, before, table, index, nearest, bool(missing) and not photos)
    if found.warnings:
        found.warnings.append(advice(table, directions, missing, order))
    return found


def most_special(table: AttributeTable, directions: np.ndarray, index: int) -> list[str]:
    """The columns that describe a class; many of them in the order in which it differs most from the average class."""
    told = described_columns(table, table.class_attributes[index])
    if len(told) <= SHOWN:
        return told
    special = (directions[index] - average(table, directions)) ** 2
    places = columns_of(table)
    return sorted(told, key=lambda column: special[places[column]].sum(), reverse=True)


def average(table: AttributeTable, directions: np.ndarray) -> np.ndarray:
    """A, the mean over the classes with photos, or over all where there are none."""
    return directions[table.seen if table.seen.any() else slice(None)].mean(axis=0)


def directions_of(model: DEDNForZeroShot, table: AttributeTable) -> np.ndarray:
    """K x A, of length 1, as the model compares classes."""
    attributes = torch.from_numpy(table.select_attributes(model.config.attribute_names).class_attributes)
    return model.normalized_class_attributes(attributes.to(model.class_attributes)).float().cpu().numpy()


def apart(table: AttributeTable, directions: np.ndarray, index: int, other: int) -> list[str]:
    """The columns in which two classes differ most, as 'crest (yes, not no)'."""
    differences = (directions[index] - directions[other]) ** 2
    sizes = {column: differences[places].sum() for column, places in columns_of(table).items()}
    rows, found = table.class_attributes, []
    for column in sorted(sizes, key=sizes.__getitem__, reverse=True)[:TELLING]:
        one, two = said(table, rows[index], column), said(table, rows[other], column)
        if one != two:
            found.append(f"{spoken(column)} ({one}, not {two})")
    return found


def said(table: AttributeTable, row: np.ndarray, column: str) -> str:
    """As `in_words`; 'average' where nothing is said."""
    return in_words(table, row, column) if column in described_columns(table, row) else "average"


def warnings_of(
    model: DEDNForZeroShot,
    before: AttributeTable,
    table: AttributeTable,
    index: int,
    nearest: list[Neighbour],
    is_incomplete: bool,
) -> list[str]:
    """What will spoil the answers: a class that is the same as another, unusually near to it, or nearly average.

    is_incomplete: it is described by words alone, and not by all traits.
    """
    others = before.class_names
    kept = [i for i, name in enumerate(others) if name != table.class_names[index]]
    found, directions = [], directions_of(model, before)[kept]
    between = directions @ directions.T - 2 * np.eye(len(kept))
    best = nearest[0] if nearest else None
    if best is not None and best.similarity > SAME:
        found.append(f"Nothing sets it apart from {spoken_class(best.name)}: all photos of both get one answer.")
    elif best is not None and len(kept) > 2 and best.similarity > between.max():
        found.append(
            f"It is nearer to {spoken_class(best.name)} than any two other classes are to each other "
            f"({best.similarity:.2f}, at most {between.max():.2f}): many of its photos may be taken for that."
        )
    means = fills_of(before)
    lengths = np.linalg.norm(before.class_attributes[before.seen] - means, axis=1)
    length = np.linalg.norm(table.class_attributes[index] - means)
    if is_incomplete and len(lengths) > 1 and length < np.quantile(lengths, AVERAGE):
        found.append(
            f"It is described by little, and so near to the average class ({length / np.median(lengths):.2f}, where "
            "classes with photos have 1): many of its photos may not be found."
        )
    return found


def advice(table: AttributeTable, directions: np.ndarray, missing: list[str], nearest: np.ndarray) -> str:
    """Which further traits would set a class apart from its nearest ones: those that are most special about these."""
    special = (directions[nearest] - average(table, directions)) ** 2
    places, rows = columns_of(table), table.class_attributes
    sizes = {column: special[:, places[column]].sum() for column in missing}
    best = [column for column in sorted(sizes, key=sizes.__getitem__, reverse=True) if sizes[column] > 0][:TELLING]
    if not best:
        return "All traits of the table are described. Only another column, or photos to train on, would set it apart."
    texts = []
    for column in best:
        values = [f"{spoken_class(table.class_names[k])}: {said(table, rows[k], column)}" for k in nearest]
        texts.append(f"{spoken(column)} ({', '.join(values)})")
    return f"Say more of it, best: {'; '.join(texts)}."
