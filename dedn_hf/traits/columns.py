"""One column of a trait table: yes or no, a percentage, a number with its unit, a category, or no trait at all."""

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
    NO,
    YES,
    decimal_sign,
    dimension,
    in_unit,
    is_date,
    is_range,
    is_shortened,
    known_unit,
    quantity,
    unit_name,
    without_fractions,
)
from dedn_hf.traits.categories import read_categories
from dedn_hf.traits.cells import is_number
from dedn_hf.traits.opening import Sheet
from dedn_hf.traits.styles import MAYBE_MISSING, Style, gap_notes, is_missing

KINDS = ("number", "percent", "yes/no", "category")
POSITIVE_MARKS = YES - {"t", "w", "o", "s", "y", "j"}
PRESENCE = {"0", "1", "+", "(+)", "±", "+/-", "+-"}
DASHES = {"-", "–", "—"}
LETTERS = ({"y", "n"}, {"j", "n"}, {"t", "f"}, {"w", "f"}, {"o", "n"}, {"s", "n"})


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
        return np.isnan(self.values.reshape(len(self.values), -1)).all(axis=1)


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
    guessed, kind = kind is None, kind or find_kind(sheet.cells[name], style)
    if kind == "category":
        if guessed:
            _require_no_dates(sheet, name)
        values, found, notes = read_categories(sheet, name, owners, count, style, categories)
        return Column(name, "category", values, "", found, notes)
    if kind == "yes/no":
        numbers, notes = _yes_no(sheet, name, style)
        found_unit = ""
    else:
        numbers, found_unit, notes = _numbers(sheet, name, style, unit, guessed)
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
    words = set(told)
    if not words:
        return "number"
    if words <= PRESENCE:
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
    units = {each: count for each, count in dimensions.items() if each}
    known = [known_unit(unit) for unit in (quantity(cell)[1] for cell in numbers) if unit]
    if len(units) > 1 and sum(known) <= len(known) / 2:
        return "category"  # codes such as 1a and 2b
    alike = dimensions[""] + max(units.values(), default=0)
    return "number" if alike + sum(map(is_date, told)) >= 0.6 * len(told) else "category"


def slashes_part_values(words: set[str]) -> bool:
    """Whether 2/3 is '2 or 3' and no fraction: there is a 1/2/3, or most of the denominators stand alone, too."""
    if any(re.search(r"\d ?/ ?\d+ ?/ ?\d", cell) and not is_date(cell) for cell in words):
        return True
    denominators = [found[3] for cell in words if (found := FRACTION.fullmatch(cell))]
    return sum(each in words for each in denominators) > len(denominators) / 2


def _absent(cells: pd.Series) -> set[str]:
    """What means 'no' in a column that only marks what is there: the dashes, or else the empty cells."""
    return DASHES & set(cells) or {""} & set(cells)


def _yes_no(sheet: Sheet, name: str, style: Style) -> tuple[list[float], list[str]]:
    cells = sheet.cells[name].str.casefold()
    told = {cell for cell in cells if not is_missing(cell, style)}
    absent = _absent(cells) if told & POSITIVE_MARKS and not told & NO else set()
    numbers = []
    for index, cell in cells.items():
        if cell in YES or cell in NO:
            numbers.append(float(cell in YES))
        elif cell in absent:
            numbers.append(0.0)
        elif is_missing(cell, style) or cell in MAYBE_MISSING:
            numbers.append(np.nan)
        else:
            numbers.append(_quantity_at(sheet, index, name, style.decimal)[0])
    notes = [f"{min(told & POSITIVE_MARKS)!r} is yes, {_shown(absent)} is no"] if absent else []
    return numbers, notes + gap_notes(cells.unique(), style, MAYBE_MISSING)


def _shown(absent: set[str]) -> str:
    return min(absent) or "an empty cell"


