"""The tables of a study, from the predictions of its trained variants."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dedn_hf.studies.comparison import (
    COMPARED,
    Predictions,
    compare,
    latex_table,
    markdown_tables,
    what_seeds_can_show,
)
from dedn_hf.studies.figures import figure_sensitivity
from dedn_hf.studies.study import Plan, Study
from dedn_hf.training.output_folder import RUN_FILE, write_json


def write_report(study: Study, plan: Plan, output: Path, name: str) -> Path:
    """Compare the finished variants, and write `name`.json, .md, .tex and, for a study along an axis, .png.

    Returns:
        The Markdown file.
    """
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    predictions = {
        variant: {seed: read_predictions(file) for seed, file in files.items()}
        for variant, files in plan.predictions.items()
    }
    rows = compare(predictions, study.reference)
    records = [json.loads((t.folder / RUN_FILE).read_text(encoding="utf-8")) for t in plan.trainings]
    seeds = list(next(iter(plan.predictions.values())))
    facts = describe_runs(records)
    content = {"title": study.title, "reference": study.reference, "seeds": seeds, **facts, "variants": rows}
    write_json(output / f"{name}.json", {**content, "changes": study.variants, "common": study.common})
    note = f"{facts['trainings']} trainings: {facts['protocol']}. {facts['data']}; {facts['software']}."
    (output / f"{name}.md").write_text(
        f"# {study.title}\n\nPercent, mean ± standard deviation over seeds {', '.join(map(str, seeds))}. {note}\n\n"
        f"{markdown_tables(rows, study.reference)}\nIn brackets: 95 % interval over test images (bootstrap within "
        "classes, paired). p: paired t-test over seeds, uncorrected; * where it stays below 0.05 after Holm's "
        f"correction for the number of variants. {what_seeds_can_show(len(seeds))}\n",
        encoding="utf-8",
    )
    caption = (
        f"{study.title}. Percent, mean ± standard deviation over {len(seeds)} seeds; $p$: paired t-test over the "
        f"seeds against {study.reference}, uncorrected."
    )
    (output / f"{name}.tex").write_text(latex_table(rows, study.reference, caption), encoding="utf-8")
    if study.axis is not None:
        draw_axis(study, rows).savefig(output / f"{name}.png")
    return output / f"{name}.md"


def draw_axis(study: Study, rows: dict[str, dict]) -> Figure:
    """T1, H and AUSUC along the axis."""
    curves = {
        kind: {score: [row[kind][score] for row in rows.values()] for score in COMPARED} for kind in ("mean", "std")
    }
    deviations = None if None in curves["std"]["H"] else curves["std"]
    values, chosen = list(map(float, rows)), float(study.reference)
    return figure_sensitivity(values, curves["mean"], deviations, study.axis or "", chosen)


def read_predictions(file: Path) -> Predictions:
    """What `dedn_hf.studies.study.predict` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        return Predictions(arrays["logits"], arrays["labels"], arrays["seen"])


def describe_runs(records: Sequence[dict]) -> dict:
    """What the trainings of a study have in common, and where they do not, all there is."""

    def all_of(values: Iterable[str]) -> str:
        return " / ".join(sorted(set(values)))

    return {
        "trainings": len(records),
        "protocol": all_of(f"{r['protocol']} ({r['settings']['epochs']} epochs)" for r in records),
        "data": all_of(
            f"{r['data']['name']}, {sum(r['data']['classes'].values())} classes, "
            f"{sum(r['data']['images'].values())} images, {r['model']['config']['backbone']} at "
            f"{r['model']['config']['image_size']} pixels"
            for r in records
        ),
        "software": all_of(f"dedn_hf {r['versions']['dedn_hf']}, torch {r['versions']['torch']}" for r in records),
        "seconds": [sum(r["time"]["seconds"].values()) for r in records],
    }
