"""Pooled features of a data set: of each photo the mean over the regions of its feature map."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from dedn_hf.data.catalog import VALIDATION_FRACTION, hold_out
from dedn_hf.data.features import FeatureCache

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

BLOCK = 256  # photos read at a time: a cache does not fit into memory


@dataclass
class PooledPhotos:
    """N photos as C numbers each.

    Args:
        features: N x C float32. labels: N indices of classes. files: N names, which decide who is held out.
    """

    features: np.ndarray
    labels: np.ndarray
    files: list[str]

    def of(self, chosen: np.ndarray) -> PooledPhotos:
        """Those with a True in `chosen`, N bool."""
        return PooledPhotos(
            self.features[chosen], self.labels[chosen], [self.files[i] for i in np.flatnonzero(chosen)]
        )

    def held_out(self) -> np.ndarray:
        """N bool: about a fifth of each class, chosen by a hash of the files' names, never all of it."""
        chosen = set()
        for label in np.unique(self.labels):
            files = [self.files[i] for i in np.flatnonzero(self.labels == label)]
            chosen |= hold_out(files, VALIDATION_FRACTION, "validation")
        return np.array([file in chosen for file in self.files], dtype=bool)


def pool(
    splits: datasets.DatasetDict, model: DEDNForZeroShot, folder: str | Path | None = None, **how: Any
) -> dict[str, PooledPhotos]:
    """Pooled features of each split.

    Args:
        splits: as `dedn_hf.data.load` gives them.
        model: with the backbone. folder: of the feature cache, made if it is not there, which a training uses again;
            without one, it is thrown away. how: arguments of `FeatureCache.build`.

    Raises:
        As `FeatureCache.open_or_build`.
    """
    images = [split.select_columns(["image", "file"]) for split in splits.values()]
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as kept:
        cache = FeatureCache.open_or_build(
            Path(kept) / "features" if folder is None else kept, model, datasets.concatenate_datasets(images), **how
        )
        return {name: pooled_split(cache, split) for name, split in splits.items()}


def pooled_split(cache: FeatureCache, split: datasets.Dataset) -> PooledPhotos:
    """One split, read block by block."""
    files = list(split["file"])
    rows = cache.rows(files)
    blocks = (cache.read(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
    means = [block.float().mean(dim=(2, 3)).numpy() for block in blocks]
    features = np.concatenate(means) if means else np.zeros((0, cache.shape[1]), dtype=np.float32)
    return PooledPhotos(features, np.array(split["label"][:], dtype=np.int64), files)
