"""What Hugging Face Inference Endpoints call, and `dedn serve` too: a request in, `[{"label", "score"}, ...]` out.

An Endpoint imports this file alone, as the module `handler`: no relative imports, nothing but PIL and transformers.
Whoever sends the request is not trusted. No path of this machine is opened for them, no address is contacted, and
nothing is decoded before its size is known.
"""

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError, features

Image.init()  # so that OPEN holds every format that this PIL reads
# PIL knows more formats, some of which start other programs.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
if "AVIF" in Image.OPEN and features.check("avif"):
    FORMATS.append("AVIF")
HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
JPEG, SCAN, END, COMMENT = b"\xff\xd8", 0xDA, 0xD9, 0xFE  # how a file starts; second bytes of markers
COLOUR_SEGMENTS = (0xE0, 0xEE)  # JFIF and Adobe, which say how the colours of a JPEG are to be read
PNG = b"\x89PNG\r\n\x1a\n"
MAX_ASPECT_RATIO = 50  # preprocessing enlarges the shorter side to a fixed length: a thin line becomes a giant
MAX_CANDIDATES = 2000
MAX_NAME_LENGTH = 500
SHARES = ("min_confidence", "precision")  # numbers between 0 and 1
PARAMETERS = ("candidate_labels", "top_k", *SHARES, "hypothesis_template")
FORM = '{"inputs": image as base64 text, "parameters": {"candidate_labels": [name, ...], "top_k": number}}'


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
        fetch: Callable[[str], bytes] | None = None,
        max_bytes: int = 16 * 2**20,
        max_pixels: int = 40_000_000,
    ) -> None:
        """Load the model.

        Args:
            path: folder or Hub id of the model; its code is executed.
            pipeline: instead of `path`, a pipeline that is ready.
            fetch: gives the bytes behind a URL, or raises BadRequest; default, URLs are refused. The URL comes from
                the client: `fetch` has to make sure that it leads to no private address.
            max_bytes: of an encoded image. max_pixels: of a decoded one.
        """
        if pipeline is None:
            from transformers import pipeline as load_pipeline

            pipeline = load_pipeline("zero-shot-image-classification", model=path, trust_remote_code=True)
        self.pipeline, self.fetch = pipeline, fetch
        self.max_bytes, self.max_pixels = max_bytes, max_pixels

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Answer a request.

        Args:
            data: `inputs`, an image: base64 text, with or without `data:image/...;base64,`, bytes, a PIL image, or
                `{"image": one of these}`; and `parameters`, all optional: `candidate_labels`, `top_k`,
                `min_confidence` and `precision`, as `DEDNPipeline` takes them (`hypothesis_template`, which other
                models need, changes nothing). They may also stand beside `inputs`, or beside `image`.

        Returns:
            `[{"label": str, "score": float}, ...]`, best first. The first may be 'unknown', with a 'guess' and a
            'reason'.

        Raises:
            BadRequest: anything wrong with the request. A key that is not listed here is refused, too.
        """
        return self.classify(*self.prepare(data))

    def prepare(self, data: dict[str, Any]) -> tuple[bytes | Image.Image, dict[str, Any]]:
        """The encoded image and the checked parameters of a request: all that needs no model, and may wait for a URL.

        Raises BadRequest.
        """
        if not isinstance(data, Mapping) or data.get("inputs") is None:
            raise BadRequest(f"The body of a request is {FORM}.")
        inputs = data["inputs"] if isinstance(data["inputs"], Mapping) else {"image": data["inputs"]}
        parameters = checked_parameters(parameters_of(data, inputs))  # first: an image may be slow to fetch
        return self._encoded_image(inputs.get("image")), parameters

    def classify(self, image: bytes | Image.Image, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """Decode and classify what `prepare` gave. Raises BadRequest."""
        image = decode_image(image, self.max_pixels)
        try:
            return self.pipeline(image, **parameters)
        except ValueError as error:
            raise BadRequest(f"{error!s:.1000}") from error

    def _encoded_image(self, image: Any) -> bytes | Image.Image:
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, str):
            image = image.lstrip()
            if image[:8].lower().startswith(("http://", "https://")):
                if self.fetch is None:
                    raise BadRequest("This server fetches no URLs. Send the image itself as base64 text.")
                return self.fetch(image)
            image = decode_base64(image)
        if not isinstance(image, bytes | bytearray):
            raise BadRequest(f"The image of a request is base64 text: {FORM}.")
        if len(image) > self.max_bytes:
            raise BadRequest(f"The image is larger than {self.max_bytes} bytes.", 413)
        return bytes(image)


def parameters_of(data: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request, wherever they stand in it; null counts as not given.

    Args:
        data: the request. inputs: the part of it with the image.

    Raises:
        BadRequest: a key that is unknown, or a parameter that is given twice.
    """
    parts: list[tuple[str, Mapping[str, Any], tuple[str, ...]]]
    parts = [("the request", data, ("inputs", "parameters")), ('"inputs"', inputs, ("image", "parameters"))]
    parts += [
        ('"parameters"', part["parameters"], ()) for part in (data, inputs) if part.get("parameters") is not None
    ]
    found = {}
    for place, part, others in parts:
        if not isinstance(part, Mapping):
            raise BadRequest(f'{place} is an object such as {{"candidate_labels": ["Cardinal", "Bobolink"]}}.')
        for key, value in part.items():
            if key in PARAMETERS and value is not None:
                if key in found:
                    raise BadRequest(f'The request gives {key} twice. Give it once, in "parameters".')
                found[key] = value
            elif key not in (*PARAMETERS, *others):
                raise BadRequest(f"There is an unknown key {key!r:.100} in {place}. A request is {FORM}.")
    return found


