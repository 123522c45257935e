"""The settings of a training run, and the YAML files that hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from dedn_hf.modeling.attribute_table import near_names

PRESETS = Path(__file__).parent / "presets"
WITHOUT_EFFECT = ("num_workers", "checkpoint_every", "tracker")  # on the result


@dataclass
class TrainingSettings:
    """How to train; the defaults are the published recipe (Rao et al., section 4.1).

    Args:
        epochs: number of epochs, of #images // batch_size steps each. batch_size: images of a joint batch.
        sampling: 'class_balanced' or 'uniform', see `Batches`.
        optimizer: 'rmsprop' or 'adamw'. learning_rate, weight_decay, momentum (of RMSprop): of the experts.
        train_backbone: fine-tune the backbone; False keeps it frozen.
        backbone_learning_rate: of the backbone's weights. frozen_stages: name prefixes of the backbone's modules that
            stay frozen all the same, e.g. ['conv_stem', 'blocks.0']. freeze_batch_norm: keep the statistics of the
            pretrained batch normalisation.
        schedule: 'constant', 'cosine' or 'linear' (to zero). warmup: share of all steps, 0..1, in which the learning
            rate first rises from zero.
        gradient_accumulation_steps, max_grad_norm (None: no clipping), mixed_precision: as in Accelerate.
        ema_decay: decay per step of an exponential moving average of the weights, used for evaluation; None: none.
        augmentation: 'none', 'flip' or 'crop', of training images. crop_scale: smallest area of a crop, 0..1.
            jitter: of 'crop', largest relative change of brightness and of contrast, 0..1.
        feature_views: with cached features, how many views of each training image the cache holds: the plain one, and
            others augmented as above (and with the model's `flip_test` the mirror image), of which training draws one
            at random; 1: no augmented ones.
        feature_precision: 'float32' or 'bfloat16', in which the frozen backbone computes what is cached, or 'auto': as
            in the cache that is there, else whichever is faster on this processor. Their numbers differ slightly.
        channels_last: memory layout of the backbone, faster for many convolutional networks.
        select_on: 'val' chooses the epoch on validation classes, then trains on all seen classes for that long; 'test'
            picks the epoch that is best on the test splits (the published protocol); 'last' evaluates the last epoch.
        calibrate: with select_on='val', also choose there the constant that is added to unseen logits, the temperature
            of probabilities, and the confidence that each precision needs.
        folds: with select_on='val', how many of five parts of the seen classes play the unseen ones in turn, whatever
            the table's 'val' classes are; all parts where there are few classes. 0: only the 'val' classes, once.
        evaluate_every: epochs between evaluations.
        seed: of initial weights, batches and augmentation.
        deterministic: use only algorithms that give the same bits every time. CPUs do so anyway. On a GPU it is slow,
            an operation without such an algorithm is an error, and CUBLAS_WORKSPACE_CONFIG=:4096:8 has to be set.
        num_workers: processes that decode images. checkpoint_every: epochs between checkpoints, 0 for none.
        tracker: 'tensorboard' or another tracker of Accelerate; None: none.

    Raises:
        ValueError: an unknown choice or a number out of range.
    """

    epochs: int = 20
    batch_size: int = 50
    sampling: Literal["class_balanced", "uniform"] = "class_balanced"
    optimizer: Literal["rmsprop", "adamw"] = "rmsprop"
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    momentum: float = 0.9
    train_backbone: bool = False
    backbone_learning_rate: float = 1e-4
    frozen_stages: list[str] = field(default_factory=list)
    freeze_batch_norm: bool = False
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: float = 0.0
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    ema_decay: float | None = None
    augmentation: Literal["none", "flip", "crop"] = "none"
    crop_scale: float = 0.4
    jitter: float = 0.0
    feature_views: int = 1
    feature_precision: Literal["auto", "float32", "bfloat16"] = "float32"
    channels_last: bool = False
    select_on: Literal["val", "test", "last"] = "val"
    calibrate: bool = False
    folds: int = 0
    evaluate_every: int = 1
    seed: int = 0
    deterministic: bool = False
    num_workers: int = 0
    checkpoint_every: int = 1
    tracker: str | None = None

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            setattr(self, name, checked(name, getattr(self, name), kind))
        for name in ("epochs", "batch_size", "gradient_accumulation_steps", "evaluate_every", "feature_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("learning_rate", "backbone_learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}, a share of all steps; it must be 0 or more and below 1.")
        if self.feature_views > 1 and self.augmentation == "none":
            raise ValueError(
                f"feature_views is {self.feature_views}, but augmentation is 'none': all views would be the same. "
                "Use augmentation='crop' or 'flip'."
            )
        if not 0 <= self.folds <= 20:
            raise ValueError(f"folds is {self.folds}; it must be 0 (the 'val' classes once) to 20.")
        if self.calibrate and self.select_on != "val":
            raise ValueError("calibrate=True chooses the unseen bias on validation classes: it needs select_on='val'.")

    @classmethod
    def from_dict(cls, values: dict) -> TrainingSettings:
        """From a mapping; raises ValueError, with near names, for a key that is no setting."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"No training setting {key!r}.{near_names(key, known)}")
        return cls(**values)

    def to_dict(self) -> dict:
        """All settings."""
        return asdict(self)


def checked(name: str, value: Any, kind: Any) -> Any:
    """A setting, numbers as what they are: YAML reads 1e-4 as text. Raises ValueError."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(get_args(kind))}.")
    if type(None) in get_args(kind):
        if value is None:
            return None
        kind = get_args(kind)[0]
    if kind not in (int, float):
        return value
    try:
        number = kind(value)
        if number == float(value):
            return number
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} is {value!r}; it must be {'a whole' if kind is int else 'a'} number.")


def read_preset(path: str | Path, variant: str | None = None, overrides: list[str] | None = None) -> dict:
    """A preset: sections `data`, `model`, `training`, and `variants` that change some of their keys.

    Args:
        path: name of a preset of this package, such as 'cub', or a YAML file. variant: name of one of its variants.
        overrides: 'section.key=value', values in YAML, e.g. 'training.epochs=5'.

    Raises:
        FileNotFoundError: no such file. ValueError: not YAML, unknown section or variant.
    """
    path = PRESETS / f"{path}.yaml" if str(path) in preset_names() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no preset or file {str(path)!r}.{near_names(str(path), preset_names())} Presets: "
            f"{', '.join(preset_names())}."
        )
    try:
        preset = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    sections: dict[str, dict[str, Any]] = {"data": {}, "model": {}, "training": {}, "variants": {}}
    for section in preset:
        if section not in sections:
            raise ValueError(f"{path}: unknown section {section!r}; use {', '.join(sections)}.")
    preset = {**sections, **{section: values or {} for section, values in preset.items()}}
    variants = preset.pop("variants")
    if variant is not None:
        if variant not in variants:
            raise ValueError(f"{path} has no variant {variant!r}; it has {', '.join(variants) or 'none'}.")
        for section, part in variants[variant].items():
            require_section(section, preset)
            preset[section].update(part)
    return apply_overrides(preset, overrides)


def apply_overrides(preset: dict, overrides: list[str] | None) -> dict:
    """The preset with changes such as 'training.epochs=5'. Raises ValueError for text of another form."""
    preset = {section: dict(values) for section, values in preset.items()}
    for section, key, value in map(_parse_override, overrides or []):
        require_section(section, preset)
        preset[section][key] = value
    return preset


def require_section(section: str, preset: dict) -> None:
    """Raise ValueError for a section that presets do not have."""
    if section not in preset:
        raise ValueError(f"Unknown section {section!r}; use {', '.join(preset)}.")


def preset_names() -> list[str]:
    """The presets that come with this package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _parse_override(text: str) -> tuple[str, str, object]:
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not equals or not dot or not key:
        raise ValueError(f"Cannot read {text!r}. Write section.key=value, e.g. training.epochs=5.")
    return section, key, yaml.safe_load(value)
