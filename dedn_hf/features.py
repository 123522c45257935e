"""Feature maps of a frozen backbone, kept on disk so that the backbone runs once per image.

A cache is a folder: `features.bin`, N x C x H x W numbers of 16 bits, memory-mapped, and `cache.json`, which says what
they are: backbone, its weights, the preprocessing and the files. It is refused for anything else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dedn_hf.transforms import FixedViews, ImageBatches, as_it_is, evaluation_transform, training_transform

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

logger = logging.getLogger(__name__)

IDENTITY_FILE, FEATURES_FILE = "cache.json", "features.bin"
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
                f"{path} is not the {size} bytes that its {IDENTITY_FILE} promises. Delete {self.folder}."
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
                f"{key} is {_short(self.identity.get(key))}, not {_short(identity[key])}" for key in different
            )
            raise ValueError(
                f"The feature cache {self.folder} was made from something else: {details}. "
                "Give another folder for this one, or delete the old cache."
            )

    @classmethod
    def open_or_build(
        cls, folder: str | Path, model: DEDNForZeroShot, images: datasets.Dataset, **options
    ) -> FeatureCache:
        """The cache in `folder`, made first if it is not there; arguments and errors as `build`, and as `require`."""
        dtype = options.get("dtype")
        if not (Path(folder) / IDENTITY_FILE).exists():
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

        The folder appears when it is complete; an interrupted run leaves `folder.partial`, which the next replaces.

        Args:
            dtype: 'float16' or 'bfloat16', of the file. precision: 'float32' or 'bfloat16', in which the backbone
                computes. view: arguments of `training_transform` and a number 'view', for an augmented view of every
                image. batch_size: images at a time. num_workers: processes that decode.

        Raises:
            ValueError: unknown dtype, files that stand twice. FileExistsError: `folder` holds something else.
        """
        folder = Path(folder)
        if dtype not in DTYPES:
            raise ValueError(f"A feature cache holds float16 or bfloat16, not {dtype!r}.")
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty and no finished feature cache. Give an empty or new folder.")
        identity = identity_of(model, images, dtype, precision, view)
        source = (
            ImageBatches(images, evaluation_transform(model)) if view is None else augmented(model, images, **view)
        )
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with open(partial / FEATURES_FILE, "wb") as file:
            for features in extract(model, source, precision, batch_size, num_workers, progress):
                file.write(_finite(features.to(DTYPES[dtype])).view(torch.uint16).numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        (partial / IDENTITY_FILE).write_text(json.dumps(identity), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
        return cls(folder)


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
        """A whole batch, one read a view."""
        if len(self.caches) == 1:
            features = self.caches[0].read(self.rows[0][indices])
        else:
            views = torch.randint(len(self.caches), (len(indices),)).numpy()
            parts = [cache.read(rows[indices][views == v]) for v, (cache, rows) in enumerate(self._views())]
            features = torch.cat(parts)[np.argsort(np.argsort(views, kind="stable"))]
        return {"features": features, "labels": self.labels[indices]}

    def _views(self) -> Iterator[tuple[FeatureCache, np.ndarray]]:
        return zip(self.caches, self.rows, strict=True)


def augmented(model: DEDNForZeroShot, images: datasets.Dataset, view: int, **options) -> FixedViews:
    """View number `view` of every image; `options` as of `training_transform`."""
    return FixedViews(images, training_transform(model, **options), view)


@torch.no_grad()
def extract(
    model: DEDNForZeroShot, source: Dataset, precision: str, batch_size: int, num_workers: int, progress: bool
) -> Iterator[torch.Tensor]:
    """Feature maps of all images in order, B x C x H x W at a time, on the CPU."""
    loader = DataLoader(source, batch_size, num_workers=num_workers, collate_fn=as_it_is)
    model.eval()
    for batch in tqdm(loader, desc="extracting features", disable=not progress):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            features = model.extract_features(batch["pixel_values"].to(model.device))
        yield features.float().cpu().contiguous()


def identity_of(
    model: DEDNForZeroShot, images: datasets.Dataset, dtype: str, precision: str = "float32", view: dict | None = None
) -> dict:
    """What a cache of these images must have been made from. Raises ValueError where a file stands twice."""
    c = model.config
    files = list(images["file"])
    if len(set(files)) != len(files):
        raise ValueError("The column 'file' names an image twice; a feature cache needs every file once.")
    return {
        "backbone": [c.backbone, c.backbone_kwargs, c.feature_source],
        "weights": weights_hash(model.backbone),
        "preprocessing": [c.image_size, list(c.image_mean), list(c.image_std), c.interpolation, c.crop_pct],
        "feature_shape": list(c.feature_shape),
        "dtype": dtype,
        "precision": precision,
        "view": view,
        "contents": contents_hash(images),
        "files": files,
    }


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all weights of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def contents_hash(images: datasets.Dataset) -> str:
    """SHA-256 over every image: its bytes, or size and time of change of the file where the bytes lie outside."""
    digest = hashlib.sha256()
    for row in images.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)):
        image = row["image"]
        if image["bytes"] is None:
            status = os.stat(image["path"])
            digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
        else:
            digest.update(hashlib.sha256(image["bytes"]).digest())
    return digest.hexdigest()


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
        raise ValueError(
            "Feature maps hold values beyond float16's range, or no numbers. Use dtype='bfloat16', or other weights."
        )
    return features


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)} long)"
