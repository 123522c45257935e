"""What each column of a trait table is: yes or no, a number, a category, or no trait at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dedn_hf.modeling.inputs import (
    FRACTION,
    MISSING,
    NO,
    YES,
    decimal_sign,
    dimension,
    in_unit,
    is_date,
    known_unit,
    quantity,
    unit_name,
    without_fractions,
)
from dedn_hf.traits.cells import is_number
from dedn_hf.traits.opening import Sheet

KINDS = ("number", "percent", "yes/no", "category")
POSITIVE_MARKS = YES - {"1", "t", "w", "o", "s", "y", "j"}
LETTERS = ({"y", "n"}, {"j", "n"}, {"t", "f"}, {"w", "f"}, {"o", "n"}, {"s", "n"})
MAYBE_MISSING = {"none", "nil", "tbd"}
SEPARATORS = (";", "|", ",", "/", "+", " & ", " and ", " und ", " et ", " y ")


@dataclass
class Column:
    """A column that was understood.

    Args:
        name: its header. kind: one of `KINDS`. values: K numbers, NaN for a gap; of a category, K x categories of 0, 1
            or NaN. unit: of the numbers. categories: of a category. notes: guesses, for the report.
        table: file that it is from.
    """

    name: str
    kind: str
    values: np.ndarray
    unit: str = ""
    categories: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    table: str = ""

    @property
    def gaps(self) -> np.ndarray:
        """K bool."""
        return np.isnan(self.values if self.values.ndim == 1 else self.values[:, 0])


@dataclass(frozen=True)
class Style:
    """How a table writes: the decimal sign of columns that do not show theirs, and further marks of gaps."""

    decimal: str = "."
    missing: frozenset[str] = frozenset()


def find_styles(
    sheet: Sheet, columns: Sequence[str], decimal: str | None, missing: Sequence[Any], notes: list[str]
) -> dict[str, Style]:
    """The style of each column, found for each of the tables that a sheet was joined from; guesses go into `notes`."""
    styles = {}
    for source in dict.fromkeys(sheet.part(name).source for name in columns):
        mine = [name for name in columns if sheet.part(name).source == source]
        style, guess = find_style(sheet, mine, decimal, missing)
        styles |= dict.fromkeys(mine, style)
        notes += [guess] * bool(guess)
    return styles


def find_style(sheet: Sheet, columns: Sequence[str], decimal: str | None, missing: Sequence[Any]) -> tuple[Style, str]:
    """The decimal sign that the columns' numbers show together, and a note where it was guessed."""
    marks = frozenset(str(mark).strip().casefold() for mark in missing)
    if decimal:
        return Style(decimal, marks), ""
    cells = [cell for name in columns for cell in sheet.cells[name] if re.fullmatch(r"\D{0,3}[\d.,' ]+\D{0,8}", cell)]
    signs = Counter(sign for sign in map(decimal_sign, cells) if sign)
    if signs:
        return Style(signs.most_common(1)[0][0], marks), "decimal comma" if signs[","] > signs["."] else ""
    dots, commas = (any(sign in cell for cell in cells) for sign in ".,")
    if dots and sheet.part(columns[0]).delimiter == ";":
        return Style(",", marks), "1.200 read as 1200, as spreadsheets with semicolons write it (decimal= overrules)"
    return Style(".", marks), "1,200 read as 1200 (decimal= overrules)" if commas else ""


def is_missing(cell: str, style: Style) -> bool:
    plain = cell.strip().casefold()
    return plain in MISSING or plain in style.missing


def best_separator(told: Sequence[str]) -> str | None:
    """What parts several values in one cell, such as 'brown; white'; None where nothing does."""
    whole = Counter(cell.casefold() for cell in told)
    for separator in SEPARATORS:
        parted = [cell for cell in told if separator in cell.strip(separator)]
        if not parted:
            continue
        if separator in ";|":
            return separator
        pieces = [split_cell(cell, separator) for cell in told]
        counts = Counter(piece.casefold() for cell in pieces for piece in cell)
        again = [piece for cell in parted for piece in split_cell(cell, separator)]
        recurring = sum(
            counts[piece.casefold()] > whole[cell.casefold()]
            for cell in parted
            for piece in split_cell(cell, separator)
        )
        if recurring >= 0.5 * len(again) and all(len(piece.split()) <= 3 for piece in again):
            return separator
    return None


def split_cell(cell: str, separator: str | None) -> list[str]:
    return [piece.strip() for piece in cell.split(separator) if piece.strip()] if separator else [cell]


