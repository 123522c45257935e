"""The training loop: cached features, a frozen backbone on images, or full fine-tuning, on any number of processes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from dedn_hf.evaluation import evaluate
from dedn_hf.sampling import Batches
from dedn_hf.settings import TrainingSettings
from dedn_hf.transforms import as_it_is

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.tasks import Inputs, Task

STATE_FILE = "state.json"


@dataclass
class History:
    """What happened in each epoch: 'epoch' (1, 2, ...), 'loss' and, where evaluated, the scores of `evaluate`."""

    epochs: list[dict] = field(default_factory=list)

    def highest(self) -> float:
        """The highest H so far, -1 before the first evaluation."""
        return max((epoch["H"] for epoch in self.epochs if "H" in epoch), default=-1.0)

    def best(self) -> dict:
        """The evaluated epoch with the highest H (the earliest of equals)."""
        return max((epoch for epoch in self.epochs if "H" in epoch), key=lambda epoch: epoch["H"])


def fit(
    model: DEDNForZeroShot,
    task: Task,
    inputs: Inputs,
    settings: TrainingSettings,
    accelerator: Accelerator,
    folder: Path,
    on_evaluation: Callable[[torch.nn.Module, dict, tuple], None] | None = None,
) -> History:
    """Train `model` in place, and evaluate it on the task's 'seen' and 'unseen' splits.

    Args:
        folder: checkpoints go there; training goes on from the last one that is there.
        on_evaluation: called with the evaluated model, the epoch's record, and logits and labels.

    Raises:
        ValueError: a checkpoint of other settings. FloatingPointError: the loss is no finite number.
    """
    accelerator.gradient_accumulation_steps = settings.gradient_accumulation_steps
    loader, batches = training_loader(inputs, task, settings, accelerator)
    optimizer = build_optimizer(model, settings)
    scheduler = build_scheduler(optimizer, settings, len(batches))
    average = build_average(model, settings, accelerator.device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(model, optimizer)
    checkpoint = Checkpoint(accelerator, folder, settings, task.name, [scheduler, *([average] if average else [])])
    history = History(checkpoint.resume())
    for epoch in range(len(history.epochs) + 1, settings.epochs + 1):
        # Seeding by epoch makes a resumed run draw what an uninterrupted one draws.
        set_seed(settings.seed * 10_000 + epoch, device_specific=True)
        batches.set_epoch(epoch)
        model.train()
        total = 0.0
        for step, batch in enumerate(progress_bar(loader, task, epoch, settings, accelerator), start=1):
            # Not accelerator.accumulate: it would carry what an epoch leaves over into the next one.
            complete = step % settings.gradient_accumulation_steps == 0 or step == len(batches)
            accelerator.sync_gradients = complete
            with nullcontext() if complete else accelerator.no_sync(model):
                share = len(batch["labels"]) * accelerator.num_processes / batches.joint_size
                loss = model(**send_to_device(batch, accelerator.device)).loss
                total += require_finite(loss, epoch, step) * share
                accelerator.backward(loss * share)
                if complete and settings.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            if complete:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                if average:
                    average.update_parameters(accelerator.unwrap_model(model))
        mean_loss = accelerator.reduce(torch.tensor(total / len(batches), device=accelerator.device), "mean")
        record = {"epoch": epoch, "loss": mean_loss.item()}
        if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
            evaluated = average.module if average else model
            scores, *predictions = evaluate(evaluated, inputs, task.table.seen, accelerator)
            record.update(scores, best_so_far=scores["H"] > history.highest())
            if on_evaluation:
                on_evaluation(accelerator.unwrap_model(evaluated), record, predictions)
        history.epochs.append(record)
        report(accelerator, settings, task, record)
        checkpoint.save(history.epochs)
    if average:
        accelerator.unwrap_model(model).load_state_dict(average.module.state_dict())
    return history


def training_loader(inputs: Inputs, task: Task, settings: TrainingSettings, accelerator: Accelerator):
    """The loader of this process's share of every joint batch, and the `Batches` behind it."""
    batches = Batches(
        task.labels["train"],
        settings.batch_size,
        settings.sampling,
        settings.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    workers = {"num_workers": settings.num_workers, "persistent_workers": settings.num_workers > 0}
    return DataLoader(inputs("train"), batch_sampler=batches, collate_fn=as_it_is, **workers), batches


def build_optimizer(model: DEDNForZeroShot, settings: TrainingSettings) -> torch.optim.Optimizer:
    """RMSprop as published, or AdamW; the backbone, where it is trained, has a learning rate of its own.

    Sets which parameters are trained. Raises ValueError for a frozen stage that the backbone does not have.
    """
    model.freeze_backbone(not settings.train_backbone)
    groups = [{"params": [p for n, p in model.named_parameters() if not n.startswith("backbone.")]}]
    if settings.train_backbone:
        model.backbone.freeze_stages(settings.frozen_stages, settings.freeze_batch_norm)
        trained = [p for p in model.backbone.parameters() if p.requires_grad]
        groups.append({"params": trained, "lr": settings.backbone_learning_rate})
    shared = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=settings.momentum, **shared)
    return torch.optim.AdamW(groups, **shared)


