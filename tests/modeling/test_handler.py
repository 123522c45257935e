"""The endpoint's handler: every form of request, and nothing that a hostile one could gain."""

import base64
import io
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from dedn_hf import DEDNPipeline
from dedn_hf.modeling import handler as handler_module
from dedn_hf.modeling.handler import MAX_CANDIDATES, BadRequest, EndpointHandler, fetch, is_public
from tests.tiny_runs import image_model, picture

PUBLIC = "93.184.215.14"
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
        {
            "candidate_labels": {
                "bird a": None,
                "my bird": {"attribute 3": 1.5},
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
        ([], "The body is"),
        ({}, "The body is"),
        ({"inputs": None}, "The body is"),
        ({"inputs": {"picture": "x"}}, "base64 text"),
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


@pytest.mark.parametrize("kind", ["TIFF", "EPS", "ICO", "PPM", "PDF"])
def test_formats_that_few_send_and_attackers_like_are_refused(kind, handler):
    data = encoded(Image.new("RGB", (48, 48)), kind)
    assert "JPEG, PNG" in str(refusal(handler, {"inputs": as_base64(data)}))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([1], "is an object"),
        ({"batch_size": 4}, "No parameter 'batch_size'"),
        ({"images": "/etc/passwd"}, "No parameter 'images'"),
        ({"num_workers": 64}, "No parameter"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"top_k": "3"}, "top_k"),
        ({"candidate_labels": "bird a"}, "a list of class names"),
        ({"candidate_labels": []}, "empty"),
        ({"candidate_labels": ["bird a", "bird a"]}, "twice"),
        ({"candidate_labels": [["bird a"]]}, "texts"),
        ({"candidate_labels": ["x" * 10_000]}, "texts"),
        ({"candidate_labels": [f"bird {i}" for i in range(MAX_CANDIDATES + 1)]}, "are allowed"),
        ({"candidate_labels": ["bird aa"]}, "bird a"),
        ({"candidate_labels": {"new": {"attribute 99": 1}}}, "no attribute 'attribute 99'"),
        ({"candidate_labels": {"new": {"attribute 1": "1"}}}, "number"),
        ({"candidate_labels": {"new": {"attribute 1": 10**400}}}, "number"),
        ({"candidate_labels": {"new": {"attribute 1": float("nan")}}}, "number"),
        ({"candidate_labels": {"new": 5}}, "number"),
        ({"candidate_labels": {"new": [1, 2]}}, "8 values"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message, handler):
    error = refusal(handler, {"inputs": as_base64(picture(0, 0)), "parameters": parameters})
    assert message in str(error)
    assert error.status == 400
    assert len(str(error)) < 1100


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


def webp_header(width: int, height: int) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    place = data.index(b"VP8X") + 12
    return data[:place] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[place + 6 :]


@pytest.mark.parametrize(
    ("header", "size"),
    [(header, size) for header in (png_header, gif_header, bmp_header) for size in (8000, 16_000, 50_000)]
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


# URLs


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1"),
        *("192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1%eth0"),
        *("fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "100::1"),
    ],
)
def test_addresses_inside_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


class Pages(BaseHTTPRequestHandler):
    """A server that helps and one that does not, by path."""

    def do_GET(self):
        self.server.hits.append((self.headers["Host"], self.path))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.reply(302, Location=unquote(rest))
        elif kind == "loop":
            self.reply(301, Location="/loop")
        elif kind == "endless":
            self.reply(200)
            self.send(bytes(2**16), 10_000)
        elif kind == "drip":
            self.send_response(200)
            self.send_header("X", "")
            self.flush_headers()
            self.send(b"x", 200, pause=0.05)
        elif kind == "drip-body":
            self.reply(200)
            self.send(b"x", 200, pause=0.05)
        elif kind == "missing":
            self.reply(404)
        else:
            self.reply(200, **{"Content-Type": "image/png"})
            self.wfile.write(picture(0, 0))

    def reply(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, data, times, pause=0.0):
        try:
            for _ in range(times):
                self.wfile.write(data)
                time.sleep(pause)
        except OSError:
            self.server.cut_off.set()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def pages():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.hits, server.cut_off = [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def internet(pages, monkeypatch):
    """Host names with addresses of the test's choice; the public ones all lead to `pages`. Gives names and calls."""
    connect, look_up = socket.create_connection, socket.getaddrinfo
    names, connected = {"birds.example": [[PUBLIC]]}, []
    pages.hits.clear()
    pages.cut_off.clear()

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in names:
            return look_up(host, port, *args, **kwargs)
        addresses = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    def create_connection(address, *args, **kwargs):
        connected.append(address)
        assert address[0] == PUBLIC, f"connected to {address}"
        return connect(("127.0.0.1", pages.server_port), *args, **kwargs)

    monkeypatch.setattr(handler_module.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(handler_module.socket, "create_connection", create_connection)
    return names, connected


def fetched(url, max_bytes=10**6, timeout=5.0):
    return fetch(url, max_bytes, timeout)


def fetch_error(url, **limits) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        fetched(url, **limits)
    return caught.value


def test_an_image_is_fetched_from_a_public_host(internet, pages, handler):
    url = "http://birds.example:81/a bird.png?größe=1#part"
    assert handler({"inputs": url}) == handler({"inputs": picture(0, 0)})
    assert pages.hits == [("birds.example:81", "/a%20bird.png?gr%C3%B6%C3%9Fe=1")]
    assert internet[1] == [(PUBLIC, 81)]


def test_a_redirect_to_a_public_host_is_followed(internet, pages):
    assert fetched("http://birds.example/to/%2Fbird.png") == picture(0, 0)
    assert len(pages.hits) == 2


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0"],
)
@pytest.mark.parametrize("start", ["http://{}:{}/bird.png", "http://birds.example/to/http://{}:{}/bird.png"])
def test_loopback_is_refused_by_any_name_and_after_a_redirect(host, start, internet, pages):
    assert "no public address" in str(fetch_error(start.format(host, pages.server_port)))
    assert not any(path.startswith("/bird") for _, path in pages.hits)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200"])
def test_private_hosts_are_refused_without_a_connection(host, internet):
    assert "no public address" in str(fetch_error(f"http://{host}/latest/meta-data"))
    assert internet[1] == []


def test_a_host_with_a_private_address_among_others_is_refused(internet):
    internet[0]["mixed.example"] = [[PUBLIC, "10.0.0.1"]]
    assert "no public address" in str(fetch_error("http://mixed.example/"))


def test_a_host_that_changes_its_address_gains_nothing(internet):
    names, connected = internet
    names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetched("http://rebind.example/bird.png") == picture(0, 0)  # one look-up: what was checked is connected to
    assert connected == [(PUBLIC, 80)]
    names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert "no public address" in str(fetch_error("http://rebind.example/to/%2Fbird.png"))


def test_what_is_private_and_what_does_not_exist_are_refused_in_the_same_words(internet):
    internet[0]["inside.example"] = [["10.0.0.1"]]
    internet[0]["nowhere.example"] = [[]]
    assert str(fetch_error("http://inside.example/")) == str(fetch_error("http://nowhere.example/"))


@pytest.mark.parametrize(
    "url", ["ftp://birds.example/a", "file:///etc/passwd", "gopher://birds.example", "data:,a", "x"]
)
def test_a_redirect_to_another_scheme_is_refused(url, internet):
    if url != "x":
        assert "http://" in str(fetch_error(f"http://birds.example/to/{url}"))
    assert "http://" in str(fetch_error(url))


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://birds.example:99999", "http://birds.example:x/", "http:///a"]
)
def test_a_url_that_is_none_is_refused(url, internet):
    fetch_error(url)


def test_redirects_in_a_circle_end(internet, pages):
    assert "redirects" in str(fetch_error("http://birds.example/loop"))
    assert len(pages.hits) == 4


def test_a_page_that_is_missing_is_said_to_be(internet):
    assert "404" in str(fetch_error("http://birds.example/missing"))


def test_a_response_without_end_is_broken_off(internet, pages):
    assert fetch_error("http://birds.example/endless").status == 413
    assert pages.cut_off.wait(5)


@pytest.mark.parametrize("page", ["drip", "drip-body"])
def test_a_server_that_answers_byte_by_byte_is_cut_off_at_the_deadline(page, internet, pages):
    assert_cut_off(f"http://birds.example/{page}", pages)


def assert_cut_off(url, server):
    start = time.monotonic()
    assert "in time" in str(fetch_error(url, timeout=0.5))
    assert 0.4 < time.monotonic() - start < 3
    assert server.cut_off.wait(5)


def test_urls_can_be_forbidden(handler, internet):
    closed = EndpointHandler(pipeline=handler.pipeline, allow_urls=False)
    for url in ("http://birds.example/bird.png", "HTTPS://birds.example/bird.png"):
        assert "fetches no URLs" in str(refusal(closed, {"inputs": url}))
    assert internet[1] == []


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed, to make a certificate with")
def test_https_checks_the_certificate_against_the_name_not_the_address(internet, pages, tmp_path, monkeypatch):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert -days 2"
    names = ["-subj", "/CN=birds.example", "-addext", "subjectAltName=DNS:birds.example"]
    subprocess.run([*command.split(), *names], check=True, cwd=tmp_path, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.hits, server.cut_off = [], threading.Event()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(pages, "server_port", server.server_port)
    trusting = ssl.create_default_context(cafile=tmp_path / "cert")
    internet[0]["other.example"] = [[PUBLIC]]
    try:
        assert "could not be fetched" in str(fetch_error("https://birds.example/bird.png"))  # nobody vouches for it
        monkeypatch.setattr(handler_module.ssl, "create_default_context", lambda: trusting)
        assert fetched("https://birds.example/bird.png") == picture(0, 0)
        assert "could not be fetched" in str(fetch_error("https://other.example/bird.png"))
        assert server.hits == [("birds.example", "/bird.png")]
        assert_cut_off("https://birds.example/drip", server)
    finally:
        server.shutdown()
        server.server_close()
