"""Feature maps of a frozen backbone, kept on disk so that the backbone runs once per image.

A cache is a folder: `features.bin`, N x C x H x W numbers of 16 bits, memory-mapped, and `cache.json`, which says what
they are: backbone, its weights, the preprocessing and the files. It is refused for anything else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import datasets
import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm.auto import tqdm

from dedn_hf.data.transforms import FixedViews, ImageBatches, already_batched, evaluation_transform, training_transform
from dedn_hf.data.workers import explained_worker_death
from dedn_hf.modeling.saving import whole_file

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

logger = logging.getLogger(__name__)

IDENTITY_FILE, FEATURES_FILE, PROGRESS_FILE = "cache.json", "features.bin", "progress.json"
RECORD_EVERY = 32  # batches
BACKBONE = ("backbone", "backbone_kwargs", "feature_source")  # options of a model that decide on its feature maps
PREPROCESSING = ("image_size", "image_mean", "image_std", "interpolation", "crop_pct")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class FeatureCache:
    """N feature maps on disk, found by the `file` column of the data set that they were made from.

    Args:
        folder: a cache that `FeatureCache.build` wrote.

    Raises:
        FileNotFoundError: no finished cache there. ValueError: `features.bin` has not the size that it should have.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.identity = {"precision": "float32", "view": None, **read_identity(self.folder)}
        self.dtype = DTYPES[self.identity["dtype"]]
        self.shape = (len(self.identity["files"]), *self.identity["feature_shape"])
        path, size = self.folder / FEATURES_FILE, 2 * int(np.prod(self.shape))
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(
                f"{path} is not the {size} bytes that its {IDENTITY_FILE} says. Delete {self.folder}; the cache "
                "will be made again."
            )
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bits = np.frombuffer(self._map, np.uint16).reshape(self.shape)
        self._row = {file: row for row, file in enumerate(self.identity["files"])}

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple:
        return FeatureCache, (self.folder,)  # a worker process opens the file itself

    def rows(self, files: Sequence[str]) -> np.ndarray:
        """Row of each file. Raises ValueError for a file that the cache does not hold."""
        missing = [file for file in files if file not in self._row]
        if missing:
            raise ValueError(
                f"{self.folder} has no features of {len(missing)} files, first {missing[0]!r}. Delete it."
            )
        return np.array([self._row[file] for file in files], dtype=np.int64)

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """B x C x H x W, float16 or bfloat16, copied out of the file."""
        features = torch.from_numpy(self._bits[rows]).view(self.dtype)
        if hasattr(mmap, "MADV_DONTNEED"):  # else what was read once would stay in this process, in the end all of it
            self._map.madvise(mmap.MADV_DONTNEED)
        return features

    def require(self, identity: dict) -> None:
        """Raise ValueError, naming what differs, unless the cache was made from exactly this."""
        different = [key for key in identity if identity[key] != self.identity.get(key)]
        if different:
            details = "; ".join(
                f"{key} is {short_json(self.identity.get(key))}, not {short_json(identity[key])}" for key in different
            )
            raise ValueError(
                f"The feature cache {self.folder} was made from something else: {details}. "
                "Give another folder for this one, or delete the old cache."
            )

    @classmethod
    def open_or_build(
        cls, folder: str | Path, model: DEDNForZeroShot, images: datasets.Dataset, **options
    ) -> FeatureCache:
        """The cache in `folder`, made first if it is not there; arguments and errors as `build`, and as `require`.

        Waits while another process makes it.
        """
        folder, dtype = Path(folder), options.get("dtype")
        if not (folder / IDENTITY_FILE).exists():
            with only_builder(folder):
                if not (folder / IDENTITY_FILE).exists():
                    return cls.build(folder, model, images, **options)
        cache = cls(folder)
        options = {name: options[name] for name in ("precision", "view") if name in options}
        cache.require(identity_of(model, images, dtype or cache.identity["dtype"], **options))
        return cache

    @classmethod
    def build(
        cls,
        folder: str | Path,
        model: DEDNForZeroShot,
        images: datasets.Dataset,
        dtype: str = "float16",
        precision: str = "float32",
        view: dict | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        progress: bool = True,
    ) -> FeatureCache:
        """Run the model's backbone over `images` (columns `image`, `file`) and write the cache.

        The folder appears when it is complete. An interrupted run leaves `folder.partial`, and the next one with the
        same arguments goes on from there.

        Args:
            dtype: 'float16' or 'bfloat16', of the file. precision: 'float32' or 'bfloat16', in which the backbone
                computes. view: arguments of `training_transform` and a number 'view', for an augmented view of every
                image. batch_size: images at a time. num_workers: processes that decode.

        Raises:
            ValueError: unknown dtype, files that stand twice, an image that cannot be read.
            FileExistsError: `folder` holds something else. OSError: the disk is full, or nothing can be written there.
        """
        folder = Path(folder)
        if dtype not in DTYPES:
            raise ValueError(f"A feature cache holds float16 or bfloat16, not {dtype!r}.")
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty and no finished feature cache. Give an empty or new folder.")
        identity = identity_of(model, images, dtype, precision, view)
        source = view_of(model, images, **(view or {}))
        with explained_worker_death():
            unfinished = UnfinishedCache(folder.with_name(folder.name + ".partial"), identity, batch_size)
            batches = extract(model, source, precision, batch_size, num_workers, progress, unfinished.rows)
            unfinished.write(_finite(features.to(DTYPES[dtype])) for features in batches)
        if folder.exists():
            folder.rmdir()
        unfinished.folder.rename(folder)
        (folder / PROGRESS_FILE).unlink()
        return cls(folder)


