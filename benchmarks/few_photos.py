"""What a few photos of a class that was only described are worth: words only, photos only, and both.

    python benchmarks/few_photos.py runs/mine photos --features runs/mine-features

Every described class gets 1, 5 or 10 of its photos, drawn anew each time, and is tested on its others. The fit of
attribute scores to the table rests on ten training photos of each seen class.
"""

import argparse

import numpy as np
import torch
from accelerate import Accelerator

from dedn_hf.classify.describing import with_classes
from dedn_hf.classify.from_photos import ScoreFit, reference_scores, row_with_photos, scores_of_batch
from dedn_hf.data.tasks import evaluation_task
from dedn_hf.data.testing import photos_to_test
from dedn_hf.metrics.scores import gzsl_scores
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.publish.saved import load_model, saved_table
from dedn_hf.training.inputs import inputs_from
from dedn_hf.traits.wording import fills_of

SCORES = ("T1", "U", "S", "H")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("photos", help="the photos of its training")
    parser.add_argument("--features", help="feature cache, made if it is not there")
    parser.add_argument("--photos-per-class", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--words", type=int, help="describe by so many traits only, those that tell most")
    parser.add_argument("--draws", type=int, default=20)
    return parser.parse_args()


def scores_of(model, data, batch_size: int = 64) -> np.ndarray:
    """Attribute scores, N x A."""
    starts = range(0, len(data), batch_size)
    batches = (data.__getitems__(list(range(start, min(start + batch_size, len(data))))) for start in starts)
    return np.concatenate([scores_of_batch(model, batch) for batch in batches])


def few_words(table: AttributeTable, fit: ScoreFit, count: int | None) -> dict[str, np.ndarray]:
    """Name -> row of each unseen class, with the `count` traits that are most special about it, or all."""
    rows = {}
    for name, row, seen in zip(table.class_names, table.class_attributes, table.seen, strict=True):
        if not seen:
            told = np.argsort(-np.abs(row - fit.values))[:count]
            rows[name] = fills_of(table)
            rows[name][told] = row[told]
    return rows


def main() -> None:
    """Compute scores once, then try rows."""
    arguments = parse_arguments()
    accelerator, model = Accelerator(cpu=True), load_model(arguments.model)
    table = saved_table(arguments.model, model)
    splits, _ = photos_to_test(arguments.photos, table)
    task = evaluation_task(splits, table)
    inputs = inputs_from(model, task, lambda validation: (splits, table), arguments.features, accelerator)
    scores = {split: scores_of(model, inputs(split)) for split in ("seen", "unseen")}
    labels = {split: values.numpy() for split, values in task.labels.items()}
    fit = ScoreFit.over(reference_scores(model, inputs("train"), labels["train"], table), table)
    words = few_words(table, fit, arguments.words)

    def measured(rows: dict[str, np.ndarray], kept: np.ndarray) -> list[float]:
        tested = torch.from_numpy(np.concatenate([scores["seen"], scores["unseen"][kept]]))
        logits = model.score_classes(tested, with_classes(table, rows)).numpy()
        found = gzsl_scores(logits, np.concatenate([labels["seen"], labels["unseen"][kept]]), table.seen)
        return [100 * found[name] for name in SCORES]

    def report(what: str, found: list[list[float]]) -> None:
        means, spreads = np.mean(found, axis=0), np.std(found, axis=0)
        numbers = zip(SCORES, means, spreads, strict=True)
        print(f"{what:22}" + "  ".join(f"{name} {mean:.1f} ± {spread:.1f}" for name, mean, spread in numbers))

    report("words", [measured(words, np.ones(len(labels["unseen"]), dtype=bool))])
    for count in arguments.photos_per_class:
        found = {"photos": [], "both": []}
        for seed in range(arguments.draws):
            draw, kept, means = np.random.default_rng(seed), np.ones(len(labels["unseen"]), dtype=bool), {}
            for label in np.unique(labels["unseen"]):
                rows = draw.permutation(np.flatnonzero(labels["unseen"] == label))[:count]
                kept[rows], means[table.class_names[label]] = False, scores["unseen"][rows].mean(axis=0)
            for way in found:
                rows = {
                    name: row_with_photos(fit, table, mean, count, words[name] if way == "both" else None)
                    for name, mean in means.items()
                }
                found[way].append(measured({**words, **rows}, kept))
        for way, numbers in found.items():
            report(f"{way}, {count} a class", numbers)


if __name__ == "__main__":
    main()
