"""Feature extraction from files to a file: the feature cache against straightforward loops.

python benchmarks/extraction.py                     results/extraction.json
python benchmarks/extraction.py --photos FOLDER     the same with photos of yours (all folders below it)
python benchmarks/extraction.py --quick             few images and a small backbone, nothing written

Every measurement is a process of its own, first use included: what the cache does to the allocator would help the
loops too. They take turns, and the shortest time of each counts, because other work slows some of them down. Rows with
AVX2 keep torch and oneDNN from using anything beyond it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from unittest.mock import patch

import datasets
import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import in_own_process, peak_memory, report
from benchmarks.step import example_table
from dedn_hf import DEDNForZeroShot
from dedn_hf.data.extraction import batches_of
from dedn_hf.data.features import View, image_hashes, open_views
from dedn_hf.data.processor import computes_bfloat16
from dedn_hf.data.transforms import FixedViews, already_batched
from dedn_hf.training.record import cpu_name

BATCH = 32
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
CROP = {"augmentation": "crop", "crop_scale": 0.35, "jitter": 0.3}  # of cub_views.yaml
VIEWS = [None, {"mirrored": True}, *({"view": number, **CROP} for number in range(1, 8))]


def write_photos(folder: Path, count: int) -> list[str]:
    """Write `count` JPEG files as large as small photographs, smooth with some noise; returns their paths."""
    rng, files = np.random.default_rng(0), []
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 8, (375, 500, 3))
        files.append(str(folder / f"{number}.jpg"))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


class Photos(Dataset):
    """The images of the plain loop: one file at a time, through timm's transform."""

    def __init__(self, files: list[str], transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


class Run:
    """One measurement; each contestant writes the feature maps of all photos below `out`."""

    def __init__(self, files: list[str], out: str, backbone: str, size: int, precision: str, workers: int) -> None:
        self.files, self.out, self.precision, self.workers = files, Path(out), precision, workers
        self.images = datasets.Dataset.from_dict({"image": files, "file": files})
        self.images = self.images.cast_column("image", datasets.Image())
        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = DEDNForZeroShot.from_timm(backbone, example_table(), image_size=size, pretrained=False)
        self.model = self.model.to(device).eval()
        self.body = timm.create_model(backbone, features_only=True, out_indices=(-1,)).to(device).eval()
        config = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=self.body)
        self.transform = timm.data.create_transform(**config)

    @torch.no_grad()
    def loop(self) -> None:
        """timm and a DataLoader, contiguous, in float32."""
        maps = []
        for batch in DataLoader(Photos(self.files, self.transform), BATCH, num_workers=self.workers):
            maps.append(self.body(batch.to(self.model.device))[-1].cpu().half().numpy())
        np.save(self.out / "loop.npy", np.concatenate(maps))

    def cache(self, views: list = VIEWS[:1]) -> None:
        """The feature cache of this package."""
        wanted = [View(self.out / "cache", views[0])]
        wanted += [View(self.out / "cache" / str(number), view) for number, view in enumerate(views[1:], start=1)]
        how = {"precision": self.precision, "batch_size": BATCH, "num_workers": self.workers}
        open_views(wanted, self.model, self.images, progress=False, **how)

    def all_views(self) -> None:
        """The feature cache with all views of `cub_views.yaml`."""
        self.cache(VIEWS)

    @torch.no_grad()
    def passes(self) -> None:
        """The same views in a pass over the images for each, channels-last, as this package did it before."""
        contents = image_hashes(self.images)
        self.model.to(memory_format=torch.channels_last)
        for number, view in enumerate(VIEWS):
            source = FixedViews(self.images, contents, self.model, [view])
            batches = batches_of([(0,)] * len(self.files), BATCH)
            loader = DataLoader(source, batch_sampler=batches, num_workers=self.workers, collate_fn=already_batched)
            with open(self.out / f"{number}.bin", "wb") as file:
                for pixels in loader:
                    pixels = pixels.to(self.model.device, memory_format=torch.channels_last)
                    file.write(self.model.backbone(pixels).cpu().half().numpy().tobytes())


def measure(contestant: str, *arguments: object) -> dict:
    """Seconds and peak memory of a contestant in this process."""
    run = Run(*arguments)
    start = time.perf_counter()
    getattr(run, contestant)()
    return {"seconds": time.perf_counter() - start, "bytes": peak_memory()}


def compare(pair: tuple[str, str], rounds: int, files: list[str], folder: Path, *options: object) -> dict:
    """Shortest time of both contestants, which take turns, and the memory of theirs that needed most."""
    seconds, memory = {name: [] for name in pair}, dict.fromkeys(pair, 0)
    for _ in range(rounds):
        for name in pair:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                found = in_own_process(__file__, "--one", json.dumps([name, files, out, *options]))
            seconds[name].append(found["seconds"])
            memory[name] = max(memory[name], found["bytes"])
    first, second = (min(seconds[name]) for name in pair)
    return {
        "theirs images/s": len(files) / first,
        "ours images/s": len(files) / second,
        "times faster": first / second,
        "theirs GB": memory[pair[0]] / 2**30,
        "ours GB": memory[pair[1]] / 2**30,
    }


def main() -> None:
    """Measure one view against the plain loop, and all views against a pass for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and a small backbone, nothing written")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files, in place of drawn ones")
    parser.add_argument("--images", type=int, default=192, help="how many images, for one view (default 192)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="*", default=["tf_efficientnet_lite0", "resnet50"])
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="processes that decode, in both")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return
    count, size, names = arguments.images, 224, arguments.backbones
    if arguments.quick:
        count, size, names, arguments.rounds, arguments.workers = 16, 64, ["test_resnet"], 1, [0]
    own, rows = torch.backends.cpu.get_cpu_capability(), []
    plan = [("loop", "cache", "float32", "AVX2"), ("passes", "all_views", "float32", "AVX2")]
    if own != "AVX2" and not arguments.quick:
        plan += [(*pair, own) for *pair, _ in plan]
    if computes_bfloat16(torch.device("cpu")) and not arguments.quick:
        plan += [("loop", "cache", "bfloat16", own), ("passes", "all_views", "bfloat16", own)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = sorted(map(str, arguments.photos.rglob("*.jpg"))) if arguments.photos else write_photos(folder, count)
        files = files[:: max(1, len(files) // count)][:count]
        for name, workers, (theirs, ours, precision, instructions) in product(names, arguments.workers, plan):
            some = files if theirs == "loop" else files[::4]
            environment = AVX2 if instructions == "AVX2" else {}
            with patch.dict(os.environ, environment):
                numbers = compare((theirs, ours), arguments.rounds, some, folder, name, size, precision, workers)
            what = {"backbone": name, "instructions": instructions, "precision": precision, "workers": workers}
            rows.append({**what, "against": theirs, "images": len(some), **numbers})
            print(rows[-1], flush=True)
    processor = f"{cpu_name()}, {own}, {torch.get_num_threads()} threads"
    note = f"{size} pixels, batch {BATCH}, on {processor}; shortest of {arguments.rounds} rounds; loops in float32"
    report("extraction", rows, note, not arguments.quick)


if __name__ == "__main__":
    main()
