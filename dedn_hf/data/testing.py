"""Which photos a trained model is tested on: those of the classes it knows, without the ones it was trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import datasets

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.catalog import Catalog, abbreviate, assign_portions, stamp
from dedn_hf.data.existing import StoredImages
from dedn_hf.data.own_photos import require_share, split_photos, warn_same_photos
from dedn_hf.data.photos import Photos, find_photos
from dedn_hf.data.stored import is_dataset, stored_photos
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.traits import matching


class KnownClasses(ZeroShotBuilder):
    """Photos of classes that a model knows."""

    TITLE = DESCRIPTION = "Photos of classes that a model knows."


def photos_to_test(
    source: str | os.PathLike,
    table: AttributeTable,
    names: str | Path | Mapping[str, str] | None = None,
    test_fraction: float = 0.2,
    all_new: bool = False,
) -> tuple[datasets.DatasetDict, list[str]]:
    """The photos of a table's classes in the splits that `Folder` makes, and what was not used, a line a kind.

    Photos of the same names fall into the same splits as in the training, because a hash of the name decides.

    Args:
        source: folder or list of photos, see `find_photos`, or a data set that `datasets` opens.
        table: K classes; no class is left out, and labels index its rows.
        names: which folder is which class, as of `read_traits`.
        test_fraction: of the training. all_new: no photo was trained on, so every one is tested on.

    Raises:
        FileNotFoundError: no such folder. ValueError: no photo of a class of the table.
    """
    require_share(test_fraction)

    def match(folders: set[str]) -> dict[str, str]:
        return classes_of_folders(table, folders, names)

    stored = stored_photos(str(source), match) if is_dataset(source) else None
    found = find_photos(source, match) if stored is None else stored.found
    others = sorted({photo.label for photo in found.photos if not photo.known})
    notes = found.describe_skipped()
    if others:
        notes.append(f"photos of classes that the model does not know: {abbreviate(others)}")
    found.photos = [photo for photo in found.photos if photo.known]
    if not found.photos:
        raise ValueError(
            f"{found.root} holds no photo of a class of the model ({abbreviate(table.class_names)}). "
            + " ".join(f"Not used: {note}." for note in notes)
        )
    warn_same_photos(found)
    stamps = {photo.path: stamp(photo.path) for photo in found.photos} if stored is None else stored.stamps
    catalog = catalog_of(found, table, test_fraction, all_new, stamps)
    return (KnownClasses(catalog) if stored is None else StoredImages(catalog, stored)).load(), notes


def catalog_of(
    found: Photos, table: AttributeTable, test_fraction: float, all_new: bool, stamps: Mapping[str, str]
) -> Catalog:
    """The catalog of the photos, with all classes of the table. stamps: path -> what changes with the photo."""
    paths = {found.relative(photo): photo.path for photo in found.photos}
    listed = split_photos(found, table, test_fraction)
    if all_new:
        seen = table.seen
        listed = [(file, label, "test_seen" if seen[label] else "test_unseen") for file, label, _ in listed]
    images = [image._replace(stamp=stamps[paths[image.file]]) for image in assign_portions(listed, table.roles)]
    return Catalog(table, images, found.root, [], paths)


def classes_of_folders(
    table: AttributeTable, folders: set[str], names: str | Path | Mapping[str, str] | None = None
) -> dict[str, str]:
    """Folder -> class of the table, of those that are one. Raises ValueError where a folder fits several."""
    clean = {" ".join(folder.split()): folder for folder in sorted(folders)}
    aliases = None if names is None else matching.read_names(names, list(clean))
    matched = matching.match(table.class_names, list(clean), aliases)
    return {clean[folder]: name for name, folder in matched.folder_of.items()}
