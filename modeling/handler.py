"""What Hugging Face Inference Endpoints call, and `dedn serve` too: a request in, `[{"label", "score"}, ...]` out.

An Endpoint imports this file alone, as the module `handler`: no relative imports, nothing but PIL and transformers.
Whoever sends the request is not trusted. No path of this machine is ever opened for them, nothing is decoded before
its size is known, and a URL never leads to a private address.
"""

import base64
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # PIL knows more, some of which start other programs
MAX_ASPECT_RATIO = 50  # preprocessing enlarges the shorter side to a fixed length: a thin line becomes a giant
MAX_CANDIDATES = 2000
MAX_NAME_LENGTH = 500
MAX_REDIRECTS = 3
LOOKS_PUBLIC = [ipaddress.ip_network(inside) for inside in ("192.0.0.0/24", "168.63.129.16/32")]  # clouds' own hosts
NAT64 = ipaddress.ip_network("64:ff9b::/96")
URL_SAFE = "/?%:@!$&'()*+,;=~[]"
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class BadRequest(ValueError):
    """A request that cannot be answered: the message is for the client, `status` is the HTTP status that fits."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class EndpointHandler:
    """Answers one request at a time.

    Example:

    ```python
    handler = EndpointHandler("path/to/model")
    handler({"inputs": base64_image, "parameters": {"candidate_labels": ["Cardinal", "Bobolink"], "top_k": 1}})
    ```
    """

    def __init__(
        self,
        path: str = "",
        *,
        pipeline: Any = None,
        allow_urls: bool = True,
        max_bytes: int = 16 * 2**20,
        max_pixels: int = 40_000_000,
        url_timeout: float = 10.0,
    ) -> None:
        """Load the model.

        Args:
            path: folder or Hub id of the model; its code is executed.
            pipeline: instead of `path`, a pipeline that is ready.
            allow_urls: fetch images from http and https addresses.
            max_bytes: of an encoded image. max_pixels: of a decoded one. url_timeout: seconds to fetch one.
        """
        if pipeline is None:
            from transformers import pipeline as load_pipeline

            pipeline = load_pipeline("zero-shot-image-classification", model=path, trust_remote_code=True)
        self.pipeline = pipeline
        self.allow_urls, self.url_timeout = allow_urls, url_timeout
        self.max_bytes, self.max_pixels = max_bytes, max_pixels

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer a request.

        Args:
            data: `inputs`, an image: base64 text, with or without `data:image/...;base64,`, a URL, bytes, a PIL image,
                or `{"image": one of these}`; and `parameters`, all optional: `candidate_labels` and `top_k`, as
                `DEDNPipeline` takes them (`hypothesis_template`, which other models need, is ignored).

        Returns:
            `[{"label": str, "score": float}, ...]`, best first.

        Raises:
            BadRequest: anything wrong with the request.
        """
        return self.classify(*self.prepare(data))

    def prepare(self, data: dict[str, Any]) -> tuple[bytes | Image.Image, dict[str, Any]]:
        """The encoded image and the checked parameters of a request: all that needs no model, and may wait for a URL.

        Raises BadRequest.
        """
        if not isinstance(data, Mapping) or data.get("inputs") is None:
            raise BadRequest('The body is {"inputs": image, "parameters": {...}}, with the image as base64 text.')
        inputs = data["inputs"]
        if isinstance(inputs, Mapping):
            inputs = inputs.get("image")
        return self._encoded_image(inputs), checked_parameters(data.get("parameters"))

    def classify(self, image: bytes | Image.Image, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """Decode and classify what `prepare` gave. Raises BadRequest."""
        image = decode_image(image, self.max_pixels)
        try:
            return self.pipeline(image, **parameters)
        except ValueError as error:
            raise BadRequest(f"{error!s:.1000}") from error

    def _encoded_image(self, inputs: Any) -> bytes | Image.Image:
        if isinstance(inputs, Image.Image):
            return inputs
        if isinstance(inputs, str):
            if inputs[:8].lower().startswith(("http://", "https://")):
                if not self.allow_urls:
                    raise BadRequest("This server fetches no URLs; send the image itself as base64 text.")
                return fetch(inputs, self.max_bytes, self.url_timeout)
            inputs = decode_base64(inputs)
        if not isinstance(inputs, bytes | bytearray):
            raise BadRequest("The image of a request is base64 text (or, where the server allows it, a URL).")
        if len(inputs) > self.max_bytes:
            raise BadRequest(f"The image is larger than {self.max_bytes} bytes.", 413)
        return bytes(inputs)


def checked_parameters(parameters: Any) -> dict[str, Any]:
    """The arguments of the pipeline that a request may set, of the right types. Raises BadRequest."""
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise BadRequest('"parameters" is an object such as {"candidate_labels": ["Cardinal", "Bobolink"]}.')
    unknown = set(parameters) - {"candidate_labels", "top_k", "hypothesis_template"}
    if unknown:
        raise BadRequest(f"No parameter {min(unknown)!r:.100}; there are candidate_labels and top_k.")
    checked = {}
    top_k, labels = parameters.get("top_k"), parameters.get("candidate_labels")
    if top_k is not None:
        if type(top_k) is not int or top_k < 1:
            raise BadRequest("top_k must be a whole number, 1 or more.")
        checked["top_k"] = min(top_k, 2**31)
    if labels is not None:
        check_candidate_labels(labels)
        checked["candidate_labels"] = labels
    return checked


def check_candidate_labels(labels: Any) -> None:
    """Raise BadRequest unless these are names, or names with a description each, and not too many."""
    if not isinstance(labels, list | Mapping):
        raise BadRequest("candidate_labels is a list of class names, or an object of names and descriptions.")
    if len(labels) > MAX_CANDIDATES:
        raise BadRequest(f"candidate_labels has {len(labels)} entries; {MAX_CANDIDATES} are allowed.")
    if not all(isinstance(name, str) and len(name) <= MAX_NAME_LENGTH for name in labels):
        raise BadRequest(f"The names in candidate_labels are texts of at most {MAX_NAME_LENGTH} characters.")
    for name, description in labels.items() if isinstance(labels, Mapping) else ():
        values = list(description.values()) if isinstance(description, Mapping) else description
        if values is not None and not (isinstance(values, list) and all(map(_is_number, values))):
            raise BadRequest(f"{name!r} is described by {{attribute: number, ...}}, a list of numbers, or null.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30  # and so fits single precision


def decode_base64(text: str) -> bytes:
    """Bytes of base64 text or of a data URI. Raises BadRequest."""
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise BadRequest("The data URI of an image must be base64: data:image/jpeg;base64,...")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise BadRequest("The image is not valid base64 text; file names and paths are not read.") from None


def decode_image(image: bytes | Image.Image, max_pixels: int) -> Image.Image:
    """An upright image, RGB or grey of 16 bits; of an animation, the first frame. Nothing too large is decoded.

    Raises BadRequest.
    """
    try:
        if not isinstance(image, Image.Image):
            image = Image.open(BytesIO(image), formats=FORMATS)  # reads the header only
        if image.width * image.height > max_pixels:
            raise BadRequest(f"The image has {image.width} x {image.height} pixels; {max_pixels} are allowed.", 413)
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise BadRequest(f"The image is more than {MAX_ASPECT_RATIO} times longer than wide.", 413)
        image = ImageOps.exif_transpose(image)
        return image if image.mode.startswith("I;16") else image.convert("RGB")  # 16 bits: the pipeline's business
    except BadRequest:
        raise
    except Image.DecompressionBombError as error:
        raise BadRequest(f"The image has too many pixels; {max_pixels} are allowed.", 413) from error
    except Exception as error:  # a broken file makes PIL raise nearly anything
        raise BadRequest(f"The image does not decode. Send a whole file of {', '.join(FORMATS)}.") from error


# URLs: every address is checked, and the connection goes to the address that was checked -----------------------------


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, and not to a machine, a site or a cloud's inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        if ip in NAT64:  # how a machine without IPv4 reaches it
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip not in GLOBAL_UNICAST or ip.sixtofour or ip.teredo:
            return False
    return (
        ip.is_global
        and not ip.is_multicast
        and not ip.is_reserved
        and not any(ip in inside for inside in LOOKS_PUBLIC)
    )


def public_addresses(host: str, port: int) -> list[str]:
    """The IP addresses of a host. Raises BadRequest if one is not public, in the words used if there are none."""
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, ValueError):
        found = []
    if not found or not all(is_public(address) for address in found):
        raise BadRequest("The host of the URL has no public address.")
    return found


def fetch(url: str, max_bytes: int, timeout: float) -> bytes:
    """The bytes behind a public http or https URL, within `timeout` seconds and a few redirects. Raises BadRequest."""
    deadline = time.monotonic() + timeout
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _get(url, deadline) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    raise BadRequest(f"The URL of the image answers with status {response.status}.")
                content = response.read(max_bytes + 1)
            if time.monotonic() >= deadline:  # then it was cut off, which looks like its end
                raise TimeoutError
            if len(content) > max_bytes:
                raise BadRequest(f"The image behind the URL is larger than {max_bytes} bytes.", 413)
            return content
    except BadRequest:
        raise
    except (OSError, ValueError, http.client.HTTPException):
        late = time.monotonic() >= deadline
        raise BadRequest(f"The image could not be fetched from its URL{' in time' if late else ''}.") from None
    raise BadRequest(f"The URL of the image redirects more than {MAX_REDIRECTS} times.")


@contextmanager
def _get(url: str, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """The response to a GET request, its body unread. No proxy is used: it would look up the host on its own."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest("The URL of an image begins with http:// or https:// and a host.")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port or kind.default_port)  # with a socket of its own it looks up nothing
    stream = _connect(public_addresses(parts.hostname, connection.port), connection.port, deadline)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        stream = context.wrap_socket(stream, server_hostname=parts.hostname, do_handshake_on_connect=False)
    with stream, _cut_off(stream, deadline):
        if parts.scheme == "https":
            stream.do_handshake()
        connection.sock = stream
        target = quote(f"{parts.path or '/'}?{parts.query}".removesuffix("?"), safe=URL_SAFE)
        connection.request("GET", target, headers={"Accept": "image/*", "Connection": "close"})
        with connection.getresponse() as response:
            yield response


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    for address in addresses:
        with suppress(OSError):
            return socket.create_connection((address, port), timeout=max(deadline - time.monotonic(), 0.01))
    raise OSError("no address answers")


@contextmanager
def _cut_off(stream: socket.socket, deadline: float) -> Iterator[None]:
    """End a connection at the deadline, however busy it is: a socket's own time-out starts again with every byte."""

    def cut() -> None:
        with suppress(OSError):
            socket.socket.shutdown(stream, socket.SHUT_RDWR)

    timer = threading.Timer(max(deadline - time.monotonic(), 0), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
