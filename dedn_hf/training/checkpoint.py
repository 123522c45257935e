"""Checkpoints of a training run: whole or not there, checked before they are used, with the one before in reserve."""

from __future__ import annotations

import json
import logging
import random
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from accelerate.utils import load as load_tensors
from safetensors import SafetensorError

from dedn_hf.data.base import abbreviate
from dedn_hf.data.features import short_json
from dedn_hf.modeling.writing import sync
from dedn_hf.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

STATE_FILE, EXTRA_FILE = "state.json", "extra.pt"
SHARDING = {None: "without sharding", "FSDP": "with FSDP", "DEEPSPEED": "with DeepSpeed"}


@dataclass
class Progress:
    """How far a training has come.

    Args:
        epochs: the records of those that are finished.
        step: batches of the epoch after them that are done. total: sum of their losses on this process.
    """

    epochs: list[dict] = field(default_factory=list)
    step: int = 0
    total: float = 0.0


class Checkpoint:
    """The newest state of a training run in `folder`, and the one before: weights, optimizer, schedule, progress.

    Each is written to a temporary name and renamed, and holds the checksums of its files.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        settings: TrainingSettings,
        task: str,
        others: list,
        identity: dict,
    ) -> None:
        self.accelerator, self.epochs, self.every = accelerator, settings.epochs, settings.checkpoint_every
        self.path = Path(folder) / f"checkpoint-{task}"
        self.old = self.path.with_name(self.path.name + ".old")
        self.identity = json.loads(json.dumps(identity))  # as it comes back from a file
        self.others = others

    def resume(self) -> Progress:
        """Load the newest checkpoint that is whole, if there is one.

        Raises:
            ValueError: all that are there are damaged, or the checkpoint belongs to another experiment.
        """
        found = [self._newest() if self.accelerator.is_main_process else None]
        exists, problem = broadcast_object_list(found)[0]
        if problem:
            raise ValueError(problem)
        if not exists:
            return Progress()
        state = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
        self._require_same_experiment(state.get("identity", {}))
        self._require_same_sharding(state)
        self.accelerator.load_state(str(self.path))
        extra = torch.load(self.path / EXTRA_FILE, weights_only=True, map_location="cpu")
        for other, values in zip(self.others, extra, strict=True):
            other.load_state_dict(values)
        totals, rank = state.get("totals", [0.0]), self.accelerator.process_index
        same_processes = len(totals) == self.accelerator.num_processes
        total = totals[rank] if same_processes else sum(totals) / len(totals)
        return Progress(state["epochs"], state.get("step", 0), total)

    def _newest(self) -> tuple[bool, str]:
        """Whether there is a checkpoint, then at `self.path`; and what is wrong if all that are there are damaged."""
        there = [path for path in (self.path, self.old) if (path / STATE_FILE).exists()]
        problems = []
        for path in there:
            problem = damage(path)
            if problem is None:
                if problems:
                    logger.warning("%s The checkpoint before it is used.", problems[0])
                if path == self.old:
                    shutil.rmtree(self.path, ignore_errors=True)
                    self.old.rename(self.path)
                return True, ""
            problems.append(problem)
        if problems:
            delete = " and ".join(map(str, there))
            problems.append(f"Delete {delete}: the training then starts again from the beginning.")
        return False, " ".join(problems)

    def _require_same_experiment(self, saved: dict) -> None:
        different = [key for key in {**self.identity, **saved} if saved.get(key) != self.identity.get(key)]
        if different:
            details = [f"{k} is {short_json(saved.get(k))}, not {short_json(self.identity.get(k))}" for k in different]
            raise ValueError(
                f"{self.path} belongs to another experiment: {abbreviate(details, separator='; ')}. Use the same "
                "settings, model and data, or another output folder."
            )

    def _sharding(self) -> str | None:
        """What keeps the model in shares, or None."""
        kind = self.accelerator.distributed_type
        return kind.value if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED) else None

    def _require_same_sharding(self, state: dict) -> None:
        now, processes = self._sharding(), self.accelerator.num_processes
        before, processes_before = state.get("sharding", now), len(state.get("totals", [0.0]))
        if before != now:
            raise ValueError(
                f"{self.path} is a checkpoint {SHARDING[before]}, and this is a training {SHARDING[now]}. Start it as "
                "at first, with the same file for accelerate launch, or give another output folder."
            )
        if now == "DEEPSPEED" and processes_before != processes:
            raise ValueError(
                f"{self.path} is a checkpoint of {processes_before} processes with DeepSpeed, which cannot go on with "
                f"{processes}. Start {processes_before}, or give another output folder."
            )

    def restore_random_state(self) -> None:
        """Let all generators go on as they would have when the checkpoint was written."""
        path = self.path / f"random_states_{self.accelerator.process_index}.pkl"
        if not path.exists():  # there were fewer processes
            return
        states = load_tensors(path)
        random.setstate(states["random_state"])
        np.random.set_state(states["numpy_random_seed"])
        torch.set_rng_state(states["torch_manual_seed"])
        of_gpus = states.get("torch_cuda_manual_seed", [])  # there may have been more of them, or fewer
        for device, state in zip(range(torch.cuda.device_count()), of_gpus, strict=False):
            torch.cuda.set_rng_state(state, device)

    def due(self, epochs: list[dict]) -> bool:
        """Whether a checkpoint is to be written after these epochs."""
        return bool(self.every) and (len(epochs) % self.every == 0 or len(epochs) == self.epochs)

    def save(self, progress: Progress) -> None:
        """Write the checkpoint; every process calls it. Raises OSError when it cannot; the one before then stays."""
        partial, main = self.path.with_name(self.path.name + ".partial"), self.accelerator.is_main_process
        totals = gather_object([progress.total])
        self.accelerator.wait_for_everyone()
        try:
            if main:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(self.old, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(partial))
            if main:
                torch.save([other.state_dict() for other in self.others], partial / EXTRA_FILE)
            self.accelerator.wait_for_everyone()
            if main:
                state = {"identity": self.identity, "epochs": progress.epochs, "step": progress.step, "totals": totals}
                state["sharding"] = self._sharding()
                finish(partial, state)
                if self.path.exists():
                    self.path.rename(self.old)
                partial.rename(self.path)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"The checkpoint {self.path} could not be written: {error} Make room there, or see that it can be "
                "written to. The checkpoint before stays, and the same command goes on from it."
            ) from error
        self.accelerator.wait_for_everyone()


def finish(folder: Path, state: dict) -> None:
    """Write `state` and the checksums of all files into the folder, and wait until all is on the disk."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    state["files"] = {name: [path.stat().st_size, checksum(path)] for name, path in sorted(files.items())}
    (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    try:
        files = json.loads((folder / STATE_FILE).read_text(encoding="utf-8")).get("files", {})
    except ValueError as error:
        return f"{folder / STATE_FILE} is damaged ({error})."
    for name, (size, expected) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing."
        if path.stat().st_size != size:
            return f"{path} is damaged: it has {path.stat().st_size} bytes in place of {size}."
        if checksum(path) != expected:
            return f"{path} is damaged: its checksum is another."
    return None


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return value
