"""What the page computes: one forward pass per photo, and everything else from its attribute scores.

Letters of the shapes: K classes, A attributes, E experts, H x W regions.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForZeroShotImageClassification, PreTrainedModel
from transformers.utils import cached_file

VERMILLION = np.array([213, 94, 0]) / 255  # of Okabe and Ito's palette, told apart with any colour vision
UNKNOWN, NOT_SURE, NONE_OF_THESE = "unknown", "not sure", "none of these"
NEVER = -1.0  # the probability below which the answer is unknown: none is
ANSWER_COLUMNS = ("file", "answer", "confidence", "guess", "reason", "second", "second_confidence", "error")
AVERAGE, NOTHING = -1, -2  # what a description starts from, or else the index of a class


@dataclass(frozen=True)
class PhotoScores:
    """What the model computed for one photo.

    Args:
        picture: height x width x 3 in 0..1, the photo as the model saw it.
        attribute_scores: 1 x A. region_maps: E x A x H x W, or None for a model without region attention.
    """

    picture: np.ndarray
    attribute_scores: torch.Tensor
    region_maps: np.ndarray | None


def load_model(source: str) -> PreTrainedModel:
    """A DEDN model that takes pictures, from a folder or the Hub.

    Uses dedn_hf if it is installed. Otherwise it runs the code that is saved with the model, so name only models that
    you trust. Raises ValueError for a source without such a model.
    """
    try:
        import dedn_hf  # noqa: F401  transformers knows the model from here on

        installed = True
    except ModuleNotFoundError:
        installed = False
    try:
        model = AutoModelForZeroShotImageClassification.from_pretrained(source, trust_remote_code=not installed)
    except OSError as error:
        raise ValueError(f"There is no model at {source!r}.") from error
    if model.config.model_type != "dedn" or model.config.backbone is None:
        raise ValueError(f"The model at {source!r} is not a DEDN model with a backbone.")
    return model.eval()


def open_photo(model: PreTrainedModel, path: str) -> Image.Image:
    """The picture in a file as the model reads it: RGB, upright. Raises ValueError when it does not decode."""
    try:
        return model.read_image(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError("This file does not open as a picture. Give a whole JPEG, PNG or WebP file.") from None


@torch.no_grad()
def score_photo(model: PreTrainedModel, photo: Image.Image) -> PhotoScores:
    """Run the model once."""
    pixel_values = model.image_processor()(images=photo, return_tensors="pt")["pixel_values"]
    output = model(pixel_values.to(model.device), output_attentions=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    picture = (pixel_values[0].cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
    maps = output.region_maps
    if maps is not None:
        maps = maps[0].unflatten(-1, tuple(model.config.feature_shape[1:])).float().cpu().numpy()
    return PhotoScores(picture, output.attribute_scores, maps)


@torch.no_grad()
def class_logits(model: PreTrainedModel, photo_scores: PhotoScores, table) -> np.ndarray:
    """K, for the classes of any table that has the model's attributes."""
    return model.score_classes(photo_scores.attribute_scores, table)[0].float().cpu().numpy()


def probabilities(model: PreTrainedModel, logits: np.ndarray) -> np.ndarray:
    """K, 0..1, which sum to 1: how probable each class is, as the model was calibrated."""
    return model.probabilities(torch.from_numpy(logits)[None])[0].numpy()


def why_unknown(model: PreTrainedModel, photo_scores: PhotoScores, logits: np.ndarray, least: float) -> str:
    """The reason why the answer is unknown; '' where it is given. least: the lowest probability, or NEVER."""
    if least == NEVER:
        return ""
    if getattr(model.config, "none_of_these", None):
        length = photo_scores.attribute_scores[0].float().norm().item()
        if model.config.shows_none(float(logits.max()), length):
            return NONE_OF_THESE
    return NOT_SURE if probabilities(model, logits).max() < least else ""


