"""The pooled expert's closed form, from training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import Dataset

from dedn_hf.training.evaluation import loader_of

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot


def fit_pooled_expert(
    model: DEDNForZeroShot, images: Dataset, labels: torch.Tensor, accelerator: Accelerator, num_workers: int = 0
) -> None:
    """Fit the pooled expert of `model` to images, the same on every process.

    Args:
        images: N, as they are evaluated: with their mirror images where the model uses these. labels: N.

    Raises:
        ValueError: a model without a pooled expert.
    """
    expert = model.pooled_expert
    if expert is None:
        raise ValueError("This model has no pooled expert (its pooled_weight is 0).")
    model.to(accelerator.device)
    if accelerator.is_main_process:
        with accelerator.autocast():  # as in evaluation
            pooled = pooled_features(model, images, num_workers)
        present = labels.unique()
        labels = torch.searchsorted(present, labels).repeat_interleave(pooled.shape[1])
        rows = model.normalized_class_attributes().cpu()[present]
        expert.learn(pooled.flatten(0, 1), labels, rows)
    for name, buffer in expert.named_buffers():
        setattr(expert, name, broadcast(buffer))


@torch.no_grad()
def pooled_features(model: DEDNForZeroShot, images: Dataset, num_workers: int = 0) -> torch.Tensor:
    """N x views x C, on the CPU: the mean over the regions of every image's feature map, and of its mirror image's."""
    training = model.training
    model.eval()
    found = []
    for batch in loader_of(images, num_workers=num_workers):
        inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
        pooled = model.feature_map(inputs.get("pixel_values"), inputs.get("features")).float().mean(dim=(-2, -1))
        found.append((pooled if pooled.ndim == 3 else pooled[:, None]).cpu())
    model.train(training)
    return torch.cat(found)
