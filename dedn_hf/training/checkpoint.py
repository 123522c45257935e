"""Checkpoints of a training run: whole or not there, checked before they are used, with the one before in reserve.

Accelerate saves and loads the state. Its own keeping of checkpoints (`register_for_checkpointing`, `total_limit`) is
not used: it reads registered objects as pickles, cannot let go of those of an earlier training, and makes room by
deleting the last whole checkpoint before the next one is written.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object, set_seed
from safetensors import SafetensorError

from dedn_hf.data.catalog import abbreviate
from dedn_hf.data.features import short_json
from dedn_hf.modeling.saving import sync
from dedn_hf.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

STATE_FILE, EXTRA_FILE = "state.json", "extra.pt"
SHARDING = {None: "without sharding", "FSDP": "with FSDP", "DEEPSPEED": "with DeepSpeed"}


@dataclass
class Progress:
    """How far a training has come, and what happened on the way.

    Args:
        epochs: a record of each finished epoch: 'epoch' (1, 2, ...), 'loss' and, where evaluated, the scores.
        step: batches done of the epoch after them. total: sum of their losses on this process.
    """

    epochs: list[dict] = field(default_factory=list)
    step: int = 0
    total: float = 0.0

    def highest(self) -> float:
        """The highest H so far, -1 before the first one."""
        return max((epoch["H"] for epoch in self._with_h()), default=-1.0)

    def best(self) -> dict:
        """The evaluated epoch with the highest H (the earliest of equals)."""
        return max(self._with_h(), key=lambda epoch: epoch["H"])

    def _with_h(self) -> list[dict]:
        """The evaluated epochs, where there are images of seen and of unseen classes to test on."""
        return [epoch for epoch in self.epochs if epoch.get("H") is not None]


def seed_epoch(settings: TrainingSettings, epoch: int) -> None:
    """Seed all generators by the epoch, so that a resumed run draws what an uninterrupted one draws."""
    set_seed(settings.seed * 10_000 + epoch, device_specific=True)


class Checkpoint:
    """The newest state of a training, and the one before: weights, optimizer, schedule, random numbers, progress.

    Each is written to a temporary name and renamed, and holds the checksums of its files.

    Args:
        path: the newest one; the one before is beside it, with '.old' in its name.
        identity: what the training depends on, see `record.checkpoint_identity`. A checkpoint of another is refused.
        extra: what has a state besides the prepared model and optimizer.
    """

    def __init__(
        self, accelerator: Accelerator, path: Path, settings: TrainingSettings, identity: Mapping, extra: list
    ) -> None:
        self.accelerator, self.path, self.settings, self.extra = accelerator, path, settings, extra
        self.old, self.partial = (path.with_name(path.name + ending) for ending in (".old", ".partial"))
        self.identity = json.loads(json.dumps(identity))  # as it comes back from a file

    def resume(self) -> Progress:
        """Load the newest checkpoint that is whole, if there is one, and the state of all random generators.

        Raises:
            ValueError: all that are there are damaged, or the checkpoint belongs to another experiment.
        """
        exists, problem = broadcast_object_list([self._find() if self.accelerator.is_main_process else None])[0]
        if problem:
            raise ValueError(problem)
        if not exists:
            return Progress()
        state = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
        self._require_same_experiment(state.get("identity", {}))
        self._require_same_sharding(state)
        seed_epoch(self.settings, len(state["epochs"]) + 1)  # for a process that was not there and finds no state
        self.accelerator.load_state(str(self.path))
        values = torch.load(self.path / EXTRA_FILE, weights_only=True, map_location="cpu")
        for part, value in zip(self.extra, values, strict=True):
            part.load_state_dict(value)
        totals, rank = state["totals"], self.accelerator.process_index
        same_processes = len(totals) == self.accelerator.num_processes
        return Progress(state["epochs"], state["step"], totals[rank] if same_processes else sum(totals) / len(totals))

    def _find(self) -> tuple[bool, str]:
        """Whether there is a whole checkpoint, then at `self.path`; and the problem where all are damaged."""
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
        before, processes_before = state["sharding"], len(state["totals"])
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

    def due(self, epochs: list[dict]) -> bool:
        """Whether a checkpoint is to be written after these epochs."""
        every, count = self.settings.checkpoint_every, len(epochs)
        return bool(every) and (count % every == 0 or count == self.settings.epochs)

    def save(self, progress: Progress) -> None:
        """Write the checkpoint; every process calls it. Raises OSError when it cannot; the one before then stays."""
        main = self.accelerator.is_main_process
        state = {"identity": self.identity, "epochs": progress.epochs, "step": progress.step}
        state.update(totals=gather_object([progress.total]), sharding=self._sharding())
        self.accelerator.wait_for_everyone()
        try:
            if main:
                shutil.rmtree(self.partial, ignore_errors=True)
                shutil.rmtree(self.old, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(self.partial))
            self.accelerator.wait_for_everyone()
            if main:
                torch.save([part.state_dict() for part in self.extra], self.partial / EXTRA_FILE)
                finish(self.partial, state)
                if self.path.exists():
                    self.path.rename(self.old)
                self.partial.rename(self.path)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise OSError(
                f"The checkpoint {self.path} could not be written: {error} Make room there, or check that it can be "
                "written to. The checkpoint before stays, and the same command goes on from it."
            ) from error
        self.accelerator.wait_for_everyone()


def finish(folder: Path, state: dict) -> None:
    """Write `state` and the checksums of all files into the folder, and wait until all is on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state["files"] = {path.relative_to(folder).as_posix(): checksum(path) for path in files}
    (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    try:
        files = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["files"]
    except ValueError as error:
        return f"{folder / STATE_FILE} is damaged ({error})."
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing."
        if checksum(path) != expected:
            return f"{path} is damaged: its checksum is not the recorded one."
    return None


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return value
