"""Small attribute tables for tests."""

import numpy as np

from dedn_hf import AttributeTable


def small_table(classes: int = 6, attributes: int = 8, unseen: int = 2, embedding_size: int = 5) -> AttributeTable:
    """A table of random values from a fixed seed. It has two groups, and its last `unseen` classes are unseen."""
    rng = np.random.default_rng(0)
    return AttributeTable(
        [f"class {i}" for i in range(classes)],
        [f"attribute {i}" for i in range(attributes)],
        rng.uniform(1, 100, (classes, attributes)),
        ["head" if i % 3 else "wing" for i in range(attributes)],
        ["train"] * (classes - unseen) + ["unseen"] * unseen,
        rng.normal(size=(attributes, embedding_size)),
    )
