"""Class attributes back in the words of the table that they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.inputs import plain_traits

Traits = Sequence[Mapping[str, Any]]


def traits_of(table: AttributeTable) -> list[dict[str, Any]]:
    """What each of the A attributes means; numbers, where the table does not say."""
    return table.traits or plain_traits(table)


def columns_of(table: AttributeTable) -> dict[str, list[int]]:
    """Column of the table that the user wrote -> its attributes."""
    places: dict[str, list[int]] = {}
    for place, trait in enumerate(traits_of(table)):
        places.setdefault(trait["column"], []).append(place)
    return places


def fills_of(table: AttributeTable) -> np.ndarray:
    """A, what stands for gaps: means over the training classes."""
    return np.array([trait["fill"] for trait in traits_of(table)], dtype=np.float32)


def described_columns(table: AttributeTable, row: np.ndarray) -> list[str]:
    """The columns that say something of a class, A: its values differ from what stands for gaps."""
    row, fills = np.asarray(row, dtype=np.float32), fills_of(table)
    return [name for name, places in columns_of(table).items() if not np.allclose(row[places], fills[places])]


def filled_from(table: AttributeTable, row: np.ndarray) -> AttributeTable:
    """The table, but what a description leaves out is as in `row`, A, and not the mean."""
    traits = [trait | {"fill": float(value)} for trait, value in zip(traits_of(table), row, strict=True)]
    return table.replace(traits=traits)


def in_words(table: AttributeTable, row: np.ndarray, column: str) -> str:
    """What a column says of a class, A: 'hooked', '120 g', 'yes'."""
    traits, places = traits_of(table), columns_of(table)[column]
    first, values = traits[places[0]], np.asarray(row, dtype=np.float64)[places]
    if first["category"] is not None:
        shares = values / first["has_it"]
        likely = [traits[i]["category"] for i, share in zip(places, shares, strict=True) if share >= 0.5]
        return ", ".join(likely) or f"{traits[places[int(shares.argmax())]]['category']} {shares.max():.0%}"
    if first["kind"] == "yes/no" and first["has_it"]:
        share = values[0] / first["has_it"]
        return "yes" if share == 1 else "no" if share == 0 else f"yes {share:.0%}"
    digits = 3 if first["scale"] is None else 4
    number = np.format_float_positional(unscaled(first, values[0]), digits, unique=False, fractional=False, trim="-")
    return f"{number} {first['unit']}".strip()


def unscaled(trait: Mapping[str, Any], value: float) -> float:
    """The number of the table that `scaled` turned into `value`."""
    if trait["scale"] is None:
        return value
    low, high = trait["scale"]
    if trait["offset"] is None:
        return low + value * (high - low)
    low, high = low + trait["offset"], high + trait["offset"]
    return low * (high / low) ** value - trait["offset"]
