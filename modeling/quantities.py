"""Cells of a table: gaps, yes and no, and numbers with units as people write them, in several languages.

Needs the standard library only.
"""

from __future__ import annotations

import functools
import re
import unicodedata

MISSING = {"", "-", "–", "—", "?", "??", ".", "..", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "null"}
MISSING |= {"unknown", "nd", "n.d.", "n/d", "s/d", "no data", "nodata", "not available", "missing", "tba", "n.v."}
MISSING |= {"k.a.", "k. a.", "unk", "unbekannt", "inconnu", "desconocido", "desconhecido", "sconosciuto", "onbekend"}
MISSING |= {"неизвестно", "不明"}
MISSING |= {
    "#div/0!",
    "#value!",
    "#ref!",
    "#name?",
    "#num!",
    "#null!",
    "#na",
    "#nv",
    "#n/v",
}  # errors of a spreadsheet
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
_SPELLED = {"gr": "g", "kilo": "kg", "ounce": "oz", "pound": "lb", "lbs": "lb", "tonne": "t", "ton": "t"}
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
    r"|(?:ca|circa|about|around|approximately|roughly|up to|at least|at most|(?:less|more|fewer|greater) than|over"
    r"|under|above|below|max|min|maximum|minimum|etwa|rund|ungefähr|bis|bis zu|über|unter|mindestens|höchstens|environ"
    r"|plus de|moins de|jusqu'à|hasta|unos|más de|menos de|fino a)(?= ))\s*(?=[\d.+-])|\([^()]*\)\s*(?=\d))",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"(?<=[\w.%])(?:\s*[*†‡§?!]+|\s*(?:\(([^()]*)\)|\[([^\[\]]*)\])|(?:[,;] ?| )n ?= ?\d+|\+(?= |$))"
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
    return plain in MISSING or _NO_VALUE.fullmatch(plain) is not None or not plain.strip("-–—?.…_/ ")


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
    if unit in ("", wanted):
        return number
    if {unit, wanted} == {"°C", "°F"}:
        return (number - 32) / 1.8 if wanted == "°C" else number * 1.8 + 32
    (kind, size), (wanted_kind, wanted_size) = (_DIMENSION.get(name, (name, 1)) for name in (unit, wanted))
    if kind != wanted_kind:
        raise ValueError(f"it is in {unit}, and the column {'in ' + wanted if wanted else 'has no unit'}")
    return number * size / wanted_size
