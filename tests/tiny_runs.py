"""A few small images or feature maps in memory, and models that train on them within a second."""

import io
from functools import cache

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.data.tasks import Task

ROLES = ["train", "unseen", "train", "val", "train", "unseen", "train"]
PER_CLASS = 5
FEATURE_SHAPE = [6, 2, 2]


def tiny_table() -> AttributeTable:
    """Seven classes with mixed roles, each with one attribute of its own."""
    rng = np.random.default_rng(0)
    return AttributeTable(
        [f"bird {letter}" for letter in "abcdefg"],
        [f"attribute {i}" for i in range(8)],
        np.eye(7, 8) + 0.1,
        ["wing", "head", "wing", "tail", "head", "wing", "wing", "tail"],
        ROLES,
        rng.normal(size=(8, 12)),
    )


def image_model(table: AttributeTable | None = None, **config) -> DEDNForZeroShot:
    """A model with a very small, random backbone. The same global seed gives the same model."""
    config = {"backbone": "test_resnet", "image_size": 64, "pretrained": False, **config}
    return DEDNForZeroShot.from_timm(table=tiny_table() if table is None else table, **config)


@cache
def picture(label: int, number: int) -> bytes:
    """A PNG in the colours of its class, with noise."""
    colours = np.random.default_rng(label).uniform(0, 255, (8, 8, 3)).repeat(6, 0).repeat(9, 1)
    noise = np.random.default_rng([label, number]).normal(0, 10, colours.shape)
    buffer = io.BytesIO()
    Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def image_data(rows: list[tuple[int, int]]) -> datasets.Dataset:
    """A data set with the columns image, label and file, from (class, number) pairs."""
    names = tiny_table().class_names
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names), "file": datasets.Value("string")}
    columns = {
        "image": [{"bytes": picture(*row), "path": None} for row in rows],
        "label": [label for label, _ in rows],
        "file": [f"{names[label]}/{number}.png" for label, number in rows],
    }
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


@cache
def _splits(validation: bool) -> dict[str, datasets.Dataset]:
    rows = {split: [] for split in ("fit", "val_seen", "val_unseen", "test_seen", "test_unseen")}
    for label, role in enumerate(ROLES):
        for number in range(PER_CLASS):
            if role == "unseen":
                rows["test_unseen"].append((label, number))
            elif number == PER_CLASS - 1:
                rows["test_seen"].append((label, number))
            elif role == "val":
                rows["val_unseen"].append((label, number))
            else:
                rows["val_seen" if number == PER_CLASS - 2 else "fit"].append((label, number))
    if validation:
        parts = {"train": rows["fit"], "val_seen": rows["val_seen"], "val_unseen": rows["val_unseen"]}
    else:
        everything = rows["fit"] + rows["val_seen"] + rows["val_unseen"]
        parts = {"train": everything, "test_seen": rows["test_seen"], "test_unseen": rows["test_unseen"]}
    return {split: image_data(part) for split, part in parts.items()}


def load_tiny(validation: bool = False) -> tuple[datasets.DatasetDict, AttributeTable]:
    """Splits and table, as from `dedn_hf.data.load`: 20, 5 and 10 images, or with validation 12, 4 and 4."""
    return datasets.DatasetDict(_splits(validation)), tiny_table()


class FeatureMaps(Dataset):
    """Batches of feature maps, each the pattern of its class with a little noise."""

    def __init__(self, labels: list[int], seed: int) -> None:
        patterns = torch.randn(len(ROLES), *FEATURE_SHAPE, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(len(labels), *FEATURE_SHAPE, generator=torch.Generator().manual_seed(seed))
        self.labels = torch.tensor(labels)
        self.features = patterns[self.labels] + 0.2 * noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"features": self.features[indices], "labels": self.labels[indices]}


def feature_model(**config) -> DEDNForZeroShot:
    """A model for `feature_task`. It is the same every time."""
    torch.manual_seed(0)
    return DEDNForZeroShot.from_timm(None, tiny_table(), feature_shape=FEATURE_SHAPE, **config)


def feature_task():
    """A task that has only feature maps, and its inputs: 24 for training, 7 of seen and 6 of unseen classes."""
    seen = [label for label, role in enumerate(ROLES) if role != "unseen"]
    labels = {"train": (seen * 5)[:24], "seen": (seen * 2)[:7], "unseen": [1, 5] * 3}
    data = {split: FeatureMaps(values, seed) for seed, (split, values) in enumerate(labels.items(), start=1)}
    return Task("tiny", tiny_table(), {}, {split: maps.labels for split, maps in data.items()}), data.__getitem__
