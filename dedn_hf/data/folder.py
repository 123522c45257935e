"""Your own data: one folder of images a class, and a CSV that describes every class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.labelled import labelled_catalog
from dedn_hf.data.own_photos import READING, own_catalog, reading_among


class Folder(ZeroShotBuilder):
    """Images in one folder a class, at any depth, and a table of traits, read by `read_traits`.

    A class with images is seen, one without is unseen, unless a column `role` (train, val, unseen) or `seen` (1, 0)
    says otherwise. Images of seen classes are split into train and test_seen by a hash of their names, or by folders
    train and test; images of unseen classes are test_unseen. Unseen classes without images stay in the table; seen
    classes without images are left out. Without `val` classes, about a fifth of the seen ones take that role for the
    validation splits.

    Args:
        data_dir: folder of class folders, or a list of files and labels, see `find_photos`.
        csv: table of traits, or a list of tables, of any kind that `read_traits` reads; default `attributes.csv` in
            `data_dir`.
        groups: attribute groups, where the CSV has no `#group` row: a CSV file of attribute,group or a dict.
        test_fraction: share of a seen class's images that is test_seen, above 0 and below 1.
        labels: list of files and labels, which alone say which photo is which class; old_photos, like: then as of
            `labelled_catalog`.
        options: further arguments of `read_traits`, such as names, use, ignore, kinds, sheet; `validation`,
            `strict`, `cache_dir`, `config_name`, `keep_metadata` of `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: no such folder, or no such CSV file.
        ValueError: a class folder without a CSV row, no images, no seen or no unseen class, or a faulty CSV.
    """

    TITLE = "A folder of images"
    DESCRIPTION = "A folder of images, with class attributes from a CSV file."
    OPTIONS = READING

    def __init__(
        self,
        data_dir: str | Path,
        csv: str | Path | list[str | Path] | None = None,
        groups: str | Path | dict[str, str] | None = None,
        test_fraction: float = 0.2,
        labels: str | Path | None = None,
        old_photos: str | Path | None = None,
        like: str | None = None,
        **options: Any,
    ) -> None:
        reading = reading_among(options)
        if labels is None:
            catalog = own_catalog(data_dir, csv, groups, test_fraction, **reading)
        else:
            reading |= {"groups": groups, "old_photos": old_photos, "like": like}
            catalog = labelled_catalog(labels, data_dir, csv, test_fraction, **reading)
        super().__init__(catalog, **options)
