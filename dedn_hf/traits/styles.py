"""How a table writes its cells: the decimal sign, and what means that there is no value."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dedn_hf.modeling.inputs import MISSING, decimal_sign, means_missing
from dedn_hf.traits.cells import is_number
from dedn_hf.traits.opening import Sheet

MAYBE_MISSING = {"none", "nil", "tbd"}


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
    cells = [cell for cell in cells if is_number(cell)]
    signs = Counter(sign for sign in map(decimal_sign, cells) if sign)
    if signs:
        return Style(signs.most_common(1)[0][0], marks), "decimal comma" if signs[","] > signs["."] else ""
    dots, commas = (any(sign in cell for cell in cells) for sign in ".,")
    if dots and sheet.part(columns[0]).delimiter == ";":
        return Style(",", marks), "1.200 read as 1200, as spreadsheets with semicolons write it (decimal= overrules)"
    return Style(".", marks), "1,200 read as 1200 (decimal= overrules)" if commas else ""


def is_missing(cell: str, style: Style) -> bool:
    return means_missing(cell) or cell.strip().casefold() in style.missing


def gap_notes(cells: Sequence[str], style: Style, also: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """A note on the words that were taken for gaps, other than the usual marks; `also`: further such words."""
    told = {cell.casefold(): cell for cell in cells if cell.casefold() not in MISSING | style.missing}
    words = [cell for plain, cell in told.items() if is_missing(cell, style) or plain in also]
    return [f"{', '.join(map(repr, words[:3]))}{', ...' * (len(words) > 3)} read as a gap"] if words else []
