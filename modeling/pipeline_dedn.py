"""Images and class names to what the model takes (the processor), and to classes (the pipeline).

As in transformers, but class names are not read by a text encoder: they are classes of the model, or come with the
attributes that describe them.
"""

import base64
import binascii
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import Dataset, IterableDataset
from transformers import AutoImageProcessor, BatchFeature, Pipeline, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.image_utils import load_image
from transformers.utils import cached_file

from .attribute_table import AttributeTable, near_names
from .configuration_dedn import CUSTOM_PIPELINES
from .handler import JPEG  # noqa: F401 - transformers 5.0 copies only the files that this one itself imports
from .inputs import read_image, upright_rgb
from .saving import whole_file

UNKNOWN = "unknown"
NOT_SURE, NONE_OF_THESE = "not sure", "none of these"  # why an answer is unknown
MANY_CLASSES = 16384  # beyond, the best are found without a score for every class
PROCESSOR_FILE, TABLE_FILE = "processor_config.json", "class_table.safetensors"
HUB_OPTIONS = (
    *("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token", "user_agent"),
)
ONE_IMAGE = (str, bytes, bytearray, os.PathLike, Image.Image)


class DEDNProcessor(ProcessorMixin):
    """Images to pixels, and class names or descriptions to class attributes: all that the model takes.

    Example:

    ```python
    processor = AutoProcessor.from_pretrained("user/dedn-birds", trust_remote_code=True)
    inputs = processor(images=image, text=["Cardinal", "Bobolink"], return_tensors="pt")
    model(**inputs).logits_per_image.softmax(dim=1)  # images x classes
    ```

    Args:
        image_processor: the model's. table: the classes that the model knows.
    """

    def __init__(self, image_processor: Any, table: AttributeTable) -> None:
        self.image_processor, self.table = image_processor, table

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        return_tensors: str | None = "pt",
        padding: Any = None,
        truncation: Any = None,
        **options,
    ) -> BatchFeature:
        """Inputs of the model, by name.

        Args:
            images: one image or several, each a path, a URL, bytes, a PIL image, or what the image processor takes.
            text: names of classes of the model; or a mapping of names to descriptions, as the pipeline's
                `candidate_labels`. Without it, the model chooses among all its classes.
            padding, truncation: have no meaning here; other models of the task need them.
            options: of the image processor.

        Returns:
            With images `pixel_values`, B x 3 x image_size x image_size; with text `class_attributes`, K x A, and
            `seen`, K.

        Raises:
            ValueError: neither images nor text, an unknown class or attribute, a broken image.
        """
        if images is None and text is None:
            raise ValueError("Pass images, or text (names of classes), or both.")
        inputs = {}
        if images is not None:
            images = [images] if isinstance(images, ONE_IMAGE) else images
            if isinstance(images, Sequence):
                images = [open_image(each) if isinstance(each, ONE_IMAGE) else each for each in images]
            inputs.update(self.image_processor(images=images, return_tensors=return_tensors, **options))
        if text is not None:
            classes = candidate_table(self.table, [text] if isinstance(text, str) else text)
            inputs |= {"class_attributes": classes.class_attributes, "seen": classes.seen}
        return BatchFeature(inputs, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs that it makes."""
        return ["pixel_values", "class_attributes", "seen"]

    def save_pretrained(self, save_directory: str | os.PathLike, **_) -> list[str]:
        """Write the image processor, the class table and the code, for `AutoProcessor`. Gives the files' paths."""
        folder, described = Path(save_directory), {"processor_class": type(self).__name__}
        folder.mkdir(parents=True, exist_ok=True)
        files = [*self.image_processor.save_pretrained(folder), *custom_object_save(self, folder, config=described)]
        with whole_file(folder / PROCESSOR_FILE) as unfinished:
            unfinished.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        save_table(self.table, folder / TABLE_FILE)
        return [*map(str, files), str(folder / PROCESSOR_FILE), str(folder / TABLE_FILE)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options) -> "DEDNProcessor":
        """Read what `save_pretrained` of a processor or a model has written, from a folder or the Hub.

        Raises:
            OSError: there is no such folder, or it holds no processor.
        """
        hub = {name: options[name] for name in HUB_OPTIONS if name in options}
        table = load_table(cached_file(pretrained_model_name_or_path, TABLE_FILE, **hub))
        return cls(AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **hub), table)

    def to_dict(self) -> dict[str, Any]:
        """What is printed of it."""
        return {"processor_class": type(self).__name__, "classes": self.table.class_names}


