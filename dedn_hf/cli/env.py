"""dedn env: what a report of a fault should say about the machine and what is installed on it."""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import Any

COLUMN = 18  # characters of a name
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
MOVED = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HTTPS_PROXY")  # their values may name persons, hosts or passwords


def add_env(commands: argparse._SubParsersAction) -> None:
    """dedn env: what a report of a fault should say about the machine and what is installed on it."""
    parser = commands.add_parser(
        "env",
        help="print versions, processor, accelerators and what is not installed, for a report of a fault",
        description="Prints what a report of a fault needs: versions of Python and the libraries, the processor and "
        "what it can compute, threads, accelerators, extras that are not installed, and whether downloads are "
        "switched off. No paths, names of hosts or tokens are in it, so that it can be pasted into an issue.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run_env)


def run_env(json: bool) -> None:
    """Print it."""
    found = environment()
    print(as_json(found) if json else as_text(found))


def environment() -> dict[str, Any]:
    """What is known of the machine and of what is installed on it; None where a thing cannot be found out."""
    from dedn_hf import __version__
    from dedn_hf.data.cpu import available_cores, cpu_instructions, cpu_name
    from dedn_hf.publish.extras import USES, missing_of, requirements_of

    return {
        "dedn_hf": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "processor": cpu_name(),
        "instructions": cpu_instructions(),
        "cores": {"all": os.cpu_count(), "for this process": available_cores()},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        **torch_and_accelerators(),
        "libraries": {each.name: version_of(each.name) for each in requirements_of()},
        "missing extras": {extra: missing for extra in USES if (missing := missing_of(extra))},
        "offline": {name: os.environ.get(name) for name in OFFLINE},
        "set": [name for name in MOVED if name in os.environ],
    }


def version_of(library: str) -> str | None:
    """None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(library)
    except PackageNotFoundError:
        return None


def torch_and_accelerators() -> dict[str, Any]:
    """The threads of torch, what it was built for, and the accelerators that it sees; or why it does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of the system is missing, or is of another version
        return {"torch": f"does not load ({type(error).__name__})", "threads": None, "accelerators": []}
    cuda = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    found = [f"{each.name}, {each.total_memory / 2**30:.0f} GiB" for each in cuda]
    found += ["Apple MPS"] * torch.backends.mps.is_available()
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    built = built if torch.version.cuda or torch.version.hip else "CPU"
    return {"torch": f"built for {built}", "threads": torch.get_num_threads(), "accelerators": found}


def as_json(found: dict[str, Any]) -> str:
    """One object."""
    return json.dumps(found, indent=2)


def as_text(found: dict[str, Any]) -> str:
    """One line a thing."""
    from dedn_hf.publish.extras import USES, how_to_install

    instructions = found["instructions"]
    kinds = "unknown on this system" if instructions is None else ", ".join(map(with_yes_or_no, instructions.items()))
    limited = f"{found['cores']['all']}, of which this process may use {found['cores']['for this process']}"
    lines = {
        "dedn_hf": found["dedn_hf"],
        "Python": found["python"],
        "System": found["system"],
        "Processor": found["processor"] or "unknown",
        "Instructions": kinds,
        "Cores": limited,
        "Threads": f"torch {found['threads']}, OMP_NUM_THREADS {found['OMP_NUM_THREADS'] or 'not set'}",
        "torch": found["torch"],
        "Accelerators": "; ".join(found["accelerators"]) or "none",
        "Offline": ", ".join(f"{name}={value}" for name, value in found["offline"].items() if value) or "no",
        "Also set": ", ".join(found["set"]) or "nothing",
    }
    libraries = [f"  {name:{COLUMN}}{version or 'NOT INSTALLED'}" for name, version in found["libraries"].items()]
    extras = [
        f"  {extra:{COLUMN}}for {USES[extra]}: {how_to_install(missing)}"
        for extra, missing in found["missing extras"].items()
    ]
    return "\n".join(
        [
            *(f"{name:{COLUMN + 2}}{text}" for name, text in lines.items()),
            *("Libraries", *(libraries or ["  unknown: the package was not installed by pip"])),
            *("Extras that are not installed", *(extras or ["  none"])),
        ]
    )


def with_yes_or_no(item: tuple[str, bool]) -> str:
    """'AVX2 yes'."""
    return f"{item[0]} {'yes' if item[1] else 'no'}"
