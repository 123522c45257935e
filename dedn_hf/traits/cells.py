"""One cell of a table: its text, without what hides around it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np
import pandas as pd

from dedn_hf.modeling.inputs import QUOTES, quantity

_SPACES = re.compile(r"[\s\u00a0\u2000-\u200a\u202f\u205f\u3000]+")


def clean(cell: str) -> str:
    """A cell without what hides around it: odd spaces, typographic quotes, Excel's apostrophe for 'this is text'."""
    cell = unicodedata.normalize("NFC", cell)  # an accent may stand apart from its letter
    cell = _SPACES.sub(" ", cell.replace("\ufeff", "").replace("\u200b", "").replace("\u00ad", "")).strip()
    if len(cell) > 1 and cell[0] in QUOTES and (cell[-1] in QUOTES or cell[0] == "'"):
        cell = cell[1:-1] if cell[-1] in QUOTES else cell[1:]
    return cell.strip()


def clean_lines(cell: str) -> str:
    """As `clean`, of each line of the cell: a line break may part two values."""
    return "\n".join(line for line in map(clean, cell.splitlines()) if line) if "\n" in cell else clean(cell)


def is_number(cell: str) -> bool:
    try:
        quantity(cell)
    except ValueError:
        return False
    return True


def text_of(value: Any) -> str:
    """A value of a spreadsheet program or of pandas; '' for none."""
    if isinstance(value, list | tuple | np.ndarray):
        return "; ".join(map(text_of, value))
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
