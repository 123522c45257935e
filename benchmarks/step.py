"""One training step on feature maps: our formulation (stacked queries, fused attention) against the published one.

python benchmarks/step.py            times and peak memory, results/step.json
python benchmarks/step.py --quick    one small size, nothing written
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import alternate, forget_peak_memory, in_own_process, peak_memory, report, resident_memory
from benchmarks.published import PublishedDEDN
from dedn_hf import AttributeTable, DEDNForZeroShot

SIZES = {"C 1280, R 49": (1280, 7), "C 1280, R 196": (1280, 14), "C 2048, R 196": (2048, 14)}
MODELS = {"ours": DEDNForZeroShot, "published": PublishedDEDN}
CLASSES, ATTRIBUTES, GROUPS, BATCH, EMBEDDING = 200, 312, 6, 40, 300


def example_table() -> AttributeTable:
    """A random table as large as CUB's."""
    rng = np.random.default_rng(0)
    return AttributeTable(
        [f"class {i}" for i in range(CLASSES)],
        [f"attribute {i}" for i in range(ATTRIBUTES)],
        rng.uniform(0, 100, (CLASSES, ATTRIBUTES)),
        [f"group {i % GROUPS}" for i in range(ATTRIBUTES)],
        ["train"] * 150 + ["unseen"] * 50,
        rng.normal(size=(ATTRIBUTES, EMBEDDING)),
    )


def build(kind: str, channels: int, side: int, device: str):
    """A model, its batch and its optimizer."""
    table = example_table()
    torch.manual_seed(0)
    model = MODELS[kind].from_timm(None, table, feature_shape=[channels, side, side]).to(device).train()
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(BATCH, channels, side, side, generator=generator).to(device)
    labels = torch.randint(0, 150, (BATCH,), generator=generator).to(device)
    return model, features, labels, torch.optim.RMSprop(model.parameters(), lr=1e-4, weight_decay=1e-4, momentum=0.9)


def stepper(kind: str, channels: int, side: int, dtype: str, device: str):
    """A function that does one training step and returns the loss."""
    model, features, labels, optimizer = build(kind, channels, side, device)

    def step(images: int = BATCH) -> float:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(features=features[:images], labels=labels[:images]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()  # waits for the device

    return step


def products(channels: int, side: int, dtype: str, device: str):
    """A function that only computes the matrix products of both attentions, forward and backward.

    No formulation needs fewer: both attentions multiply keys and values with the features, and need the derivatives
    by both.
    """
    kind = {"dtype": getattr(torch, dtype), "device": device}
    regions, queries = side * side, 2 * 2 * ATTRIBUTES  # keys and values of two experts
    features = torch.randn(BATCH, channels, regions, **kind)
    as_one, of_regions = features.transpose(0, 1).flatten(1).contiguous(), torch.randn(queries, channels, **kind)
    of_channels = torch.randn(queries, regions, **kind)

    def multiply() -> None:
        (of_regions @ as_one) @ as_one.T
        for image in features:
            (of_channels @ image.T) @ image
        if device == "cuda":
            torch.cuda.synchronize()

    return multiply


def step_memory(kind: str, channels: int, side: int, dtype: str, device: str) -> dict:
    """Peak memory of a step in bytes, beyond model, batch and optimizer state."""
    step = stepper(kind, channels, side, dtype, device)
    step(images=1)  # allocates the gradients and the optimizer's state
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return {"bytes": torch.cuda.max_memory_allocated() - before}
    forget_peak_memory()
    before = resident_memory()
    step()
    return {"bytes": peak_memory() - before}


def main() -> None:
    """Measure every size and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, nothing written")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", nargs=4, metavar=("KIND", "C", "SIDE", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        kind, channels, side, dtype = arguments.memory_of
        print(json.dumps(step_memory(kind, int(channels), int(side), dtype, arguments.device)))
        return
    rows = []
    for name, (channels, side) in {"C 64, R 16": (64, 4)}.items() if arguments.quick else SIZES.items():
        for dtype in ("float32",) if arguments.quick else ("float32", "bfloat16"):
            steps = {kind: stepper(kind, channels, side, dtype, arguments.device) for kind in MODELS}
            steps["products"] = products(channels, side, dtype, arguments.device)
            seconds = alternate(steps, arguments.repeats)
            of = [str(channels), str(side), dtype, "--device", arguments.device]
            memory = {kind: in_own_process(__file__, "--memory-of", kind, *of)["bytes"] for kind in MODELS}
            rows.append(
                {
                    "size": name,
                    "dtype": dtype,
                    "published s": seconds["published"],
                    "ours s": seconds["ours"],
                    "times faster": seconds["published"] / seconds["ours"],
                    "products alone": seconds["ours"] / seconds["products"],
                    "at most faster": seconds["published"] / seconds["products"],
                    "published MB": memory["published"] / 2**20,
                    "ours MB": memory["ours"] / 2**20,
                    "memory ratio": memory["ours"] / memory["published"],
                }
            )
            print(rows[-1], flush=True)
    report("step", rows, f"batch {BATCH}, A {ATTRIBUTES}, {GROUPS} groups, {arguments.device}", not arguments.quick)


if __name__ == "__main__":
    main()
