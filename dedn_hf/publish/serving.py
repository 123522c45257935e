"""`dedn serve`: the handler of Inference Endpoints behind a small web server.

Requests wait in a bounded queue, and one thread runs the model, one request at a time. What a client can cause is
limited: the size of a request, the pixels of an image, the time, and the number of requests at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dedn_hf.data.processor import at_full_speed
from dedn_hf.modeling.handler import MAX_CANDIDATES, SHARES, BadRequest, EndpointHandler
from dedn_hf.publish.fetching import fetch
from dedn_hf.publish.saved import load_model

if TYPE_CHECKING:
    from dedn_hf.modeling.pipeline_dedn import DEDNPipeline

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 40_000_000
TIMEOUT = 30.0
QUEUE = 32
IMAGE_TYPES, FORM_TYPE = ("image/", "application/octet-stream"), "multipart/form-data"
MAX_FIELDS = MAX_CANDIDATES + 10


def load_pipeline(model: str) -> DEDNPipeline:
    """The pipeline of a saved model, a folder or a Hub id, with the code installed here: none of the model's is run.

    Raises:
        ValueError: there is no such model, or it is not a model of this package, takes no images or lacks weights.
    """
    from dedn_hf.modeling.pipeline_dedn import DEDNPipeline

    network = load_model(model)
    if network.backbone is None:
        raise ValueError(
            f"{model} has no backbone: it takes cached features, and no images. Give a model that was saved with its "
            "backbone."
        )
    task = "zero-shot-image-classification"
    return DEDNPipeline(model=network, image_processor=network.image_processor(), task=task)


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    allow_urls: bool = False,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT,
    queue: int = QUEUE,
) -> None:
    """Load a model, then answer requests until interrupted.

    Args:
        allow_urls: fetch images from public addresses when a request gives a URL.
        max_pixels: of an image. model: as `load_pipeline`. Others: as `create_app`.

    Raises:
        ValueError: as `load_pipeline` and `create_app`.
    """
    import uvicorn

    handler = EndpointHandler(
        pipeline=load_pipeline(model),
        fetch=partial(fetch, max_bytes=max_bytes, timeout=min(10, timeout / 2)) if allow_urls else None,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
    )
    name = Path(model).resolve().name if Path(model).is_dir() else model
    app = create_app(handler, name, max_bytes=max_bytes, timeout=timeout, queue=queue)
    stopping = {"timeout_graceful_shutdown": int(timeout) + 1}
    with at_full_speed(handler.pipeline.model):
        uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, **stopping)


def create_app(
    handler: EndpointHandler,
    name: str = "dedn",
    *,
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
    queue: int = QUEUE,
) -> Starlette:
    """The web application around a handler.

    Args:
        name: of the model, for the health route.
        max_bytes: of the body of a request, in which base64 makes an image a third larger.
        timeout: seconds until a request is given up.
        queue: requests that may wait or be in work at once; one more is turned away.

    Raises:
        ValueError: a limit that is not positive.
    """
    if not (max_bytes > 0 and timeout > 0 and queue > 0):
        raise ValueError("Every limit of the server must be more than 0.")
    service = Service(handler, name, max_bytes, timeout, queue)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    app = Starlette(
        routes=[Route("/", service.classify, methods=["POST"]), Route("/health", service.health, methods=["GET"])],
        exception_handlers={HTTPException: http_error, BadRequest: bad_request, Exception: unexpected_error},
        lifespan=lifespan,
    )
    app.state.service = service
    return app


class Service:
    """Answers requests, a limited number at a time."""

    def __init__(self, handler: EndpointHandler, name: str, max_bytes: int, timeout: float, queue: int) -> None:
        self.handler, self.name = handler, name
        self.max_bytes, self.timeout = max_bytes, timeout
        self.free_places = BoundedSemaphore(queue)
        self.request_threads = ThreadPoolExecutor(queue, "request")  # read requests and wait for URLs
        self.model_thread = ThreadPoolExecutor(1, "model")  # one: torch keeps a pool of threads for each caller

    def close(self) -> None:
        for threads in (self.request_threads, self.model_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    async def health(self, request: Request) -> Response:
        classes = self.handler.pipeline.model.config.num_labels
        return answer({"ready": True, "model": self.name, "classes": classes})

    async def classify(self, request: Request) -> Response:
        deadline = time.monotonic() + self.timeout
        if not self.free_places.acquire(blocking=False):
            raise HTTPException(503, "All places in the queue are taken; try again soon.", {"Retry-After": "1"})
        work: Future | None = None
        try:
            content = await asyncio.wait_for(read_content(request, self.max_bytes), self.timeout)
            work = self.request_threads.submit(self._answer, content, request, deadline)
            # Work that nobody waits for any more goes on, and keeps its place until it ends.
            work.add_done_callback(lambda _: self.free_places.release())
            return answer(await asyncio.wait_for(asyncio.wrap_future(work), deadline - time.monotonic()))
        except (asyncio.TimeoutError, TimeoutError):
            if work is None:
                raise HTTPException(408, f"The request did not arrive within {self.timeout:g} seconds.") from None
            raise HTTPException(504, f"There was no answer within {self.timeout:g} seconds.") from None
        finally:
            if work is None:
                self.free_places.release()

    def _answer(self, content: bytes | Fields, request: Request, deadline: float) -> list[dict[str, Any]]:
        """In a request's thread."""
        image, parameters = self.handler.prepare(request_data(content, request))
        return self.model_thread.submit(self._classify, image, parameters, deadline).result()

    def _classify(self, image: Any, parameters: dict[str, Any], deadline: float) -> list[dict[str, Any]]:
        """In the model's thread."""
        if time.monotonic() > deadline:
            raise TimeoutError
        return self.handler.classify(image, parameters)


