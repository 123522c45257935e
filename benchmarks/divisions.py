"""What a recipe reaches on other divisions of a data set's classes into seen and unseen ones.

    COMMON="--data cub --data-dir data --backbone tf_efficientnet_lite0 --image-size 224 --crop-pct 1.0
      --weights tf_efficientnet_lite0.safetensors --features runs/features"
    python benchmarks/divisions.py $COMMON --recipe published           # best epoch on test, as published
    python benchmarks/divisions.py $COMMON --recipe quick               # an effort of `dedn train`, or several

Division number s draws the unseen classes by the seed s; a fifth of the photos of every seen class, by a hash of
their names, is tested on. The recipes of `dedn train` choose epoch, constant and temperature on folds of the seen
classes, and look at the test photos once. 'published' is the preset `cub` with the epoch of the best H on the test
photos.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from harness import RESULTS, environment

from dedn_hf.cli.backbone import add_backbone_arguments
from dedn_hf.data import load
from dedn_hf.data.catalog import VALIDATION_FRACTION, hold_out
from dedn_hf.data.tasks import test_task
from dedn_hf.metrics.confidence import answers, expected_calibration_error
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.training.automatic import EFFORTS, automatic_preset
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.inputs import inputs_from
from dedn_hf.training.settings import TrainingSettings, apply_overrides, read_preset

SCORES = ("T1", "U", "S", "H", "AUSUC")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cub, sun, awa2, shapes, or a prepared folder")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--recipe", nargs="+", default=["quick"], choices=["published", *EFFORTS])
    parser.add_argument("--unseen", type=int, default=10, help="classes that are unseen in each division (default 10)")
    parser.add_argument("--divisions", type=int, nargs="+", default=list(range(5)), help="(default 0 1 2 3 4)")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="other settings")
    parser.add_argument("--name", help="of the file of results (default: the data set's)")
    add_backbone_arguments(parser, required=True)
    return parser.parse_args()


def redivided(splits, table, unseen: int, seed: int):
    """The splits and the table with other classes unseen, as `dedn_hf.studies.pooled.redivided`."""
    everything = datasets.concatenate_datasets(list(splits.values()))
    labels, files = np.array(everything["label"][:]), np.array(everything["file"][:])
    drawn = np.random.default_rng(seed).permutation(np.unique(labels))[:unseen]
    roles = ["unseen" if label in drawn else "train" for label in range(len(table))]
    tested = set().union(*(hold_out(files[labels == label], VALIDATION_FRACTION, "test") for label in set(labels)))
    of_unseen, of_test = np.isin(labels, drawn), np.isin(files, list(tested))
    parts = {"train": ~of_unseen & ~of_test, "test_seen": ~of_unseen & of_test, "test_unseen": of_unseen}
    chosen = {name: everything.select(np.flatnonzero(rows)) for name, rows in parts.items()}
    return datasets.DatasetDict(chosen), table.replace(roles=roles)


def preset_of(recipe: str, arguments: argparse.Namespace, images: int, seen_classes: int) -> dict:
    """The settings of a recipe."""
    if recipe == "published":
        preset = read_preset("cub")
        preset["model"].update(backbone=arguments.backbone, pretrained=arguments.weights or True)
        preset["training"].update(select_on="test", epochs=24)
    else:
        preset = automatic_preset({}, images, seen_classes, recipe, arguments.backbone, arguments.weights)
    for name in ("image_size", "crop_pct"):
        if getattr(arguments, name) is not None:
            preset["model"][name] = getattr(arguments, name)
    return apply_overrides({**preset, "data": {}}, arguments.set)


def train_and_test(preset: dict, data: tuple, features: str, output: str) -> dict:
    """Scores of one training, and how far its confidence holds."""
    settings = TrainingSettings.from_dict(preset["training"])
    experiment = Experiment.from_preset(preset, features)
    experiment.load = lambda validation: data
    accelerator = Accelerator(cpu=True)
    record = run(experiment, settings, output, accelerator)
    model = DEDNForZeroShot.from_pretrained(output).eval()
    task = test_task(*data)
    inputs = inputs_from(model, task, experiment.load, features, accelerator)
    _, (logits, labels, _) = evaluate(model, inputs, task.table.seen, accelerator)
    probabilities = model.probabilities(torch.from_numpy(logits)).numpy()
    unseen = ~task.table.seen[labels]
    found = {name: record["results"][name] for name in SCORES}
    found["ECE"] = expected_calibration_error(probabilities, labels)
    found["ECE of unseen"] = expected_calibration_error(probabilities[unseen], labels[unseen])
    confidences, right = answers(probabilities, labels)
    for precision in (0.9, 0.95) if model.config.precision_thresholds else ():
        try:
            given = confidences >= model.config.probability_for(precision)
        except ValueError:  # never reached on the folds
            continue
        found[f"right at {precision}"] = float(right[given].mean()) if given.any() else None
        found[f"answered at {precision}"] = float(given.mean())
    return {"scores": found, "epoch": record["results"]["epoch"], "folds": (record["selection"] or {}).get("chosen")}


def report(recipe: str, found: list[dict]) -> None:
    """Mean and standard deviation over the divisions."""
    for name in found[0]["scores"]:
        values = [each["scores"].get(name) for each in found]
        if None not in values:
            print(f"{recipe:10} {name:16} {100 * np.mean(values):5.1f} ± {100 * np.std(values, ddof=1):4.1f}")


def main() -> None:
    """Train every recipe on every division, print the means, keep all numbers."""
    arguments = parse_arguments()
    splits, table = load(arguments.data, data_dir=arguments.data_dir)
    results: dict[str, list] = {recipe: [] for recipe in arguments.recipe}
    for seed in arguments.divisions:
        data = redivided(splits, table, arguments.unseen, seed)
        for recipe, found in results.items():
            preset = preset_of(recipe, arguments, len(data[0]["train"]), int(data[1].seen.sum()))
            with tempfile.TemporaryDirectory() as output:
                found.append(train_and_test(preset, data, arguments.features, f"{output}/run"))
            scores = {key: value for key, value in found[-1]["scores"].items() if value is not None}
            print(recipe, seed, *(f"{key} {100 * value:.1f}" for key, value in scores.items()), flush=True)
    for recipe, found in results.items():
        report(recipe, found)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"divisions-{arguments.name or Path(arguments.data).name}.json"
    file.write_text(json.dumps({"environment": environment(), "divisions": results}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"divisions.py: {error}")
