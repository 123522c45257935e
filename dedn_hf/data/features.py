"""Feature maps of a frozen backbone, kept on disk by image, so that the backbone runs once for each.

A map belongs to the bytes of an image, and to nothing else of a data set: images may be renamed, moved, and change
their classes, roles and splits. New images are computed and added. `feature_files.py` says how a cache is stored.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from dedn_hf.data.extraction import batches_of, extract
from dedn_hf.data.feature_files import (
    FEATURES_FILE,
    IDENTITY_FILE,
    appending,
    bytes_of_map,
    read_identity,
    read_images,
    write_identity,
)
from dedn_hf.data.processor import faster_precision, warn_of_emulation
from dedn_hf.data.transforms import FixedViews

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

logger = logging.getLogger(__name__)

RECORD_EVERY = 32  # batches
BACKBONE = ("backbone", "backbone_kwargs", "feature_source")  # options of a model that decide on its feature maps
PREPROCESSING = ("image_size", "image_mean", "image_std", "interpolation", "crop_pct", "crop_mode")
UNSAID = {"crop_mode": "center"}  # what an identity leaves out, as caches from before there was a choice do
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
PARTS = {  # of a cache's identity, in words
    "backbone": "another backbone",
    "weights": "other weights of the backbone",
    "preprocessing": "images that are prepared in another way",
    "feature_shape": "maps of another size",
    "precision": "another precision of computing",
    "dtype": "numbers kept in another precision",
    "view": "views that are drawn in another way",
}


class FeatureCache:
    """Feature maps on disk. Those of a data set are found by its column `file`.

    Args:
        folder: a cache that `open_or_build` or `open_views` made.
        files: of a data set, names of files -> SHA-256 of their bytes; `open_or_build` fills them in.

    Raises:
        FileNotFoundError: no cache there. ValueError: it is damaged, or was made by an older version.
    """

    def __init__(self, folder: str | Path, files: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder)
        self.identity, images = read_identity(self.folder), read_images(self.folder)
        self.dtype = DTYPES[self.identity["dtype"]]
        self.shape = (len(images), *self.identity["feature_shape"])
        self._bits = self._open(len(images) * bytes_of_map(self.identity))
        row = {image: number for number, image in enumerate(images)}
        self._row = {name: row[image] for name, image in (files or {}).items() if image in row}

    def _open(self, size: int) -> np.ndarray:
        path = self.folder / FEATURES_FILE
        if size and not (path.is_file() and path.stat().st_size >= size):
            raise ValueError(
                f"{path} is damaged: it should have {size} bytes. Delete {self.folder}; the cache will be made again."
            )
        self._map = None
        if not size:
            return np.empty(self.shape, np.uint16)
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint16).reshape(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple:
        return _opened_again, (self.folder, self._row)  # a worker process opens the file itself

    def rows(self, files: Sequence[str]) -> np.ndarray:
        """Row of each file. Raises ValueError for a file without a map, or of another data set than it was opened for.

        Files with the same bytes share a row.
        """
        missing = [file for file in files if file not in self._row]
        if missing:
            raise ValueError(
                f"{self.folder} has no features of {len(missing)} files, first {missing[0]!r}. Open it by "
                "FeatureCache.open_or_build for a data set with these files: those that are new are computed."
            )
        return np.array([self._row[file] for file in files], dtype=np.int64)

    def read(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """B x C x H x W, float16 or bfloat16, copied out of the file."""
        features = torch.from_numpy(self._bits[rows]).view(self.dtype)
        if self._map and hasattr(mmap, "MADV_DONTNEED"):  # else all that was read once would stay in this process
            self._map.madvise(mmap.MADV_DONTNEED)
        return features

    @classmethod
    def open_or_build(
        cls, folder: str | Path, model: DEDNForZeroShot, images: datasets.Dataset, view: dict | None = None, **options
    ) -> FeatureCache:
        """The cache in `folder` with the maps of one view of all `images`; arguments and errors as `open_views`."""
        return open_views([View(Path(folder), view)], model, images, **options)[0]


def _opened_again(folder: Path, row: dict[str, int]) -> FeatureCache:
    cache = FeatureCache(folder)
    cache._row = row
    return cache


@dataclass
class View:
    """A kind of view of images, and the folder of its cache.

    Args:
        options: None, the image as the model sees it; {'mirrored': True}, its mirror image; or a number 'view' and
            arguments of `training_transform`, an augmented view. It depends on the image's bytes and that number.
        only: which images of the data set it is wanted of, by their place; None: of all.
    """

    folder: Path
    options: dict | None = None
    only: Sequence[int] | None = None


def open_views(
    views: Sequence[View],
    model: DEDNForZeroShot,
    images: datasets.Dataset,
    precision: str = "float32",
    dtype: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
    bar: Callable = tqdm,
) -> list[FeatureCache]:
    """One cache for each kind of view. What is missing in any of them is computed in one pass over the images.

    Killed at any moment, nothing half-written is read, and the next call goes on after the last `RECORD_EVERY`
    batches. Waits while another process works on one of the caches. The last digits of a map can depend on which
    images were computed together.

    Args:
        images: columns `image` and `file`.
        precision: 'float32' or 'bfloat16', in which the backbone computes; 'auto': that of the first cache that is
            there, else what is faster here. The caches' `identity['precision']` says which.
        dtype: 'float16' or 'bfloat16', in which maps are kept; None: as they are there, else float16.
        batch_size: pictures through the backbone at a time. num_workers: processes that decode.
        bar: shows the progress, as `tqdm` does: `bar(batches, desc=..., total=..., initial=0, disable=...)` yields
            the batches. Called once, and not at all where nothing is missing. n images that miss the same v views make
            ceil(n / max(1, batch_size // v)) batches.

    Raises:
        ValueError: a cache of another model, precision or view; a name of two images; an image that cannot be read.
        FileExistsError: a folder holds something else. OSError: the disk is full, or nothing can be written there.
    """
    contents = image_hashes(images)
    files = hashes_by_name(images["file"], contents)
    identities = identities_of(views, model, precision, dtype)
    for view, identity in zip(views, identities, strict=True):
        if (view.folder / IDENTITY_FILE).exists():
            require_fitting(view.folder, identity)
    if any(map(len, missing_views(views, contents))):
        with ExitStack() as held:
            for view, identity in zip(views, identities, strict=True):
                held.enter_context(only_builder(view.folder))
                if not (view.folder / IDENTITY_FILE).exists():
                    write_identity(view.folder, identity)
                require_fitting(view.folder, identity)
            batches = batches_of(missing_views(views, contents), batch_size)
            if batches and identities[0]["precision"] == "bfloat16":
                warn_of_emulation(model.device, "feature_precision=auto, and another folder for the features")
            source = FixedViews(images, contents, model, [view.options for view in views])
            maps = extract(model, source, batches, identities[0]["precision"], num_workers, bar, not progress)
            if batches:
                append(maps, views, identities, contents)
    return [FeatureCache(view.folder, files) for view in views]


def missing_views(views: Sequence[View], contents: Sequence[str]) -> list[tuple[int, ...]]:
    """Of each image, which views have no map of it. Images with the same bytes need only one."""
    missing: list[list[int]] = [[] for _ in contents]
    for number, view in enumerate(views):
        known = set(read_images(view.folder))
        for image in range(len(contents)) if view.only is None else view.only:
            if contents[image] not in known:
                known.add(contents[image])
                missing[image].append(number)
    return list(map(tuple, missing))


def append(maps: Generator[tuple], views: Sequence[View], identities: Sequence[dict], contents: Sequence[str]) -> None:
    """Add batches of maps, as `extract` gives them, to the caches of the views."""
    folder, dtype = views[0].folder, DTYPES[identities[0]["dtype"]]
    try:
        with ExitStack() as opened, closing(maps):  # else an error here would leave the model as it computes
            appenders = [
                opened.enter_context(appending(view.folder, identity))
                for view, identity in zip(views, identities, strict=True)
            ]
            for number, (batch, features) in enumerate(maps, start=1):
                features = _finite(features.to(dtype))
                pictures = [(contents[image], view) for image, wanted in batch for view in wanted]
                for view in sorted({view for _, view in pictures}):
                    rows = [row for row, (_, kind) in enumerate(pictures) if kind == view]
                    appenders[view].add([pictures[row][0] for row in rows], features[rows])
                if number % RECORD_EVERY == 0:
                    for appender in appenders:
                        appender.commit()
            for appender in appenders:
                appender.commit()
    except ChildProcessError:  # of a worker that loads images
        raise
    except OSError as error:
        raise OSError(
            f"The feature cache {folder} cannot be written: {error} Make room there, and give the same command again: "
            "it goes on where it stopped."
        ) from error


@contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Within `with`, no other process adds to `folder`. A lock beside it says so, and ends with its process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        logger.warning("Another process is making %s: waiting for it.", folder)
        held = lock.acquire(poll_interval=1)
    with held:
        yield


# What a cache was made of ------------------------------------------------------------------------------------------


def identities_of(views: Sequence[View], model: DEDNForZeroShot, precision: str, dtype: str | None) -> list[dict]:
    """What the cache of each view must have been made of. Raises ValueError for an unknown dtype or precision."""
    there = [read_identity(view.folder) for view in views if (view.folder / IDENTITY_FILE).exists()]
    dtype = dtype or (there[0]["dtype"] if there else "float16")
    if dtype not in DTYPES:
        raise ValueError(f"A feature cache holds float16 or bfloat16, not {dtype!r}.")
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is {precision!r}; use auto, float32 or bfloat16.")
    if precision == "auto":
        precision = there[0]["precision"] if there else faster_precision(model)
    same = {
        "backbone": options_of(model, BACKBONE),
        "weights": weights_hash(model.backbone),
        "preprocessing": {k: v for k, v in options_of(model, PREPROCESSING).items() if v != UNSAID.get(k)},
        "feature_shape": list(model.config.feature_shape),
        "dtype": dtype,
        "precision": precision,
    }
    return [{**same, "view": view.options} for view in views]


def options_of(model: DEDNForZeroShot, names: Sequence[str]) -> dict:
    """Options of the model as they come back from JSON, which knows no tuples."""
    return json.loads(json.dumps({name: getattr(model.config, name) for name in names}))


def require_fitting(folder: Path, identity: dict) -> None:
    """Raise ValueError, saying in words what differs, unless the cache in `folder` was made of exactly this."""
    made = read_identity(folder)
    different = [part for part in PARTS if made.get(part) != identity[part]]
    if "backbone" in different:  # then these differ as a matter of course
        different = [part for part in different if part not in ("weights", "feature_shape")]
    if different:
        reasons = "; ".join(f"{PARTS[part]}{difference(made.get(part), identity[part])}" for part in different)
        raise ValueError(
            f"The feature cache {folder} does not fit. It was made with {reasons}. Give another folder for the new "
            "one, or delete this one: it will be made again from the images."
        )


def difference(made: object, wanted: object) -> str:
    """': resnet50, not resnet101', of two parts of an identity; nothing of hashes, which say nothing to a reader."""
    if isinstance(wanted, str) and len(wanted) == 64:
        return ""
    pairs = {"": (made, wanted)}
    if isinstance(made, dict) and isinstance(wanted, dict):
        names = {**made, **wanted}
        pairs = {name: (made.get(name, UNSAID.get(name)), wanted.get(name, UNSAID.get(name))) for name in names}
    texts = [
        f"{name.removeprefix('backbone')} {short_json(a)}, not {short_json(b)}".replace('"', "").strip()
        for name, (a, b) in pairs.items()
        if a != b
    ]
    return f": {', '.join(texts)}"


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all weights of a module; where it is sharded (FSDP), every process has to call this."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def image_hashes(images: datasets.Dataset) -> list[str]:
    """SHA-256 of every image's bytes, wherever they lie, in hexadecimal digits."""
    hashes = []
    for row in images.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)):
        image = row["image"]
        if image["bytes"] is None:
            status = os.stat(image["path"])
            hashes.append(file_hash(image["path"], status.st_size, status.st_mtime_ns))
        else:
            hashes.append(hashlib.sha256(image["bytes"]).hexdigest())
    return hashes


def hashes_by_name(names: Sequence[str], contents: Sequence[str]) -> dict[str, str]:
    """Name of each file -> hash of its bytes. Raises ValueError where two images have one name."""
    found: dict[str, str] = {}
    for name, content in zip(names, contents, strict=True):
        if found.setdefault(name, content) != content:
            raise ValueError(f"Two images are called {name!r} in the column 'file'. Give each a name of its own.")
    return found


@functools.cache
def file_hash(path: str, size: int, changed: int) -> str:
    """SHA-256 of a file; read again only where its size or its time of change is another."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _finite(features: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(features).all():
        raise ValueError("Feature maps hold values beyond float16's range. Use dtype='bfloat16', or other weights.")
    return features


def short_json(value: Any) -> str:
    """JSON of at most 80 characters, long lists abbreviated."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} long)"