def answer_row(model: PreTrainedModel, table, path: str, least: float) -> dict:
    """What the model says of a photo, by `ANSWER_COLUMNS`. Where no class has the probability `least`: 'unknown'."""
    row = dict.fromkeys(ANSWER_COLUMNS, "") | {"file": Path(path).name}
    try:
        photo_scores = score_photo(model, open_photo(model, path))
    except ValueError as error:
        return row | {"error": str(error)}
    logits = class_logits(model, photo_scores, table)
    scores = probabilities(model, logits)
    best, *others = (-scores).argsort(kind="stable").tolist()
    row |= {"answer": table.class_names[best], "confidence": round(float(scores[best]), 4)}
    if reason := why_unknown(model, photo_scores, logits, least):
        row |= {"answer": UNKNOWN, "guess": table.class_names[best], "reason": reason}
    if others:
        row |= {"second": table.class_names[others[0]], "second_confidence": round(float(scores[others[0]]), 4)}
    return row


def write_answers(rows: list[dict], path: Path) -> str:
    """Write rows as CSV that Excel knows as UTF-8; the path as text."""
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ANSWER_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def confidence_of(source: str) -> dict | None:
    """What the training of a model measured of its confidence, with 'picture', the path of a diagram; None: nothing.

    source: folder, or Hub id, of which two files are fetched.
    """
    options = {f"_raise_exceptions_for_{problem}": False for problem in ("missing_entries", "connection_errors")}
    try:
        record, picture = (cached_file(source, name, **options) for name in ("run.json", "confidence.png"))
    except OSError:
        return None
    found = json.loads(Path(record).read_text(encoding="utf-8")).get("confidence") if record else None
    return found and {**found, "picture": picture}


@torch.no_grad()
def contributions(
    model: PreTrainedModel, photo_scores: PhotoScores, table, one: int, other: int
) -> tuple[np.ndarray, float]:
    """What decided between two classes: s_a (T_ya - T_ka), A, and the bias, which does not depend on the photo.

    Together they sum to the difference of the two logits.
    """
    pair = torch.from_numpy(table.class_attributes[[one, other]]).to(photo_scores.attribute_scores)
    rows = model.normalized_class_attributes(pair)
    bias = model.class_bias(torch.from_numpy(table.seen[[one, other]]).to(model.device)).float()
    return (photo_scores.attribute_scores[0] * (rows[0] - rows[1])).float().cpu().numpy(), (bias[0] - bias[1]).item()


def strongest_attribute(model: PreTrainedModel, photo_scores: PhotoScores, table) -> int:
    """Of the attributes found in the photo, the one that speaks most for the best class against the runner-up."""
    logits = class_logits(model, photo_scores, table)
    parts, _ = contributions(model, photo_scores, table, logits.argmax(), logits.argsort()[-2:][0])
    found = photo_scores.attribute_scores[0].float().cpu().numpy() > 0
    return int(np.where(found, parts, -np.inf).argmax())


@dataclass(frozen=True)
class Control:
    """What sets one trait of a new class: a drop-down, or a slider.

    Args:
        choices: of the drop-down, pairs of text and value; empty for a slider. low, high, step: of the slider.
        unit: of the slider's numbers.
    """

    choices: tuple[tuple[str, str | bool], ...] = ()
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    unit: str = ""

    @property
    def start(self) -> float | str | bool:
        """The position before anyone has moved it."""
        return self.choices[0][1] if self.choices else self.high


def controls(table) -> dict[str, Control]:
    """Name -> control of everything that can be described: columns of the table of traits, or else attributes."""
    if table.traits is None:
        return {name: Control((), *slider_range(table, a)) for a, name in enumerate(table.attribute_names)}
    columns = {}
    for trait in table.traits:
        columns.setdefault(trait["column"], []).append(trait)
    return {column: control_of(traits) for column, traits in columns.items()}


