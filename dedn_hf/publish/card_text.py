"""What a model card says, sentence by sentence, from the records of training runs (run.json) and nothing else.

A record holds 'results', 'history' and 'settings' at least; what an older one lacks is called "not recorded".
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dedn_hf.data.benchmarks import BENCHMARKS, attribute_table
from dedn_hf.data.loading import BUILDERS, builder_class
from dedn_hf.modeling.saving import describe_groups

NOT_RECORDED = "not recorded"
SCORES = {  # name -> what it says, the splits it is measured on
    "T1": ("accuracy of unseen classes among themselves", "test_unseen"),
    "U": ("accuracy of unseen classes among all classes", "test_unseen"),
    "S": ("accuracy of seen classes among all classes", "test_seen"),
    "H": ("harmonic mean of U and S", "test_seen+test_unseen"),
    "AUSUC": ("area under the curve of U over S", "test_seen+test_unseen"),
}
NOT_HERE = "; the images are not part of this repository"

# What a record says --------------------------------------------------------------------------------------------------


def recorded(record: dict, *keys: str) -> Any:
    """`record[key][key]...`, or None where something of that was not recorded."""
    for key in keys:
        record = (record or {}).get(key)
    return record


def seed_of(record: dict) -> int:
    """The seed of a run."""
    return record["settings"]["seed"]


def scores_of(record: dict, records: Sequence[dict]) -> dict:
    """The test results of a run; with the constant of the first run's seed, where that was added after training."""
    return record.get(f"results_with_bias_of_seed_{seed_of(records[0])}", record["results"])


def scores_in(records: Sequence[dict]) -> list[str]:
    """Names of the scores that every run has."""
    return [score for score in SCORES if all(score in record["results"] for record in records)]


def data_name(record: dict) -> str | None:
    """What the data set is called."""
    name = recorded(record, "data", "name") or recorded(record, "experiment", "data", "name")
    return None if name is None else Path(name).name


def known_data(record: dict) -> str | None:
    """The data set's name where it is one of this package, read by its own builder."""
    name, builder = data_name(record), recorded(record, "data", "builder")
    return name if name in BUILDERS and (builder == name or record.get("data") is None) else None


def data_title(record: dict) -> str:
    """The data set as a reader knows it, and how much of it there was."""
    known, name = known_data(record), data_name(record)
    title = builder_class(known).TITLE if known else f"`{name}`" if name else "data that were not recorded"
    full = full_number_of_classes(record)
    return f"{title} ({number_of_classes(record)} of its {full} classes)" if is_part(record) else title


def number_of_classes(record: dict) -> int:
    """K."""
    classes = recorded(record, "data", "classes")
    return sum(classes.values()) if classes else len(record["results"]["per_class_accuracy"])


def full_number_of_classes(record: dict) -> int | None:
    """Classes of the whole benchmark; None for other data."""
    known = known_data(record)
    return len(attribute_table(known)) if known in BENCHMARKS else None


def is_part(record: dict) -> bool:
    """Whether the run had only some classes of a benchmark."""
    return number_of_classes(record) < (full_number_of_classes(record) or 0)


def model_config(record: dict) -> dict | None:
    """The configuration; of older records, what was set and not left at its default."""
    return recorded(record, "model", "config") or recorded(record, "experiment", "model")


def recipe(record: dict) -> dict | None:
    """The configuration without the constant, which each seed may choose."""
    config = model_config(record)
    return config and {key: value for key, value in config.items() if key != "calibration_bias"}


def takes_images(record: dict) -> bool:
    """False for a model of feature maps only."""
    return (model_config(record) or {}).get("backbone", "") is not None


# Sentences -----------------------------------------------------------------------------------------------------------


def percent(value: float) -> str:
    """0.5891 as 58.9."""
    return f"{100 * value:.1f}"


