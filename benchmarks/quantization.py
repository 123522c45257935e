"""int8 against float32: accuracy, size and speed of a model's two ONNX files on the test images of its data set.

python benchmarks/quantization.py runs/mine --data folder --data-dir photos      results/quantization.json
python benchmarks/quantization.py runs/4-0 runs/2-0 --data cub --data-dir data --images 400

Both files classify the same images, which are decoded once. Accuracies are means over the classes with images.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import alternate, report
from dedn_hf import DEDNForZeroShot
from dedn_hf.data import load
from dedn_hf.data.tasks import Task, test_task
from dedn_hf.data.transforms import evaluation_transform
from dedn_hf.metrics.scores import gzsl_scores
from dedn_hf.publish.export import export_onnx, quantize_onnx
from dedn_hf.publish.export_check import open_session
from dedn_hf.publish.saved import load_model

BATCH = 16


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders or Hub names of models")
    parser.add_argument("--data", required=True, help="cub, sun, awa2, folder, shapes, or a prepared folder")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--csv", help="folder: class attributes (default: attributes.csv in the data folder)")
    parser.add_argument("--images", type=int, help="use at most this many test images, spread evenly over all of them")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of the time measurement")
    parser.add_argument("--name", default="quantization", help="name of the file in results/")
    return parser.parse_args()


def test_images(task: Task, model: DEDNForZeroShot, count: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """At most `count` images of both test splits, N x 3 x size x size, and their labels, N."""
    data = task.decoded(evaluation_transform(model), evaluation_transform(model))
    splits = [data("seen"), data("unseen")]
    places = [(split, index) for split in splits for index in range(len(split))]
    chosen = np.linspace(0, len(places) - 1, min(count or len(places), len(places))).round().astype(int)
    images = [places[place][0].__getitems__([places[place][1]]) for place in chosen]
    return tuple(torch.cat([image[key] for image in images]) for key in ("pixel_values", "labels"))


def classifier(path: Path) -> Callable[[torch.Tensor], np.ndarray]:
    """A function that gives the logits of an ONNX file: N images to N x K."""
    session = open_session(path)

    def classify(pixel_values: torch.Tensor) -> np.ndarray:
        batches = pixel_values.split(BATCH)
        return np.concatenate([session.run(["logits"], {"pixel_values": batch.numpy()})[0] for batch in batches])

    return classify


def measure(paths: dict[str, Path], images: torch.Tensor, labels: torch.Tensor, seen: np.ndarray, repeats: int):
    """One row of accuracies (percent), size and time for each file, compared with the first file."""
    classifiers = {name: classifier(path) for name, path in paths.items()}
    batch = images[:BATCH]
    seconds = alternate({name: lambda run=run: run(batch) for name, run in classifiers.items()}, repeats)
    logits = {name: run(images) for name, run in classifiers.items()}
    first, rows = next(iter(paths)), []
    for name, path in paths.items():
        scores = gzsl_scores(logits[name], labels.numpy(), seen)
        same = logits[name].argmax(axis=1) == logits[first].argmax(axis=1)
        rows.append(
            {
                "file": name,
                **{key: 100 * scores[key] for key in ("T1", "U", "S", "H")},
                "same class %": 100 * float(same.mean()),
                "MB": path.stat().st_size / 1e6,
                "size ratio": path.stat().st_size / paths[first].stat().st_size,
                "time ratio": seconds[name] / seconds[first],
            }
        )
    return rows


def compare(name: str, splits, table, count: int | None, repeats: int) -> list[dict]:
    """The rows of one model."""
    model, task = load_model(name), test_task(splits, table)
    model.set_classes(task.table)
    images, labels = test_images(task, model, count)
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.onnx" for kind in ("float32", "int8")}
        export_onnx(model, paths["float32"])
        quantize_onnx(paths["float32"], paths["int8"])
        rows = measure(paths, images, labels, task.table.seen, repeats)
    about = {"model": Path(name).name, "backbone": model.config.backbone, "images": len(images)}
    return [about | row for row in rows]


def main() -> None:
    """Export every model in float32 and int8, and compare the two files."""
    arguments = parse_arguments()
    options = {"name": arguments.data, "data_dir": arguments.data_dir, "csv": arguments.csv}
    splits, table = load(**{key: value for key, value in options.items() if value is not None})
    rows = [
        row for name in arguments.models for row in compare(name, splits, table, arguments.images, arguments.repeats)
    ]
    report(arguments.name, rows, f"test images of {arguments.data}, CPU, batches of {BATCH}")


if __name__ == "__main__":
    main()
