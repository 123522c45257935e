"""Any timm model as a B x C x H x W feature extractor."""

import argparse
import collections
import difflib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from torch import nn

# What load_state_dict and timm's converters raise for weights of another model.
CONVERSION_ERRORS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


def create_body(name: str, feature_source: str = "stage", pretrained: bool | str = False, **kwargs) -> nn.Module:
    """The timm model whose output `Backbone` reads.

    Args:
        name: timm model name. feature_source: 'stage' or 'head', see `DEDNConfig`.
        pretrained: True downloads timm's weights; a path reads a file, see `create_from_file`.

    Raises:
        ValueError: timm knows no such model or cannot make it so, or the file does not fit it.
        OSError: the weights cannot be had.
    """
    if not timm.is_model(name.split("/")[-1].split(".")[0]) and ":" not in name:
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else " timm.list_models('*vit*') searches the names."
        raise ValueError(f"timm {timm.__version__} has no model {name!r}.{hint}")
    kwargs.update({"features_only": True, "out_indices": (-1,)} if feature_source == "stage" else {"num_classes": 0})
    if isinstance(pretrained, (str, os.PathLike)):
        return create_from_file(name, pretrained, **kwargs)
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except OSError as error:
        if not pretrained:
            raise
        raise OSError(
            f"The weights of {name} could not be downloaded. Give a file that holds them: --weights FILE, in Python "
            f"pretrained=FILE. (pretrained=False takes random ones.) The Hub's client says: {error}"
        ) from error
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"timm {timm.__version__} cannot make {name} with {kwargs}: {error} Try other backbone_kwargs, another "
            "image_size, or feature_source='head' where features_only is not possible."
        ) from error


def create_from_file(name: str, file: str | os.PathLike, **kwargs) -> nn.Module:
    """A timm model with all its weights from a file, converted where timm knows how.

    Args:
        name: timm model name. kwargs: arguments of `timm.create_model`.
        file: safetensors, or a PyTorch file of tensors, of a timm model or a saved DEDN. A classifier, and wrappers in
            the names (`module.`, `model.backbone.`), do no harm.

    Raises:
        FileNotFoundError: no such file. ValueError: a file that cannot be read, or one in which tensors of the model
            are missing or have another shape.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = timm.create_model(name, **kwargs)
    tensors = unwrapped(read_tensors(file), network, file)
    unfit = misfits(tensors, network)
    if not unfit:
        body, there = timm.create_model(name, **kwargs), {plain(key): tensor for key, tensor in tensors.items()}
        body.load_state_dict({k: there[plain(k)] for k in body.state_dict() if plain(k) in there}, strict=False)
        return body
    try:
        body, converted = converted_by_timm(name, tensors, **kwargs)
    except CONVERSION_ERRORS:
        converted = set()
    unfit = {key: text for key, text in unfit.items() if key not in converted}
    if unfit:
        floats = [key for key, tensor in tensors.items() if tensor.is_floating_point()]
        raise ValueError(
            f"{file} does not fit {name}. Missing or of another shape: {len(unfit)} tensors of the model, "
            f"{some(list(unfit.values()))}. The file holds {some(floats)}."
        )
    return body


def read_tensors(file: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Name to tensor, of a safetensors file or a PyTorch checkpoint. Raises FileNotFoundError, ValueError."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no file of weights {str(file)!r}.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's checkpoints hold their arguments
            content = timm.models.load_state_dict(str(file), weights_only=True)
    except Exception as error:  # of safetensors, pickle, zipfile or torch, whatever a foreign file makes them raise
        raise ValueError(
            f"{file} cannot be read as weights. Give *.safetensors, or a PyTorch file of tensors only: other pickles "
            "can run any code. If you trust this one, read it by torch.load(FILE, weights_only=False), and write its "
            f"state_dict by safetensors.torch.save_file. (The error: {' '.join(str(error).split())[:300]})"
        ) from error
    parts = {"": content, **{key: part for key, part in content.items() if isinstance(part, dict)}}
    parts = {key: {k: t for k, t in part.items() if isinstance(t, torch.Tensor)} for key, part in parts.items()}
    found = [key for key, part in parts.items() if part]
    if "" not in found and len(found) != 1:
        raise ValueError(
            f"{file} holds {'no tensors' if not found else 'several sets of tensors: ' + some(found)}. "
            "Give a file with the state_dict of one network."
        )
    return parts[found[0]]


def unwrapped(
    tensors: dict[str, torch.Tensor], network: nn.Module, file: str | os.PathLike
) -> dict[str, torch.Tensor]:
    """The tensors of the network in the file, without the names of wrappers around it, such as 'model.backbone.'.

    Raises:
        ValueError: there are several such networks, e.g. a student and a teacher.
    """
    known, votes = {plain(key) for key in network.state_dict()}, collections.Counter()
    for key in tensors:
        parts = key.split(".")
        cut = next((i for i in range(len(parts)) if "_".join(parts[i:]) in known), None)
        if cut is not None:
            votes["".join(f"{part}." for part in parts[:cut])] += 1
    prefixes = [prefix for prefix, count in votes.items() if count == max(votes.values())]
    if len(prefixes) > 1 and 2 * votes[prefixes[0]] > len(known):
        raise ValueError(f"{file} holds several networks: {some(prefixes)}. Save one of them in a file of its own.")
    prefix = prefixes[0] if prefixes else ""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def misfits(tensors: dict[str, torch.Tensor], network: nn.Module) -> dict[str, str]:
    """Tensors of the network that are not there, or not in its shape; each name to what to say of it."""
    shapes = {plain(key): list(tensor.shape) for key, tensor in tensors.items()}
    return {
        key: f"{key} ({shapes[plain(key)]} for {list(tensor.shape)})" if plain(key) in shapes else key
        for key, tensor in required_tensors(network).items()
        if shapes.get(plain(key)) != list(tensor.shape)
    }


def plain(name: str) -> str:
    """A tensor's name without what timm's `features_only` changes: a word before it, dots or underscores."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def converted_by_timm(name: str, tensors: dict[str, torch.Tensor], **kwargs) -> tuple[nn.Module, set[str]]:
    """The timm model with weights that its converter makes of these, and the names of those that it has made."""
    cfg, overlay = timm.get_pretrained_cfg(name), {}
    if cfg is not None and not (cfg.classifier and cfg.num_classes):  # where timm would refuse a classifier
        kwargs.setdefault("num_classes", cfg.num_classes)
        overlay = {"classifier": cfg.classifier or "head", "num_classes": -1}

    def create(tensors: dict[str, torch.Tensor]) -> nn.Module:
        overlay["state_dict"] = dict(tensors)
        body = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
        for module in body.modules():
            if hasattr(module, "pretrained_cfg"):
                module.pretrained_cfg.pop("state_dict", None)  # a second copy of the weights
        return body

    body = create(tensors)
    # timm only logs what was missing. So: give it NaN in place of every number, and see where they arrive.
    nans = {key: torch.full_like(t, torch.nan) if t.is_floating_point() else t for key, t in tensors.items()}
    with torch.random.fork_rng(devices=[]):
        probe = required_tensors(create(nans))
    return body, {key for key, tensor in probe.items() if tensor.isnan().any()}