def control_of(traits: list[dict]) -> Control:
    """The control of a column, from the traits of its attributes."""
    first = traits[0]
    if first["category"] is not None:
        choices = [(trait["category"], trait["category"]) for trait in traits]
        return Control(tuple(choices) if len(choices) > 1 else (choices[0], (f"not {first['category']}", False)))
    if first["kind"] == "yes/no":
        return Control((("yes", "yes"), ("no", "no")))
    return Control((), *whole_steps(*first["range"]), first["unit"])


def slider_range(table, attribute: int) -> tuple[float, float, float]:
    """Lowest and highest value of an attribute over the classes, rounded outwards to whole steps, and the step.

    An attribute with a single value has the range of all attributes.
    """
    values = table.class_attributes[:, attribute]
    if values.min() == values.max():
        values = table.class_attributes
    return whole_steps(float(values.min()), float(values.max()))


def whole_steps(low: float, high: float) -> tuple[float, float, float]:
    """The range rounded outwards to whole steps, and the step, a power of ten: 100 to 1000 of them in the range."""
    if low == high:
        high = low + 1
    scale = 10.0 ** (2 - math.floor(math.log10(high - low)))
    low, high = math.floor(low * scale + 1e-3) / scale, math.ceil(high * scale - 1e-3) / scale  # 1e-3: float32
    return low, high, 1 / scale


def describe(table, start: int, values: dict[str, float | str | bool]) -> np.ndarray:
    """A: the start (AVERAGE, NOTHING or the index of a class) with some traits, or attributes, replaced."""
    if start == AVERAGE:
        row = table.class_attributes.mean(axis=0)
        if table.traits is not None:
            row = np.array([trait["fill"] for trait in table.traits], np.float32)
    else:
        row = np.zeros(table.num_attributes, np.float32) if start == NOTHING else table.class_attributes[start].copy()
    for name, value in values.items():
        for attribute, number in ({name: value} if table.traits is None else table.encode(name, value)).items():
            row[table.attribute_names.index(attribute)] = number
    return row


def with_class(table, name: str, class_attributes: np.ndarray):
    """The table with one more class, unseen, at its end. Raises ValueError for an unusable name or values."""
    name = name.strip()
    if not name:
        raise ValueError("The new class has no name. Give it one.")
    if name.lower() in (known.lower() for known in table.class_names):
        raise ValueError(f"The model has a class {name} already. Choose another name.")
    if not class_attributes.any():
        raise ValueError("Every attribute is 0, so nothing describes the new class. Raise at least one.")
    return table.replace(
        class_names=[*table.class_names, name],
        class_attributes=np.vstack([table.class_attributes, class_attributes]),
        roles=[*table.roles, "unseen"],
    )


def candidate_labels(table) -> str:
    """The last class of a table as JSON, in the form of the pipeline's `candidate_labels`."""
    values = [round(float(value), 4) for value in table.class_attributes[-1]]
    return json.dumps({table.class_names[-1]: dict(zip(table.attribute_names, values, strict=True))}, indent=1)


def heat_map(photo_scores: PhotoScores, expert: int, attribute: int, size: int = 384) -> Image.Image:
    """Where an expert found an attribute: the positive part of its region map, orange on a pale grey photo.

    As `dedn_hf.explain.heat.paint_heat`, which a Space does not have: it runs without dedn_hf.
    """
    region_map = Image.fromarray(photo_scores.region_maps[expert, attribute])
    heat = np.asarray(region_map.resize((size, size), Image.Resampling.BICUBIC)).clip(min=0)
    cover = 0.9 * heat[..., None] / max(heat.max(), 1e-12)
    photo = Image.fromarray((255 * photo_scores.picture).round().astype(np.uint8)).resize((size, size))
    grey = 0.25 + 0.7 * np.asarray(photo).mean(axis=-1, keepdims=True) / 255
    return Image.fromarray((255 * (grey * (1 - cover) + VERMILLION * cover)).round().astype(np.uint8))