def checked_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the pipeline that a request may set, of the right types. Raises BadRequest."""
    checked = {}
    top_k, labels = parameters.get("top_k"), parameters.get("candidate_labels")
    if top_k is not None:
        if type(top_k) is not int or top_k < 1:
            raise BadRequest("top_k must be a whole number, 1 or more.")
        checked["top_k"] = min(top_k, 2**31)
    for name in SHARES:
        if (value := parameters.get(name)) is not None:
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise BadRequest(f"{name} must be a number between 0 and 1.")
            checked[name] = value
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
        if values is not None and not (isinstance(values, list) and all(map(_is_value, values))):
            raise BadRequest(f"{name!r} is described by {{trait: value, ...}}, a list of numbers, or null.")


def _is_value(value: Any) -> bool:
    """Whether this is a number that fits single precision, true, false, null, a short text, or a list of texts."""
    if isinstance(value, list):
        return 0 < len(value) <= MAX_CANDIDATES and all(isinstance(each, str) and _is_value(each) for each in value)
    if value is None:
        return True
    if isinstance(value, str):
        return len(value) <= MAX_NAME_LENGTH
    return isinstance(value, int | float) and abs(value) < 1e30


def decode_base64(text: str) -> bytes:
    """Bytes of base64 text or of a data URI. Raises BadRequest."""
    if text[:5].lower() == "data:":
        header, _, text = text.partition(",")
        if not header.lower().endswith(";base64"):
            raise BadRequest("The data URI of an image must be base64: data:image/jpeg;base64,...")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise BadRequest("The image is not valid base64 text; file names and paths are not read.") from None


def open_encoded(source: str | os.PathLike | bytes, formats: Sequence[str] | None = None) -> Image.Image:
    """An image from a file or its bytes, of which only the header is read. Damaged metadata do not cost the image.

    formats: those of `PIL.Image.open` to try, default all. HEIC is read, too, where pillow-heif is installed.

    Raises:
        OSError, SyntaxError, ValueError: there is no such file, or it is no image.
    """
    try:
        return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except (UnidentifiedImageError, ValueError):
        if not isinstance(source, bytes):
            with open(source, "rb") as file:
                source = file.read()
        if is_heic(source):
            if not register_heic():
                raise OSError(
                    "It is a HEIC picture. To read it: pip install pillow-heif. Or save it as JPEG"
                ) from None
            return Image.open(BytesIO(source), formats=["HEIF"])
        bare = without_extras(source)
        if len(bare) == len(source):
            raise
        return Image.open(BytesIO(bare), formats=formats)


def is_heic(content: bytes) -> bool:
    """Whether a file says of itself that it is HEIC."""
    return content[4:12] in HEIC


def register_heic() -> bool:
    """Let PIL read HEIC where pillow-heif is installed; whether it can."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def without_extras(content: bytes) -> bytes:
    """A JPEG or PNG file without all that its pixels do not need, which PIL cannot read; another file as it is."""
    if content.startswith(PNG):
        chunks = png_chunks(content)
        return PNG + b"".join(chunk for kind, chunk in chunks if kind[:1].isupper() or kind == b"tRNS")
    return jpeg_without_extras(content) if content.startswith(JPEG) else content


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each chunk of a PNG file, up to the end of the picture."""
    at, kind = len(PNG), b""
    while at + 12 <= len(content) and kind != b"IEND":
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        yield kind, content[at:end]
        at = end


def jpeg_without_extras(jpeg: bytes) -> bytes:
    """A JPEG file without comments and segments of applications before its first scan."""
    kept, at = [jpeg[:2]], 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] not in (SCAN, END):
        marker = jpeg[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + max(int.from_bytes(jpeg[at + 2 : at + 4], "big"), 2)
        if marker in COLOUR_SEGMENTS or not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            kept.append(jpeg[at:end])
        at = end
    return b"".join([*kept, jpeg[at:]])


def decode_image(image: bytes | Image.Image, max_pixels: int) -> Image.Image:
    """The decoded image, of an animation the first frame. Nothing too large is decoded.

    It is not converted: the pipeline reads every kind of image in the same way. Raises BadRequest.
    """
    try:
        if not isinstance(image, Image.Image):
            if is_heic(image) and not register_heic():
                raise BadRequest("This server does not read HEIC. Send the image as JPEG.", 415)
            image = open_encoded(image, FORMATS)
        if image.width * image.height > max_pixels:
            raise BadRequest(f"The image has {image.width} x {image.height} pixels; {max_pixels} are allowed.", 413)
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise BadRequest(f"The image is more than {MAX_ASPECT_RATIO} times longer than wide.", 413)
        image.load()
        return image
    except BadRequest:
        raise
    except Image.DecompressionBombError as error:
        raise BadRequest(f"The image has too many pixels; {max_pixels} are allowed.", 413) from error
    except Exception as error:  # a broken file makes PIL raise nearly anything
        raise BadRequest(f"The image does not decode. Send a whole file of {', '.join(FORMATS)}.") from error
