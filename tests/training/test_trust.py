"""What is promised on held-out classes comes true on others: DEDN, trained for some seconds on drawn creatures.

It is told where tail, legs, body and head are: the feature map has one region for each.
"""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.catalog import class_folds
from dedn_hf.data.shapes import render, shapes_table
from dedn_hf.data.tasks import Task
from dedn_hf.studies.visibility import area_under_roc
from dedn_hf.training.evaluation import evaluate, evaluation_of
from dedn_hf.training.loop import fit
from dedn_hf.training.selection import select
from dedn_hf.training.settings import TrainingSettings

PARTS, SIDE, CHANNELS = ("tail", "legs", "body", "head"), 6, 48  # of each part
PER_CLASS, TESTED = 16, 4
MODEL = {"embedding_size": 24, "margin": 3.0, "distillation_weight": 0.01, "coarse_weight": 0.9}
SETTINGS = TrainingSettings(
    epochs=16, batch_size=24, learning_rate=0.003, evaluate_every=16, calibrate=True, folds=2, checkpoint_every=0
)


class Maps(Dataset):
    def __init__(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        self.maps, self.labels = maps, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return {"features": self.maps[rows], "labels": self.labels[rows]}


def map_of(creature: int, number: int, look: torch.Tensor) -> torch.Tensor:
    """C x 2 x 2: each part in a region and in channels of its own, what it looks like through random weights."""
    picture, boxes = render(creature, number)
    found = torch.zeros(len(PARTS), CHANNELS, len(PARTS))
    for place, part in enumerate(PARTS):
        left, top, right, bottom = boxes[part]
        box = (int(left), int(top), max(int(left) + 1, round(right)), max(int(top) + 1, round(bottom)))
        pixels = torch.tensor(np.asarray(picture.crop(box).resize((SIDE, SIDE)), dtype=np.float32)) / 255 - 0.5
        found[place, :, place] = torch.relu(look @ pixels.flatten())
    return found.flatten(0, 1).unflatten(1, (2, 2))


def task_of(maps: torch.Tensor, unseen: set[int], classes: list[int], name: str):
    """Train on some photos of the seen classes, test on others of them, and on all of the unseen classes."""
    table = shapes_table()
    table = table.select([table.class_names[k] for k in classes])
    table = table.replace(roles=["unseen" if k in unseen else "train" for k in classes])
    numbers = {"train": range(PER_CLASS - TESTED), "seen": range(PER_CLASS - TESTED, PER_CLASS)}
    parts = {}
    for split, kept in (("train", ~table.seen), ("seen", ~table.seen), ("unseen", table.seen)):
        labels = np.flatnonzero(~kept).repeat(len(numbers.get(split, range(PER_CLASS))))
        number = np.tile(numbers.get(split, range(PER_CLASS)), int((~kept).sum()))
        parts[split] = Maps(maps[np.array(classes)[labels], number], torch.from_numpy(labels))
    return Task(name, table, {}, {split: part.labels for split, part in parts.items()}), parts.__getitem__


def new_model(table) -> DEDNForZeroShot:
    torch.manual_seed(0)
    return DEDNForZeroShot.from_timm(None, table, feature_shape=[len(PARTS) * CHANNELS, 2, 2], **MODEL)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The report on the test photos, the predictions behind it, those about what looks otherwise, and the model."""
    folder, accelerator = tmp_path_factory.mktemp("run"), Accelerator(cpu=True)
    look = torch.randn(CHANNELS, 3 * SIDE**2, generator=torch.Generator().manual_seed(0))
    maps = torch.stack(
        [torch.stack([map_of(k, number, look) for number in range(PER_CLASS)]) for k in range(len(shapes_table()))]
    )
    names, seen = shapes_table().class_names, np.flatnonzero(shapes_table().seen).tolist()
    folds = [{names.index(name) for name in fold} for fold in class_folds([names[k] for k in seen], 5)[:2]]
    tasks = [task_of(maps, fold, seen, f"fold-{number}") for number, fold in enumerate(folds)]
    inputs_of = {task.name: inputs for task, inputs in tasks}

    def prepare(task):
        return new_model(task.table), inputs_of[task.name]

    chosen = select([task for task, _ in tasks], prepare, SETTINGS, folder, accelerator)
    task, inputs = task_of(maps, set(range(len(names))) - set(seen), list(range(len(names))), "test")
    model = new_model(task.table)
    model.config.calibration_bias, model.config.temperature = chosen.bias, chosen.temperature
    model.config.precision_thresholds, model.config.none_of_these = chosen.precision_thresholds, chosen.none_of_these
    fit(model, task, inputs, SETTINGS, accelerator, folder / "test")
    _, found = evaluate(model, inputs, task.table.seen, accelerator)
    with torch.no_grad():  # the same numbers, in channels where no creature has them
        mixed = torch.randperm(maps.shape[2], generator=torch.Generator().manual_seed(0))
        others = model.eval()(features=maps[:, :2, mixed].flatten(0, 1))
    return evaluation_of(model, task.table, found), found, others, model


def test_the_creatures_were_learned(tested):
    report, *_ = tested
    assert report.scores["T1"] > 0.6 and report.scores["H"] > 0.5  # guessing: 0.125, 0.025


def test_confidence_and_accuracy_differ_by_little(tested):
    report, *_ = tested
    assert report.confidence()["calibration_error"] < 0.15
    assert report.confidence()["accuracy_of_surest"][0.25] > report.confidence()["accuracy_of_surest"][1.0]


def test_answers_that_are_given_are_right_as_often_as_was_asked_for(tested):
    report, _, _, model = tested
    rows = [report._answered(*pair) for pair in model.config.precision_thresholds]
    off = [row["right"] - row["wanted"] for row in rows if row["wanted"] >= 0.8 and row["answered"] > 0.1]
    assert len(off) >= 3 and np.mean(off) > -0.08


def test_what_looks_otherwise_is_told_and_few_creatures_are_taken_for_such(tested):
    report, found, others, model = tested
    weight, _ = model.config.none_of_these
    best, lengths = others.logits.amax(dim=1), others.attribute_scores.norm(dim=1)
    evidence = np.concatenate([found.logits.max(axis=1) + weight * found.lengths, (best + weight * lengths).numpy()])
    assert area_under_roc(evidence, np.arange(len(evidence)) < len(found.labels)) > 0.8
    wrongly = report.shows_none.mean()
    assert wrongly < 0.12 and model.config.shows_none(best, lengths).float().mean() > wrongly + 0.1
