"""How time and memory grow with the number of classes, attributes and images.

python benchmarks/growth.py            results/growth.json and growth.png
python benchmarks/growth.py --quick    small sizes, nothing written
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import RESULTS, forget_peak_memory, in_own_process, peak_memory, report, resident_memory
from benchmarks.memory import zeros
from dedn_hf import AttributeTable, DEDNForZeroShot

BATCH = 40
SIZES = {
    "classes": [200, 1_000, 10_000, 100_000, 300_000, 1_000_000],
    "classes, all logits": [200, 1_000, 10_000, 100_000, 300_000, 1_000_000],
    "attributes": [85, 312, 1_000, 2_000],
    "images": [1_000, 10_000, 100_000, 1_000_000],
}
QUICK = {"classes": [200], "classes, all logits": [200], "attributes": [85], "images": [1_000]}


def model_of(classes: int, attributes: int, shape: list[int]) -> DEDNForZeroShot:
    """A model on feature maps. Many classes are set directly: checks and names of a table are not to be measured."""
    rng = np.random.default_rng(0)
    table = AttributeTable(
        ["a", "b"],
        [f"attribute {i}" for i in range(attributes)],
        rng.uniform(1, 100, (2, attributes)),
        [f"group {i % 6}" for i in range(attributes)],
        ["train", "unseen"],
        rng.normal(size=(attributes, 300)),
    )
    model = DEDNForZeroShot.from_timm(None, table, feature_shape=shape)
    if classes > 2:
        model.class_attributes = torch.rand(classes, attributes)
        model.seen = torch.arange(classes) < classes // 2
    return model


def measured(run: Callable[[], object], repeats: int = 5) -> dict:
    """Median seconds of `run`, and its peak memory in bytes, beyond what the process used before the first call."""
    forget_peak_memory()
    before = resident_memory()
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"s": statistics.median(seconds), "bytes": max(0, peak_memory() - before)}


@torch.inference_mode()
def classes(count: int) -> dict:
    """Find the five best of `count` classes for a batch by `top_classes`."""
    model = model_of(count, 312, [8, 2, 2]).eval()
    scores = torch.randn(BATCH, 312)
    return measured(lambda: model.top_classes(scores, 5))


@torch.inference_mode()
def all_logits(count: int) -> dict:
    """Find the five best by `score_classes`, which computes a logit for every class."""
    model = model_of(count, 312, [8, 2, 2]).eval()
    scores = torch.randn(BATCH, 312)
    return measured(lambda: model.score_classes(scores).topk(5))


def attributes(count: int) -> dict:
    """Train one step with `count` attributes."""
    model = model_of(2, count, [512, 7, 7]).train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4)
    features, labels = torch.randn(BATCH, 512, 7, 7), torch.zeros(BATCH, dtype=torch.long)

    def step() -> None:
        model(features=features, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return measured(step)


def images(count: int) -> dict:
    """Read a random batch from a cache of `count` feature maps. The file is sparse and takes no disk space."""
    shape = [256, 7, 7]
    with tempfile.TemporaryDirectory() as folder:
        forget_peak_memory()
        before = resident_memory()
        cache, rng = zeros(Path(folder), count, shape), np.random.default_rng(0)
        numbers = measured(lambda: cache.read(rng.integers(0, count, BATCH)), repeats=50)
        return {**numbers, "bytes": peak_memory() - before}


MEASUREMENTS = {"classes": classes, "classes, all logits": all_logits, "attributes": attributes, "images": images}


def draw(rows: list[dict]) -> None:
    """Plot time and memory over size, one column for each measurement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col")
    titles = {"classes": "five best of K classes", "attributes": "training step, A attributes"}
    titles["images"] = "random batch of a cache of N images"
    colours = {"classes": "#0072B2", "classes, all logits": "#D55E00", "attributes": "#0072B2", "images": "#0072B2"}
    for what, colour in colours.items():
        column = list(titles).index(what.split(",")[0])
        mine = [row for row in rows if row["what"] == what]
        label = {"classes": "top_classes", "classes, all logits": "a logit for every class"}.get(what)
        marker = "s" if "," in what else "o"
        for line, key, scale in ((0, "ms", 1), (1, "MB", 1)):
            axes[line, column].plot(
                [row["size"] for row in mine],
                [row[key] * scale for row in mine],
                color=colour,
                marker=marker,
                label=label,
            )
            axes[line, column].set(xscale="log", yscale="log", ylabel=key)
        axes[0, column].set_title(titles[what.split(",")[0]], fontsize=10)
        axes[1, column].set_xlabel("size")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(RESULTS / "growth.png", dpi=110)


def main() -> None:
    """Measure every size in a process of its own, so that no other size adds to its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, size = arguments.one
        print(json.dumps(MEASUREMENTS[what](int(size))))
        return
    rows = []
    for what, sizes in (QUICK if arguments.quick else SIZES).items():
        for size in sizes:
            numbers = in_own_process(__file__, "--one", what, str(size))
            rows.append({"what": what, "size": size, "ms": 1000 * numbers["s"], "MB": numbers["bytes"] / 2**20})
            print(rows[-1], flush=True)
    report("growth", rows, f"batch {BATCH}; memory beyond the model's own", not arguments.quick)
    if not arguments.quick:
        draw(rows)


if __name__ == "__main__":
    main()
