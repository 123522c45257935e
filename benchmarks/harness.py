"""Shared by all benchmarks: measurements that take turns, and a record of machine and versions.

The benchmarks compare two things on one machine. Absolute times of a shared machine mean little.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "datasets", "numpy", "pillow")


def alternate(contestants: dict[str, Callable[[], object]], repeats: int = 5, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each contestant. They take turns, so that a busy moment of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def in_own_process(script: str | Path, *arguments: str) -> dict:
    """Run a script in a process of its own and return its last line of output, read as JSON."""
    command = [sys.executable, str(script), *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def forget_peak_memory() -> None:
    """Start the measurement of `peak_memory` anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def resident_memory() -> int:
    """Current resident memory of this process, in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def environment() -> dict:
    """Machine and versions of a measurement."""
    import torch

    from dedn_hf.data.cpu import cpu_name

    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """Name of the processor, what torch uses of it, and the GPU where there is one."""
    import torch

    found = environment()
    what = f"{found['cpu'] or found['machine']}, {torch.backends.cpu.get_cpu_capability()}, {found['threads']} threads"
    return f"{what}, {found['gpu']}" if found["gpu"] else what


def report(name: str, rows: list[dict], note: str = "", write: bool = True) -> None:
    """Print the rows as a table under the processor, and write them to results/NAME.json with the environment."""
    columns = list(rows[0])
    cells = [columns, *[[_shown(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{name}" + (f": {note}" if note else "") + f"\non {processor()}")
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if not write:
        return
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": name, "note": note, "environment": environment(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
