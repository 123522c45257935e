"""The model card of a trained model, filled in from the records of its runs (run.json): it cannot claim more.

    python -m dedn_hf.publish.card runs/mine/run.json
    python -m dedn_hf.publish.card docs/runs/row3-seed*.json --out model_cards/cub50-calibrated.md

The text is `model_cards/template.md`, with the sentences of `card_text`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard
from matplotlib.figure import Figure
from PIL import Image

from dedn_hf.explain.figures import figure_training
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.saving import CITATION, MODEL_ID, PAPER, TASK, card_data, example_classes, usage, whole_file
from dedn_hf.publish import card_text
from dedn_hf.publish.card_text import data_name, known_data, number_of_classes, recipe, recorded, scores_of, seed_of

SELECTION, TRAINING = "Selection (accuracies: validation splits)", "Training (accuracies: test splits)"


class Pictures(NamedTuple):
    """File names of the pictures beside a card; `example` is None where there is none."""

    training: str
    example: str | None = None


# Files --------------------------------------------------------------------------------------------------------------


def write_card(
    path: str | Path,
    records: Sequence[dict],
    name: str | None = None,
    license: str | None = None,
    model_id: str = MODEL_ID,
    example: str | Path | None = None,
) -> Path:
    """Write the card of a model, and the pictures in it, from the records of its runs.

    Args:
        path: the folder of the model, where the card becomes README.md; or a file *.md, for a card on its own.
        records: what run.json holds, the run of these weights first, then runs of the same recipe with other seeds.
        name: title; default, the name of the folder or file.
        license: of the weights, an identifier of the Hub. Default: 'apache-2.0' for 'shapes' from random weights,
            where all is made here; else 'unknown', because weights come from data and weights with terms of their own.
        model_id: folder or Hub name that the example code loads.
        example: a picture for the Hub's widget, written beside the card as PNG. Only give one that you may publish.
            'shapes' draws its own.

    Returns:
        The file of the card.

    Raises:
        ValueError: no record, records of different models, or two of the same seed.
    """
    require_same_model(records)
    path = Path(path)
    card_file = path if path.suffix == ".md" else path / "README.md"
    prefix = f"{path.stem}-" if path.suffix == ".md" else ""
    table = AttributeTable.load(path) if (path / "attributes.csv").is_file() else None
    picture = draw_example(records[0]) if example is None else Image.open(example).convert("RGB")
    pictures = Pictures(f"{prefix}training.png", f"{prefix}example.png" if picture else None)
    name = name or (path.stem if prefix else path.resolve().name)
    card = model_card(records, name, pictures, license, model_id, table)
    card_file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(card_file.parent / pictures.training) as unfinished:
        draw_training(records[0]).savefig(unfinished)
    if picture:
        with whole_file(card_file.parent / pictures.example) as unfinished:
            picture.save(unfinished)
    with whole_file(card_file) as unfinished:
        card.save(unfinished)
    return card_file


def draw_training(record: dict) -> Figure:
    """The figure of a run: its loss and accuracies over the epochs."""
    phases, chosen = {TRAINING: record["history"]}, {}
    if record.get("selection"):
        phases = {SELECTION: record["selection"]["history"], **phases}
        if record["settings"]["schedule"] == "constant":  # else the number of epochs was set beforehand
            chosen[SELECTION] = record["selection"]["chosen"]["epoch"]
    elif record["settings"]["select_on"] == "test":
        chosen[TRAINING] = record["results"]["epoch"]
    return figure_training(phases, chosen)


def draw_example(record: dict) -> Image.Image | None:
    """A picture of an unseen class of 'shapes' that is in none of its splits; None for other data."""
    if known_data(record) != "shapes":
        return None
    from dedn_hf.data.shapes import render, shapes_table

    label = shapes_table().class_names.index(example_classes(shapes_table())[0])
    return render(label, (0, 999_999), recorded(record, "experiment", "data", "image_size") or 64)[0]


# The card -----------------------------------------------------------------------------------------------------------


def model_card(
    records: Sequence[dict],
    name: str,
    pictures: Pictures,
    license: str | None = None,
    model_id: str = MODEL_ID,
    table: AttributeTable | None = None,
) -> ModelCard:
    """The card, text and metadata; arguments as in `write_card`, `table` holds the classes that the model knows."""
    record = records[0]
    license = license or default_license(record)
    labels, results = labels_of(record, table), eval_results(records)
    metadata = card_data(labels, pictures.example, license=license, model_name=name, eval_results=results)
    return ModelCard.from_template(
        metadata,
        template_str=files("dedn_hf.model_cards").joinpath("template.md").read_text(encoding="utf-8"),
        name=name,
        paper=PAPER,
        seeds=[seed_of(record) for record in records],
        scores=card_text.scores_in(records),
        results=card_text.result_rows(records),
        protocol=card_text.describe_protocols(records),
        picture=pictures.training,
        caption=card_text.describe_picture(record),
        usage=usage(table, model_id, card_text.takes_images(record)),
        data=card_text.describe_data(record),
        training=card_text.describe_training(records),
        settings=card_text.settings_yaml(records),
        limits=card_text.describe_limits(records),
        licence=card_text.describe_license(record, license),
        citation=CITATION.strip(),
    )


def require_same_model(records: Sequence[dict]) -> None:
    """Raise ValueError unless the records are of one recipe on one data set, each with a seed of its own."""
    if not records:
        raise ValueError("A card needs the record of a run: what run.json holds.")
    seeds = [seed_of(record) for record in records]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"The records are of the seeds {', '.join(map(str, seeds))}; give one record a seed.")
    for record in records[1:]:
        for what, of in (("data sets", data_name), ("numbers of classes", number_of_classes), ("models", recipe)):
            if of(record) != of(records[0]):
                raise ValueError(
                    f"The runs of seeds {seeds[0]} and {seed_of(record)} have different {what}. "
                    "A card is about one model, and other seeds of it."
                )


def eval_results(records: Sequence[dict]) -> list[EvalResult]:
    """The results of these weights (0..1) for the model-index; over several seeds, mean and deviation as arguments."""
    record, results = records[0], []
    for score in card_text.scores_in(records):
        about, split = card_text.SCORES[score]
        values = [scores_of(each, records)[score] for each in records]
        spread = None
        if len(values) > 1:
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            spread = {"seeds": len(values), "mean": round(mean, 4), "standard_deviation": round(deviation, 4)}
        results.append(
            EvalResult(
                task_type=TASK,
                dataset_type=data_name(record) or "unknown",
                dataset_name=card_text.data_title(record),
                dataset_config=recorded(record, "data", "variant"),
                dataset_split=split,
                metric_type=score,
                metric_name=about,
                metric_value=round(values[0], 4),
                metric_args=spread,
            )
        )
    return results


def labels_of(record: dict, table: AttributeTable | None) -> list[str]:
    """A few classes that the model knows, for the widget; none where none is known."""
    if not card_text.takes_images(record):
        return []
    return example_classes(table) if table is not None else (recorded(record, "data", "unseen_classes") or [])[:4]


def default_license(record: dict) -> str:
    """See `write_card`."""
    own = known_data(record) == "shapes" and recorded(record, "experiment", "model", "pretrained") is False
    return "apache-2.0" if own else "unknown"


# Command ------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a card from the command line; 0, or 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m dedn_hf.publish.card", description="Write the model card of a run."
    )
    parser.add_argument("records", nargs="+", type=Path, help="run.json of the model, then of its other seeds")
    parser.add_argument("--out", type=Path, help="folder or .md file (default: the folder of the first record)")
    parser.add_argument("--name", help="title (default: the name of the folder or file)")
    parser.add_argument("--license", help="of the weights, an identifier of the Hub")
    parser.add_argument("--model-id", default=MODEL_ID, help="folder or Hub name that the example code loads")
    parser.add_argument("--example", type=Path, help="a picture for the widget that you may publish")
    given = vars(parser.parse_args(arguments))
    paths, out = given.pop("records"), given.pop("out")
    try:
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        print(write_card(out or paths[0].parent, records, **given))
    except (ValueError, OSError) as error:
        print(f"dedn_hf.publish.card: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
