"""What a run says of itself in run.json, besides its results: time, versions, hardware, data, model."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import torch
from accelerate import Accelerator

from dedn_hf import __version__
from dedn_hf.modeling.attribute_table import ROLES, AttributeTable

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot


class Stopwatch:
    """When a run began, and the seconds that its parts took.

    Args:
        resumed: the run goes on from an interrupted one, so that the seconds are only those since then.
    """

    def __init__(self, resumed: bool) -> None:
        self.record = {"started": datetime.now(timezone.utc).date().isoformat(), "resumed": resumed, "seconds": {}}
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Write down the time since the lap before."""
        now = time.perf_counter()
        self.record["seconds"][name] = round(now - self.since, 1)
        self.since = now


def surroundings(accelerator: Accelerator) -> dict:
    """Versions, revision of the code and hardware."""
    packages = ("torch", "timm", "transformers", "accelerate", "datasets", "numpy")
    return {
        "versions": {"dedn_hf": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "revision": git_revision(),
        "hardware": {
            "machine": platform.machine(),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "device": accelerator.device.type,
            "processes": accelerator.num_processes,
        },
    }


def cpu_name() -> str | None:
    """What the processor calls itself, or None where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def git_revision() -> str | None:
    """The commit that this package runs from, '+changes' after it where its files differ; None outside its clone."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed, it may lie in somebody else's clone
        return git("rev-parse", "HEAD") + "+changes" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None


def count_images(splits: datasets.DatasetDict) -> dict[str, int]:
    """Split -> number of images."""
    return {split: len(images) for split, images in splits.items()}


def describe_data(splits: datasets.DatasetDict, table: AttributeTable, describe: dict | None) -> dict:
    """Name, builder, variant, classes and images of a data set, for run.json.

    What the data call themselves goes before what the settings call them. The builder tells a benchmark from a folder
    of Parquet files that somebody has given its name.
    """
    info = splits["train"].info
    return {
        "name": info.dataset_name or ((describe or {}).get("data") or {}).get("name"),
        "builder": info.builder_name,
        "variant": info.config_name,
        "images": count_images(splits),
        "classes": {role: table.roles.count(role) for role in ROLES},
        "unseen_classes": [name for name, seen in zip(table.class_names, table.seen, strict=True) if not seen],
    }


def describe_model(model: DEDNForZeroShot) -> dict:
    """Configuration (but class and attribute names), attribute groups and numbers of weights, for run.json."""
    config, counts = model.config, Counter()
    for name, parameter in model.named_parameters():
        counts["backbone" if name.startswith("backbone.") else "experts"] += parameter.numel()
        counts["trained"] += parameter.numel() * parameter.requires_grad
    names = ("attribute_names", "attribute_groups")
    return {
        "config": {name: getattr(config, name) for name in type(config).__annotations__ if name not in names},
        "attribute_groups": dict(Counter(config.attribute_groups)),
        "parameters": dict(counts),
    }