def _numbers(
    sheet: Sheet, name: str, style: Style, unit: str | None, guessed: bool
) -> tuple[list[float], str, list[str]]:
    """Numbers in one unit, the unit, and notes. guessed: whether it was found out that the column holds numbers."""
    cells = sheet.cells[name]
    signs = Counter(sign for sign in map(decimal_sign, cells) if sign)
    decimal = signs.most_common(1)[0][0] if signs else style.decimal
    absent = _absent(cells) if cells.str.fullmatch(r"\+{2,}").any() else set()
    gaps = {cell for cell in cells.unique() if is_missing(cell, style) or cell.casefold() in MAYBE_MISSING} - absent
    read = [
        (np.nan, "") if cell in gaps else (0.0, "") if cell in absent else _quantity_at(sheet, i, name, decimal)
        for i, cell in cells.items()
    ]
    marks = marks_of_gaps(np.array([number for number, _ in read]), guessed)
    read = [(np.nan, "") if number in marks else (number, found) for number, found in read]
    units = Counter(found for _, found in read if found)
    common = _common_unit(units, sum(not np.isnan(number) for number, _ in read))
    in_header = header_unit(name)
    if common and dimension(common) != dimension(in_header):
        in_header = ""  # 'wing (min)' is no time where the cells are in mm
    wanted = unit or in_header or common
    if wanted == "%":
        _require_percents(sheet, name, read)
    numbers = []
    for (number, found), (index, cell) in zip(read, cells.items(), strict=True):
        try:
            numbers.append(in_unit(number, found, wanted))
        except ValueError as error:
            raise ValueError(
                f"{sheet.place(index, name)}: {cell!r}: {error}. Write it in the column's unit."
            ) from None
    notes = [f"'++' is 2, '+' is 1, {_shown(absent)} is 0"] if absent else []
    bare = sum(not found and not np.isnan(number) for number, found in read)
    if wanted == "%" and not units and np.nanmax([*numbers, 0.0]) <= 1:
        notes.append("no value is above 1, so these may be shares and no percentages")
    if units and bare:
        notes.append(f"{bare} without a unit taken for {wanted}")
    if len(units) > 1:
        notes.append(f"{', '.join(units)} brought to {wanted}")
    told = [cell for cell in cells if cell not in gaps | absent]
    notes += [*_reading_notes(told, decimal), *(f"{mark:g} read as a gap: {why}" for mark, why in marks.items())]
    return numbers, wanted, notes + gap_notes(cells.unique(), style, MAYBE_MISSING)


def _reading_notes(told: Sequence[str], decimal: str) -> list[str]:
    """What was made of ranges, fractions and numbers with something around them."""
    notes = []
    ranges = sum(is_range(cell, decimal) for cell in told)
    if ranges:
        notes.append(f"{ranges} range{'s' if ranges > 1 else ''} read as the middle")
    fractions = [cell for cell in told if without_fractions(cell) != cell]
    if fractions:
        notes.append(f"fractions read as numbers: {fractions[0]} is {quantity(fractions[0])[0]:.3g}")
    pairs = [cell for cell in dict.fromkeys(told) if "," in cell and set(cell.split(",")) <= set(told)]
    if pairs and decimal == ",":
        notes.append(f"{pairs[0]!r} read as one number; where two values are meant, part them by ;")
    short = [cell for cell in dict.fromkeys(told) if is_shortened(cell)]
    if short:
        shown = ", ".join(f"{cell!r} read as {quantity(cell, decimal)[0]:g}" for cell in short[:2])
        notes.append(shown + (f" and {len(short) - 2} more such" if len(short) > 2 else ""))
    return notes


def _require_percents(sheet: Sheet, name: str, read: Sequence[tuple[float, str]]) -> None:
    """Raise ValueError for 0.5 beside 30 %, where it may be 0.5 % or 50 %."""
    bare = [(i, number) for i, (number, unit) in enumerate(read) if not unit and number and not np.isnan(number)]
    if bare and all(abs(number) <= 1 for _, number in bare) and any(unit and number > 1 for number, unit in read):
        place, number = bare[0]
        index = sheet.cells.index[place]
        raise ValueError(
            f"{sheet.place(index, name)}: {sheet.cells.loc[index, name]!r} has no %, so it may be {number:g}% or "
            f"{100 * number:g}%. Write the one that is meant."
        )