class UnfinishedCache:
    """The folder that a cache grows in. What is certainly on the disk is on record there, to go on after it.

    Args:
        folder: made, or, where a run with the same identity and batch size was interrupted, opened.
    """

    def __init__(self, folder: Path, identity: dict, batch_size: int) -> None:
        self.folder, self.file, self.record_file = folder, folder / FEATURES_FILE, folder / PROGRESS_FILE
        # Bits may depend on which images are computed together, so the batches must be the same ones.
        self.record = {"identity": identity, "batch_size": batch_size, "rows": 0}
        self.rows = self._rows_there()
        if not self.rows:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def _rows_there(self) -> int:
        try:
            there, size = json.loads(self.record_file.read_text(encoding="utf-8")), self.file.stat().st_size
        except (OSError, ValueError):
            return 0
        # As it comes back from JSON, which knows no tuples.
        expected = json.loads(json.dumps({**self.record, "rows": there.get("rows")}))
        return there["rows"] if there == expected and size >= self._bytes(there["rows"]) else 0

    def _bytes(self, rows: int) -> int:
        return 2 * rows * int(np.prod(self.record["identity"]["feature_shape"]))

    def write(self, batches: Iterator[torch.Tensor]) -> None:
        """Append B x C x H x W of 16 bits each, until the cache is complete."""
        try:
            with open(self.file, "ab") as file:
                file.truncate(self._bytes(self.rows))
                for number, features in enumerate(batches, start=1):
                    file.write(features.view(torch.uint16).numpy().tobytes())
                    self.rows += len(features)
                    if number % RECORD_EVERY == 0:
                        self._record(file)
                self._record(file)
        except OSError as error:
            raise OSError(
                f"The feature cache {self.file} cannot be written: {error} Make room there, and give the same command "
                "again: it goes on where it stopped."
            ) from error
        with whole_file(self.folder / IDENTITY_FILE) as path:
            path.write_text(json.dumps(self.record["identity"]), encoding="utf-8")

    def _record(self, file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())
        with whole_file(self.record_file) as path:
            path.write_text(json.dumps({**self.record, "rows": self.rows}), encoding="utf-8")


class CachedFeatures(Dataset):
    """The images of one split as batches of cached features: `features` B x C x H x W and `labels` B.

    Args:
        caches: each a `FeatureCache` that holds all files of the split, several for several views of the images: every
            image of a batch is then of a view drawn at random. files, labels: of the split's images.
    """

    def __init__(self, caches: Sequence[FeatureCache], files: Sequence[str], labels: Sequence[int]) -> None:
        self.caches = caches
        self.rows = [cache.rows(files) for cache in caches]
        self.labels = torch.as_tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch, with one read for each view; with `SeededIndices`, the seed of an image chooses its view."""
        if len(self.caches) == 1:
            features = self.caches[0].read(self.rows[0][indices])
        else:
            seeds = getattr(indices, "seeds", None)
            if seeds is None:
                seeds = torch.randint(2**63 - 1, (len(indices),)).tolist()
            views = np.array(seeds) % len(self.caches)
            parts = [cache.read(rows[indices][views == v]) for v, (cache, rows) in enumerate(self._views())]
            features = torch.cat(parts)[np.argsort(np.argsort(views, kind="stable"))]
        return {"features": features, "labels": self.labels[indices]}

    def _views(self) -> Iterator[tuple[FeatureCache, np.ndarray]]:
        return zip(self.caches, self.rows, strict=True)


class MirroredFeatures(Dataset):
    """As `CachedFeatures`, each image with its mirror image: `features` B x 2 x C x H x W, as `flip_test` needs them.

    Args:
        caches: of the images and of their mirror images. files, labels: of the split's images.
    """

    def __init__(self, caches: Sequence[FeatureCache], files: Sequence[str], labels: Sequence[int]) -> None:
        self.sides = [CachedFeatures([cache], files, labels) for cache in caches]

    def __len__(self) -> int:
        return len(self.sides[0])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch."""
        plain, mirrored = (side.__getitems__(indices) for side in self.sides)
        return {**plain, "features": torch.stack([plain["features"], mirrored["features"]], dim=1)}


