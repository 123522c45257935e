"""One pass over images that runs the backbone on all views of them which are missing: each image is decoded once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from dedn_hf.data.processor import at_full_speed, computing_in
from dedn_hf.data.transforms import FixedViews, already_batched
from dedn_hf.data.workers import explained_worker_death

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

Batch = list[tuple[int, tuple[int, ...]]]  # images, each with the views of it that are missing


def batches_of(missing: Sequence[tuple[int, ...]], batch_size: int) -> list[Batch]:
    """Batches of at most `batch_size` pictures, where one image has no more views than that.

    Images that miss the same views stand together, in their order: n images that miss v views each make
    ceil(n / max(1, batch_size // v)) batches.

    missing: of each image, the views that are missing.
    """
    groups = defaultdict(list)
    for image, views in enumerate(missing):
        if views:
            groups[views].append((image, views))
    batches = []
    for views, group in groups.items():
        size = max(1, batch_size // len(views))
        batches += [group[start : start + size] for start in range(0, len(group), size)]
    return batches


def described(batches: Sequence[Batch]) -> str:
    """What a progress bar says: 'computing features: 8 views of 2,889 photos'."""
    photos, views = sum(map(len, batches)), len({view for batch in batches for _, views in batch for view in views})
    what = f": {views} views of" if views > 1 else " of"
    return f"computing features{what} {photos:,} photo{'s' * (photos != 1)}"


@torch.no_grad()
def extract(
    model: DEDNForZeroShot,
    source: FixedViews,
    batches: Sequence[Batch],
    precision: str,
    num_workers: int,
    bar: Callable,
    silent: bool,
) -> Generator[tuple[Batch, torch.Tensor]]:
    """Each batch with the feature maps of its views, one image after the other, P x C x H x W, on the CPU.

    Raises ValueError, with its name, for an image that cannot be read.
    """
    loader = DataLoader(source, batch_sampler=batches, num_workers=num_workers, collate_fn=already_batched)
    loaded = bar(loader, desc=described(batches), total=len(batches), initial=0, disable=silent)
    with explained_worker_death(), at_full_speed(model.eval()):
        for batch, pixels in zip(batches, loaded, strict=True):
            pixels = pixels.to(model.device, memory_format=torch.channels_last)
            with computing_in(precision, model.device):
                features = model.extract_features(pixels)
            yield batch, features.float().cpu()
