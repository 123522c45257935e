"""`load`: any data set by name, or a prepared folder by path."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.modeling.attribute_table import AttributeTable, near_names

if TYPE_CHECKING:
    from datasets import DatasetDict

    from dedn_hf.data.base import ZeroShotBuilder

BUILDERS = {
    "cub": ("dedn_hf.data.cub", "CUB"),
    "sun": ("dedn_hf.data.sun", "SUN"),
    "awa2": ("dedn_hf.data.awa2", "AWA2"),
    "folder": ("dedn_hf.data.folder", "Folder"),
    "existing": ("dedn_hf.data.existing", "Existing"),
    "shapes": ("dedn_hf.data.shapes", "Shapes"),
}
RECORD_FILE = "dedn.json"  # in every finished prepared folder


def load(
    name: str | Path,
    data_dir: str | Path | None = None,
    validation: bool = False,
    strict: bool = False,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> tuple[DatasetDict, AttributeTable]:
    """Splits and class table of a data set.

    Args:
        name: 'cub', 'sun', 'awa2', 'folder', 'existing', 'shapes', or the path of a folder that `dedn prepare` wrote.
        data_dir: folder of the images; a prepared folder and 'shapes' need none.
        validation: splits train, val_seen, val_unseen in place of train, test_seen, test_unseen.
        strict: an image that does not decode is an error, not a warning.
        cache_dir: where Arrow files go (default: the `datasets` cache).
        options: arguments of the data set's builder, such as `csv` of `Folder` or `image_size` of `Shapes`.

    Returns:
        The splits, with columns `image`, `label`, `file`, and the table whose K classes the labels index. A split of
        which there is no image, as of unseen classes that are only described, is empty.

    Raises:
        ValueError: an unknown name or option (near ones are named), or as the data set's builder.
        FileNotFoundError: as the data set's builder.
    """
    if name not in BUILDERS and Path(name).is_dir():
        return load_prepared(name, validation, cache_dir)
    if data_dir is not None:
        options["data_dir"] = data_dir
    make = builder_class(str(name), data_dir)
    make.require_options(options)
    builder = make(validation=validation, strict=strict, cache_dir=cache_dir, **options)
    return builder.load(), builder.table


def load_prepared(
    folder: str | Path, validation: bool = False, cache_dir: str | Path | None = None
) -> tuple[DatasetDict, AttributeTable]:
    """What `dedn prepare` wrote to `folder`; raises ValueError where it did not finish, or wrote nothing."""
    import datasets

    from dedn_hf.data.catalog import SPLITS, require_validation_classes

    if not (Path(folder) / RECORD_FILE).is_file():
        raise ValueError(f"{folder} holds no prepared data set. Write one by: dedn prepare NAME --out {folder}")
    table = AttributeTable.load(folder)
    if validation:
        require_validation_classes(table)
    config_name = "validation" if validation else "default"
    cache_dir = None if cache_dir is None else str(cache_dir)
    splits = datasets.load_dataset(str(folder), config_name, cache_dir=cache_dir)
    empty = next(iter(splits.values())).select([])
    return datasets.DatasetDict({split: splits.get(split, empty) for split in SPLITS[config_name]}), table


def builder_class(name: str, data_dir: str | Path | None = None) -> type[ZeroShotBuilder]:
    """The builder of a data set; a 'folder' that `datasets` wrote is an 'existing' one.

    Raises ValueError, with near names, for an unknown one.
    """
    if name == "folder" and data_dir is not None:
        from dedn_hf.data.stored import is_dataset

        name = "existing" if is_dataset(data_dir) else name
    if name not in BUILDERS:
        raise ValueError(
            f"No data set {name!r}: there are {', '.join(BUILDERS)}, and folders that `dedn prepare` wrote."
            f"{near_names(name, BUILDERS)}"
        )
    module, attribute = BUILDERS[name]
    return getattr(import_module(module), attribute)
