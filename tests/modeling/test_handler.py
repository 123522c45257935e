"""The endpoint's handler: every form of request, and nothing that a hostile one could gain."""

import base64
import io
import json
import os
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dedn_hf import DEDNPipeline
from dedn_hf.modeling.handler import FORMATS, MAX_CANDIDATES, BadRequest, EndpointHandler
from tests.tiny_runs import image_model, picture

LABELS = ["bird c", "bird a"]


def tiny_model(**config):
    torch.manual_seed(0)
    return image_model(initializer_range=0.1, **config).eval()


def tiny_pipeline() -> DEDNPipeline:
    model = tiny_model()
    return DEDNPipeline(model=model, image_processor=model.image_processor(), task="zero-shot-image-classification")


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def handler() -> EndpointHandler:
    return EndpointHandler(pipeline=tiny_pipeline())


def refusal(handler, data) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        handler(data)
    return caught.value


# Answers


@pytest.mark.parametrize(
    "form",
    [
        as_base64,
        lambda data: base64.encodebytes(data).decode(),
        lambda data: f"data:image/png;base64,{as_base64(data)}",
        lambda data: {"image": as_base64(data)},
        bytes,
        lambda data: Image.open(io.BytesIO(data)),
    ],
    ids=["base64", "lines", "data URI", "object", "bytes", "PIL"],
)
def test_every_form_of_image_gets_the_answer_of_the_pipeline(form, handler):
    expected = handler.pipeline(picture(1, 0), candidate_labels=LABELS)
    assert handler({"inputs": form(picture(1, 0)), "parameters": {"candidate_labels": LABELS}}) == expected
    assert {entry["label"] for entry in expected} == set(LABELS)


def test_a_grey_image_of_16_bits_is_answered_as_the_one_of_8(handler):
    grey = Image.open(io.BytesIO(picture(1, 0))).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    answers = [handler({"inputs": as_base64(encoded(image, "PNG"))}) for image in (grey, deep)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"top_k": 3},
        {"candidate_labels": ["bird b"], "top_k": None},
        {"min_confidence": 1},
        {"min_confidence": 0.0, "precision": None},
        {
            "candidate_labels": {
                "bird a": None,
                "my bird": {"attribute 3": 0.9},
                "other bird": [1, 0, 0, 0, 0, 0, 0, 2],
            }
        },
    ],
)
def test_parameters_are_those_of_the_pipeline(parameters, handler):
    answer = handler({"inputs": as_base64(picture(2, 1)), "parameters": parameters})
    assert answer == handler.pipeline(picture(2, 1), **(parameters or {}))


def test_the_sentence_that_clients_send_for_other_models_changes_nothing(handler):
    request = {"inputs": as_base64(picture(0, 0)), "parameters": {"hypothesis_template": "A photo of a {}."}}
    assert handler(request) == handler({"inputs": as_base64(picture(0, 0))})


def test_of_an_animation_the_first_frame_is_classified(handler):
    frames = [Image.open(io.BytesIO(picture(label, 0))).convert("P") for label in (3, 4)]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(animation)).n_frames == 2
    assert handler({"inputs": animation}) == handler({"inputs": encoded(frames[0], "GIF")})


