"""`prepare`: any data set as a folder of Parquet files that plain `datasets.load_dataset(folder)` opens.

Images are stored once, encoded as they were but without metadata, one group of files a portion. The two
configurations of the folder ('default' and 'validation') list the groups that make up their splits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.data.catalog import PORTIONS
from dedn_hf.data.dataset_card import write_dataset_card
from dedn_hf.data.loading import RECORD_FILE, builder_class
from dedn_hf.modeling.saving import sync

if TYPE_CHECKING:
    from dedn_hf.data.base import ZeroShotBuilder

DATA_FOLDER = "data"


def prepare(
    name: str,
    out: str | Path,
    data_dir: str | Path | None = None,
    strict: bool = False,
    overwrite: bool = False,
    max_shard_size: str = "500MB",
    keep_metadata: bool = False,
    **options: Any,
) -> Path:
    """Write data set `name` to the folder `out`: README.md, data/*.parquet, attributes.csv (and .npz), dedn.json.

    Everything is written to a folder beside `out` and renamed at the end: `out` is whole or is not there. After an
    interruption, run it again. A finished folder of ours is replaced, by the last two renames.

    Args:
        name: 'cub', 'sun', 'awa2', 'folder' or 'shapes'.
        out: folder to write.
        data_dir: folder of the images.
        strict: an image that does not decode is an error, not a warning.
        overwrite: replace `out` even if something else is in it.
        max_shard_size: size of a Parquet file, before compression.
        keep_metadata: keep EXIF data and the like, which say where a photo was taken and with which camera.
        options: further arguments of the data set's builder.

    Raises:
        FileExistsError: `out` is a file, or holds something that `prepare` did not write.
        OSError: the disk is full, or nothing can be written there.
        ValueError, FileNotFoundError: as the data set's builder.
    """
    out = Path(out).absolute()
    if replaced_by(out).exists() and not out.exists():
        replaced_by(out).rename(out)  # interrupted between the two renames of `publish`
    require_free(out, overwrite)
    if data_dir is not None:
        options["data_dir"] = data_dir
    unfinished = out.with_name(f"{out.name}.dedn-unfinished")
    how: dict[str, Any] = {"config_name": "portions", "strict": strict, "keep_metadata": keep_metadata}
    make = builder_class(name, data_dir)
    make.require_options(options)
    builder = make(cache_dir=unfinished / "cache", **how, **options)
    fresh_folder(unfinished)
    try:
        data = str(unfinished / DATA_FOLDER)
        write_images(builder, data, max_shard_size)
        builder.table.save(unfinished)
        write_dataset_card(unfinished, builder, portion_files(unfinished))
        write_record(unfinished, name, builder)
        remove_scaffolding(unfinished)
        publish(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return out


def require_free(out: Path, overwrite: bool) -> None:
    """Raise FileExistsError where `out` is a file, or holds something that `prepare` did not write."""
    if out.is_file():
        raise FileExistsError(f"{out} is a file. Name a folder.")
    if out.exists() and not overwrite and not (out / RECORD_FILE).is_file() and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty and `dedn prepare` did not write it. Name another folder, or give --overwrite."
        )


def fresh_folder(folder: Path) -> None:
    """Make an empty folder, without what an interrupted run has left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write_images(builder: ZeroShotBuilder, folder: str, max_shard_size: str) -> None:
    """Write the Parquet files. Raises what went wrong, out of the error that `datasets` wraps around it."""
    from datasets.exceptions import DatasetGenerationError

    try:
        builder.download_and_prepare(folder, file_format="parquet", max_shard_size=max_shard_size)
    except DatasetGenerationError as error:
        why = str(error.__cause__ or error).rstrip(".")
        raise OSError(f"{folder} could not be written: {why}. Make room there, or name another folder.") from error


def portion_files(folder: Path) -> dict[str, list[str]]:
    """Portion -> its Parquet files, as paths relative to `folder`."""
    return {
        portion: [f"{DATA_FOLDER}/{path.name}" for path in sorted((folder / DATA_FOLDER).glob(f"*-{portion}[-.]*"))]
        for portion in PORTIONS
    }


def write_record(folder: Path, name: str, builder: ZeroShotBuilder) -> None:
    """dedn.json: what was prepared, and what was left out."""
    record = {
        "name": name,
        "images": {split: info.num_examples for split, info in builder.info.splits.items()},
        "missing_classes": builder.missing_classes,
        "left_out": builder.left_out,
        "metadata": "kept" if builder.keep_metadata else "removed",
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")


def remove_scaffolding(folder: Path) -> None:
    """Leave Parquet files only in the data folder, and nothing of the builder's locks and caches."""
    for path in [*folder.glob("*.lock"), *(folder / DATA_FOLDER).iterdir()]:
        if path.suffix != ".parquet":
            path.unlink()
    shutil.rmtree(folder / "cache", ignore_errors=True)


def publish(unfinished: Path, out: Path) -> None:
    """Rename the finished folder to `out`, after its content has reached the disk."""
    for path in [*unfinished.rglob("*"), unfinished]:
        sync(path)
    shutil.rmtree(replaced_by(out), ignore_errors=True)
    if out.exists():
        out.rename(replaced_by(out))
    unfinished.rename(out)
    sync(out.parent)
    shutil.rmtree(replaced_by(out), ignore_errors=True)


def replaced_by(out: Path) -> Path:
    """Where the folder that `out` replaces stays until `out` is in its place."""
    return out.with_name(f"{out.name}.dedn-replaced")