# Requests ------------------------------------------------------------------------------------------------------------

Fields = list[tuple[str, str | bytes]]


def media_type(request: Request) -> str:
    """The content type in small letters, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def with_small_media_type(request: Request) -> list[tuple[bytes, bytes]]:
    """The headers, with the content type in small letters: starlette before 1.0 knows a form by no others."""
    kind, separator, rest = request.headers.get("content-type", "").partition(";")
    headers = [(name, value) for name, value in request.headers.raw if name != b"content-type"]
    return [*headers, (b"content-type", f"{kind.lower()}{separator}{rest}".encode("latin-1"))]


async def read_content(request: Request, max_bytes: int) -> bytes | Fields:
    """The body, or the fields of a form, in which the content of a file is bytes.

    Counted as it arrives, because what the client says about its length may be wrong. Raises HTTPException.
    """
    size = 0

    async def receive() -> dict:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise HTTPException(413, f"The request is larger than {max_bytes} bytes.")
        return message

    counted = Request({**request.scope, "headers": with_small_media_type(request)}, receive)
    try:
        if media_type(request) != FORM_TYPE:
            return await counted.body()
        async with counted.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=max_bytes) as form:
            return [
                (key, await value.read() if isinstance(value, UploadFile) else value)
                for key, value in form.multi_items()
            ]
    except ClientDisconnect:
        raise HTTPException(400, "The request ended early.") from None
    except ValueError as error:  # of python-multipart, which starlette before 1.0 lets through
        raise HTTPException(400, f"The form cannot be read: {error}") from None


def request_data(content: bytes | Fields, request: Request) -> Any:
    """What the handler takes, from JSON, from the bytes of an image, or from a form with an image as a file.

    Fields of the URL and of a form are `candidate_labels`, once a class, `top_k`, `min_confidence`, `precision`, and
    `parameters` in JSON.

    Raises:
        BadRequest: it is none of these, or something is given twice.
    """
    fields: Fields = list(request.query_params.multi_items())
    data: Any = {}
    if isinstance(content, list):
        fields += content
    elif media_type(request).startswith(IMAGE_TYPES):
        data = {"inputs": content}
    else:
        data = decode_json(content, "The body")
    if not fields or not isinstance(data, dict):
        return data
    given = data_of_fields(fields)
    if twice := given.keys() & data.keys():
        raise BadRequest(f"The request gives {min(twice)} twice.")
    return {**data, **given}


def data_of_fields(fields: Iterable[tuple[str, str | bytes]]) -> dict[str, Any]:
    """The request that fields of a URL or of a form make. A file is the image, whatever its field is called."""
    data: dict[str, Any] = {}
    for key, text in fields:
        value: Any = text
        if key == "candidate_labels":
            data.setdefault(key, []).append(value)
            continue
        if isinstance(value, bytes):
            key = "inputs"
        elif key == "parameters":
            value = decode_json(value, "The field parameters")
        elif key == "top_k" and value.isdecimal():
            value = int(value[:9])
        elif key in SHARES:
            with suppress(ValueError):  # the handler says what is wrong with it
                value = float(value)
        if key in data:
            raise BadRequest(f"The request gives {key!r:.100} twice.")
        data[key] = value
    return data


def decode_json(text: bytes | str, what: str) -> Any:
    """The value of a JSON text. Raises BadRequest."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest(
            f"{what} is not valid JSON. To send an image as it is, give its content type, such as image/jpeg, "
            "or send a form (multipart/form-data)."
        ) from None


# Answers -------------------------------------------------------------------------------------------------------------


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(content, allow_nan=False)  # in ASCII: a name may hold what UTF-8 cannot
    return Response(text, status, headers, "application/json")


async def http_error(request: Request, error: HTTPException) -> Response:
    return answer({"error": error.detail}, error.status_code, error.headers)


async def bad_request(request: Request, error: BadRequest) -> Response:
    return answer({"error": str(error)}, error.status)


async def unexpected_error(request: Request, error: Exception) -> Response:
    """The client learns no details: uvicorn writes them to the log."""
    return answer({"error": "Something went wrong in the server; its log says what."}, 500)
