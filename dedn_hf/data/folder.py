"""Your own data: one folder of images a class, and a CSV that describes every class."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import PIL.Image

from dedn_hf.data.base import ZeroShotBuilder, abbreviate
from dedn_hf.data.catalog import Catalog, assign_portions, file_stamps, hold_out, with_validation_classes
from dedn_hf.modeling.attribute_table import AttributeTable, near_names

logger = logging.getLogger(__name__)


class Folder(ZeroShotBuilder):
    """Images in `data_dir/<class>/` (subfolders too) and a CSV of class attributes, read by `AttributeTable`.

    The CSV's column `role` (train, val, unseen) or `seen` (1, 0) says which classes are trained on. Images of seen
    classes are split into train and test_seen by a hash of their names; images of unseen classes are test_unseen.
    Unseen classes without images stay in the table; seen classes without images are left out. Without `val` classes,
    about a fifth of the seen ones take that role for the validation splits.

    Args:
        data_dir: folder of class folders.
        csv: class attributes; default `attributes.csv` in `data_dir`.
        groups: attribute groups, where the CSV has no `#group` row: a CSV file of attribute,group or a dict.
        test_fraction: share of a seen class's images that is test_seen, above 0 and below 1.
        options: `validation`, `strict`, `cache_dir`, `config_name` of `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: no such folder, or no such CSV file.
        ValueError: a class folder without a CSV row, no images, no seen or no unseen class, or a faulty CSV.
    """

    TITLE = "A folder of images"
    DESCRIPTION = "A folder of images, with class attributes from a CSV file."

    def __init__(
        self,
        data_dir: str | Path,
        csv: str | Path | None = None,
        groups: str | Path | dict[str, str] | None = None,
        test_fraction: float = 0.2,
        **options: Any,
    ) -> None:
        csv = Path(data_dir) / "attributes.csv" if csv is None else Path(csv)
        super().__init__(read_folder(data_dir, AttributeTable.from_csv(csv, groups), csv, test_fraction), **options)


def read_folder(data_dir: str | Path, table: AttributeTable, csv: Path, test_fraction: float) -> Catalog:
    """The catalog of the images under `data_dir`; raises as `Folder`. `csv` is named in errors."""
    root = Path(data_dir).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {data_dir}. Pass the folder that holds one folder of images a class.")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}; it is the share of a class to test on, above 0, below 1.")
    table.require_seen_and_unseen()
    stamps = {name: image_stamps(root, name) for name in class_folders(root)}
    require_described(root, [name for name, files in stamps.items() if files], table.class_names, csv)
    with_images = {name for name, files in stamps.items() if files}
    missing = [name for name in table.class_names if name not in with_images]
    unseen = {name for name, is_seen in zip(table.class_names, table.seen, strict=True) if not is_seen}
    if not any(name not in unseen for name in with_images):
        raise ValueError(f"{root} holds no image of a seen class of {csv}, so there is nothing to train on.")
    warn_described_only([name for name in missing if name in unseen])
    dropped = [name for name in missing if name not in unseen]
    table = with_validation_classes(table.select([name for name in table.class_names if name not in dropped]))
    listed = [
        row
        for label, name in enumerate(table.class_names)
        for row in split_class(list(stamps.get(name, {})), label, name in unseen, test_fraction)
    ]
    images = [
        image._replace(stamp=stamps[table.class_names[image.label]][image.file])
        for image in assign_portions(listed, table.roles)
    ]
    return Catalog(table, images, str(root), dropped)


def class_folders(root: Path) -> list[str]:
    """Names of the folders directly under `root`, hidden ones apart."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def image_stamps(root: Path, class_name: str) -> dict[str, str]:
    """File (relative to `root`, with forward slashes) -> stamp, for every image file of a class."""
    known = PIL.Image.registered_extensions()
    stamps = {}
    for folder, _, _ in os.walk(root / class_name):
        relative = Path(folder).relative_to(root).as_posix()
        for name, stamp in file_stamps(folder).items():
            if Path(name).suffix.lower() in known and not name.startswith("."):
                stamps[f"{relative}/{name}"] = stamp
    return dict(sorted(stamps.items()))


def require_described(root: Path, folders: list[str], class_names: list[str], csv: Path) -> None:
    """Raise ValueError where there are no images, or where a folder of images is no class of the CSV."""
    if not folders:
        raise ValueError(f"{root} holds no images. Put the images of each class in a folder named as in {csv}.")
    unknown = [name for name in folders if name not in set(class_names)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} folders of {root} have no row in {csv}, first {unknown[0]!r}."
            f"{near_names(unknown[0], class_names)} Add a row, rename the folder, or move it away."
        )


def warn_described_only(names: list[str]) -> None:
    """Warn about unseen classes without images: they can be predicted, but not tested."""
    if names:
        logger.warning("%d unseen classes have no images to test on: %s.", len(names), abbreviate(names))


def split_class(files: list[str], label: int, unseen: bool, test_fraction: float) -> list[tuple[str, int, str]]:
    """(file, label, split) for the images of one class."""
    test = hold_out(files, test_fraction, "test")
    return [(file, label, "test_unseen" if unseen else "test_seen" if file in test else "trainval") for file in files]
