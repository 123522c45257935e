"""Measure explanations: does the answer depend on the regions they name, and do heat maps peak on the right part?

    python examples/faithfulness.py runs/a runs/b --data cub --data-dir data --figure deletion.png --json faithful.json

Measures deletion and insertion curves and corrected attributes. It also plays the pointing game where the positions of
parts are known: with --data shapes, or for CUB with --annotations CUB_200_2011. Of several models (trained with other
seeds) it reports mean and standard deviation.
"""

import argparse
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from dedn_hf.data import load
from dedn_hf.data.transforms import decoded, encoded
from dedn_hf.explain import explain
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.modeling.saving import require_writable
from dedn_hf.publish.saved import load_model
from dedn_hf.studies.faithfulness import (
    KINDS,
    ORDERS,
    Curves,
    area_under,
    balanced_sample,
    faithfulness_curves,
    join_batches,
    right_after_corrections,
)
from dedn_hf.studies.figures import figure_deletion
from dedn_hf.studies.pointing import (
    Parts,
    cub_parts_of,
    play_pointing_game,
    pointing_accuracy,
    read_cub_birds,
    read_cub_parts,
    shapes_parts_of,
)
from dedn_hf.training.inputs import data_options, require_same_classes
from dedn_hf.training.output_folder import write_json

CORRECTIONS = (1, 3, 10, 30)
FORMATS = (".png", ".svg")
POINT_MARGIN = 1.0  # a part that is a point: regions around it that count
Game = tuple[str, list[Parts], list[tuple[str, ...]], float]  # name, parts of each image, of each attribute, margin


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder or Hub id of a model; several: other seeds")
    parser.add_argument("--data", required=True, help="cub, sun, awa2, folder, shapes, or a prepared folder")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--csv", help="folder: class attributes (default: attributes.csv in the data folder)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other options of the data set")
    parser.add_argument("--per-class", type=int, default=4, help="test images of each class (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the random orders (default 0)")
    parser.add_argument("--steps", type=int, default=7, help="points of a curve after its first (default 7)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--annotations", type=Path, help="CUB: folder of images.txt, bounding_boxes.txt and parts/")
    parser.add_argument("--figure", type=Path, help="draw the curves to this .png or .svg file")
    parser.add_argument("--json", type=Path, help="write the results to this .json file")
    return parser.parse_args()


def open_model(name: str, table) -> DEDNForZeroShot:
    """A saved model with the classes of the data. Raises ValueError where it does not know them."""
    model = load_model(name)
    require_same_classes(model, table)
    model.set_classes(table)
    return model.to(memory_format=torch.channels_last)  # faster on CPUs


def sample_of(splits: dict[str, datasets.Dataset], per_class: int, seed: int) -> datasets.Dataset:
    """`per_class` test images of every class, seen and unseen."""
    images = datasets.concatenate_datasets([images for split, images in splits.items() if split.startswith("test_")])
    return images.select(balanced_sample(images["label"][:], per_class, seed))


def games_of(sample: datasets.Dataset, attributes: list[str], annotations: Path | None) -> list[Game]:
    """The pointing games that can be played: with the data's own parts, with CUB's boxes, with CUB's part points."""
    games: list[Game] = []
    if "parts" in sample.column_names:
        parts = [{part["name"]: [part["box"]] for part in of_image} for of_image in sample["parts"]]
        games.append(("part", parts, [shapes_parts_of(name) for name in attributes], 0.0))
    if annotations is not None:
        birds = read_cub_birds(annotations)
        games.append(("bird", [birds[file] for file in sample["file"]], [("bird",)] * len(attributes), 0.0))
        if (annotations / "parts").is_dir():
            points = read_cub_parts(annotations)
            part_names = [cub_parts_of(name) for name in attributes]
            games.append(("part", [points[file] for file in sample["file"]], part_names, POINT_MARGIN))
    return games


def batches(sample: datasets.Dataset, size: int):
    """First index, pictures and labels of each batch."""
    images = encoded(sample)
    for start in tqdm(range(0, len(sample), size), leave=False, disable=None):
        places = range(start, min(start + size, len(sample)))
        yield start, decoded(images, places), sample["label"][start : places.stop]


def curves_of(model: DEDNForZeroShot, sample: datasets.Dataset, arguments: argparse.Namespace) -> Curves:
    """Deletion and insertion curves of all images."""
    processor, generator = model.image_processor(), torch.Generator().manual_seed(arguments.seed)
    parts = []
    for _, pictures, _ in batches(sample, arguments.batch_size):
        pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        parts.append(faithfulness_curves(model, pixel_values, arguments.steps, generator))
    return join_batches(parts)


def corrections_of(model: DEDNForZeroShot, sample: datasets.Dataset, seed: int) -> dict:
    """Number of wrong answers, and the shares of them that corrections turn right."""
    rng, chosen, at_random = np.random.default_rng(seed), [], []
    for _, (picture,), (label,) in batches(sample, 1):
        explanation = explain(model, picture)
        if explanation.ranking[0] != label:
            chosen.append(right_after_corrections(explanation, label, CORRECTIONS))
            at_random.append(right_after_corrections(explanation, label, CORRECTIONS, rng))
    shares = {"strongest first": chosen, "random": at_random} if chosen else {}
    return {
        "images": len(sample),
        "wrong": len(chosen),
        **{name: dict(zip(CORRECTIONS, np.mean(rows, axis=0).tolist(), strict=True)) for name, rows in shares.items()},
    }