@pytest.mark.slow
def test_the_file_works_alone_as_an_endpoint_imports_it(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    code = f"""
        import importlib.util, json, sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "dedn_hf":
                    raise ModuleNotFoundError("dedn_hf is not here")
        sys.meta_path.insert(0, Refuse())
        sys.path.insert(0, "model")
        spec = importlib.util.spec_from_file_location("handler", "model/handler.py")
        sys.modules["handler"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handler = module.EndpointHandler("model")
        print(json.dumps(handler({{"inputs": {as_base64(picture(5, 0))!r}}})))
    """
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    processor = model.image_processor()
    expected = DEDNPipeline(model=model, image_processor=processor, task="zero-shot-image-classification")
    answer = torch.tensor([entry["score"] for entry in json.loads(done.stdout)])
    torch.testing.assert_close(answer, torch.tensor([entry["score"] for entry in expected(picture(5, 0))]))


# Requests that make no sense


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "The body of a request is"),
        ({}, "The body of a request is"),
        ({"inputs": None}, "The body of a request is"),
        ({"inputs": {}}, "base64 text"),
        ({"inputs": [as_base64(picture(0, 0))]}, "base64 text"),
        ({"inputs": 5}, "base64 text"),
        ({"inputs": "no base64!"}, "not valid base64"),
        ({"inputs": "data:image/png,abc"}, "data URI"),
        ({"inputs": ""}, "does not decode"),
        ({"inputs": as_base64(b"garbage")}, "does not decode"),
        ({"inputs": as_base64(picture(0, 0)[:-200])}, "does not decode"),
    ],
)
def test_a_request_without_a_whole_image_is_refused(data, message, handler):
    error = refusal(handler, data)
    assert message in str(error)
    assert error.status == 400


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PPM", "PDF"])
def test_formats_that_few_send_and_attackers_like_are_refused(kind, handler):
    data = encoded(Image.new("RGB", (48, 48)), kind)
    assert "JPEG, PNG" in str(refusal(handler, {"inputs": as_base64(data)}))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([1], "is an object"),
        ({"batch_size": 4}, "unknown key 'batch_size' in \"parameters\""),
        ({"images": "/etc/passwd"}, "unknown key 'images'"),
        ({"parameters": {"top_k": 1}}, "unknown key 'parameters' in \"parameters\""),
        ({5: 1}, "unknown key 5"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"top_k": "3"}, "top_k"),
        ({"min_confidence": 2}, "min_confidence must be a number between 0 and 1"),
        ({"min_confidence": float("nan")}, "min_confidence must be a number"),
        ({"precision": True}, "precision must be a number"),
        ({"precision": 0.9}, "trained without thresholds"),
        ({"min_confidence": 0.5, "precision": 0.9}, "not both"),
        ({"candidate_labels": "bird a"}, "a list of class names"),
        ({"candidate_labels": []}, "empty"),
        ({"candidate_labels": ["bird a", "bird a"]}, "twice"),
        ({"candidate_labels": [["bird a"]]}, "texts"),
        ({"candidate_labels": ["x" * 10_000]}, "texts"),
        ({"candidate_labels": [f"bird {i}" for i in range(MAX_CANDIDATES + 1)]}, "are allowed"),
        ({"candidate_labels": ["bird aa"]}, "bird a"),
        ({"candidate_labels": {"new": {"attribute 99": 1}}}, "no attribute or column 'attribute 99'"),
        ({"candidate_labels": {"new": {"attribute 1": "hooked"}}}, "'hooked' is not a number"),
        ({"candidate_labels": {"new": {"attribute 1": 10**400}}}, "number"),
        ({"candidate_labels": {"new": {"attribute 1": float("nan")}}}, "number"),
        ({"candidate_labels": {"new": 5}}, "number"),
        ({"candidate_labels": {"new": [1, 2]}}, "give all 8"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message, handler):
    error = refusal(handler, {"inputs": as_base64(picture(0, 0)), "parameters": parameters})
    assert message in str(error)
    assert error.status == 400
    assert len(str(error)) < 1100


LABELLED = {"candidate_labels": LABELS, "top_k": 1}


@pytest.mark.parametrize(
    "request_of",
    [
        lambda image: {"inputs": image, **LABELLED},
        lambda image: {"inputs": {"image": image, **LABELLED}},
        lambda image: {"inputs": {"image": image, "parameters": LABELLED}},
        lambda image: {"inputs": {"image": image, "candidate_labels": LABELS}, "parameters": {"top_k": 1}},
        lambda image: {"inputs": {"image": image, "top_k": None}, "parameters": LABELLED, "candidate_labels": None},
    ],
    ids=["beside inputs", "inside inputs", "parameters inside inputs", "some here and some there", "null elsewhere"],
)
def test_parameters_are_honoured_wherever_they_stand_in_a_request(request_of, handler):
    answer = handler(request_of(as_base64(picture(2, 1))))
    assert answer == handler.pipeline(picture(2, 1), **LABELLED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS}, "unknown key 'labels' in the request"),
        ({"image": "x"}, "unknown key 'image' in the request"),
        ({"inputs": {"image": "x", "labels": LABELS}}, "unknown key 'labels' in \"inputs\""),
        ({"inputs": {"picture": "x"}}, "unknown key 'picture' in \"inputs\""),
        ({"inputs": {"image": "x", "candidateLabels": "a, b"}}, "unknown key 'candidateLabels'"),
        ({"inputs": {"image": "x", "inputs": "x"}}, "unknown key 'inputs' in \"inputs\""),
        ({"top_k": 1, "parameters": {"top_k": 1}}, "gives top_k twice"),
        ({"candidate_labels": LABELS, "inputs": {"image": "x", "candidate_labels": LABELS}}, "candidate_labels twice"),
    ],
)
def test_nothing_in_a_request_is_ignored(changes, message, handler):
    error = refusal(handler, {"inputs": as_base64(picture(0, 0)), **changes})
    assert message in str(error)
    assert error.status == 400


@pytest.mark.parametrize(
    "kind", ["TIFF", pytest.param("AVIF", marks=pytest.mark.skipif("AVIF" not in FORMATS, reason="PIL has no AVIF"))]
)
def test_every_format_that_cameras_and_phones_write_is_answered(kind, handler):
    image = Image.open(io.BytesIO(picture(1, 0))).convert("RGB")
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encoded(image, kind, **options)
    assert handler({"inputs": as_base64(data)}) == handler.pipeline(Image.open(io.BytesIO(data)))


def test_what_the_pipeline_does_with_an_image_does_not_depend_on_the_way_it_came(handler):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    upright = Image.open(io.BytesIO(picture(1, 0))).convert("L")
    data = encoded(upright, "PNG", exif=exif)
    assert handler({"inputs": as_base64(data)}) == handler.pipeline(data)


