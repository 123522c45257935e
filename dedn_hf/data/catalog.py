"""What a data set consists of before any image is opened: a class table and a list of images, each in one portion.

Portions are the finest partition of the images. Both ways to split a data set, with and without validation, are unions
of portions, so that images are stored once for both.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.inputs import open_encoded, require_shape

PORTIONS = ("fit", "val_seen", "val_unseen", "test_seen", "test_unseen")
SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {
        "train": ("fit", "val_seen", "val_unseen"),
        "test_seen": ("test_seen",),
        "test_unseen": ("test_unseen",),
    },
    "validation": {"train": ("fit",), "val_seen": ("val_seen",), "val_unseen": ("val_unseen",)},
    "portions": {portion: (portion,) for portion in PORTIONS},
}
VALIDATION_FRACTION = 0.2


class Image(NamedTuple):
    """One image: path relative to the catalog's root, class index, portion, and a stamp that changes with the file."""

    file: str
    label: int
    portion: str
    stamp: str = ""


@dataclass
class Catalog:
    """A class table and the images of its classes.

    Args:
        table: K classes; the images' labels index its rows.
        images: every image that exists.
        root: absolute folder that the images' paths are relative to ("" where images are rendered, not read).
        missing_classes: classes of the full table that are left out, because `root` holds no image of them.
        paths: file -> where it is, for those that are not at `root`/file: their names are no UTF-8.
    """

    table: AttributeTable
    images: list[Image]
    root: str = ""
    missing_classes: list[str] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)

    def path_of(self, file: str) -> str:
        """Where an image is."""
        return self.paths.get(file) or os.path.join(self.root, file)

    def fingerprint(self) -> str:
        """16 hex digits that change with the root, the classes, and every image's path, label, portion and stamp."""
        digest = hashlib.sha256(repr((self.root, self.table.class_names)).encode())
        for image in self.images:
            digest.update(repr(tuple(image)).encode())
        return digest.hexdigest()[:16]

    def images_of(self, config_name: str) -> dict[str, list[Image]]:
        """The images of each split of a configuration: one of the keys of `SPLITS`."""
        of_portion = defaultdict(list)
        for image in self.images:
            of_portion[image.portion].append(image)
        return {
            split: [image for portion in portions for image in of_portion[portion]]
            for split, portions in SPLITS[config_name].items()
        }


def assign_portions(images: Iterable[tuple[str, int, str]], roles: Sequence[str]) -> list[Image]:
    """Sort images (file, label, split) into portions; `split` is 'trainval', 'test_seen' or 'test_unseen'.

    trainval images of 'val' classes are `val_unseen`; of 'train' classes, about a fifth a class is `val_seen`, chosen
    by a hash of the file name, and the others (one a class at least) are `fit`.

    Raises:
        ValueError: an image is listed as one of an unseen class, but the role of its class is another, or the reverse.
    """
    images = list(images)
    files_of = defaultdict(list)
    for file, label, split in images:
        if (split == "test_unseen") != (roles[label] == "unseen"):
            raise ValueError(
                f"{file} is listed as {split!r}, but the role of its class is {roles[label]!r}. The role of classes "
                "with images in 'test_unseen', and of no others, is 'unseen' (column 'role' of the table)."
            )
        if split == "trainval" and roles[label] == "train":
            files_of[label].append(file)
    val_seen = {file for files in files_of.values() for file in hold_out(files, VALIDATION_FRACTION, "validation")}

    def portion(file: str, label: int, split: str) -> str:
        if split != "trainval":
            return split
        if roles[label] == "val":
            return "val_unseen"
        return "val_seen" if file in val_seen else "fit"

    return [Image(file, label, portion(file, label, split)) for file, label, split in images]


def hold_out(names: Sequence[str], fraction: float, purpose: str) -> set[str]:
    """About `fraction` of `names`, the same ones each time: at least one of two or more, and never all of them."""
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{purpose}:{name}".encode()).digest())
    return set(ranked[: max(count, 0)])


