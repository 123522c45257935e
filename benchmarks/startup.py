"""Start-up: `import dedn_hf` against `import torch`, and `from_pretrained` against loading by hand.

python benchmarks/startup.py    results/startup.json
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import alternate, report
from benchmarks.step import example_table
from dedn_hf import DEDNForZeroShot

IMPORTS = ("import dedn_hf", "import transformers", "import torch", "pass")


def import_seconds(statement: str) -> float:
    """Seconds (wall time) of a new interpreter that only runs `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def by_hand(folder: Path, model: DEDNForZeroShot):
    """A function that loads without `from_pretrained`: build the network, fill in the weights."""
    import copy

    from safetensors.torch import load_file

    def load() -> None:
        config = copy.deepcopy(model.config)
        rebuilt = DEDNForZeroShot(config)
        rebuilt.load_state_dict(load_file(folder / "model.safetensors"))

    return load


def main() -> None:
    """Measure imports in processes of their own, and loading in this one."""
    turns = [{statement: import_seconds(statement) for statement in IMPORTS} for _ in range(5)]
    median = {statement: statistics.median(turn[statement] for turn in turns) for statement in IMPORTS}
    rows = [
        {"what": statement, "s": median[statement] - median["pass"], "against": "import torch"}
        for statement in IMPORTS[:-1]
    ]
    for row in rows:
        row["ratio"] = row["s"] / (median["import torch"] - median["pass"])
    model = DEDNForZeroShot.from_timm("resnet50", example_table(), pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with torch.no_grad():
            contestants = {
                "from_pretrained": lambda: DEDNForZeroShot.from_pretrained(folder),
                "by hand": by_hand(Path(folder), model),
            }
            seconds = alternate(contestants)
    rows.append(
        {
            "what": "from_pretrained",
            "s": seconds["from_pretrained"],
            "against": "built and filled by hand",
            "ratio": seconds["from_pretrained"] / seconds["by hand"],
        }
    )
    report("startup", rows, "seconds beyond an empty interpreter; ResNet-50, 200 classes")


if __name__ == "__main__":
    main()
