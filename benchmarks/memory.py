"""Memory of training on a feature cache as large as CUB's at ResNet-101 and 448 pixels: 11,788 x 2048 x 14 x 14.

    python benchmarks/memory.py            results/memory.json
    python benchmarks/memory.py --quick    a small cache, nothing written

The file is sparse: it takes no disk space, but reading it takes as much memory as reading any other file.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import peak_memory, report, resident_memory
from benchmarks.step import example_table
from dedn_hf import DEDNForZeroShot
from dedn_hf.data.cached import CachedFeatures
from dedn_hf.data.feature_files import FEATURES_FILE, IMAGES_FILE, write_identity
from dedn_hf.data.features import FeatureCache
from dedn_hf.data.sampling import Batches
from dedn_hf.data.transforms import already_batched


def zeros(folder: Path, count: int, shape: list[int]) -> FeatureCache:
    """A cache of `count` images that holds only zeros; the file is sparse and takes no disk space."""
    write_identity(folder, {"feature_shape": shape, "dtype": "float16"})
    files = {f"{number}.jpg": f"{number:064x}" for number in range(count)}
    (folder / IMAGES_FILE).write_text("".join(f"{content}\n" for content in files.values()))
    with open(folder / FEATURES_FILE, "wb") as file:
        file.truncate(count * int(np.prod(shape)) * 2)
    return FeatureCache(folder, files)


def main() -> None:
    """Train for some steps; report peak memory and the share of the time that reading takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small cache, nothing written")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    images, shape = (200, [16, 4, 4]) if arguments.quick else (11_788, [2048, 14, 14])
    labels = torch.arange(images) % 150
    files = [f"{i}.jpg" for i in range(images)]
    model = DEDNForZeroShot.from_timm(None, example_table(), feature_shape=shape).train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        data = CachedFeatures([zeros(Path(folder), images, shape)], files, labels)
        loader = iter(DataLoader(data, batch_sampler=Batches(labels, 50), collate_fn=already_batched))
        start_memory, reading, whole = resident_memory(), 0.0, time.perf_counter()
        for _ in range(2 if arguments.quick else arguments.steps):
            start = time.perf_counter()
            batch = next(loader)
            reading += time.perf_counter() - start
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        whole = time.perf_counter() - whole
    row = {
        "cache GB": 2 * images * int(np.prod(shape)) / 2**30,
        "GB at the start": start_memory / 2**30,
        "GB at most": peak_memory() / 2**30,
        "reading / step": reading / whole,
    }
    report("memory", [row], "batches of 50, float32, in one process", not arguments.quick)


if __name__ == "__main__":
    main()
