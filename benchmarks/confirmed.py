"""What training on confirmed photos does to a model: before and after, on photos that it was trained on neither time.

    python benchmarks/confirmed.py birds all-photos --labels confirmed.csv --draw 0
    dedn train all-photos --labels confirmed.csv --old-photos photos --start-from birds --out birds2
    python benchmarks/confirmed.py birds all-photos --labels confirmed.csv --after birds2 --features birds-features

`all-photos` holds the folders of all classes. Tested are the photos that the training of `birds` held out, and all
of the classes that it knew from descriptions only, without those that `confirmed.csv` labels. T1 and U are of these
classes, S of the others, before and after; among all classes, but T1 among those of the descriptions.
"""

import argparse
import csv
import random
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from dedn_hf.data.tasks import evaluation_task
from dedn_hf.data.testing import photos_to_test
from dedn_hf.metrics.scores import gzsl_scores
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.publish.saved import load_model, saved_table
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.inputs import inputs_from


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the model before")
    parser.add_argument("photos", help="folders of all classes")
    parser.add_argument("--labels", required=True, help="list of labelled photos, with columns file and label")
    parser.add_argument("--draw", type=int, metavar="SEED", help="only write --labels: five photos of each new class")
    parser.add_argument("--after", nargs="*", default=[], help="folders of models after")
    parser.add_argument("--features", help="feature cache, made if it is not there")
    return parser.parse_args()


def draw(table: AttributeTable, photos: Path, seed: int, path: str, count: int = 5) -> None:
    """Write a list of some photos of each class that is known from a description only, with their labels."""
    chance, rows = random.Random(seed), []
    for name in sorted(name for name, seen in zip(table.class_names, table.seen, strict=True) if not seen):
        files = sorted(file.name for file in (photos / name).iterdir())
        rows += [(f"{name}/{file}", name) for file in chance.sample(files, count)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *rows])


def main() -> None:
    """Test the model before and those after on the same photos."""
    arguments = parse_arguments()
    before = load_model(arguments.model)
    table = saved_table(arguments.model, before)
    if arguments.draw is not None:
        draw(table, Path(arguments.photos), arguments.draw, arguments.labels)
        return
    with open(arguments.labels, newline="", encoding="utf-8-sig") as file:
        labelled = {Path(row["file"]).name for row in csv.DictReader(file) if row["label"]}
    accelerator = Accelerator(cpu=True)
    splits, _ = photos_to_test(arguments.photos, table)
    for name, split in splits.items():
        files = split["file"][:]
        splits[name] = split.select([row for row, file in enumerate(files) if Path(file).name not in labelled])
    task = evaluation_task(splits, table)
    print(f"{len(task.labels['seen'])} and {len(task.labels['unseen'])} photos of classes learned before and not")
    for name in [arguments.model, *arguments.after]:
        model = load_model(name)
        order = [model.config.label2id[each] for each in table.class_names]
        inputs = inputs_from(model, task, lambda validation: (splits, table), arguments.features, accelerator)
        _, said = evaluate(model, inputs, table.seen, accelerator)
        found = gzsl_scores(said.logits[:, order], said.labels, np.asarray(table.seen))
        print(f"{name:24}" + "  ".join(f"{score} {100 * found[score]:.1f}" for score in ("T1", "U", "S", "H")))


if __name__ == "__main__":
    main()
