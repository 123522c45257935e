"""A zero-shot task: which classes compete, which of them are trained on, and the images of its three splits."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from dedn_hf.data.cached import CachedFeatures, MirroredFeatures
from dedn_hf.data.catalog import assign_portions, class_folds
from dedn_hf.data.features import FeatureCache
from dedn_hf.data.transforms import ImageBatches, Transform

if TYPE_CHECKING:
    import datasets

    from dedn_hf.modeling.attribute_table import AttributeTable

SPLITS = ("train", "seen", "unseen")
PARTS = 5  # of the seen classes, one of which plays the unseen ones at a time
FEW_CLASSES = 15  # seen ones; with fewer, one part says little of the others


@dataclass
class Task:
    """Train on 'train', evaluate on images of 'seen' and of 'unseen' classes, among all classes of the table.

    Args:
        table: the K competing classes. images: a data set for each of train, seen, unseen, columns `image` and `file`.
        labels: for each of them, one index into `table.class_names` per image.
        fingerprint: hashes of the data that the task was made from, where they are known. A checkpoint is checked
            against them.
    """

    name: str
    table: AttributeTable
    images: dict[str, datasets.Dataset]
    labels: dict[str, torch.Tensor]
    fingerprint: dict[str, str] = field(default_factory=dict)

    def cached(self, cache: FeatureCache, *views: FeatureCache, mirrored: FeatureCache | None = None) -> Inputs:
        """Its splits as batches of cached features.

        Args:
            views: further views of the images of 'train', which draws from all caches; the others are plain.
            mirrored: mirror images of all images, drawn from by 'train' and paired with the plain ones by the others.
        """
        mirror = [] if mirrored is None else [mirrored]

        def inputs(split: str) -> Dataset:
            images = list(self.images[split]["file"]), self.labels[split]
            if split == "train":
                return CachedFeatures([cache, *mirror, *views], *images)
            return MirroredFeatures([cache, *mirror], *images) if mirror else CachedFeatures([cache], *images)

        return inputs

    def decoded(self, training: Transform, evaluation: Transform) -> Inputs:
        """Its splits as batches of pixels; 'train' with the training transform."""
        return lambda split: ImageBatches(
            self.images[split], training if split == "train" else evaluation, self.labels[split]
        )


Inputs = Callable[[str], Dataset]


def test_task(splits: datasets.DatasetDict, table: AttributeTable) -> Task:
    """Train on all seen classes, evaluate on the test splits, of which one may be empty: its scores are not tested.

    Without unseen classes it is a plain classifier, to which classes can be added later. Raises ValueError without
    seen classes, without an image to train on, and without any to test on.
    """
    table.require_seen()
    images = {"train": splits["train"], "seen": splits["test_seen"], "unseen": splits["test_unseen"]}
    task = _task("test", table, table, images)
    if not (len(task.labels["seen"]) or len(task.labels["unseen"])):
        raise ValueError("There is no photo to test on. Add photos: two of a seen class, or one of an unseen class.")
    return task


def evaluation_task(splits: datasets.DatasetDict, table: AttributeTable) -> Task:
    """As `test_task`, for a model that is trained already: neither unseen classes nor photos of training are needed.

    Raises ValueError where there is no photo to test on.
    """
    images = {"train": splits["train"], "seen": splits["test_seen"], "unseen": splits["test_unseen"]}
    labels = {split: torch.tensor(data["label"][:], dtype=torch.long) for split, data in images.items()}
    if not (len(labels["seen"]) or len(labels["unseen"])):
        raise ValueError(
            f"There is no photo to test on: all {len(labels['train'])} are photos to train on. If the model was not "
            "trained on them, say so (--all)."
        )
    return Task("test", table, images, labels)


def validation_task(splits: datasets.DatasetDict, table: AttributeTable) -> Task:
    """Train on the 'train' classes; the 'val' classes play the unseen ones, and the true unseen classes are absent.

    Args:
        splits: the validation variant of a data set: train, val_seen, val_unseen. table: with roles 'val'.

    Raises:
        ValueError: there are too few images or classes to choose settings by.
    """
    roles = dict(zip(table.class_names, table.roles, strict=True))
    names = [name for name, role in roles.items() if role != "unseen"]
    smaller = table.select(names).replace(roles=["unseen" if roles[name] == "val" else "train" for name in names])
    smaller.require_seen_and_unseen()
    images = {"train": splits["train"], "seen": splits["val_seen"], "unseen": splits["val_unseen"]}
    task = _task("validation", smaller, table, images)
    for split, values in task.labels.items():
        if not len(values):
            raise ValueError(
                f"There are too few photos to choose settings by: none is left for the split '{split}' of the "
                "validation. Add photos, two of each class at least, or give --select-on last, which chooses nothing."
            )
    return task


def fold_tasks(splits: datasets.DatasetDict, table: AttributeTable, count: int) -> list[Task]:
    """Validation tasks in which parts of the seen classes play the unseen ones in turn.

    The seen classes, whether 'train' or 'val', are divided into five parts, or into fewer where there are few. Of the
    classes that a task trains on, about a fifth of the photos is tested on.

    Args:
        splits: train, test_seen, test_unseen; only 'train' is used. count: how many of the parts to take. Where there
            are fewer than 15 seen classes all are taken, so that each class plays an unseen one.

    Raises:
        ValueError: there are too few classes or photos to choose settings by.
    """
    seen_classes = [name for name, seen in zip(table.class_names, table.seen, strict=True) if seen]
    parts = class_folds(seen_classes, max(count, PARTS))
    chosen = parts if len(seen_classes) < FEW_CLASSES else parts[:count]
    return [fold_task(splits["train"], table, held_out, f"fold-{number}") for number, held_out in enumerate(chosen, 1)]


def fold_task(images: datasets.Dataset, table: AttributeTable, held_out: Container[str], name: str) -> Task:
    """The validation task in which the classes `held_out` play the unseen ones. images: of all seen classes."""
    roles = [
        role if role == "unseen" else "val" if class_name in held_out else "train"
        for class_name, role in zip(table.class_names, table.roles, strict=True)
    ]
    listed = [(file, label, "trainval") for file, label in zip(images["file"], images["label"], strict=True)]
    portions = [image.portion for image in assign_portions(listed, roles)]
    splits = {
        split: images.select([row for row, portion in enumerate(portions) if portion == wanted])
        for split, wanted in (("train", "fit"), ("val_seen", "val_seen"), ("val_unseen", "val_unseen"))
    }
    return replace(validation_task(splits, table.replace(roles=roles)), name=name)


def _task(name: str, table: AttributeTable, labelled: AttributeTable, images: dict[str, datasets.Dataset]) -> Task:
    position = {class_name: label for label, class_name in enumerate(table.class_names)}
    new_label = torch.tensor([position.get(class_name, -1) for class_name in labelled.class_names])
    labels = {split: new_label[torch.tensor(data["label"][:], dtype=torch.long)] for split, data in images.items()}
    if not len(labels["train"]):
        raise ValueError(f"The {name} task has no image to train on. Give photos of classes whose role is 'train'.")
    return Task(name, table, images, labels)
