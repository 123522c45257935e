"""One `datasets` builder for every data set here; a data set gives it a catalog of images.

`datasets` 4 and later refuses loading scripts, so builders are classes to use directly: `CUB("data").load()`.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from dedn_hf.data.catalog import (
    Catalog,
    Image,
    abbreviate,
    contents,
    is_unusual,
    require_validation_classes,
    undecodable,
)
from dedn_hf.data.privacy import without_metadata
from dedn_hf.modeling.attribute_table import AttributeTable, near_names

logger = logging.getLogger(__name__)


class ZeroShotBuilder(datasets.GeneratorBasedBuilder):
    """Builds `image`, `label` (an index into `table.class_names`) and `file` (path relative to the image folder).

    Splits: train, test_seen, test_unseen; with `validation` train, val_seen, val_unseen, which hold no test image.
    The Arrow cache holds paths, not copies of the images. It is rebuilt when the files or the arguments change. A
    split of which there is no image is there, and empty.

    Args:
        catalog: class table and images.
        validation: split for choosing settings without touching a test image.
        strict: an image that does not decode is an error (default: it is left out, with a warning).
        cache_dir: where the Arrow files go (default: the `datasets` cache).
        config_name: 'default', 'validation' or 'portions' (the finest partition); overrides `validation`.
        keep_metadata: False stores the images themselves, without EXIF data and the like, see `without_metadata`.

    Raises:
        ValueError: a validation split is asked for, but there are not two seen classes.
    """

    VERSION = datasets.Version("1.0.0")
    TITLE = ""
    DESCRIPTION = ""
    HOMEPAGE = ""
    CITATION = ""
    TERMS = "terms not known"  # of the images
    LICENSE = "unknown"  # of the images, in the Hub's words

    OPTIONS: Collection[str] = ()  # that the arguments of `__init__` do not name

    @classmethod
    def require_options(cls, names: Iterable[str]) -> None:
        """Raise ValueError, with near names, for an option that this data set does not have."""
        builders = [each for each in cls.__mro__ if issubclass(each, ZeroShotBuilder) and "__init__" in vars(each)]
        known = [*cls.OPTIONS, *(name for each in builders for name in inspect.signature(each).parameters)]
        for name in names:
            if name not in known:
                raise ValueError(f"No option {name!r} of the data set.{near_names(name, known)}")

    def __init__(
        self,
        catalog: Catalog,
        validation: bool = False,
        strict: bool = False,
        cache_dir: str | Path | None = None,
        config_name: str | None = None,
        keep_metadata: bool = True,
    ) -> None:
        self.catalog = catalog
        self.strict, self.keep_metadata = strict, keep_metadata
        config_name = config_name or ("validation" if validation else "default")
        if config_name == "validation":
            require_validation_classes(catalog.table)
        self.images = catalog.images_of(config_name)
        self._left_out: dict[str, str] | None = None
        name = type(self).__name__.lower()
        fingerprint = catalog.fingerprint() + "-strict" * strict + "-without-metadata" * (not keep_metadata)
        cache_dir = None if cache_dir is None else str(cache_dir)
        super().__init__(cache_dir=cache_dir, dataset_name=name, config_name=config_name, hash=fingerprint)
        if catalog.missing_classes:
            logger.warning(describe_missing(name, catalog))

    @property
    def table(self) -> AttributeTable:
        """The K classes that labels refer to."""
        return self.catalog.table

    @property
    def missing_classes(self) -> list[str]:
        """Classes of the full data set that are left out, because there are no images of them."""
        return self.catalog.missing_classes

    @property
    def left_out(self) -> dict[str, str]:
        """File -> reason, for the images that were left out when the data set was built."""
        if self._left_out is None:  # it was found in the cache
            built = {file for rows in self.as_dataset().values() for file in rows["file"][:]}
            everything = itertools.chain.from_iterable(self.images.values())
            self._left_out = self.problems([image for image in everything if image.file not in built])
        return self._left_out

    def load(self) -> datasets.DatasetDict:
        """Build the data set, or find it in the cache, and open it. Raises ValueError as described at the class."""
        self.download_and_prepare()
        empty = datasets.Dataset.from_dict({name: [] for name in self.info.features}, self.info.features, self.info)
        return datasets.DatasetDict(
            {split: self.as_dataset(split) if split in self.info.splits else empty for split in self.images}
        )

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Build the data set, or find it in the cache; every time, warn about images that were left out."""
        super().download_and_prepare(*args, **kwargs)
        if self.left_out:
            logger.warning(describe_left_out(self.left_out, sum(map(len, self.images.values()))))

    def problems(self, images: list[Image]) -> dict[str, str]:
        """File -> reason, for the images that do not decode."""
        return undecodable(self.catalog, images)

    def example(self, image: Image) -> dict[str, Any]:
        """One row of the data set."""
        path = self.catalog.path_of(image.file)
        stored: dict[str, Any] = {"path": path, "bytes": None}
        if not self.keep_metadata:
            stored = {"path": None, "bytes": without_metadata(contents(path))}
        elif is_unusual(path):
            stored = {"path": None, "bytes": contents(path)}
        return {"image": stored, "label": image.label, "file": image.file}

    def features(self) -> datasets.Features:
        """Types of the columns."""
        label = datasets.ClassLabel(names=self.table.class_names)
        return datasets.Features(
            {"image": datasets.Image(mode="RGB"), "label": label, "file": datasets.Value("string")}
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.DESCRIPTION, homepage=self.HOMEPAGE, citation=self.CITATION, features=self.features()
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        problems = self.problems([image for images in self.images.values() for image in images])
        if problems and self.strict:
            file, reason = next(iter(problems.items()))
            raise ValueError(
                f"{Path(self.catalog.root) / file} does not decode ({reason}); {len(problems)} such in all. "
                "Replace them, or give strict=False (in commands: leave out --strict), which leaves them out."
            )
        self._left_out = problems
        if problems and len(problems) == sum(map(len, self.images.values())):
            file, reason = next(iter(problems.items()))
            raise ValueError(
                f"None of the {len(problems)} images of {self.catalog.root} can be read. The first: {file} ({reason})."
            )
        whole = {
            name: [image for image in images if image.file not in problems] for name, images in self.images.items()
        }
        return [
            datasets.SplitGenerator(name, {"images": images})
            for name, images in whole.items()
            if images  # of an empty split, `datasets` would say that it corresponds to no data
        ]

    def _generate_examples(self, images: list[Image]) -> Iterator[tuple[str, dict[str, Any]]]:
        for image in images:
            yield image.file, self.example(image)


def describe_missing(name: str, catalog: Catalog) -> str:
    """One sentence: which classes are left out for want of images, and what remains."""
    missing = catalog.missing_classes
    return (
        f"{name}: no image of {len(missing)} classes under {catalog.root}, so they are left out and "
        f"{len(catalog.table)} classes remain: {abbreviate(missing)}."
    )


def describe_left_out(left_out: dict[str, str], total: int) -> str:
    """One sentence: how many of `total` images do not decode, and the first few of them."""
    return f"{len(left_out)} of {total} images do not decode and are left out: {abbreviate(list(left_out))}."
