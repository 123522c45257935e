"""The Dual Expert Distillation Network (DEDN) for generalized zero-shot image classification.

Rao et al., "Dual Expert Distillation Network for Generalized Zero-Shot Learning", IJCAI 2024 (arXiv 2404.16348).

pixels -> backbone -> feature map -> two experts of dual attention -> attribute scores -> class logits.

Letters of the shapes: B images, K classes, A attributes, E experts, C channels, R = H x W regions, D embedding size.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F
from transformers import CLIPImageProcessor, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .attribute_table import AttributeTable, group_attributes
from .backbone import (
    Backbone,
    architecture_of,
    create_body,
    offloaded_weights_loaded,
    preprocessing_of,
    size_arguments,
)
from .configuration_dedn import CUSTOM_PIPELINES, DEDNConfig
from .experts import (
    Expert,
    Experts,
    PooledExpert,
    TensorCache,
    loss_terms,
    require_labels,
    seen_bias_vector,
    total_loss,
)
from .inputs import read_image
from .saving import HUB_ARGUMENTS, push_model, replaced_model, require_config, write_card_and_requirements

if TYPE_CHECKING:
    from .pipeline_dedn import DEDNProcessor

T = TypeVar("T", bound="DEDNForZeroShot")
AUTO_CLASSES = ("AutoModel", "AutoModelForImageClassification", "AutoModelForZeroShotImageClassification")
# Pixels that go through a backbone together on a CPU: larger activations leave its caches, and malloc gives them back.
CPU_PIXELS = 4 * 224 * 224
ALIGNMENT = 64  # bytes: what PyTorch's own allocator gives, and the width of the widest vector instructions


@dataclass
class DEDNOutput(ModelOutput):
    """What `DEDNForZeroShot` gives.

    Args:
        loss: scalar, the weighted sum of `losses`; only with `labels`.
        logits: B x K, the prediction: all experts' logits, weighted (and `calibration_bias` on unseen classes).
        attribute_scores: B x A, all experts' scores with the same weights: logits are attribute_scores T^t and a
            constant for seen and one for unseen classes (`class_bias`).
        coarse_logits, fine_logits, pooled_logits: B x K, of one expert each; None for an expert that the model does
            not have. In training there are none of the pooled expert, and the prediction is without it.
        region_maps: B x E x A x R, attention times value of every attribute in every region (reshape R to H x W for a
            heat map), experts in the order of `config.expert_names`; only with `output_attentions=True`.
        losses: every loss term before weighting, by name; only with `labels`.
        logits_per_image: `logits` over `config.temperature`: their softmax over the classes gives probabilities.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    attribute_scores: torch.Tensor | None = None
    coarse_logits: torch.Tensor | None = None
    fine_logits: torch.Tensor | None = None
    pooled_logits: torch.Tensor | None = None
    region_maps: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits_per_image: torch.Tensor | None = None


