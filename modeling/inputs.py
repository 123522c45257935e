"""What people give: pictures and descriptions, read in the same way by training, pipeline, endpoint and pages.

Needs numpy and PIL only. Letters of the shapes: K classes, A attributes.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from .handler import MAX_ASPECT_RATIO, open_encoded

# Pictures -----------------------------------------------------------------------------------------------------------

TURNS = {  # EXIF orientation -> how to set the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHOLE_RANGES = (2.0**8 - 1, 2.0**12 - 1, 2.0**16 - 1)  # of grey pictures: 8, 12 and 16 bits
FLOAT_RANGES = (1.0, 2.0**8 - 1)
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # tags of TIFF: 0 where 0 is white; 1 where no value is negative


def read_image(source: str | os.PathLike | bytes) -> Image.Image:
    """A picture from a file or its bytes, as a viewer shows it; see `open_encoded` and `upright_rgb`.

    Raises:
        OSError, SyntaxError, ValueError: there is no such file, it is no image, its pixels do not decode, or it is a
            thin line.
    """
    return upright_rgb(open_encoded(source))


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it: upright by its EXIF tag, in RGB, the first frame of an animation.

    Damaged metadata never costs the picture: at worst it is not turned. Grey pictures of 16 or 32 bits and of
    floating point are brought to 0..255 by their range, see `eight_bit`. What comes out holds no metadata, so that
    none gets into a file that is made of it.

    Raises:
        OSError, SyntaxError, ValueError: the pixels do not decode, or it is a thin line.
    """
    require_shape(image)
    image.load()
    turn = TURNS.get(orientation(image) or 0)
    picture = eight_bit(image)
    picture = (picture if turn is None else picture.transpose(turn)).convert("RGB")
    picture.info = {}
    return picture


def require_shape(image: Image.Image) -> None:
    """Raise ValueError for a thin line, of which preprocessing would make a giant."""
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, and is more than {MAX_ASPECT_RATIO} times longer than wide"
        )


def orientation(image: Image.Image) -> int | None:
    """The EXIF tag that says how to turn a picture, 1 to 8, or None. No other tag is looked at: it may be damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged EXIF makes PIL raise nearly anything
        return None


def eight_bit(image: Image.Image) -> Image.Image:
    """A grey picture with more than 8 bits a pixel in 8; any other picture as it is. PIL would make it white or black.

    Black and white are the ends of the smallest usual range that covers all values: 0..255, 0..4095 (12 bits) or
    0..65535 of whole numbers, 0..1 or 0..255 of floating point. Where none does, as with negative values and most
    pictures of 32 bits, they are the picture's own smallest and largest value. What is not finite is black.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image).astype(np.float64)
    if image.mode == "I" and tags and tags.get(SAMPLE_FORMAT, 1) in (1, (1,)):
        values[values < 0] += 2.0**32  # PIL reads 32 bits as if they had a sign
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    ranges = FLOAT_RANGES if image.mode == "F" else WHOLE_RANGES
    limit = next((limit for limit in ranges if low >= 0 and high <= limit), None)
    low, high = (low, high) if limit is None else (0.0, limit)
    shares = np.where(finite, (np.where(finite, values, low) - low) / max(high - low, 1e-300), 0)
    if tags.get(PHOTOMETRIC) == 0:
        shares = np.where(finite, 1 - shares, 0)
    return Image.fromarray((shares * 255).round().astype(np.uint8))


# Cells of a table: gaps, yes and no, numbers with units as people write them -----------------------------------------

