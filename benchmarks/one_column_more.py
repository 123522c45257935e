"""Does one column more, of another size than the others, cost accuracy? The quickstart's creatures with a body mass.

    make quickstart
    python benchmarks/one_column_more.py runs/quickstart --out runs/scale

Trains three times with the weights of the quickstart's backbone: with the creatures' table, and with that table and a
random body mass, in grams and in kilograms. Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

from dedn_hf.cli import main as dedn
from dedn_hf.data import load

MODEL = {
    "backbone": "resnet10t",
    "backbone_kwargs": {"output_stride": 8, "channels": [32, 48, 64, 96], "stem_type": "", "stem_width": 32},
    "image_size": 64,
    "initializer_range": 0.02,
    "center_attributes": True,
    "normalize_scores": True,
    "loss_classes": "seen",
    "margin": 0.0,
    "seen_bias": 0.0,
    "region_weight": 0.5,
    "regression_weight": 1.0,
    "distillation_weight": 0.0,
}
TRAINING = {
    "epochs": 12,
    "batch_size": 16,
    "sampling": "uniform",
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 0.1,
    "augmentation": "none",
    "select_on": "last",
    "evaluate_every": 1000,
    "checkpoint_every": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quickstart", type=Path, help="folder of the quickstart's model")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    tables = draw(given.out)
    weights = load_file(given.quickstart / "model.safetensors")
    body = {name.removeprefix("backbone.body."): each for name, each in weights.items() if "backbone.body." in name}
    save_file({name: each.contiguous() for name, each in body.items()}, given.out / "backbone.safetensors")
    model = MODEL | {"pretrained": str(given.out / "backbone.safetensors")}
    preset = given.out / "preset.yaml"
    preset.write_text(json.dumps({"data": {"name": "folder"}, "model": model, "training": TRAINING}))
    for name, table in tables.items():
        print(f"\n{name}:")
        out = given.out / name.replace(" ", "-")
        dedn(["train", str(given.out / "photos"), "--traits", str(table), "--preset", str(preset), "--out", str(out)])


def draw(out: Path) -> dict[str, Path]:
    """Write the creatures as a folder of photos, and their tables. Gives what each table is -> its file."""
    splits, table = load("shapes", image_size=64, images_per_class=24)
    for images in splits.values():
        for row in images:
            file = out / "photos" / table.class_names[row["label"]] / f"{Path(row['file']).stem}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(file)
    rng = random.Random(1)
    masses = [round(10 ** rng.uniform(1, 4)) for _ in table.class_names]
    columns = pd.DataFrame(table.class_attributes, table.class_names, table.attribute_names)
    columns.insert(0, "role", table.roles)
    tables = {
        "without body mass": columns,
        "body mass in grams": columns.assign(**{"body mass (g)": masses}),
        "body mass in kilograms": columns.assign(**{"body mass (kg)": [mass / 1000 for mass in masses]}),
    }
    files = {name: out / f"{name}.csv" for name in tables}
    for name, each in tables.items():
        each.to_csv(files[name], index_label="class")
    return files


if __name__ == "__main__":
    main()