class DEDNPreTrainedModel(PreTrainedModel):
    """What transformers must know to make, load and shard a DEDN."""

    config_class = DEDNConfig
    base_model_prefix = "dedn"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["Backbone", "Expert"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """P ~ N(0, initializer_range²), Q = 0, embeddings of length about 1. The backbone keeps timm's own start."""
        if isinstance(module, Expert):
            init.normal_(module.attribute_embeddings, std=self.config.embedding_size**-0.5)
            for name, parameter in module.named_parameters():
                if name.endswith("_key"):
                    init.zeros_(parameter)
                elif name == "region_value_down":  # so that the product of the two factors has variance 1
                    init.normal_(parameter, std=module.rank**-0.5)
                elif name != "attribute_embeddings":
                    init.normal_(parameter, std=self.config.initializer_range)
        elif module is self and self.config.normalize_scores:
            init.constant_(self.logit_scale, float(np.log(self.config.logit_scale)))

    def get_input_embeddings(self) -> None:
        """None: there are no tokens. Accelerate asks before it shards a model (FSDP)."""


class DEDNForZeroShot(DEDNPreTrainedModel):
    """Classifies images among classes that are only described by attributes.

    The class table is part of the model: `set_classes` replaces it at any time, without training. Make one with
    `from_timm` (to train) or `from_pretrained` (trained).
    """

    def __init__(self, config: DEDNConfig) -> None:
        super().__init__(config)
        channels, height, width = config.feature_shape
        self.backbone = None
        if config.backbone is not None:
            self.backbone = Backbone(config.backbone, config.feature_source, **(config.backbone_kwargs or {}))
        groups = {"coarse": ["all"] * config.num_attributes, "fine": config.attribute_groups}
        sizes = (config.embedding_size, channels, height * width, config.query_rank, config.attentions)
        self.experts = Experts({name: Expert(groups[name], *sizes) for name in config.experts})
        self.pooled_expert = PooledExpert(channels, config.num_attributes) if config.pooled_weight else None
        self.feature_norm = nn.BatchNorm2d(channels, affine=False) if config.standardize_features else nn.Identity()
        if config.normalize_scores:
            self.logit_scale = nn.Parameter(torch.empty(()))
        self.class_attributes: torch.Tensor
        self.register_buffer("class_attributes", torch.zeros(config.num_labels, config.num_attributes))
        self.register_buffer("attribute_mean", torch.zeros(config.num_attributes))
        self.register_buffer("seen", torch.zeros(config.num_labels, dtype=torch.bool))
        self.class_cache = TensorCache()
        self.learned_before: set[str] = set()  # classes of the model that training goes on with; not saved
        self.handicaps: torch.Tensor | None = None  # K, taken from logits in losses only; no part of a saved model
        self.freeze_backbone(config.freeze_backbone)
        self.post_init()

    # New models, loading, saving -----------------------------------------------------------------------------------

    @classmethod
    def from_timm(
        cls: type[T],
        backbone: str | None,
        table: AttributeTable,
        image_size: int | None = None,
        pretrained: bool | str = True,
        groups: str = "given",
        num_groups: int | None = None,
        backbone_kwargs: dict | None = None,
        **config,
    ) -> T:
        """A new model: timm backbone, fresh experts that start from the table's attribute embeddings.

        Args:
            backbone: timm model name, or None together with `feature_shape=[C, H, W]` for cached features only.
            table: classes and attributes; sizes, names and groups come from it.
            image_size: pixels; default, the backbone's own.
            pretrained: True (timm's weights), False (random) or the path of a weights file.
            groups: 'given' (the table's), 'single', 'embeddings' or 'co-occurrence', see `group_attributes`.
            num_groups: number of k-means groups for the latter two.
            backbone_kwargs: further arguments of `timm.create_model`.
            config: any argument of `DEDNConfig`. `attribute_names` chooses and orders attributes of the table;
                `attribute_groups` are then in that order.

        Raises:
            ValueError: unknown backbone, arguments that contradict the table, the backbone or each other.
        """
        if "attribute_groups" in config and groups != "given":
            raise ValueError(f"attribute_groups and groups={groups!r} contradict each other. Leave one of them out.")
        table = table.select_attributes(config.pop("attribute_names", None) or table.attribute_names)
        config.setdefault("attribute_groups", group_attributes(table, groups, num_groups))
        of_table = {"attribute_names": table.attribute_names, "id2label": dict(enumerate(table.class_names))}
        if table.attribute_embeddings is not None:
            of_table["embedding_size"] = table.attribute_embeddings.shape[1]
        _settle(config, of_table, "the attribute table")
        body = None
        if backbone is not None:
            preprocessing, sizes = preprocessing_of(backbone), size_arguments(backbone, image_size)
            architecture, arguments = architecture_of(backbone)
            config = {
                **preprocessing,
                **config,
                "backbone": architecture,
                "backbone_kwargs": {**arguments, **sizes, **(backbone_kwargs or {})},
            }
            config["image_size"] = image_size or preprocessing["image_size"]
            extractor = Backbone(architecture, config.get("feature_source", "stage"), **config["backbone_kwargs"])
            if pretrained:
                source = backbone if pretrained is True else architecture
                extractor.body = create_body(**{**extractor.recipe, "name": source, "pretrained": pretrained})
            body, shape = extractor.body, extractor.feature_shape(config["image_size"])
            _settle(config, {"feature_shape": shape}, f"{backbone} with images of {config['image_size']} pixels")
        model = cls(DEDNConfig(**config))
        if body is not None:
            model.backbone.body = body
            model.freeze_backbone(model.config.freeze_backbone)
        model.set_classes(table)
        if model.config.center_attributes:
            model.attribute_mean.copy_(model.raised(model.class_attributes[model.seen]).mean(dim=0))
        if table.attribute_embeddings is not None:
            embeddings = F.normalize(torch.from_numpy(table.attribute_embeddings), dim=-1)
            for expert in model.experts.values():
                expert.attribute_embeddings.data.copy_(embeddings)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; refuses weights that lack part of the model, and a folder without config.json."""
        require_config(pretrained_model_name_or_path, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ValueError(
                f"The weights lack {len(missing)} tensors of this model, first {missing[0]!r}. Download or save the "
                "model again."
            )
        if model.backbone is not None:
            model.backbone.restore_buffers()
            model.freeze_backbone(model.config.freeze_backbone)
        align_memory(model)
        return (model, info) if wants_info else model

    def image_processor(self) -> CLIPImageProcessor:
        """Resize (`config.crop_mode`), centre crop and normalisation, as the backbone was trained with."""
        c = self.config
        side, squash = c.resized_side, c.crop_mode == "squash"
        return CLIPImageProcessor(
            size={"height": side, "width": side} if squash else {"shortest_edge": side},
            crop_size={"height": c.image_size, "width": c.image_size},
            image_mean=list(c.image_mean),
            image_std=list(c.image_std),
            resample={"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[c.interpolation],
        )

    @staticmethod
    def read_image(source: str | os.PathLike | bytes) -> Image.Image:
        """A picture from a file or its bytes, as training and all other ways into the model read it: upright, RGB."""
        return read_image(source)

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        """As in transformers, but a whole model repository: also the code, the image processor, a card if absent.

        Whenever it is interrupted, the folder holds the model of before, or the new one, or none that loads.

        Raises:
            OSError: the disk is full, or nothing can be written there. The folder is as it was.
        """
        # transformers copies the files of these along, because this one imports them.
        from .handler import EndpointHandler  # noqa: F401

        folder, hub = Path(save_directory), {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        self.config.custom_pipelines = CUSTOM_PIPELINES
        code = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        self.config.auto_map = dict.fromkeys(AUTO_CLASSES, code)  # of which transformers itself writes but one
        if not is_main_process or kwargs.get("distributed_checkpoint"):  # of which every process writes its part
            super().save_pretrained(folder, is_main_process=is_main_process, **kwargs)
            return
        with replaced_model(folder, variant=kwargs.get("variant")) as unfinished:
            super().save_pretrained(unfinished, **kwargs)
            if self.backbone is not None:
                self.processor().save_pretrained(unfinished)
            write_card_and_requirements(self, unfinished, with_card=not (folder / "README.md").exists())
        if push_to_hub:  # now: transformers would upload before the folder is complete
            self.push_to_hub(**{"repo_id": folder.name, **hub})

    def push_to_hub(self, repo_id: str, **kwargs):
        """As in transformers, all in one commit; a card that is already on the Hub stays as it is.

        Args and result as `saving.push_model`.
        """
        return push_model(self, repo_id, **kwargs)

    def processor(self) -> "DEDNProcessor":
        """Images and class names to the inputs of `forward`, as `AutoProcessor` gives it for a saved model."""
        from .pipeline_dedn import DEDNProcessor

        return DEDNProcessor(self.image_processor(), self.attribute_table)

    # Backbone -----------------------------------------------------------------------------------------------------

    def freeze_backbone(self, freeze: bool = True) -> None:
        """Keep the backbone's weights and batch statistics fixed in training, or (False) train them too."""
        self.config.freeze_backbone = freeze
        if self.backbone is not None:
            self.backbone.freeze_stages([])  # else stages frozen before would be trained in evaluation mode
            self.backbone.requires_grad_(not freeze)
            self.backbone.train(self.training and not freeze)

    def unfreeze_backbone(self) -> None:
        """Train the backbone too."""
        self.freeze_backbone(False)

    def train(self, mode: bool = True) -> "DEDNForZeroShot":
        """A frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.backbone is not None and self.config.freeze_backbone:
            self.backbone.eval()
        return self

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs) -> None:
        if self.backbone is not None:
            self.backbone.set_grad_checkpointing(enable)

    def extract_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """B x 3 x image_size x image_size to the feature map, B x C x H x W."""
        size = self.config.image_size
        if self.backbone is None:
            raise ValueError("This model has no backbone (config.backbone is None): pass features=, B x C x H x W.")
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(
                f"pixel_values have shape {tuple(pixel_values.shape)}; this model takes B x 3 x {size} x {size}. "
                "Preprocess the images with model.image_processor()."
            )
        pixel_values = pixel_values.to(self.dtype)
        if any(parameter.is_meta for parameter in self.backbone.parameters()):
            with offloaded_weights_loaded(self.backbone):
                return self.backbone(pixel_values)
        if pixel_values.device.type != "cpu" or self.training or torch.is_grad_enabled() or is_compiling():
            return self.backbone(pixel_values)
        parts = pixel_values.split(max(1, CPU_PIXELS // size**2))
        return torch.cat([self.backbone(part) for part in parts])

    # Forward ------------------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        class_attributes: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> DEDNOutput | tuple:
        """Class logits, and the loss when there are labels.

        Args:
            pixel_values: B x 3 x image_size x image_size, from `image_processor()`; or
            features: B x C x H x W, the backbone's feature map, e.g. from a cache. In evaluation with
                `config.flip_test`, B x 2 x C x H x W, of the image and of its mirror image.
            labels: B, class indices 0..K-1.
            class_attributes: K x A, other classes than the model's own for this call, in the scale of its table;
                attributes in the order of `config.attribute_names`. Labels and logits are then of these.
            seen: K bool, which of `class_attributes` are classes with training images; default, none.
            output_attentions: also give `region_maps`; default, `config.output_attentions`.
            return_dict: False gives a tuple; default, `config.return_dict`.

        Raises:
            ValueError: neither or both inputs, a shape unlike the model's, labels out of range.
        """
        class_attributes, seen = self.classes_or_own(class_attributes, seen)
        scores, region_maps = self.attention_scores(pixel_values, features)
        attribute_scores = self.scale_scores(self.mix_attentions(scores))
        logits = self.class_logits(attribute_scores, class_attributes, seen)
        weights = self.expert_weights(scores)
        prediction = (weights * logits).sum(dim=1) + self.config.calibration_bias * ~seen
        of_each = zip(self.config.expert_names, logits.unbind(1), strict=False)  # in training without the pooled one
        losses = None
        if labels is not None:  # of the experts that are trained
            losses = self.compute_losses(scores[:, : len(self.experts)], class_attributes, seen, labels)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        return DEDNOutput(
            loss=None if losses is None else total_loss(self.config, losses),
            logits=prediction,
            attribute_scores=(weights * attribute_scores).sum(dim=1),
            region_maps=region_maps if output_attentions else None,
            losses=losses,
            logits_per_image=prediction / self.config.temperature,
            **{f"{name}_logits": values for name, values in of_each},
        )

    def attention_scores(
        self, pixel_values: torch.Tensor | None = None, features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores and region maps of all experts; arguments and errors as `forward`, results as `dual_attention`.

        In evaluation the pooled expert follows, with the same scores for both attentions, where the model has it. With
        `config.flip_test`, in evaluation, they are means over the image and its mirror image.
        """
        features = self.feature_map(pixel_values, features)
        if features.ndim == 4:
            return self.all_experts(features)
        scores, region_maps = self.all_experts(features.flatten(0, 1))
        if region_maps is not None:
            maps = region_maps.unflatten(-1, self.config.feature_shape[1:]).unflatten(0, (-1, 2))
            region_maps = ((maps[:, 0] + maps[:, 1].flip(-1)) / 2).flatten(-2)
        return scores.unflatten(0, (-1, 2)).mean(dim=1), region_maps

    @torch.no_grad()
    def score_attributes(
        self, pixel_values: torch.Tensor | None = None, features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The `attribute_scores` of `forward`, B x A, without a look at the classes. Arguments and errors as there."""
        scores, _ = self.attention_scores(pixel_values, features)
        return (self.expert_weights(scores) * self.scale_scores(self.mix_attentions(scores))).sum(dim=1)

    def feature_map(self, pixel_values: torch.Tensor | None, features: torch.Tensor | None) -> torch.Tensor:
        """The input as a feature map, B x C x H x W; with that of its mirror image, B x 2 x C x H x W."""
        if (pixel_values is None) == (features is None):
            raise ValueError("Pass either pixel_values (B x 3 x image_size x image_size) or features (B x C x H x W).")
        mirrored = self.config.flip_test and not self.training
        if features is None and mirrored:
            both = torch.stack([pixel_values, pixel_values.flip(-1)], dim=1)
            features = self.extract_features(both.flatten(0, 1)).unflatten(0, (-1, 2))
        elif features is None:
            features = self.extract_features(pixel_values)
        expected = [2] * mirrored + list(self.config.feature_shape)
        if list(features.shape[1:]) != expected:
            raise ValueError(
                f"features have shape {tuple(features.shape)}; this model takes B x {' x '.join(map(str, expected))}."
                + " The 2 are the image and its mirror image (config.flip_test), in evaluation." * mirrored
            )
        return features

    def expert_weights(self, like: torch.Tensor) -> torch.Tensor:
        """Weight of each expert in the prediction, E x 1, summing to 1. like: their scores, B x E x ..."""
        coarse_weight = self.config.coarse_weight if len(self.experts) == 2 else 1.0
        weights = [coarse_weight, 1 - coarse_weight][: len(self.experts)]
        if like.shape[1] > len(self.experts):  # with the pooled expert
            pooled = self.config.pooled_weight
            weights = [*((1 - pooled) * weight for weight in weights), pooled]
        return like.new_tensor(weights)[:, None]

    def all_experts(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Dual attention, and the pooled expert in evaluation, of features B x C x H x W."""
        scores, region_maps = self.dual_attention(features)
        if self.pooled_expert is None or self.training or not self.config.pooled_weight:
            return scores, region_maps
        of_pooled, maps_of_pooled = self.pooled_expert(features.to(self.class_attributes.dtype).flatten(2))
        scores = torch.cat([scores, of_pooled[:, None, None].expand(-1, -1, scores.shape[2], -1)], dim=1)
        if region_maps is not None:
            region_maps = torch.cat([region_maps, maps_of_pooled[:, None]], dim=1)
        return scores, region_maps

    def dual_attention(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Dual attention of all experts in one pass.

        Args:
            features: B x C x H x W.

        Returns:
            Region and channel scores, B x E x 2 x A (one attention: B x E x 1 x A), and region maps B x E x A x R.
        """
        features = self.feature_norm(features.to(self.class_attributes.dtype)).flatten(2)
        features = F.normalize(features, dim=1)
        if self.training and self.config.feature_dropout:
            features = F.dropout1d(features, self.config.feature_dropout)
        return self.experts(features, fused=self.config._attn_implementation != "eager")

    def mix_attentions(self, scores: torch.Tensor) -> torch.Tensor:
        """B x E x 2 x A to B x E x A: the sum of both attentions in training, their weighted mean in evaluation."""
        if scores.shape[2] == 1 or self.training:
            return scores.sum(dim=2)
        return self.config.region_weight * scores[:, :, 0] + (1 - self.config.region_weight) * scores[:, :, 1]

    def scale_scores(self, attribute_scores: torch.Tensor) -> torch.Tensor:
        """Attribute scores as they enter the logits, B x E x A: of length `logit_scale` with cosine logits."""
        if self.config.normalize_scores:
            return self.logit_scale.exp() * F.normalize(attribute_scores, dim=-1)
        return attribute_scores

    def class_logits(
        self, attribute_scores: torch.Tensor, class_attributes: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        """z = s T^t + m: scaled scores B x E x A, normalised class attributes K x A and seen (K bool) to B x E x K."""
        logits = attribute_scores @ class_attributes.T
        return logits + seen_bias_vector(seen, self.config.seen_bias, logits.dtype)

    def compute_losses(
        self, scores: torch.Tensor, class_attributes: torch.Tensor, seen: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Every loss term, unweighted, by name ('coarse.margin', 'distillation', ...).

        Args:
            scores: B x E x 2 x A, as `dual_attention` gives them. class_attributes: K x A, rows normalised. seen: K
                bool. labels: B.
        """
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            require_labels(labels, len(class_attributes))
        scores, class_attributes = scores.float(), class_attributes.float()
        summed = scores.sum(dim=2)
        with torch.autocast(scores.device.type, enabled=False):  # scores may be of low precision, losses are not
            logits = self.class_logits(self.scale_scores(summed), class_attributes, seen)
            if self.handicaps is not None and len(self.handicaps) == len(class_attributes):
                logits = logits - self.handicaps.to(logits)
        return loss_terms(self.config, scores, summed, logits, class_attributes, seen, labels)

    # Classes ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def set_classes(self, table: AttributeTable) -> None:
        """Classify among the classes of `table` from now on; nothing is retrained.

        Columns are matched by attribute name, in any order. What they mean (`table.traits`) is kept with the model.

        Raises:
            ValueError: an attribute is missing.
        """
        table = table.select_attributes(self.config.attribute_names)
        old = self.class_attributes
        self.class_attributes = torch.from_numpy(table.class_attributes).to(old.device, old.dtype, copy=True)
        self.seen = torch.from_numpy(table.seen).to(old.device)
        self.config.id2label = dict(enumerate(table.class_names))
        self.config.label2id = {name: label for label, name in enumerate(table.class_names)}
        if table.traits is not None:
            self.config.traits = table.traits
        self.handicaps = None  # they were of the classes before

    def classes_or_own(
        self, class_attributes: torch.Tensor | None, seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised attributes, K x A, and seen, K bool, of the classes given to `forward`, or of the model's own."""
        if class_attributes is None:
            if seen is not None:
                raise ValueError(
                    "seen belongs to class_attributes. Pass both, or neither for the model's own classes."
                )
            return self.normalized_class_attributes(), self.seen
        if class_attributes.ndim != 2 or class_attributes.shape[1] != self.config.num_attributes:
            raise ValueError(
                f"class_attributes have shape {tuple(class_attributes.shape)}; this model takes classes x "
                f"{self.config.num_attributes} attributes, in the order of model.config.attribute_names."
            )
        if seen is None:
            seen = self.seen.new_zeros(len(class_attributes))
        if seen.shape != class_attributes.shape[:1]:
            raise ValueError(
                f"seen has shape {tuple(seen.shape)}; pass a boolean for each of the {len(class_attributes)} classes."
            )
        normalized = self.normalized_class_attributes(class_attributes.to(self.class_attributes))
        return normalized, seen.to(self.seen)

    def normalized_class_attributes(self, class_attributes: torch.Tensor | None = None) -> torch.Tensor:
        """T, K x A: rows of length 1, centred first where the model was trained so. Default: the model's classes."""
        if class_attributes is None:
            own, mean = self.class_attributes, self.attribute_mean
            return self.class_cache("classes", (own, mean), lambda: self.normalized_class_attributes(own))
        return F.normalize(self.raised(class_attributes) - self.attribute_mean, dim=-1)

    def raised(self, class_attributes: torch.Tensor) -> torch.Tensor:
        """Class attributes to the power of `config.attribute_power`, their sign kept."""
        power = self.config.attribute_power
        return class_attributes if power == 1 else class_attributes.sign() * class_attributes.abs() ** power

    def class_bias(self, seen: torch.Tensor) -> torch.Tensor:
        """The part of the logits that no image changes: seen bias and calibration. K bool to K."""
        bias = seen_bias_vector(seen, self.config.seen_bias, self.class_attributes.dtype)
        return bias + self.config.calibration_bias * ~seen

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of classes that compete, B x K, to how probable each is: B x K float32, rows that sum to 1."""
        return (logits.float() / self.config.temperature).softmax(dim=-1)

    def score_classes(self, attribute_scores: torch.Tensor, table: AttributeTable | None = None) -> torch.Tensor:
        """Logits of any classes, without changing the model's own.

        Args:
            attribute_scores: B x A, from `forward` or `score_attributes`. table: K' classes, columns matched by
                attribute name; default: the model's own classes.

        Returns:
            B x K'.

        Raises:
            ValueError: an attribute is missing.
        """
        if table is None:
            return attribute_scores @ self.normalized_class_attributes().T + self.class_bias(self.seen)
        table = table.select_attributes(self.config.attribute_names)
        class_attributes = torch.from_numpy(table.class_attributes).to(attribute_scores)
        seen = torch.from_numpy(table.seen).to(attribute_scores.device)
        return attribute_scores @ self.normalized_class_attributes(class_attributes).T + self.class_bias(seen)

    @property
    def attribute_table(self) -> AttributeTable:
        """The classes that the model knows now; roles are 'train' (seen) or 'unseen'."""
        return AttributeTable(
            [self.config.id2label[label] for label in range(self.config.num_labels)],
            self.config.attribute_names,
            self.class_attributes.float().cpu().numpy(),
            self.config.attribute_groups,
            ["train" if seen else "unseen" for seen in self.seen.tolist()],
            traits=self._traits(),
        )

    def _traits(self) -> list[dict] | None:
        """`config.traits`, where a trait that a description leaves out speaks neither for nor against a class.

        That is the mean over the seen classes, but for raised attributes what the mean of these comes from.
        """
        traits, power = self.config.traits, self.config.attribute_power
        if traits is None or power == 1 or not self.config.center_attributes:
            return traits
        neutral = self.attribute_mean.sign() * self.attribute_mean.abs() ** (1 / power)
        return [trait | {"fill": value} for trait, value in zip(traits, neutral.tolist(), strict=True)]

    @torch.no_grad()
    def top_classes(
        self, attribute_scores: torch.Tensor, k: int = 5, chunk_size: int = 65536
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best of the model's own classes, without a B x K matrix: for very many classes.

        Args:
            attribute_scores: B x A. k: how many classes (all, where there are fewer). chunk_size: classes at a time.

        Returns:
            Logits B x k, best first; their labels and probabilities among all K classes, each B x k.
        """
        sources = (self.class_attributes, self.attribute_mean)
        lengths = self.class_cache("lengths", sources, lambda: self._row_lengths(chunk_size))
        offset = attribute_scores @ self.attribute_mean
        best, labels, totals = [], [], []
        for start in range(0, len(lengths), chunk_size):
            chunk = slice(start, start + chunk_size)
            rows = self.raised(self.class_attributes[chunk])
            logits = (attribute_scores @ rows.T - offset[:, None]) / lengths[chunk]
            logits = logits + self.class_bias(self.seen[chunk])
            values, indices = logits.topk(min(k, logits.shape[1]))
            best.append(values)
            labels.append(indices + start)
            totals.append((logits / self.config.temperature).logsumexp(dim=1))
        best, labels = torch.cat(best, dim=1), torch.cat(labels, dim=1)
        best, order = best.topk(min(k, best.shape[1]))
        total = torch.stack(totals).logsumexp(dim=0)
        return best, labels.gather(1, order), (best / self.config.temperature - total[:, None]).float().exp()

    def _row_lengths(self, chunk_size: int) -> torch.Tensor:
        """Lengths of the centred rows, K, without a copy of the whole K x A table."""
        parts = self.class_attributes.split(chunk_size)
        return torch.cat([(self.raised(rows) - self.attribute_mean).norm(dim=1) for rows in parts]).clamp_min(1e-12)


def _settle(config: dict, facts: dict, source: str) -> None:
    """Take over what `source` settles. Raise ValueError where the arguments in `config` say otherwise."""
    for name, value in facts.items():
        given = config.setdefault(name, value)
        if given != value and not (isinstance(given, tuple) and list(given) == value):
            raise ValueError(f"{name} is {given!r:.200}, but {source} gives {value!r:.200}. Leave it out.")


def align_memory(model: nn.Module) -> None:
    """Move tensors on the CPU that do not start at a multiple of 64 bytes, one at a time.

    A tensor of a safetensors file starts anywhere, where some kernels add up in another order than for a tensor that
    PyTorch has allocated: a loaded model would differ from the saved one in the last bits of its logits.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone(memory_format=torch.preserve_format)


DEDNForZeroShot.register_for_auto_class("AutoModelForZeroShotImageClassification")
DEDNConfig.register_for_auto_class()
