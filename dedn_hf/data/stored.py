"""Photos of a data set that `datasets` opens: which are its images, and which its labels.

`datasets` replaces `Path` and `os` in the modules of its builders: therefore this is not in `existing.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import datasets

from dedn_hf.data.catalog import contents
from dedn_hf.data.photos import LABEL_COLUMNS, LISTS, SPLIT_FOLDERS, Match, Photo, Photos, column_of


class StoredPhotos(NamedTuple):
    """The photos of a data set, as if each were a file 'split/number' in a folder.

    Args:
        found: the photos. stamps: path of each -> what changes with it. rows: file -> images of its split, their
            column, and its number.
    """

    found: Photos
    stamps: Mapping[str, str]
    rows: Mapping[str, tuple[datasets.Dataset, str, int]]

    def content(self, file: str) -> bytes:
        """The bytes of an image."""
        images, column, index = self.rows[file]
        stored = images[index][column]
        return contents(stored["path"]) if stored["bytes"] is None else stored["bytes"]


def is_dataset(source: str | os.PathLike) -> bool:
    """Whether this is a data set, and no folder or list of photos.

    That is one saved to disk, Parquet files with images, or a name on the Hub.
    """
    source = os.fspath(source)
    if not os.path.exists(source):
        return re.fullmatch(r"\w[\w.-]*/[\w.-]+", source) is not None and not os.path.exists(os.path.dirname(source))
    if os.path.isfile(source):
        return holds_images(source)
    if {"dataset_dict.json", "state.json"} & set(os.listdir(source)):
        return True
    for folder in (source, os.path.join(source, "data")):
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        if files := [name for name in names if name.endswith(".parquet") and name not in LISTS]:
            return holds_images(os.path.join(folder, files[0]))
    return False


def holds_images(path: str) -> bool:
    """Whether a file is Parquet with a column of images, as `datasets` writes them."""
    import pyarrow
    import pyarrow.parquet

    if not path.endswith(".parquet"):
        return False
    types = [field.type for field in pyarrow.parquet.read_schema(path)]
    return any(pyarrow.types.is_struct(each) and each.get_field_index("bytes") >= 0 for each in types)


def stored_photos(
    name: str, match: Match | None = None, image_column: str | None = None, label_column: str | None = None
) -> StoredPhotos:
    """The photos of a data set. match: as of `find_photos`.

    Raises:
        FileNotFoundError: no such data set. ValueError: columns that have to be named.
    """
    splits = open_dataset(name)
    features = next(iter(splits.values())).features
    image, label = image_column or find_images(features), label_column or find_labels(features)
    found, stamps, rows_of = Photos(name), {}, {}
    labels = {split: names_of(rows, label) for split, rows in splits.items()}
    every = {name for names in labels.values() for name in names}
    classes = {name: name for name in every} if match is None else match(every)
    for split, rows in splits.items():
        images = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        for index, name in enumerate(labels[split]):
            path = os.path.join(found.root, split, str(index))
            found.photos.append(Photo(path, classes.get(name, name), SPLIT_FOLDERS.get(split, ""), name in classes))
            rows_of[f"{split}/{index}"] = images, image, index
            stamps[path] = rows._fingerprint
    return StoredPhotos(found, stamps, rows_of)


def open_dataset(name: str) -> datasets.DatasetDict:
    """The splits of a data set; raises FileNotFoundError where there is none, with what `datasets` says of it."""
    if os.path.isfile(os.path.join(name, "dataset_dict.json")) or os.path.isfile(os.path.join(name, "state.json")):
        found = datasets.load_from_disk(name)
    else:
        try:
            files = {"path": "parquet", "data_files": name} if os.path.isfile(name) else {"path": name}
            found = datasets.load_dataset(**files)
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
