"""Finds photos where they are: folders of classes at any depth, or a list of files and labels.

What is not used is counted, with the reason. `datasets` replaces `os.walk` and `Path` in the modules of its builders:
therefore files are looked for here, and not there.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import PIL.Image

from dedn_hf.modeling.handler import open_encoded, register_heic

LISTS = ("metadata.csv", "metadata.parquet", "metadata.jsonl")  # as in `datasets`' ImageFolder
FILE_COLUMNS = ("file_name", "file", "filename", "path", "filepath", "file_path", "image", "image_path", "photo")
LABEL_COLUMNS = ("label", "class", "class_name", "species", "name", "category", "taxon")
SPLIT_COLUMNS = ("split", "subset", "partition")
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "train"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
HIDDEN = ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "system volume information")
UNFINISHED = (".unfinished/", ".dedn-unfinished/")  # folders of commands that were stopped
RAW = (".nef", ".cr2", ".cr3", ".dng", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
HEIC = (".heic", ".heif", ".hif")


@dataclass
class Photo:
    """One photo.

    Args:
        path: where it is. label: its class. split: 'train', 'test', or '' where none is given.
        known: whether the class is one that was asked for; else the label is the name of its folder or in its list.
    """

    path: str
    label: str
    split: str = ""
    known: bool = True


@dataclass
class Photos:
    """The photos of a source, and what was not used.

    Args:
        root: absolute folder that holds them. photos: sorted by path. skipped: reason -> paths relative to `root`.
    """

    root: str
    photos: list[Photo] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def counts(self) -> Counter[str]:
        """Label -> number of photos."""
        return Counter(photo.label for photo in self.photos)

    def relative(self, photo: Photo) -> str:
        """The photo's path below `root`, with forward slashes, as text that any file can hold."""
        return printable(os.path.relpath(photo.path, self.root).replace(os.sep, "/"))

    def describe_skipped(self, shown: int = 3) -> list[str]:
        """One line for each reason: how many files, why, and the first few names."""
        lines = []
        for reason, names in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            more = f" and {len(names) - shown} more" if len(names) > shown else ""
            lines.append(f"{len(names)} {reason}: {', '.join(names[:shown])}{more}")
        return lines

    def same_under_two_labels(self) -> list[list[Photo]]:
        """Groups of photos with the same bytes that have different labels."""
        of_size, of_content = defaultdict(list), defaultdict(list)
        for photo in self.photos:
            if os.path.isfile(photo.path):  # and no row of a data set
                of_size[os.stat(photo.path).st_size].append(photo)
        for photos in of_size.values():
            if len({photo.label for photo in photos}) > 1:
                for photo in photos:
                    of_content[hashlib.sha256(Path(photo.path).read_bytes()).digest()].append(photo)
        return [photos for photos in of_content.values() if len({photo.label for photo in photos}) > 1]


Match = Callable[[set[str]], dict[str, str]]


def find_photos(source: str | os.PathLike, match: Match | None = None) -> Photos:
    """The photos of a folder or of a list of files.

    A folder with metadata.csv, .parquet or .jsonl, or with such lists in its folders train and test, is read by these;
    so is a list that is given: CSV, Excel, Parquet or JSON Lines.
    Otherwise a photo belongs to the nearest folder above it that is a class. Folders named train, val or test above
    the classes say which photos to train on and which to test on.

    Args:
        source: folder or list. match: gives the classes of those names (of folders, or labels of a list) that it
            knows. Default: each folder directly in `source`, or in its train, val and test folders, is a class.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a list that cannot be read, lacks a column, or names no file that is there.
    """
    source = os.path.abspath(os.fspath(source))
    if os.path.isfile(source):
        return listed_photos([source], os.path.dirname(source), match)
    if not os.path.isdir(source):
        raise FileNotFoundError(f"No folder {source}. Pass the folder that holds one folder of images a class.")
    if lists := lists_in(source):
        try:
            return listed_photos(lists, source, match)
        except ValueError as error:
            raise ValueError(f"{error} Or move {lists[0]} away: without a list, folders are the classes.") from error
    found = Photos(source)
    usable = []
    for path, parts in walk(source, found):
        reason = why_unused(path) or (None if len(parts) > 1 else "outside the folders of classes")
        if reason:
            found.skipped[reason].append(printable("/".join(parts)))
        else:
            usable.append((path, parts))
    classes = {} if match is None else match({name for _, parts in usable for name in parts[:-1]})
    depth = usual_depth([parts[:-1] for _, parts in usable], classes)
    for path, parts in usable:
        label, split, known = place_of(parts[:-1], classes, match is None, depth)
        if label:
            found.photos.append(Photo(path, label, split, known))
        else:
            found.skipped["outside the folders of classes"].append(printable("/".join(parts)))
    return found