def test_a_url_is_refused_unless_there_is_something_to_fetch_it_with(handler):
    for url in ("http://birds.example/bird.png", "HTTPS://birds.example/bird.png"):
        assert "Send the image itself as base64 text" in str(refusal(handler, {"inputs": url}))
    asked = []
    fetching = EndpointHandler(pipeline=handler.pipeline, fetch=lambda url: asked.append(url) or picture(0, 0))
    assert fetching({"inputs": "http://birds.example/a bird.png"}) == handler({"inputs": picture(0, 0)})
    assert asked == ["http://birds.example/a bird.png"]


# Files of this machine


@pytest.mark.parametrize(
    "form", [str, lambda path: f"file://{path}", lambda path: {"image": str(path)}, lambda path: path]
)
def test_no_path_is_ever_opened_for_a_request(form, handler, tmp_path, monkeypatch):
    path = tmp_path / "private.png"
    path.write_bytes(picture(0, 0))

    def refuse(*args, **kwargs):
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    refusal(handler, {"inputs": form(path)})


# Images that would fill the memory


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def gif_header(width: int, height: int) -> bytes:
    data = encoded(Image.new("P", (8, 8)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def bmp_header(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def tiff_header(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "TIFF")
    image = Image.open(io.BytesIO(data))
    sizes = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    place = data.index(struct.pack("<HH", 256, 4))
    assert image.tag_v2.prefix == b"II"
    return data[:place] + sizes + data[place + len(sizes) :]


def webp_header(width: int, height: int) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    place = data.index(b"VP8X") + 12
    return data[:place] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[place + 6 :]


@pytest.mark.parametrize(
    ("header", "size"),
    [(header, size) for header in (png_header, gif_header, bmp_header, tiff_header) for size in (8000, 16_000, 50_000)]
    + [(webp_header, 8000), (webp_header, 16_000)],
)
def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(header, size, handler, monkeypatch):
    data = header(size, size)
    assert len(data) < 2000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("it was decoded"))
    error = refusal(handler, {"inputs": as_base64(data)})
    assert error.status == 413
    assert "pixels" in str(error)


def test_an_image_at_the_limit_is_answered_and_one_beyond_it_is_not(handler):
    strict = EndpointHandler(pipeline=handler.pipeline, max_pixels=100 * 60)
    strict({"inputs": encoded(Image.new("RGB", (100, 60)), "PNG")})
    assert refusal(strict, {"inputs": encoded(Image.new("RGB", (101, 60)), "PNG")}).status == 413
    assert refusal(strict, {"inputs": Image.new("RGB", (101, 60))}).status == 413


def test_a_thin_line_is_refused_because_resizing_would_make_it_huge(handler):
    assert refusal(handler, {"inputs": encoded(Image.new("L", (1, 5000)), "PNG")}).status == 413
    handler({"inputs": encoded(Image.new("L", (10, 500)), "PNG")})


def test_an_image_of_too_many_bytes_is_refused(handler):
    strict = EndpointHandler(pipeline=handler.pipeline, max_bytes=1000)
    assert refusal(strict, {"inputs": as_base64(bytes(1001))}).status == 413


@pytest.mark.parametrize("scheme", ["DATA:image/png;base64,", "data:image/PNG;BASE64,", "\n data:image/png;base64,"])
def test_a_data_uri_is_read_in_any_capitals(handler, scheme):
    text = base64.b64encode(picture(0, 0)).decode()
    assert handler({"inputs": scheme + text}) == handler({"inputs": text})


@pytest.mark.parametrize("value", [["hooked", "flat"], None])
def test_a_description_may_hold_several_words_or_a_gap(handler, value):
    labels = {"Swan": {"bill": value}}
    _, parameters = handler.prepare({"inputs": "", "parameters": {"candidate_labels": labels}})
    assert parameters["candidate_labels"] == labels


@pytest.mark.parametrize("value", [[], [["hooked"]], [None], {"a": 1}, [float("nan")]])
def test_what_is_no_value_of_a_trait_is_refused(handler, value):
    with pytest.raises(BadRequest, match="is described by"):
        handler.prepare({"inputs": "", "parameters": {"candidate_labels": {"Swan": {"bill": value}}}})


HEIC = b"\0\0\0\x18ftypheic" + bytes(50)


def test_a_heic_picture_is_answered_where_pillow_heif_is_installed(handler):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install pillow-heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.open(io.BytesIO(picture(1, 0))).convert("RGB")).save(buffer, quality=90)
    assert handler({"inputs": buffer.getvalue()}) == handler.pipeline(buffer.getvalue())
    strict = EndpointHandler(pipeline=handler.pipeline, max_pixels=100)
    assert refusal(strict, {"inputs": buffer.getvalue()}).status == 413
    assert refusal(handler, {"inputs": HEIC}).status == 400


def test_without_pillow_heif_a_heic_picture_is_refused_with_what_to_send(handler, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = refusal(handler, {"inputs": as_base64(HEIC)})
    assert error.status == 415 and "does not read HEIC. Send the image as JPEG" in str(error)