def result_rows(records: Sequence[dict]) -> list[tuple[str, list[str]]]:
    """Titles and cells of the table: these weights, mean and deviation over seeds, the other seeds, guessing."""
    scores, rows = scores_in(records), []
    for record in records:
        cells = [percent(scores_of(record, records)[score]) for score in scores]
        rows.append((f"{'' if rows else '**This model**, '}seed {seed_of(record)}", cells))
    if len(records) > 1:
        columns = [[scores_of(record, records)[score] for record in records] for score in scores]
        cells = [f"{percent(statistics.mean(column))} ± {percent(statistics.stdev(column))}" for column in columns]
        rows.insert(1, (f"mean ± standard deviation of {len(records)} seeds", cells))
    classes = recorded(records[0], "data", "classes")
    if classes:
        among_all, among_unseen = percent(1 / sum(classes.values())), percent(1 / classes["unseen"])
        rows.append(("guessing", [{"T1": among_unseen, "AUSUC": ""}.get(score, among_all) for score in scores]))
    return rows


def describe_protocols(records: Sequence[dict]) -> list[str]:
    """How the weights were selected, and the other seeds; paragraphs."""
    first, others = records[0], records[1:]
    paragraphs = [describe_protocol(first)]
    alike = [record for record in others if kind_of_protocol(record) == kind_of_protocol(first)]
    if alike:
        paragraphs.append(f"Other seeds, in the same way: {'; '.join(map(describe_choice, alike))}.")
    for text in dict.fromkeys(describe_protocol(record) for record in others if record not in alike):
        same = [record for record in others if record not in alike and describe_protocol(record) == text]
        paragraphs.append(f"{name_seeds(same).capitalize()}: {text[0].lower()}{text[1:]}")
    late = [record for record in others if scores_of(record, records) is not record["results"]]
    if late:
        paragraphs.append(
            f"The results of {name_seeds(late)} are with the constant of {name_seeds([first])}, "
            f"{first['calibration_bias']:.2f}, added to unseen logits after training."
        )
    return paragraphs


def name_seeds(records: Sequence[dict]) -> str:
    """'seed 1' or 'seeds 1, 2'."""
    return f"seed{'s' * (len(records) > 1)} {', '.join(str(seed_of(record)) for record in records)}"


def kind_of_protocol(record: dict) -> tuple:
    """What has to agree for two runs to have been selected in the same way."""
    settings = record["settings"]
    return settings["select_on"], settings["calibrate"], settings["schedule"] == "constant"


def describe_choice(record: dict) -> str:
    """Epoch and, where one was chosen, constant of a run."""
    constant = f" and constant {record['calibration_bias']:.2f}" if record["settings"]["calibrate"] else ""
    return f"seed {seed_of(record)} epoch {record['results']['epoch']}{constant}"


def describe_protocol(record: dict) -> str:
    """How the epoch and the constant came about, and what the test splits were used for."""
    settings, epochs = record["settings"], record["results"]["epoch"]
    constant = record.get("calibration_bias", 0.0)
    given = f" A constant of {constant:.2f} on unseen logits was given; how it was found: {NOT_RECORDED}."
    given = given if constant and not settings["calibrate"] else ""
    once = "This run used the test splits once, at the end."
    if settings["select_on"] == "test":
        return (
            f"On the **test splits**, which is the published protocol: epoch {epochs} is the one of "
            f"{len(record['history'])} with the best H there.{given} The results are better than an honest choice "
            "would give."
        )
    if settings["select_on"] == "last":
        return f"Nothing was selected: these are the weights after epoch {epochs}, the last.{given} {once}"
    if settings["schedule"] == "constant":
        chosen = f"epoch {epochs} had the best H there, {describe_offer(record['selection']['history'])}"
        if settings["calibrate"]:
            chosen += f", together with the constant on unseen logits that suits it, {constant:.2f}"
    elif settings["calibrate"]:
        chosen = f"the constant on unseen logits, {constant:.2f}; the number of epochs, {epochs}, was set beforehand"
    else:
        chosen = f"nothing, in the end: the number of epochs, {epochs}, was set beforehand"
    return (
        f"On **validation classes**, seen classes that play the unseen ones: {chosen}.{given} The model was then "
        f"trained anew on all seen classes for {epochs} epochs. {once}"
    )