MISSING = {"", "-", "–", "—", "?", "??", ".", "..", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "null"}
MISSING |= {"unknown", "nd", "n.d.", "n/d", "s/d", "no data", "nodata", "not available", "missing", "tba", "n.v."}
MISSING |= {"k.a.", "k. a.", "unk", "unbekannt", "inconnu", "desconocido", "desconhecido", "sconosciuto", "onbekend"}
MISSING |= {"неизвестно", "不明"}
MISSING |= {"#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!", "#na", "#nv", "#n/v"}
# Other ways to say it: 'not recorded', 'keine Daten', 'data deficient', 'unmeasured', 'see notes'.
_GIVEN = "record|measur|availab|applica|determin|know|report|given|stud|sampl|assess|specif|stated|provided|collect"
_GIVEN += "|sure|evaluat|estimat|erfass|gemessen|bekannt|bestimm|verfügbar|angegeben|untersucht|mesur|connu|disponib"
_GIVEN += "|disponív|renseign|détermin|précis|medid|registrad|conocid|aplica|informad|misurat|rilevat|noto|bekend"
_GIVEN += "|gemeten|beschikbaar|conhecid|известно|измерен"
_DATA = "data|info|information|records?|values?|daten|angaben?|werte?|donn[ée]es?|datos?|información|dados?"
_DATA += "|informação|dato|dati|gegevens"
_NO_VALUE = re.compile(
    rf"(?:not|none|nicht|niet|non|no|não|inte|ikke|не)(?: yet| noch| se)? (?:{_GIVEN})\w*"
    rf"|(?:no|keine?|pas de|aucune?|sin|sem|nessun[oa]?|geen|ingen|insufficient|missing|lacking) (?:{_DATA})(?: \w+)?"
    rf"|(?:{_DATA}) (?:deficient|missing|lacking|unavailable|fehlt|fehlen|manquantes?|insuficientes?)"
    rf"|un(?:{_GIVEN}|clear|certain|bekannt|klar)\w*|(?:inconnu|desconocid|desconhecid|sconosciut)\w*"
    r"|to be \w+|(?:see|siehe|voir|ver) (?:the )?(?:notes?|text|remarks?|comments?|anmerkung|bemerkung)\w*"
)
YES = {"1", "yes", "y", "true", "t", "x", "✓", "✔", "☑", "✅", "+", "•", "●", "■", "*", "present", "ja", "j"}
YES |= {"vorhanden", "wahr", "w", "oui", "o", "vrai", "sí", "si", "s", "verdadero", "vero", "sim", "verdadeiro", "tak"}
YES |= {"sì", "ano", "igen", "evet", "kyllä", "да", "истина", "はい", "是", "有", "예"}
YES |= {"présent", "présente", "presente", "aanwezig", "waar", "prawda", "sant"}
NO = {"0", "no", "n", "false", "f", "✗", "✘", "☐", "❌", "○", "□", "absent", "not present", "nein", "fehlt"}
NO |= {"nicht vorhanden", "falsch", "nee", "non", "faux", "falso", "não", "nao", "nej", "nie", "нет", "ложь"}
NO |= {"ne", "nem", "hayır", "ei", "いいえ", "否", "无", "無", "아니오"}
NO |= {"absente", "ausente", "afwezig", "onwaar", "fałsz", "falskt"}
UNITS = {"mass": {"mg": 0.001, "g": 1, "kg": 1000, "t": 1e6, "oz": 28.349523125, "lb": 453.59237}}
UNITS["length"] = {"µm": 0.001, "mm": 1, "cm": 10, "dm": 100, "m": 1000, "km": 1e6, "in": 25.4, "ft": 304.8}
UNITS["area"] = {"mm2": 1, "cm2": 100, "m2": 1e6, "ha": 1e10, "km2": 1e12}
UNITS["volume"] = {"ml": 1, "cl": 10, "dl": 100, "l": 1000}
UNITS["time"] = {"s": 1, "min": 60, "h": 3600, "d": 86400, "wk": 604800, "mo": 2629800, "yr": 31557600}
_DIMENSION = {unit: (dimension, size) for dimension, units in UNITS.items() for unit, size in units.items()}
_SPELLED = {"gr": "g", "kilo": "kg", "ounce": "oz", "pound": "lb", "lbs": "lb", "gm": "g", "tonne": "t", "ton": "t"}
_SPELLED |= {"'": "ft", "′": "ft", "’": "ft", "foot": "ft", "feet": "ft", "inch": "in", "inche": "in"}
_SPELLED |= dict.fromkeys(('"', "″", "”", "''", "’’", "′′"), "in")
_SPELLED |= {"litre": "l", "liter": "l", "um": "µm", "μm": "µm", "micron": "µm", "hectare": "ha"}
_SPELLED |= {"second": "s", "minute": "min", "hour": "h", "day": "d", "week": "wk", "month": "mo", "year": "yr"}
_SPELLED |= {"y": "yr", "tag": "d", "tage": "d", "monat": "mo", "monate": "mo", "jahr": "yr", "jahre": "yr"}
_SPELLED |= {"°c": "°C", "celsius": "°C", "°f": "°F", "fahrenheit": "°F"}
_SPELLED |= dict.fromkeys(("percent", "pct", "prozent", "procent"), "%")
_PREFIXES = {"kilo": "k", "milli": "m", "centi": "c", "zenti": "c", "deci": "d", "dezi": "d", "micro": "µ", "": ""}
for _prefix, _short in _PREFIXES.items():
    _SPELLED |= {f"{_prefix}{word}": f"{_short}m" for word in ("metre", "meter", "mètre", "metro")}
    _SPELLED |= {f"{_prefix}{word}": f"{_short}g" for word in ("gram", "gramm", "gramme", "gramo")}

