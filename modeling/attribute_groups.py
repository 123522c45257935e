"""Ways to split A attributes into the disjoint groups of the fine expert."""

import numpy as np

from .attribute_table import AttributeTable

METHODS = ("given", "single", "embeddings", "co-occurrence")


def group_attributes(
    table: AttributeTable, method: str = "given", num_groups: int | None = None, seed: int = 0
) -> list[str]:
    """Group name of each of the A attributes.

    Args:
        method: 'given', the table's own groups (one group where it has none); 'single', one group; 'embeddings',
            k-means on the attribute embeddings; 'co-occurrence', k-means on the columns of the seen classes'
            attributes, so that attributes that go together share a group.
        num_groups: number of k-means groups, 2..A. seed: of k-means.

    Raises:
        ValueError: unknown method, no embeddings to cluster, a number of groups outside 2..A.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown attribute grouping {method!r}; use one of {', '.join(METHODS)}.")
    if method == "single" or (method == "given" and table.attribute_groups is None):
        return ["all"] * table.num_attributes
    if method == "given":
        return table.attribute_groups
    if method == "embeddings" and table.attribute_embeddings is None:
        raise ValueError("groups='embeddings' needs attribute embeddings, and the attribute table has none.")
    points = table.attribute_embeddings if method == "embeddings" else table.class_attributes[table.seen].T
    return _k_means(points, num_groups or len(set(table.attribute_groups or [])) or 4, seed)


def _k_means(points: np.ndarray, num_groups: int, seed: int) -> list[str]:
    if not 2 <= num_groups <= len(points):
        raise ValueError(f"num_groups is {num_groups}; use 2 to {len(points)}, the number of attributes.")
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("k-means attribute groups need scikit-learn: pip install scikit-learn.") from error
    directions = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    labels = KMeans(num_groups, n_init=10, random_state=seed).fit_predict(directions)
    return [f"group-{label}" for label in labels]
