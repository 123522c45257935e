"""Which row is which class: names of photo folders and names in a table, written by different people."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dedn_hf.traits.cells import clean
from dedn_hf.traits.opening import Sheet, open_sheet

_HEADERS = (
    "class classname label folder accspeciesname species speciesname scientificname scientific binomial latinname "
)
_HEADERS += (
    "latin taxon taxonname animal bird plant commonname common vernacularname english englishname name artname art "
)
_HEADERS += "klasse espece especie espèce nom nombre specie soort canonicalname specificepithet epithet"
CLASS_HEADERS = _HEADERS.split()
_APOSTROPHES = "'’‘`´ʼʹ′ˈ＇"
_SPELLED_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae"})


@dataclass
class Match:
    """Which photo folder each name of the table belongs to.

    Args:
        folder_of: name in the table -> folder. unmatched_names, unmatched_folders: what is left on either side.
    """

    folder_of: dict[str, str]
    unmatched_names: list[str]
    unmatched_folders: list[str]


def photo_classes(photos: str | Path | Iterable[str]) -> list[str]:
    """Names of the classes with photos: given, or the folders in a folder that hold a file."""
    if not isinstance(photos, str | Path):
        return [str(name) for name in photos]
    root = Path(photos)
    if not root.is_dir():
        raise FileNotFoundError(f"No folder of photos at {root}. Give a folder with one folder a class.")
    folders = [each for each in sorted(root.iterdir()) if each.is_dir() and not each.name.startswith((".", "__"))]
    return [each.name for each in folders if any(path.is_file() for path in each.rglob("[!.]*"))]


def read_names(names: str | Path | Mapping, photos: Sequence[str] | None) -> dict[str, list[str]]:
    """Folder -> what it is called in tables, from a mapping or a file of folder,name[,name...]."""
    if isinstance(names, Mapping):
        return {str(key): [each] if isinstance(each, str) else list(map(str, each)) for key, each in names.items()}
    sheet = open_sheet(names)
    cells = sheet.cells
    if photos is None:
        folder = next((name for name in cells if name.lower() in ("folder", "class", "label")), cells.columns[0])
    else:
        folder = max(cells, key=lambda name: len(set(cells[name]) & set(photos)))
    rows = [
        (row[folder], [cell for name, cell in row.items() if name != folder and cell]) for _, row in cells.iterrows()
    ]
    for name, aliases in rows:
        if not name or not aliases:
            raise ValueError(
                f"{names}: the pair {name!r}, {', '.join(aliases)!r} is not whole. Write folder,name there."
            )
    return dict(rows)


@functools.lru_cache(maxsize=500_000)
def keys_of(name: str) -> list[set[str]]:
    """What a name may match by, the strictest first; by the last of them, only if nothing else does."""
    plain = unicodedata.normalize("NFC", clean(name))
    bare = re.sub(r"^\s*\d+\s*[._)\- ]+\s*(?=\D)|\s*[*†‡]+$", "", plain)
    folded = _folded(bare)
    inside = [_folded(part) for part in re.findall(r"[(\[]([^()\[\]]+)[)\]]", plain)]
    outside = _folded(re.sub(r"[(\[][^()\[\]]*[)\]]", " ", bare))
    no_apostrophe = {re.sub(rf"[{_APOSTROPHES}]", "", key) for key in (folded, outside, *inside)}
    return [{plain}, {folded}, no_apostrophe, set(map(_without_accents, no_apostrophe)), _loose(bare, folded, outside)]


def _loose(name: str, folded: str, outside: str) -> set[str]:
    """A name without plurals and authors, with ue for ü, in one word; its parts, such as the Latin one."""
    keys = {re.sub(r"s\b", "", re.sub(rf"[{_APOSTROPHES}]s\b", "", key)) for key in (folded, outside)}
    keys |= {folded.translate(_SPELLED_OUT), re.sub(r" spp?$", "", folded), folded.replace(" ", "")}
    author = re.match(r"([A-Z][a-zë-]+[ _][a-zë-]+(?:[ _][a-zë-]+)?)[ _,(]+(?=[A-Z])", name)
    parts = [author[1]] if author else []
    parts += re.split(r"\s[/|=–-]\s", name)
    first, comma, rest = name.partition(", ")
    parts += [rest + " " + first, *(part for part in (first, rest) if " " in part)] if comma else []
    return {_without_accents(key) for key in keys | set(map(_folded, parts))} - {""}


def written_in_two_ways(unmatched: Iterable[str], names: Iterable[str]) -> list[str]:
    """A warning for each name without photos that is another one, but for capitals, accents or signs between words."""
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        first.setdefault(min(keys_of(name)[1]), name)
    of = {name: first[min(keys_of(name)[1])] for name in unmatched}
    pairs = [(other, name) for name, other in of.items() if other != name and name not in first.values()]
    return [
        f"{one!r} and {other!r} are nearly one name, but two classes here; write it alike in all its rows"
        for one, other in pairs
    ]


def match(names: Iterable[str], folders: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None) -> Match:
    """Who is who. `aliases` (folder -> names in tables) overrules what the names themselves say.

    Raises:
        ValueError: a name fits several folders, or a folder several names.
    """
    left, open_folders = list(dict.fromkeys(names)), list(folders)
    folder_of: dict[str, str] = {}
    if aliases:
        for folder in [each for each in open_folders if each in aliases]:
            for level in range(4):
                wanted = set().union(*(keys_of(alias)[level] for alias in aliases[folder]))
                found = [name for name in left if keys_of(name)[level] & wanted]
                if found:
                    _require_one(found, folder)
                    folder_of[found[0]] = folder
                    left.remove(found[0])
                    open_folders.remove(folder)
                    break
    name_keys, folder_keys = {each: keys_of(each) for each in left}, {each: keys_of(each) for each in open_folders}
    for level in range(5):
        by_key = defaultdict(list)
        for folder in open_folders:
            for key in folder_keys[folder][level]:
                by_key[key].append(folder)
        fits = {name: sorted({f for key in name_keys[name][level] for f in by_key[key]}) for name in left}
        taken = defaultdict(list)
        for name, found in fits.items():
            if len(found) > 1 and level < 4:
                raise ValueError(
                    f"{name!r} in the table may be any of the folders {', '.join(map(repr, found))}. Say which with "
                    "names={folder: name} (--names FILE), or rename a folder."
                )
            if len(found) == 1:
                taken[found[0]].append(name)
        for folder, found in taken.items():
            if len(found) > 1 and level == 4:
                continue
            _require_one(found, folder)
            folder_of[found[0]] = folder
            left.remove(found[0])
            open_folders.remove(folder)
    return Match(folder_of, left, open_folders)


def find_class_column(
    sheet: Sheet, folders: Sequence[str] | None, aliases: Mapping[str, Sequence[str]] | None, given: str | None
) -> tuple[str, str]:
    """The column with the names of the classes, and why it is that one.

    Raises:
        ValueError: no such column, or none matches a photo folder.
    """
    cells = sheet.cells
    if given is not None:
        near = {name.casefold(): name for name in cells}
        column = given if given in cells else near.get(given.casefold())
        if column is None:
            raise ValueError(f"{sheet.source} has no column {given!r}. It has {', '.join(map(repr, cells))}.")
        return column, "given"
    if folders:
        named = [name for name in cells if not _only_numbers(cells[name])] or list(cells)
        counts = {name: count_matches(cells[name], folders, aliases) for name in named}
        best = max(counts, key=lambda name: (counts[name], -_header_rank(name)))
        if counts[best]:
            return best, f"{counts[best]} of {len(folders)} photo classes found in it"
    ranked = [name for name in cells if _header_rank(name) < len(CLASS_HEADERS)]
    ranked = [name for name in ranked if (cells[name] != "").any()]
    if ranked:
        return min(ranked, key=_header_rank), "by its header"
    for name in cells:
        words = cells[name][cells[name] != ""]
        if len(words) and words.nunique() > 0.8 * len(words) and not words.str.fullmatch(r"[\W\d]+").any():
            return name, "the first column of names"
    return cells.columns[0], "the first column"


def _only_numbers(column: pd.Series) -> bool:
    """Whether a column holds numbers, and some of them again: values, and no numbers that are names."""
    told = column[column != ""]
    return bool(len(told) and told.nunique() < len(told) and told.str.fullmatch(r"[-\d.,]+").all())


def count_matches(names: Iterable[str], folders: Sequence[str], aliases: Mapping[str, Sequence[str]] | None) -> int:
    """How many folders have a name in the column."""
    keys = set().union(*(set().union(*keys_of(name)) for name in set(names) if name))
    wanted = [[folder, *(aliases or {}).get(folder, [])] for folder in folders]
    return sum(any(keys & set().union(*keys_of(name)) for name in each) for each in wanted)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to two names that look alike, whatever numbers and underscores are around them."""
    plain = {max(keys_of(each)[3], default=each): each for each in known}
    wanted = max(keys_of(name)[3], default=name)
    words = set(wanted.split())
    if len(plain) > 1000:  # comparing letters with very many names takes long: those with a word in common only
        plain = {key: each for key, each in plain.items() if words & set(key.split())}
    return [plain[key] for key in difflib.get_close_matches(wanted, plain, n=2, cutoff=0.6)]


def _header_rank(name: str) -> int:
    plain = re.sub(r"[\W\d_]+", "", name.casefold())
    return CLASS_HEADERS.index(plain) if plain in CLASS_HEADERS else len(CLASS_HEADERS)


def _require_one(found: Sequence[str], folder: str) -> None:
    if len(found) > 1:
        raise ValueError(
            f"The folder {folder!r} may be any of {', '.join(map(repr, found[:4]))} in the table. Write the class the "
            "same way in all its rows, or say which with names={folder: name} (--names FILE)."
        )


def _folded(name: str) -> str:
    name = re.sub(rf"[{_APOSTROPHES}]", "'", unicodedata.normalize("NFKC", name).casefold())
    words = re.sub(r"[_\-‐‑–—/+.,:()\[\]]", " ", name.replace("&", " and ")).split()
    return " ".join(re.sub(r"^0+(?=\d+$)", "", word) for word in words)  # spreadsheets make 1 of 001


def _without_accents(name: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each))