def describe_offer(epochs: Sequence[dict]) -> str:
    """'of 40', or, where not every epoch was evaluated, 'of the 10 of 40 that were evaluated'."""
    evaluated = sum("H" in epoch for epoch in epochs)
    return (
        f"of {len(epochs)}" if evaluated == len(epochs) else f"of the {evaluated} of {len(epochs)} that were evaluated"
    )


def describe_picture(record: dict) -> str:
    """The caption of the curves."""
    text = f"Loss and accuracies by epoch, seed {seed_of(record)}; accuracies of the epochs that were evaluated."
    if record.get("selection") and record["settings"]["calibrate"]:
        text += " In the selection, U, S and H of an epoch are with the constant that suits it."
    return text


def listed(names: Sequence[str], most: int = 20) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(counts: dict[str, int] | None) -> str:
    """{'train': 1600} as 'train 1,600'."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) if counts else NOT_RECORDED


def describe_data(record: dict) -> dict[str, str]:
    """What the template says about the data."""
    known, classes = known_data(record), recorded(record, "data", "classes")
    builder, total = builder_class(known) if known else None, number_of_classes(record)
    groups = recorded(record, "model", "attribute_groups")
    roles = f"which of them are seen: {NOT_RECORDED}"
    if classes:
        seen = classes["train"] + classes["val"]
        roles = f"{seen} seen ({classes['val']} of them validation classes) and {classes['unseen']} unseen"
    return {
        "title": data_title(record),
        "description": builder.DESCRIPTION.rstrip(".") if known else "",
        "homepage": builder.HOMEPAGE if known else "",
        "citation": builder.CITATION if known else "",
        "terms": (builder.TERMS if known else "terms not known") + NOT_HERE * (known != "shapes"),
        "classes": f"{total}; {roles}",
        "images": counted(recorded(record, "data", "images")),
        "selection_images": counted(recorded(record, "selection", "images")) if record.get("selection") else "none",
        "unseen_classes": listed(recorded(record, "data", "unseen_classes") or [NOT_RECORDED]),
        "attributes": describe_groups(groups) if groups else NOT_RECORDED,
    }


def describe_training(records: Sequence[dict]) -> dict[str, str]:
    """What the template says about the training of these weights."""
    record = records[0]
    versions = recorded(record, "versions")
    return {
        "backbone": describe_backbone(record),
        "parameters": describe_parameters(recorded(record, "model", "parameters")),
        "seeds": f"{number(len(records), 'run')}, {name_seeds(records)}",
        "started": recorded(record, "time", "started") or NOT_RECORDED,
        "time": describe_time(record),
        "hardware": describe_hardware(record),
        "software": ", ".join(f"{name} {version}" for name, version in versions.items()) if versions else NOT_RECORDED,
    }


def describe_parameters(counts: dict[str, int] | None) -> str:
    """Numbers of weights, from `describe_model` of a run."""
    if not counts:
        return NOT_RECORDED
    backbone, experts = counts.get("backbone", 0), counts["experts"]
    return f"{backbone + experts:,} (backbone {backbone:,}, experts {experts:,}); trained {counts['trained']:,}"


def describe_backbone(record: dict) -> str:
    """Which one, what it started from, and what became of it."""
    config, settings = model_config(record), record["settings"]
    if not config or "backbone" not in config:
        return NOT_RECORDED
    if config["backbone"] is None:
        return "none, the model takes feature maps"
    text = f"`{config['backbone']}` (timm)"
    if "image_size" in config:
        text += f", images of {config['image_size']} x {config['image_size']} pixels"
    text += f". Start: {describe_start(record)}"
    if settings["train_backbone"]:
        frozen = settings.get("frozen_stages")
        return f"{text}; fine-tuned{', but for ' + ', '.join(frozen) if frozen else ''}"
    cached = {True: ", its feature maps computed once", False: ", images decoded in every epoch"}
    return f"{text}; kept frozen{cached.get(record.get('cached_features'), '')}"


def describe_start(record: dict) -> str:
    """The backbone's first weights, as far as the command's settings tell."""
    if recorded(record, "experiment", "model") is None:
        return NOT_RECORDED
    pretrained = record["experiment"]["model"].get("pretrained", True)
    return "pretrained weights, timm's or of a file" if pretrained else "random weights"


def describe_time(record: dict) -> str:
    """Wall time of selection and training."""
    seconds = recorded(record, "time", "seconds")
    if not seconds:
        return NOT_RECORDED
    text = ", ".join(f"{part} {duration(value)}" for part, value in seconds.items())
    text += ", reading the data included"
    if record.get("cached_features"):
        text += ", and computing those feature maps that were not in the cache yet"
    if record["time"]["resumed"]:
        text += f". The run had been interrupted: the time before that is {NOT_RECORDED}"
    return text


def duration(seconds: float) -> str:
    """200 as '3 min 20 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def describe_hardware(record: dict) -> str:
    """The device that was used."""
    hardware = record.get("hardware")
    if not hardware:
        return NOT_RECORDED
    if hardware.get("device", "cpu") != "cpu":
        return f"{hardware['processes']} x {hardware['gpu'] or hardware['device']}"
    cpu = f"CPU, {hardware.get('cpu') or hardware['machine']}, {number(hardware['threads'], 'thread')}"
    if "device" in hardware:
        return f"{cpu}, {number(hardware['processes'], 'process', 'es')}"
    return f"{cpu}; there was a GPU, {hardware['gpu']}, its use is {NOT_RECORDED}" if hardware["gpu"] else cpu