def walk(
    root: str, found: Photos, parts: tuple[str, ...] = (), above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every file below `root`, in the order of the paths, and its path as parts.

    Linked folders are entered too, each real folder once a branch: `above` are those around `root`.
    """
    above |= {os.path.realpath(root)}
    with os.scandir(root) as entries:  # by names, which take less memory: a folder may hold a million files
        names = sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in entries)
    for name in names:
        path, inside = os.path.join(root, name.rstrip("/")), (*parts, name.rstrip("/"))
        if name.endswith(UNFINISHED):
            found.skipped["of a command that was stopped"].append(printable("/".join(inside)))
        elif name.startswith(".") or inside[-1].lower() in HIDDEN:
            found.skipped["hidden, or litter of a system"].append(printable("/".join(inside)))
        elif not name.endswith("/"):
            yield path, inside
        elif os.path.realpath(path) in above:
            found.skipped["linked folders that contain themselves"].append(printable("/".join(inside)))
        else:
            yield from walk(path, found, inside, above)


def usual_depth(places: Sequence[Sequence[str]], classes: Mapping[str, str]) -> int:
    """How deep most folders of classes lie, 0 where none is known: there, a folder without a row is a class, too."""
    depths = Counter(i for folders in places for i, name in enumerate(folders) if name in classes)
    return depths.most_common(1)[0][0] if depths else 0


def place_of(
    folders: Sequence[str], classes: Mapping[str, str], any_name: bool, depth: int = 0
) -> tuple[str, str, bool]:
    """Class, split and whether the class is known, of a file in these folders, the outermost first.

    classes: names of folders -> classes. any_name: every folder is a class, and known. depth: of most classes.
    """
    nearest = next((name for name in reversed(folders) if name in classes), None)
    others = [name for name in folders if name.lower() not in SPLIT_FOLDERS or name == nearest]
    split = next((SPLIT_FOLDERS[name.lower()] for name in folders if name not in others), "")
    if nearest is not None:
        return classes[nearest], split, True
    beside = folders[depth] if depth < len(folders) and folders[depth] in others else None
    return (beside or (others[0] if others else "")), split, any_name


def why_unused(path: str) -> str | None:
    """Why a file is no photo that can be read; None where it is one. Files of unknown kind are looked into."""
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.exists(path):
        return "links to files that are not there"
    if not os.path.isfile(path):
        return "pipes and devices"  # to open one may wait forever
    if suffix in ARCHIVES:
        return "archives: unpack them"
    if suffix in RAW:
        return "raw pictures of a camera: save them as JPEG"
    if suffix in HEIC and not register_heic():
        return "HEIC pictures: pip install pillow-heif, or save them as JPEG"
    if suffix in PIL.Image.registered_extensions() and suffix not in (".pdf", ".mpg", ".mpeg", ".eps", ".ps"):
        return None
    try:
        open_encoded(path).close()
    except Exception:  # noqa: BLE001 - files of any kind make PIL's readers raise nearly anything
        return "no pictures"
    return None


def lists_in(folder: str) -> list[str]:
    """Lists of photos of a folder: its own, or those of its folders train, val and test, as ImageFolder has them."""
    splits = sorted(name for name in os.listdir(folder) if name.lower() in SPLIT_FOLDERS)
    for places in ([folder], [os.path.join(folder, name) for name in splits]):
        lists = [os.path.join(place, name) for place in places for name in LISTS]
        if found := [path for path in lists if os.path.isfile(path)]:
            return found
    return []


def listed_photos(paths: Sequence[str], root: str, match: Match | None = None) -> Photos:
    """The photos that lists name: a column of files, relative to the list's folder, and a column of labels."""
    found, absent, entries, labelled = Photos(root), [], {}, {}
    for path in paths:
        entries |= dict.fromkeys(entries_of(path))
    labels = {label for _, _, label, _ in entries}
    classes = {label: label for label in labels} if match is None else match(labels - {""})
    for folder, name, label, split in entries:
        place = place_in(folder, name)
        if not name or not label:
            found.skipped["rows without a file or without a label"].append(name or label or "(both empty)")
        elif not os.path.isfile(place):
            absent.append(name)
        elif reason := why_unused(place):
            found.skipped[reason].append(name)
        else:
            photo = Photo(place, classes.get(label, label), split, label in classes)
            other = labelled.setdefault(place, photo).label
            if other != photo.label:
                raise ValueError(
                    f"{paths[0]}: {name} is {other!r} in one row and {photo.label!r} in another. Keep one."
                )
            found.photos.append(photo)
    if absent and not found.photos:
        raise ValueError(
            f"{paths[0]} names {len(absent)} files, and none is there. The first is {absent[0]!r}. Paths are relative "
            f"to {os.path.dirname(paths[0])}."
        )
    if absent:
        found.skipped["files of the list that are not there"] = absent
    found.photos.sort(key=lambda photo: photo.path)
    return found


def place_in(folder: str, name: str) -> str:
    """Where a file of a list is, also of a list that was written on Windows."""
    place = os.path.normpath(os.path.join(folder, name))
    there = os.path.isfile(place) or "\\" not in name
    return place if there else os.path.normpath(os.path.join(folder, name.replace("\\", "/")))


def entries_of(path: str) -> Iterator[tuple[str, str, str, str]]:
    """Folder, file, label and split of each row of a list; a list in a folder train or test is of that split."""
    rows, folder = read_list(path), os.path.dirname(path)
    columns = [str(column) for column in rows[0]] if rows else []
    file_column = required_column(path, columns, FILE_COLUMNS, "files")
    label_column = required_column(path, [c for c in columns if c != file_column], LABEL_COLUMNS, "labels")
    split_column = column_of(columns, SPLIT_COLUMNS)
    for row in rows:
        split = text_of(row[split_column]) if split_column else os.path.basename(folder)
        yield (
            folder,
            text_of(row[file_column]),
            readable(text_of(row[label_column])),
            SPLIT_FOLDERS.get(split.lower(), ""),
        )


def read_list(path: str) -> list[dict]:
    """The rows of a list, as dictionaries."""
    import pandas

    suffix = Path(path).suffix.lower()
    with open(path, "rb") as file:
        start = file.read(1000)
    if suffix in ARCHIVES:
        raise ValueError(f"{path} is an archive. Unpack it, and give the folder.")
    try:
        if start[:2] in (b"\xff\xfe", b"\xfe\xff") or start.startswith(b"PK\x03\x04"):  # UTF-16 or Excel
            from dedn_hf.traits import open_sheet

            return open_sheet(path).cells.to_dict("records")
        if suffix == ".parquet":
            return pandas.read_parquet(path).to_dict("records")
        if suffix in (".jsonl", ".json"):
            return pandas.read_json(path, lines=suffix == ".jsonl", dtype=False).to_dict("records")
        if b"\0" in start:
            raise ValueError("it is no text. Give a folder of photos, or a list: CSV, Excel, Parquet or JSON Lines")
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return list(csv_rows(file))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no list of photos that can be read: {error}") from error


def csv_rows(file: IO[str]) -> csv.DictReader:
    """The rows of a CSV file, one by one, parted by what its first line has most of."""
    first = file.readline()
    named = re.fullmatch(r'"?sep=(.)"?[,;\t]*', first.strip("\r\n "), re.IGNORECASE)
    delimiter = named.group(1) if named else max(",;\t|", key=first.count)
    if not named:
        file.seek(0)
    rows = csv.DictReader(file, delimiter=delimiter)
    names = Counter(name.strip().lower() for name in rows.fieldnames or ())
    for name in (*FILE_COLUMNS, *LABEL_COLUMNS):
        if names[name] > 1:
            raise ValueError(f"{names[name]} columns are called {name!r}; rename all but one")
    return rows


def column_of(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of `columns` that has one of these names, in the order of the names."""
    lowered = {re.sub(r"[\s-]+", "_", str(column).strip().lower()): column for column in columns if column is not None}
    return next((lowered[name] for name in names if name in lowered), None)


def required_column(path: str, columns: Sequence[str], names: Sequence[str], what: str) -> str:
    """As `column_of`; raises ValueError where there is none."""
    column = column_of(columns, names)
    if column is None:
        there = f"It has {', '.join(columns)}." if columns else "It has no rows."
        raise ValueError(f"{path} has no column of {what}: call it {names[0]!r}. {there}")
    return column


def text_of(value: object) -> str:
    """A cell as text; '' where it is empty."""
    return "" if value is None or value != value else str(value).strip()


def readable(name: str) -> str:
    """A name of any bytes as text: what is no UTF-8 is Latin-1, as Windows writes it."""
    content = os.fsencode(name)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def printable(name: str) -> str:
    """A file's name as text that any file can hold: bytes that are no UTF-8 as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
