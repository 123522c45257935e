"""All columns on one scale, gaps where they neither help nor hurt a class, and what that means for each attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dedn_hf.modeling.inputs import one_scale, scaled
from dedn_hf.traits.columns import Column

ROOM = 0.05  # below the lowest value, where a class would be 0 in every column and so have no direction
DECADES = 100  # a column whose largest value is that many times its smallest spans decades

UNLIKE = "columns of unlike scales brought to 0 to 1 over the training classes"


def attributes_of(columns: Sequence[Column], seen: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]], str]:
    """Class attributes, their traits, and what was done about scales.

    Columns that share the scale 0..1 or 0..100, or are of like size, stay exactly as they are. Otherwise each column
    of numbers goes to 0..1 over the training classes, by its logarithm where it spans decades. A gap becomes the
    column's mean over the training classes: with centred class attributes that is exactly 0, so it adds nothing to
    the score of any image.

    Args:
        columns: C columns of K classes, of one table or of several, each with a scale of its own.
        seen: K bool, the training classes (all, where there are none).

    Returns:
        K x A; A traits as in `AttributeTable.traits`; a sentence for the report.
    """
    seen = seen if seen.any() else np.ones_like(seen)
    wholes, sentence = _scales_of_tables(columns)
    values, traits = _scaled_columns(columns, wholes, seen, 0.0)
    if not values.astype(np.float32).any(axis=1).all() and any(trait["scale"] for trait in traits):
        values, traits = _scaled_columns(columns, wholes, seen, ROOM)
        sentence += f", the lowest to {ROOM}, as a class is the lowest in all of them"
    return values, traits, sentence


def _scales_of_tables(columns: Sequence[Column]) -> tuple[dict[str, tuple[float | None, bool]], str]:
    """Table -> its common scale, as of `_common_scale`, and whether its 0 to 100 becomes 0 to 1; a sentence."""
    found = {
        table: _common_scale([column for column in columns if column.table == table])
        for table in dict.fromkeys(column.table for column in columns)
    }
    scales = {whole for whole, _ in found.values()}
    if len(found) == 1 or scales in ({1.0}, {100.0}):
        return {table: (whole, False) for table, (whole, _) in found.items()}, next(iter(found.values()))[1]
    sentences = [
        f"{table}: {said if whole == 1 else '0 to 100 brought to 0 to 1' if whole else UNLIKE}"
        for table, (whole, said) in found.items()
    ]
    return {table: (whole or None, whole == 100) for table, (whole, _) in found.items()}, "; ".join(sentences)


def _scaled_columns(
    columns: Sequence[Column], wholes: Mapping[str, tuple[float | None, bool]], seen: np.ndarray, room: float
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    values, traits = [], []
    for column in columns:
        whole, to_one = wholes[column.table]
        for trait, numbers in _parts(column, whole, seen, room):
            if to_one:
                trait |= {"scale": [0.0, 100.0], "has_it": 1.0}
            part = np.asarray(scaled(trait, numbers), dtype=np.float64)
            told = part[seen][~np.isnan(part[seen])]
            trait["fill"] = float(np.float32((told if len(told) else part[~np.isnan(part)]).mean()))
            values.append(np.where(np.isnan(part), trait["fill"], part))
            traits.append(trait)
    return np.stack(values, axis=1), traits


def _common_scale(columns: Sequence[Column]) -> tuple[float | None, str]:
    """1, 100 or 0 (like sizes, no scale that is known) where columns stay as they are, None where they cannot."""
    numeric = [column for column in columns if column.kind != "category"]
    if not numeric:
        return 1.0, "categories are 0 or 1"
    values = np.stack([column.values for column in numeric], axis=1)
    values = np.where(np.isnan(values), np.nanmin(values, axis=0), values)
    units = {column.unit for column in numeric}
    if units <= {"", "%"}:
        whole = one_scale(values)
        if whole is not None and (whole == 100 or "%" not in units):
            return whole, f"all columns are on the scale 0 to {whole:g}: left as they are"
    top = np.abs(values).max(axis=0)
    plain = len(numeric) == len(columns) and units <= {""} and all(column.kind == "number" for column in numeric)
    if plain and top.max() <= 3 * top.min():
        return 0.0, "all columns are of like size: left as they are"
    return None, UNLIKE


def _parts(
    column: Column, whole: float | None, seen: np.ndarray, room: float
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """The attributes of a column, each with its trait and its K values as the table gives them."""
    trait = {
        "attribute": column.name,
        "column": column.name,
        "kind": column.kind,
        "category": None,
        "unit": column.unit,
        "range": [0.0, whole or 1.0],
        "scale": None,
        "offset": None,
        "fill": 0.0,
        "has_it": whole or 1.0,
    }
    if column.kind == "category":
        return [
            (trait | {"attribute": f"{column.name}={each}", "category": each}, column.values[:, i] * (whole or 1.0))
            for i, each in enumerate(column.categories)
        ]
    numbers = column.values
    if whole or (whole is None and _is_share(column)):
        return [(trait, numbers)]
    told = numbers[~np.isnan(numbers)]
    trait |= {"range": [float(told.min()), float(told.max())], "has_it": None}
    if whole is None:
        trait |= _own_scale(column, seen, room)
    return [(trait, numbers)]


def _is_share(column: Column) -> bool:
    """Whether a column beside others of another scale is on 0 to 1 already."""
    if column.kind == "yes/no":
        return True
    low, high = np.nanmin(column.values), np.nanmax(column.values)
    return column.kind == "number" and not column.unit and low >= 0 and 0.5 <= high <= 1


def _own_scale(column: Column, seen: np.ndarray, room: float) -> Mapping[str, Any]:
    everywhere = column.values[~np.isnan(column.values)]
    told = column.values[seen & ~np.isnan(column.values)]
    if not len(told) or told.min() == told.max():
        told = everywhere  # nothing to learn from, but unseen classes still differ
    offset = None
    positive = everywhere[everywhere > 0]
    if (
        column.kind == "number"
        and everywhere.min() >= 0
        and len(positive)
        and everywhere.max() >= DECADES * positive.min()
    ):
        offset = 0.0 if everywhere.min() > 0 else float(positive.min())
    low, high = float(told.min()), float(told.max())
    if low == high:
        return {"scale": [low - 1, high], "offset": None}
    if offset is None:
        low -= room * (high - low)
    else:
        low = (low + offset) * ((low + offset) / (high + offset)) ** room - offset
    return {"scale": [low, high], "offset": offset}
