"""New models: a timm backbone, and experts of the right sizes that start from what the attributes mean."""

from typing import TypeVar

import torch
from torch.nn import functional as F

from .attribute_groups import group_attributes
from .attribute_table import AttributeTable
from .backbone import Backbone, create_body, preprocessing_of, size_arguments
from .configuration_dedn import DEDNConfig

T = TypeVar("T")


class FromTimmMixin:
    """`from_timm` of `DEDNForZeroShot`."""

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
            config: any argument of `DEDNConfig`.

        Raises:
            ValueError: unknown backbone, arguments that do not fit the table.
        """
        config.setdefault("attribute_names", table.attribute_names)
        config.setdefault("attribute_groups", group_attributes(table, groups, num_groups))
        if table.attribute_embeddings is not None:
            config["embedding_size"] = table.attribute_embeddings.shape[1]
        config["id2label"] = dict(enumerate(table.class_names))
        body = None
        if backbone is not None:
            preprocessing, sizes = preprocessing_of(backbone), size_arguments(backbone, image_size)
            config = {
                **preprocessing,
                **config,
                "backbone": backbone,
                "backbone_kwargs": {**sizes, **(backbone_kwargs or {})},
            }
            config["image_size"] = image_size or preprocessing["image_size"]
            extractor = Backbone(backbone, config.get("feature_source", "stage"), **config["backbone_kwargs"])
            if pretrained:
                extractor.body = create_body(**{**extractor.recipe, "pretrained": pretrained})
            body, config["feature_shape"] = extractor.body, extractor.feature_shape(config["image_size"])
        model = cls(DEDNConfig(**config))
        if body is not None:
            model.backbone.body = body
            model.freeze_backbone(model.config.freeze_backbone)
        model.set_classes(table)
        if model.config.center_attributes:
            model.attribute_mean.copy_(model.class_attributes[model.seen].mean(dim=0))
        if table.attribute_embeddings is not None:
            embeddings = F.normalize(torch.from_numpy(table.attribute_embeddings), dim=-1)
            for expert in model.experts.values():
                expert.attribute_embeddings.data.copy_(embeddings)
        return model