# Between several values in a cell: a sign or word, and the pattern of it.
SEPARATORS = {sign: re.escape(sign) for sign in (*";|•、", "\n", ",", "/", "+", "&")}
SEPARATORS |= {
    word: rf"(?:^|\s){word}\s" for word in ("and", "und", "et", "y", "e", "en", "och", "or", "oder", "ou", "o")
}
QUOTES = "'\"“”„‟’‘`´«»"
_NUMBER = r"[+-]?(?:\d+(?:[ '’_.,]\d{3})*(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?"
_CURRENCIES = "$€£¥"
_LETTERS = r"[^\W\d_⁰¹²³⁴-⁹]+"
_PER = rf"\s*/\s*{_LETTERS}[²³23]?"
_UNIT = rf"(?:''|’’|′′|[\"″”'′’]|(?:{_LETTERS}\.?|%|[°º] ?\w?|[{_CURRENCIES}])(?:[²³23]|\^[23])?(?:{_PER})?|{_PER})"
FRACTION = re.compile(r"(?<![\d/.,])(?:(\d+)[ +])?(\d+) ?[/⁄] ?(\d+)(?![\d/])")
_QUANTITY = re.compile(
    rf"({_NUMBER})\s*({_UNIT})?(?:\s*(?:-|\.\.+|…|to|till|bis|à|a|tot)\s*({_NUMBER}))?"
    rf"\s*(?:(?:±|\+/-)\s*{_NUMBER}\s*(?:s\.?[de]\.?)?)?\s*({_UNIT})?",
    re.IGNORECASE,
)
_COMPOUND = re.compile(rf"({_NUMBER} ?{_UNIT}) ?({_NUMBER} ?{_UNIT})", re.IGNORECASE)
_POWER = re.compile(r"(?<=\d)\s*[×x*·]\s*10(?:\^([+-]?\d+)|([⁺⁻]?[⁰¹²³⁴-⁹]+))")  # 1.2×10^3, 3·10²
# What may stand around the number that is meant: 'about 12', '<5', '12 (n=5)', '12 [3]', '12*', '20?', '10+'.
_BEFORE = re.compile(
    r"^(?:(?:[~≈≃∼<>≤≥=]+|(?:ca|c|approx|env|max|min|mind)\."
    r"|(?:ca?|circa|about|around|approximately|roughly|up to|at least|at most|(?:less|more|fewer|greater) than|over"
    r"|under|above|below|max|min|maximum|minimum|etwa|rund|ungefähr|bis|bis zu|über|unter|mindestens|höchstens|environ"
    r"|plus de|moins de|jusqu'à|hasta|unos|más de|menos de|fino a)(?= ))\s*(?=[\d.+-])|\([^()]*\)\s*(?=\d))",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"(?<=[\w.%)\]])(?:\s*[*†‡§?!]+|\s*(?:\(([^()]*)\)|\[([^\[\]]*)\])|(?:[,;] ?| )n ?= ?\d+|\+(?= |$))"
    r"(?P<unit>(?: [^\W\d_]+)?)$",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"^(?:between|from|zwischen|von|entre|de|da|tra|van|tussen) (.*\d.*)"
    r" (?:and|to|und|bis|et|à|y|a|e|en|tot) (.*\d.*)$",
    re.IGNORECASE,
)
_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|mär|mrz|mai|okt|dez|janv|févr|avr|juin|juil|août|déc"
)
_MONTH += r"|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|january|february|march|april|june|july|august|september|october"
_MONTH += r"|november|december|januar|februar|märz|juni|juli|oktober|dezember)\.?"
_DATE = re.compile(
    rf"\d{{1,4}}[. /-]*{_MONTH}(?:[ /.-]*\d{{2,4}})?|{_MONTH}[ /.-]*\d{{1,4}}|\d{{4}}-\d\d-\d\d.*"
    r"|\d{1,2}\.\d{1,2}\.|\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d\d)(?: .*)?",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=100_000)
