"""The training loop: cached features, a frozen backbone on images, or full fine-tuning, on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, send_to_device
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from dedn_hf.data.catalog import abbreviate
from dedn_hf.data.processor import keep_freed_memory, warn_of_emulation
from dedn_hf.data.sampling import Batches
from dedn_hf.data.threads import settle_threads
from dedn_hf.data.transforms import already_batched
from dedn_hf.data.workers import explained_worker_death, outlive_signals
from dedn_hf.metrics.scores import SCORES
from dedn_hf.training.checkpoint import Checkpoint, Progress, seed_epoch
from dedn_hf.training.distributed import configure_sharding, joint_loss, require_supported, synchronise_batch_norm
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.record import checkpoint_identity
from dedn_hf.training.settings import TrainingSettings
from dedn_hf.training.stopping import StopSignals

if TYPE_CHECKING:
    from dedn_hf.data.tasks import Inputs, Task
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.training.evaluation import Predictions


def fit(
    model: DEDNForZeroShot,
    task: Task,
    inputs: Inputs,
    settings: TrainingSettings,
    accelerator: Accelerator,
    folder: Path,
    on_evaluation: Callable[[torch.nn.Module, dict, Predictions], None] | None = None,
    rescore: Callable[[dict, np.ndarray, np.ndarray], dict] | None = None,
    bar: Callable[..., Iterable] = tqdm,
) -> Progress:
    """Train `model` in place, and evaluate it on the task's 'seen' and 'unseen' splits.

    Ctrl-C or SIGTERM ends it after the current step, with a checkpoint; a second one at once. What was prepared with
    `accelerator` before is released: a checkpoint holds one model.

    Args:
        folder: checkpoints go there; training goes on from the last one that is there.
        on_evaluation: called on every process with the evaluated model (as prepared: see `distributed.save_model`),
            the epoch's record, and logits and labels.
        rescore: takes scores, logits (N x K) and labels (N) of an evaluation and gives the scores to record and to
            choose the best epoch by.
        bar: shows the progress of an epoch, as `tqdm` does. With another one, no line an epoch is printed.

    Returns:
        The records of all epochs.

    Raises:
        ValueError: a damaged checkpoint, one of other settings, model options or data, settings that do not go with
            how processes share the model.
        FloatingPointError: the loss is not a finite number. ChildProcessError: a worker that loads images died.
        OSError: a checkpoint cannot be written. KeyboardInterrupt, SystemExit: after Ctrl-C, SIGTERM.
    """
    keep_freed_memory()
    settle_threads()
    if settings.mixed_precision == "bf16":
        warn_of_emulation(accelerator.device, "mixed_precision=no")
    accelerator.free_memory()
    require_supported(settings, accelerator)
    identity = checkpoint_identity(settings, model, task)
    training = replace(prepare(model, task, inputs, settings, accelerator), bar=bar)
    path = Path(folder) / f"checkpoint-{task.name}"
    checkpoint = Checkpoint(accelerator, path, settings, identity, training.extra_states())
    progress = checkpoint.resume()
    require_restored(training, progress)
    if skip_steps := getattr(bar, "skip_steps", None):  # tqdm has none: its bars are of one epoch
        skip_steps(len(progress.epochs) * len(training.batches))
    with StopSignals(accelerator, enabled=settings.checkpoint_every > 0) as stop, explained_worker_death():
        for epoch in range(len(progress.epochs) + 1, settings.epochs + 1):
            if not progress.step:  # otherwise the checkpoint has restored the random generators
                seed_epoch(settings, epoch)
            for _ in training.steps(epoch, progress):
                if stop.wanted():
                    checkpoint.save(progress)
                    stop.leave()
            record = {"epoch": epoch, "loss": training.mean_loss(progress)}
            if epoch % settings.evaluate_every == 0 or epoch == settings.epochs:
                scores, found = evaluate(
                    training.evaluated, inputs, task.table.seen, accelerator, num_workers=settings.num_workers
                )
                if rescore:
                    scores = rescore(scores, found.logits, found.labels)
                record.update(scores, best_so_far=(scores["H"] or 0.0) > progress.highest())
                if on_evaluation:
                    on_evaluation(training.evaluated, record, found)
            progress = Progress([*progress.epochs, record])
            report(accelerator, settings, task, record, bar is not tqdm)
            stopping = stop.wanted(at_once=True)
            if stopping or checkpoint.due(progress.epochs):
                checkpoint.save(progress)
            if stopping:
                stop.leave()
    if training.average:
        accelerator.unwrap_model(training.model).load_state_dict(training.average.module.state_dict())
    return progress


def require_restored(training: Training, progress: Progress) -> None:
    """Raise ValueError where torch and accelerate have lost what the optimizer knew, as torch 2.9 does with FSDP."""
    sharded = training.accelerator.distributed_type == DistributedType.FSDP
    if sharded and (progress.epochs or progress.step) and not training.optimizer.state:
        raise ValueError(
            f"torch {torch.__version__} has not restored the state of the optimizer with FSDP. Go on with a newer "
            "torch, or start again in another output folder."
        )


@dataclass
class Training:
    """What takes part in a training step. `model` and `optimizer` are prepared, `loader` is this process's."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: AveragedModel | None
    loader: DataLoader
    batches: Batches
    task: Task
    settings: TrainingSettings
    accelerator: Accelerator
    calibration_weight: float
    bar: Callable[..., Iterable] = tqdm

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model to evaluate: the average where there is one."""
        return self.average.module if self.average else self.model

    def extra_states(self) -> list:
        """What has a state that a checkpoint must hold, besides model and optimizer."""
        return [self.scheduler, *([self.average] if self.average else [])]

    def mean_loss(self, progress: Progress) -> float:
        """Of an epoch that is done, over the images of all processes."""
        mean = torch.tensor(progress.total / len(self.batches), device=self.accelerator.device)
        return self.accelerator.reduce(mean, "mean").item()

    def steps(self, epoch: int, progress: Progress) -> Iterator[None]:
        """Train for what is left of an epoch, updating `progress`; yields after every optimizer step."""
        accelerator, settings = self.accelerator, self.settings
        self.batches.set_epoch(epoch, skip=progress.step)
        self.model.train()
        for batch in self.progress_bar(epoch, progress.step):
            step = progress.step + 1
            # Not accelerator.accumulate: it would carry what an epoch leaves over into the next one.
            complete = step % settings.gradient_accumulation_steps == 0 or step == len(self.batches)
            accelerator.sync_gradients = complete
            with nullcontext() if complete else accelerator.no_sync(self.model):
                share = len(batch["labels"]) * accelerator.num_processes / self.batches.joint_size
                with accelerator.autocast():  # a prepared model does it itself, but not one that FSDP shards
                    output = self.model(**send_to_device(batch, accelerator.device))
                loss = joint_loss(output.loss, output.losses, self.calibration_weight, share, accelerator)
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(not_finite(value, epoch, step, self.images_of(step, batch)))
                accelerator.backward(loss)
                if complete and settings.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
            progress.step, progress.total = step, progress.total + value
            if complete:
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
                if self.average:
                    self.average.update_parameters(accelerator.unwrap_model(self.model))
                yield

    def progress_bar(self, epoch: int, done: int) -> Iterable[dict]:
        """The batches that are left of the epoch, behind a progress bar on one process."""
        title, silent = f"{self.task.name} {epoch}/{self.settings.epochs}", not self.accelerator.is_local_main_process
        return self.bar(self.loader, desc=title, total=len(self.batches), leave=False, disable=silent, initial=done)

    def images_of(self, step: int, batch: dict) -> str:
        """A sentence that names the images of this process's batch, or only those that are not finite."""
        indices = next(islice(iter(self.batches), step - 1 - self.batches.skip, None))
        images = self.task.images.get("train")
        names = [f"image {index}" for index in indices]
        if images is not None:
            names = images.select_columns(["file"])[list(indices)]["file"]
        values = batch["pixel_values"] if "pixel_values" in batch else batch["features"]
        finite = torch.isfinite(values.flatten(1)).all(dim=1).tolist()
        broken = [name for name, whole in zip(names, finite, strict=True) if not whole]
        if broken:
            return f"The input itself is not finite, in {abbreviate(broken)}: replace or remove that."
        return f"The batch: {abbreviate(names, 50)}."


