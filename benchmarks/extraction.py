"""Feature extraction: `FeatureCache.build` against a straightforward loop over timm with a DataLoader.

python benchmarks/extraction.py            results/extraction.json
python benchmarks/extraction.py --quick    few images and a small backbone, nothing written
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import alternate, report
from benchmarks.step import example_table
from dedn_hf import DEDNForZeroShot
from dedn_hf.data.features import FeatureCache
from dedn_hf.data.transforms import evaluation_transform

BATCH = 32


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
    """The images of the straightforward loop: one file at a time, through timm's transform."""

    def __init__(self, files: list[str], transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


@torch.no_grad()
def straightforward(backbone: torch.nn.Module, photos: Photos, workers: int, device: str, out: Path) -> None:
    """Write the feature maps of all photos to one file, in float16."""
    maps = []
    for batch in DataLoader(photos, BATCH, num_workers=workers):
        maps.append(backbone(batch.to(device))[-1].cpu().half().numpy())
    np.save(out, np.concatenate(maps))


def ours(folder: Path, model: DEDNForZeroShot, images: datasets.Dataset, workers: int, precision: str) -> None:
    """Write the same feature maps to a feature cache of this package."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        cache = Path(temporary) / "cache"
        FeatureCache.build(
            cache, model, images, precision=precision, batch_size=BATCH, num_workers=workers, progress=False
        )


def shares(model: DEDNForZeroShot, images: datasets.Dataset, precision: str) -> dict[str, float]:
    """Seconds that one process needs for decoding, transform and backbone, over all images."""
    seconds, transform = dict.fromkeys(("decoding", "transform", "backbone"), 0.0), evaluation_transform(model)
    model.to(memory_format=torch.channels_last)
    for start in range(0, len(images), BATCH):
        times = [time.perf_counter()]
        pictures = [image.convert("RGB") for image in images[start : start + BATCH]["image"]]
        times.append(time.perf_counter())
        pixels = torch.stack([transform(picture) for picture in pictures])
        times.append(time.perf_counter())
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            model.extract_features(pixels.to(model.device, memory_format=torch.channels_last)).sum().item()
        times.append(time.perf_counter())
        for name, begin, end in zip(seconds, times, times[1:], strict=False):
            seconds[name] += end - begin
    model.to(memory_format=torch.contiguous_format)
    return seconds


def main() -> None:
    """Measure both precisions, with and without workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and a small backbone, nothing written")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    count, names = (16, ["test_resnet"]) if arguments.quick else (96, ["resnet50", "tf_efficientnet_lite0"])
    size = 64 if arguments.quick else 224
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_photos(folder, count)
        images = datasets.Dataset.from_dict({"image": files, "file": files}).cast_column("image", datasets.Image())
        for name in names:
            model = DEDNForZeroShot.from_timm(name, example_table(), image_size=size, pretrained=False)
            model = model.to(arguments.device).eval()
            backbone = timm.create_model(name, features_only=True).to(arguments.device).eval()
            config = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=backbone)
            photos = Photos(files, timm.data.create_transform(**config))
            for precision in ("float32", "bfloat16"):
                spent = shares(model, images, precision)
                for workers in (0, 2):
                    seconds = alternate(
                        {
                            "loop": lambda b=backbone, p=photos, w=workers: straightforward(
                                b, p, w, arguments.device, folder / "loop.npy"
                            ),
                            "ours": lambda m=model, w=workers, p=precision: ours(folder, m, images, w, p),
                        },
                        arguments.repeats,
                    )
                    rows.append(
                        {
                            "backbone": name,
                            "precision": precision,
                            "workers": workers,
                            "loop images/s": count / seconds["loop"],
                            "ours images/s": count / seconds["ours"],
                            "times faster": seconds["loop"] / seconds["ours"],
                            **{f"{part} share": value / sum(spent.values()) for part, value in spent.items()},
                        }
                    )
                    print(rows[-1], flush=True)
    note = f"{count} JPEG files of 500 x 375, {size} pixels, {arguments.device}; the loop in float32"
    report("extraction", rows, note, not arguments.quick)


if __name__ == "__main__":
    main()