def means_missing(text: str) -> bool:
    """Whether a cell says that there is no value: '', '?', 'n/a (juvenile)', 'not recorded', 'keine Daten'."""
    plain = " ".join(text.split()).casefold()
    if plain in MISSING:
        return True
    plain = re.sub(r"(?<=[\w.]) ?(?:\([^()]*\)|\[[^\[\]]*\])$", "", plain).strip(" .!()[]")
    return plain in MISSING or _NO_VALUE.fullmatch(plain) is not None or not plain.strip("-–—?.…_/,;|&: ")


@functools.lru_cache(maxsize=100_000)
def plain_word(text: str) -> str:
    """A word of a category to compare: 'Dark-brown ' and 'dark brown?' are one."""
    text = re.sub(r"(?<=\w)[-_\s]+(?=\w)", " ", " ".join(text.split()).casefold())
    return re.sub(r"(?<=[^\W⁰¹²³⁴-⁹])[.?!*†‡§⁰¹²³⁴-⁹]+$", "", text)


@functools.lru_cache(maxsize=100_000)
def is_date(text: str) -> bool:
    """Whether a spreadsheet has made a date of what was typed, such as '12. Sep' of 9-12."""
    return _DATE.fullmatch(text.strip()) is not None


def unit_name(text: str | None) -> str:
    """A unit as the tables write it: 'grams' is g, 'mm²' mm2, 'per year' /yr. Of other words, the singular."""
    text = (text or "").strip().rstrip(".").replace("²", "2").replace("³", "3").replace("^", "")
    if "/" in text:
        return "/".join(map(unit_name, text.split("/")))
    text = re.sub("[°º] ?", "°", text)
    for word in (text, text.lower(), text.lower().removesuffix("s")):
        if word in _DIMENSION or word in _SPELLED:
            return _SPELLED.get(word, word)
    return text.lower().removesuffix("s") if len(text) > 3 else text


def dimension(unit: str) -> str:
    """What a unit measures, such as 'length'; the unit itself where that is not known."""
    return "temperature" if unit in ("°C", "°F") else _DIMENSION.get(unit, (unit, 1))[0]


def known_unit(text: str) -> bool:
    return unit_name(text) in _DIMENSION or unit_name(text) in ("%", "°C", "°F", "°", *_CURRENCIES)


@functools.lru_cache(maxsize=100_000)
def decimal_sign(text: str) -> str | None:
    """'.' or ',' where a number shows which of them it uses for decimals, None where it does not: 1.200, 12."""
    for number in re.findall(_NUMBER, text, re.IGNORECASE):
        signs = re.findall(r"[.,]", number)
        if len(set(signs)) == 2:
            return signs[-1]
        if len(signs) > 1:
            return "," if signs[0] == "." else "."
        if signs and not re.search(r"(?<!\d)[1-9]\d{0,2}[.,]\d{3}(?!\d)", number):
            return signs[0]
    return None


