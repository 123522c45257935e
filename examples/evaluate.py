"""Evaluate a saved model on a data set: T1, U, S, H and AUSUC, and the accuracy of every class.

    python examples/evaluate.py runs/cub --data cub --data-dir data

Several processes give the same numbers: accelerate launch examples/evaluate.py ...
"""

import argparse
import sys
from pathlib import Path

import datasets
import yaml
from accelerate import Accelerator

from dedn_hf import DEDNForZeroShot
from dedn_hf.data import load
from dedn_hf.evaluation import evaluate
from dedn_hf.experiment import Experiment, inputs_of, open_caches, write_json
from dedn_hf.modeling.attribute_table import AttributeTable, near_names
from dedn_hf.settings import TrainingSettings
from dedn_hf.tasks import Inputs, Task, test_task, validation_task

SCORES = ("T1", "U", "S", "H", "AUSUC")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub name of a model")
    parser.add_argument("--data", required=True, help="cub, sun, awa2, folder, shapes, or a prepared folder")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--csv", help="folder: class attributes (default: attributes.csv in the data folder)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other options of the data set")
    parser.add_argument("--features-dir", help="feature cache of the frozen backbone, made if it is not there")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time, in each process")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--cpu", action="store_true", help="use the CPU, also where there is a GPU")
    return parser.parse_args()


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
        if seen_by_model[name] and not seen:
            raise ValueError(
                f"The model was trained on the class {name!r}, which counts as unseen here: no zero-shot "
                "result. Use the split that the model was trained for."
            )


def inputs_from(model: DEDNForZeroShot, task: Task, data: dict, folder: str | None, accelerator) -> Inputs:
    """Batches of cached features where a folder is given, else of images."""
    experiment = Experiment(
        lambda validation: load(validation=validation, **data), None, features=Path(folder) if folder else None
    )
    settings = TrainingSettings()
    return inputs_of(task, model, settings, open_caches(experiment, model, settings, accelerator))


def print_report(results: dict, accuracies: dict[str, float], worst: int = 5) -> None:
    """The scores and the classes that are recognised worst."""
    print("  ".join(f"{key:>6}" for key in SCORES))
    print("  ".join(f"{100 * results[key]:6.1f}" for key in SCORES))
    print("\nWorst classes:")
    for name in sorted(accuracies, key=accuracies.get)[:worst]:
        print(f"{100 * accuracies[name]:6.1f}  {name}")


def main() -> None:
    """Load, check, evaluate, report."""
    arguments = parse_arguments()
    accelerator = Accelerator(cpu=arguments.cpu)
    if not accelerator.is_main_process:
        datasets.disable_progress_bars()
    data = data_options(arguments)
    validation = arguments.split == "validation"
    model = DEDNForZeroShot.from_pretrained(arguments.model)
    with accelerator.main_process_first():
        splits, table = load(validation=validation, **data)
    task = validation_task(splits, table) if validation else test_task(splits, table)
    require_same_classes(model, task.table)
    model.set_classes(task.table)
    inputs = inputs_from(model, task, data, arguments.features_dir, accelerator)
    results, _, _ = evaluate(
        model.to(accelerator.device), inputs, task.table.seen, accelerator, batch_size=arguments.batch_size
    )
    if not accelerator.is_main_process:
        return
    accuracies = dict(zip(task.table.class_names, results["per_class_accuracy"], strict=True))
    accuracies = {name: accuracy for name, accuracy in accuracies.items() if accuracy is not None}
    print_report(results, accuracies)
    if arguments.json:
        described = {"model": arguments.model, "data": data, "split": arguments.split}
        write_json(Path(arguments.json), {**described, "results": results, "accuracy_of_class": accuracies})
        print(f"\nWrote {arguments.json}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
