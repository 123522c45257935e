"""The model card of a trained model, filled in from the records of its runs (run.json): it cannot claim more.

    python -m dedn_hf.publish.card runs/mine/run.json
    python -m dedn_hf.publish.card docs/runs/row3-seed*.json --out model_cards/cub50-calibrated.md

The text is in `model_cards/template.md`. A record holds 'results', 'history' and 'settings' at least; the card calls
"not recorded" whatever an older record lacks.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult, ModelCard
from jinja2 import ChainableUndefined, Environment, Template
from matplotlib.figure import Figure
from PIL import Image

from dedn_hf.data.benchmarks import BENCHMARKS, attribute_table
from dedn_hf.data.loading import BUILDERS, builder_class
from dedn_hf.explain.figures import figure_confidence, figure_training
from dedn_hf.metrics.scores import NOT_TESTED, SCORES, percent
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.inputs import read_image
from dedn_hf.modeling.saving import (
    CITATION,
    MODEL_ID,
    PAPER,
    TASK,
    card_data,
    describe_groups,
    example_classes,
    usage,
    whole_file,
)

SELECTION, TRAINING = "Selection (accuracies: validation splits)", "Training (accuracies: test splits)"
NOT_RECORDED = "not recorded"
CONFIDENCE_PICTURE = "confidence.png"
SPLITS = {"T1": "test_unseen", "U": "test_unseen", "S": "test_seen"}  # that a score is measured on; others: both


class Pictures(NamedTuple):
    """File names of the pictures beside a card; None where there is none."""

    training: str
    example: str | None = None
    confidence: str | None = None


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
            where everything was made here; else 'unknown', because data and first weights have terms of their own.
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
    picture = draw_example(records[0]) if example is None else read_image(example)
    confidence = records[0].get("confidence")
    pictures = Pictures(
        f"{prefix}training.png",
        f"{prefix}example.png" if picture else None,
        f"{prefix}{CONFIDENCE_PICTURE}" if confidence else None,
    )
    name = name or (path.stem if prefix else path.resolve().name)
    card = model_card(records, name, pictures, license, model_id, table)
    card_file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(card_file.parent / pictures.training) as unfinished:
        draw_training(records[0]).savefig(unfinished)
    if confidence and pictures.confidence:
        with whole_file(card_file.parent / pictures.confidence) as unfinished:
            figure_confidence(confidence["reliability"], confidence["risk_coverage"]).savefig(unfinished)
    if pictures.example:  # pixels only: metadata may say where an animal lives
        picture = Image.fromarray(np.asarray(picture))
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
    record, others = records[0], records[1:]
    license = license or default_license(record)
    takes_images = model_config(record).get("backbone", "") is not None
    labels = []
    if takes_images:
        labels = example_classes(table) if table else (recorded(record, "data", "unseen_classes") or [])[:4]
    metadata = card_data(
        labels, pictures.example, license=license, model_name=name, eval_results=eval_results(records)
    )
    accuracies = scores_of(record, records).get("per_class_accuracy", [])
    alike = [other for other in others if kind_of_selection(other) == kind_of_selection(record)]
    text = card_template().render(
        card_data=metadata.to_yaml(),
        name=name,
        paper=PAPER,
        runs=records,
        alike=alike,
        unlike=[other for other in others if other not in alike],
        late=[other for other in others if scores_of(other, records) is not other["results"]],
        scores=scores_in(records),
        results=result_rows(records),
        accuracies=[accuracy for accuracy in accuracies if accuracy is not None],
        pictures=pictures,
        usage=usage(table, model_id, takes_images),
        data=described_data(record),
        config=model_config(record),
        settings=settings_yaml(records),
        license=license,
        citation=CITATION.strip(),
    )
    return ModelCard(text)


def card_template() -> Template:
    """`model_cards/template.md`. It is Markdown, so nothing in it is escaped for HTML."""
    environment = Environment(undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = (counted, duration, grouped, listed, one_line, percent)
    environment.filters |= {each.__name__: each for each in filters} | {"described": describe_groups}
    return environment.from_string(files("dedn_hf.model_cards").joinpath("template.md").read_text(encoding="utf-8"))


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
    for score in scores_in(records):
        values = [scores_of(each, records)[score] for each in records]
        if None in values:
            continue
        spread = None
        if len(values) > 1:
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            spread = {"seeds": len(values), "mean": round(mean, 4), "standard_deviation": round(deviation, 4)}
        results.append(
            EvalResult(
                task_type=TASK,
                dataset_type=data_name(record) or "unknown",
                dataset_name=described_data(record)["title"],
                dataset_config=recorded(record, "data", "variant"),
                dataset_split=SPLITS.get(score, "test_seen+test_unseen"),
                metric_type=score,
                metric_name=SCORES[score],
                metric_value=round(values[0], 4),
                metric_args=spread,
            )
        )
    return results


def result_rows(records: Sequence[dict]) -> list[tuple[str, list[str]]]:
    """Titles and cells of the table: these weights, mean and deviation over seeds, the other seeds, guessing."""
    scores, rows = scores_in(records), []
    for record in records:
        cells = [percent(scores_of(record, records)[score]) for score in scores]
        rows.append((f"{'' if rows else '**This model**, '}seed {seed_of(record)}", cells))
    if len(records) > 1:
        columns = [[scores_of(record, records)[score] for record in records] for score in scores]
        rows.insert(1, (f"mean ± standard deviation of {len(records)} seeds", list(map(spread_of, columns))))
    classes = recorded(records[0], "data", "classes")
    if classes:
        among_all = percent(1 / sum(classes.values()))
        among_unseen = percent(1 / classes["unseen"] if classes["unseen"] else None)
        rows.append(("guessing", [{"T1": among_unseen, "AUSUC": ""}.get(score, among_all) for score in scores]))
    return rows


def settings_yaml(records: Sequence[dict]) -> str:
    """Settings of model and training, JSON values in YAML."""
    lines = []
    for section, values in (
        ("model", [model_config(record) for record in records]),
        ("training", [record["settings"] for record in records]),
    ):
        lines.append(f"{section}:" if values[0] else f"{section}: {{}}  # {NOT_RECORDED}")
        for key, value in values[0].items():
            others = [
                f"seed {seed_of(record)}: {json.dumps(other[key]) if key in other else NOT_RECORDED}"
                for record, other in zip(records, values, strict=True)
                if key != "seed" and other.get(key, NOT_RECORDED) != value
            ]
            lines.append(f"  {key}: {json.dumps(value)}{'  # ' * bool(others)}{', '.join(others)}")
    return "\n".join(lines)


# What a record says --------------------------------------------------------------------------------------------------


def recorded(record: dict, *keys: str) -> Any:
    """`record[key][key]...`, or None where something of that was not recorded."""
    found: Any = record
    for key in keys:
        found = (found or {}).get(key)
    return found


def seed_of(record: dict) -> int:
    """The seed of a run."""
    return record["settings"]["seed"]


def scores_of(record: dict, records: Sequence[dict]) -> dict:
    """The test results of a run; with the constant of the first run's seed, where that was added after training."""
    return record.get(f"results_with_bias_of_seed_{seed_of(records[0])}", record["results"])


