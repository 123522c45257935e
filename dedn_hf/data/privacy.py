"""Photos without metadata: where they were taken, and with which camera, is nobody else's business.

Endangered animals are found by such data. Pixels stay as they are, to the last bit, and so does the colour profile.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import ExifTags, Image

from dedn_hf.modeling.handler import JPEG
from dedn_hf.modeling.inputs import TURNS, open_encoded, orientation

PNG, PNG_METADATA = b"\x89PNG\r\n\x1a\n", {b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"}
WEBP_METADATA = {b"EXIF": 0x08, b"XMP ": 0x04}  # chunk -> its flag in the chunk VP8X
COLOUR_PROFILE = b"ICC_PROFILE\0"
APP2, COMMENT, SCAN, END = 0xE2, 0xFE, 0xDA, 0xD9
KEPT_SEGMENTS = {0xE0, 0xEE}  # JFIF and Adobe, which say how colours are to be read


def without_metadata(content: bytes) -> bytes:
    """The file of a picture without EXIF, XMP, IPTC, comments, and pictures hidden behind the first one.

    The orientation stays, in an EXIF block of its own. A file without metadata is given back as it is. Of formats
    other than JPEG, PNG and WebP, a file with metadata becomes a PNG.
    """
    turn = read_orientation(content)
    if content.startswith(JPEG):
        parts = list(jpeg_parts(content))
        kept = b"".join(part for part, is_metadata in parts if not is_metadata)
        if len(kept) == len(content):
            return content
        exif = exif_of(turn)
        return kept[:2] + (segment(0xE1, b"Exif\0\0" + exif) if exif else b"") + kept[2:]
    if content.startswith(PNG):
        return png_without(content, exif_of(turn))
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return webp_without(content, exif_of(turn))
    return other_without(content)


def read_orientation(content: bytes) -> int | None:
    """The EXIF orientation where the picture has to be turned, else None."""
    with open_encoded(content) as image:
        turn = orientation(image)
    return turn if turn in TURNS else None


def exif_of(turn: int | None) -> bytes:
    """An EXIF block that holds an orientation and nothing else; empty for None."""
    return (
        b""
        if turn is None
        else b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, ExifTags.Base.Orientation, 3, 1, turn, 0, 0)
    )


def segment(marker: int, payload: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_parts(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """The parts of a JPEG file in order, and whether each is metadata; so is all that follows the picture's end."""
    yield content[:2], False
    at = 2
    while at + 4 <= len(content):
        start = content.find(b"\xff", at)
        marker = content[start + 1] if 0 <= start < len(content) - 1 else END
        if marker == 0xFF:  # a fill byte
            at = start + 1
        elif marker == END:
            end = start + 2 if start >= 0 else len(content)
            yield content[at:end], False
            yield content[end:], True
            return
        elif marker == 0 or 0xD0 <= marker <= 0xD7:  # within the pixels of a scan
            yield content[at : start + 2], False
            at = start + 2
        else:
            end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
            yield content[at:start], False
            yield content[start:end], is_jpeg_metadata(marker, content[start + 4 : end])
            at = end
    yield content[at:], False


def is_jpeg_metadata(marker: int, payload: bytes) -> bool:
    """Whether a segment is an application's or a comment, but for what says how colours are to be read."""
    if marker == APP2:
        return not payload.startswith(COLOUR_PROFILE)
    return marker == COMMENT or (0xE0 <= marker <= 0xEF and marker not in KEPT_SEGMENTS)


def png_without(content: bytes, exif: bytes) -> bytes:
    """A PNG file without its chunks of metadata; what follows its end goes, too."""
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        kind, chunk = content[at + 4 : at + 8], content[at : at + 12 + size]
        at += 12 + size
        if kind not in PNG_METADATA:
            kept.append(chunk)
        if kind == b"IHDR" and exif:
            body = b"eXIf" + exif
            kept.append(struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body)))
        if kind == b"IEND":
            break
    return b"".join(kept)


def webp_without(content: bytes, exif: bytes) -> bytes:
    """A WebP file without its chunks of metadata."""
    kept, at = [], 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        kind, chunk = content[at : at + 4], content[at : at + 8 + size + size % 2]
        at += len(chunk)
        if kind == b"VP8X":
            flags = chunk[8] & ~sum(WEBP_METADATA.values()) | (WEBP_METADATA[b"EXIF"] if exif else 0)
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if kind not in WEBP_METADATA:
            kept.append(chunk)
    if exif:
        kept.append(b"EXIF" + struct.pack("<I", len(exif)) + exif)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def other_without(content: bytes) -> bytes:
    """A file of another format as it is, or as a PNG where it holds metadata."""
    with open_encoded(content) as image:
        private = {"exif", "xmp", "XML:com.adobe.xmp", "photoshop", "comment"} & set(image.info)
        if not private and not (image.format == "TIFF" and has_private_tags(image)):
            return content
        image.load()
        turn = TURNS.get(orientation(image) or 0)
        plain = image if turn is None else image.transpose(turn)
        clean = Image.frombytes(plain.mode, plain.size, plain.tobytes())
        if plain.mode == "P":
            clean.putpalette(plain.palette)
        buffer, profile = BytesIO(), image.info.get("icc_profile")
        writable = clean.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
        (clean if writable else clean.convert("RGB")).save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()


def has_private_tags(image: Image.Image) -> bool:
    """Whether a TIFF file holds more than what its pixels need."""
    private = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, 700, 33723, 34377, 270, 305, 315, 271, 272, 50735, 50708}
    return bool(private & set(image.tag_v2))
