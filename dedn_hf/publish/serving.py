"""`dedn serve`: the handler of Inference Endpoints behind a small web server.

Requests wait in a bounded queue, and one thread runs the model, one request at a time. What a client can cause is
limited: the size of a request, the pixels of an image, the time, and the number of requests at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dedn_hf.modeling.handler import BadRequest, EndpointHandler
from dedn_hf.publish.saved import load_model

if TYPE_CHECKING:
    from dedn_hf.modeling.pipeline_dedn import DEDNPipeline

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 40_000_000
TIMEOUT = 30.0
QUEUE = 32
RAW_IMAGE = ("image/", "application/octet-stream")


def load_pipeline(model: str) -> DEDNPipeline:
    """The pipeline of a saved model, a folder or a Hub id, with the code installed here: none of the model's is run.

    Raises:
        ValueError: there is no such model, or it is none of this package, takes no images or lacks weights.
    """
    from dedn_hf.modeling.pipeline_dedn import DEDNPipeline

    network = load_model(model)
    if network.backbone is None:
        raise ValueError(f"{model} has no backbone: it takes cached features, and cannot classify images.")
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
        allow_urls=allow_urls,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        url_timeout=min(10, timeout / 2),
    )
    name = Path(model).resolve().name if Path(model).is_dir() else model
    app = create_app(handler, name, max_bytes=max_bytes, timeout=timeout, queue=queue)
    uvicorn.run(
        app, host=host, port=port, access_log=False, server_header=False, timeout_graceful_shutdown=int(timeout) + 1
    )


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
    desk = Desk(handler, name, max_bytes, timeout, queue)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

    return Starlette(
        routes=[Route("/", desk.classify, methods=["POST"]), Route("/health", desk.health, methods=["GET"])],
        exception_handlers={HTTPException: http_error, BadRequest: bad_request, Exception: unexpected_error},
        lifespan=lifespan,
    )


class Desk:
    """Takes requests in, up to a number, and hands their answers out."""

    def __init__(self, handler: EndpointHandler, name: str, max_bytes: int, timeout: float, queue: int) -> None:
        self.handler, self.name = handler, name
        self.max_bytes, self.timeout = max_bytes, timeout
        self.places = BoundedSemaphore(queue)
        self.clerks = ThreadPoolExecutor(queue, "request")  # read requests and wait for URLs
        self.model_thread = ThreadPoolExecutor(1, "model")  # one: torch keeps a pool of threads for each caller

    def close(self) -> None:
        for threads in (self.clerks, self.model_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    async def health(self, request: Request) -> Response:
        classes = self.handler.pipeline.model.config.num_labels
        return answer({"ready": True, "model": self.name, "classes": classes})

    async def classify(self, request: Request) -> Response:
        deadline = time.monotonic() + self.timeout
        if not self.places.acquire(blocking=False):
            raise HTTPException(503, "All places in the queue are taken; try again soon.", {"Retry-After": "1"})
        work: Future | None = None
        try:
            body = await asyncio.wait_for(self._body(request), self.timeout)
            content_type = request.headers.get("content-type", "")
            work = self.clerks.submit(self._answer, body, content_type, request.query_params, deadline)
            # Work that nobody waits for any more goes on, and keeps its place until it ends.
            work.add_done_callback(lambda _: self.places.release())
            return answer(await asyncio.wait_for(asyncio.wrap_future(work), deadline - time.monotonic()))
        except (asyncio.TimeoutError, TimeoutError):
            if work is None:
                raise HTTPException(408, f"The request did not arrive within {self.timeout:g} seconds.") from None
            raise HTTPException(504, f"There was no answer within {self.timeout:g} seconds.") from None
        finally:
            if work is None:
                self.places.release()

    async def _body(self, request: Request) -> bytes:
        """The body, counted as it arrives: what the client says about its length may be wrong."""
        chunks, size = [], 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self.max_bytes:
                    raise HTTPException(413, f"The request is larger than {self.max_bytes} bytes.")
                chunks.append(chunk)
        except ClientDisconnect:
            raise HTTPException(400, "The request ended early.") from None
        return b"".join(chunks)

    def _answer(self, body: bytes, content_type: str, query: QueryParams, deadline: float) -> list[dict[str, Any]]:
        """In a clerk's thread."""
        image, parameters = self.handler.prepare(parse_request(body, content_type, query))
        return self.model_thread.submit(self._classify, image, parameters, deadline).result()

    def _classify(self, image: Any, parameters: dict[str, Any], deadline: float) -> list[dict[str, Any]]:
        """In the model's thread."""
        if time.monotonic() > deadline:
            raise TimeoutError
        return self.handler.classify(image, parameters)


def parse_request(body: bytes, content_type: str, query: QueryParams) -> Any:
    """What the handler takes, from JSON; or from the bytes of an image, with parameters in the URL.

    Raises:
        BadRequest: neither.
    """
    if content_type.startswith(RAW_IMAGE):
        parameters: dict[str, Any] = dict(query)
        if "candidate_labels" in query:
            parameters["candidate_labels"] = query.getlist("candidate_labels")
        if query.get("top_k", "").isdecimal():
            parameters["top_k"] = int(query["top_k"][:9])
        return {"inputs": body, "parameters": parameters}
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON (and the content type is not that of an image).") from None


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(content, allow_nan=False)  # in ASCII: a name may hold what UTF-8 cannot
    return Response(text, status, headers, "application/json")


async def http_error(request: Request, error: HTTPException) -> Response:
    return answer({"error": error.detail}, error.status_code, error.headers)


async def bad_request(request: Request, error: BadRequest) -> Response:
    return answer({"error": str(error)}, error.status)


async def unexpected_error(request: Request, error: Exception) -> Response:
    """Nothing of it is for the client: uvicorn writes it to the log."""
    return answer({"error": "Something went wrong in the server; its log says what."}, 500)
