"""What the processor calls itself and what it can compute, told without importing torch."""

from __future__ import annotations

import platform
from pathlib import Path

# What decides on speed -> the words for it in /proc/cpuinfo, of which one is enough.
INSTRUCTIONS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "AMX": {"amx_tile"},
}


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
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return None