def number(count: int, what: str, plural: str = "s") -> str:
    """'1 thread' or '2 threads'."""
    return f"{count} {what}{plural * (count != 1)}"


def describe_limits(records: Sequence[dict]) -> list[str]:
    """What not to expect of the model."""
    record, limits = records[0], []
    if is_part(record):
        limits.append(
            f"{data_title(record)}: fewer classes are an easier task. Do not compare with results on all classes."
        )
    if known_data(record) == "shapes":
        limits.append("The pictures are drawings made for this purpose: the model knows nothing of photographs.")
    accuracies = [a for a in scores_of(record, records).get("per_class_accuracy", []) if a is not None]
    if accuracies:
        limits.append(
            f"Classes differ: among all classes, {percent(min(accuracies))} to {percent(max(accuracies))} % of the "
            f"test images of a class are recognised, and fewer than 10 % for {sum(a < 0.1 for a in accuracies)} of "
            f"{len(accuracies)} classes."
        )
    if describe_start(record) != "random weights":
        limits.append("The backbone's first weights may come from pictures of the unseen classes, too.")
    if record.get("calibration_bias"):
        limits.append("The constant on unseen logits was found for these classes; for others it may not suit.")
    if len(records) == 1:
        limits.append("One seed: how much the results depend on it is not known.")
    return [
        *limits,
        "Every picture is given to one of the candidate classes, also a picture of something else.",
        "Scores are shares among the candidates. They are no probabilities that were checked against anything.",
    ]


def describe_license(record: dict, license: str) -> str:
    """What may be done with the weights."""
    if license != "unknown":
        return license
    sources = "the data" if describe_start(record) == "random weights" else "the data and the backbone's first weights"
    return f"no licence is stated. They come from {sources}, whose terms may bind them"


def settings_yaml(records: Sequence[dict]) -> str:
    """Settings of model and training, JSON values in YAML."""
    lines = []
    for section, values in (
        ("model", [model_config(record) or {} for record in records]),
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
