"""From a file or a DataFrame to cells of text with a header: what wraps the table is found out and taken off."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dedn_hf.modeling.inputs import known_unit, quantity
from dedn_hf.traits.cells import clean_lines, is_number, text_of
from dedn_hf.traits.excel import excel_rows
from dedn_hf.traits.files import ZIP, decoded, table_bytes

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
FIRST_HEADERS = ("class", "species", "name", "folder", "label", "taxon", "animal", "bird", "art", "especie", "espèce")


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
        source: CSV or any other delimited text, .xlsx, Parquet, Feather or JSON records, by its content and not by its
            suffix, also in .gz or .zip; or a DataFrame. sheet: name or number (from 1) of an Excel sheet. delimiter,
            encoding: of a text file. header: line (from 1) of the header. What is None is found out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a table, with the reason and what to do.
    """
    if isinstance(source, pd.DataFrame):
        return _from_frame(source, "the DataFrame")
    path = Path(source)
    data, unpacked = table_bytes(path)
    if data[:4] == ZIP:
        rows, name, notes = excel_rows(path, data, sheet)
        return _with_header(rows, f"{path}, sheet {name!r}", [*unpacked, *notes], header, "row")
    if data[:4] == b"PAR1":
        return _from_frame(pd.read_parquet(io.BytesIO(data)), str(path))
    if data[:6] == b"ARROW1":
        return _from_frame(pd.read_feather(io.BytesIO(data)), str(path))
    text, notes = decoded(path, data, encoding)
    if re.match(r"\s*<[!?a-z]", text, re.IGNORECASE):
        raise ValueError(f"{path} is a web page or XML, whatever its name says. Save the table as .xlsx or CSV.")
    if delimiter is None and text.lstrip()[:1] in ("{", "["):
        return _from_json(path, text)
    rows, used = _delimited(path, text, delimiter)
    notes.append(f"columns parted by {DELIMITERS.get(used, repr(used))}")
    opened = _with_header(rows, str(path), [*unpacked, *notes], header, "line")
    opened.delimiter = used
    return opened


def _from_json(path: Path, text: str) -> Sheet:
    """A list of records, or one record a line."""
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        records = json.loads(text) if lines[0].lstrip().startswith("[") else [json.loads(line) for line in lines]
        values = [value for record in records for value in record.values()]
        inside = [each for value in values if isinstance(value, list) for each in value]
        if any(isinstance(each, dict) for each in values) or any(isinstance(each, dict | list) for each in inside):
            raise ValueError
        return _from_frame(pd.DataFrame.from_records(records), str(path))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f'{path} is JSON, but no list of records such as [{{"class": "Wren", "mass": 9.5}}]. Save it as CSV.'
        ) from None


def _delimited(path: Path, text: str, delimiter: str | None) -> tuple[list[tuple[int, list[str]]], str]:
    """Line number and cells of every line, and the delimiter."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip(" ,;\t|")), None)
    if first is None:
        raise ValueError(f"{path} is empty. Give a table with a header and one row a class.")
    if delimiter is None and not any(each in text for each in DELIMITERS):
        seen = "its columns are parted by spaces only" if re.search(r"\S {2,}\S", text) else "only one column is found"
        raise ValueError(
            f"{path}: {seen}. Save it as CSV with commas or tabs, or say what parts the columns (delimiter=, "
            "--delimiter)."
        )
    named = re.fullmatch(r'"?sep=(.|\\t)"?[,;\t]*', lines[first].strip(" "), re.IGNORECASE)
    if named:
        delimiter = delimiter or named.group(1).replace("\\t", "\t")
        lines[first] = ""
    # A quote in a comment would swallow what follows; empty lines keep the numbers right.
    lines = ["" if _is_comment(line) else line for line in lines]
    if all(re.fullmatch(r'"[^"]+"', line) for line in lines if line):  # some program has quoted whole lines
        lines = [line.strip('"') for line in lines]
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
    """A line that begins with #, or a rule such as |---|---| under the header."""
    if re.fullmatch(r"[\s|:+=-]*---[\s|:+=-]*", line):
        return True
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


