"""`dedn serve`: the clients of the Hub get their answers, everyone else a clear refusal, and the server stays up."""

import base64
import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import huggingface_hub
import pytest
import torch
import uvicorn
from PIL import Image

from dedn_hf.cli import main
from dedn_hf.modeling.handler import BadRequest, EndpointHandler
from dedn_hf.publish.serving import create_app, load_pipeline
from tests.modeling.test_handler import png_header
from tests.tiny_runs import feature_model, image_model, picture

NPM_CLIENT = Path(__file__).parents[1] / "npm_client"
LABELS = ["bird c", "bird a", "bird f"]
MAX_BYTES = 200_000


class Answer(NamedTuple):
    status: int
    content: object
    headers: http.client.HTTPMessage


class Server:
    """A running server, and requests to it."""

    def __init__(self, port: int, app=None) -> None:
        self.port, self.url, self.app = port, f"http://127.0.0.1:{port}", app

    def request(self, method="POST", path="/", body=None, **headers) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            text = response.read().decode()
            assert "Traceback" not in text
            assert ".py" not in text
            return Answer(response.status, json.loads(text), response.headers)
        finally:
            connection.close()

    def post(self, data) -> Answer:
        return self.request(body=json.dumps(data))

    def wait_for_free_places(self, count: int = 1) -> None:
        """Wait until so many requests could be taken."""
        places = self.app.state.service.free_places
        for _ in range(count):
            assert places.acquire(timeout=10)
        for _ in range(count):
            places.release()

    def be_patient(self) -> None:
        """From now on no request is given up, however slow the machine is."""
        self.app.state.service.timeout = 600

    def classify(self, image: bytes = picture(0, 0), **parameters) -> Answer:
        return self.post({"inputs": base64.b64encode(image).decode(), "parameters": parameters})


@contextmanager
def running(handler, **limits):
    """A real server on loopback, in a thread."""
    app = create_app(handler, "tiny", **limits)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:  # the socket listens already: whoever connects before the server has started waits for it
            yield Server(listening.getsockname()[1], app)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "tiny"
    image_model(initializer_range=0.1).eval().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def classify(folder):
    return load_pipeline(str(folder))


@pytest.fixture(scope="module")
def server(classify):
    with running(EndpointHandler(pipeline=classify), max_bytes=MAX_BYTES) as server:
        yield server


# Clients


