"""Evaluate a saved model on a data set: T1, U, S, H and AUSUC, and the accuracy of every class.

    python examples/evaluate.py runs/cub --data cub --data-dir data

Several processes give the same numbers: accelerate launch examples/evaluate.py ...
"""

import argparse
import sys
from pathlib import Path

import datasets
from accelerate import Accelerator

from dedn_hf import DEDNForZeroShot
from dedn_hf.data import load
from dedn_hf.data.tasks import test_task, validation_task
from dedn_hf.metrics.scores import SCORES, percent
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.inputs import add_data_arguments, data_options, inputs_from, require_same_classes
from dedn_hf.training.output_folder import write_json


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub name of a model")
    add_data_arguments(parser)
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time, in each process")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--cpu", action="store_true", help="use the CPU, also where there is a GPU")
    return parser.parse_args()


def print_report(results: dict, accuracies: dict[str, float], worst: int = 5) -> None:
    """The scores and the classes that are recognised worst."""
    print("  ".join(f"{key:>10}" for key in SCORES))
    print("  ".join(f"{percent(results[key]):>10}" for key in SCORES))
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
