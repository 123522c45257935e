"""The loader of the three benchmarks: it reads the official unpacked folder and applies the proposed split."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.benchmarks import attribute_table, image_list
from dedn_hf.data.catalog import Catalog, abbreviate, assign_portions, file_stamps, with_validation_classes
from dedn_hf.modeling.attribute_table import AttributeTable

logger = logging.getLogger(__name__)


class BenchmarkBuilder(ZeroShotBuilder):
    """A benchmark, read from the folder that its official archive unpacks to, or from a part of this folder.

    Classes without any image are left out of the labels and the table, with a warning. So a folder with 50 of 200
    classes gives a 50-class problem.

    Args:
        data_dir: the unpacked folder, its parent, or the image folder itself.
        options: `validation`, `strict`, `cache_dir` and `config_name`, as in `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: `data_dir` is missing, or holds no folder of a known class.
        ValueError: the folder holds no seen class, or no unseen class.
    """

    BENCHMARK = ""
    IMAGE_FOLDERS: tuple[str, ...] = ("",)  # where images may be, relative to data_dir

    def __init__(self, data_dir: str | Path | None = None, **options: Any) -> None:
        super().__init__(find_images(type(self), data_dir), **options)


def find_images(benchmark: type[BenchmarkBuilder], data_dir: str | Path | None) -> Catalog:
    """The catalog of the benchmark's images under `data_dir`. Errors as in `BenchmarkBuilder`."""
    name, listed = benchmark.BENCHMARK, image_list(benchmark.BENCHMARK)
    root, stamps = find_stamps(benchmark, data_dir)
    table = attribute_table(name)
    labels = sorted({image.label for image in listed if image.file in stamps})
    kept = with_validation_classes(table.select([table.class_names[label] for label in labels]))
    require_both_roles(root, kept, table)
    new_label = {label: position for position, label in enumerate(labels)}
    of_kept = [(image.file, new_label[image.label], image.split) for image in listed if image.label in new_label]
    # Portions come from the official list, so that an image's portion does not depend on other images.
    portions = assign_portions(of_kept, kept.roles)
    images = [image._replace(stamp=stamps[image.file]) for image in portions if image.file in stamps]
    warn_absent(root, [file for file, *_ in of_kept if file not in stamps])
    missing = [class_name for label, class_name in enumerate(table.class_names) if label not in new_label]
    return Catalog(kept, images, str(root), missing)


def find_stamps(benchmark: type[BenchmarkBuilder], data_dir: str | Path | None) -> tuple[Path, dict[str, str]]:
    """The first of `IMAGE_FOLDERS` with listed images, as an absolute path, and file -> stamp of these images."""
    name, folders = benchmark.BENCHMARK, [folder or "." for folder in benchmark.IMAGE_FOLDERS]
    advice = f"Download and unpack it ({benchmark.HOMEPAGE}), then pass the folder as data_dir."
    if data_dir is None:
        raise FileNotFoundError(f"{name} needs data_dir, the folder that holds {folders[0]}. {advice}")
    files_in = defaultdict(list)
    for image in image_list(name):
        folder, _, file_name = image.file.rpartition("/")
        files_in[folder].append(file_name)
    for folder in folders:
        root = Path(data_dir).absolute() / folder
        stamps = stamps_under(root, files_in)
        if stamps:
            return root, stamps
    raise FileNotFoundError(
        f"{data_dir} holds no image folder of {name}: looked in {', '.join(folders)} for class folders such as "
        f"{min(files_in)}. {advice}"
    )


def stamps_under(root: Path, files_in: dict[str, list[str]]) -> dict[str, str]:
    """File (relative to `root`) -> stamp, for the files that exist; `files_in` maps class folder -> file names."""
    stamps = {}
    for folder, names in files_in.items():
        existing = file_stamps(root / folder)
        stamps.update({f"{folder}/{name}": existing[name] for name in names if name in existing})
    return stamps


def require_both_roles(root: Path, kept: AttributeTable, table: AttributeTable) -> None:
    """Raise ValueError unless some of the classes present are seen and some are unseen."""
    for wanted, lacking, candidates in (
        ("seen", not kept.seen.any(), table.seen),
        ("unseen", kept.seen.all(), ~table.seen),
    ):
        if lacking:
            names = [table.class_names[label] for label in candidates.nonzero()[0]]
            raise ValueError(
                f"{root} holds images of {len(kept)} classes, but of no {wanted} one. Add some of {abbreviate(names)}."
            )


def warn_absent(root: Path, absent: list[str]) -> None:
    """Warn about `absent`: images of the official list that are missing, though their class is present."""
    if absent:
        logger.warning("%d images of the official list are not under %s: %s.", len(absent), root, abbreviate(absent))
