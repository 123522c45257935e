"""Images of a data set that `datasets` opens: a column of images, a column of labels, and your table of attributes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.catalog import Image, contents, decode_problem
from dedn_hf.data.own_photos import TableReader, described_catalog, require_share
from dedn_hf.data.photos import LABEL_COLUMNS, SPLIT_FOLDERS, Photo, Photos, column_of
from dedn_hf.data.privacy import without_metadata


class Existing(ZeroShotBuilder):
    """A data set of the Hub, or a folder that `save_to_disk` or `load_dataset` knows, and a CSV of class attributes.

    Images of its split 'test' are tested on. Without that split, a part of each seen class is held out for it.

    Args:
        data_dir: folder of the data set, or its name on the Hub. csv: class attributes.
        groups, test_fraction: as of `Folder`.
        image_column: default: the only column of images.
        label_column: default: the only column of class labels, or one called label, class, species and the like.
        options: `validation`, `strict`, `cache_dir`, `config_name`, `keep_metadata` of `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: no such data set or CSV file.
        ValueError: a label without a CSV row, no seen or no unseen class, columns that have to be named.
    """

    TITLE = "A data set of images"
    DESCRIPTION = "Images of another data set, with class attributes from a CSV file."

    def __init__(
        self,
        data_dir: str | Path,
        csv: str | Path,
        groups: str | Path | dict[str, str] | None = None,
        test_fraction: float = 0.2,
        image_column: str | None = None,
        label_column: str | None = None,
        **options: Any,
    ) -> None:
        require_share(test_fraction)
        splits = open_dataset(str(data_dir))
        features = next(iter(splits.values())).features
        image, label = image_column or find_images(features), label_column or find_labels(features)
        reader = TableReader(Path(csv), groups, {})
        found, stamps, self.rows = Photos(str(data_dir)), {}, {}
        labels = {split: names_of(rows, label) for split, rows in splits.items()}
        classes = reader({name for names in labels.values() for name in names})
        for split, rows in splits.items():
            images = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
            for index, name in enumerate(labels[split]):
                path = os.path.join(found.root, split, str(index))
                found.photos.append(
                    Photo(path, classes.get(name, name), SPLIT_FOLDERS.get(split, ""), name in classes)
                )
                self.rows[f"{split}/{index}"] = images, image, index
                stamps[path] = rows._fingerprint
        super().__init__(described_catalog(found, reader, test_fraction, stamps), **options)

    def problems(self, images: list[Image]) -> dict[str, str]:
        """File -> reason, for the images that do not decode."""
        found = {image.file: decode_problem(self.content(image.file)) for image in images}
        return {file: problem for file, problem in found.items() if problem}

    def content(self, file: str) -> bytes:
        """The bytes of an image."""
        images, column, index = self.rows[file]
        stored = images[index][column]
        return contents(stored["path"]) if stored["bytes"] is None else stored["bytes"]

    def example(self, image: Image) -> dict[str, Any]:
        """One row of the data set."""
        content = self.content(image.file)
        stored = {"path": None, "bytes": content if self.keep_metadata else without_metadata(content)}
        return {"image": stored, "label": image.label, "file": image.file}


def open_dataset(name: str) -> datasets.DatasetDict:
    """The splits of a data set; raises FileNotFoundError where there is none, with what `datasets` says of it."""
    if os.path.isfile(os.path.join(name, "dataset_dict.json")) or os.path.isfile(os.path.join(name, "state.json")):
        found = datasets.load_from_disk(name)
    else:
        try:
            found = datasets.load_dataset(name)
        except Exception as error:
            raise FileNotFoundError(f"{name} is no data set that `datasets` opens: {error}") from error
    return found if isinstance(found, datasets.DatasetDict) else datasets.DatasetDict(train=found)


def find_images(features: datasets.Features) -> str:
    """The only column of images; raises ValueError where there is none, or several."""
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        raise ValueError(
            f"There are {len(columns)} columns of images; give image_column, one of {', '.join(features)}."
        )
    return columns[0]


def find_labels(features: datasets.Features) -> str:
    """The column of labels; raises ValueError where it cannot be told."""
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    named = columns[0] if len(columns) == 1 else column_of(columns or list(features), LABEL_COLUMNS)
    if named is None:
        raise ValueError(f"The column of labels cannot be told; give label_column, one of {', '.join(features)}.")
    return named


def names_of(rows: datasets.Dataset, column: str) -> list[str]:
    """The label of every row, as a name."""
    feature = rows.features[column]
    labels = rows[column][:]
    return (
        [feature.int2str(label) for label in labels]
        if isinstance(feature, datasets.ClassLabel)
        else list(map(str, labels))
    )