def view_of(
    model: DEDNForZeroShot, images: datasets.Dataset, mirrored: bool = False, view: int | None = None, **options
) -> ImageBatches:
    """The images as the model sees them, or their mirror images, or augmented view number `view` of every image.

    options: as of `training_transform`.
    """
    if view is not None:
        return FixedViews(images, training_transform(model, **options), view)
    plain = evaluation_transform(model)
    return ImageBatches(images, v2.Compose([plain, v2.functional.horizontal_flip]) if mirrored else plain)


@torch.no_grad()
def extract(
    model: DEDNForZeroShot,
    source: Dataset,
    precision: str,
    batch_size: int,
    num_workers: int,
    progress: bool,
    start: int = 0,
) -> Iterator[torch.Tensor]:
    """Feature maps of the images from number `start` on, in order, B x C x H x W at a time, on the CPU."""
    left = range(start, len(source))
    loader = DataLoader(source, batch_size, sampler=left, num_workers=num_workers, collate_fn=already_batched)
    model.eval().to(memory_format=torch.channels_last)  # convolutional networks are faster in it
    for batch in tqdm(loader, desc="extracting features", disable=not progress):
        pixels = batch["pixel_values"].to(model.device, memory_format=torch.channels_last)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            features = model.extract_features(pixels)
        yield features.float().cpu().contiguous()
    model.to(memory_format=torch.contiguous_format)


@contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Within `with`, no other process makes `folder`. A lock beside it says so, and ends with its process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        logger.warning("Another process is making %s: waiting for it.", folder)
        held = lock.acquire(poll_interval=1)
    with held:
        yield


def identity_of(
    model: DEDNForZeroShot, images: datasets.Dataset, dtype: str, precision: str = "float32", view: dict | None = None
) -> dict:
    """What a cache of these images must have been made from. Raises ValueError where a file stands twice."""

    def options(names: Sequence[str]) -> list:
        return json.loads(json.dumps([getattr(model.config, name) for name in names]))

    files = list(images["file"])
    if len(set(files)) != len(files):
        raise ValueError("The column 'file' names an image twice; a feature cache needs every file once.")
    return {
        "backbone": options(BACKBONE),
        "weights": weights_hash(model.backbone),
        "preprocessing": options(PREPROCESSING),
        "feature_shape": list(model.config.feature_shape),
        "dtype": dtype,
        "precision": precision,
        "view": view,
        "contents": contents_hash(images),
        "files": files,
    }


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all weights of a module; where it is sharded (FSDP), every process has to call this."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def contents_hash(images: datasets.Dataset) -> str:
    """SHA-256 over the SHA-256 of every image's bytes, wherever they lie."""
    digest = hashlib.sha256()
    for row in images.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)):
        image = row["image"]
        if image["bytes"] is None:
            status = os.stat(image["path"])
            digest.update(file_hash(image["path"], status.st_size, status.st_mtime_ns))
        else:
            digest.update(hashlib.sha256(image["bytes"]).digest())
    return digest.hexdigest()


@functools.cache
def file_hash(path: str, size: int, changed: int) -> bytes:
    """SHA-256 of a file; read again only where its size or its time of change is another."""
    return hashlib.sha256(Path(path).read_bytes()).digest()


def read_identity(folder: Path) -> dict:
    """The contents of cache.json. Raises FileNotFoundError or ValueError."""
    path = folder / IDENTITY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no finished feature cache ({IDENTITY_FILE} is missing).")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete {folder}; the cache will be made again.") from None


def _finite(features: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(features).all():
        raise ValueError("Feature maps hold values beyond float16's range. Use dtype='bfloat16', or other weights.")
    return features


def short_json(value: object) -> str:
    """JSON of at most 80 characters, long lists abbreviated."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} long)"
