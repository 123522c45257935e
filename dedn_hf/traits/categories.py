"""A column of words: its categories, and several of them in one cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dedn_hf.modeling.inputs import SEPARATORS, plain_word
from dedn_hf.traits.cells import is_number
from dedn_hf.traits.opening import Sheet
from dedn_hf.traits.styles import Style, gap_notes, is_missing

_ALWAYS = ";|•、"  # between values, wherever they stand


def separators(told: Sequence[str]) -> list[str]:
    """What parts several values in one cell, such as 'brown, white and black'."""
    found = []
    for separator in SEPARATORS:
        if _parts_values(told, separator):
            found.append(separator)
            told = [piece for cell in told for piece in split_cell(cell, [separator])]
    return found


def split_cell(cell: str, by: Sequence[str]) -> list[str]:
    """The values in a cell. by: some of `separators`."""
    pieces = re.split("|".join(SEPARATORS[each] for each in by), cell) if by else [cell]
    return [piece.strip() for piece in pieces if piece.strip()]


def _parts_values(told: Sequence[str], separator: str) -> bool:
    """Whether what a separator parts stands alone elsewhere, too."""
    pieces = {cell: split_cell(cell, [separator]) for cell in dict.fromkeys(told)}
    parted = [cell for cell, of in pieces.items() if of != [cell]]
    if not parted or separator in _ALWAYS:
        return bool(parted)
    whole = Counter(map(plain_word, told))
    counts = Counter(plain_word(piece) for cell in told for piece in pieces[cell])
    again = [(piece, cell) for cell in parted for piece in pieces[cell]]
    recurring = sum(counts[plain_word(piece)] > whole[plain_word(cell)] for piece, cell in again)
    return recurring >= 0.5 * len(again) and all(len(piece.split()) <= 3 for piece, _ in again)


def read_categories(
    sheet: Sheet, name: str, owners: np.ndarray, count: int, style: Style, categories: Sequence[str] | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """K x categories of 0, 1 or NaN; the categories; notes.

    categories: all that may occur, or None to find out. Raises ValueError for another one.
    """
    cells = sheet.cells[name]
    told = [cell for cell in cells if not is_missing(cell, style)]
    by = separators(told) if categories is None else list(SEPARATORS)
    known = {plain_word(each): each for each in categories or ()}
    split = {cell: [cell] if plain_word(cell) in known else split_cell(cell, by) for cell in told}
    split = {cell: [each for each in pieces if not is_missing(each, style)] for cell, pieces in split.items()}
    if categories is None:
        written = Counter(" ".join(piece.split()) for cell in told for piece in split[cell])
        for piece, _ in written.most_common():
            known.setdefault(plain_word(piece), piece)
        known = dict(sorted(known.items()))
    place = {key: i for i, key in enumerate(known)}
    values = np.full((count, len(known)), np.nan)
    for (index, cell), owner in zip(cells.items(), owners, strict=True):
        if not split.get(cell):
            continue
        values[owner] = np.nan_to_num(values[owner])
        for piece in split[cell]:
            if plain_word(piece) not in place:
                shown = ", ".join(list(known.values())[:12])
                raise ValueError(f"{sheet.place(index, name)}: {piece!r} is not one of {shown}.")
            values[owner, place[plain_word(piece)]] = 1.0
    notes = _notes(told, split, by, known) if categories is None else []
    return values, list(known.values()), notes + gap_notes(cells.unique(), style)


def _notes(told: list[str], split: dict[str, list[str]], by: list[str], known: dict[str, str]) -> list[str]:
    notes = [f"several values in a cell, parted by {' '.join(map(repr, by))}"] if by else []
    pieces = dict.fromkeys(" ".join(piece.split()) for pieces in split.values() for piece in pieces)
    same = [each for each in pieces if each.casefold() != known[plain_word(each)].casefold()]
    if same:
        notes.append(", ".join(f"{each!r} taken for {known[plain_word(each)]!r}" for each in same[:3]))
    numbers = sum(map(is_number, told))
    if 0 < numbers < len(told):
        notes.append(f"{numbers} of {len(told)} cells are numbers, here taken for words")
    return notes