@functools.lru_cache(maxsize=100_000)
def quantity(text: str, decimal: str | None = None) -> tuple[float, str]:
    """Number and unit of '1 200 g', '0,5', '9–12 mm' (its middle), '~3', '1 1/2', '2 ft 6 in', '80 %', '5 per year'.

    '++' is 2, '(+)' and '±' are 0.5. Raises ValueError for others.
    """
    if (grade := _grade(_plain(text))) is not None:
        return grade, ""
    numbers, unit = _numbers_and_unit(text, decimal)
    number = sum(numbers) / len(numbers)
    if not abs(number) < 3.4e38:
        raise ValueError(f"{text!r} is too large a number")
    return number, unit


def is_range(text: str, decimal: str | None = None) -> bool:
    """Whether a quantity is a range, of which the middle counts. Raises ValueError for others."""
    return _grade(_plain(text)) is None and len(_numbers_and_unit(text, decimal)[0]) > 1


def is_shortened(text: str) -> bool:
    """Whether something stands around the number that is meant, such as '<' or '(n=5)'."""
    return main_part(_plain(text)) != _plain(text) and not is_range(text)


@functools.lru_cache(maxsize=100_000)
def main_part(text: str) -> str:
    """A quantity without what stands around it: '12 (n=5)' and '<12*' are '12', 'between 5 and 9 g' is '5-9 g'."""
    text = _BETWEEN.sub(r"\1-\2", _BEFORE.sub("", text))
    while (found := _AFTER.search(text)) is not None:
        inside = found[1] or found[2] or ""
        text = text[: found.start()] + (f" {inside}" if known_unit(inside) else "") + found["unit"]
    return text


@functools.lru_cache(maxsize=100_000)
def _plain(text: str) -> str:
    """A quantity with plain signs: minus for dashes, % for 'per cent', / for 'per'."""
    text = re.sub(r"[−–—‒]", "-", " ".join(text.split()))
    text = re.sub(r"\b(?:per|pour|por|pro) ?(?:cent|ciento|cento)\b", "%", text, flags=re.IGNORECASE)
    text = re.sub(r" (?:per|pro|par|por) (?=\w)", "/", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\w) an? (?=(?:year|month|week|day|hour)$)", "/", text)
    return text.strip(QUOTES) if text[:1] in QUOTES else text


def _grade(text: str) -> float | None:
    """How much of something marks such as +, ++ and (+) mean."""
    if text in ("(+)", "±", "+/-", "+-"):
        return 0.5
    return float(len(text)) if text and not text.strip("+") else None


@functools.lru_cache(maxsize=100_000)
def _numbers_and_unit(text: str, decimal: str | None) -> tuple[list[float], str]:
    """One number, or the two of a range; their unit. Raises ValueError for others."""
    plain = main_part(_plain(text))
    plain = _POWER.sub(lambda found: "e" + unicodedata.normalize("NFKC", found[1] or found[2]), plain)
    plain = re.sub(rf"^([{_CURRENCIES}]) ?(.+)", r"\2 \1", without_fractions(plain.replace("−", "-"), decimal))
    match = None if is_date(plain) else _QUANTITY.fullmatch(plain)
    if match is None:
        number, unit = compound_quantity(plain, decimal, text)
        return [number], unit
    low, first_unit, high, unit = match.groups()
    if first_unit and unit and unit_name(first_unit) != unit_name(unit):
        both = known_unit(first_unit) and known_unit(unit)
        raise ValueError(f"{text!r} has two units" if both else f"{text!r} is not a number")
    return [_float(number, decimal) for number in (low, high) if number], unit_name(unit or first_unit)


def compound_quantity(text: str, decimal: str | None, whole: str) -> tuple[float, str]:
    """Number and unit of '2 lb 3 oz', '1 h 30 min', 5'4": in the first of the two.

    Raises ValueError for others, of the `whole` cell.
    """
    match = None if is_date(text) else _COMPOUND.fullmatch(text)
    if match is not None:
        (first, unit), (second, smaller) = (quantity(part, decimal) for part in match.groups())
        if dimension(unit) == dimension(smaller) and 0 <= in_unit(second, smaller, unit) < 1:
            return first + in_unit(second, smaller, unit), unit
    raise ValueError(f"{whole!r} is not a number")


