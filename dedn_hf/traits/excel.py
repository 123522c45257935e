"""An Excel file as rows of text: the sheet that holds the table, and what only Excel has in it."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

from dedn_hf.modeling.inputs import known_unit
from dedn_hf.traits.cells import is_number, text_of


def excel_rows(path: Path, data: bytes, sheet: str | int | None) -> tuple[list, str, list[str]]:
    """Rows of the sheet that is given, or else of the one with the most cells; its name; notes."""
    try:
        import openpyxl
    except ImportError:
        raise ImportError(f"{path} is an Excel file; to read it: pip install openpyxl. Or save it as CSV.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and drop-downs, which are not read
            book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged zip or XML shows in many ways
        raise ValueError(
            f"{path} is an Excel file by its content, but it does not open ({error}). Save it again as .xlsx or CSV."
        ) from None
    sheets = {each.title: each for each in book.worksheets}
    called = {title.casefold(): title for title in sheets}
    sheet = called.get(str(sheet).casefold(), sheet)
    if str(sheet).isdigit() and sheet not in sheets and 1 <= int(sheet) <= len(sheets):
        sheet = list(sheets)[int(sheet) - 1]
    if sheet is not None and sheet not in sheets:
        raise ValueError(f"{path} has no sheet {sheet!r}. It has {', '.join(map(repr, sheets))}.")
    read = {}
    for name, each in sheets.items():
        if name == sheet or (sheet is None and each.sheet_state == "visible"):
            read[name] = _sheet_rows(each)
    if not read:
        raise ValueError(f"{path} has no visible sheet. Name one of {', '.join(map(repr, sheets))}.")
    chosen = max(read, key=lambda name: _table_size(read[name]))
    _require_results(path, data, chosen, sheets[chosen])
    others = [name for name in sheets if name != chosen]
    left = f"; not read: {', '.join(map(repr, others))} (choose with sheet=)" if others else ""
    return read[chosen], chosen, [f"Excel sheet {chosen!r}{left}"]


def _sheet_rows(sheet: Any) -> list[tuple[int, list[str]]]:
    """The texts of each row; a cell that was merged with those below it stands in all of them."""
    rows = [[_excel_text(cell) for cell in row] for row in sheet.iter_rows(min_row=1, min_col=1)]
    for merged in sheet.merged_cells.ranges:
        if merged.min_col == merged.max_col:
            for row in range(merged.min_row, merged.max_row):
                rows[row][merged.min_col - 1] = rows[merged.min_row - 1][merged.min_col - 1]
    return list(enumerate(rows, 1))


def _require_results(path: Path, data: bytes, name: str, sheet: Any) -> None:
    """Raise ValueError for a formula whose result was never stored: it would read as a gap."""
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if not any(b"<f" in archive.read(part) for part in archive.namelist() if "worksheets/" in part):
            return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formulas = openpyxl.load_workbook(io.BytesIO(data))[name]
    for row in formulas.iter_rows():
        for cell in row:
            if cell.data_type == "f" and sheet[cell.coordinate].value is None:
                raise ValueError(
                    f"{path}, sheet {name!r}, cell {cell.coordinate}: the file lacks the result of the formula "
                    f"{cell.value}. Open it in a spreadsheet program and save it again."
                )


def _table_size(rows: list[tuple[int, list[str]]]) -> int:
    """Filled cells of the rows that are as wide as most, numbers twice: a sheet of text explains the other."""
    counts = [sum(1 for cell in cells if cell) for _, cells in rows]
    width = max(counts, default=0)
    cells = [cell for (_, row), count in zip(rows, counts, strict=True) if count > max(1, width // 2) for cell in row]
    return sum(1 + 2 * is_number(cell) for cell in cells if cell)


def _excel_text(cell: Any) -> str:
    """The text of a cell, with the % or the unit that only its format shows."""
    value, shown = cell.value, cell.number_format or ""
    if isinstance(value, bool) or not isinstance(value, int | float) or cell.data_type != "n":
        return text_of(value)
    if "%" in shown:
        return f"{value * 100:.12g}%"
    unit = re.search(r'"\s*([^"]+?)\s*"', shown.split(";")[0])
    return f"{text_of(value)} {unit[1]}" if unit and known_unit(unit[1]) else text_of(value)
