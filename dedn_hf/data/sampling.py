"""Which images make a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class SeededIndices(list):
    """Indices of a batch's images, and `seeds`: one integer for each, which decides what is random about that image.

    Data sets take views and augmentation from it, so that these belong to the image's place in the joint batch, and
    not to the process or the worker that happens to load it.
    """

    def __init__(self, indices: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__(indices)
        self.seeds = list(seeds)


class Batches(Sampler[SeededIndices]):
    """Batches of image indices and seeds for one epoch; the same for the same seed and epoch.

    'class_balanced' draws min(#classes, batch) classes without replacement, then max(batch // #classes, 1) images of
    each with replacement (the published sampling of CUB and AWA2); 'uniform' draws every image once, in random order.

    With several processes, each gets its share of the same joint batch, so that their number changes nothing else.

    Args:
        labels: of all training images. batch_size: images of a joint batch. sampling: 'class_balanced' or 'uniform'.
        rank, world_size: which share of how many.

    Raises:
        ValueError: unknown sampling, a batch smaller than the number of processes or larger than the data.
    """

    def __init__(
        self, labels, batch_size: int, sampling: str = "uniform", seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.labels = np.asarray(labels)
        if sampling not in ("class_balanced", "uniform"):
            raise ValueError(f"Unknown sampling {sampling!r}; use class_balanced or uniform.")
        if not world_size <= batch_size <= len(self.labels):
            raise ValueError(
                f"batch_size is {batch_size}, but it must be {world_size} to {len(self.labels)}: from an image for "
                f"each process to all training images. In commands: --set training.batch_size={len(self.labels)}"
            )
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        self.rank, self.world_size, self.epoch, self.skip = rank, world_size, 0, 0
        self._members = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        if self.joint_size < world_size:
            raise ValueError(
                f"A class-balanced batch of {batch_size} from {len(self._members)} classes has {self.joint_size} "
                f"images, fewer than the {world_size} processes. Raise batch_size, or use sampling='uniform'."
            )

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    @property
    def joint_size(self) -> int:
        """Images of one joint batch; class-balanced ones can be smaller than `batch_size`."""
        if self.sampling == "uniform":
            return self.batch_size
        classes = len(self._members)
        return min(classes, self.batch_size) * max(self.batch_size // classes, 1)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Draw other batches from now on, without the first `skip` of them."""
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[SeededIndices]:
        rng = np.random.default_rng([self.seed, self.epoch])
        # Another generator, so that what is drawn does not depend on whether anything is done with the seeds.
        of_images = np.random.default_rng([self.seed, self.epoch, 1])
        draw = self._class_balanced if self.sampling == "class_balanced" else self._uniform
        share = slice(self.rank, None, self.world_size)
        for number, batch in enumerate(draw(rng)):
            seeds = of_images.integers(2**63, size=len(batch))
            if number >= self.skip:
                yield SeededIndices(batch[share].tolist(), seeds[share].tolist())

    def _uniform(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        order = rng.permutation(len(self.labels))
        for step in range(len(self)):
            yield order[step * self.batch_size : (step + 1) * self.batch_size]

    def _class_balanced(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        classes = min(len(self._members), self.batch_size)
        each = max(self.batch_size // len(self._members), 1)
        for _ in range(len(self)):
            chosen = rng.permutation(len(self._members))[:classes]
            yield np.concatenate([rng.choice(self._members[c], each) for c in chosen])
