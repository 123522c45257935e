"""Pooled features of a data set: of each photo the mean over the regions of its feature map."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from dedn_hf.data.catalog import VALIDATION_FRACTION, hold_out
from dedn_hf.data.features import FeatureCache

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
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

    def held_out(self, purpose: str = "validation") -> np.ndarray:
        """N bool: about a fifth of each class, chosen by a hash of the purpose and the files, never all of it."""
        chosen = set()
        for label in np.unique(self.labels):
            files = [self.files[i] for i in np.flatnonzero(self.labels == label)]
            chosen |= hold_out(files, VALIDATION_FRACTION, purpose)
        return np.array([file in chosen for file in self.files], dtype=bool)


def joined(parts: Sequence[PooledPhotos]) -> PooledPhotos:
    """The photos of several splits, one after the other."""
    return PooledPhotos(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [file for part in parts for file in part.files],
    )


def redivided(
    photos: Mapping[str, PooledPhotos], table: AttributeTable, unseen: int, seed: int
) -> tuple[dict[str, PooledPhotos], AttributeTable]:
    """Splits and table with other classes unseen, so many, drawn by the seed from those with photos.

    A fifth of the photos of a seen class, by a hash of their names, is test_seen.
    """
    everything = joined(list(photos.values()))
    drawn = np.random.default_rng(seed).permutation(np.unique(everything.labels))[:unseen]
    roles = ["unseen" if index in drawn else "train" for index in range(len(table))]
    of_unseen, tested = np.isin(everything.labels, drawn), everything.held_out("test")
    parts = {"train": ~of_unseen & ~tested, "test_seen": ~of_unseen & tested, "test_unseen": of_unseen}
    return {name: everything.of(chosen) for name, chosen in parts.items()}, table.replace(roles=roles)


def pool(
    splits: datasets.DatasetDict, model: DEDNForZeroShot, folder: str | Path | None = None, **how: Any
) -> dict[str, PooledPhotos]:
    """Pooled features of each split.

    Args:
        splits: as `dedn_hf.data.load` gives them.
        model: with the backbone. folder: of the feature cache, made if it is not there, which a training uses again;
            without one, it is thrown away. how: arguments of `open_views`.

    Raises:
        As `FeatureCache.open_or_build`.
    """
    images = [split.select_columns(["image", "file"]) for split in splits.values()]
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as kept:
        where = Path(kept) / "features" if folder is None else kept
        how = {"precision": "auto", **how}
        cache = FeatureCache.open_or_build(where, model, datasets.concatenate_datasets(images), **how)
        return {name: pooled_split(cache, split) for name, split in splits.items()}


def pooled_split(cache: FeatureCache, split: datasets.Dataset) -> PooledPhotos:
    """One split, read block by block."""
    files = list(split["file"])
    rows = cache.rows(files)
    blocks = (cache.read(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
    means = [block.float().mean(dim=(2, 3)).numpy() for block in blocks]
    features = np.concatenate(means) if means else np.zeros((0, cache.shape[1]), dtype=np.float32)
    return PooledPhotos(features, np.array(split["label"][:], dtype=np.int64), files)
