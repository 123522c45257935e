"""Any timm model as a B x C x H x W feature extractor."""

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import timm
import torch
from torch import nn


def create_body(name: str, feature_source: str = "stage", pretrained: bool | str = False, **kwargs) -> nn.Module:
    """The timm model whose output `Backbone` reads.

    Args:
        name: timm model name. feature_source: 'stage' or 'head', see `DEDNConfig`.
        pretrained: True downloads timm's weights; a path reads a weights file (safetensors).

    Raises:
        ValueError: timm knows no such model, or the file does not fit it. OSError: the weights cannot be had.
    """
    if not timm.is_model(name.split("/")[-1].split(".")[0]) and ":" not in name:
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else " timm.list_models('*vit*') searches the names."
        raise ValueError(f"timm {timm.__version__} has no model {name!r}.{hint}")
    kwargs = dict(kwargs, pretrained=bool(pretrained))
    if isinstance(pretrained, (str, bytes)) or hasattr(pretrained, "__fspath__"):
        if not os.path.isfile(pretrained):
            raise FileNotFoundError(f"There is no file of weights {str(pretrained)!r}.")
        kwargs["pretrained_cfg_overlay"] = {"file": str(pretrained)}
    kwargs.update({"features_only": True, "out_indices": (-1,)} if feature_source == "stage" else {"num_classes": 0})
    try:
        return timm.create_model(name, **kwargs)
    except OSError as error:
        if pretrained is not True:
            raise
        raise OSError(
            f"The weights of {name} could not be downloaded. Give a file that holds them (--weights FILE, or "
            f"pretrained=FILE), or take random ones (pretrained=False). The Hub's client says: {error}"
        ) from error


class Backbone(nn.Module):
    """Pixels to one feature map.

    `body` is the timm network: its weights are called `backbone.body.*`.
    """

    def __init__(self, name: str, feature_source: str = "stage", **kwargs) -> None:
        super().__init__()
        self.recipe = {"name": name, "feature_source": feature_source, **kwargs}
        self.body = create_body(**self.recipe)
        self.frozen_stages: tuple[str, ...] = ()
        self.frozen_batch_norm = False

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """B x 3 x image_size x image_size to B x C x H x W."""
        if self.recipe["feature_source"] == "stage":
            feature_map = self.body(pixel_values)[-1]
            layout = str(getattr(getattr(self.body, "output_fmt", "NCHW"), "value", "NCHW"))
        else:
            feature_map = self.body.forward_features(pixel_values)
            layout = getattr(self.body, "output_fmt", "NCHW") if feature_map.ndim == 4 else "NLC"
        if layout == "NHWC":
            return feature_map.permute(0, 3, 1, 2)
        if layout == "NLC":
            return self._tokens_to_map(feature_map)
        return feature_map

    def _tokens_to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens[:, getattr(self.body, "num_prefix_tokens", 0) :]
        height, width = getattr(self.body.patch_embed, "grid_size", None) or [round(tokens.shape[1] ** 0.5)] * 2
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    @torch.no_grad()
    def feature_shape(self, image_size: int) -> list[int]:
        """[C, H, W] for square images of `image_size` pixels, found by running one."""
        was_training = self.training
        self.eval()
        shape = list(self(torch.zeros(1, 3, image_size, image_size)).shape[1:])
        self.train(was_training)
        return shape

    def restore_buffers(self) -> None:
        """Recompute what no weights file holds: buffers such as position indices and rotary tables.

        transformers builds models without storage and fills in the weights, which leaves these buffers undefined.
        """
        lost = [(name, module) for name, module in self.body.named_modules() if module._non_persistent_buffers_set]
        if not lost:
            return
        dtype = next(self.body.parameters()).dtype
        with torch.device("cpu"):
            fresh = dict(create_body(**self.recipe).named_modules())
        for name, module in lost:
            for key in module._non_persistent_buffers_set:
                old, new = module._buffers[key], fresh[name]._buffers[key]
                if new is not None:
                    new = new.to(dtype) if new.is_floating_point() else new
                    new = new.to(old.device if old is not None else "cpu")
                module._buffers[key] = new

    def freeze_stages(self, prefixes: list[str], batch_norm: bool = False) -> None:
        """Keep part of the backbone as it is while the rest is trained.

        Args:
            prefixes: the modules of these names are frozen with all they hold, weights and statistics.
            batch_norm: keep the statistics of all batch normalisation.

        Raises:
            ValueError: a prefix that no module has.
        """
        names = [name for name, _ in self.body.named_parameters()]
        for prefix in prefixes:
            if not any(_belongs(name, [prefix]) for name in names):
                stages = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
                raise ValueError(f"The backbone has no stage {prefix!r}; it has {', '.join(stages[:20])}.")
        self.frozen_stages, self.frozen_batch_norm = tuple(prefixes), batch_norm
        for name, parameter in self.body.named_parameters():
            if _belongs(name, self.frozen_stages):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen stages and frozen batch normalisation stay in evaluation mode."""
        super().train(mode)
        for name, module in self.body.named_modules():
            norm = self.frozen_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)
            if norm or _belongs(name, self.frozen_stages):
                module.training = False
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory, where timm supports it for this model."""
        target = self.body if hasattr(self.body, "set_grad_checkpointing") else getattr(self.body, "model", None)
        if not hasattr(target, "set_grad_checkpointing"):
            raise ValueError(f"timm's {self.recipe['name']} does not support gradient checkpointing.")
        target.set_grad_checkpointing(enable)


def _belongs(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a module or weight is one of the named modules or lies in it: 'blocks.1.norm' in 'blocks.1'."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@contextmanager
def offloaded_weights_loaded(module: nn.Module) -> Iterator[None]:
    """Hold all weights that accelerate has offloaded from a module and what it contains.

    Its hooks load the weights of each module when that is called. But timm's networks use weights of modules that they
    never call: these would stay away, and attention would compute with whatever lies in memory.
    """
    hooks = [(each, each._hf_hook) for each in module.modules() if getattr(each, "_hf_hook", None) is not None]
    hooks = [(each, hook) for each, hook in hooks if getattr(hook, "offload", False)]
    for each, hook in hooks:
        hook.pre_forward(each)
        hook.offload = False  # so that it keeps them
    try:
        yield
    finally:
        for each, hook in hooks:
            hook.offload = True
            hook.post_forward(each, None)


def preprocessing_of(name: str) -> dict:
    """The preprocessing a timm model was trained with, as arguments of `DEDNConfig`."""
    cfg = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    return {
        "image_size": cfg.input_size[-1],
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
        "interpolation": cfg.interpolation if cfg.interpolation in ("bilinear", "nearest", "lanczos") else "bicubic",
    }


def size_arguments(name: str, image_size: int | None) -> dict:
    """`{"img_size": ...}` where the model is built for one input size and another is wanted."""
    cfg = timm.get_pretrained_cfg(name)
    if image_size is None or cfg is None or image_size == cfg.input_size[-1] or not cfg.fixed_input_size:
        return {}
    return {"img_size": image_size}
