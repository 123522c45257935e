"""Batches of cached feature maps, in place of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from dedn_hf.data.features import FeatureCache


class CachedFeatures(Dataset):
    """The images of one split as batches of cached features: `features` B x C x H x W and `labels` B.

    Args:
        caches: each a `FeatureCache` that holds all files of the split, several for several views of the images: every
            image of a batch is then of a view drawn at random. files, labels: of the split's images.
    """

    def __init__(self, caches: Sequence[FeatureCache], files: Sequence[str], labels: Sequence[int]) -> None:
        self.caches = caches
        self.rows = [cache.rows(files) for cache in caches]
        self.labels = torch.as_tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch, with one read for each view; with `SeededIndices`, the seed of an image chooses its view."""
        if len(self.caches) == 1:
            features = self.caches[0].read(self.rows[0][indices])
        else:
            seeds = getattr(indices, "seeds", None)
            if seeds is None:
                seeds = torch.randint(2**63 - 1, (len(indices),)).tolist()
            views = np.array(seeds) % len(self.caches)
            parts = [cache.read(rows[indices][views == v]) for v, (cache, rows) in enumerate(self._views())]
            features = torch.cat(parts)[np.argsort(np.argsort(views, kind="stable"))]
        return {"features": features, "labels": self.labels[indices]}

    def _views(self) -> Iterator[tuple[FeatureCache, np.ndarray]]:
        return zip(self.caches, self.rows, strict=True)


class MirroredFeatures(Dataset):
    """As `CachedFeatures`, each image with its mirror image: `features` B x 2 x C x H x W, as `flip_test` needs them.

    Args:
        caches: of the images and of their mirror images. files, labels: of the split's images.
    """

    def __init__(self, caches: Sequence[FeatureCache], files: Sequence[str], labels: Sequence[int]) -> None:
        self.sides = [CachedFeatures([cache], files, labels) for cache in caches]

    def __len__(self) -> int:
        return len(self.sides[0])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch."""
        plain, mirrored = (side.__getitems__(indices) for side in self.sides)
        return {**plain, "features": torch.stack([plain["features"], mirrored["features"]], dim=1)}
