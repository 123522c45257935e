"""Your own data: one folder of images a class, and a CSV that describes every class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.own_photos import own_catalog


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
        names, name_column, use, ignore, kinds, sheet, long_columns, transposed, delimiter, encoding, header, decimal,
            missing: as of `read_traits`.
        options: `validation`, `strict`, `cache_dir`, `config_name`, `keep_metadata` of `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: no such folder, or no such CSV file.
        ValueError: a class folder without a CSV row, no images, no seen or no unseen class, or a faulty CSV.
    """

    TITLE = "A folder of images"
    DESCRIPTION = "A folder of images, with class attributes from a CSV file."

    def __init__(
        self,
        data_dir: str | Path,
        csv: str | Path | list[str | Path] | None = None,
        groups: str | Path | dict[str, str] | None = None,
        test_fraction: float = 0.2,
        names: str | Path | dict[str, str] | None = None,
        name_column: str | None = None,
        use: list[str] | None = None,
        ignore: list[str] | None = None,
        kinds: dict[str, str] | None = None,
        sheet: str | int | None = None,
        long_columns: list[str] | None = None,
        transposed: bool | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        header: int | None = None,
        decimal: str | None = None,
        missing: list[Any] | None = None,
        **options: Any,
    ) -> None:
        reading = {"names": names, "name_column": name_column, "use": use, "ignore": ignore, "kinds": kinds}
        reading |= {"sheet": sheet, "long_columns": long_columns, "transposed": transposed, "delimiter": delimiter}
        reading |= {"encoding": encoding, "header": header, "decimal": decimal, "missing": missing}
        super().__init__(own_catalog(data_dir, csv, groups, test_fraction, **reading), **options)
