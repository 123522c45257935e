"""What several processes need besides a prepared model, so that they train and save what one process would."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from timm.layers import convert_sync_batchnorm

from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

if TYPE_CHECKING:
    from dedn_hf.training.settings import TrainingSettings


def require_supported(settings: TrainingSettings, accelerator: Accelerator) -> None:
    """Raise ValueError, with what to change, where the settings do not go with how processes were started."""
    kind, started = accelerator.distributed_type, int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and accelerator.num_processes == 1:
        raise ValueError(
            f"{started} processes were started, but each would train for itself: there is no GPU. On CPUs, "
            "start them with --cpu (Accelerator(cpu=True))."
        )
    if kind not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return
    name, plugin = ("FSDP", None) if kind == DistributedType.FSDP else ("DeepSpeed", accelerator.deepspeed_plugin)
    if settings.ema_decay is not None:
        raise ValueError(
            f"ema_decay averages whole weights, and {name} shards them. Set training.ema_decay=null, or use "
            "multi_gpu.yaml."
        )
    if plugin is not None:
        if plugin.zero_stage > 2:
            raise ValueError(
                f"DeepSpeed's ZeRO stage {plugin.zero_stage} shards the experts' weights, which are needed together. "
                "Set zero_stage: 2, or use fsdp.yaml."
            )
        if settings.mixed_precision != "no":
            raise ValueError(
                f"With mixed_precision={settings.mixed_precision!r}, DeepSpeed rounds the class attributes to 16 bits "
                "too. Set training.mixed_precision=no, or use fsdp.yaml or multi_gpu.yaml."
            )
        return
    if not accelerator.is_fsdp2:
        raise ValueError("FSDP 1 cannot train part of a model. Set fsdp_version: 2 in the file for accelerate launch.")
    if accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading loses the class table, which is not a weight. Set it to false."
        )
    if accelerator.state.fsdp_plugin.min_num_params is not None:
        raise ValueError(
            "SIZE_BASED_WRAP may shard parts of the backbone that timm uses without calling them. Set "
            "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP and fsdp_transformer_layer_cls_to_wrap: Backbone,Expert."
        )
    if settings.mixed_precision == "fp16":
        raise ValueError("FSDP is used with bf16 here. Set training.mixed_precision=bf16 or no.")
    if settings.channels_last:
        raise ValueError("FSDP shards contiguous weights only. Set training.channels_last=false.")


def configure_sharding(settings: TrainingSettings, accelerator: Accelerator) -> None:
    """Tell DeepSpeed and FSDP, before the model is prepared, what they would otherwise read from a file."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        share, steps = math.ceil(settings.batch_size / accelerator.num_processes), settings.gradient_accumulation_steps
        accelerator.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=share,
            gradient_accumulation_steps=steps,
            train_batch_size=share * steps * accelerator.num_processes,  # otherwise that of the training before
            gradient_clipping=settings.max_grad_norm or 0.0,
        )
    elif accelerator.distributed_type == DistributedType.FSDP:
        # Only autocast, as without FSDP: weights of 16 bits do not go with batch statistics of 32.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None


def synchronise_batch_norm(model: DEDNForZeroShot, accelerator: Accelerator) -> None:
    """Let batch normalisation that is trained take its statistics from the joint batch, in place.

    Raises:
        ValueError: several processes without GPUs, where PyTorch cannot.
    """
    model.train()
    trained = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if not trained or accelerator.num_processes == 1:
        return
    if accelerator.device.type == "cpu":
        raise ValueError(
            f"Batch normalisation ({trained[0]}) would take its statistics from each process's own images: PyTorch "
            "joins them on GPUs only. Use one process, which uses all cores, or training.freeze_batch_norm=true and "
            "model.standardize_features=false."
        )
    for name in trained:
        model.set_submodule(name, convert_sync_batchnorm(model.get_submodule(name)))  # timm's keeps its activations


def joint_loss(
    loss: torch.Tensor,
    terms: Mapping[str, torch.Tensor],
    calibration_weight: float,
    share: float,
    accelerator: Accelerator,
) -> torch.Tensor:
    """A scalar whose mean over the processes is the loss of the joint batch, and its gradient that one's.

    The terms are means over images, which `share` weights. Self-calibration is the logarithm of one: its gradient has
    the mean over the joint batch in the denominator.

    Args:
        loss, terms: of this process's images, as `DEDNOutput` has them. share: their number over the mean number of
            all processes.
    """
    if calibration_weight and accelerator.num_processes > 1:
        for name, own in terms.items():
            if name.endswith(".calibration"):
                mass = (-own.detach()).exp()
                joint = accelerator.reduce(mass * share, "mean")
                loss = loss + calibration_weight * (mass / joint * (own - own.detach()) - joint.log() - own)
    return loss * share


def save_model(model: torch.nn.Module, folder: Path, accelerator: Accelerator) -> None:
    """`save_pretrained` of a model that may be sharded; every process calls it, the main one writes."""
    whole = accelerator.unwrap_model(model)
    if accelerator.distributed_type == DistributedType.FSDP:
        weights = accelerator.get_state_dict(model)
        if accelerator.is_main_process:
            whole = DEDNForZeroShot(whole.config)  # FSDP has given the trained one a class of its own
            whole.load_state_dict(weights)
    if accelerator.is_main_process:
        whole.save_pretrained(folder)