def without_fractions(text: str, decimal: str | None = None) -> str:
    """The text with decimal numbers in place of fractions: '1 1/2' and '1½' are '1.5'."""
    text = re.sub("[¼-¾⅐-⅞]", lambda sign: " " + unicodedata.normalize("NFKC", sign[0]), text).strip()

    def decimals(found: re.Match) -> str:
        whole, over, under = (int(part or 0) for part in found.groups())
        return f"{whole + over / under:f}".replace(".", decimal or ".") if under else found[0]

    return FRACTION.sub(decimals, text)


def _float(number: str, decimal: str | None) -> float:
    decimal = decimal or decimal_sign(number) or "."
    number = re.sub(r"[ '’_]", "", number)
    whole, _, fraction = number.partition(decimal)
    if not re.fullmatch(r"[+-]?(\d*|\d{1,3}([.,]\d{3})+)(e.*)?", whole, re.IGNORECASE) or re.search("[.,]", fraction):
        raise ValueError(f"{number!r} is not a number with the decimal sign {decimal!r}")
    return float(re.sub(r"[.,]", "", whole) + ("." + fraction if fraction else ""))


def in_unit(number: float, unit: str, wanted: str) -> float:
    """The number in another unit. Raises ValueError where they do not measure the same."""
    if unit in ("", wanted, unit_name(wanted)):
        return number
    if {unit, wanted} == {"°C", "°F"}:
        return (number - 32) / 1.8 if wanted == "°C" else number * 1.8 + 32
    (kind, size), (wanted_kind, wanted_size) = (_DIMENSION.get(name, (name, 1)) for name in (unit, wanted))
    if kind != wanted_kind:
        raise ValueError(f"it is in {unit}, and the column {'in ' + wanted if wanted else 'has no unit'}")
    return number * size / wanted_size


# Descriptions: classes in the words of their table, onto the scale of the model. `AttributeTable.traits` says what
# each attribute came from; that is enough to read a description that is written long after the table.

FAR = 1.0


def spoken_class(name: str) -> str:
    """A class's name for people: without the number that CUB puts before it, and with spaces.

    >>> spoken_class("001.Black_footed_Albatross")
    'Black footed Albatross'
    """
    return re.sub(r"^\d+\.(?=.)", "", name).replace("_", " ").replace("+", " ")


