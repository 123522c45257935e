"""What to expect of classes without photos, by short trainings of DEDN in which known classes are held out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from dedn_hf.metrics.scores import SCORES, percent
from dedn_hf.studies.forecast import FORECAST
from dedn_hf.training.automatic import FEWEST_FOR_FOLDS, automatic_preset, smallest_part
from dedn_hf.training.experiment import Experiment, choose
from dedn_hf.training.settings import TrainingSettings


@dataclass
class ShortTrainings:
    """What came of them.

    Args:
        seen: number of classes with photos. held_out: how many of them were only described, in each training.
        scores: mean T1, U, S and H, 0..1. of_each: T1 of each training.
    """

    seen: int
    held_out: list[int]
    scores: dict[str, float]
    of_each: list[float]

    def __str__(self) -> str:
        counts = " and ".join(map(str, self.held_out))
        lines = [
            f"the same by {len(self.held_out)} short trainings of DEDN, in which {counts} of {self.seen} classes with "
            "photos were only described:"
        ]
        lines += [f"  {name:2} {percent(self.scores[name]):>4}  {SCORES[name]}" for name in FORECAST]
        lines.append(f"  T1 of each: {', '.join(map(percent, self.of_each))}")
        lines.append("  ! U, S and H are rather too high: the constant was chosen on the same photos")
        return "\n".join(lines)


def short_trainings(
    data: dict[str, Any], model: dict[str, Any], features: str | Path | None = None, **changes: Any
) -> ShortTrainings:
    """Train as `dedn train --effort quick` does to choose its settings, and keep the scores only.

    Args:
        data: arguments of `load`. model: of `DEDNForZeroShot.from_timm`; backbone, and pretrained at least.
        features: folder of the feature cache. changes: of `TrainingSettings`.

    Raises:
        ValueError: fewer than four classes with photos, and as `fold_tasks`.
    """
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment.from_preset({"data": data, "model": model}, features or Path(folder) / "features", {})
        splits, table = experiment.load(False)
        seen = len(set(splits["train"]["label"]))
        if seen < FEWEST_FOR_FOLDS:
            raise ValueError(f"Trainings on folds need {FEWEST_FOR_FOLDS} classes with photos; there are {seen}.")
        smallest = smallest_part(splits, table)
        if not smallest:
            raise ValueError("For trainings on folds there are too few photos, or classes too much alike.")
        preset = automatic_preset(data, len(splits["train"]), seen, "quick", smallest=smallest)
        experiment.build = Experiment.from_preset({"data": data, "model": {**preset["model"], **model}}).build
        settings = TrainingSettings.from_dict({**preset["training"], "checkpoint_every": 0, **changes})
        record = choose(experiment, settings, Path(folder) / "run", Accelerator()).record
    of_each = [fold["T1"] for fold in record["folds"]]
    return ShortTrainings(
        seen,
        [len(fold["held_out"]) for fold in record["folds"]],
        {**{name: record["chosen"][name] for name in FORECAST}, "T1": float(np.mean(of_each))},
        of_each,
    )