def _common_unit(units: Counter, count: int) -> str:
    """The unit of most cells, which then is that of all; none where most cells have none."""
    unit, _ = units.most_common(1)[0] if units else ("", 0)
    return unit if unit == "%" or units.total() >= count / 2 else ""


_AFTER_A_SIGN = "mg|g|kg|mm|cm|km|ml|%|percent|(?:kilo|milli|centi|zenti)?(?:gram(?:m|me)?|met(?:er|re))s?"


def header_unit(name: str) -> str:
    """The unit that a header gives: 'mass (g)', 'wing [mm, adults]', 'mass_kg', 'length in cm', 'cover %'."""
    name = re.sub(r"(?<=\w)\(s\)", "s", name)  # egg(s) are no seconds
    brackets = re.findall(r"(?:[(\[{<]|\.\.)(?:in )?([^()\[\]{}<>,;.]+)(?:[)\]}>,;]|\.$)", name)
    last = re.findall(rf"(?:[\s/,:_.-]|\bin )({_AFTER_A_SIGN})$", name)
    return next((unit_name(unit) for unit in (*brackets, *last) if known_unit(unit.strip())), "")


def marks_of_gaps(numbers: np.ndarray, guessed: bool = True) -> dict[float, str]:
    """-1, -99, -999.9 and 9999 where the other values show that they cannot be meant as numbers, each with the reason.

    guessed: whether 999 and 9999 may be such marks, which only are far above all others.
    """
    told = numbers[~np.isnan(numbers)]
    nines = [float(each) for each in set(told) if each == -1 or re.fullmatch(r"-?9+(\.9+)?", f"{each:.10g}")]
    marks = {each for each in nines if each < 0 or each >= 999}
    others = told[~np.isin(told, list(marks))]
    if not marks or not len(others):
        return {}
    top = np.abs(others).max()
    found = {mark: "far from all other values" for mark in marks if mark <= -99 and -mark > 3 * top}
    if guessed:
        found |= {mark: f"all others are at most {top:g}" for mark in marks if mark > 10 * top > 0}
    if others.min() >= 0:
        low = {mark for mark in marks if mark <= -99 or (mark == -9 and others.max() < 9)}
        if others.max() > 1 or len(set(others)) > 2:
            low |= marks & {-1.0}
        found |= dict.fromkeys(low, "no other value is negative")
    return dict(sorted(found.items()))


def _quantity_at(sheet: Sheet, index: Any, name: str, decimal: str) -> tuple[float, str]:
    cell = sheet.cells.loc[index, name]
    if is_date(cell):
        raise _date(sheet, index, name)
    try:
        return quantity(cell, decimal)
    except ValueError as error:
        raise ValueError(
            f"{sheet.place(index, name)}: {error}, as most of the column is. Correct it, leave it empty, or say "
            f"kinds={{{name!r}: 'category'}} (--kind {name}=category) or ignore=[{name!r}] (--ignore {name})."
        ) from None


def _require_no_dates(sheet: Sheet, name: str) -> None:
    """Raise ValueError for a date among words, which are no dates."""
    dates = sheet.cells[name][sheet.cells[name].map(is_date)]
    if len(dates):
        raise _date(sheet, dates.index[0], name)


def _date(sheet: Sheet, index: Any, name: str) -> ValueError:
    return ValueError(
        f"{sheet.place(index, name)}: {sheet.cells.loc[index, name]!r} looks like a range or a number that a "
        "spreadsheet has turned into a date. Format the column as text and type the value again, such as 9-12, or say "
        f"ignore=[{name!r}] (--ignore {name})."
    )
