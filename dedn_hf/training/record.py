"""What a run says of itself in run.json, besides its results: time, versions, hardware, data, model."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

import dedn_hf
from dedn_hf import __version__, modeling
from dedn_hf.data.cpu import cpu_name
from dedn_hf.data.features import weights_hash
from dedn_hf.modeling.attribute_table import ROLES, AttributeTable
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.training.settings import WITHOUT_EFFECT, TrainingSettings

if TYPE_CHECKING:
    from dedn_hf.data.tasks import Task


class Stopwatch:
    """When a run began, and the seconds that its parts took.

    Args:
        resumed: the run goes on from an interrupted one, so that the seconds are only those since then.
    """

    def __init__(self, resumed: bool) -> None:
        self.record: dict[str, Any] = {
            "started": datetime.now(timezone.utc).date().isoformat(),
            "resumed": resumed,
            "seconds": {},
        }
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Write down the time since the lap before."""
        now = time.perf_counter()
        self.record["seconds"][name] = round(now - self.since, 1)
        self.since = now


def surroundings(accelerator: Accelerator) -> dict:
    """Versions, the code's hash and revision, hardware."""
    packages = ("torch", "timm", "transformers", "accelerate", "datasets", "numpy")
    return {
        "versions": {"dedn_hf": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "revision": git_revision(),
        "code": code_hash(),
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


def code_hash() -> str:
    """The first 16 hexadecimal digits of a SHA-256 of this package's source, in a clone or installed."""
    digest = hashlib.sha256()
    for package in (dedn_hf, modeling):
        root = Path(str(package.__file__)).parent
        files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
        for name in sorted(name for name in files if package is modeling or not name.startswith("modeling/")):
            content = files[name].read_bytes()
            digest.update(f"{package.__name__}/{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def count_images(splits: datasets.DatasetDict) -> dict[str, int]:
    """Split -> number of images."""
    return {split: len(images) for split, images in splits.items()}


def data_fingerprint(splits: datasets.DatasetDict, table: AttributeTable) -> dict[str, str]:
    """Hashes that tell data apart wherever they lie: of each split's files, labels and image contents, and the table.

    Split, or 'table', -> the first 16 hexadecimal digits of a SHA-256. The order of the images counts, as for batches.
    """
    columns = ["image", "label", "file"]
    found = {}
    for name, split in splits.items():
        digest = hashlib.sha256()
        for row in split.select_columns(columns).cast_column("image", datasets.Image(decode=False)):
            image = row["image"]
            content = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
            digest.update(f"{row['file']}\0{row['label']}\0{len(content)}\0".encode())
            digest.update(content)
        found[name] = digest.hexdigest()[:16]
    return {**found, "table": table_hash(table)}


def checkpoint_identity(settings: TrainingSettings, model: DEDNForZeroShot, task: Task) -> dict[str, object]:
    """All that the result of a training depends on, 'model.margin' -> 3; a checkpoint of anything else is refused.

    Call it before the model is prepared: it takes the hash of the backbone's first weights.
    """
    data = {
        f"{split} split": json_hash([labels.tolist(), files_of(task, split)]) for split, labels in task.labels.items()
    }
    return {
        **{f"training.{key}": v for key, v in settings.to_dict().items() if key not in WITHOUT_EFFECT},
        **{f"model.{key}": value for key, value in model_options(model).items()},
        "model.backbone's first weights": backbone_hash(model),
        **{f"data: {key}": value for key, value in data.items()},
        "data: class table": table_hash(task.table),
        **{f"data: images of {key}": value for key, value in task.fingerprint.items() if key != "table"},
    }


def files_of(task: Task, split: str) -> list[str]:
    """The names of a split's images; none where it has feature maps only."""
    return list(task.images[split]["file"]) if split in task.images else []


def model_options(model: DEDNForZeroShot) -> dict[str, object]:
    """The model's configuration without what every transformers model has."""
    return {name: getattr(model.config, name) for name in type(model.config).__annotations__}


def json_hash(content: object) -> str:
    """The first 16 hexadecimal digits of a SHA-256 of the content as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def table_hash(table: AttributeTable) -> str:
    """Of all that an attribute table holds, 16 hexadecimal digits."""
    lists = [table.class_names, table.attribute_names, table.attribute_groups, table.roles]
    digest = hashlib.sha256(json.dumps(lists).encode())
    for numbers in (table.class_attributes, table.attribute_embeddings):
        if numbers is not None:
            digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()[:16]


def backbone_hash(model: DEDNForZeroShot) -> str | None:
    """SHA-256 of the backbone's weights, None without a backbone."""
    return None if model.backbone is None else weights_hash(model.backbone)


def describe_data(
    splits: datasets.DatasetDict,
    table: AttributeTable,
    describe: dict | None,
    fingerprint: dict[str, str],
) -> dict:
    """Name, builder, variant, classes, images and fingerprint of a data set, for run.json.

    The name that the data have themselves takes precedence over the one in the settings. The builder tells a benchmark
    from a folder of Parquet files with the same name.
    """
    info = splits["train"].info
    return {
        "name": info.dataset_name or ((describe or {}).get("data") or {}).get("name"),
        "builder": info.builder_name,
        "variant": info.config_name,
        "images": count_images(splits),
        "classes": {role: table.roles.count(role) for role in ROLES},
        "fingerprint": fingerprint,
        "unseen_classes": [name for name, seen in zip(table.class_names, table.seen, strict=True) if not seen],
    }


def describe_model(model: DEDNForZeroShot, folder: Path, accelerator: Accelerator) -> dict:
    """Configuration (but class and attribute names), attribute groups, numbers and hash of weights, for run.json.

    The hash is that of the model saved in `folder`, which need not be of the last epoch; every process calls this.
    """
    saved = [weights_hash(DEDNForZeroShot.from_pretrained(folder)) if accelerator.is_main_process else None]
    config, counts = model.config, Counter()
    for name, parameter in model.named_parameters():
        counts["backbone" if name.startswith("backbone.") else "experts"] += parameter.numel()
        counts["trained"] += parameter.numel() * parameter.requires_grad
    names = ("attribute_names", "attribute_groups", "traits")
    return {
        "config": {name: value for name, value in model_options(model).items() if name not in names},
        "attribute_groups": dict(Counter(config.attribute_groups)),
        "parameters": dict(counts),
        "weights": broadcast_object_list(saved)[0],
    }