def read_column(
    sheet: Sheet,
    name: str,
    owners: np.ndarray,
    count: int,
    style: Style,
    kind: str | None = None,
    unit: str | None = None,
    categories: Sequence[str] | None = None,
) -> Column:
    """Understand a column and make one value a class of it.

    Args:
        owners: number of the class of each row. count: K. kind: one of `KINDS`, or None to find out. unit: that the
            numbers are wanted in. categories: all that may occur, or None to find out.

    Raises:
        ValueError: a cell that does not fit, with its place and what to do.
    """
    cells = sheet.cells[name]
    kind = kind or find_kind(cells, style)
    if kind == "category":
        return _categories(sheet, name, owners, count, style, categories)
    if kind == "yes/no":
        numbers, notes = _yes_no(sheet, name, style)
        found_unit = ""
    else:
        numbers, found_unit, notes = _numbers(sheet, name, style, unit)
        if kind == "number" and found_unit == "%":
            kind = "percent"
    values = np.full(count, np.nan)
    told = pd.Series(numbers).groupby(owners)
    middle = told.median()
    values[middle.index.to_numpy()] = middle.to_numpy()
    spread = (told.max() - told.min()).max()
    if len(numbers) > count and spread > 0:
        notes.append(f"rows of one class differ by up to {spread:g}; their median is used")
    return Column(name, kind, values, found_unit, [], notes)


def find_kind(cells: pd.Series, style: Style) -> str:
    """yes/no, number or category, by the cells that are no gap."""
    told = [cell.casefold() for cell in cells if not is_missing(cell, style) and cell.casefold() not in MAYBE_MISSING]
    marks = [cell for cell in cells.str.casefold() if cell in ("+", "-")]
    words = set(told)
    if not words:
        return "number"
    if "+" in marks and words <= {"+"}:
        return "yes/no"
    if slashes_part_values(words):
        return "category"
    numbers = {cell for cell in words if is_number(cell)}
    texts = words - numbers
    dimensions = Counter(dimension(quantity(cell)[1]) for cell in told if cell in numbers)
    small = all(0 <= quantity(cell)[0] <= 1 and quantity(cell)[1] == "" for cell in numbers)
    if (
        texts
        and small
        and texts <= YES | NO
        and (texts & NO or len(texts) == 1)  # x beside y, or beside a tick, is not twice a yes
        and (not texts <= set("yntfwosj") or any(texts == each for each in LETTERS))
    ):
        return "yes/no"
    if words <= {"0", "1"}:
        return "yes/no"
    units = {each: count for each, count in dimensions.items() if each}
    if len(units) > 1 and not all(known_unit(quantity(cell)[1] or "%") for cell in numbers):
        return "category"  # codes such as 1a and 2b
    alike = dimensions[""] + max(units.values(), default=0)
    return "number" if alike + sum(map(is_date, told)) >= 0.6 * len(told) else "category"


def slashes_part_values(words: set[str]) -> bool:
    """Whether 2/3 is '2 or 3' and no fraction: there is a 1/2/3, or most of the denominators stand alone, too."""
    if any(re.search(r"\d ?/ ?\d+ ?/ ?\d", cell) and not is_date(cell) for cell in words):
        return True
    denominators = [found[3] for cell in words if (found := FRACTION.fullmatch(cell))]
    return sum(each in words for each in denominators) > len(denominators) / 2


def _yes_no(sheet: Sheet, name: str, style: Style) -> tuple[list[float], list[str]]:
    cells = sheet.cells[name].str.casefold()
    told = set(cells[[not is_missing(cell, style) for cell in cells]])
    only_marks = not told & NO - {"0"} and bool(told & POSITIVE_MARKS) and "0" not in told
    if only_marks and "-" in set(cells) and "+" not in told and "" not in set(cells):
        only_marks = True
    numbers = []
    for index, cell in cells.items():
        if cell in YES or cell in NO:
            numbers.append(float(cell in YES))
        elif only_marks and cell in ("", "-", "–", "—"):
            numbers.append(0.0)
        elif is_missing(cell, style) or cell in MAYBE_MISSING:
            numbers.append(np.nan)
        else:
            numbers.append(_quantity_at(sheet, index, name, style.decimal)[0])
    mark = sorted(told & POSITIVE_MARKS)
    notes = (
        [f"{mark[0]!r} is yes, {'an empty cell' if (cells == '').any() else '-'} is no"]
        if only_marks and (cells.isin(["", "-"])).any()
        else []
    )
    return numbers, notes