@pytest.mark.parametrize("name", ["InferenceClient", "AsyncInferenceClient"])
def test_the_python_client_of_the_hub_gets_the_answers_of_the_pipeline(name, server, classify, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # which forbids loopback too
    client = getattr(huggingface_hub, name)(model=server.url, token="none")
    answer = client.zero_shot_image_classification(picture(1, 2), candidate_labels=LABELS)
    if name == "AsyncInferenceClient":
        import asyncio

        answer = asyncio.run(answer)
    assert [dict(entry) for entry in answer] == classify(picture(1, 2), candidate_labels=LABELS)


def test_the_python_client_of_the_hub_shows_what_was_wrong(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    client = huggingface_hub.InferenceClient(model=server.url, token="none")
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="knows no class 'bird z'") as caught:
        client.zero_shot_image_classification(picture(1, 2), candidate_labels=["bird a", "bird z"])
    assert caught.value.response.status_code == 400


@pytest.fixture(scope="module")
def npm_client(request) -> Path:
    """A folder with the script and what it needs; downloaded once."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    package = (NPM_CLIENT / "package.json").read_text(encoding="utf-8")
    wanted = json.loads(package)["dependencies"]["@huggingface/inference"]
    folder = request.config.cache.mkdir(f"npm_client_{wanted}")
    if not (folder / "installed").exists():
        (folder / "package.json").write_text(package, encoding="utf-8")
        command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            pytest.skip("npm does not get @huggingface/inference from its registry in two minutes")
        if done.returncode:
            pytest.skip(f"npm cannot install @huggingface/inference: {done.stderr[-300:]}")
        (folder / "installed").touch()
    shutil.copy(NPM_CLIENT / "classify.js", folder)
    return folder


def ask_with_npm(client: Path, url: str, image: Path, *labels: str) -> dict:
    command = ["node", "classify.js", url, str(image), *labels]
    done = subprocess.run(command, cwd=client, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_javascript_client_of_the_hub_gets_the_answers_of_the_pipeline(npm_client, server, classify, tmp_path):
    (tmp_path / "bird.png").write_bytes(picture(4, 1))
    given = ask_with_npm(npm_client, server.url, tmp_path / "bird.png", *LABELS)
    assert given == {"answer": classify(picture(4, 1), candidate_labels=LABELS)}


def test_the_javascript_client_of_the_hub_shows_what_was_wrong(npm_client, server, tmp_path):
    (tmp_path / "bird.png").write_bytes(picture(4, 1))
    given = ask_with_npm(npm_client, server.url, tmp_path / "bird.png", "bird a", "bird z")
    assert given["response"]["status"] == 400
    assert "knows no class 'bird z'" in str(given)


# Answers


def test_json_without_a_content_type_is_understood(server, classify):
    assert server.classify(picture(2, 0), top_k=2).content == classify(picture(2, 0), top_k=2)


def test_new_classes_may_come_with_a_request(server, classify):
    candidates = {"bird a": None, "my bird": {"attribute 1": 2, "attribute 5": 0}}
    answer = server.classify(picture(2, 0), candidate_labels=candidates)
    assert answer.content == classify(picture(2, 0), candidate_labels=candidates)


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/PNG", "IMAGE/jpeg", "Application/Octet-Stream", "image/png; charset=binary"]
)
def test_the_image_may_be_the_body_and_the_parameters_in_the_url(content_type, server, classify):
    path = "/?candidate_labels=bird%20c&candidate_labels=bird%20a&top_k=1"
    answer = server.request(path=path, body=picture(2, 0), content_type=content_type)
    assert answer.content == classify(picture(2, 0), candidate_labels=["bird c", "bird a"], top_k=1)
    assert server.request(body=picture(2, 0), content_type=content_type).content == classify(picture(2, 0))


def form(*fields: tuple[str, bytes], image: str = "inputs") -> tuple[bytes, str]:
    """The body of a form and its content type; the field `image` is a file."""
    body = b""
    for name, value in fields:
        file = '; filename="bird.png"\r\nContent-Type: image/png' if name == image else ""
        body += f'--boundary\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"
    return body + b"--boundary--\r\n", "Multipart/Form-Data; boundary=boundary"


@pytest.mark.parametrize("name", ["inputs", "image", "file"])
def test_the_image_may_be_a_file_in_a_form(name, server, classify):
    labels = [("candidate_labels", b"bird c"), ("candidate_labels", b"bird a")]
    body, content_type = form(*labels, (name, picture(2, 0)), ("top_k", b"1"), image=name)
    answer = server.request(body=body, content_type=content_type)
    assert answer.content == classify(picture(2, 0), candidate_labels=["bird c", "bird a"], top_k=1)
    body, content_type = form((name, picture(2, 0)), image=name)
    answer = server.request(path="/?top_k=1", body=body, content_type=content_type)
    assert answer.content == classify(picture(2, 0), top_k=1)


def test_a_form_may_describe_classes_in_json(server, classify):
    candidates = {"bird a": None, "my bird": {"attribute 1": 2}}
    parameters = json.dumps({"candidate_labels": candidates}).encode()
    body, content_type = form(("inputs", picture(2, 0)), ("parameters", parameters))
    answer = server.request(body=body, content_type=content_type)
    assert answer.content == classify(picture(2, 0), candidate_labels=candidates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("top_k", b"1")], "The body of a request is"),
        ([("inputs", b"x"), ("labels", b"bird a")], "unknown key 'labels'"),
        ([("inputs", b"x"), ("parameters", b"{")], "The field parameters is not valid JSON"),
        ([("inputs", b"x"), ("top_k", b"1"), ("top_k", b"2")], "'top_k' twice"),
        ([("inputs", b"x"), ("inputs", b"x")], "Too many files"),
        ([("inputs", b"not an image")], "does not decode"),
    ],
)
def test_a_form_that_makes_no_sense_is_a_bad_request(fields, message, server):
    body, content_type = form(*fields)
    answer = server.request(body=body, content_type=content_type)
    assert answer.status == 400
    assert message in answer.content["error"]


def test_a_form_that_is_broken_or_too_large_is_refused(server):
    body, content_type = form(("inputs", bytes(MAX_BYTES)))
    assert server.request(body=body, content_type=content_type).status == 413
    assert server.request(body=body[:100], content_type=content_type).status == 400
    assert server.request(body=b"garbage", content_type="multipart/form-data; boundary=other").status == 400
    assert server.request(body=b"garbage", content_type="multipart/form-data").status == 400
    assert server.classify().status == 200


def test_an_answer_may_be_unknown(server, classify):
    image = base64.b64encode(picture(2, 0)).decode()
    unknown = classify(picture(2, 0), min_confidence=1.0)
    assert unknown[0]["label"] == "unknown"
    body = json.dumps({"inputs": image, "parameters": {"min_confidence": 1.0}})
    assert server.request(body=body).content == unknown
    body, content_type = form(("inputs", picture(2, 0)), ("min_confidence", b"1"))
    assert server.request(body=body, content_type=content_type).content == unknown
    for query, message in (("min_confidence=much", "a number between"), ("precision=0.9", "without thresholds")):
        answer = server.request(path=f"/?{query}", body=picture(2, 0), content_type="image/png")
        assert answer.status == 400 and message in answer.content["error"]


def test_parameters_in_the_url_go_with_json_too_but_not_twice(server, classify):
    image = base64.b64encode(picture(2, 0)).decode()
    answer = server.request(path="/?top_k=1", body=json.dumps({"inputs": image}))
    assert answer.content == classify(picture(2, 0), top_k=1)
    answer = server.request(path="/?top_k=1", body=json.dumps({"inputs": image, "parameters": {"top_k": 2}}))
    assert answer.status == 400 and "top_k twice" in answer.content["error"]
    answer = server.request(path="/?top_k=1", body=json.dumps({"inputs": image, "top_k": 2}))
    assert answer.status == 400 and "top_k twice" in answer.content["error"]


def test_names_outside_of_ascii_come_back_as_they_were(server):
    (entry,) = server.classify(candidate_labels={"鳥 🐦": {"attribute 1": 1}}).content
    assert entry["label"] == "鳥 🐦"
    answer = server.classify(candidate_labels={"half \ud83d": {"attribute 1": 1}})
    assert answer.status == 400
    assert "half" in answer.content["error"]


def test_sixteen_clients_at_once_each_get_the_answer_to_their_own_request(server, classify):
    pictures = [picture(label, number) for label in range(7) for number in range(2)]
    expected = [classify(data) for data in pictures]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(server.classify, pictures * 8))
    assert [answer.content for answer in answers] == expected * 8


def test_the_health_route_says_what_is_served(server):
    answer = server.request("GET", "/health")
    assert answer[:2] == (200, {"ready": True, "model": "tiny", "classes": 7})


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 405), ("PUT", "/", 405), ("POST", "/health", 405), ("POST", "/other", 404), ("GET", "/../etc", 404)],
)
def test_other_routes_and_methods_are_refused_as_json(method, path, status, server):
    answer = server.request(method, path)
    assert answer.status == status
    assert list(answer.content) == ["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"garbage", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 100_000, "not valid JSON"),
        (b"[]", "The body of a request is"),
        (b'"text"', "The body of a request is"),
        (b'{"inputs": "/etc/passwd"}', "base64"),
        (b'{"inputs": "https://example.org/bird.png"}', "fetches no URLs"),
        (b'{"inputs": "R0lG", "parameters": {"top_k": NaN}}', "top_k"),
    ],
)
def test_a_body_that_makes_no_sense_is_a_bad_request(body, message, server):
    answer = server.request(body=body)
    assert answer.status == 400
    assert message in answer.content["error"]


def test_garbage_for_an_image_is_a_bad_request(server):
    answer = server.request(body=b"garbage", content_type="image/png")
    assert answer.status == 400
    assert "does not decode" in answer.content["error"]


def test_an_unknown_class_or_parameter_is_a_bad_request_that_helps(server):
    assert "bird a" in server.classify(candidate_labels=["bird aa"]).content["error"]
    answer = server.request(path="/?topk=1", body=picture(0, 0), content_type="image/png")
    assert answer.status == 400
    assert "unknown key 'topk' in the request" in answer.content["error"]


def test_a_decompression_bomb_is_too_large(server):
    assert server.classify(png_header(50_000, 50_000)).status == 413
    assert server.request(body=png_header(7000, 7000), content_type="image/png").status == 413


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 100 * MAX_BYTES])
def test_a_body_beyond_the_limit_is_too_large_whatever_its_length_is_said_to_be(size, server):
    assert server.request(body=b"x" * size).status == 413
    chunks = (b"x" * 10_000 for _ in range(size // 10_000 + 1))  # sent without a length
    assert server.request(body=chunks).status == 413
    assert server.classify().status == 200


def test_a_body_at_the_limit_is_read(server):
    assert "not valid JSON" in server.request(body=b"x" * MAX_BYTES).content["error"]


# Load and failure, with a handler that does as the test says


class Scripted:
    """Instead of the handler: waits for `go`, then gives what it is told to, or raises it."""

    pipeline = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(num_labels=1)))

    def __init__(self, result=None) -> None:
        self.result, self.go = result, threading.Event()
        self.arrived, self.started = threading.Semaphore(0), threading.Semaphore(0)
        self.active = self.most_active = 0

    def prepare(self, data):
        self.arrived.release()
        return data, {}

    def classify(self, image, parameters):
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        self.started.release()
        assert self.go.wait(30)
        self.active -= 1
        if isinstance(self.result, Exception):
            raise self.result
        return image


def test_when_the_queue_is_full_the_next_is_turned_away_and_later_served():
    handler = Scripted()
    with running(handler, queue=3) as server, ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(server.post, number) for number in range(3)]
        assert all(handler.arrived.acquire(timeout=10) for _ in range(3))
        refused = server.post("one more")
        assert refused[:2] == (503, {"error": "All places in the queue are taken; try again soon."})
        assert refused.headers["Retry-After"] == "1"
        assert server.request("GET", "/health").status == 200
        handler.go.set()
        assert [each.result().content for each in accepted] == [0, 1, 2]
        server.wait_for_free_places(3)
        assert server.post("now").content == "now"
    assert handler.most_active == 1  # the model never runs twice at once


def test_a_request_that_takes_too_long_is_given_up_but_keeps_its_place_until_it_ends():
    handler = Scripted()
    with running(handler, queue=1, timeout=0.5) as server:
        late = server.post(1)
        assert late[:2] == (504, {"error": "There was no answer within 0.5 seconds."})
        assert server.post(2).status == 503
        handler.go.set()
        server.wait_for_free_places()
        server.be_patient()
        assert server.post(3)[:2] == (200, 3)


def test_what_nobody_waits_for_any_more_is_not_begun():
    handler = Scripted()
    with running(handler, queue=5, timeout=0.5) as server, ThreadPoolExecutor(4) as clients:
        assert {answer.status for answer in clients.map(server.post, range(4))} == {504}
        handler.go.set()
        server.wait_for_free_places(5)
        server.be_patient()
        assert server.post("now")[:2] == (200, "now")
    assert handler.started.acquire(blocking=False)  # the first of the four
    assert handler.started.acquire(blocking=False)  # "now"
    assert not handler.started.acquire(blocking=False)


def test_a_request_that_does_not_arrive_gives_its_place_back():
    handler = Scripted()
    handler.go.set()
    with running(handler, queue=1, timeout=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
            assert b"408" in slow.recv(1000)
        server.wait_for_free_places()
        server.be_patient()
        assert server.post(1).content == 1
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
            gone.shutdown(socket.SHUT_WR)
            gone.recv(1000)
        server.wait_for_free_places()
        assert server.post(1)[:2] == (200, 1)


def test_a_request_in_work_is_answered_before_the_server_stops():
    handler = Scripted()
    with ThreadPoolExecutor(1) as clients:
        with running(handler) as server:
            answer = clients.submit(server.post, 1)
            assert handler.started.acquire(timeout=10)
            threading.Timer(0.3, handler.go.set).start()
        assert answer.result().content == 1


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (RuntimeError("secret /root/model.py"), 500, "Something went wrong in the server; its log says what."),
        (MemoryError(), 500, "Something went wrong in the server; its log says what."),
        (BadRequest("Too blue.", 418), 418, "Too blue."),
    ],
)
def test_a_failure_is_told_without_details_and_the_server_goes_on(failure, status, message, capsys):
    handler = Scripted(failure)
    handler.go.set()
    with running(handler, queue=1) as server:
        for _ in range(3):
            assert server.post(1)[:2] == (status, {"error": message})
        handler.result = None
        assert server.post(1).content == 1
    assert (status == 500) == ("Traceback" in capsys.readouterr().err)


@pytest.mark.parametrize("limit", ["max_bytes", "timeout", "queue"])
def test_limits_that_are_not_positive_are_refused(limit):
    with pytest.raises(ValueError, match="more than 0"):
        create_app(Scripted(), **{limit: 0})


# The command


def test_code_beside_the_weights_is_not_run(folder, classify, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    scripts = list(copy.glob("*.py"))
    assert {"handler.py", "modeling_dedn.py", "pipeline_dedn.py"} <= {path.name for path in scripts}
    for path in scripts:
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    handler = EndpointHandler(pipeline=load_pipeline(str(copy)))
    assert handler({"inputs": picture(3, 0)}) == classify(picture(3, 0))
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_such_a_model_is_refused_before_the_server_starts(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    feature_model().save_pretrained(tmp_path / "features")
    messages = {"empty": "is missing", "other": "'vit'", "features": "no backbone", "nowhere": "neither the folder"}
    for name, message in messages.items():
        assert main(["serve", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert "dedn: " in error
        assert message in error


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dedn_hf", "serve", str(folder), "--port", str(port), "--max-bytes", "5000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert any("Uvicorn running" in line for line in process.stderr), "it ended before it was ready"
        server = Server(port)
        assert server.request("GET", "/health").content == {"ready": True, "model": folder.name, "classes": 7}
        image = io.BytesIO()
        Image.new("RGB", (20, 20), "blue").save(image, "PNG")
        assert len(server.classify(image.getvalue()).content) == 7
        assert server.post({"inputs": "http://127.0.0.1/"}).status == 400
        assert server.request(body=b"x" * 5001).status == 413
        process.send_signal(signal.SIGTERM)
        assert "Finished server process" in process.communicate(timeout=30)[1]
    finally:
        process.kill()
