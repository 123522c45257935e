"""What is published says nothing of places and cameras, and looks the same."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from dedn_hf.cli import main
from dedn_hf.data import load
from dedn_hf.data.privacy import without_metadata
from dedn_hf.modeling.inputs import read_image
from tests.fake_data import jpeg, write_csv, write_folder

SERIAL = b"SERIAL-0815"
ENCODINGS = {
    "jpeg": {"format": "JPEG"},
    "progressive jpeg": {"format": "JPEG", "progressive": True, "quality": 95},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP"},
    "lossless webp": {"format": "WEBP", "lossless": True},
    "tiff": {"format": "TIFF"},
    "avif": {"format": "AVIF"},
}


def private_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Camera of SERIAL-0815"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 28.0, 38.0)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = SERIAL.decode()
    return exif


def encoded(orientation: int = 1, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, exif=private_exif(orientation), **options)
    return buffer.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(read_image(content))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
def test_places_and_serial_numbers_go_and_pixels_stay(options, orientation):
    before = encoded(orientation, **options)
    after = without_metadata(before)
    assert SERIAL in before and SERIAL not in after
    left = Image.open(io.BytesIO(after)).getexif()
    assert ExifTags.IFD.GPSInfo not in left and ExifTags.Base.Make not in left
    np.testing.assert_array_equal(pixels_of(after), pixels_of(before))
    assert without_metadata(after) == after


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "png", "webp", "tiff"])
def test_a_colour_profile_stays(name):
    profile = b"a profile" * 40
    after = without_metadata(encoded(6, icc_profile=profile, **ENCODINGS[name]))
    assert Image.open(io.BytesIO(after)).info["icc_profile"] == profile


@pytest.mark.parametrize("options", ENCODINGS.values(), ids=ENCODINGS)
def test_a_file_without_metadata_is_left_alone(options):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, **options)
    assert without_metadata(buffer.getvalue()) == buffer.getvalue()


def test_comments_and_what_lies_behind_the_picture_go_too():
    buffer = io.BytesIO()
    read_image(jpeg(3)).save(buffer, "JPEG", comment=SERIAL)
    content = buffer.getvalue() + encoded(format="JPEG")  # as phones hide a second picture there
    after = without_metadata(content)
    assert SERIAL in content and SERIAL not in after
    np.testing.assert_array_equal(pixels_of(after), pixels_of(content))


def with_segment(marker: int, start: bytes) -> bytes:
    """A JPEG with a segment of an application."""
    content, payload = jpeg(3), start + SERIAL
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + content[2:]


def with_part(kind: str, chunk: bytes, end: int = 0) -> bytes:
    """A picture with something before its last bytes."""
    buffer = io.BytesIO()
    read_image(jpeg(3)).save(buffer, kind)
    content = buffer.getvalue()
    return content[: len(content) - end] + chunk + content[len(content) - end :]


def riff(content: bytes) -> bytes:
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def png_chunk(kind: bytes) -> bytes:
    return struct.pack(">I", len(SERIAL)) + kind + SERIAL + struct.pack(">I", zlib.crc32(kind + SERIAL))


@pytest.mark.parametrize(
    "content",
    [
        with_segment(0xE0, b"JFXX\0"),
        with_segment(0xE2, b"MPF\0"),
        with_segment(0xED, b"Photoshop 3.0\0"),
        with_segment(0xEF, b""),
        with_part("PNG", png_chunk(b"prVt"), end=12),
        with_part("PNG", SERIAL),
        with_part("WEBP", SERIAL),
        riff(with_part("WEBP", b"priv" + struct.pack("<I", len(SERIAL)) + SERIAL + b"\0")),
        with_part("GIF", b"\x21\xff\x0bXMP DataXMP" + bytes([len(SERIAL)]) + SERIAL + b"\0", end=1),
        with_part("JPEG2000", struct.pack(">I", 8 + len(SERIAL)) + b"xml " + SERIAL),
        with_part("BMP", SERIAL),
    ],
    ids=["JFXX", "MPF", "IPTC", "other", "PNG chunk", "PNG", "WebP", "WebP chunk", "GIF XMP", "JPEG 2000", "BMP"],
)
def test_what_programs_add_in_their_own_ways_goes_too(content):
    after = without_metadata(content)
    assert SERIAL in content and SERIAL not in after
    np.testing.assert_array_equal(pixels_of(after), pixels_of(content))
    assert without_metadata(after) == after


@pytest.mark.parametrize("tag", [270, 33432, 34737, 42112, 50838])
def test_a_tiff_keeps_no_tag_that_its_pixels_do_not_need(tag):
    buffer = io.BytesIO()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag], tags.tagtype[tag] = SERIAL.decode(), 2
    Image.new("RGB", (20, 10), "red").save(buffer, "TIFF", tiffinfo=tags)
    assert SERIAL in buffer.getvalue() and SERIAL not in without_metadata(buffer.getvalue())


@pytest.mark.parametrize("values", [np.arange(600) * 109, np.arange(600) * 2000, np.arange(600) / 600])
def test_grey_pictures_of_many_bits_look_the_same_without_their_metadata(values):
    kind = np.uint16 if values.max() == 599 * 109 else np.int32 if values.max() > 1 else np.float32
    buffer = io.BytesIO()
    Image.fromarray(values.astype(kind).reshape(20, 30)).save(buffer, "TIFF", exif=private_exif(6))
    after = without_metadata(buffer.getvalue())
    assert SERIAL not in after
    np.testing.assert_array_equal(pixels_of(after), pixels_of(buffer.getvalue()))


@pytest.mark.parametrize("keep", [False, True])
def test_a_prepared_data_set_holds_no_places_unless_asked_for(keep, tmp_path):
    roles = {"wren": "train", "kite": "train", "swan": "unseen"}
    root = write_folder(tmp_path / "photos", dict.fromkeys(roles, 3))
    write_csv(root / "attributes.csv", roles)
    (root / "wren" / "0.jpg").write_bytes(encoded(6, format="JPEG"))
    out = tmp_path / "parquet"
    assert main(["prepare", "folder", "--data-dir", str(root), "--out", str(out), *["--keep-metadata"] * keep]) == 0
    stored = b"".join(path.read_bytes() for path in out.rglob("*.parquet"))
    assert (SERIAL in stored) == keep
    assert json.loads((out / "dedn.json").read_text())["metadata"] == ("kept" if keep else "removed")
    assert ("may say where" in (out / "README.md").read_text()) == keep
    of_file = {row["file"]: row["image"] for images in load(out)[0].values() for row in images}
    np.testing.assert_array_equal(np.asarray(of_file["wren/0.jpg"]), pixels_of((root / "wren" / "0.jpg").read_bytes()))