def _numbers(sheet: Sheet, name: str, style: Style, unit: str | None) -> tuple[list[float], str, list[str]]:
    cells = sheet.cells[name]
    signs = Counter(sign for sign in map(decimal_sign, cells) if sign)
    decimal = signs.most_common(1)[0][0] if signs else style.decimal
    read = [
        (np.nan, "")
        if is_missing(cell, style) or cell.casefold() in MAYBE_MISSING
        else _quantity_at(sheet, i, name, decimal)
        for i, cell in cells.items()
    ]
    missing = impossible_negatives(np.array([number for number, _ in read]))
    read = [(np.nan, "") if number in missing else (number, found) for number, found in read]
    units = Counter(found for _, found in read if found)
    wanted = unit or header_unit(name) or _common_unit(units, sum(not np.isnan(number) for number, _ in read))
    numbers = []
    for (number, found), (index, cell) in zip(read, cells.items(), strict=True):
        try:
            numbers.append(in_unit(number, found, wanted))
        except ValueError as error:
            raise ValueError(
                f"{sheet.place(index, name)}: {cell!r}: {error}. Write it in the column's unit."
            ) from None
    notes = []
    bare = sum(not found and not np.isnan(number) for number, found in read)
    if units and bare:
        notes.append(f"{bare} without a unit taken for {wanted}")
    if len(units) > 1:
        notes.append(f"{', '.join(units)} brought to {wanted}")
    middles = sum(
        bool(re.search(r"\d\s*[^\W\d]*\s*(-|–|—|to|bis|\.\.)\s*\d", re.sub(r"[eE]-\d", "", cell))) for cell in cells
    )
    if middles:
        notes.append(f"{middles} range{'s' if middles > 1 else ''} read as the middle")
    fractions = [cell for cell in cells if without_fractions(cell) != cell]
    if fractions:
        notes.append(f"fractions read as numbers: {fractions[0]} is {quantity(fractions[0])[0]:.3g}")
    if missing:
        notes.append(f"{', '.join(f'{each:g}' for each in sorted(missing))} read as a gap: no other value is negative")
    return numbers, wanted, notes


def _common_unit(units: Counter, count: int) -> str:
    """The unit of most cells, which then is that of all; none where most cells have none."""
    unit, _ = units.most_common(1)[0] if units else ("", 0)
    return unit if unit == "%" or units.total() >= count / 2 else ""


def header_unit(name: str) -> str:
    """The unit that a header gives: 'mass (g)', 'wing [mm]', 'mass_kg', 'cover %'."""
    last = re.search(r"[(\[]\s*([^()\[\]]+?)\s*[)\]]$|(?: / |(?<=\w)(?:[_.\s/]|, ?))(mg|g|kg|mm|cm|km|ml|%)$", name)
    unit = (last.group(1) or last.group(2)) if last else ""
    return unit_name(unit) if unit and known_unit(unit) else ""


def impossible_negatives(numbers: np.ndarray) -> set[float]:
    """-1, -9, -99, -999.9 and the like, where the other values show that they cannot be meant as numbers."""
    told = numbers[~np.isnan(numbers)]
    marks = {float(each) for each in set(told[told < 0]) if each == -1 or re.fullmatch(r"-9+(\.9+)?", f"{each:g}")}
    others = told[~np.isin(told, list(marks))]
    if not marks or not len(others):
        return set()
    found = {mark for mark in marks if mark <= -99 and -mark > 3 * np.abs(others).max()}
    if others.min() >= 0:
        found |= {mark for mark in marks if mark <= -99 or (mark == -9 and others.max() < 9)}
        if others.max() > 1 or len(set(others)) > 2:
            found |= marks & {-1.0}
    return found


def _quantity_at(sheet: Sheet, index: Any, name: str, decimal: str) -> tuple[float, str]:
    cell = sheet.cells.loc[index, name]
    if is_date(cell):
        raise ValueError(
            f"{sheet.place(index, name)}: {cell!r} looks like a range or a number that a spreadsheet "
            "has turned into a date. Format the column as text and type the value again, such as 9-12."
        )
    try:
        return quantity(cell, decimal)
    except ValueError as error:
        raise ValueError(
            f"{sheet.place(index, name)}: {error}, as most of the column is. Correct it, leave it empty, or say "
            f"kinds={{{name!r}: 'category'}} (--kind {name}=category) or ignore=[{name!r}] (--ignore {name})."
        ) from None


def _categories(
    sheet: Sheet, name: str, owners: np.ndarray, count: int, style: Style, categories: Sequence[str] | None
) -> Column:
    cells = sheet.cells[name]
    told = [cell for cell in cells if not is_missing(cell, style)]
    separator = best_separator(told) if categories is None else None
    known = {each.casefold(): each for each in categories or ()}
    split = {cell: split_cell(cell, separator) for cell in told}
    if categories is not None:
        split = {cell: [cell] if cell.casefold() in known else _known_pieces(cell) for cell in told}
    for pieces in split.values():
        for piece in pieces:
            if categories is None:
                known.setdefault(piece.casefold(), piece)
    if categories is None:
        known = dict(sorted(known.items()))
    place = {key: i for i, key in enumerate(known)}
    values = np.full((count, len(known)), np.nan)
    for (index, cell), owner in zip(cells.items(), owners, strict=True):
        if cell not in split:
            continue
        values[owner] = np.nan_to_num(values[owner])
        for piece in split[cell]:
            if piece.casefold() not in place:
                shown = ", ".join(list(known.values())[:12])
                raise ValueError(f"{sheet.place(index, name)}: {piece!r} is not one of {shown}.")
            values[owner, place[piece.casefold()]] = 1.0
    notes = [f"several values in a cell, parted by {separator.strip()!r}"] if separator else []
    return Column(name, "category", values, "", list(known.values()), notes)


def _known_pieces(cell: str) -> list[str]:
    return [piece.strip() for piece in re.split(r"[;|,/+]", cell) if piece.strip()]