def near_names(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'a', 'b'?' for an unknown name or a part of a name, or '' when nothing in `known` is near."""
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    near += [k for k in lowered if len(name) > 2 and name.lower() in k and k not in near]
    return f" Did you mean {', '.join(repr(lowered[k]) for k in near[:3])}?" if near else ""


def scaled(trait: Mapping[str, Any], number: Any) -> Any:
    """A number of the table, or an array of them, on the scale of the class attributes.

    0 to 1 over the training classes; at most `FAR` beyond, so that no single trait outweighs all the others.
    """
    if trait["scale"] is None:
        return number
    low, high = trait["scale"]
    if trait["offset"] is not None:
        low, high, number = (np.log10(np.asarray(each) + trait["offset"]) for each in (low, high, number))
    return np.clip((number - low) / (high - low), -FAR, 1 + FAR)


def one_scale(values: np.ndarray) -> float | None:
    """1 or 100 where all K x A values share the scale 0..1 or 0..100, None where they do not."""
    top = values.max(axis=0)
    if values.min() < 0 or top.max() > 100 or 1 < top.max() <= 50:
        return None
    if top.max() <= 1:
        return 1.0
    zero_or_one = np.isin(values, (0, 0.5, 1)).all(axis=0) & (top > 0)
    from_zero = (values.min(axis=0) == 0).mean() >= 0.2
    return 100.0 if zero_or_one.mean() <= 0.05 and (from_zero or top.max() <= 3 * top.min()) else None


def plain_traits(table: Any) -> list[dict[str, Any]]:
    """Traits of a table that has none: numbers on the one scale of all columns, or in the range of all values."""
    values = table.class_attributes
    whole, fill = one_scale(values), values[table.seen if table.seen.any() else slice(None)].mean(axis=0)
    return [
        {
            "attribute": name,
            "column": name,
            "kind": "number",
            "category": None,
            "unit": "",
            "range": [0.0, whole] if whole else [float(values.min()), float(values.max())],
            "scale": None,
            "offset": None,
            "fill": float(fill[i]),
            "has_it": whole,
        }
        for i, name in enumerate(table.attribute_names)
    ]


def describe_class(traits: Sequence[Mapping[str, Any]], description: Any, name: str = "The class") -> np.ndarray:
    """Class attributes, A, on the table's scale, from a description in its words.

    Args:
        traits: of the A attributes. description: `{"bill": "hooked", "mass": "120 g", "crest": True}` by column or
            attribute, a pandas Series by its labels, or all A values on the table's scale in order. What is left out
            or missing has the column's mean over the training classes, which neither helps nor hurts the class.

    Raises:
        ValueError: an unknown column or category (with near names), a value far outside the column's range (with the
            range), another unit, nothing described.
    """
    if hasattr(description, "to_dict"):
        description = description.to_dict()
    if not isinstance(description, Mapping):
        if isinstance(description, str | bytes) or not hasattr(description, "__len__"):
            raise ValueError(
                f"{name!r} is described by {description!r}; give {{trait: value}}, or all values in order."
            )
        if len(description) != len(traits):
            raise ValueError(
                f"{name!r} is described by {len(description)} values; give all {len(traits)}, or {{trait: value}}."
            )
        description = {trait["attribute"]: value for trait, value in zip(traits, description, strict=True)}
        traits = [{**trait, "scale": None, "offset": None, "range": list(_on_scale(trait))} for trait in traits]
    values, told, said = np.array([trait["fill"] for trait in traits], np.float32), [], {}
    for key, value in description.items():
        if is_gap(value):
            continue
        places, encoded = encode_one(traits, key, value, name)
        if other := [said[place] for place in places if place in said]:
            raise ValueError(f"{name!r}: {other[0]!r} and {key!r} are the same trait. Give it once.")
        said |= dict.fromkeys(places, key)
        values[places] = encoded
        if of_hundred(traits[places[0]]) and not isinstance(value, bool | np.bool_ | str | list | tuple | set):
            told.append(float(value))
    require_whole_scale(told, name)
    if not said or not values.any():
        raise ValueError(f"{name!r} is described by nothing but gaps and zeros. Give it at least one trait.")
    return values


def is_gap(value: Any) -> bool:
    """Whether a description says nothing here: None, NaN, pandas' NA, or a mark such as 'unknown'."""
    if isinstance(value, str):
        return means_missing(value)
    return value is None or str(value) in ("nan", "NaT", "<NA>")


def encode_one(
    traits: Sequence[Mapping[str, Any]], key: Any, value: Any, name: str | None = None
) -> tuple[list[int], list[float]]:
    """Positions and values of the attributes that one column, or attribute, of a description speaks of.

    name: of the class that is described, for messages.

    Raises ValueError as `describe_class`.
    """
    places = _places(traits, key, name)
    try:
        return places, encode([traits[i] for i in places], value)
    except ValueError as error:
        raise ValueError(f"{_of(name, ', ')}{key!r}: {error}{'' if str(error).endswith('?') else '.'}") from None


def of_hundred(trait: Mapping[str, Any]) -> bool:
    """Whether the column is one of a table of 0 to 100."""
    return trait["has_it"] is not None and trait["range"][1] == 100


def require_whole_scale(numbers: Sequence[float], name: str) -> None:
    """Raise ValueError for numbers of a table of 0 to 100 that all are 0 to 1, and so are meant on another scale."""
    if len(numbers) and 0 < max(numbers) <= 1:
        raise ValueError(
            f"{name!r}: all values are 0 to 1, but the table's scale is 0 to 100. Write 100 or True for 'has it'."
        )


def _on_scale(trait: Mapping[str, Any]) -> tuple[float, float]:
    return (float(scaled(trait, trait["range"][0])), float(scaled(trait, trait["range"][1])))


def plain_name(text: str) -> str:
    """A column's name without a unit in brackets, capitals and underscores."""
    return re.sub(r"\s*[(\[].*[)\]]$", "", text).casefold().replace("_", " ").strip()


def _of(name: str | None, sign: str) -> str:
    return "" if name is None else f"{name!r}{sign}"


def _places(traits: Sequence[Mapping[str, Any]], key: Any, name: str | None) -> list[int]:
    """Where the attribute or the column `key` stands: several places for a column of categories."""

    for said in (str, lambda text: plain_name(str(text))):
        for what in ("attribute", "column"):
            places = [i for i, trait in enumerate(traits) if said(trait[what]) == said(key)]
            if len({traits[i]["column"] for i in places}) == 1:
                return places
    known = list(dict.fromkeys([trait["column"] for trait in traits] + [trait["attribute"] for trait in traits]))
    raise ValueError(f"{_of(name, ': ')}there is no attribute or column {key!r}.{near_names(str(key), known)}")


def encode(traits: Sequence[Mapping[str, Any]], value: Any, decimal: str | None = None) -> list[float]:
    """The attributes of one column, on the table's scale. Raises ValueError, without saying where."""
    first = traits[0]
    if first["category"] is not None and (len(traits) > 1 or isinstance(value, str)):
        return _encode_categories(traits, value)
    whole = first["has_it"]
    if isinstance(value, str) and value.strip().casefold() in (YES | NO) - {"0", "1"}:
        value = value.strip().casefold() in YES
    if isinstance(value, bool | np.bool_):
        if whole is None:
            raise ValueError(f"{value} does not fit a number {_range_text(first)}")
        return [whole * bool(value)]
    try:
        number, unit = quantity(value, decimal) if isinstance(value, str) else (float(value), "")
        if unit == "%" and first["unit"] != "%" and whole:
            number, unit = number * first["range"][1] / 100, ""
        number = in_unit(number, unit, first["unit"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} does not fit a number {_range_text(first)}: {error}") from None
    check_range(first, number)
    return [float(scaled(first, number))]


def _encode_categories(traits: Sequence[Mapping[str, Any]], value: Any) -> list[float]:
    known = {plain_word(trait["category"]): i for i, trait in enumerate(traits)}
    words = (
        [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple | set) else [str(value)]
    )
    if len(words) == 1 and plain_word(words[0]) not in known:
        parts = [word for word in re.split("|".join(SEPARATORS.values()), words[0]) if word.strip()]
        words = parts if any(plain_word(word) in known for word in parts) else words
    encoded = [0.0] * len(traits)
    for word in words:
        place = known.get(plain_word(str(word)))
        if place is None:
            names = [trait["category"] for trait in traits]
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise ValueError(f"{word!r} is not one of {shown}.{near_names(str(word), names)}".removesuffix("."))
        encoded[place] = traits[place]["has_it"]
    return encoded


def check_range(trait: Mapping[str, Any], number: float) -> None:
    """Raise ValueError for a number far outside the range of its column."""
    low, high = _bounds(trait)
    if not low <= number <= high:
        raise ValueError(f"{number:g} is far outside the column, a number {_range_text(trait)}")


def _bounds(trait: Mapping[str, Any]) -> tuple[float, float]:
    """Beyond them a value is far outside: one more width of the range, for logarithms at most a factor of ten."""
    low, high = trait["range"]
    if trait["has_it"] is not None:
        return low, high
    if trait["offset"] is not None:
        factor = min(10.0, max(2.0, (high + trait["offset"]) / (low + trait["offset"])))
        return (low / factor if low > 0 else min(low, 0.0)), high * factor
    width = high - low or abs(high) or 1.0
    top = min(high + width, max(high, 100.0)) if trait["kind"] == "percent" else high + width
    return (max(0.0, low - width) if low >= 0 else low - width), top


def _range_text(trait: Mapping[str, Any]) -> str:
    unit = f" {trait['unit']}" if trait["unit"] else ""
    return f"from {trait['range'][0]:g} to {trait['range'][1]:g}{unit}"
