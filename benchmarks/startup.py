"""Start-up, each in a process of its own: imports, and the commands against transformers' own pipeline.

python benchmarks/startup.py            results/startup.json
python benchmarks/startup.py --quick    a small backbone, once, nothing written

transformers' pipeline is `image-classification` with the same backbone (a timm model, random weights) and the same
image. The time of each runs from the start of the interpreter to its end, that of `dedn serve` until it is ready.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.extraction import write_photos
from benchmarks.harness import alternate, report
from benchmarks.serving import served
from benchmarks.step import example_table
from dedn_hf import DEDNForZeroShot

IMPORTS = ("import dedn_hf", "import transformers", "import torch", "pass")
THEIRS = "from transformers import pipeline; pipeline('image-classification', model={model!r})({photo!r})"
CLASSIFY = ("-m", "dedn_hf", "classify")
OURS = (
    "from transformers import pipeline; from dedn_hf import DEDNPipeline; "
    "pipeline('zero-shot-image-classification', model={model!r}, pipeline_class=DEDNPipeline)({photo!r})"
)


def seconds_of(*arguments: str) -> float:
    """Wall time of an interpreter of its own, to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def until_ready(model: str) -> float:
    """Seconds from the start of `dedn serve` until it takes connections."""
    start = time.perf_counter()
    with served(model):
        return time.perf_counter() - start


def medians(contestants: dict[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """Median of the seconds that each gives. They take turns."""
    found = [{name: measure() for name, measure in contestants.items()} for _ in range(turns)]
    return {name: statistics.median(turn[name] for turn in found) for name in contestants}


def import_rows(turns: int) -> list[dict]:
    """What imports and `dedn --help` take beyond an empty interpreter, relative to `import torch`."""
    commands = {statement: ("-c", statement) for statement in IMPORTS} | {"dedn --help": ("-m", "dedn_hf", "--help")}
    seconds = medians({name: partial(seconds_of, *command) for name, command in commands.items()}, turns)
    nothing = seconds.pop("pass")
    of_torch = seconds["import torch"] - nothing
    return [
        {"what": name, "s": value - nothing, "against": "import torch", "ratio": (value - nothing) / of_torch}
        for name, value in seconds.items()
    ]


def command_rows(folder: Path, backbone: str, size: int, turns: int) -> list[dict]:
    """From the start of a process to the end of an answer about one image, or until the server is ready."""
    ours, theirs = save_models(folder, backbone, size)
    (photo,) = write_photos(folder, 1)
    out = str(folder / "answers.csv")
    contestants = {
        "transformers' pipeline": partial(seconds_of, "-c", THEIRS.format(model=theirs, photo=photo)),
        "pipeline(...) of ours": partial(seconds_of, "-c", OURS.format(model=ours, photo=photo)),
        "dedn classify": partial(seconds_of, *CLASSIFY, ours, photo, "--out", out, "--overwrite"),
        "dedn serve until ready": partial(until_ready, ours),
    }
    seconds = medians(contestants, turns)
    against = next(iter(contestants))
    return [
        {"what": name, "s": value, "against": against, "ratio": value / seconds[against]}
        for name, value in seconds.items()
    ]


def save_models(folder: Path, backbone: str, size: int) -> tuple[str, str]:
    """A model of ours and one of transformers with the same backbone; their folders."""
    torch.manual_seed(0)
    model = DEDNForZeroShot.from_timm(backbone, example_table(), image_size=size, pretrained=False)
    model.save_pretrained(folder / "ours")
    preprocessing = {**timm.get_pretrained_cfg(backbone).to_dict(), "input_size": (3, size, size)}
    config = TimmWrapperConfig(architecture=backbone, num_labels=200, pretrained_cfg=preprocessing)
    TimmWrapperForImageClassification(config).save_pretrained(folder / "theirs")
    return str(folder / "ours"), str(folder / "theirs")


def loading_row(backbone: str, size: int, turns: int) -> dict:
    """`from_pretrained` against building the network and filling in the weights, in this process."""
    import copy

    from safetensors.torch import load_file

    model = DEDNForZeroShot.from_timm(backbone, example_table(), image_size=size, pretrained=False)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)

        def by_hand() -> None:
            rebuilt = DEDNForZeroShot(copy.deepcopy(model.config))
            rebuilt.load_state_dict(load_file(Path(folder) / "model.safetensors"))

        contestants = {"ours": lambda: DEDNForZeroShot.from_pretrained(folder), "by hand": by_hand}
        seconds = alternate(contestants, turns)
    ratio = seconds["ours"] / seconds["by hand"]
    return {"what": "from_pretrained", "s": seconds["ours"], "against": "built and filled by hand", "ratio": ratio}


def main() -> None:
    """Measure imports, loading and commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small backbone, once, nothing written")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    backbone, size, turns = arguments.backbone, 224, arguments.repeats
    if arguments.quick:
        backbone, size, turns = "test_resnet", 64, 1
    rows = [*import_rows(turns), loading_row(backbone, size, turns)]
    with tempfile.TemporaryDirectory() as folder:
        rows += command_rows(Path(folder), backbone, size, turns)
    note = f"{backbone} at {size} pixels, 200 classes; imports and --help beyond an empty interpreter"
    report("startup", rows, note, not arguments.quick)


if __name__ == "__main__":
    main()
