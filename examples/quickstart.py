"""From nothing to a zero-shot classifier in a few minutes: no download, no GPU.

Trains a small DEDN from scratch on drawn creatures (`dedn_hf.data.Shapes`), tests it on classes of which it has never
seen an image, saves it, loads it again, and lets it recognise a creature that it knows from a description only.

    python examples/quickstart.py
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.data import load
from dedn_hf.data.creatures import Creature, draw
from dedn_hf.explain.explainer import attribute_evidence, region_maps_of, strongest_attributes, unnormalized
from dedn_hf.explain.figures import figure_explaining
from dedn_hf.training.experiment import RUN_FILE, Experiment, run
from dedn_hf.training.settings import TrainingSettings, read_preset

NAME = "griffle"  # no class of the data set, neither seen nor unseen
DESCRIPTION = [
    *("body shape: box", "body colour: yellow", "body pattern: stripes", "head shape: ellipse"),
    *("head colour: blue", "tail form: fork", "tail colour: red", "leg count: two"),
]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--epochs", type=int, help="default: as in the preset shapes, like the next one")
    parser.add_argument("--images-per-class", type=int)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train(arguments: argparse.Namespace) -> dict:
    """Train on the seen classes, test, save the model; gives what run.json holds."""
    preset = read_preset("shapes")
    preset["training"]["seed"] = arguments.seed
    if arguments.epochs:
        preset["training"]["epochs"] = arguments.epochs
    if arguments.images_per_class:
        preset["data"]["images_per_class"] = arguments.images_per_class
    experiment = Experiment(
        load=lambda validation: load(validation=validation, **preset["data"]),
        build=lambda table: DEDNForZeroShot.from_timm(table=table, **preset["model"]),
        describe={"example": "quickstart", **preset},
    )
    settings = TrainingSettings.from_dict(preset["training"])
    return run(experiment, settings, arguments.output_dir, Accelerator(cpu=True))


def remove_earlier_quickstart(folder: Path) -> None:
    """Make room; a folder that holds another kind of run stays, and `run` will refuse it."""
    if (folder / RUN_FILE).exists():
        experiment = json.loads((folder / RUN_FILE).read_text(encoding="utf-8")).get("experiment") or {}
        if experiment.get("example") == "quickstart":
            shutil.rmtree(folder)


def print_results(record: dict, table: AttributeTable) -> None:
    """T1, U, S and H beside what guessing gives."""
    unseen, known = int((~table.seen).sum()), len(table)
    rows = {
        "T1": (f"images of unseen classes, among the {unseen} unseen classes", 1 / unseen),
        "U": (f"images of unseen classes, among all {known} classes", 1 / known),
        "S": (f"images of seen classes, among all {known} classes", 1 / known),
        "H": ("harmonic mean of U and S", 1 / known),
    }
    print(f"\nProtocol: {record['protocol']}\n\n{'accuracy (mean of the classes)':56}{'model':>10}{'guessing':>12}")
    for key, (meaning, chance) in rows.items():
        print(f"  {key:3}{meaning:51}{record['results'][key]:10.1%}{chance:12.1%}")


def unseen_classes_and(name: str, description: list[str], table: AttributeTable) -> AttributeTable:
    """The unseen classes and one more, which has the attributes of `description` and no other."""
    unseen = table.select([known for known, seen in zip(table.class_names, table.seen, strict=True) if not seen])
    return unseen.replace(
        class_names=[*unseen.class_names, name],
        class_attributes=np.vstack([unseen.class_attributes, np.isin(unseen.attribute_names, description)]),
        roles=[*unseen.roles, "unseen"],
    )


@torch.no_grad()
def probabilities(model: DEDNForZeroShot, pictures: list[Image.Image]) -> torch.Tensor:
    """B x K."""
    pixel_values = model.image_processor()(images=pictures, return_tensors="pt")["pixel_values"]
    return model.probabilities(model(pixel_values).logits)


def draw_explanation(model: DEDNForZeroShot, picture: Image.Image, path: Path) -> None:
    """The three best classes, and where both experts found the attributes that speak most for the best one."""
    pixel_values = model.image_processor()(images=picture, return_tensors="pt")["pixel_values"]
    scores, labels = probabilities(model, [picture])[0].topk(3)
    evidence = attribute_evidence(model, pixel_values, labels[:1])[0]
    shown = strongest_attributes(evidence, model.class_attributes[labels[0]], count=4)
    names = [model.config.id2label[label] for label in labels.tolist()]
    figure = figure_explaining(
        unnormalized(model, pixel_values[0]),
        names,
        scores.tolist(),
        [model.config.attribute_names[a] for a in shown],
        region_maps_of(model, pixel_values)[0, :, shown].numpy(),
        model.config.expert_names,
        title=f"An image of a class that the model knows from a description only: {NAME}. Its answer: {names[0]}",
    )
    figure.savefig(path)


def main() -> None:
    """Train, report, reload, describe a new class, recognise it."""
    arguments = parse_arguments()
    folder = arguments.output_dir
    datasets.disable_progress_bars()
    remove_earlier_quickstart(folder)
    print("Drawing creatures and training ...")
    record = train(arguments)

    model = DEDNForZeroShot.from_pretrained(folder)
    print_results(record, model.attribute_table)

    model.set_classes(unseen_classes_and(NAME, DESCRIPTION, model.attribute_table))
    griffle = Creature(*(attribute.split(": ")[1] for attribute in DESCRIPTION))
    pictures = [draw(griffle, np.random.default_rng([arguments.seed, i]), 64)[0] for i in range(50)]
    scores, candidates = probabilities(model, pictures), model.config.num_labels
    print(f"\nA new class from a description alone. {NAME}: {', '.join(DESCRIPTION)}")
    print(f"The first picture of one, among {candidates} classes of which the model has seen no image:")
    for score, label in zip(*(values.tolist() for values in scores[0].topk(3)), strict=True):
        print(f"  {score:6.1%}  {model.config.id2label[label]}")
    right = int((scores.argmax(dim=-1) == model.config.label2id[NAME]).sum())
    print(f"Recognised: {right} of {len(pictures)} pictures (guessing: {len(pictures) / candidates:.0f}).")

    draw_explanation(model, pictures[0], folder / "quickstart.png")
    print(f"\nThe model is in {folder}, what it looked at in {folder / 'quickstart.png'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"quickstart.py: {error}")
