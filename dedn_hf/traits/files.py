"""The bytes and the text of a file with a table: archives are unpacked, the encoding is found out."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zipfile
import zlib
from pathlib import Path

NO_TABLE = {  # how a file begins -> what it is
    b"\xd0\xcf\x11\xe0": "an Excel file of the old format, or has a password. Save it as .xlsx or CSV, without one",
    b"%PDF": "a PDF file. Export the table as CSV",
    b"{\\rtf": "a text document. Save the table as .xlsx or CSV",
    b"MATLAB": "a MATLAB file. Export the table as CSV",
    b"\x89HDF": "an HDF5 file. Export the table as CSV",
    b"RDX": "a file of R. Write the table with write.csv",
    b"SQLite format 3": "a database. Export the table as CSV",
    b"\x93NUMPY": "a NumPy file. Pass a pandas DataFrame with names instead",
    b"version https://git-lfs": "a pointer to a file that is not here. Fetch it: git lfs pull",
    **dict.fromkeys(
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"), "a picture. Give the table that describes classes"
    ),
}
ZIP = b"PK\x03\x04"


def table_bytes(path: Path) -> tuple[bytes, list[str]]:
    """The bytes of the table in a file, and a note where it had to be unpacked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, or a file that is no table, with what to do.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the table itself, a CSV or Excel file with one row a class.")
    if not path.is_file():
        raise FileNotFoundError(f"No trait table at {path}. Give a CSV or Excel file with one row a class.")
    data, notes = _unpacked(path, path.read_bytes())
    for start, what in NO_TABLE.items():
        if data[: 16 + len(start)].lstrip().startswith(start):
            raise ValueError(f"{path} is {what}.")
    return data, notes


def _unpacked(path: Path, data: bytes) -> tuple[bytes, list[str]]:
    """The bytes of the table in a .gz or .zip file, and a note; those of another file as they are.

    Raises ValueError for an archive that is damaged or does not hold exactly one file.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data), ["unpacked"]
        if data[:4] != ZIP or not zipfile.is_zipfile(io.BytesIO(data)):
            return data, []
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if any(name.startswith("xl/") for name in names):
                return data, []
            if "[Content_Types].xml" in names:
                raise ValueError(f"{path} is an Office file, but no Excel workbook. Save the table as .xlsx or CSV.")
            if b"opendocument" in data[:100]:
                raise ValueError(f"{path} is an OpenDocument table. Save it as .xlsx or CSV.")
            tables = [name for name in names if not name.endswith("/") and not name.startswith(("__MACOSX", "."))]
            if len(tables) == 1:
                return archive.read(tables[0]), [f"unpacked: {tables[0]}"]
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}). Unpack it yourself, or copy it again.") from None
    raise ValueError(f"{path} is a zip archive of {len(tables)} files. Unpack it and give the table.")


def decoded(path: Path, data: bytes, encoding: str | None) -> tuple[str, list[str]]:
    """The text, with plain line ends, and a note on its encoding. Raises ValueError for what is no text."""
    encoding, damaged = (encoding, 0) if encoding else _encoding(path, data)
    try:
        text = data.decode(encoding, "dedn_else_windows" if damaged else "strict")
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} is not text in {encoding!r} ({error}). Give another encoding.") from None
    if "\0" in text:
        raise ValueError(f"{path} is not a text file. Save the table as CSV or .xlsx.")
    names = {"cp1252": "Windows-1252 (Latin-1), as it is no UTF-8 (encoding= overrules)", "utf-8-sig": "UTF-8"}
    shown = names.get(encoding, encoding.upper()) + (f", {damaged} bytes in Windows-1252" if damaged else "")
    return re.sub(r"\r+\n|\r", "\n", text.lstrip("\ufeff")), [f"text in {shown}"]


def _encoding(path: Path, data: bytes) -> tuple[str, int]:
    """The encoding, and how many bytes of a file in UTF-8 are not. Raises ValueError where it cannot be found out."""
    if data[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32", 0
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16", 0
    start = data[:2000]
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) > 3 and start[place::2].count(0) > len(start) / 2 * 0.6:
            return encoding, 0
    text = data.decode("utf-8-sig", "replace")
    damaged = text.count("\ufffd")
    if damaged <= len(re.findall(r"[^\x00-\x7f]", text)) / 2:  # some, where parts of several files were put together
        return "utf-8-sig", damaged
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        if b"\0" in start:
            raise ValueError(f"{path} is not a text file. Save the table as CSV or .xlsx.") from None
        raise ValueError(
            f"{path} is neither UTF-8 nor Windows-1252. Say its encoding (encoding=, --encoding), such as cp1250, "
            "cp932 or mac-roman, or save it as 'CSV UTF-8'."
        ) from None
    return "cp1252", 0


def _else_windows(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are not UTF-8 as Windows-1252, for `bytes.decode`."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("dedn_else_windows", _else_windows)
