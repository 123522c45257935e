"""The loader that the three benchmarks share: official unpacked folder in, proposed split out."""

from __future__ import annotations

import logging
import posixpath
from collections import defaultdict
from pathlib import Path
from typing import Any

from dedn_hf.data.base import ZeroShotBuilder, abbreviate
from dedn_hf.data.benchmarks import ListedImage, attribute_table, image_list
from dedn_hf.data.catalog import Catalog, assign_portions, file_stamps, with_validation_classes

logger = logging.getLogger(__name__)


class BenchmarkBuilder(ZeroShotBuilder):
    """A benchmark read from the folder that its official archive unpacks to, or from a part of it.

    Classes without any image are left out of labels and table, with a warning:
    50 of 200 classes are a 50-class problem.

    Args:
        data_dir: the unpacked folder, its parent, or the image folder itself.
        options: `validation`, `strict`, `cache_dir`, `config_name` of `ZeroShotBuilder`.

    Raises:
        FileNotFoundError: no `data_dir`, or it holds no folder of a known class.
        ValueError: the folder holds no seen, or no unseen class.
    """

    BENCHMARK = ""
    IMAGE_FOLDERS: tuple[str, ...] = ("",)  # where images may be, relative to data_dir

    def __init__(self, data_dir: str | Path | None = None, **options: Any) -> None:
        super().__init__(find_images(type(self), data_dir), **options)


def find_images(benchmark: type[BenchmarkBuilder], data_dir: str | Path | None) -> Catalog:
    """The catalog of the benchmark's images under `data_dir`; raises as `BenchmarkBuilder`."""
    listed = image_list(benchmark.BENCHMARK)
    root = find_root(benchmark, data_dir, listed)
    stamps = stamps_of(root, listed)
    table = attribute_table(benchmark.BENCHMARK)
    present = {image.label for image in listed if image.file in stamps}
    labels = sorted(present)
    kept = with_validation_classes(table.select([table.class_names[label] for label in labels]))
    require_both_roles(benchmark, root, kept.seen)
    new_label = {label: position for position, label in enumerate(labels)}
    of_kept = [(image.file, new_label[image.label], image.split) for image in listed if image.label in present]
    # Portions come from the official list, so that an image's portion does not depend on which others are there.
    images = [
        image._replace(stamp=stamps[image.file])
        for image in assign_portions(of_kept, kept.roles)
        if image.file in stamps
    ]
    if len(images) < len(of_kept):
        logger.warning(
            describe_absent(benchmark.BENCHMARK, root, [file for file, *_ in of_kept if file not in stamps])
        )
    missing = [name for label, name in enumerate(table.class_names) if label not in present]
    return Catalog(kept, images, str(root), missing)


def find_root(benchmark: type[BenchmarkBuilder], data_dir: str | Path | None, listed: list[ListedImage]) -> Path:
    """The absolute image folder: the first of `IMAGE_FOLDERS` under `data_dir` that holds a class folder."""
    name, folders = benchmark.BENCHMARK, [folder or "." for folder in benchmark.IMAGE_FOLDERS]
    advice = f"Download and unpack it ({benchmark.HOMEPAGE}), then pass the folder as data_dir."
    if data_dir is None:
        raise FileNotFoundError(f"{name} needs data_dir, the folder that holds {folders[0]}. {advice}")
    class_folders = sorted({posixpath.dirname(image.file) for image in listed})
    for folder in folders:
        root = Path(data_dir).absolute() / folder
        if any((root / class_folder).is_dir() for class_folder in class_folders):
            return root
    raise FileNotFoundError(
        f"{data_dir} holds no image folder of {name}: looked in {', '.join(folders)} for class folders such as "
        f"{class_folders[0]}. {advice}"
    )


def stamps_of(root: Path, listed: list[ListedImage]) -> dict[str, str]:
    """File -> stamp, for the listed images that exist under `root`."""
    files_in = defaultdict(list)
    for image in listed:
        files_in[posixpath.dirname(image.file)].append(image.file)
    stamps = {}
    for folder, files in files_in.items():
        existing = file_stamps(root / folder)
        names = {file: posixpath.basename(file) for file in files}
        stamps.update({file: existing[name] for file, name in names.items() if name in existing})
    return stamps


def require_both_roles(benchmark: type[BenchmarkBuilder], root: Path, seen: list[bool]) -> None:
    """Raise ValueError unless some of the classes present are seen and some are unseen."""
    for wanted, lacking in (("seen", not any(seen)), ("unseen", all(seen))):
        if lacking:
            table = attribute_table(benchmark.BENCHMARK)
            names = [
                name
                for name, is_seen in zip(table.class_names, table.seen, strict=True)
                if is_seen == (wanted == "seen")
            ]
            raise ValueError(
                f"{root} holds images of {len(seen)} {benchmark.BENCHMARK} classes, but of no {wanted} one. "
                f"Add some of {abbreviate(names, 3)}."
            )


def describe_absent(name: str, root: Path, absent: list[str]) -> str:
    """One sentence: how many listed images of the classes present are not there, and the first few of them."""
    return f"{name}: {len(absent)} images of the official list are not under {root}: {abbreviate(absent)}."
