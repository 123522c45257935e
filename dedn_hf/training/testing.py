"""Tests a saved model on photos, with the classes that it knows or with those of another table."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from dedn_hf.data.catalog import abbreviate
from dedn_hf.data.loading import RECORD_FILE, load
from dedn_hf.data.tasks import Task, evaluation_task, validation_task
from dedn_hf.data.testing import photos_to_test
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.publish.evaluation import Evaluation
from dedn_hf.publish.saved import load_model, saved_file, saved_table
from dedn_hf.training.evaluation import evaluate, evaluation_of
from dedn_hf.training.inputs import Load, inputs_from, require_same_classes
from dedn_hf.training.output_folder import RUN_FILE
from dedn_hf.training.record import data_fingerprint
from dedn_hf.traits import read_traits

logger = logging.getLogger(__name__)


@dataclass
class TestSet:
    """What to test on: a task, the splits it was made from, and notes for the report."""

    __test__ = False  # for pytest

    task: Task
    load: Load
    notes: list[str] = field(default_factory=list)


def evaluate_photos(
    model: str | os.PathLike,
    photos: str | os.PathLike,
    traits: str | Path | None = None,
    names: str | Path | Mapping[str, str] | None = None,
    all_new: bool = False,
    features: str | Path | None = None,
    accelerator: Accelerator | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    **reading: Any,
) -> Evaluation:
    """Test a saved model on your own photos. Several processes share the work, and all get the same result.

    Args:
        model: folder or Hub name. photos: folder of class folders, list of files and labels, or a prepared folder.
            Only photos that the training has held out are tested on: of a seen class those that a hash of the file
            name chooses, of other classes all.
        traits: a table in place of the model's own; its classes compete. names: which folder is which class.
        all_new: none of the photos was trained on, so all are tested on. features: folder of the feature cache, made
            if it is not there. batch_size: photos at a time, in each process. num_workers: processes that decode.
        reading: further arguments of `read_traits`, for `traits`, such as name_column, use, ignore, kinds.

    Raises:
        ValueError: no such model, no photo to test on, a table that does not fit. FileNotFoundError: no such folder.
    """
    accelerator = accelerator or Accelerator()
    loaded, chosen = model_and_photos(model, photos, accelerator, traits, names, all_new, **reading)
    return evaluated(loaded, chosen, features, accelerator, batch_size, num_workers)


def model_and_photos(
    model: str | os.PathLike,
    photos: str | os.PathLike,
    accelerator: Accelerator,
    traits: str | Path | None = None,
    names: str | Path | Mapping[str, str] | None = None,
    all_new: bool = False,
    **reading: Any,
) -> tuple[DEDNForZeroShot, TestSet]:
    """The model, with the classes that compete, and what to test it on; arguments and errors as `evaluate_photos`."""
    loaded = load_model(str(model))
    if not accelerator.is_main_process:
        datasets.disable_progress_bars()
    if (Path(photos) / RECORD_FILE).is_file():
        return loaded, known_data(loaded, {"name": photos}, accelerator)
    table = saved_table(str(model), loaded) if traits is None else described_table(loaded, traits, **reading)
    loaded.set_classes(table)
    return loaded, own_photos(str(model), table, photos, names, all_new, accelerator)


def evaluated(
    model: DEDNForZeroShot,
    chosen: TestSet,
    features: str | Path | None,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Evaluation:
    """The model's answers to the test photos, scored; it has the classes of the task already."""
    task = chosen.task
    inputs = inputs_from(model, task, chosen.load, features, accelerator, num_workers)
    options = {"batch_size": batch_size, "num_workers": num_workers, "bar": True}
    _, found = evaluate(model.to(accelerator.device), inputs, task.table.seen, accelerator, **options)
    files = [file for split in ("seen", "unseen") for file in task.images[split]["file"][:]]
    return evaluation_of(model, task.table, found, files, chosen.notes)


# What to test on -----------------------------------------------------------------------------------------------------


def known_data(model: DEDNForZeroShot, data: dict, accelerator: Accelerator, validation: bool = False) -> TestSet:
    """The test, or validation, splits of a data set that `load` knows; the model gets its classes.

    Args:
        data: arguments of `load`.

    Raises:
        ValueError: model and data do not agree on the classes and on which of them were trained on.
    """

    def load_data(validation: bool) -> tuple[datasets.DatasetDict, AttributeTable]:
        return load(validation=validation, **data)

    with accelerator.main_process_first():
        splits, table = load_data(validation)
    task = validation_task(splits, table) if validation else evaluation_task(splits, table)
    require_same_classes(model, task.table)
    model.set_classes(task.table)
    return TestSet(task, load_data)


def own_photos(
    model: str,
    table: AttributeTable,
    photos: str | os.PathLike,
    names: str | Path | Mapping[str, str] | None,
    all_new: bool,
    accelerator: Accelerator,
) -> TestSet:
    """Photos of the table's classes that the training has held out, or all of them."""
    record = record_of(model)
    options = (record.get("experiment") or {}).get("data") or {}
    with accelerator.main_process_first():
        splits, unused = photos_to_test(photos, table, names, options.get("test_fraction", 0.2), all_new)
    task = evaluation_task(splits, table)
    notes = [f"Not used: {line}." for line in unused]
    if len(task.labels["seen"]) and not all_new:
        trained_on = (record.get("data") or {}).get("fingerprint")
        same = [trained_on and all(trained_on.get(k) == v for k, v in photo_hashes(splits, table).items())]
        same = broadcast_object_list(same if accelerator.is_main_process else [None])
        notes.insert(0, relation_to_training(same[0]))
        if same[0] and record.get("feature_precision") == "bfloat16":
            notes.insert(1, "It computed in bfloat16, so without its features (--features) a few answers differ.")
    by_photos = sorted({each["class"] for each in record.get("described", []) if each.get("photos")})
    if by_photos:
        notes.append(f"Described with photos, which must not be among these: {abbreviate(by_photos)}.")
    return TestSet(task, lambda validation: (splits, table), notes)


def photo_hashes(splits: datasets.DatasetDict, table: AttributeTable) -> dict[str, str]:
    """`data_fingerprint` of the photos alone."""
    return {name: value for name, value in data_fingerprint(splits, table).items() if name != "table"}


def relation_to_training(same: bool | None) -> str:
    """A sentence on whether the photos are those of the training. None: the training is not on record."""
    if same:
        return "These are the photos of the training; only those that it held out are tested on."
    why = "These are not the photos of the training, or not all of them"
    if same is None:
        why = "The model has no record of the photos that it was trained on (run.json)"
    return (
        f"{why}: of classes learned from photos, some of these may have been trained on, and their scores may be too "
        "high. About a fifth of the photos of such a class is tested on; if none was trained on, --all tests on all."
    )


def described_table(model: DEDNForZeroShot, traits: str | Path, **reading: Any) -> AttributeTable:
    """The classes of another table in the model's terms. Those that it was trained on are seen, no others."""
    own = model.attribute_table
    table = read_traits(traits, photos=own.class_names, like=model, **reading)
    seen = {name for name, is_seen in zip(own.class_names, own.seen, strict=True) if is_seen}
    left_out = [name for name in own.class_names if name in seen and name not in table.class_names]
    if left_out:
        logger.warning(
            "%s leaves out %d classes that the model knows: %s.", traits, len(left_out), abbreviate(left_out)
        )
    return table.replace(roles=["train" if name in seen else "unseen" for name in table.class_names])


def record_of(model: str) -> dict:
    """What run.json beside the model holds; nothing where there is none."""
    path = saved_file(model, RUN_FILE)
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))
