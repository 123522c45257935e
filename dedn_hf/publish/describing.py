"""A trained model with further classes, or other descriptions of those that it has, as a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.classify.describing import Described, compare, described_row, with_classes
from dedn_hf.modeling.saving import replaced_model
from dedn_hf.publish.saved import companions, load_model, saved_table

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

RUN_FILE, CARD_FILE = "run.json", "README.md"
HEADING = "\n## Described after the training\n"


def describe_classes(
    model: str | os.PathLike,
    descriptions: Mapping[str, Mapping[str, Any]],
    out: str | os.PathLike,
    overwrite: bool = False,
) -> list[Described]:
    """Write a copy of a saved model that knows further classes. Nothing is trained.

    Args:
        model: folder or Hub name. descriptions: name -> traits in the words of the model's table, such as
            `{"Snowy Owl": {"bill": "hooked", "mass": "2 kg"}}`. A class that the model knows is changed.
        out: the new model's folder. overwrite: `out` may hold a model, also the same one, and is replaced.

    Returns:
        For each class what it is near to, and warnings.

    Raises:
        ValueError: no such model, an unknown trait, a value that does not fit. FileExistsError: `out` is not empty.
        OSError: nothing can be written there.
    """
    require_free(out, overwrite)
    loaded = load_model(str(model))
    before = saved_table(str(model), loaded)
    rows = dict(described_row(before, name, description) for name, description in descriptions.items())
    table = with_classes(before, rows)
    found = [compare(loaded, table, name, before) for name in rows]
    write_described(str(model), loaded, table, found, out)
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


def write_described(
    name: str, model: DEDNForZeroShot, table: AttributeTable, found: list[Described], out: str | os.PathLike
) -> None:
    """Save a model with the classes of `table`, together with the card and the record of its training.

    Args:
        name: folder or Hub name of the model as it was. found: what is new, for the card and the record.
    """
    out = Path(out)
    model.set_classes(table)
    beside = companions(name)
    with replaced_model(out) as unfinished:
        for path in beside:
            shutil.copyfile(path, unfinished / path.name)
        model.save_pretrained(unfinished)
        table.save(unfinished)
        note_in_card(unfinished / CARD_FILE, found)
        note_in_record(unfinished / RUN_FILE, found)
        names = {path.name for path in unfinished.iterdir()}
    for stale in {RUN_FILE, "attributes.npz"} - names:  # of another model that was replaced
        (out / stale).unlink(missing_ok=True)


def note_in_card(path: Path, found: list[Described]) -> None:
    """Add the classes to a section of the card, each once."""
    text, _, section = path.read_text(encoding="utf-8").partition(HEADING)
    lines = dict(line.split(": ", 1) for line in section.splitlines() if line.startswith("- "))
    for each in found:
        traits = ", ".join(f"{column} {value}" for column, value in list(each.traits.items())[:8])
        more = f" and {len(each.traits) - 8} more traits" if len(each.traits) > 8 else ""
        lines[f"- **{each.name}**"] = f"{'added' if each.is_new else 'changed'}; {traits or 'average in all'}{more}"
    intro = "These classes were described when the model had been trained. The scores above do not speak of them.\n"
    listed = "\n".join(f"{name}: {line}" for name, line in lines.items())
    path.write_text(f"{text}{HEADING}\n{intro}\n{listed}\n", encoding="utf-8")


def note_in_record(path: Path, found: list[Described]) -> None:
    """Add the classes to run.json, where there is one."""
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = [{"class": each.name, "new": each.is_new, "traits": each.traits} for each in found]
        record["described"] = record.get("described", []) + entries
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
