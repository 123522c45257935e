"""Images of a data set that `datasets` opens: a column of images, a column of labels, and your table of attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.catalog import Catalog, Image, decode_problem
from dedn_hf.data.own_photos import READING, TableReader, described_catalog, reading_among, require_share
from dedn_hf.data.privacy import without_metadata
from dedn_hf.data.stored import StoredPhotos, stored_photos


class StoredImages(ZeroShotBuilder):
    """Images that are rows of another data set, and not files."""

    def __init__(self, catalog: Catalog, stored: StoredPhotos, **options: Any) -> None:
        self.stored = stored
        super().__init__(catalog, **options)

    def problems(self, images: list[Image]) -> dict[str, str]:
        """File -> reason, for the images that do not decode."""
        found = {image.file: decode_problem(self.stored.content(image.file)) for image in images}
        return {file: problem for file, problem in found.items() if problem}

    def example(self, image: Image) -> dict[str, Any]:
        """One row of the data set."""
        content = self.stored.content(image.file)
        stored = {"path": None, "bytes": content if self.keep_metadata else without_metadata(content)}
        return {"image": stored, "label": image.label, "file": image.file}


class Existing(StoredImages):
    """A data set of the Hub, or a folder that `save_to_disk` or `load_dataset` knows, and a CSV of class attributes.

    Images of its split 'test' are tested on. Without that split, a part of each seen class is held out for it.

    Args:
        data_dir: folder or Parquet file of the data set, or its name on the Hub.
        csv, groups, test_fraction: as of `Folder`, and so are further arguments of `read_traits`.
        image_column: default: the only column of images.
        label_column: default: the only column of class labels, or one called label, class, species and the like.
        options: `validation`, `strict`, `cache_dir`, `config_name`, `keep_metadata` of `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: no such data set or CSV file.
        ValueError: a label without a CSV row, no seen or no unseen class, columns that have to be named.
    """

    TITLE = "A data set of images"
    DESCRIPTION = "Images of another data set, with class attributes from a CSV file."
    OPTIONS = READING

    def __init__(
        self,
        data_dir: str | Path,
        csv: str | Path | list[str | Path],
        groups: str | Path | dict[str, str] | None = None,
        test_fraction: float = 0.2,
        image_column: str | None = None,
        label_column: str | None = None,
        **options: Any,
    ) -> None:
        require_share(test_fraction)
        reader = TableReader(csv, groups, reading_among(options))
        stored = stored_photos(str(data_dir), reader, image_column, label_column)
        reader.tell_classes(stored.found)
        super().__init__(described_catalog(stored.found, reader, test_fraction, stored.stamps), stored, **options)
