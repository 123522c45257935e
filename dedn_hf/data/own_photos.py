"""Which of your own photos to train on and which to test on: a catalog from photos and a table of attributes.

`datasets` replaces `Path` and `os` in the modules of its builders: therefore this is not in `folder.py`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dedn_hf.data.catalog import Catalog, abbreviate, assign_portions, hold_out, stamp, with_validation_classes
from dedn_hf.data.photos import Photos, find_photos, readable
from dedn_hf.data.stored import is_dataset, stored_photos
from dedn_hf.modeling.attribute_table import AttributeTable, near_names, read_groups
from dedn_hf.traits import TraitReport, read_traits

logger = logging.getLogger(__name__)


def own_catalog(
    data_dir: str | Path,
    csv: str | Path | Sequence[str | Path] | None,
    groups: str | Path | dict[str, str] | None,
    test_fraction: float,
    **reading: Any,
) -> Catalog:
    """The catalog of the images under `data_dir`; arguments and errors as `Folder`."""
    require_share(test_fraction)
    reader = TableReader(Path(data_dir) / "attributes.csv" if csv is None else csv, groups, reading)
    found = find_photos(data_dir, reader)
    reader.tell_classes(found)
    for line in found.describe_skipped():
        logger.warning("Not used: %s.", line)
    warn_same_photos(found)
    stamps = {photo.path: stamp(photo.path) for photo in found.photos}
    return described_catalog(found, reader, test_fraction, stamps)


def check(data_dir: str | Path, csv: str | Path | Sequence[str | Path], **reading: Any) -> tuple[Photos, TraitReport]:
    """The photos and the report on the table, for a look before the training.

    Args:
        reading: further arguments of `read_traits`, such as names, use, ignore, kinds.

    Raises:
        FileNotFoundError, ValueError: as `find_photos` and `read_traits`.
    """
    reader = TableReader(csv, None, reading)
    found = stored_photos(str(data_dir), reader).found if is_dataset(data_dir) else find_photos(data_dir, reader)
    reader.tell_classes(found)
    return found, reader.report


READING = inspect.signature(read_traits).parameters.keys() - {"source", "photos", "like"}


def reading_among(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the further arguments of `read_traits` out of the options of a data set."""
    return {name: options.pop(name) for name in list(options) if name in READING}


def why_refused(found: Photos, report: TraitReport) -> str:
    """Why these photos and this table cannot be trained with; '' where they can."""
    try:
        require_described(found, report.names_without_photos, report.source)
        if not report.seen:
            raise ValueError(f"No class of {report.source} is trained on. Give photos of some, or a column 'role'.")
    except ValueError as error:
        return str(error)
    return ""


def require_share(test_fraction: float) -> None:
    """Raise ValueError for a share of images to test on that leaves nothing on one side."""
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}; it is the share of a class to test on, above 0, below 1.")


class TableReader:
    """Reads the table once the names of the folders, or labels, with photos are known.

    Args:
        csv: the table, or several. groups: as of `Folder`. reading: further arguments of `read_traits`.
    """

    def __init__(
        self,
        csv: str | Path | Sequence[str | Path],
        groups: str | Path | dict[str, str] | None,
        reading: Mapping[str, Any],
    ) -> None:
        self.csv = [Path(each) for each in ([csv] if isinstance(csv, str | Path) else csv)]
        self.path, self.groups = " + ".join(map(str, self.csv)), groups
        self.reading = {name: value for name, value in reading.items() if value is not None}
        self.table: AttributeTable | None = None
        self.report: TraitReport | None = None

    def __call__(self, names: set[str]) -> dict[str, str]:
        """The classes of those names that the table knows; its classes are then called as these."""
        clean = {name: " ".join(readable(name).split()) for name in names}  # no name of a class has spaces around it
        self.table = self.read(sorted(set(clean.values())))
        known = set(self.table.class_names)
        return {name: class_name for name, class_name in clean.items() if class_name in known}

    def tell_classes(self, found: Photos) -> None:
        """The report on the table then tells the classes of the photos from other folders.

        Classes with photos to test on only are not learned, so they are unseen.
        """
        labels = {photo.label: photo.known for photo in found.photos}
        known, unknown = ([label for label in sorted(labels) if labels[label] is said] for said in (True, False))
        self.report.keep_labels(known, unknown)
        learned = {photo.label for photo in found.photos if photo.split != "test"}
        roles = dict(zip(self.table.class_names, self.table.roles, strict=True))
        tested = [name for name in known if name not in learned and roles[name] != "unseen"]
        if tested and learned:
            roles |= dict.fromkeys(tested, "unseen")
            self.table = self.table.replace(roles=list(roles.values()))
            self.report.seen = int(self.table.seen.sum())
            self.report.warnings.append(f"all photos of {abbreviate(tested)} are to test on: described, not learned")
            logger.warning("%s: %s.", self.path, self.report.warnings[-1])

    def read(self, names: list[str]) -> AttributeTable:
        """The table. Classes are called as in `names` where they match, and are seen unless the table says else."""
        table = read_traits(self.csv, photos=names, **self.reading)
        self.report = table.report
        for warning in table.report.warnings if names else ():
            logger.warning("%s: %s.", self.path, warning)
        if self.groups is not None:
            return table.replace(attribute_groups=read_groups(self.groups, table.attribute_names))
        return table