DEDNProcessor.register_for_auto_class()


class DEDNPipeline(Pipeline):
    """Classifies images among named or described classes.

    Example:

    ```python
    classify = pipeline("zero-shot-image-classification", model="user/dedn-birds", trust_remote_code=True)
    classify("bird.jpg", top_k=5)  # all classes of the model
    classify("bird.jpg", candidate_labels=["Cardinal", "Bobolink"])
    classify("bird.jpg", candidate_labels={"Cardinal": None, "My bird": {"has_bill_shape::hooked": 80}})
    ```

    Where this package is installed, `pipeline(..., pipeline_class=DEDNPipeline)` does without `trust_remote_code`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False
    modelcard = None  # transformers 5.0 asks for it when it saves a pipeline, and never sets it

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.model.config.custom_pipelines = CUSTOM_PIPELINES  # `pipeline` puts classes there, which JSON cannot hold

    def __call__(self, images: Any = None, candidate_labels: Any = None, **kwargs) -> list:
        """Classify one image or several.

        Args:
            images: a path, a URL, a base64 string, bytes, a PIL image; or a list, generator, data set of these or
                column of a data set.
            candidate_labels: names of classes of the model (default: all); or a mapping of names to descriptions,
                `{attribute: value}` in the scale of the model's attribute table, or all A values, or None for a class
                of the model. An attribute that a description leaves out has the mean value of the seen classes.
            top_k: give this many of the best classes only.
            min_confidence: 0..1. Where the best class has less, or the image shows none of the classes (see
                `DEDNConfig.shows_none`), the first label is 'unknown', and that entry has the class as its
                'guess' and a 'reason', 'not sure' or 'none of these'. precision: 0..1, in its place: answers that are
                given are right that often, as estimated in training.
            timeout: seconds to wait for an image from a URL.
            batch_size: images that go through the model together.

        Returns:
            `[{"label": str, "score": float}, ...]`, best first; scores are 0..1 and sum to 1 over the candidates. For
            a list of images, a list of such lists; for a generator or a data set, an iterator over them.

        Raises:
            ValueError: unknown class or attribute (with near names), a broken image, no candidates, a precision that
                the model has no threshold for.
        """
        if images is None:
            images = kwargs.pop("inputs", None)
        if images is None:
            raise ValueError("Pass an image: a path, a URL, bytes or a PIL image, or a list of these.")
        if isinstance(images, list | tuple):
            images = list(images)
            if not images:
                return []
        elif isinstance(images, Iterable) and not isinstance(images, (*ONE_IMAGE, Dataset, IterableDataset)):
            one_by_one = super().__call__(iter_images(images), candidate_labels=candidate_labels, **kwargs)
            return list(one_by_one) if isinstance(images, Sequence) else one_by_one
        return super().__call__(images, candidate_labels=candidate_labels, **kwargs)

    def _sanitize_parameters(
        self,
        candidate_labels: Any = None,
        top_k: int | None = None,
        min_confidence: float | None = None,
        precision: float | None = None,
        timeout: float | None = None,
        **unknown,
    ) -> tuple[dict, dict, dict]:
        unknown.pop("hypothesis_template", None)  # clients of the task send it; there is no text encoder to use it
        if unknown:
            raise ValueError(
                f"No parameter {next(iter(unknown))!r}; there are candidate_labels, top_k, min_confidence, precision "
                "and timeout."
            )
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is {top_k!r}; it must be a whole number, 1 or more.")
        forward: dict[str, Any] = {}
        postprocess: dict[str, Any] = {}
        if min_confidence is not None or precision is not None:
            postprocess["threshold"] = self.model.config.confidence_threshold(min_confidence, precision)
        if candidate_labels is not None:
            table = candidate_table(self.model.attribute_table, candidate_labels)
            forward, postprocess = {"candidates": table}, {**postprocess, "class_names": table.class_names}
        if top_k is not None:
            postprocess["top_k"] = top_k
            if candidate_labels is None and self.model.config.num_labels > MANY_CLASSES:
                forward["best_only"] = top_k
        return ({} if timeout is None else {"timeout": timeout}), forward, postprocess

    def preprocess(self, image: Any, timeout: float | None = None) -> dict:
        return dict(self.image_processor(images=[open_image(image, timeout)], return_tensors="pt"))

    def _forward(
        self, inputs: dict, candidates: AttributeTable | None = None, best_only: int | None = None
    ) -> dict[str, torch.Tensor]:
        if best_only is not None:
            no_classes = self.model.class_attributes[:0]
            attribute_scores = self.model(**inputs, class_attributes=no_classes).attribute_scores
            logits, labels, scores = self.model.top_classes(attribute_scores, best_only)
            none = self.model.config.shows_none(logits[:, 0], attribute_scores.norm(dim=-1))
            return {"scores": scores, "labels": labels, "none": none}
        classes = {}
        if candidates is not None:
            device = self.model.class_attributes.device
            classes["class_attributes"] = torch.from_numpy(candidates.class_attributes).to(device)
            classes["seen"] = torch.from_numpy(candidates.seen).to(device)
        output = self.model(**inputs, **classes)
        scores, labels = self.model.probabilities(output.logits).sort(dim=-1, descending=True, stable=True)
        none = self.model.config.shows_none(output.logits.amax(dim=-1), output.attribute_scores.norm(dim=-1))
        return {"scores": scores, "labels": labels, "none": none}

    def postprocess(
        self,
        outputs: dict,
        class_names: Sequence[str] | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[dict]:
        """`[{"label", "score"}, ...]` of one image, best first; 'unknown' and a 'guess' where the best is too unsure.

        class_names: K candidates, None for the model's classes. threshold: 0..1, lowest score of a sure answer.
        """
        names = self.model.config.id2label if class_names is None else class_names
        best = zip(outputs["labels"][0].tolist(), outputs["scores"][0].tolist(), strict=True)
        found = [{"label": names[label], "score": score} for label, score in itertools.islice(best, top_k)]
        reason = why_unknown(found[0]["score"], bool(outputs["none"][0]), threshold)
        if reason:
            found[0] = {"label": UNKNOWN, "score": found[0]["score"], "guess": found[0]["label"], "reason": reason}
        return found


def why_unknown(probability: float, shows_none: bool, threshold: float | None) -> str | None:
    """The reason why an answer is 'unknown'; None where the answer is given.

    Args:
        probability: of the best class. shows_none: as `DEDNConfig.shows_none`. threshold: as
            `DEDNConfig.confidence_threshold`.
    """
    if threshold is None:
        return None
    return NONE_OF_THESE if shows_none else NOT_SURE if probability < threshold else None


def iter_images(images: Iterable) -> Iterable:
    """A generator, which transformers reads one by one."""
    yield from images


def save_table(table: AttributeTable, path: Path) -> None:
    """Write names, groups, traits, roles and class attributes of a table, of any size, as one safetensors file."""
    lists = ("class_names", "attribute_names", "attribute_groups", "traits")
    names = {name: json.dumps(getattr(table, name)) for name in lists}
    with whole_file(path) as unfinished:
        save_file({"class_attributes": table.class_attributes, "seen": table.seen}, unfinished, metadata=names)


def load_table(path: str | os.PathLike) -> AttributeTable:
    """Read what `save_table` wrote. Roles are 'train' (seen) or 'unseen'."""
    with safe_open(path, framework="numpy") as file:
        names = {name: json.loads(text) for name, text in file.metadata().items()}
        roles = ["train" if seen else "unseen" for seen in file.get_tensor("seen")]
        return AttributeTable(class_attributes=file.get_tensor("class_attributes"), roles=roles, **names)


def candidate_table(table: AttributeTable, candidates: Sequence[str] | Mapping[str, Any]) -> AttributeTable:
    """The classes to choose among, K'.

    Args:
        table: the classes that the model knows.
        candidates: names of these, as people say them, too, or names with a description, as in
            `DEDNPipeline.__call__`. A description of a name that the model knows replaces the model's own.

    Raises:
        ValueError: unknown class or attribute, no candidates, the same name twice, values that are no numbers.
    """
    if isinstance(candidates, str) or not isinstance(candidates, Mapping | Sequence):
        raise ValueError(
            f"candidate_labels is {candidates!r}; pass a list of class names, or a mapping of names to descriptions."
        )
    if not len(candidates):
        raise ValueError("candidate_labels is empty; name at least one class, or leave it out for all classes.")
    described = dict(candidates) if isinstance(candidates, Mapping) else dict.fromkeys(candidates)
    if len(described) < len(candidates):
        raise ValueError("candidate_labels names a class twice; name each once.")
    position = {name: i for i, name in enumerate(table.class_names)}
    rows, roles, used = [], [], set()
    for name, description in described.items():
        known = name if name in position or description is not None else table.known_name(str(name))
        if known in used:
            raise ValueError(f"candidate_labels names {known!r} twice; name each class once.")
        used.add(name if known is None else known)
        if description is not None:
            rows.append(table.describe(name, description))
            roles.append("unseen")
        elif known is not None:
            rows.append(table.class_attributes[position[known]])
            roles.append(table.roles[position[known]])
        else:
            raise ValueError(
                f"The model knows no class {name!r}.{near_names(str(name), position)} "
                f"A new class needs a description: candidate_labels={{{name!r}: {{attribute: value, ...}}}}."
            )
    return table.replace(class_names=list(described), class_attributes=np.stack(rows), roles=roles)


def open_image(image: Any, timeout: float | None = None) -> Image.Image:
    """A picture as RGB, upright by its EXIF tag.

    Args:
        image: a path, a URL, a base64 string (with or without `data:image/...;base64,`), bytes, a PIL image.

    Raises:
        ValueError: none of these, or it does not decode.
    """
    image = os.fspath(image) if isinstance(image, os.PathLike) else image
    shown = repr(image if len(image) < 100 else f"{image[:50]}...") if isinstance(image, str) else "The image"
    if isinstance(image, str) and not image.startswith(("http://", "https://")):
        image = _bytes_of(image, shown)
    try:
        if isinstance(image, bytes | bytearray):
            return read_image(bytes(image))
        return upright_rgb(image if isinstance(image, Image.Image) else load_image(image, timeout=timeout))
    except UnidentifiedImageError:
        raise ValueError(f"{shown} is not an image. Give a JPEG, PNG or WebP file.") from None
    except TypeError:
        raise ValueError(f"An image is a path, a URL, bytes or a PIL image, not {type(image).__name__}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{shown} does not decode: {error}. Give a whole JPEG, PNG or WebP file.") from error
    except Exception as error:  # of the HTTP library, which differs between versions of transformers
        if not isinstance(image, str):
            raise
        raise ValueError(f"{shown} cannot be fetched: {error}.") from error


def _bytes_of(text: str, shown: str) -> bytes:
    """The bytes behind a path or a base64 string; `shown` names it in an error."""
    try:
        with open(text, "rb") as file:
            return file.read()
    except IsADirectoryError:
        raise ValueError(f"{shown} is a folder. Give one image.") from None
    except (OSError, ValueError):  # no such file, or too long or odd for a file name
        pass
    try:
        return base64.b64decode(text.split(",", 1)[1] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, IndexError, ValueError):
        raise ValueError(f"{shown} is neither a file, a URL nor a base64 image.") from None
