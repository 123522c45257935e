"""The one reader of images: training, cache, evaluation, pipeline, endpoint and pages see the same pixels."""

import os
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

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
JPEG, EXIF_SEGMENT, SCAN, END = b"\xff\xd8", 0xE1, 0xDA, 0xD9


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
            return Image.open(BytesIO(without_segments(source, {EXIF_SEGMENT})))
        if source[4:8] == b"ftyp" and register_heic():
            return Image.open(BytesIO(source))
        raise


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it: upright by its EXIF tag, in RGB, the first frame of an animation.

    Damaged metadata never costs the picture: at worst it is not turned. Grey pictures of 16 or 32 bits and of
    floating point are brought to 0..255 by their range, see `eight_bit`.

    Raises:
        OSError, SyntaxError, ValueError: the pixels do not decode.
    """
    image.load()
    turn = TURNS.get(orientation(image))
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


def without_segments(jpeg: bytes, kinds: set[int]) -> bytes:
    """A JPEG file without the segments of these kinds (second byte of their marker) before its first scan."""
    kept, at = [jpeg[:2]], 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] not in (SCAN, END):
        if jpeg[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] not in kinds:
            kept.append(jpeg[at:end])
        at = end
    return b"".join([*kept, jpeg[at:]])


def register_heic() -> bool:
    """Let PIL read HEIC where pillow-heif is installed; whether it can."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