def required_tensors(body: nn.Module) -> dict[str, torch.Tensor]:
    """What a file must hold: weights and statistics, each once, but no integers such as counters of batches."""
    once = {**dict(body.named_parameters()), **dict(body.named_buffers())}
    stored = body.state_dict().keys()
    return {key: tensor for key, tensor in once.items() if key in stored and tensor.is_floating_point()}


def some(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(map(repr, names[:3])) + ", ..." * (len(names) > 3)


class Backbone(nn.Module):
    """Pixels to one feature map.

    `body` is the timm network: its weights are called `backbone.body.*`.
    """

    def __init__(self, name: str, feature_source: str = "stage", **kwargs) -> None:
        super().__init__()
        require_json(kwargs)
        self.recipe = {"name": name, "feature_source": feature_source, **kwargs}
        self.body = create_body(**self.recipe)
        self.frozen_stages: tuple[str, ...] = ()
        self.frozen_batch_norm = False
        # transformers saves and loads one of the names of a weight that several blocks share, if it knows of it.
        self._tied_weights_keys = self.all_tied_weights_keys = {
            f"body.{k}": f"body.{v}" for k, v in shared_weights(self.body).items()
        }

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """B x 3 x image_size x image_size to B x C x H x W. Raises ValueError for a network without feature map."""
        if self.recipe["feature_source"] == "stage":
            feature_map = self.body(pixel_values)[-1]
            layout = str(getattr(getattr(self.body, "output_fmt", "NCHW"), "value", "NCHW"))
        else:
            feature_map = self.body.forward_features(pixel_values)
            if not isinstance(feature_map, torch.Tensor) or feature_map.ndim not in (3, 4):
                raise ValueError(self._no_map(f"a {type(feature_map).__name__} of {len(feature_map)}"))
            layout = getattr(self.body, "output_fmt", "NCHW") if feature_map.ndim == 4 else "NLC"
        if layout == "NHWC":
            return feature_map.permute(0, 3, 1, 2)
        if layout == "NLC":
            return self._tokens_to_map(feature_map)
        return feature_map

    def _tokens_to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens[:, getattr(self.body, "num_prefix_tokens", 0) :]
        count, grid = tokens.shape[1], getattr(getattr(self.body, "patch_embed", None), "grid_size", None)
        if not grid or math.prod(grid) != count:  # a network of several stages; images are square
            grid = [math.isqrt(count)] * 2
            if count < 2 or math.prod(grid) != count:
                raise ValueError(self._no_map(f"{count} tokens, which are no square"))
        return tokens.transpose(1, 2).unflatten(2, tuple(grid))

    def _no_map(self, what: str) -> str:
        return (
            f"{self.recipe['name']} gives no feature map with feature_source='head': its forward_features gives "
            f"{what}. Use feature_source='stage'."
        )

    @torch.no_grad()
    def feature_shape(self, image_size: int) -> list[int]:
        """[C, H, W] for square images of `image_size` pixels, found by running one.

        Raises:
            ValueError: the network takes no images of this size.
        """
        was_training = self.training
        self.eval()
        try:
            shape = list(self(torch.zeros(1, 3, image_size, image_size)).shape[1:])
        except (RuntimeError, AssertionError) as error:
            name = self.recipe["name"]
            raise ValueError(
                f"{name} takes no images of {image_size} x {image_size} pixels; its own image_size is "
                f"{preprocessing_of(name)['image_size']}. ({error})"
            ) from error
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
        networks = (self.body, getattr(self.body, "model", None))
        target = next((network for network in networks if hasattr(network, "set_grad_checkpointing")), None)
        if target is None:
            raise ValueError(f"timm's {self.recipe['name']} does not support gradient checkpointing.")
        target.set_grad_checkpointing(enable)
        for module in self.body.children():  # older timm computes an activation again too, from its overwritten input
            if getattr(module, "inplace", False):
                module.inplace = False


def require_json(kwargs: dict) -> None:
    """Raise ValueError for arguments of a backbone that no config.json can hold."""
    try:
        json.dumps(kwargs)
    except TypeError as error:
        raise ValueError(
            f"backbone_kwargs {kwargs} cannot be saved in config.json: {error}. Give names, numbers and lists."
        ) from error


def shared_weights(body: nn.Module) -> dict[str, str]:
    """Further names of weights that have several, each to the first name."""
    first: dict[int, str] = {}
    return {
        name: first[id(parameter)]
        for name, parameter in body.named_parameters(remove_duplicate=False)
        if first.setdefault(id(parameter), name) != name
    }


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


def timm_config(name: str) -> timm.models.PretrainedCfg:
    """What timm knows of a model. Of one on the Hub or in a folder ('hf-hub:…', 'local-dir:…') it is told there."""
    if ":" not in name:
        return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return timm.models.PretrainedCfg(**timm.create_model(name).pretrained_cfg)


def architecture_of(name: str) -> tuple[str, dict]:
    """The name that timm itself has for a model, and the arguments that make it so.

    Those of 'hf-hub:…' and 'local-dir:…' are read there: a saved model can then be made again without that place.
    """
    source, _, place = name.partition(":")
    if not place:
        return name, {}
    if source == "local-dir":
        made = json.loads(Path(place, "config.json").read_text(encoding="utf-8"))
        return made["architecture"], made.get("model_args") or {}
    _, architecture, arguments = timm.models.load_model_config_from_hf(place)
    return architecture, arguments or {}


def preprocessing_of(name: str) -> dict:
    """The preprocessing a timm model was trained with, as arguments of `DEDNConfig`."""
    cfg = timm_config(name)
    return {
        "image_size": cfg.input_size[-1],
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
        "interpolation": cfg.interpolation if cfg.interpolation in ("bilinear", "nearest", "lanczos") else "bicubic",
        "crop_pct": min(cfg.crop_pct, 1.0),  # timm pads for more than 1
        # timm's third mode 'border', of deepseek_vit only, pads too, which no processor of transformers does.
        "crop_mode": "squash" if cfg.crop_mode == "squash" else "center",
    }


def size_arguments(name: str, image_size: int | None) -> dict:
    """`{"img_size": ...}` where the model is built for one input size and another is wanted."""
    cfg = timm_config(name)
    if image_size is None or image_size == cfg.input_size[-1] or not cfg.fixed_input_size:
        return {}
    return {"img_size": image_size}
