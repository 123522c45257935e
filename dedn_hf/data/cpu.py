"""What the processor calls itself and what it can compute, told without importing torch."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

# What decides on speed -> the words for it in /proc/cpuinfo, of which one is enough.
INSTRUCTIONS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "AMX": {"amx_tile"},
}
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores that this process may use at once, 1 or more: those it is bound to, but no more than its container has."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Processor time for each second, in cores, of every control group around this process that has a limit."""
    for line in (_text(OWN_CGROUPS) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, names = CGROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        own = root / path.strip("/")  # within a container it may not be there; its root has the limit then
        for folder in {own, *own.parents}:
            if folder.is_relative_to(root):
                numbers = " ".join(_text(folder / name) or "" for name in names).split()
                if len(numbers) == 2 and all(number.isdecimal() and int(number) for number in numbers):
                    yield int(numbers[0]) / int(numbers[1])


def cpu_name() -> str | None:
    """What the processor calls itself, or None where it does not say."""
    lines = (_cpuinfo() or "").splitlines()
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or None


def cpu_instructions() -> dict[str, bool] | None:
    """Kind of instructions -> whether the processor has it; None where the system is not Linux."""
    words = set((_cpuinfo() or "").split())
    return {kind: bool(words & names) for kind, names in INSTRUCTIONS.items()} if words else None


def _cpuinfo() -> str | None:
    return _text(Path("/proc/cpuinfo"))


def _text(path: Path) -> str | None:
    """The content of a file of the system; None where there is none, as on other systems than Linux."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