def pointing_of(model: DEDNForZeroShot, sample: datasets.Dataset, game: Game, batch_size: int) -> dict:
    """Group -> pointing accuracies and baselines."""
    _, parts, part_names, margin = game
    played = [
        play_pointing_game(model, pictures, labels, parts[start : start + len(labels)], part_names, margin)
        for start, pictures, labels in batches(sample, batch_size)
    ]
    hits, targets = (np.concatenate(arrays) for arrays in zip(*played, strict=True))
    return pointing_accuracy(hits, targets, model.config.attribute_groups, model.config.expert_names)


def summary_of(curves: Curves) -> dict:
    """Kind -> order -> mean curve, mean area, and the share of images where the most important first does better."""
    summary = {}
    for kind in KINDS:
        areas = {order: area_under(values) for order, values in curves[kind].items()}
        gain = {order: areas[ORDERS[0]] - areas[order] for order in ORDERS}
        sign = -1 if kind == "deletion" else 1
        summary[kind] = {
            order: {
                "curve": curves[kind][order].mean(axis=0).tolist(),
                "area": float(areas[order].mean()),
                "better": float((sign * gain[order] > 0).mean()),
            }
            for order in ORDERS
        }
    return summary


def mean_and_deviation(values: list) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the models; the deviation of a single one is 0."""
    array = np.array(values, dtype=float)
    return array.mean(axis=0), array.std(axis=0, ddof=1) if len(array) > 1 else np.zeros(array.shape[1:])


def formatted(values: list[float], factor: float = 100) -> str:
    """'12.3 ± 0.4'; of a single model '12.3'."""
    mean, deviation = mean_and_deviation(values)
    return f"{factor * mean:.1f}" + (f" ± {factor * deviation:.1f}" if len(values) > 1 else "")


def print_curves(summaries: list[dict]) -> None:
    """Areas under the curves, in percent, and how often the most important first does better."""
    for kind in KINDS:
        print(f"\n{kind.capitalize():24}{'area under curve, %':>22}{'image by image, %':>26}")
        for order in ORDERS:
            of_models = [summary[kind][order] for summary in summaries]
            better = "" if order == ORDERS[0] else formatted([row["better"] for row in of_models])
            print(f"{order:24}{formatted([row['area'] for row in of_models]):>22}{better:>26}")
    print(f"(image by image: share of images where '{ORDERS[0]}' has the better area)")


def print_corrections(results: list[dict]) -> None:
    """The shares of wrong answers that become right, in percent."""
    print(f"\nWrong answers: {', '.join(str(result['wrong']) for result in results)} of {results[0]['images']}")
    print(f"{'turned right by':24}" + "".join(f"{count:>16}" for count in CORRECTIONS) + "  corrections, %")
    for name in ("strongest first", "random"):
        rows = [result[name] for result in results if name in result]
        if rows:
            print(f"{name:24}" + "".join(f"{formatted([row[count] for row in rows]):>16}" for count in CORRECTIONS))


def print_pointing(name: str, results: list[dict]) -> None:
    """Pointing accuracies, in percent, by group."""
    columns = list(results[0]["all"])
    print(f"\nPointing at the {name:8}" + "".join(f"{column:>16}" for column in columns))
    for group in results[0]:
        cells = [formatted([result[group][column] for result in results]) for column in columns[1:]]
        print(f"{group:24}{results[0][group]['pairs']:>16}" + "".join(f"{cell:>16}" for cell in cells))


def draw_curves(summaries: list[dict]) -> Figure:
    """The mean curves over the models, and their standard deviation."""
    curves = {
        kind: {order: mean_and_deviation([summary[kind][order]["curve"] for summary in summaries]) for order in ORDERS}
        for kind in KINDS
    }
    return figure_deletion(curves)


def main() -> None:
    """Load, measure model after model, report."""
    arguments = parse_arguments()
    for path, formats in ((arguments.figure, FORMATS), (arguments.json, (".json",))):
        if path is not None:
            require_writable(path, formats)  # before anything is measured
    datasets.disable_progress_bars()
    data = data_options(arguments)
    splits, table = load(**data)
    models = [open_model(name, table) for name in arguments.models]
    sample = sample_of(splits, arguments.per_class, arguments.seed)
    games = games_of(sample, models[0].config.attribute_names, arguments.annotations)
    print(f"{len(sample)} test images of {len(set(sample['label'][:]))} classes, {len(models)} model(s)")
    summaries = [summary_of(curves_of(model, sample, arguments)) for model in models]
    print_curves(summaries)
    if arguments.figure:
        draw_curves(summaries).savefig(arguments.figure)
    corrections = [corrections_of(model, sample, arguments.seed) for model in models]
    print_corrections(corrections)
    pointing = {}
    for game in games:
        pointing[game[0]] = [pointing_of(model, sample, game, arguments.batch_size) for model in models]
        print_pointing(game[0], pointing[game[0]])
    if arguments.json:
        described = {"models": arguments.models, "data": data, "images": len(sample), "seed": arguments.seed}
        write_json(
            arguments.json, {**described, "curves": summaries, "corrections": corrections, "pointing": pointing}
        )
        print(f"\nWrote {arguments.json}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"faithfulness.py: {error}")
