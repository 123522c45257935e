"""A new table in the words and scales of an old one: what `read_traits(..., like=model)` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.inputs import (
    check_range,
    of_hundred,
    plain_name,
    plain_traits,
    require_whole_scale,
    scaled,
    unit_name,
)
from dedn_hf.traits.columns import header_unit, read_column
from dedn_hf.traits.opening import Sheet
from dedn_hf.traits.report import TraitReport
from dedn_hf.traits.styles import Style


def encode_columns(
    table: AttributeTable,
    sheet: Sheet,
    candidates: Sequence[str],
    owners: np.ndarray,
    count: int,
    styles: Mapping[str, Style],
    report: TraitReport,
    units: Mapping[str, str],
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """K x A in the scale of `table`, and its traits; what is not in `sheet` is a gap.

    units: of columns, where a row under the header gives them.

    Raises:
        ValueError: no column of the table is there; a value that does not fit, with its place.
    """
    traits = table.traits or plain_traits(table)
    values = np.tile(np.array([trait["fill"] for trait in traits]), (count, 1))
    plain = {plain_name(name): name for name in candidates}
    used, absent, on_100 = set(), [], []
    for source in dict.fromkeys(trait["column"] for trait in traits):
        places = [i for i, trait in enumerate(traits) if trait["column"] == source]
        name = source if source in candidates else plain.get(plain_name(source))
        if name is None:
            absent.append(source)
            continue
        used.add(name)
        first = traits[places[0]]
        sheet = with_unit(sheet, name, units.get(name) or header_unit(name), first["unit"])
        categories = [traits[i]["category"] for i in places] if first["category"] is not None else None
        column = read_column(
            sheet, name, owners, count, styles[name], first["kind"], first["unit"] or None, categories
        )
        gaps = column.gaps
        if of_hundred(first) and first["kind"] == "number":
            on_100 += column.values[~gaps].tolist()
        for row in np.flatnonzero(~gaps):
            index = sheet.cells.index[np.flatnonzero(owners == row)[0]]
            if categories is not None:
                values[row, places] = column.values[row] * first["has_it"]
                continue
            try:
                check_range(first, column.values[row])
            except ValueError as error:
                raise ValueError(f"{sheet.place(index, name)}: {error}.") from None
            values[row, places] = scaled(first, column.values[row])
        report.columns.append({"name": name, "kind": first["kind"], "unit": first["unit"], "attributes": len(places),
                               "categories": categories or [], "range": first["range"], "gaps": float(gaps.mean()),
                               "notes": column.notes})  # fmt: skip
    require_whole_scale(on_100, sheet.source)
    if not used:
        raise ValueError(
            f"{sheet.source} has none of the columns that the model knows: {', '.join(absent[:8])}. Give its columns "
            "these names."
        )
    for name in [each for each in candidates if each not in used]:
        report.ignored[name] = "the model knows no such column"
    if absent:
        report.warnings.append(f"columns of the model that are not here, so gaps: {', '.join(map(repr, absent[:8]))}")
    return values, traits


def with_unit(sheet: Sheet, name: str, unit: str, wanted: str) -> Sheet:
    """The sheet with the unit of a column's header written into its cells, where the model has another one."""
    if not unit or not wanted or unit_name(unit) == wanted:
        return sheet
    cells = sheet.cells[name]
    cells = cells.where(~cells.str.fullmatch(r".*\d"), cells + f" {unit}")
    return replace(sheet, cells=sheet.cells.assign(**{name: cells}))
