"""From a file or a DataFrame to cells of text with a header: what wraps the table is found out and taken off."""

from __future__ import annotations

import csv
import io
import re
import statistics
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dedn_hf.modeling.inputs import QUOTES, quantity

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
NO_TEXT = {
    b"\xd0\xcf\x11\xe0": "an Excel file of the old format. Save it as .xlsx or CSV",
    b"\x1f\x8b": "compressed. Unpack it first",
    b"%PDF": "a PDF file. Export the table as CSV",
    b"MATLAB": "a MATLAB file. Export the table as CSV",
    b"\x89HDF": "an HDF5 file. Export the table as CSV",
    b"\x93NUMPY": "a NumPy file. Pass a pandas DataFrame with names instead",
}
FIRST_HEADERS = ("class", "species", "name", "folder", "label", "taxon", "animal", "bird", "art", "especie", "espèce")
_SPACES = re.compile(r"[\s\u00a0\u2000-\u200a\u202f\u205f\u3000]+")


@dataclass
class Sheet:
    """Cells of text, K rows at least, one column a header.

    Args:
        cells: text, stripped; '' where there is nothing. lines: for each cell of `cells`, the line of the file (from
            1) that it stands in. source: what to call the file in messages. row_word: 'line' or 'row'.
        notes: what was found out about the file. delimiter: of a text file. parts: column -> the sheet that it is
            from, where several were joined.
    """

    cells: pd.DataFrame
    lines: pd.DataFrame
    source: str
    row_word: str = "line"
    notes: list[str] = field(default_factory=list)
    delimiter: str | None = None
    parts: Mapping[str, Sheet] = field(default_factory=dict)

    def part(self, column: str) -> Sheet:
        """The sheet that a column is from."""
        return self.parts.get(column, self)

    def place(self, index: Any, column: str) -> str:
        """'birds.csv, line 3, column 'mass'', for a message."""
        part = self.part(column)
        return f"{part.source}, {part.row_word} {int(self.lines.loc[index, column])}, column {column!r}"

    def take(self, rows: Any) -> Sheet:
        """The sheet with these rows only: labels, or a mask."""
        return replace(self, cells=self.cells.loc[rows], lines=self.lines.loc[rows])


def open_sheet(
    source: str | Path | pd.DataFrame,
    sheet: str | int | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: int | None = None,
) -> Sheet:
    """Open a table as people have it.

    Args:
        source: CSV or any other delimited text, .xlsx or .parquet, by its content and not by its suffix; or a
            DataFrame. sheet: name or number (from 1) of an Excel sheet. delimiter, encoding: of a text file.
        header: line (from 1) of the header. What is None is found out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a table, with the reason and what to do.
    """
    if isinstance(source, pd.DataFrame):
        return _from_frame(source, "the DataFrame")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"No trait table at {path}. Give a CSV or Excel file with one row a class.")
    data = path.read_bytes()
    if data[:4] == b"PK\x03\x04":
        rows, name, notes = _excel_rows(path, data, sheet)
        return _with_header(rows, f"{path}, sheet {name!r}", notes, header, "row")
    if data[:4] == b"PAR1":
        return _from_frame(pd.read_parquet(path), str(path))
    for start, what in NO_TEXT.items():
        if data.startswith(start):
            raise ValueError(f"{path} is {what}.")
    text, notes = _decoded(path, data, encoding)
    if re.match(r"\s*<(!doctype|html|\?xml|table)", text, re.IGNORECASE):
        raise ValueError(f"{path} is a web page or XML, whatever its name says. Save the table as .xlsx or CSV.")
    rows, used = _delimited(path, text, delimiter)
    notes.append(f"columns parted by {DELIMITERS.get(used, repr(used))}")
    opened = _with_header(rows, str(path), notes, header, "line")
    opened.delimiter = used
    return opened


def clean(cell: str) -> str:
    """A cell without what hides around it: odd spaces, typographic quotes, Excel's apostrophe for 'this is text'."""
    cell = _SPACES.sub(" ", cell.replace("\ufeff", "").replace("\u200b", "").replace("\u00ad", "")).strip()
    if len(cell) > 1 and cell[0] in QUOTES and (cell[-1] in QUOTES or cell[0] == "'"):
        cell = cell[1:-1] if cell[-1] in QUOTES else cell[1:]
    return cell.strip()


def is_number(cell: str) -> bool:
    try:
        quantity(cell)
    except ValueError:
        return False
    return True