def scores_in(records: Sequence[dict]) -> list[str]:
    """Names of the scores that every run has."""
    return [score for score in SCORES if all(score in record["results"] for record in records)]


def kind_of_selection(record: dict) -> tuple:
    """What has to agree for two runs to have been selected in the same way."""
    settings = record["settings"]
    return settings["select_on"], settings["calibrate"], settings["schedule"] == "constant"


def data_name(record: dict) -> str | None:
    """What the data set is called."""
    name = recorded(record, "data", "name") or recorded(record, "experiment", "data", "name")
    return None if name is None else Path(name).name


def known_data(record: dict) -> str | None:
    """The data set's name where it is one of this package, read by its own builder."""
    name, builder = data_name(record), recorded(record, "data", "builder")
    return name if name in BUILDERS and (builder == name or record.get("data") is None) else None


def described_data(record: dict) -> dict[str, Any]:
    """The data set as a reader knows it, how much of it there was, and its builder where it is one of this package."""
    name, known, classes = data_name(record), known_data(record), number_of_classes(record)
    builder = builder_class(known) if known else None
    title = builder.TITLE if builder else f"`{name}`" if name else "data that were not recorded"
    full = len(attribute_table(known)) if known in BENCHMARKS else 0
    if classes < full:
        title += f" ({classes} of its {full} classes)"
    return {"name": name, "known": builder, "title": title, "classes": classes, "is_part": classes < full}


def number_of_classes(record: dict) -> int:
    """K."""
    classes = recorded(record, "data", "classes")
    return sum(classes.values()) if classes else len(record["results"]["per_class_accuracy"])


def model_config(record: dict) -> dict:
    """The configuration; of older records, what was set and not left at its default. Empty where not recorded."""
    return recorded(record, "model", "config") or recorded(record, "experiment", "model") or {}


def recipe(record: dict) -> dict:
    """The configuration without what each seed chooses on held-out classes."""
    chosen = ("calibration_bias", "temperature", "precision_thresholds", "none_of_these")
    return {key: value for key, value in model_config(record).items() if key not in chosen}


def default_license(record: dict) -> str:
    """See `write_card`."""
    own = known_data(record) == "shapes" and recorded(record, "experiment", "model", "pretrained") is False
    return "apache-2.0" if own else "unknown"


# Filters of the template ---------------------------------------------------------------------------------------------


def spread_of(values: Sequence[float | None]) -> str:
    """Mean and standard deviation, in percent."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return NOT_TESTED
    return f"{percent(statistics.mean(known))} ± {percent(statistics.stdev(known))}"


def counted(counts: dict[str, int]) -> str:
    """{'train': 1600} as 'train 1,600'."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def duration(seconds: float) -> str:
    """200 as '3 min 20 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def grouped(runs: Iterable[dict], text_of: Callable[[dict], str]) -> list[tuple[str, list[dict]]]:
    """The runs that have the same text, by text."""
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(text_of(run), []).append(run)
    return list(groups.items())


def one_line(text: str) -> str:
    """The lines as one, without spaces before punctuation."""
    return re.sub(r"\s+([.,;:])", r"\1", " ".join(text.split()))


# Command ------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a card from the command line; 0, or 2 after an error that the user can fix."""
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
