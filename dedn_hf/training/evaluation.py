"""Runs a model over a task's test images and scores it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from tqdm.auto import tqdm

from dedn_hf.data.processor import keep_freed_memory
from dedn_hf.data.threads import settle_threads
from dedn_hf.data.transforms import already_batched
from dedn_hf.data.workers import outlive_signals
from dedn_hf.metrics.scores import gzsl_scores
from dedn_hf.publish.evaluation import Evaluation

if TYPE_CHECKING:
    from dedn_hf.data.tasks import Inputs
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

PRECISIONS = (0.9, 0.95)  # that are reported, where the model has a threshold for them


class Predictions(NamedTuple):
    """Of N images: logits, N x K; labels, N; lengths of their attribute scores, N."""

    logits: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray


class _Joined(ConcatDataset):
    """Several data sets of batches, one after the other; a batch keeps the order of its indices."""

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        wanted, start = torch.as_tensor(indices), 0
        parts, places = [], []
        for dataset, end in zip(self.datasets, self.cumulative_sizes, strict=True):
            inside = ((wanted >= start) & (wanted < end)).nonzero()[:, 0]
            if len(inside):
                parts.append(dataset.__getitems__((wanted[inside] - start).tolist()))
                places.append(inside)
            start = end
        # The last batch of several processes is filled up with the first images: its indices do not ascend.
        order = torch.cat(places).argsort()
        return {key: torch.cat([part[key] for part in parts])[order] for key in parts[0]}


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    data: Dataset,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    bar: bool = False,
) -> Predictions:
    """What the model says of every image, in order, whatever the number of processes.

    Args:
        model: prepared or not; it computes in the precision of `accelerator`. data: gives batches by `__getitems__`,
            with `labels`. bar: show how far it is.
    """
    keep_freed_memory()
    settle_threads()
    loader = loader_of(data, batch_size, num_workers)
    # Not accelerator.prepare: it would keep every loader, and write each into the checkpoints.
    loader = prepare_data_loader(loader, accelerator.device, put_on_device=True)
    was_training = model.training
    model.eval()
    gathered = []
    silent = not (bar and accelerator.is_main_process)
    for batch in tqdm(loader, desc="testing", unit=" batches", disable=silent):
        target = batch.pop("labels")
        with accelerator.autocast():  # a prepared model does it itself, but not the average of its weights
            output = model(**batch)
        lengths = output.attribute_scores.float().norm(dim=1)
        found = accelerator.gather_for_metrics((output.logits.float().contiguous(), target, lengths))
        gathered.append([part.cpu() for part in found])
    model.train(was_training)
    return Predictions(*(torch.cat(parts).numpy() for parts in zip(*gathered, strict=True)))


def loader_of(data: Dataset, batch_size: int = 64, num_workers: int = 0) -> DataLoader:
    """All images in order, in batches that `data` gives by `__getitems__`."""
    return DataLoader(
        data, batch_size, num_workers=num_workers, collate_fn=already_batched, worker_init_fn=outlive_signals
    )


def evaluate(
    model: torch.nn.Module, inputs: Inputs, seen: np.ndarray, accelerator: Accelerator | None = None, **options
) -> tuple[dict, Predictions]:
    """T1, U, S, H, AUSUC (each 0..1) and per-class accuracies on the splits 'seen' and 'unseen'.

    Args:
        inputs: `Task.cached(...)` or `Task.decoded(...)`. seen: K bool. options: as `predict`.

    Returns:
        The scores, and the predictions behind them.
    """
    data = _Joined([inputs("seen"), inputs("unseen")])
    found = predict(model, data, accelerator or Accelerator(), **options)
    return gzsl_scores(found.logits, found.labels, np.asarray(seen)), found


def evaluation_of(
    model: DEDNForZeroShot,
    table: AttributeTable,
    found: Predictions,
    files: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Evaluation:
    """The report on what a model said of photos. table: the K classes. files: names of the photos."""
    probabilities = model.probabilities(torch.from_numpy(found.logits)).numpy()
    none = model.config.none_of_these and model.config.shows_none(found.logits.max(axis=1), found.lengths)
    numbers = (found.logits, probabilities, found.labels, files, thresholds_of(model))
    return Evaluation(table, *numbers, notes=list(notes), shows_none=none)


def thresholds_of(model: DEDNForZeroShot) -> dict[float, float]:
    """Precision -> lowest confidence that promises it, of those in `PRECISIONS` that the model can promise."""
    found = {}
    for precision in PRECISIONS:
        with suppress(ValueError):
            found[precision] = model.config.probability_for(precision)
    return found
