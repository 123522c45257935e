"""Classes in rows and traits in columns, whichever way a table has them: long, transposed, with units beside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dedn_hf.modeling.attribute_table import GROUP_ROW
from dedn_hf.modeling.inputs import known_unit, means_missing, quantity
from dedn_hf.traits import matching
from dedn_hf.traits.cells import is_number
from dedn_hf.traits.opening import Sheet

TRAIT = "traitname measurementtype trait predicate attribute character characteristic variable parameter property"
TRAIT += " feature merkmal eigenschaft caractère caractere rasgo caracter carácter carattere kenmerk"
VALUE = "stdvalue measurementvalue origvaluestr traitvalue normalmeasurement value measurement measure state score"
VALUE += " characterstate wert ausprägung valeur valor valore waarde"
UNIT = {"stdvalue": ("unitname",), "origvaluestr": ("origunitstr", "unitname")}
UNITS = "measurementunit unitname traitunit normalunits units unit uom einheit unité unite unidad unità unita eenheid"
UNIT_ROWS = ("", "unit", "units", "einheit", "einheiten", "unité", "unités", "unidad", "unidades", "unità")
_TOTALS = "mean average total totals sum sd median mittelwert summe gesamt moyenne somme media promedio"
_TOTALS += " minimum maximum min max stdev std"
TOTALS = (
    rf"(?:(?:grand|sub)[ -]?)?(?:{'|'.join(_TOTALS.split())})(?: ?(?:±|\+/-|and|&) ?(?:sd|se|std))?[.:]?"  # no class
)


def turned(sheet: Sheet, class_column: str, columns: Sequence[str] | None = None) -> Sheet:
    """The sheet with a column for each trait, if it is long; else the sheet.

    Args:
        class_column: with the classes' names. columns: of the trait, the value and, where there is one, the unit; None
            to find out.

    Raises:
        ValueError: no such column.
    """
    found = tuple(columns) if columns else _long_columns(sheet, class_column)
    if found is None:
        return sheet
    for name in [each for each in found if each and each not in sheet.cells]:
        raise ValueError(f"{sheet.source} has no column {name!r}. It has {', '.join(map(repr, sheet.cells))}.")
    trait, value, unit = (*found, None)[:3]
    cells = sheet.cells
    rows = cells[(cells[trait] != "") & (cells[class_column] != "")]
    text = rows[value].where(rows[value] != "", rows.get("OrigValueStr", "") if value == "StdValue" else "")
    if unit:
        with_unit = text.str.fullmatch(r".*\d") & (rows[value] != "") & (rows[unit] != "")
        text = text.where(~with_unit, text + " " + rows[unit])
    keys = [rows[class_column], rows[trait].str.strip()]
    frame = rows[[class_column]].assign(trait=keys[1], text=text, line=sheet.lines.loc[rows.index, value])
    frame["turn"] = frame.groupby([class_column, "trait"]).cumcount()
    wide = {
        what: frame.pivot(index=[class_column, "turn"], columns="trait", values=what).reset_index()
        for what in ("text", "line")
    }
    first = frame.groupby(class_column)["line"].min()
    lines = wide["line"].fillna(0).drop(columns="turn")
    lines[class_column] = wide["text"][class_column].map(first)
    left = len(cells) - len(rows)
    note = f"one trait a row: each of {rows[trait].nunique()} in {trait!r} became a column"
    notes = [*sheet.notes, note + (f"; {left} rows without a trait or a class left out" if left else "")]
    turned_cells = wide["text"].fillna("").drop(columns="turn")
    turned_cells.columns.name = lines.columns.name = None
    return Sheet(turned_cells, lines, sheet.source, sheet.row_word, notes, sheet.delimiter)


def with_units(sheet: Sheet) -> tuple[Sheet, dict[str, str]]:
    """The sheet with each column of units, such as 'body mass - units', written into its neighbour's cells.

    Returns:
        The sheet, and name of the column of units -> why it is no trait.
    """
    cells, gone = sheet.cells, {}
    for name in list(cells):
        base = re.sub(r"[\s_.\-]*[(\[]?units?[)\]]?$", "", name, flags=re.IGNORECASE)
        if base == name or not base:
            continue
        of = next(
            (each for each in cells if each != name and _plain(each) in (_plain(base), _plain(base) + "value")), None
        )
        if of is None:
            continue
        filled = cells[of].str.fullmatch(r".*\d") & (cells[name] != "")
        cells = cells.assign(**{of: cells[of].where(~filled, cells[of] + " " + cells[name])})
        gone[name] = f"the units of {of!r}"
    kept = [name for name in cells if name not in gone]
    return Sheet(cells[kept], sheet.lines[kept], sheet.source, sheet.row_word, sheet.notes, sheet.delimiter), gone


def upright(opened: Sheet, folders: list[str] | None, aliases: Mapping | None, transposed: bool | None) -> Sheet:
    """The sheet with classes in rows."""
    cells = opened.cells
    if transposed is None:
        first = cells.columns[0].casefold()
        if folders:
            in_header = matching.count_matches(cells.columns[1:], folders, aliases)
            in_rows = max(matching.count_matches(cells[name], folders, aliases) for name in cells)
            transposed = in_header > in_rows
        elif first in ("trait", "traits", "attribute", "attributes", "character", "characters", "feature", "merkmal"):
            transposed = _long_columns(opened, cells.columns[0]) is None and cells.iloc[:, 0].nunique() == len(cells)
        elif _looks_transposed(cells[cells.iloc[:, 0] != ""]):
            raise ValueError(
                f"{opened.source}: the classes seem to stand in columns ({', '.join(cells.columns[1:4])}) and the "
                f"traits in rows ({', '.join(cells.iloc[:3, 0])}). Say transposed=True, or transposed=False if not."
            )
    if not transposed:
        return opened
    turned = cells.set_index(cells.columns[0]).T
    lines = pd.DataFrame(
        [opened.lines.iloc[:, 0].to_numpy()] * len(turned), index=turned.index, columns=turned.columns
    )
    turned.columns.name = lines.columns.name = None
    repeated = turned.columns[turned.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{opened.source}: the trait {repeated[0]!r} stands in two rows. Rename or remove one.")
    name = "class"
    both = [each.rename_axis(name).reset_index() for each in (turned, lines)]
    both[1][name] = 1
    return Sheet(both[0], both[1], opened.source, opened.row_word, [*opened.notes, "classes stood in columns: turned"])


def _looks_transposed(cells: pd.DataFrame) -> bool:
    """Whether each row is of one kind or size, and no column is: then the rows are traits."""
    body = cells.iloc[:, 1:]
    if body.shape[1] < 3 or len(body) < 2:
        return False
    gaps = body.map(lambda cell: means_missing(cell))
    numbers = body.map(is_number) & ~gaps
    text = ~numbers & ~gaps
    if text.to_numpy().any():
        mixed_columns, mixed_rows = ((numbers.any(axis=axis) & text.any(axis=axis)) for axis in (0, 1))
        return bool(mixed_columns.mean() > 0.8 and not mixed_rows.any())
    if gaps.to_numpy().any() or len(body) < 3:
        return False
    values = body.map(lambda cell: quantity(cell)[0]).to_numpy()
    shares = ((values >= 0) & (values <= 1)).all(axis=1) & np.isin(values, (0, 1)).any(axis=1)
    sizes = (values > 5).all(axis=1)
    return bool((shares | sizes).all() and shares.any() and sizes.any())


def second_headers(opened: Sheet, class_column: str) -> tuple[Sheet, dict[str, str] | None, dict[str, str]]:
    """Rows right under the header that give groups or units, taken off: group and unit of each column."""
    groups, units = None, {}
    while len(opened.cells) > 1:
        row = opened.cells.iloc[0]
        told = {name: cell.strip("()[] ") for name, cell in row.items() if name != class_column and cell}
        given = {name: cell for name, cell in told.items() if known_unit(cell)}
        mark = row[class_column].casefold()
        if mark == GROUP_ROW:
            groups = row.to_dict()
        elif mark.strip("()[]: ") in UNIT_ROWS and given and not any(map(is_number, told.values())):
            units = given
            opened.notes.append("units in the row under the header")
        else:
            break
        opened = opened.take(opened.cells.index[1:])
    return opened, groups, units


def _long_columns(sheet: Sheet, class_column: str) -> tuple[str, str, str | None] | None:
    plain = {_plain(name): name for name in sheet.cells if name != class_column}
    trait = next((plain[each] for each in TRAIT.split() if each in plain), None)
    value = next((plain[each] for each in VALUE.split() if each in plain), None)
    if trait is None or value is None:
        return None
    traits = sheet.cells[trait][sheet.cells[trait] != ""]
    names = sheet.cells[class_column]
    if traits.nunique() == len(traits) and names.nunique() == len(names):
        return None
    units = UNIT.get(_plain(value), UNITS.split())
    return trait, value, next((plain[each] for each in units if each in plain), None)


def seems_long(sheet: Sheet, class_column: str) -> str | None:
    """A column with at least three words that all classes have in different rows, as names of traits would be."""
    cells = sheet.cells
    classes = cells[class_column].nunique()
    for name in cells:
        words = cells[name].nunique()
        pairs = cells[[class_column, name]].duplicated().any()
        if name != class_column and words > 2 and not pairs and len(cells) == words * classes and classes > 1:
            return name
    return None


def with_binomials(sheet: Sheet) -> Sheet:
    """The sheet with 'Parus' and 'major' of two columns as one name: 'major' may be a species of several genera."""
    plain = {_plain(name): name for name in sheet.cells}
    genus = next((plain[each] for each in ("genus", "gattung", "género", "genere") if each in plain), None)
    species = next((plain[each] for each in ("specificepithet", "epithet", "species", "art") if each in plain), None)
    if genus is None or species is None:
        return sheet
    first, second = sheet.cells[genus], sheet.cells[species]
    if not second[second != ""].str.fullmatch(r"[a-zë-]+\.?").all():
        return sheet
    both = (first + " " + second).where((first != "") & (second != ""), second)
    notes = [*sheet.notes, f"names put together from {genus!r} and {species!r}"]
    return replace(sheet, cells=sheet.cells.assign(**{species: both}), notes=notes)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def classes_only(opened: Sheet, class_column: str) -> Sheet:
    """The rows that name a class and say something of it. Raises ValueError where there is none."""
    named = opened.cells[class_column] != ""
    summed = opened.cells[class_column].str.casefold().str.fullmatch(TOTALS)
    if summed.any() and not summed.all():
        opened.notes.append(f"no class: {', '.join(map(repr, opened.cells[class_column][summed]))}")
        named &= ~summed
    others = opened.cells.drop(columns=class_column)
    told = others.map(lambda cell: cell != "").any(axis=1)
    nameless = opened.cells[class_column] == ""
    if nameless.any():
        rows = f"{nameless.sum()} row{'s' if nameless.sum() > 1 else ''}"
        opened.notes.append(f"{rows} without a name in {class_column!r} left out")
    if (named & ~told).any():
        names = ", ".join(map(repr, opened.cells[class_column][named & ~told][:4]))
        opened.notes.append(f"rows with a name only left out: {names}")
    if not (named & told).any():
        raise ValueError(f"{opened.source}: no row has a name in the column {class_column!r} and a value beside it.")
    return opened.take(named & told)