def _decoded(path: Path, data: bytes, encoding: str | None) -> tuple[str, list[str]]:
    if encoding is None:
        encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} is not text in {encoding!r} ({error}). Give another encoding.") from None
    if "\0" in text:
        raise ValueError(f"{path} is not a text file. Save the table as CSV or .xlsx.")
    shown = {"cp1252": "Windows-1252 (Latin-1)", "utf-8-sig": "UTF-8"}.get(encoding, encoding.upper())
    return re.sub(r"\r+\n|\r", "\n", text.lstrip("\ufeff")), [f"text in {shown}"]


def _encoding(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    start = data[:2000]
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) > 3 and start[place::2].count(0) > len(start) / 2 * 0.6:
            return encoding
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _delimited(path: Path, text: str, delimiter: str | None) -> tuple[list[tuple[int, list[str]]], str]:
    """Line number and cells of every line, and the delimiter."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty. Give a table with a header and one row a class.")
    named = re.fullmatch(r'"?sep=(.|\\t)"?[,;\t]*', lines[first].strip(" "), re.IGNORECASE)
    if named:
        delimiter = delimiter or named.group(1).replace("\\t", "\t")
        lines[first] = ""
    # A quote in a comment would swallow what follows; empty lines keep the numbers right.
    lines = ["" if _is_comment(line) else line for line in lines]
    csv.field_size_limit(2**31 - 1)
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda each: _fit(lines, each))
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):  # a stray quote swallows lines: then quotes are letters
        reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, strict=True, quoting=quoting)
        rows, start = [], 1
        try:
            for cells in reader:
                rows.append((start, cells))
                start = reader.line_num + 1
        except csv.Error:
            continue
        return rows, delimiter
    raise ValueError(f"{path} cannot be parted into cells. Save it as .xlsx, or as 'CSV UTF-8'.")


def _is_comment(line: str) -> bool:
    return bool(re.match(r'"?#(?!(group|traits)\b)', line, re.IGNORECASE)) and not re.match(r'"?#"?[,;\t|]', line)


def _fit(lines: list[str], delimiter: str) -> float:
    """How well a delimiter parts the lines: many of the same number of cells, and many cells."""
    try:
        reader = csv.reader(io.StringIO("\n".join(lines[:500])), delimiter=delimiter)
        counts = [len(cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error:
        return 0.0
    common = statistics.mode(counts)
    return 0.0 if common < 2 else counts.count(common) / len(counts) + min(common, 50) / 1000


def _excel_rows(path: Path, data: bytes, sheet: str | int | None) -> tuple[list, str, list[str]]:
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
    if isinstance(sheet, int) and 1 <= sheet <= len(sheets):
        sheet = list(sheets)[sheet - 1]
    if sheet is not None and sheet not in sheets:
        raise ValueError(f"{path} has no sheet {sheet!r}. It has {', '.join(map(repr, sheets))}.")
    read = {}
    for name, each in sheets.items():
        if name == sheet or (sheet is None and each.sheet_state == "visible"):
            read[name] = [(i, [_excel_text(cell) for cell in row]) for i, row in enumerate(each.iter_rows(), 1)]
    if not read:
        raise ValueError(f"{path} has no visible sheet. Name one of {', '.join(map(repr, sheets))}.")
    chosen = max(read, key=lambda name: _table_size(read[name]))
    others = [name for name in sheets if name != chosen]
    left = f"; not read: {', '.join(map(repr, others))} (choose with sheet=)" if others else ""
    return read[chosen], chosen, [f"Excel sheet {chosen!r}{left}"]


def _table_size(rows: list[tuple[int, list[str]]]) -> int:
    """Filled cells of the rows that are as wide as most, numbers twice: a sheet of text explains the other."""
    counts = [sum(1 for cell in cells if cell) for _, cells in rows]
    width = max(counts, default=0)
    cells = [cell for (_, row), count in zip(rows, counts, strict=True) if count > max(1, width // 2) for cell in row]
    return sum(1 + 2 * is_number(cell) for cell in cells if cell)


def _excel_text(cell: Any) -> str:
    value = cell.value
    if isinstance(value, float) and "%" in (cell.number_format or "") and cell.data_type == "n":
        return f"{value * 100:.12g}%"
    if isinstance(value, int) and not isinstance(value, bool) and "%" in (cell.number_format or ""):
        return f"{value * 100}%"
    return _text(value)


def _text(value: Any) -> str:
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _from_frame(frame: pd.DataFrame, source: str) -> Sheet:
    if isinstance(frame.columns, pd.MultiIndex) or isinstance(frame.index, pd.MultiIndex):
        raise ValueError(f"{source} has several levels of names. Flatten them to one name a column.")
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.rename_axis(frame.index.name or "").reset_index()
    header = [str(name) for name in frame.columns]
    rows = [(0, header)]
    rows += [(i, [_text(value) for value in row]) for i, row in enumerate(frame.itertuples(index=False, name=None), 1)]
    return _with_header(rows, source, [], None, "row", at=0)


def _with_header(
    rows: list[tuple[int, list[str]]],
    source: str,
    notes: list[str],
    header: int | None,
    word: str,
    at: int | None = None,
) -> Sheet:
    rows = [(line, [clean(cell) for cell in cells]) for line, cells in rows]
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if header is not None:
        at = next((i for i, (line, _) in enumerate(rows) if line == header), None)
        if at is None:
            raise ValueError(f"{source} has no {word} {header} with a header.")
    if at is None:
        at = _header_place(rows)
    if at >= len(rows) - 1:
        raise ValueError(f"{source}: needs a header line (class, trait, ...) and at least one class row.")
    if at:
        notes.append(f"{at} {word}{'s' if at > 1 else ''} above the header left out")
    names, rows = _named(rows[at][1], rows[at + 1 :], source, word, rows[at][0])
    frame = pd.DataFrame([cells for _, cells in rows], columns=names, dtype=object)
    filled = [name for name in names if name.strip() and not _is_unnamed(name) or (frame[name] != "").any()]
    lines = pd.DataFrame({name: [line for line, _ in rows] for name in names}, columns=names)
    return Sheet(frame[filled], lines[filled], source, word, notes)


def _header_place(rows: list[tuple[int, list[str]]]) -> int:
    """The first row that is about as full as the rows of the table; titles and notes above it are not."""
    counts = [sum(1 for cell in cells if cell) for _, cells in rows]
    typical = statistics.median_high(sorted(counts)[len(counts) // 2 :])
    for i, count in enumerate(counts[:-1]):
        if count >= max(2, 0.6 * typical):
            return i
    return next((i for i, count in enumerate(counts) if count > 1), len(rows))


def _is_unnamed(name: str) -> bool:
    return re.fullmatch(r"(Unnamed: \d+|column \d+ \(no name\))", name) is not None


def _named(
    header: list[str], rows: list[tuple[int, list[str]]], source: str, word: str, line: int
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """A name for each column, and all rows as long as the header."""
    width = max((i + 1 for i, name in enumerate(header) if name), default=0)
    widths = [max((i + 1 for i, cell in enumerate(cells) if cell), default=0) for _, cells in rows]
    lengths = {len(cells) for _, cells in rows}
    if lengths == {len(header) + 1} and max(widths) > width and header[0].casefold() not in ("", *FIRST_HEADERS):
        header, width = ["", *header], width + 1  # R writes no header above its row names
    for (row_line, cells), filled in zip(rows, widths, strict=True):
        if filled > width and len(cells) > len(header):
            raise ValueError(
                f"{source}, {word} {row_line}: {filled} cells, but the header has {width}. Put quotes around a cell "
                "with the delimiter in it (a decimal comma?), or give the last columns names."
            )
        if len(cells) < width and filled > 1:  # one cell alone is a note
            raise ValueError(
                f"{source}, {word} {row_line}: {len(cells)} cells, but the header has {width}. A cell is missing."
            )
    width = max([width, *widths])
    header = [
        name or (f"column {i} (no name)" if i > 1 else "")
        for i, name in enumerate([*header, *[""] * width][:width], 1)
    ]
    _require_header(header, source, word, line)
    return header, [(row_line, [*cells, *[""] * width][:width]) for row_line, cells in rows]


def _require_header(header: Iterable[str], source: str, word: str, line: int) -> None:
    seen: dict[str, int] = {}
    header = list(header)
    numbers = [name for name in header if is_number(name)]
    if len(numbers) > len(header) / 2 and any("." in name or numbers.count(name) > 1 for name in numbers):
        raise ValueError(
            f"{source}, {word} {line}: the first row holds numbers, not names of columns. Add a header row."
        )
    for i, name in enumerate(header, 1):
        if name in seen:
            raise ValueError(
                f"{source}, {word} {line}: the column {name!r} stands twice, as columns {seen[name]} and {i}. "
                "Rename or remove one of them."
            )
        seen[name] = i
