"""Configuration of the Dual Expert Distillation Network (DEDN)."""

from inspect import get_annotations
from typing import Any

from transformers import PreTrainedConfig

EXPERTS = ("coarse", "fine")
ATTENTIONS = ("region", "channel")
FEATURE_SOURCES = ("stage", "head")
LOSS_CLASSES = ("all", "seen")
CROP_MODES = ("center", "squash")
CUSTOM_PIPELINES = {
    "zero-shot-image-classification": {
        "impl": "pipeline_dedn.DEDNPipeline",
        "pt": ["AutoModelForZeroShotImageClassification"],
        "type": "image",
    }
}


class DEDNConfig(PreTrainedConfig):
    r"""Everything about a DEDN model that is not a tensor.

    Letters: K classes, A attributes, C channels and H x W regions of the backbone's feature map, D embedding size.

    Args:
        backbone: name of a timm model, or None for a model that takes cached `features` only.
        backbone_kwargs: further arguments of `timm.create_model`, e.g. `{"img_size": 96}`.
        feature_source: 'stage' reads the last feature map of timm's `features_only`; 'head' reads `forward_features`,
            which in EfficientNets and MobileNets includes the last 1 x 1 convolution.
        freeze_backbone: keep the backbone's weights and batch statistics as they are while training.
        image_size: height and width of the input in pixels, after resizing and centre-cropping.
        image_mean, image_std, interpolation, crop_pct: preprocessing (3 numbers, 3 numbers, PIL filter name, fraction
            of the shorter side that the centre crop keeps). `from_timm` takes what timm evaluates the backbone with;
            the published method keeps the whole shorter side, crop_pct 1.
        crop_mode: what comes before the centre crop. 'center' resizes the shorter side and keeps the ratio; 'squash'
            resizes both sides to the same length, so that at crop_pct 1 the whole picture is seen, however wide it is.
            `from_timm` takes what timm evaluates the backbone with.
        feature_shape: [C, H, W] of the feature map.
        attribute_names: A names, in the order of every attribute axis.
        attribute_groups: group name of each attribute; each group gets its own part of the fine expert.
        traits: what each attribute means in the words of the table that it came from (`AttributeTable.traits`), so
            that classes can be described later; None: numbers on the scale of the class attributes.
        id2label: class names by label (of `PreTrainedConfig`).
        embedding_size: D.
        query_rank: rank h of a factorised region value P_r (the method's setting for SUN), or None for full rank.
        experts, attentions: which of ('coarse', 'fine') and ('region', 'channel') there are; all, but for ablations.
        initializer_range: standard deviation of the value matrices P at the start, 1 in the method.
        attribute_power: exponent of class attributes, their sign kept, before they are centred and L2-normalised; 0.5
            gives weight to the difference between absent and seldom, which matters more than that between often and
            always. 1 is the published method.
        center_attributes: subtract the seen classes' mean from class attributes before they are L2-normalised, so that
            logits speak of what tells classes apart. False is the published method.
        normalize_scores: L2-normalise attribute scores and multiply logits by `logit_scale` ("cosine logits").
            False is the published method.
        logit_scale: initial scale of cosine logits; learned.
        standardize_features: bring every channel to mean 0 and variance 1 (running statistics of the training images)
            before the regions are L2-normalised. False is the published method.
        feature_dropout: probability of dropping a channel of the feature map in training, 0 in the published method.
        flip_test: in evaluation, average over the image and its mirror image, at twice the time. False is the
            published method.
        region_weight: w_r, weight of the region score against the channel score in evaluation, 0..1.
        coarse_weight: w_e, weight of the coarse expert's logits against the fine expert's in the prediction, 0..1.
        pooled_weight: weight of the pooled expert's logits against those of coarse and fine expert together, 0..1;
            0, the published method, is a model without it. See `PooledExpert`.
        seen_bias: the seen bias m is -seen_bias for seen and +seen_bias for unseen classes (1 in the method).
        calibration_bias: constant added to unseen logits of the prediction, chosen after training on validation
            classes ("calibrated stacking", Chao et al., ECCV 2016); 0 in the method.
        temperature: logits are divided by it before the softmax that gives probabilities ("temperature scaling", Guo
            et al., ICML 2017); chosen after training on held-out classes, 1 in the method. It changes no answer.
        precision_thresholds: pairs of a precision and the lowest probability at which answers had it on held-out
            classes, precisions rising; see `probability_for`. None: not chosen.
        none_of_these: [weight, least], by which `shows_none` tells pictures of something else; chosen after training
            on held-out classes. None: not chosen.
        margin: delta of the margin-aware loss.
        margin_weight, calibration_weight, distillation_weight, alignment_weight: weights of the losses (MAL,
            lambda_cal, lambda_e, lambda_rc).
        regression_weight: weight of the cosine distance between attribute scores and the label's class attributes;
            0 in the published method.
        loss_classes: 'all', or 'seen' to let only seen classes compete in the margin-aware loss; 'all' is published.
        label_smoothing: of the margin-aware loss, 0 in the published method.
    """

    model_type = "dedn"
    # Trainer's evaluation then collects logits only.
    keys_to_ignore_at_inference = [
        *("attribute_scores", "coarse_logits", "fine_logits", "pooled_logits"),
        *("region_maps", "losses", "logits_per_image"),
    ]

    backbone: str | None = None
    backbone_kwargs: dict | None = None
    feature_source: str = "stage"
    freeze_backbone: bool = True
    image_size: int = 224
    image_mean: list | tuple = (0.485, 0.456, 0.406)
    image_std: list | tuple = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    feature_shape: list | tuple = (1, 1, 1)
    attribute_names: list | None = None
    attribute_groups: list | None = None
    traits: list | None = None
    embedding_size: int = 300
    query_rank: int | None = None
    experts: list | tuple = EXPERTS
    attentions: list | tuple = ATTENTIONS
    initializer_range: float = 1.0
    attribute_power: float = 1.0
    center_attributes: bool = False
    normalize_scores: bool = False
    logit_scale: float = 20.0
    standardize_features: bool = False
    feature_dropout: float = 0.0
    flip_test: bool = False
    region_weight: float = 0.8
    coarse_weight: float = 0.5
    pooled_weight: float = 0.0
    seen_bias: float = 1.0
    calibration_bias: float = 0.0
    temperature: float = 1.0
    precision_thresholds: list | None = None
    none_of_these: list | None = None
    margin: float = 2.0
    margin_weight: float = 1.0
    calibration_weight: float = 0.0
    distillation_weight: float = 0.1
    alignment_weight: float = 0.001
    regression_weight: float = 0.0
    loss_classes: str = "all"
    label_smoothing: float = 0.0

    def __init__(self, **kwargs) -> None:
        # Written out, because configurations are dataclasses only since transformers 5.1 or later.
        for name in get_annotations(DEDNConfig):
            value = kwargs.pop(name, getattr(DEDNConfig, name))
            setattr(self, name, list(value) if isinstance(value, tuple) else value)  # as it comes back from JSON
        output_attentions = kwargs.pop("output_attentions", False)
        if self.attribute_names is None:
            self.attribute_names = ["attribute"]
        if self.attribute_groups is None:
            self.attribute_groups = ["all"] * len(self.attribute_names)
        super().__init__(**kwargs)
        self.output_attentions = output_attentions
        if self.label2id is None:  # type: ignore[has-type]  # of the class above
            self.label2id = {name: label for label, name in self.id2label.items()}
        self.validate()
        self.experts = [expert for expert in EXPERTS if expert in self.experts]  # coarse first, whatever was given

    def validate(self) -> None:
        """Raise ValueError for values that no model can have. transformers asks again before it saves."""
        self.validate_choices()
        self.validate_sizes()
        self.validate_shares()

    def validate_choices(self) -> None:
        """Each name is one of those that there are."""
        for field, value, allowed in (
            ("experts", self.experts, EXPERTS),
            ("attentions", self.attentions, ATTENTIONS),
            ("loss_classes", [self.loss_classes], LOSS_CLASSES),
            ("feature_source", [self.feature_source], FEATURE_SOURCES),
            ("crop_mode", [self.crop_mode], CROP_MODES),
        ):
            if not value or set(value) - set(allowed) or len(set(value)) != len(value):
                raise ValueError(f"{field} is {value!r}; choose from {', '.join(allowed)}, each once at most.")

    def validate_sizes(self) -> None:
        """Sizes are positive and agree with each other."""
        if len(self.attribute_groups) != len(self.attribute_names):
            raise ValueError(
                f"attribute_groups names {len(self.attribute_groups)} attributes, attribute_names "
                f"{len(self.attribute_names)}; give every attribute one group."
            )
        if len(self.feature_shape) != 3 or min(self.feature_shape) < 1:
            raise ValueError(f"feature_shape is {self.feature_shape!r}; give [channels, height, width], all positive.")
        if self.query_rank is not None and self.query_rank < 1:
            raise ValueError(f"query_rank is {self.query_rank}; use a positive rank, or None for full rank.")

    def validate_shares(self) -> None:
        """Weights of two parts and probabilities lie between 0 and 1."""
        for field in ("region_weight", "coarse_weight", "pooled_weight", "feature_dropout", "label_smoothing"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must lie between 0 and 1.")
        if self.pooled_weight and self.normalize_scores:
            raise ValueError("The pooled expert (pooled_weight) does not go with normalize_scores; use one of them.")
        if not 0 < self.attribute_power < float("inf"):
            raise ValueError(f"attribute_power is {self.attribute_power}; it is an exponent and must be positive.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it divides logits and must be positive.")
        for pair in self.precision_thresholds or ():
            if len(pair) != 2 or not all(0 <= value <= 1 for value in pair):
                raise ValueError(
                    f"precision_thresholds holds {pair!r}; give pairs of precision and probability, 0..1."
                )
        if self.none_of_these is not None and len(self.none_of_these) != 2:
            raise ValueError(f"none_of_these is {self.none_of_these!r}; give two numbers, [weight, least].")

    def probability_for(self, precision: float) -> float:
        """The probability from which on answers were right at least as often as `precision` (0..1), as estimated.

        Raises:
            ValueError: none was chosen in training, or no threshold gave this precision.
        """
        if not self.precision_thresholds:
            raise ValueError(
                "This model was trained without thresholds: nothing is known of its precision. Train with folds "
                "(`dedn train` does), or give a confidence of your own."
            )
        enough = [threshold for reached, threshold in self.precision_thresholds if reached >= precision]
        if not enough:
            best = max(reached for reached, _ in self.precision_thresholds)
            raise ValueError(
                f"No threshold gives a precision of {precision:g}; the highest on held-out classes is {best:g}."
            )
        return min(enough)

    def shows_none(self, best_logits: Any, lengths: Any) -> Any:
        """Whether images show none of the classes, B bool; False where `none_of_these` was not chosen.

        A picture of something else has little of any attribute, and no class fits it. So the best logit, plus a
        weight times the length of the attribute scores, is small.

        Args:
            best_logits: B, of the class that wins among the candidates. lengths: B, of the rows of attribute scores.
        """
        weight, least = self.none_of_these or (0.0, -float("inf"))
        return best_logits + weight * lengths < least

    def confidence_threshold(
        self, min_confidence: float | None = None, precision: float | None = None
    ) -> float | None:
        """The probability, 0..1, below which an answer is 'unknown': given, or chosen for a precision.

        None where neither is given: then no answer is 'unknown', not even about a picture of none of the classes.

        Raises:
            ValueError: both are given, one is not between 0 and 1, or as `probability_for`.
        """
        if min_confidence is not None and precision is not None:
            raise ValueError("Give min_confidence or precision, not both: the precision decides on the confidence.")
        for name, value in (("min_confidence", min_confidence), ("precision", precision)):
            if value is not None and not 0 <= value <= 1:
                hint = f" Did you mean {value / 100:g}?" if 1 < value <= 100 else ""
                raise ValueError(f"{name} is {value:g}; it lies between 0 and 1.{hint}")
        return min_confidence if precision is None else self.probability_for(precision)

    @property
    def output_attentions(self) -> bool:
        """Whether `forward` gives region maps unless it is told otherwise. Every kind of attention can."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        self._output_attentions = value

    @property
    def resized_side(self) -> int:
        """Pixels of the shorter side, or of both sides with crop_mode 'squash', before the centre crop."""
        length = self.image_size / self.crop_pct
        return int(length) if self.crop_mode == "squash" else round(length)  # as timm; or as all models before

    @property
    def expert_names(self) -> list[str]:
        """E names in the order of every expert axis: `experts`, and 'pooled' where that one has weight."""
        return [*self.experts, *(["pooled"] if self.pooled_weight else [])]

    @property
    def num_attributes(self) -> int:
        """A."""
        return len(self.attribute_names)

    @property
    def group_names(self) -> list[str]:
        """The G distinct attribute groups, in order of first appearance."""
        return list(dict.fromkeys(self.attribute_groups))
