"""What people give: pictures and descriptions, read in the same way by training, pipeline, endpoint and pages.

Needs numpy and PIL only. Letters of the shapes: K classes, A attributes.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .handler import JPEG, without_exif
from .quantities import NO, YES, in_unit, means_missing, plain_word, quantity

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
RANGES = (1.0, 2.0**8 - 1, 2.0**16 - 1, 2.0**32 - 1)  # of grey pictures: fractions, 8, 16 and 32 bits
HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))


def read_image(source: str | os.PathLike | bytes) -> Image.Image:
    """A picture from a file or its bytes, as a viewer shows it; see `upright_rgb`.

    Raises:
        OSError, SyntaxError, ValueError: there is no such file, it is no image, or its pixels do not decode.
    """
    return upright_rgb(open_encoded(source))


def open_encoded(source: str | os.PathLike | bytes) -> Image.Image:
    """As `PIL.Image.open`, which reads the header only.

    A JPEG whose EXIF data PIL cannot read is opened without them, HEIC where pillow-heif is installed.
    """
    try:
        return Image.open(BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        if not isinstance(source, bytes):
            with open(source, "rb") as file:
                source = file.read()
        if source.startswith(JPEG):
            return Image.open(BytesIO(without_exif(source)))
        if source[4:12] in HEIC:
            if register_heic():
                return Image.open(BytesIO(source))
            raise OSError("It is a HEIC picture. To read it: pip install pillow-heif. Or save it as JPEG.") from None
        raise


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it: upright by its EXIF tag, in RGB, the first frame of an animation.

    Damaged metadata never costs the picture: at worst it is not turned. Grey pictures of 16 or 32 bits and of
    floating point are brought to 0..255 by their range, see `eight_bit`.

    Raises:
        OSError, SyntaxError, ValueError: the pixels do not decode.
    """
    image.load()
    turn = TURNS.get(orientation(image) or 0)
    return eight_bit(image if turn is None else image.transpose(turn)).convert("RGB")


def orientation(image: Image.Image) -> int | None:
    """The EXIF tag that says how to turn a picture, 1 to 8, or None. No other tag is looked at: it may be damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged EXIF makes PIL raise nearly anything
        return None


def eight_bit(image: Image.Image) -> Image.Image:
    """A grey picture with more than 8 bits a pixel in 8; any other picture as it is. PIL would make it white or black.

    Values of 16 bits are divided by 257. Those of 32 bits and of floating point have no range of their own: the
    smallest of 0..1 (floating point only), 0..255, 0..65535 and 0..2^32 - 1 that covers all values is taken. Where
    none does, as with negative values, the picture's own smallest value becomes black and its largest white.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))  # 65535 / 255 == 257
    if image.mode not in ("I", "F"):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    limit = next((limit for limit in RANGES[image.mode == "I" :] if low >= 0 and high <= limit), None)
    scaled = values / limit if limit else (values - low) / max(high - low, 1e-300)
    return Image.fromarray((scaled * 255).round().astype(np.uint8))


def register_heic() -> bool:
    """Let PIL read HEIC where pillow-heif is installed; whether it can."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


# Descriptions: classes in the words of their table, onto the scale of the model. `AttributeTable.traits` says what
# each attribute came from; that is enough to read a description that is written long after the table.

FAR = 1.0


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
        words = [word for word in re.split(r"[;|,/+]", words[0]) if word.strip()]
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
