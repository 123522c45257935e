"""Every way in shows the same pixels, whatever the metadata and the kind of picture."""

import io
import struct
import sys
import zlib

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from dedn_hf import DEDNForZeroShot
from dedn_hf.classify.classifier import PhotoBatches
from dedn_hf.data.catalog import decode_problem
from dedn_hf.data.photos import why_unused
from dedn_hf.data.privacy import without_metadata
from dedn_hf.data.transforms import decoded, encoded
from dedn_hf.modeling.handler import decode_image
from dedn_hf.modeling.inputs import eight_bit, read_image, upright_rgb
from dedn_hf.modeling.pipeline_dedn import open_image
from tests.fake_data import SHARED
from tests.test_space import scoring

PICTURE = Image.fromarray((np.mgrid[0:30, 0:50].sum(0)[..., None] * np.array([3, 2, 1])).clip(0, 255).astype(np.uint8))
GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def bytes_of(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def ways_in(content: bytes, folder) -> dict[str, np.ndarray]:
    """The same picture through every way in: training, published data, classification, pipeline, endpoint and Space.

    The cache of features and evaluation read as training does; explanations read as the pipeline does.
    """
    path = folder / "picture"
    path.write_bytes(content)
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_list([{"image": {"bytes": content, "path": None}}], features)
    files = datasets.Dataset.from_list([{"image": {"bytes": None, "path": str(path)}}], features)
    found = {
        "training, bytes": decoded(encoded(rows), [0])[0],
        "training, file": decoded(encoded(files), [0])[0],
        "pipeline, bytes": open_image(content),
        "pipeline, file": open_image(str(path)),
        "pipeline, picture": open_image(Image.open(path)) if opens(path) else read_image(path),
        "endpoint": open_image(decode_image(content, 10**6)),
        "prepared": read_image(without_metadata(content)),
        "classification": with_thumbnail(path),
        "Space": scoring.open_photo(DEDNForZeroShot, str(path)),
    }
    return {way: np.asarray(image) for way, image in found.items()}


def with_thumbnail(path) -> np.ndarray:
    """What `dedn classify` makes pixels of."""
    batches = PhotoBatches([("photo", str(path))], lambda picture: torch.from_numpy(np.asarray(picture)))
    rows, pixels = batches.__getitems__([0])
    assert rows[0]["error"] is None
    return pixels[0].numpy()


def opens(path) -> bool:
    try:
        Image.open(path).close()
    except (UnidentifiedImageError, ValueError):
        return False
    return True


def same_everywhere(content: bytes, folder) -> np.ndarray:
    first, *others = ways_in(content, folder).values()
    for other in others:
        np.testing.assert_array_equal(other, first)
    return first


def test_a_heic_picture_is_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install pillow-heif")
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Apple"
    pillow_heif.from_pillow(PICTURE).save(buffer, exif=exif.tobytes(), quality=90)
    shown = same_everywhere(buffer.getvalue(), tmp_path)
    upright = np.asarray(PICTURE.transpose(Image.Transpose.ROTATE_270))
    assert shown.shape == upright.shape and np.abs(shown.astype(int) - upright).mean() < 6
    (tmp_path / "IMG_1.HEIC").write_bytes(buffer.getvalue())
    assert why_unused(str(tmp_path / "IMG_1.HEIC")) is None


def test_without_pillow_heif_a_heic_picture_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(OSError, match="pip install pillow-heif"):
        read_image(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(UnidentifiedImageError):
        read_image(b"\0\0\0\x18ftypmp42" + bytes(50))


# Metadata -----------------------------------------------------------------------------------------------------------

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
TAGS = [0x010E, 0x010F, 0x011A, 0x011B, 0x0128, 0x0132, 0x0213, 0x8298, 0x8769, 0x8825, 0x9003, 0x927C, 0xA002, 0x02BC]


@st.composite
def entries(draw):
    """One EXIF entry, of any type, with any content."""
    kind, count = draw(st.sampled_from([*SIZES, 0, 99])), draw(st.integers(0, 7))
    size = SIZES.get(kind, 1) * count
    return draw(st.sampled_from(TAGS)), kind, count, draw(st.binary(min_size=size, max_size=size))


def exif_bytes(orientation: int, others, kind: int = 3, form: str = "<H") -> bytes:
    """An EXIF block, written by hand: libraries refuse to write damaged ones."""
    listed = sorted([(0x0112, kind, 1, struct.pack(form, *[orientation, 1][: len(form) - 1])), *others])
    offset, head, data = 8 + 2 + 12 * len(listed) + 4, b"", b""
    for tag, kind, count, value in listed:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", offset + len(data))
        data += value if len(value) > 4 else b""
        head += struct.pack("<HHI", tag, kind, count) + place
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(listed)) + head + struct.pack("<I", 0) + data


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from([1, 3, 6, 8]), st.lists(entries(), max_size=4), st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_damaged_exif_data_never_cost_a_photo(tmp_path_factory, orientation, others, cut):
    exif = exif_bytes(orientation, others)
    content = bytes_of(PICTURE, exif=exif[: len(exif) - cut] if cut < len(exif) - 8 else exif)
    shown = same_everywhere(content, tmp_path_factory.mktemp("photo"))
    assert shown.shape in ((30, 50, 3), (50, 30, 3))


@pytest.mark.parametrize(("kind", "form"), [(4, "<I"), (5, "<II"), (11, "<f"), (12, "<d")])
def test_photos_are_upright_whatever_kind_of_number_says_so(kind, form, tmp_path):
    content = bytes_of(PICTURE, exif=exif_bytes(6, [], kind, form))
    expected = np.asarray(Image.open(io.BytesIO(bytes_of(PICTURE))).transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(same_everywhere(content, tmp_path), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_upright(format, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = bytes_of(PICTURE, format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    np.testing.assert_array_equal(same_everywhere(content, tmp_path), expected)


def test_a_resolution_that_pil_cannot_read_does_not_cost_the_photo(tmp_path):
    content = bytes_of(PICTURE, exif=exif_bytes(1, [(0x0128, 3, 1, b"\2\0"), (0x011A, 2, 1, b"\0")]))
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(content))
    assert same_everywhere(content, tmp_path).shape == (30, 50, 3)


@pytest.mark.parametrize(
    "profile",
    [b"", b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
    ids=["empty", "damaged", "sRGB"],  # the bytes hold the time, and names of tests must not change
)
def test_colour_profiles_change_nothing(profile, tmp_path):
    content = bytes_of(PICTURE, icc_profile=profile)
    np.testing.assert_array_equal(same_everywhere(content, tmp_path), pixels(bytes_of(PICTURE)))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def with_chunk(kind: bytes, body: bytes, damage: int = 0) -> bytes:
    """A PNG with one more chunk before its pixels; damage: to its check sum."""
    content = bytes_of(PICTURE, "PNG")
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ damage)
    return content[:33] + chunk + content[33:]


@pytest.mark.parametrize(
    "content",
    [
        with_chunk(b"tEXt", b"Comment\0kite", damage=1),
        with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5_000_000))),
        with_chunk(b"iCCP", b"profile\0\0x", damage=1),
        with_chunk(b"pHYs", b"\0"),
        with_chunk(b"gAMA", b""),
        with_chunk(b"eXIf", b"garbage"),
        *(b"\xff\xd8" + part + bytes_of(PICTURE)[2:] for part in (b"\xff\xe2\0\x0eICC_PROFILE\0", b"\xff\xe1\0\0")),
    ],
    ids=["text", "too much text", "profile", "resolution", "gamma", "EXIF", "profile of a JPEG", "empty segment"],
)
def test_other_damaged_metadata_do_not_cost_the_photo_either(content, tmp_path):
    expected = bytes_of(PICTURE, "PNG" if content.startswith(b"\x89PNG") else "JPEG")
    np.testing.assert_array_equal(same_everywhere(content, tmp_path), pixels(expected))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_a_picture_that_was_read_takes_no_metadata_into_the_next_file(format):
    content = bytes_of(PICTURE, "GIF" if format == "GIF" else "JPEG", comment=b"SERIAL-0815")
    assert b"SERIAL-0815" in content and b"SERIAL-0815" not in bytes_of(read_image(content), format)


# Kinds of pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_of_8_bits_are_what_pil_makes_of_them(mode, tmp_path):
    content = bytes_of(PICTURE.convert(mode), "PNG")
    np.testing.assert_array_equal(same_everywhere(content, tmp_path), pixels(content))


def test_cmyk_and_the_first_frame_of_an_animation_are_what_pil_makes_of_them(tmp_path):
    cmyk = bytes_of(PICTURE.convert("CMYK"))
    np.testing.assert_array_equal(same_everywhere(cmyk, tmp_path), pixels(cmyk))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert (
        same_everywhere(bytes_of(frames[0], "GIF", save_all=True, append_images=frames[1:]), tmp_path) == (255, 0, 0)
    ).all()


@pytest.mark.parametrize(
    ("format", "values"),
    [
        ("PNG", GREYS.astype(np.uint16) * 257),
        ("TIFF", GREYS.astype(np.uint16) * 257),
        ("TIFF", GREYS.astype(np.int32)),
        ("TIFF", GREYS.astype(np.int32) * 257),
        ("TIFF", GREYS.astype(np.float32) / 255),
        ("TIFF", GREYS.astype(np.float32)),
        ("TIFF", GREYS.astype(np.float32) * 257),
        ("TIFF", GREYS.astype(np.float32) - 128),
    ],
    ids=["16 bits", "16 bits, TIFF", "32 bits", "32 bits to 65535", "0..1", "0..255", "0..65535", "negative"],
)
def test_grey_pictures_of_many_bits_keep_their_greys(format, values, tmp_path):
    shown = same_everywhere(bytes_of(Image.fromarray(values), format), tmp_path)
    np.testing.assert_array_equal(shown, np.repeat(GREYS[..., None], 3, axis=2))


def test_two_pictures_of_16_bits_keep_their_difference_in_brightness():
    dark, bright = (np.full((4, 4), value, np.uint16) for value in (9000, 44000))
    assert [int(np.asarray(upright_rgb(Image.fromarray(each)))[0, 0, 0]) for each in (dark, bright)] == [35, 171]


@pytest.mark.parametrize(
    "values",
    [GREYS.astype(np.int32) * 3922, GREYS.astype(np.int32) * 100 + 990_000, GREYS.astype(np.float32) / 200 + 299],
    ids=["to a million", "around a million", "degrees"],
)
def test_values_without_a_usual_range_are_shown_from_their_smallest_to_their_largest(values, tmp_path):
    shown = same_everywhere(bytes_of(Image.fromarray(values), "TIFF"), tmp_path)
    np.testing.assert_array_equal(shown[..., 0], GREYS)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("highest", [255, 4095])
def test_values_of_8_and_12_bits_in_files_of_16_keep_their_greys(highest, format, tmp_path):
    values = (GREYS * (highest / 255)).round().astype(np.uint16)
    shown = same_everywhere(bytes_of(Image.fromarray(values), format), tmp_path)
    np.testing.assert_array_equal(shown[..., 0], GREYS)


def grey_tiff(values: np.ndarray, zero_is_white: bool = False) -> bytes:
    """Written by hand: PIL writes neither 32 bits without a sign nor a white 0."""
    tags = [(256, 16), (257, 16), (258, values.itemsize * 8), (259, 1), (262, 0 if zero_is_white else 1), (273, 134)]
    tags += [(277, 1), (278, 16), (279, values.nbytes), (339, 1)]
    listed = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + listed + bytes(4) + values.tobytes()


def test_whole_numbers_of_32_bits_without_a_sign_keep_their_greys(tmp_path):
    shown = same_everywhere(grey_tiff(GREYS.astype("<u4") * 16843009), tmp_path)
    np.testing.assert_array_equal(shown[..., 0], GREYS)


@pytest.mark.parametrize("kind", ["<u1", "<u2"])
def test_a_file_that_says_that_0_is_white_is_shown_so(kind, tmp_path):
    values = GREYS.astype(kind) * (257 if kind == "<u2" else 1)
    np.testing.assert_array_equal(same_everywhere(grey_tiff(values, True), tmp_path)[..., 0], 255 - GREYS)


@pytest.mark.parametrize("around", [0, 300, -5])
def test_values_that_are_not_finite_are_black_and_do_not_change_the_others(around):
    values = np.array([[np.nan, np.inf, -np.inf, around, around + 1]], np.float32)
    assert np.asarray(eight_bit(Image.fromarray(values))).tolist() == [[0, 0, 0, 0, 255]]
    assert not np.asarray(eight_bit(Image.fromarray(values[:, :3]))).any()


@pytest.mark.parametrize("size", [(1, 51), (5000, 1)])
def test_a_thin_line_is_refused_everywhere_because_resizing_would_make_it_huge(size, tmp_path):
    content = bytes_of(Image.new("RGB", size))
    assert "more than 50 times longer than wide" in decode_problem(content)
    for read in (read_image, open_image, lambda content: decode_image(content, 10**6)):
        with pytest.raises(ValueError, match="more than 50 times longer than wide"):
            read(content)


@pytest.mark.parametrize("name", ["garbage.jpg", "model.jpg", "rational.jpg", "short.jpg"])
def test_photos_that_every_viewer_opens_are_read_by_every_way_in(name, tmp_path):
    if not (SHARED / "cases").is_dir():
        pytest.skip("needs the folder of cases beside the project")
    same_everywhere((SHARED / "cases" / "broken-exif" / name).read_bytes(), tmp_path)
