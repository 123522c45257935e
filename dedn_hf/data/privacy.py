"""Photos without metadata: where they were taken, and with which camera, is nobody else's business.

Endangered animals are found by such data. What training sees stays as it is, to the last bit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import ExifTags, Image

from dedn_hf.modeling.handler import COMMENT, END, JPEG, PNG, open_encoded, png_chunks
from dedn_hf.modeling.inputs import TURNS, orientation, read_image

# What is not known to be of the picture goes: cameras and programs have segments, chunks and tags of their own.
JPEG_KEPT = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}  # segment -> its beginning
PNG_KEPT = {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"bKGD", b"pHYs"}  # and those in capitals
WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"ANIM", b"ANMF"}
WEBP_FLAGS = {"EXIF": 0x08, "XMP": 0x04}  # of the chunk VP8X
TIFF_KEPT = {*range(254, 260), 262, 266, 273, 274, *range(277, 280), *range(282, 285), 296, 317, 320, *range(322, 326)}
TIFF_KEPT |= {338, 339, 347, *range(529, 533), 34675}  # also for JPEG within TIFF; and the colour profile
AVIF_METADATA = (b"Exif", b"mime", b"uri ", b"uuid", b"udta")


def without_metadata(content: bytes) -> bytes:
    """The file of a picture without EXIF, XMP, IPTC, comments, and what is hidden behind the picture.

    The orientation stays, in an EXIF block of its own. A file without metadata is given back as it is. In formats
    other than JPEG, PNG and WebP, only TIFF and AVIF can be seen to have none; the others become a PNG of 8 bits that
    shows what `read_image` gives.
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
    return int(turn) if turn in TURNS else None  # some write 6.0


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
            end = start + 2 + max(int.from_bytes(content[start + 2 : start + 4], "big"), 2)  # even where it says 0
            yield content[at:start], False
            yield content[start:end], is_jpeg_metadata(marker, content[start + 4 : end])
            at = end
    yield content[at:], False


def is_jpeg_metadata(marker: int, payload: bytes) -> bool:
    """Whether a segment is an application's or a comment, but for what says how colours are to be read."""
    if marker in JPEG_KEPT:
        return not payload.startswith(JPEG_KEPT[marker])
    return marker == COMMENT or 0xE0 <= marker <= 0xEF


def png_without(content: bytes, exif: bytes) -> bytes:
    """A PNG file without its chunks of metadata; further frames and what follows its end go, too."""
    kept = [PNG]
    for kind, chunk in png_chunks(content):
        if kind[:1].isupper() or kind in PNG_KEPT:
            kept.append(chunk)
        if kind == b"IHDR" and exif:
            body = b"eXIf" + exif
            kept.append(struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join(kept)


def webp_without(content: bytes, exif: bytes) -> bytes:
    """A WebP file without its chunks of metadata; what follows its end goes, too."""
    kept, at, end = [], 12, min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    while at + 8 <= end:
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        kind, chunk = content[at : at + 4], content[at : at + 8 + size + size % 2]
        at += len(chunk)
        if kind == b"VP8X":
            flags = chunk[8] & ~sum(WEBP_FLAGS.values()) | (WEBP_FLAGS["EXIF"] if exif else 0)
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if kind in WEBP_KEPT:
            kept.append(chunk)
    if exif:
        kept.append(b"EXIF" + struct.pack("<I", len(exif)) + exif)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def other_without(content: bytes) -> bytes:
    """A file of another format as it is where it can be seen to hold no metadata, else as a PNG of 8 bits."""
    with open_encoded(content) as image:
        if holds_pixels_only(image, content):
            return content
        profile = image.info.get("icc_profile") if image.mode.startswith("RGB") else None
    buffer = BytesIO()
    read_image(content).save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()


def holds_pixels_only(image: Image.Image, content: bytes) -> bool:
    """Whether a TIFF or AVIF file holds nothing but one picture; False for other formats, which is not looked into."""
    if image.format == "TIFF":
        return image.n_frames == 1 and set(image.tag_v2) <= TIFF_KEPT
    return image.format == "AVIF" and not any(box in content for box in AVIF_METADATA)