def prepare(
    model: DEDNForZeroShot, task: Task, inputs: Inputs, settings: TrainingSettings, accelerator: Accelerator
) -> Training:
    """Everything that a training needs, from the settings."""
    accelerator.gradient_accumulation_steps = settings.gradient_accumulation_steps
    loader, batches = training_loader(inputs, task, settings, accelerator)
    optimizer = build_optimizer(model, settings)
    synchronise_batch_norm(model, accelerator)
    configure_sharding(settings, accelerator)
    scheduler = build_scheduler(optimizer, settings, len(batches))
    average = build_average(model, settings, accelerator.device)
    calibration_weight = model.config.calibration_weight
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(model, optimizer)
    return Training(
        model, optimizer, scheduler, average, loader, batches, task, settings, accelerator, calibration_weight
    )


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
    workers: dict[str, Any] = {"num_workers": settings.num_workers, "persistent_workers": settings.num_workers > 0}
    workers["worker_init_fn"] = outlive_signals
    # A generator of its own, so that the loader draws none of the numbers that dropout uses.
    generator = torch.Generator()
    loader = DataLoader(
        inputs("train"), batch_sampler=batches, collate_fn=already_batched, generator=generator, **workers
    )
    return loader, batches


def build_optimizer(model: DEDNForZeroShot, settings: TrainingSettings) -> torch.optim.Optimizer:
    """RMSprop as published, or AdamW; the backbone, where it is trained, has a learning rate of its own.

    Sets which parameters are trained. Raises ValueError for a frozen stage that the backbone does not have.
    """
    model.freeze_backbone(not settings.train_backbone)
    backbone = model.backbone if settings.train_backbone else None
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in model.named_parameters() if not n.startswith("backbone.")]}
    ]
    if backbone is not None:
        backbone.freeze_stages(settings.frozen_stages, settings.freeze_batch_norm)
        trained = [p for p in backbone.parameters() if p.requires_grad]
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


def not_finite(loss: float, epoch: int, step: int, images: str) -> str:
    """The message for a loss that is not a finite number."""
    return (
        f"The loss is {loss} at epoch {epoch}, step {step}. {images} Try a lower learning_rate, max_grad_norm=1, or "
        "mixed_precision='no'. The last checkpoint is from before."
    )


def report(
    accelerator: Accelerator, settings: TrainingSettings, task: Task, record: dict, quiet: bool = False
) -> None:
    """One line an epoch on the screen, unless `quiet`, and all numbers to the tracker."""
    numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
    if settings.tracker:
        values = {f"{task.name}/{key}": value for key, value in numbers.items() if key != "epoch"}
        accelerator.log(values, step=record["epoch"])
    scores = "  ".join(f"{key} {100 * numbers[key]:.1f}" for key in list(SCORES)[:-1] if key in numbers)
    if accelerator.is_local_main_process and not quiet:
        tqdm.write(f"{task.name} epoch {record['epoch']:3d}/{settings.epochs}  loss {record['loss']:.4f}  {scores}")