def build_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, batches: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate's course over all optimizer steps of `settings.epochs` epochs of `batches` batches."""
    steps = settings.epochs * math.ceil(batches / settings.gradient_accumulation_steps)
    schedule = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(schedule, optimizer, round(settings.warmup * steps), steps)


def build_average(
    model: DEDNForZeroShot, settings: TrainingSettings, device: torch.device | str = "cpu"
) -> AveragedModel | None:
    """The exponential moving average of the weights, or None."""
    if settings.ema_decay is None:
        return None
    return AveragedModel(model, device, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=False)


def require_finite(loss: torch.Tensor, epoch: int, step: int) -> float:
    """The loss as a number. Raises FloatingPointError when it is none, before a checkpoint is written."""
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The loss is {value} at epoch {epoch}, step {step}. Try a lower learning_rate, max_grad_norm=1, or "
            "mixed_precision='no'. The last checkpoint is from before."
        )
    return value


def progress_bar(loader: DataLoader, task: Task, epoch: int, settings: TrainingSettings, accelerator: Accelerator):
    """The loader behind a progress bar, on one process."""
    title = f"{task.name} {epoch}/{settings.epochs}"
    return tqdm(loader, desc=title, leave=False, disable=not accelerator.is_local_main_process)


def report(accelerator: Accelerator, settings: TrainingSettings, task: Task, record: dict) -> None:
    """One line a epoch on the screen, all numbers to the tracker."""
    numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
    if settings.tracker:
        values = {f"{task.name}/{key}": value for key, value in numbers.items() if key != "epoch"}
        accelerator.log(values, step=record["epoch"])
    scores = "  ".join(f"{key} {100 * numbers[key]:.1f}" for key in ("T1", "U", "S", "H") if key in numbers)
    if accelerator.is_local_main_process:
        tqdm.write(f"{task.name} epoch {record['epoch']:3d}/{settings.epochs}  loss {record['loss']:.4f}  {scores}")


class Checkpoint:
    """The newest state of a training run in `folder`: weights, optimizer, schedule, history.

    Written to a temporary name and renamed, so that an interruption leaves the one before.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, settings: TrainingSettings, task: str, others: list):
        self.accelerator, self.every = accelerator, settings.checkpoint_every
        self.path = Path(folder) / f"checkpoint-{task}"
        self.old = self.path.with_name(self.path.name + ".old")
        self.settings = settings.to_dict()
        self.others = others

    def resume(self) -> list[dict]:
        """Load the checkpoint, if there is one; the records of the epochs that it has behind it."""
        if self.accelerator.is_main_process and self.old.exists() and not self.path.exists():
            self.old.rename(self.path)  # interrupted between the two renames of `save`
        self.accelerator.wait_for_everyone()
        if not (self.path / STATE_FILE).exists():
            return []
        state = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
        ignored = {"num_workers", "checkpoint_every", "tracker"}
        different = [k for k, v in self.settings.items() if k not in ignored and state["settings"].get(k) != v]
        if different:
            details = "; ".join(f"{k} is {state['settings'].get(k)!r}, not {self.settings[k]!r}" for k in different)
            raise ValueError(
                f"{self.path} is a checkpoint of other settings: {details}. Use those, or another output folder."
            )
        self.accelerator.load_state(str(self.path))
        extra = torch.load(self.path / "extra.pt", weights_only=True, map_location="cpu")
        for other, values in zip(self.others, extra, strict=True):
            other.load_state_dict(values)
        return state["epochs"]

    def save(self, epochs: list[dict]) -> None:
        """Write the checkpoint, if one is due after this epoch."""
        if not self.every or (len(epochs) % self.every and len(epochs) != self.settings["epochs"]):
            return
        temporary = self.path.with_name(self.path.name + ".partial")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        if self.accelerator.is_main_process:
            torch.save([other.state_dict() for other in self.others], temporary / "extra.pt")
            state = {"settings": self.settings, "epochs": epochs}
            (temporary / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
            shutil.rmtree(self.old, ignore_errors=True)
            if self.path.exists():
                self.path.rename(self.old)
            temporary.rename(self.path)
            shutil.rmtree(self.old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