def _from_frame(frame: pd.DataFrame, source: str) -> Sheet:
    if isinstance(frame.columns, pd.MultiIndex) or isinstance(frame.index, pd.MultiIndex):
        raise ValueError(f"{source} has several levels of names. Flatten them to one name a column.")
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.rename_axis(frame.index.name or "").reset_index()
    header = [str(name) for name in frame.columns]
    rows = [(0, header)]
    rows += [
        (i, [text_of(value) for value in row]) for i, row in enumerate(frame.itertuples(index=False, name=None), 1)
    ]
    return _with_header(rows, source, [], None, "row", at=0)


def _with_header(
    rows: list[tuple[int, list[str]]],
    source: str,
    notes: list[str],
    header: int | None,
    word: str,
    at: int | None = None,
) -> Sheet:
    rows = [(line, [clean_lines(cell) for cell in cells]) for line, cells in rows]
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if header is not None:
        at = next((i for i, (line, _) in enumerate(rows) if line == header), None)
        if at is None:
            raise ValueError(f"{source} has no {word} {header} with a header.")
    if at is None:
        at = _header_place(rows) if rows else 0
    if at >= len(rows) - 1:
        raise ValueError(f"{source}: needs a header line (class, trait, ...) and at least one class row.")
    if at:
        notes.append(f"{at} {word}{'s' if at > 1 else ''} above the header left out")
    if (both := _two_headers(rows[at][1], rows[at + 1][1])) and at + 2 < len(rows):
        notes.append(f"names of columns in {word}s {rows[at][0]} and {rows[at + 1][0]}")
        at += 1
        rows[at] = (rows[at][0], both)
    again = [row for row in rows[at + 1 :] if row[1] == rows[at][1]]
    if again:
        notes.append(f"the header stands again in {word} {', '.join(str(line) for line, _ in again[:4])}: left out")
    rows = [row for i, row in enumerate(rows) if i <= at or row not in again]
    title = [" ".join(name.split()) for name in rows[at][1]]
    names, rows = _named(title, rows[at + 1 :], source, word, rows[at][0])
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


def _two_headers(upper: list[str], lower: list[str]) -> list[str] | None:
    """One header of two, where the upper one has cells that span several columns, which the lower one names."""
    lower = [*lower, *[""] * len(upper)][: len(upper)]
    upper = ["" if i and name == upper[i - 1] else name for i, name in enumerate(upper)]
    spanned = [i for i, name in enumerate(upper) if not name and lower[i] and i]
    classes = [i for i, name in enumerate(upper) if name and lower[i] in ("", name)]
    units = all(known_unit(cell) for cell in lower if cell)
    if not spanned or not classes or units or any(is_number(cell) for cell in lower):
        return None
    over = [next((upper[j] for j in range(i, -1, -1) if upper[j]), "") for i in range(len(upper))]
    names = [f"{over[i]} ({below})" if known_unit(below) else below or upper[i] for i, below in enumerate(lower)]
    return [
        f"{above} {name}" if names.count(name) > 1 and above != name else name
        for above, name in zip(over, names, strict=True)
    ]


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
    sizes = [quantity(name)[0] for name in numbers]
    counted = not any("." in name for name in numbers) and sizes == sorted(set(sizes))  # 1, 2, 3, or years
    some = numbers and header[0].casefold() not in ("", *FIRST_HEADERS) and not (counted and len(numbers) > 1)
    if some or len(numbers) > len(header) / 2 and (not counted or len(numbers) == len(header)):
        raise ValueError(
            f"{source}, {word} {line}: the first row holds numbers ({numbers[0]}), not names of columns. Add a header "
            "row."
        )
    for i, name in enumerate(header, 1):
        if name in seen:
            raise ValueError(
                f"{source}, {word} {line}: the column {name!r} stands twice, as columns {seen[name]} and {i}. "
                "Rename or remove one of them."
            )
        seen[name] = i
