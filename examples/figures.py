"""Draw what a trained model does: heat maps, seen and unseen accuracy, confusions, its classes, deletion, training.

    python examples/figures.py runs/cub --data cub --data-dir data --out figures

Writes heat-maps, seen-unseen, confusion, class-attributes, deletion and, of a folder with a run.json, training.
"""

import argparse
import json
import sys
from pathlib import Path
from textwrap import fill

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from faithfulness import curves_of, draw_curves, open_model, sample_of, summary_of
from matplotlib.figure import Figure

from dedn_hf.data import load
from dedn_hf.data.tasks import test_task
from dedn_hf.data.transforms import decoded, encoded
from dedn_hf.explain.explainer import attribute_evidence, region_maps_of, strongest_attributes, unnormalized
from dedn_hf.explain.figures import figure_heat_maps
from dedn_hf.explain.names import spoken, spoken_class
from dedn_hf.explain.report import shortened
from dedn_hf.metrics.scores import seen_unseen_curve
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.publish.card import draw_training
from dedn_hf.studies.figures import figure_class_attributes, figure_confusion, figure_seen_unseen
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.experiment import RUN_FILE
from dedn_hf.training.inputs import add_data_arguments, data_options, inputs_from


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub name of a model")
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures, made if it is not there")
    parser.add_argument("--format", choices=["png", "svg"], default="png")
    parser.add_argument("--images", type=int, default=3, help="images with heat maps, each of another unseen class")
    parser.add_argument("--attributes", type=int, default=5, help="heat maps of each image and expert")
    parser.add_argument("--per-class", type=int, default=1, help="test images of each class for the deletion curves")
    parser.add_argument("--steps", type=int, default=7, help="points of a deletion curve after its first")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    return parser.parse_args()


@torch.no_grad()
def draw_heat_maps(model: DEDNForZeroShot, images: datasets.Dataset, count: int) -> Figure:
    """The attributes that speak most for the class that the model predicts, and where both experts found them."""
    pictures = decoded(encoded(images), range(len(images)))
    pixel_values = model.image_processor()(images=pictures, return_tensors="pt")["pixel_values"]
    predicted, names = model(pixel_values).logits.argmax(dim=-1), model.config.id2label
    evidence, maps = attribute_evidence(model, pixel_values, predicted), region_maps_of(model, pixel_values)
    titles, attributes, chosen_maps = [], [], []
    for i, (label, true) in enumerate(zip(predicted.tolist(), images["label"], strict=True)):
        shown = strongest_attributes(evidence[i].numpy(), model.class_attributes[label].numpy(), count)
        title, taken = (spoken_class(names[k]) for k in (true, label))
        titles.append(fill(title if label == true else f"{title}, taken for {taken}", 24))
        attributes.append([fill(shortened(spoken(model.config.attribute_names[a]), 40), 22) for a in shown])
        chosen_maps.append(maps[i, :, shown].numpy())
    seen = [unnormalized(model, pixels) for pixels in pixel_values]
    return figure_heat_maps(seen, titles, attributes, chosen_maps, model.config.expert_names)


def draw_scores(logits: np.ndarray, labels: np.ndarray, scores: dict, table: AttributeTable) -> dict[str, Figure]:
    """The seen-unseen curve, and what images of unseen classes are taken for among the unseen classes."""
    unseen, seen, _ = seen_unseen_curve(logits, labels, table.seen)
    classes = np.flatnonzero(~table.seen)
    of_unseen = np.isin(labels, classes)
    rows = np.searchsorted(classes, labels[of_unseen])
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (rows, logits[of_unseen][:, classes].argmax(axis=1)), 1)
    names = [shortened(spoken_class(table.class_names[k]), 32) for k in classes]
    return {
        "seen-unseen": figure_seen_unseen({"the model": (unseen, seen)}, {"the model": (scores["U"], scores["S"])}),
        "confusion": figure_confusion(counts, names, f"Unseen classes among themselves (T1 {scores['T1']:.1%})"),
    }


def main() -> None:
    """Load, evaluate, draw, and say what was written."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    data, accelerator = data_options(arguments), Accelerator(cpu=True)
    splits, table = load(**data)
    model, task = open_model(arguments.model, table), test_task(splits, table)

    def write(name: str, figure: Figure) -> None:
        path = arguments.out / f"{name}.{arguments.format}"
        figure.savefig(path)
        print(f"Wrote {path}")

    names = [shortened(spoken_class(name), 32) for name in table.class_names]
    groups = model.config.attribute_groups
    attributes = table.select_attributes(model.config.attribute_names).class_attributes
    write("class-attributes", figure_class_attributes(attributes, names, groups, table.seen))
    record = Path(arguments.model) / RUN_FILE
    if record.is_file():
        write("training", draw_training(json.loads(record.read_text(encoding="utf-8"))))
    images = sample_of({"test_unseen": splits["test_unseen"]}, 1, arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    chosen = sorted(rng.permutation(len(images))[: arguments.images].tolist())
    write("heat-maps", draw_heat_maps(model, images.select(chosen), arguments.attributes))
    inputs = inputs_from(
        model, task, lambda validation: load(validation=validation, **data), arguments.features_dir, accelerator
    )
    scores, found = evaluate(model, inputs, table.seen, accelerator, batch_size=arguments.batch_size)
    for name, figure in draw_scores(found.logits, found.labels, scores, table).items():
        write(name, figure)
    sample = sample_of(splits, arguments.per_class, arguments.seed)
    write("deletion", draw_curves([summary_of(curves_of(model, sample, arguments))]))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"figures.py: {error}")
