"""The data that a saved model is examined on, as the scripts in examples/ take them from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import yaml
from accelerate import Accelerator

from dedn_hf.data.feature_files import IDENTITY_FILE
from dedn_hf.data.tasks import Inputs, Task
from dedn_hf.modeling.attribute_table import AttributeTable, near_names
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.training.experiment import Experiment, inputs_of, open_caches
from dedn_hf.training.settings import TrainingSettings

Load = Callable[[bool], tuple[datasets.DatasetDict, AttributeTable]]


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a data set and its feature cache, for `data_options` and `inputs_from`."""
    parser.add_argument("--data", required=True, help="cub, sun, awa2, folder, shapes, or a prepared folder")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--csv", help="folder: class attributes (default: attributes.csv in the data folder)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other options of the data set")
    parser.add_argument("--features-dir", help="feature cache of the frozen backbone, made if it is not there")


def data_options(arguments: argparse.Namespace) -> dict:
    """Arguments of `load`. Raises ValueError for an option without a value."""
    options = {"name": arguments.data, "data_dir": arguments.data_dir, "csv": arguments.csv}
    options = {key: value for key, value in options.items() if value is not None}
    for text in arguments.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Cannot read {text!r}. Write KEY=VALUE, e.g. image_size=64.")
        options[key] = yaml.safe_load(value)
    return options


def require_same_classes(model: DEDNForZeroShot, table: AttributeTable) -> None:
    """Raise ValueError unless model and data set agree on the classes and on which of them were trained on.

    Attributes are matched by `set_classes`, which raises for a missing one. The order of both is free.
    """
    seen_by_model = dict(zip(model.attribute_table.class_names, model.attribute_table.seen.tolist(), strict=True))
    for name, seen in zip(table.class_names, table.seen.tolist(), strict=True):
        if name not in seen_by_model:
            raise ValueError(
                f"The model does not know the class {name!r} of the data.{near_names(name, seen_by_model)}"
            )
        if seen_by_model[name] != seen:
            trained, here = ("trained", "unseen") if seen_by_model[name] else ("not trained", "seen")
            raise ValueError(
                f"The model was {trained} on the class {name!r}, which counts as {here} here: no zero-shot result. "
                "Use the split that the model was trained for."
            )


def inputs_from(
    model: DEDNForZeroShot,
    task: Task,
    load: Load,
    folder: str | Path | None,
    accelerator: Accelerator,
    num_workers: int = 0,
) -> Inputs:
    """Batches of cached features where a folder is given, else of images.

    A cache that is there is used in the precision it was made with. load: as of `Experiment`.
    """
    experiment, settings = Experiment(load, lambda _: model), TrainingSettings(num_workers=num_workers)
    if folder:
        experiment.features = Path(folder)
        if (experiment.features / IDENTITY_FILE).exists():
            settings = replace(settings, feature_precision="auto")
    return inputs_of(task, model, settings, open_caches(experiment, model, settings, accelerator))
