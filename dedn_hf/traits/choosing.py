"""Which columns of a trait table are no traits: names, numbers of rows, sources, comments, and what never differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dedn_hf.modeling.inputs import is_date, known_unit
from dedn_hf.traits.categories import separators, split_cell
from dedn_hf.traits.cells import is_number
from dedn_hf.traits.columns import POSITIVE_MARKS
from dedn_hf.traits.opening import Sheet
from dedn_hf.traits.styles import Style, is_missing

_WORDS = re.compile(r"[A-ZÄÖÜ]+(?=[A-ZÄÖÜ][a-zäöü])|[A-ZÄÖÜ]?[a-zäöüéèñ]+|[A-ZÄÖÜ]+")
# Words of a header that say that the column is no trait, and what it is instead.
_NO_TRAITS = {
    "an identifier": "id ids uid guid uuid tsn taxonid",
    "a source or reference": "source sources ref refs reference references citation doi url link author authors "
    "bibliography quelle quellen literatur fuente referencia",
    "who made the entry": "entered enteredby observer recorder collector contributor compiler editor recordedby",
    "a comment": "comment comments note notes remark remarks bemerkung bemerkungen kommentar remarques observaciones",
    "a mark of certainty or spread": "certainty confidence reliability uncertainty inference inferred speclevel "
    "sd se stdev stderr variance",
    "a number of measurements": "individuals specimens measures samples samplesize",
    "a place on the map": "latitude longitude easting northing coordinates",
    "a date": "date datum fecha",
}
NO_TRAITS = {what: set(words.split()) for what, words in _NO_TRAITS.items()}
_RUNNING = "sequence seq nr no row number index rank lfd id"
_TAXA = (
    "kingdom phylum order family genus species subfamily subspecies superfamily tribe taxon taxo authority taxonomy "
)
_TAXA += "clade familie gattung ordnung art famille ordre genre familia genero orden"
_NAMES = (
    "name names scientific latin english german common vernacular binomial folder label class deutsch species taxon"
)
MAP = {"lat", "lon", "long", "lng"}
MAP_WORDS = MAP | {"min", "max", "mean", "mid", "decimal", "deg", "degrees"}
RUNNING, TAXA, NAMES = (set(words.split()) for words in (_RUNNING, _TAXA, _NAMES))


def why_no_trait(sheet: Sheet, name: str, style: Style, class_column: str) -> str | None:
    """Why a column is no trait, or None where it may be one."""
    cells = sheet.cells[name]
    told = cells[[not is_missing(cell, style) for cell in cells]]
    if told.empty:
        return "it has no value"
    if is_unnamed(name):
        return "a running number" if _is_whole_and_different(told) else "it has no name"
    numeric = _share_of_numbers(told) > 0.8
    words = words_of(re.sub(r"\s*(±|\+/-).*", "", name))
    said = {*words, "".join(words), *("".join(words[i : i + 2]) for i in range(len(words)))}
    for what, hints in NO_TRAITS.items():
        hit = said & hints
        if what == "a place on the map" and not numeric:
            continue
        if what == "a mark of certainty or spread" and {"mean", "average", "median"} & set(words):
            continue
        if hit and not {"food", "water", "light", "energy"} & set(words):
            return what
    if numeric and set(words) <= MAP_WORDS and set(words) & MAP:
        return "a place on the map"
    if numeric and set(words) <= {"female", "male", "females", "males", "unknown", "n"} and words:
        return "a number of measurements"
    called_so = bool(words) and set(words) <= RUNNING
    if _is_whole_and_different(told) and (called_so or _counts_rows(sheet, name, told, class_column)):
        return "a running number"
    if (
        told.nunique() == 1
        and len(told) > 1
        and not (told.iloc[0].casefold() in POSITIVE_MARKS and len(told) < len(cells))
    ):
        return f"all say {told.iloc[0]!r}"
    if told.str.fullmatch(r"\d{4}-\d\d-\d\d.*").all():
        return "dates; where ranges such as 9-12 were meant, format the column as text and type them again"
    if numeric:
        return None
    if set(words) & TAXA:
        return "a name of a taxon, which says who is related and not what is seen"
    return _why_no_category(told, words)


def words_of(header: str) -> list[str]:
    """The words of a header, in small letters: 'BLFamilyLatin' has bl, family and latin."""
    return [word.casefold() for word in _WORDS.findall(header)]


def _why_no_category(told: pd.Series, words: Sequence[str]) -> str | None:
    different = told.nunique() / len(told)
    binomial = told.str.fullmatch(r"[A-Z][a-zë]+ [a-zë-]{3,}( [a-z-]+)?").mean() > 0.8
    if different > 0.8 and (set(words) & NAMES or binomial):
        return "another name of the classes"
    if told.str.contains(r"https?://|@|\b10\.\d{4,}/").mean() > 0.5:
        return "a source or reference"
    if told.str.contains(r"\.(?:jpe?g|png|gif|tiff?|webp|heic|svg)$", case=False).mean() > 0.5:
        return "names of pictures"
    if told.str.split().str.len().mean() > 5:
        return "free text"
    by = separators(list(told))
    pieces = [piece for cell in told for piece in split_cell(cell, by)]
    recur = max(Counter(piece.casefold() for piece in pieces).values(), default=2) > 1
    alone = sum(piece in set(told) for piece in pieces)  # of codes, as in 1;2
    lists = by and all(map(is_number, pieces)) and different > 0.9 and alone < len(pieces) / 2
    if lists or told.map(_is_measure_in_words).mean() > 0.5:
        return f"more than a number and a unit in a cell, as in {_no_number(told)!r}"
    if len(told) >= 8 and len({piece.casefold() for piece in pieces}) > 0.8 * len(pieces):
        return "nearly every class has another text"
    if told.str.contains(r"\d").mean() > 0.9 and different > 0.9 and len(told) > 2 and not recur:
        codes = told.str.fullmatch(r"[^\W\d][\w./-]*").mean() > 0.5
        return "an identifier" if codes else f"neither numbers nor words that come again, as {_no_number(told)!r}"
    return None


def _no_number(told: pd.Series) -> str:
    return next((cell for cell in told if not is_number(cell)), told.iloc[0])


def _is_measure_in_words(cell: str) -> bool:
    """'3 x 4 cm', '12 mm long', 'm: 5 g, f: 4 g': a measure, and more than a number with its unit."""
    measures = re.findall(r"\d ?([^\W\d_]+|%)", cell)
    by = re.search(r"\d[^\d,;]*[x×*] ?\d", cell)
    return not is_number(cell) and (by is not None or any(map(known_unit, measures)))


def _is_whole_and_different(told: pd.Series) -> bool:
    return bool(told.str.fullmatch(r"\d+\.?").all()) and told.nunique() == len(told)


def _counts_rows(sheet: Sheet, name: str, told: pd.Series, class_column: str) -> bool:
    """Whether whole numbers left of the names of the classes go up: one by one, or in a long table at all."""
    header = list(sheet.cells)
    steps = np.diff(told.str.rstrip(".").astype(float).to_numpy())
    return header.index(name) < header.index(class_column) and bool(
        (len(told) > 7 and (steps > 0).all()) or (len(told) > 2 and (steps == 1).all())
    )


def is_unnamed(name: str) -> bool:
    return re.fullmatch(r"(column \d+ \(no name\)|Unnamed: \d+|)", name) is not None


def _share_of_numbers(told: pd.Series) -> float:
    return float(np.mean([is_number(cell) or is_date(cell) for cell in told]))
