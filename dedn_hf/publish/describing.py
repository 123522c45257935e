"""A trained model with further classes, or other descriptions of those that it has, as a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.classify.describing import (
    Described,
    compare,
    described_row,
    described_rows,
    with_classes,
)
from dedn_hf.classify.from_photos import (
    PHOTO_SCORES,
    ScoreFit,
    mean_scores,
    photo_files,
    reference_scores,
    row_with_photos,
    shown_traits,
)
from dedn_hf.data.testing import photos_to_test
from dedn_hf.data.transforms import ImageBatches, evaluation_transform
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.saving import replaced_model
from dedn_hf.publish.saved import CARD_FILE, RUN_FILE, companions, load_model, saved_file, saved_table, without_bars

if TYPE_CHECKING:
    import numpy as np

HEADING = "\n## Described after the training\n"


def describe_classes(
    model: str | os.PathLike,
    descriptions: Mapping[str, Mapping[str, Any]],
    out: str | os.PathLike,
    photos: Mapping[str, str | os.PathLike] | None = None,
    reference: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> list[Described]:
    """Write a copy of a saved model that knows further classes. Nothing is trained.

    Args:
        model: folder or Hub name. descriptions: name -> traits in the words of the model's table, such as
            `{"Snowy Owl": {"bill": "hooked", "mass": "2 kg"}}`. A class that the model knows is changed.
        out: the new model's folder. overwrite: `out` may hold a model, also the same one, and is replaced.
        photos: name -> folder with a few photos of the class, in addition to words or in place of them.
        reference: photos that the model was trained on, see `Describer`.

    Returns:
        For each class what it is near to, and warnings.

    Raises:
        ValueError: no such model, an unknown trait, a value that does not fit. FileExistsError: `out` is not empty.
        OSError: nothing can be written there.
    """
    require_free(out, overwrite)
    describer, photos = Describer(model, reference), photos or {}
    for name in dict.fromkeys([*descriptions, *photos]):
        describer.add(name, descriptions.get(name, {}), photos=photos.get(name))
    found = describer.compared()
    describer.write(out, found)
    return found


def require_free(out: str | os.PathLike, overwrite: bool) -> None:
    """Raise FileExistsError where something is there that must not be, or cannot be, replaced."""
    folder = Path(out)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} is there and holds no model. Give another folder.")
    if not overwrite:
        raise FileExistsError(f"{folder} holds a model. Give another folder, or --overwrite.")


class Describer:
    """A saved model, and the classes that are to be described or changed.

    Args:
        model: folder or Hub name. reference: folder of the photos that it was trained on, where the training has not
            written down (photo-scores.csv) how attribute scores go with the table. It is needed once: what was
            learned stays in the new model's folder.
    """

    def __init__(self, model: str | os.PathLike, reference: str | os.PathLike | None = None) -> None:
        self.name, self.reference = str(model), reference
        self.model = load_model(self.name)
        self.before = saved_table(self.name, self.model)
        self.rows: dict[str, np.ndarray] = {}  # name -> A
        self.photos: dict[str, int] = {}
        self.unreadable: list[str] = []

    @cached_property
    def photo_scores(self) -> AttributeTable:
        """The mean attribute scores of classes with photos. Raises ValueError where they are not known."""
        if self.reference is not None:
            splits, _ = photos_to_test(self.reference, self.before)
            photos = ImageBatches(splits["train"], evaluation_transform(self.model))
            return reference_scores(self.model, photos, splits["train"]["label"][:], self.before)
        path = saved_file(self.name, PHOTO_SCORES)
        if path is None:
            raise ValueError(
                "To read traits off photos, it takes some photos that the model was trained on. Give their folder: "
                "--reference PHOTOS."
            )
        return AttributeTable.from_csv(path)

    @cached_property
    def fit(self) -> ScoreFit:
        """How attribute scores go with the table."""
        return ScoreFit.over(self.photo_scores, self.before)

    def add(
        self,
        name: str,
        description: Mapping[str, Any],
        like: str | None = None,
        traits: str | Path | None = None,
        photos: str | os.PathLike | None = None,
    ) -> None:
        """Describe a class by words as in `described_row`, by a folder of photos, or by both."""
        words, called = None, self.before.known_name(name) or name
        if description or like or traits or photos is None or called in self.before.class_names:
            called, words = described_row(self.before, name, description, like, traits)
        if photos is None:
            self.rows[called] = words
            return
        scores, count = self.scores_of(photos)
        self.rows[called], self.photos[called] = row_with_photos(self.fit, self.before, scores, count, words), count

    def add_all(self, traits: str | Path) -> None:
        """Describe all classes of a table of traits."""
        self.rows.update(described_rows(self.before, traits))

    def scores_of(self, photos: str | os.PathLike) -> tuple[np.ndarray, int]:
        """The mean attribute scores of photos, A, and how many could be read."""
        files = photo_files(photos)
        scores, broken = mean_scores(self.model, files)
        self.unreadable += broken
        return scores, len(files) - len(broken)

    def shown(self, photos: str | os.PathLike) -> str:
        """The traits that photos show, a line each."""
        scores, count = self.scores_of(photos)
        lines = shown_traits(self.fit, self.before, scores) or ["nothing that the model can tell from photos"]
        return "\n".join(
            [f"{count} photo{'s' * (count > 1)} show, the most special first:", *(f"  {x}" for x in lines)]
        )

    @cached_property
    def table(self) -> AttributeTable:
        """All classes, once every one has been added."""
        return with_classes(self.before, self.rows)

    def compared(self) -> list[Described]:
        """What each class is near to, and warnings."""
        return [compare(self.model, self.table, name, self.before, self.photos.get(name, 0)) for name in self.rows]

    def write(self, out: str | os.PathLike, found: list[Described]) -> None:
        """Save the model with its new classes, together with the card and the record of its training.

        found: what `compared` gave, for the card and the record.
        """
        out, beside = Path(out), companions(self.name)
        self.model.set_classes(self.table)
        with replaced_model(out) as unfinished:
            for path in beside:
                shutil.copyfile(path, unfinished / path.name)
            with without_bars():
                self.model.save_pretrained(unfinished)
            self.table.save(unfinished)
            if self.photos:
                self.photo_scores.to_csv(unfinished / PHOTO_SCORES)
            note_in_card(unfinished / CARD_FILE, found)
            note_in_record(unfinished / RUN_FILE, found)
            names = {path.name for path in unfinished.iterdir()}
        for stale in {RUN_FILE, PHOTO_SCORES, "attributes.npz"} - names:  # of another model that was replaced
            (out / stale).unlink(missing_ok=True)


def note_in_card(path: Path, found: list[Described]) -> None:
    """Add the classes to a section of the card, each once."""
    text, _, section = path.read_text(encoding="utf-8").partition(HEADING)
    lines = dict(line.split(": ", 1) for line in section.splitlines() if line.startswith("- "))
    for each in found:
        traits = ", ".join(f"{column} {value}" for column, value in list(each.traits.items())[:8])
        more = f" and {len(each.traits) - 8} more traits" if len(each.traits) > 8 else ""
        how = f"{'added' if each.is_new else 'changed'}{f' with {each.photos} photos' if each.photos else ''}"
        lines[f"- **{each.name}**"] = f"{how}; {traits or 'average in all'}{more}"
    intro = "These classes were described when the model had been trained. The scores above do not speak of them.\n"
    listed = "\n".join(f"{name}: {line}" for name, line in lines.items())
    path.write_text(f"{text}{HEADING}\n{intro}\n{listed}\n", encoding="utf-8")


def note_in_record(path: Path, found: list[Described]) -> None:
    """Add the classes to run.json, where there is one."""
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            {"class": each.name, "new": each.is_new, "photos": each.photos, "traits": each.traits} for each in found
        ]
        record["described"] = record.get("described", []) + entries
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
