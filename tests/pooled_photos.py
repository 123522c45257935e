"""Pooled features that show some attributes of made-up classes and hide the others."""

import numpy as np

from dedn_hf import AttributeTable
from dedn_hf.studies.pooled import PooledPhotos

ATTRIBUTES, CHANNELS, PER_CLASS = 12, 24, 12


def made_up(
    seen: int = 16, unseen: int = 4, hidden: int = 4, noise: float = 0.5, seed: int = 0
) -> tuple[dict[str, PooledPhotos], AttributeTable]:
    """Splits and table; the last `hidden` attributes are in the table, but not in the features."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 2, (seen + unseen, ATTRIBUTES)).astype(float)
    values[np.arange(len(values)), np.arange(len(values)) % (ATTRIBUTES - hidden)] = 1  # no row of zeros
    table = AttributeTable(
        [f"bird {number}" for number in range(len(values))],
        [f"{'hidden' if number >= ATTRIBUTES - hidden else 'shown'} {number}" for number in range(ATTRIBUTES)],
        values,
        roles=["train"] * seen + ["unseen"] * unseen,
    )
    return photos_of(table, seed, noise), table


def photos_of(table: AttributeTable, seed: int = 0, noise: float = 0.5) -> dict[str, PooledPhotos]:
    """Photos of all classes of the table, by split."""
    random = np.random.default_rng(seed)
    shows = np.array([name.startswith("shown") for name in table.attribute_names])
    looks = random.normal(size=(table.num_attributes, CHANNELS)) * shows[:, None]
    labels = np.repeat(np.arange(len(table)), PER_CLASS)
    features = table.class_attributes[labels] @ looks + noise * random.normal(size=(len(labels), CHANNELS))
    number = np.tile(np.arange(PER_CLASS), len(table))
    everything = PooledPhotos(
        features.astype(np.float32), labels, [f"{label}/{n}.jpg" for label, n in zip(labels, number, strict=True)]
    )
    seen, test = table.seen[labels], number >= PER_CLASS - 3
    parts = {"train": seen & ~test, "test_seen": seen & test, "test_unseen": ~seen}
    return {name: everything.of(chosen) for name, chosen in parts.items()}
