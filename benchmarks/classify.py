"""`dedn classify`, from files to rows, against the loop of timm's `inference.py` on the same photos.

python benchmarks/classify.py                            drawn photos, results/classify.json
python benchmarks/classify.py --photos DIR --weights F   photos and weights of your own
python benchmarks/classify.py --quick                    few photos and a small backbone, nothing written

Both have the backbone, its input size, the cores and the number of forward passes in common. timm's loop has its own
defaults: batches of 256, two workers, and the backbone's own head. Each run has a process of its own, because settings
of the memory allocator hold for a whole process; loading is not timed. On a machine that others use, give
OMP_NUM_THREADS=1 and read the processor time: threads that wait for each other cost more than they do alone.
"""

import argparse
import csv
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.extraction import write_photos
from benchmarks.harness import environment, in_own_process, report
from benchmarks.step import example_table

BATCH, WORKERS, TOP_K = 256, 2, 1  # the defaults of timm's inference.py


def timm_loop(folder: Path, backbone: str, weights: str, size: int, passes: int) -> Callable[[Path], None]:
    """The loop of timm's `inference.py` (with `--results-format csv`), with a second pass for mirror images."""
    import timm

    options = {"pretrained_cfg_overlay": {"file": weights}, "pretrained": True} if weights else {}
    model = timm.create_model(backbone, **options).eval()
    data = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=model)

    @torch.inference_mode()
    def run(out: Path) -> None:
        photos = timm.data.create_dataset("", root=str(folder))
        loader = timm.data.create_loader(
            photos, batch_size=BATCH, use_prefetcher=True, num_workers=WORKERS, device=torch.device("cpu"), **data
        )
        values, labels = [], []
        for images, _ in loader:
            logits = model(images)
            if passes == 2:
                logits = (logits + model(images.flip(-1))) / 2
            best, label = logits.softmax(-1).topk(TOP_K)
            values.append(best)
            labels.append(label)
        with open(out, "w", newline="") as file:
            answers = [photos.filenames(basename=True), torch.cat(labels).tolist(), torch.cat(values).tolist()]
            csv.writer(file).writerows(zip(*answers, strict=True))

    return run


def dedn_classify(folder: Path, backbone: str, weights: str, size: int, passes: int) -> Callable[[Path], object]:
    """`dedn classify` with its defaults."""
    from dedn_hf import DEDNForZeroShot
    from dedn_hf.classify import classify

    model = DEDNForZeroShot.from_timm(
        backbone, example_table(), image_size=size, pretrained=weights or False, flip_test=passes == 2
    ).eval()
    return lambda out: classify(model, folder, out)


CONTESTANTS = {"timm": timm_loop, "dedn": dedn_classify}


def measured(run: Callable[[Path], object]) -> dict[str, float]:
    """Seconds on the clock, and of the processor: of this process and of its workers, which have ended by then."""

    def spent() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in usage)

    with tempfile.TemporaryDirectory() as temporary:
        before, start = spent(), time.perf_counter()
        run(Path(temporary) / "answers.csv")
        seconds = time.perf_counter() - start
        gc.collect()
        return {"seconds": seconds, "processor": spent() - before}


def measure(folder: Path, backbone: str, weights: str, size: int, passes: int, repeats: int) -> dict[str, dict]:
    """Medians of both. They take turns."""
    found: dict[str, list[dict]] = {name: [] for name in CONTESTANTS}
    for _ in range(repeats):
        for name in CONTESTANTS:
            what = json.dumps([str(folder), backbone, weights, size, passes])
            found[name].append(in_own_process(__file__, "--contestant", name, "--what", what))
    return {
        name: {kind: statistics.median(run[kind] for run in runs) for kind in runs[0]} for name, runs in found.items()
    }


def copy_photos(source: Path, folder: Path, count: int) -> int:
    """Link the first `count` photos of every class in turn, each in a folder of its class; how many there were."""
    files = sorted(source.rglob("*.jpg"), key=lambda path: (path.name.rpartition("_")[2], path))
    for number, path in enumerate(islice(files, count)):
        (folder / path.parent.name).mkdir(exist_ok=True)
        (folder / path.parent.name / f"{number}.jpg").symlink_to(path.resolve())
    return min(count, len(files))


def main() -> None:
    """Measure without and with mirror images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few photos and a small backbone, nothing written")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files (default: drawn ones)")
    parser.add_argument("--weights", default="", help="of the backbone (default: random)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--count", type=int, default=768, help="photos")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        folder, *settings = json.loads(arguments.what)
        print(json.dumps(measured(CONTESTANTS[arguments.contestant](Path(folder), *settings))))
        return
    backbone, size, count = arguments.backbone, 224, arguments.count
    if arguments.quick:
        backbone, size, count, arguments.repeats = "test_resnet", 64, 16, 1
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.photos:
            count = copy_photos(arguments.photos, folder, count)
        else:
            (folder / "photos").mkdir()
            write_photos(folder / "photos", count)
        for passes in (2,) if arguments.quick else (1, 2):
            found = measure(folder, backbone, arguments.weights, size, passes, arguments.repeats)
            rows.append(
                {
                    "backbone": backbone,
                    "flip_test": passes == 2,
                    "timm images/s": count / found["timm"]["seconds"],
                    "dedn images/s": count / found["dedn"]["seconds"],
                    "times faster": found["timm"]["seconds"] / found["dedn"]["seconds"],
                    "times less processor time": found["timm"]["processor"] / found["dedn"]["processor"],
                }
            )
    what = "photographs" if arguments.photos else "drawn photos"
    note = f"{count} {what} at {size} pixels, {environment()['cpu']}, {torch.get_num_threads()} threads"
    report("classify", rows, note, not arguments.quick)


if __name__ == "__main__":
    main()
