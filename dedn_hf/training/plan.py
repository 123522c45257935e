"""What a training will do and how long it may take, and one progress bar for all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from dedn_hf.data.processor import at_full_speed
from dedn_hf.data.transforms import ImageBatches, evaluation_transform

if TYPE_CHECKING:
    import datasets

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.training.settings import TrainingSettings

MEASURED_PHOTOS, MEASURED_STEPS = 16, 3
FEATURES = "computing features"  # how the titles of the bars of `data.extraction` begin


@dataclass
class Plan:
    """Numbers of units of work, and seconds for one.

    Args:
        photos: passes of one photo through the backbone. steps: of all trainings. tested: photos that are scored.
        seconds_per_photo, seconds_per_step, seconds_per_test: as measured.
    """

    photos: int
    steps: int
    tested: int
    seconds_per_photo: float
    seconds_per_step: float
    seconds_per_test: float

    @property
    def seconds(self) -> dict[str, float]:
        """Of 'features' and of 'training', with what is scored on the way."""
        testing = self.tested * self.seconds_per_test
        return {
            "features": self.photos * self.seconds_per_photo,
            "training": self.steps * self.seconds_per_step + testing,
        }

    def describe(self) -> list[str]:
        """What will be done, a line each."""
        seconds = self.seconds
        features = f"{self.photos:,} passes through the backbone, {duration(seconds['features'])}"
        return [
            f"features of the photos   {features if self.photos else 'are there'}",
            f"training                 {self.steps:,} steps at most, {duration(seconds['training'])}",
            f"in all                   {duration(sum(seconds.values()))}",
        ]


def plan_of(
    splits: datasets.DatasetDict,
    settings: TrainingSettings,
    trainings: int,
    passes: int,
    seconds: dict[str, float],
    flip: bool,
) -> Plan:
    """What the settings ask for.

    Args:
        trainings: those on folds. passes: pictures that have to go through the backbone. seconds: as `measure` gives
            them. flip: whether mirror images are scored, too.
    """
    train, everything = len(splits["train"]), sum(map(len, splits.values()))
    held_out = train // 4  # about a fifth of the classes, and a fifth of the photos of the others
    epochs = settings.epochs * trainings
    evaluations = settings.epochs // settings.evaluate_every * trainings
    steps = epochs * ((train - held_out) // settings.batch_size) + settings.epochs * (train // settings.batch_size)
    tested = evaluations * held_out + everything - train
    return Plan(passes, steps, tested * (2 if flip else 1), **seconds)


def measure(model: DEDNForZeroShot, images: datasets.Dataset, settings: TrainingSettings) -> dict[str, float]:
    """Seconds for a photo to become features, for a step of training on features, and to score one photo."""
    batch = ImageBatches(images.select(range(min(MEASURED_PHOTOS, len(images)))), evaluation_transform(model))
    indices, device = list(range(len(batch))), model.device
    model.eval()

    def extract() -> None:
        with torch.no_grad():
            model.extract_features(batch.__getitems__(indices)["pixel_values"].to(device)).cpu()

    features = torch.randn(settings.batch_size, *model.config.feature_shape, device=device)
    labels = torch.zeros(settings.batch_size, dtype=torch.long, device=device)

    def step() -> None:
        model(features=features, labels=labels).loss.backward()

    def score() -> None:
        with torch.no_grad():
            model(features=features.unsqueeze(1).expand(-1, 2, -1, -1, -1) if model.config.flip_test else features)

    with at_full_speed(model):
        seconds = {"seconds_per_photo": shortest(extract) / len(batch)}
    seconds["seconds_per_test"] = shortest(score) / settings.batch_size / (2 if model.config.flip_test else 1)
    model.train()
    seconds["seconds_per_step"] = shortest(step)
    model.zero_grad(set_to_none=True)
    return seconds


def shortest(work: Callable[[], None]) -> float:
    """Seconds, without the first time."""
    found = []
    for _ in range(1 + MEASURED_STEPS):
        start = time.perf_counter()
        work()
        if torch.accelerator.is_available():  # which may be at work still
            torch.accelerator.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


class JointBar:
    """One progress bar for all stages of a training: called in place of `tqdm`, it yields the items of each.

    Args:
        plan: from which it knows how much a step counts. silent: show nothing.
    """

    def __init__(self, plan: Plan, silent: bool = False) -> None:
        seconds = plan.seconds
        self.features_left, self.step = seconds["features"], seconds["training"] / max(plan.steps, 1)
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, about {remaining} left"
        # The time left goes by the mean speed: that of the last steps jumps with whatever else the machine does.
        self.bar = tqdm(total=max(sum(seconds.values()), 1e-9), bar_format=form, smoothing=0, disable=silent)
        self.bar.initial = 0  # a silent one has none

    def __call__(
        self, iterable: Iterable, desc: str = "", total: int = 1, initial: int = 0, **_others: Any
    ) -> Iterator:
        """The items; each moves the bar on when it is done."""
        if desc.startswith(FEATURES):
            each, self.features_left = self.features_left / max(total, 1), 0.0
        else:
            self.leave_out(self.features_left)  # they were there
            each, self.features_left = self.step, 0.0
        self.bar.set_description_str(desc, refresh=False)
        self.leave_out(initial * each)
        for item in iterable:
            yield item
            self.bar.update(min(each, self.bar.total - self.bar.n))

    def skip_steps(self, steps: int) -> None:
        """Steps that were done before a stop."""
        self.leave_out(steps * self.step)

    def leave_out(self, seconds: float) -> None:
        """On by that much of the estimate, never beyond the end; it took no time, and says nothing of the speed."""
        seconds = min(seconds, self.bar.total - self.bar.n)
        self.bar.initial += seconds
        self.bar.n += seconds

    def close(self) -> None:
        """At the end, whatever was left out."""
        self.bar.update(self.bar.total - self.bar.n)
        self.bar.close()


def duration(seconds: float) -> str:
    """'about 40 seconds', 'about 3 minutes', 'about 2.5 hours'."""
    if seconds < 90:
        return f"about {max(round(seconds, -1), 10):.0f} seconds"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
