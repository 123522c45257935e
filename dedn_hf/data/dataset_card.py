"""README.md of a prepared data set: which files make up each split, what they hold and on which terms."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dedn_hf.data.catalog import SPLITS, abbreviate

if TYPE_CHECKING:
    from dedn_hf.data.base import ZeroShotBuilder

REMOVED = (
    "The images hold no metadata: no place, no camera, no comment. JPEG, PNG and WebP have their original pixels; "
    "pictures in other formats may have become PNG of 8 bits."
)
KEPT = "The images are the original files. Their metadata may say where a photo was taken, and with which camera."
USAGE = """\
```python
from datasets import load_dataset

splits = load_dataset("path/to/data")  # a folder, or its name on the Hub
splits = load_dataset("path/to/data", "validation")  # for choosing settings: no test image in it
```

`attributes.csv` has a row a class (the labels' order) and a column an attribute:

```python
from huggingface_hub import snapshot_download
from dedn_hf import AttributeTable

table = AttributeTable.load("path/to/data")
table = AttributeTable.load(snapshot_download("user/name", repo_type="dataset", allow_patterns="attributes.*"))
```"""


def write_dataset_card(folder: Path, builder: ZeroShotBuilder, files: dict[str, list[str]]) -> None:
    """Write README.md, whose head tells `load_dataset` and the Hub which files make up each split.

    Args:
        files: portion -> its Parquet files, relative to `folder`.
    """
    from huggingface_hub import DatasetCardData

    # Of a local folder, `datasets` keys its cache by what the card says alone: else old images would come out of it.
    description = f"files of SHA-256 {contents_hash(folder, files)}"
    configs = [
        {
            "config_name": config_name,
            "data_files": [
                {"split": split, "path": [path for portion in portions for path in files[portion]]}
                for split, portions in SPLITS[config_name].items()
                if any(files[portion] for portion in portions)
            ],
            "description": description,
        }
        for config_name in ("default", "validation")
        if any(files[portion] for portion in SPLITS[config_name]["train"])
    ]
    head = DatasetCardData(
        pretty_name=builder.TITLE or builder.dataset_name,
        license=builder.LICENSE,
        task_categories=["zero-shot-image-classification"],
        tags=["zero-shot-learning", "generalized-zero-shot-learning", "attributes"],
        size_categories=[size_category(sum(info.num_examples for info in builder.info.splits.values()))],
        configs=configs,
    )
    (folder / "README.md").write_text(f"---\n{head.to_yaml()}\n---\n{text_of(builder)}", encoding="utf-8")


def contents_hash(folder: Path, files: dict[str, list[str]]) -> str:
    """SHA-256 over all files, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in (name for names in files.values() for name in names):
        with open(folder / name, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def text_of(builder: ZeroShotBuilder) -> str:
    """What people read."""
    table, counts = builder.table, {split: info.num_examples for split, info in builder.info.splits.items()}
    missing, left_out = builder.missing_classes, list(builder.left_out)
    lines = [
        f"# {builder.TITLE or builder.dataset_name}",
        builder.DESCRIPTION,
        f"{len(table)} classes ({int(table.seen.sum())} seen), {table.num_attributes} attributes.",
        "`default`: train, test_seen, test_unseen. `validation`: train, val_seen, val_unseen, without any test image. "
        "A split without images is left out.",
        "Images by portion: " + ", ".join(f"{portion} {count}" for portion, count in counts.items()) + ".",
        f"Not in it: {len(missing)} classes of the full data set ({abbreviate(missing)})." if missing else "",
        f"Left out, because they do not decode: {len(left_out)} images ({abbreviate(left_out)})." if left_out else "",
        KEPT if builder.keep_metadata else REMOVED,
        USAGE,
        f"Licence: {builder.TERMS}.",
        f"Homepage: {builder.HOMEPAGE}" if builder.HOMEPAGE else "",
        f"Cite: {builder.CITATION}" if builder.CITATION else "",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def size_category(images: int) -> str:
    """The Hub's word for a number of rows."""
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((word for bound, word in bounds.items() if images < bound), "n>1M")