def class_folds(names: Sequence[str], count: int, at_least: int = 2) -> list[list[str]]:
    """Groups of classes to hold out in turn, so that each class plays an unseen one at least once.

    A hash of the names decides who is with whom: the order of `names` does not matter, and the same names always give
    the same folds. Sizes differ by one at most. Each class is in one fold where that leaves at least half of the
    classes to train on; with very few classes, some are in two.

    Args:
        names: of the seen classes, 3 or more. count: folds, 2 or more. at_least: classes in a fold, 1 or more.

    Returns:
        `count` folds, or fewer where there are too few classes for `count` folds of `at_least`. The classes of a fold
        are in the order of `names`.

    Raises:
        ValueError: too few classes, a name that stands twice, or a count or size that makes no folds.
    """
    total = len(names)
    if len(set(names)) < total:
        raise ValueError("A class stands twice among the names to divide into folds.")
    if count < 2 or at_least < 1:
        raise ValueError(f"Folds need a count of 2 or more and 1 class or more in each, not {count} and {at_least}.")
    if total < 3 or at_least >= total:
        raise ValueError(
            f"{total} seen classes are too few to hold out {at_least} at a time: {max(3, at_least + 1)} are needed."
        )
    # Two folds of an odd number of classes hold out more than half of them at once; three folds that overlap do not.
    count = min(count, max(total // at_least, min(math.ceil(total / at_least), 3)))
    ring = sorted(names, key=lambda name: hashlib.sha256(f"folds:{name}".encode()).digest())
    starts = [total * fold // count for fold in range(count + 1)]
    held_out = [
        {ring[place % total] for place in range(start, max(end, start + at_least))}
        for start, end in itertools.pairwise(starts)
    ]
    return [[name for name in names if name in fold] for fold in held_out]


def with_validation_classes(table: AttributeTable) -> AttributeTable:
    """The table with about a fifth of its 'train' classes made 'val', unless it has 'val' classes already.

    They stay seen classes: only the validation splits treat them as unseen. With one 'train' class nothing changes.
    """
    if "val" in table.roles:
        return table
    trained = [name for name, role in zip(table.class_names, table.roles, strict=True) if role == "train"]
    chosen = hold_out(trained, VALIDATION_FRACTION, "validation classes")
    roles = ["val" if name in chosen else role for name, role in zip(table.class_names, table.roles, strict=True)]
    return table.replace(roles=roles)


def require_validation_classes(table: AttributeTable) -> None:
    """Raise ValueError unless some seen classes are held out for validation and some are trained on."""
    if not {"train", "val"} <= set(table.roles):
        raise ValueError(
            "Validation needs two seen classes at least, one of role 'train' and one of role 'val'; the table has "
            f"{table.roles.count('train')} and {table.roles.count('val')}."
        )


def file_stamps(folder: str | Path) -> dict[str, str]:
    """Name -> 'size:mtime' of the files directly inside `folder`; empty where there is no such folder."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: stamp(entry) for entry in entries if entry.is_file()}


def stamp(file: str | os.DirEntry) -> str:
    """'size:mtime', which changes with the file."""
    status = os.stat(file)
    return f"{status.st_size}:{status.st_mtime_ns}"


def is_unusual(path: str) -> bool:
    """Whether `datasets` could not open the file: its path is no UTF-8, or looks like a chain of addresses."""
    return "::" in path or not path.isprintable() or path.encode("utf-8", "replace").decode() != path


def contents(path: str) -> bytes:
    """The bytes of a file. Here, because `datasets` replaces `open` and `Path` in the modules of its builders."""
    return Path(path).read_bytes()


def undecodable(catalog: Catalog, images: Sequence[Image]) -> dict[str, str]:
    """File -> reason, for every image that does not decode. Opens and decodes all of them, in threads."""
    from datasets.utils import tqdm

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = pool.map(lambda image: decode_problem(catalog.path_of(image.file)), images)
        checked = zip(images, tqdm(problems, total=len(images), desc="Checking images", unit=" images"), strict=True)
        return {image.file: problem for image, problem in checked if problem}


def decode_problem(path: str | bytes) -> str | None:
    """Why the image in a file, or of these bytes, does not decode, or None. To be quick, JPEGs decode at an eighth."""
    try:
        with open_encoded(path) as image:
            require_shape(image)
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:  # noqa: BLE001 - damaged files make PIL's decoders raise nearly anything
        return f"{type(error).__name__}: {error}"
    return None


def abbreviate(names: list[str], count: int = 5, separator: str = ", ") -> str:
    """The first `count` names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return separator.join(names[:count]) + more
