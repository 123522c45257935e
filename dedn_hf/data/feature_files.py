"""The folder of a feature cache: what its maps are made of, which image each is of, and the maps.

- `cache.json`: the backbone and all else that the maps depend on, besides the images.
- `images.txt`: the SHA-256 of an image's bytes a line, in the order of the maps.
- `features.bin`: N x C x H x W numbers of 16 bits.

A map counts once its line is in `images.txt`, which is written after the map is on the disk. So a process that is
killed leaves nothing wrong, and the next one goes on after the last line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch

from dedn_hf.modeling.saving import whole_file

IDENTITY_FILE, IMAGES_FILE, FEATURES_FILE = "cache.json", "images.txt", "features.bin"
FORMAT = 2
WHOLE_LINES = re.compile(rb"(?:[0-9a-f]{64}\n)*")
LINE = 65  # bytes


def read_identity(folder: Path) -> dict:
    """What `cache.json` says. Raises FileNotFoundError without one, ValueError for a damaged or an older one."""
    path = folder / IDENTITY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no feature cache ({IDENTITY_FILE} is missing).")
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete {folder}; the cache will be made again.") from None
    if identity.get("format") != FORMAT:
        raise ValueError(
            f"The feature cache {folder} was made by another version of dedn_hf, which kept it in another way: delete "
            "it, or give another folder, and it will be made again."
        )
    return identity


def write_identity(folder: Path, identity: dict) -> None:
    """Begin a cache in an empty or new folder. Raises FileExistsError where there is something else."""
    unfinished = f".unfinished-{IDENTITY_FILE}"  # of a process that was killed here
    if folder.exists() and any(path.name != unfinished for path in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no feature cache. Give an empty or new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / IDENTITY_FILE) as path:
        path.write_text(json.dumps({"format": FORMAT, **identity}, indent=1), encoding="utf-8")


def read_images(folder: Path) -> list[str]:
    """SHA-256 of the image of every map, in hexadecimal digits.

    Lines from the first damaged one on are left out: these maps are computed again.
    """
    path = folder / IMAGES_FILE
    whole = WHOLE_LINES.match(path.read_bytes()) if path.is_file() else None
    return whole[0].decode().split() if whole else []


def bytes_of_map(identity: dict) -> int:
    """The size of one feature map."""
    return 2 * int(np.prod(identity["feature_shape"]))


@contextmanager
def appending(folder: Path, identity: dict) -> Iterator[Appender]:
    """Within `with`, maps can be added to a cache that `write_identity` has begun, by one process at a time."""
    rows = len(read_images(folder))
    with open(folder / FEATURES_FILE, "ab") as features, open(folder / IMAGES_FILE, "ab") as images:
        features.truncate(rows * bytes_of_map(identity))
        images.truncate(rows * LINE)
        yield Appender(features, images)


class Appender:
    """Adds maps to the open files of a cache."""

    def __init__(self, features: IO[bytes], images: IO[bytes]) -> None:
        self.features, self.images = features, images
        self.waiting: list[str] = []

    def add(self, images: Sequence[str], maps: torch.Tensor) -> None:
        """Write the maps of these images, B x C x H x W of 16 bits. They count after the next `commit`."""
        self.features.write(maps.contiguous().view(torch.uint16).numpy().tobytes())
        self.waiting += images

    def commit(self) -> None:
        """Make sure that all maps are on the disk, and then say that they are there."""
        flush(self.features)
        self.images.write("".join(f"{image}\n" for image in self.waiting).encode())
        flush(self.images)
        self.waiting.clear()


def flush(file: IO[bytes]) -> None:
    """Wait until all that was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())
