"""The packaged metadata of the three benchmarks: proposed split (Xian et al., TPAMI 2018), attributes, image list.

`metadata/` has three files for each benchmark. `.json` holds class names, roles, attribute names and groups. `.npz`
holds class attributes (K x A, raw scale) and word vectors (A x 300). `_images.csv.gz` lists images, labels and splits.
"""

from __future__ import annotations

import csv
import gzip
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dedn_hf.modeling.attribute_table import AttributeTable, near_names

METADATA = Path(__file__).parent / "metadata"
BENCHMARKS = ("cub", "sun", "awa2")


class ListedImage(NamedTuple):
    """One image of a benchmark: path inside the image folder, 0-based class index, split."""

    file: str
    label: int
    split: str  # "trainval", "test_seen" or "test_unseen"


def attribute_table(name: str) -> AttributeTable:
    """The K x A class attributes of 'cub' (200 x 312), 'sun' (717 x 102) or 'awa2' (50 x 85).

    Classes stand in the order of the proposed split, which is not alphabetical. Values are raw: percent for CUB and
    AWA2, 0 to 1 for SUN. AWA2's file has four entries of -1, which mean "missing". They are replaced by the mean of
    their attribute over the other classes.
    `attribute_embeddings` are the word vectors of the attribute names (D = 300). `roles` follow the proposed split.

    Raises:
        ValueError: `name` is not a benchmark. The message suggests similar names.
    """
    require_benchmark(name)
    described = json.loads((METADATA / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(METADATA / f"{name}.npz", allow_pickle=False) as arrays:
        return AttributeTable(
            class_names=[entry["name"] for entry in described["classes"]],
            attribute_names=[entry["name"] for entry in described["attributes"]],
            class_attributes=fill_missing(arrays["class_attributes"]),
            attribute_groups=[entry["group"] for entry in described["attributes"]],
            roles=[entry["role"] for entry in described["classes"]],
            attribute_embeddings=arrays["word_vectors"],
        )


def fill_missing(class_attributes: np.ndarray) -> np.ndarray:
    """K x A, in which the mean of a column's other entries replaces each negative entry, which means "missing"."""
    known = np.where(class_attributes < 0, np.nan, class_attributes)
    return np.where(np.isnan(known), np.nanmean(known, axis=0), known)


@cache
def image_list(name: str) -> tuple[ListedImage, ...]:
    """Every image of benchmark `name`, ordered by file name. Raises ValueError for an unknown name."""
    require_benchmark(name)
    with gzip.open(METADATA / f"{name}_images.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return tuple(ListedImage(path, int(label), split) for path, label, split in rows)


def require_benchmark(name: str) -> None:
    """Raise ValueError, which suggests similar names, unless `name` is one of `BENCHMARKS`."""
    if name not in BENCHMARKS:
        raise ValueError(f"No benchmark {name!r}: there are {', '.join(BENCHMARKS)}.{near_names(name, BENCHMARKS)}")
