"""Small attribute tables for tests."""

import numpy as np

from dedn_hf import AttributeTable

SIX_BIRDS = """species;bill;mass;crest
kite;hooked;1200 g;no
wren;thin;9 g;no
tern;straight;120 g;no
lapwing;straight;220 g;yes
jay;strong;160 g;yes
hoopoe;curved;70 g;yes
"""


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