def described_catalog(found: Photos, reader: TableReader, test_fraction: float, stamps: Mapping[str, str]) -> Catalog:
    """The catalog of photos and their classes' attributes. stamps: path of each photo -> what changes with it."""
    table, csv = reader.table, reader.path
    require_described(found, table.class_names, csv)
    table.require_seen()
    counts = found.counts()
    missing = [name for name in table.class_names if not counts[name]]
    unseen = {name for name, is_seen in zip(table.class_names, table.seen, strict=True) if not is_seen}
    if not counts.keys() - unseen:
        raise ValueError(f"{found.root} holds no image of a seen class of {csv}, so there is nothing to train on.")
    warn_described_only([name for name in missing if name in unseen])
    dropped = [name for name in missing if name not in unseen]
    table = with_validation_classes(table.select([name for name in table.class_names if name not in dropped]))
    paths = {found.relative(photo): photo.path for photo in found.photos}
    portions = assign_portions(split_photos(found, table, test_fraction), table.roles)
    images = [image._replace(stamp=stamps[paths[image.file]]) for image in portions]
    return Catalog(table, images, found.root, dropped, paths)


def require_described(found: Photos, class_names: list[str], csv: str) -> None:
    """Raise ValueError where there are no images, or where images belong to no class of the CSV."""
    if not found.photos:
        skipped = "".join(f" Not used: {line}." for line in found.describe_skipped())
        raise ValueError(
            f"{found.root} holds no images. Put the images of each class in a folder named as in {csv}.{skipped}"
        )
    unknown = sorted({photo.label for photo in found.photos if not photo.known})
    if unknown:
        raise ValueError(
            f"{len(unknown)} folders of {found.root} have no row in {csv}, first {unknown[0]!r}."
            f"{near_names(unknown[0], class_names)} Add a row, rename the folder, or move it away."
        )


def warn_same_photos(found: Photos) -> None:
    """Warn about the same photo under two classes: one of them must be wrong."""
    for line in describe_twice(found):
        logger.warning("%s.", line)


def describe_twice(found: Photos, shown: int = 5) -> list[str]:
    """A line for each photo that is under two classes; of many, the first few and how many there are."""
    twice = found.same_under_two_labels()
    lines = [
        f"the same photo under several classes: {', '.join(map(found.relative, photos))}" for photos in twice[:shown]
    ]
    return lines + [f"{len(twice) - shown} more photos under several classes"] * (len(twice) > shown)


def warn_described_only(names: list[str]) -> None:
    """Warn about unseen classes without images: they can be predicted, but not tested."""
    if names:
        logger.warning("%d unseen classes have no images to test on: %s.", len(names), abbreviate(names))


def split_photos(found: Photos, table: AttributeTable, test_fraction: float) -> list[tuple[str, int, str]]:
    """(file, label, split) for all images, by class. Where some photos are marked for testing, only these are."""
    of_class: dict[str, dict[str, str]] = {name: {} for name in table.class_names}
    for photo in found.photos:
        of_class[photo.label][found.relative(photo)] = photo.split
    marked = any(photo.split == "test" for photo in found.photos)
    listed = []
    for label, (files, is_seen) in enumerate(zip(of_class.values(), table.seen, strict=True)):
        held_out = hold_out(list(files), test_fraction, "test")
        for file, split in files.items():
            is_test = split == "test" if marked else file in held_out
            listed.append((file, label, "test_unseen" if not is_seen else "test_seen" if is_test else "trainval"))
    return listed
