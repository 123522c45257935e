"""One training run, from data to a saved model: choose on validation classes, refit, test, and write it all down."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch.utils.data import Dataset, Subset
from tqdm.auto import tqdm

from dedn_hf.classify.from_photos import PHOTO_SCORES, reference_scores
from dedn_hf.data.catalog import abbreviate
from dedn_hf.data.features import FeatureCache, View, image_hashes, missing_views, open_views
from dedn_hf.data.loading import load
from dedn_hf.data.tasks import Inputs, Task, fold_tasks, test_task, validation_task
from dedn_hf.data.transforms import evaluation_transform, training_transform
from dedn_hf.modeling.attribute_table import near_names
from dedn_hf.modeling.modeling_dedn import DEDNConfig, DEDNForZeroShot
from dedn_hf.publish.card import write_card
from dedn_hf.training.continuing import has_enough_photos, started
from dedn_hf.training.distributed import require_supported, save_model
from dedn_hf.training.evaluation import evaluate, evaluation_of
from dedn_hf.training.loop import fit
from dedn_hf.training.output_folder import CHECKPOINTS, RUN_FILE, sole_use, write_json
from dedn_hf.training.pooled import fit_pooled_expert
from dedn_hf.training.record import (
    Stopwatch,
    backbone_hash,
    data_fingerprint,
    describe_data,
    describe_model,
    surroundings,
)
from dedn_hf.training.selection import Selection, select
from dedn_hf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.training.evaluation import Predictions

logger = logging.getLogger(__name__)

PROTOCOLS = {
    "val": "epoch (and calibration, where used) chosen on validation classes, then trained on all seen classes; "
    "test splits used once, at the end",
    "test": "published protocol: the epoch that is best on the test splits",
    "last": "last epoch, nothing chosen; test splits used once, at the end",
}


@dataclass
class Experiment:
    """What a run needs besides its settings.

    Args:
        load: `load(validation)` gives the splits and the table of that variant, as `dedn_hf.data.load`.
        build: a new model for an attribute table.
        features: folder of the feature cache (made if absent), or None to decode images in every epoch.
        describe: what else to write to run.json, such as the preset; anything that JSON can hold.
        fingerprint: `data_fingerprint` of the data, where it is known already; otherwise the run computes it.
        bar: shows the progress of each stage, as `tqdm` does.
    """

    load: Callable[[bool], tuple[datasets.DatasetDict, AttributeTable]]
    build: Callable[[AttributeTable], DEDNForZeroShot]
    features: Path | None = None
    describe: dict | None = None
    fingerprint: dict[str, str] | None = None
    bar: Callable[..., Iterable] = tqdm

    @classmethod
    def from_preset(
        cls, preset: dict, features: str | Path | None = None, fingerprint: dict[str, str] | None = None
    ) -> Experiment:
        """What a preset describes, as `read_preset` gives it; run.json holds it without this machine's paths.

        Raises ValueError for an option that no model has: ignored, it would make this another run than was meant.
        """
        data, model = preset["data"], preset["model"]
        start = model.get("start_from")
        known = ["start_from", *inspect.signature(DEDNForZeroShot.from_timm).parameters]
        known += inspect.get_annotations(DEDNConfig)
        for key in model:
            if key not in known:
                raise ValueError(f"No model option {key!r}.{near_names(key, known)}")
        load_data = functools.cache(lambda validation: load(validation=validation, **data))  # asked for many times

        def build(table: AttributeTable) -> DEDNForZeroShot:
            if not start:
                return DEDNForZeroShot.from_timm(table=table, **model)
            return started(start, table, load_data(False)[0]["train"]["label"][:])

        return cls(
            load=load_data,
            build=build,
            features=Path(features) if features else None,
            describe={**preset, "data": without_paths(data), "model": without_paths(model)},
            fingerprint=fingerprint,
        )


def without_paths(options: dict) -> dict:
    """Options as they go into run.json, which is published: of files and folders their names only."""

    def without_path(value: Any) -> Any:
        if isinstance(value, list):
            return [without_path(each) for each in value]
        return Path(value).name if isinstance(value, str) and Path(value).exists() else value

    return {key: without_path(value) for key, value in options.items() if key != "data_dir"}


def run(experiment: Experiment, settings: TrainingSettings, output: str | Path, accelerator: Accelerator) -> dict:
    """Train, choose, test; `output` then holds the model (`from_pretrained` loads it), run.json and the model's card.

    Returns:
        What run.json holds: 'results' with T1, U, S, H, AUSUC (0..1), the protocol, histories, settings, versions,
        and what the card says besides: data, model, hardware, time.

    Raises:
        FileExistsError: `output` holds a finished run. BlockingIOError: another training uses it.
        ValueError: settings and data do not fit. OSError: nothing can be written to `output`. For the rest, see `fit`.
    """
    require_consistent(experiment, settings)
    require_supported(settings, accelerator)
    if settings.deterministic:
        compute_deterministically(accelerator.device)
    with sole_use(Path(output), accelerator):
        if settings.tracker and not accelerator.trackers:  # and not before, because it may write to the folder
            accelerator.init_trackers(
                "dedn", {k: v for k, v in settings.to_dict().items() if isinstance(v, (int, float))}
            )
        record = train_and_test(experiment, settings, Path(output), accelerator)
        accelerator.wait_for_everyone()
    return record


def require_consistent(experiment: Experiment, settings: TrainingSettings) -> None:
    """Raise ValueError for settings that do not go with cached features, or with none."""
    if settings.train_backbone and experiment.features is not None:
        raise ValueError(
            "train_backbone=True needs images: cached features belong to a frozen backbone. "
            "Leave out the folder of features (--features)."
        )
    if (settings.feature_views > 1) != (experiment.features is not None and settings.augmentation != "none"):
        raise ValueError(
            "Augmentation of cached features needs feature_views > 1 (views that are cached too) and a folder for the "
            f"cache; feature_views is {settings.feature_views}, augmentation {settings.augmentation!r}."
        )


def train_and_test(experiment: Experiment, settings: TrainingSettings, output: Path, accelerator: Accelerator) -> dict:
    """What `run` does once it has the folder for itself."""
    stopwatch = Stopwatch(resumed=(output / CHECKPOINTS).exists())
    record: dict[str, Any] = {"protocol": PROTOCOLS[settings.select_on]}
    splits, table = experiment.load(False)
    fingerprint = fingerprint_of(experiment, splits, table, accelerator)
    experiment = replace(experiment, fingerprint=fingerprint)
    task = replace(test_task(splits, table), fingerprint=fingerprint)
    choosing = settings.select_on == "test"
    selected = Selection(settings.epochs, record={})
    if choosing:
        require_both_tested(task)
    if settings.select_on == "val":
        selected = choose(experiment, settings, output, accelerator)
        stopwatch.lap("selection")
        settings = replace(settings, epochs=selected.epoch)
    model = new_model(experiment, table, settings)
    require_told_apart(model)
    start = backbone_hash(model)
    model.config.calibration_bias += selected.bias  # it was chosen on top of what the settings give
    if settings.calibrate:
        model.config.temperature = selected.temperature
        model.config.precision_thresholds = selected.precision_thresholds
        model.config.none_of_these = selected.none_of_these
    caches = open_caches(experiment, model, settings, accelerator)

    tested: list[Predictions] = []

    def save(evaluated: torch.nn.Module, epoch: dict, predictions: Predictions) -> None:
        if epoch["best_so_far"] or not choosing:
            save_model(evaluated, output, accelerator)
            tested[:] = [predictions]

    final = settings if choosing else replace(settings, evaluate_every=settings.epochs)
    learn_pooled_expert(model, task, settings, caches, accelerator)
    inputs, checkpoints = inputs_of(task, model, settings, caches), output / CHECKPOINTS
    progress = fit(model, task, inputs, final, accelerator, checkpoints, on_evaluation=save, bar=experiment.bar)
    stopwatch.lap("training")
    chosen = progress.best() if choosing else progress.epochs[-1]
    record.update(selection=selected.record or None, results=chosen, history=progress.epochs)
    record.update(calibration_bias=model.config.calibration_bias)
    if not tested:  # a run that was stopped after the last test
        saved = DEDNForZeroShot.from_pretrained(output).to(accelerator.device)
        tested.append(evaluate(saved, inputs, table.seen, accelerator, num_workers=settings.num_workers)[1])
    record["confidence"] = evaluation_of(model, table, tested[0]).confidence_record()
    record.update(surroundings(accelerator), time=stopwatch.record, settings=settings.to_dict())
    record.update(experiment=experiment.describe, cached_features=bool(caches))
    record["feature_precision"] = caches[0].identity["precision"] if caches else None
    record["data"] = describe_data(splits, table, experiment.describe, fingerprint)
    record["model"] = {**describe_model(model, output, accelerator), "backbone_start": start}
    if accelerator.is_main_process:
        table.save(output)
        save_photo_scores(task, settings, caches, output, accelerator.device)
        write_card(output, [record])
        write_json(output / RUN_FILE, record)  # last: it says that the folder is finished
        shutil.rmtree(checkpoints, ignore_errors=True)
    return record


def save_photo_scores(
    task: Task, settings: TrainingSettings, caches: list[FeatureCache], output: Path, device: torch.device
) -> None:
    """Write the mean attribute scores of seen classes beside the saved model: photos can describe classes by them."""
    model = DEDNForZeroShot.from_pretrained(output).to(device).eval()
    photos = training_images(task, model, settings, caches)
    reference_scores(model, photos, task.labels["train"], task.table).to_csv(output / PHOTO_SCORES)


def training_images(
    task: Task, model: DEDNForZeroShot, settings: TrainingSettings, caches: list[FeatureCache]
) -> Dataset:
    """The images of 'train' as they are evaluated: in order, without augmentation."""
    plain = replace(task, images={"seen": task.images["train"]}, labels={"seen": task.labels["train"]})
    return inputs_of(plain, model, settings, caches)("seen")


def learn_pooled_expert(
    model: DEDNForZeroShot,
    task: Task,
    settings: TrainingSettings,
    caches: list[FeatureCache],
    accelerator: Accelerator,
) -> None:
    """Fit the pooled expert, where the model has one, before the other experts are trained.

    A model that goes on from a saved one, without photos of all classes that this has learned, keeps the one it has.
    Classes that are new and have few photos are only described to it.
    """
    if model.pooled_expert is None:
        return
    if settings.train_backbone:
        raise ValueError(
            "pooled_weight needs a frozen backbone: the pooled expert is computed once, from its features. Use "
            "train_backbone=false, or for a new model pooled_weight=0."
        )
    labels = task.labels["train"]
    learned = {task.table.class_names[label] for label in labels.unique().tolist()}
    if model.pooled_expert.weight.any() and not model.learned_before <= learned:
        return
    images = training_images(task, model, settings, caches)
    enough = has_enough_photos(model)
    if enough is not None:
        images, labels = Subset(images, enough[labels].nonzero().flatten().tolist()), labels[enough[labels]]
    fit_pooled_expert(model, images, labels, accelerator, settings.num_workers)


def require_both_tested(task: Task) -> None:
    """Raise ValueError where there are no images of unseen, or of seen classes to choose the best epoch by."""
    for split in ("seen", "unseen"):
        if not len(task.labels[split]):
            raise ValueError(
                f"select_on='test' chooses by H, and there is no photo of {split} classes. Use 'val' or 'last'."
            )


def fingerprint_of(
    experiment: Experiment, splits: datasets.DatasetDict, table: AttributeTable, accelerator: Accelerator
) -> dict[str, str]:
    """The data's fingerprint, as given or computed by the main process: it reads every image."""
    found = [experiment.fingerprint]
    if accelerator.is_main_process and found[0] is None:
        found = [data_fingerprint(splits, table)]
    return broadcast_object_list(found)[0]


def choose(experiment: Experiment, settings: TrainingSettings, output: Path, accelerator: Accelerator) -> Selection:
    """What held-out seen classes decide: the table's 'val' classes, or parts of the seen ones in turn."""
    if settings.folds:
        tasks = fold_tasks(*experiment.load(False), settings.folds)
    else:
        tasks = [validation_task(*experiment.load(True))]
    tasks = [replace(task, fingerprint=experiment.fingerprint or {}) for task in tasks]

    def prepare(task: Task) -> tuple[DEDNForZeroShot, Inputs]:
        model = new_model(experiment, task.table, settings)
        require_told_apart(model)
        caches = open_caches(experiment, model, settings, accelerator)
        learn_pooled_expert(model, task, settings, caches, accelerator)
        return model, inputs_of(task, model, settings, caches)

    return select(tasks, prepare, settings, output, accelerator, bar=experiment.bar)


def require_told_apart(model: DEDNForZeroShot) -> None:
    """Raise ValueError for a class without a direction of its own, and warn of classes that have the same one.

    The model compares directions of class attributes. Centred ones have none where a class is the mean of the seen
    classes, as it is where there is one seen class only.
    """
    directions, names = model.normalized_class_attributes().float(), model.attribute_table.class_names
    empty = [name for name, length in zip(names, directions.norm(dim=1).tolist(), strict=True) if length < 0.5]
    if empty:
        raise ValueError(
            f"{abbreviate(empty)}: nothing sets {'this class' if len(empty) == 1 else 'these classes'} apart from the "
            "mean of the seen classes. Use center_attributes=false, or more seen classes and attributes."
        )
    same = defaultdict(list)
    for name, row in zip(names, directions.cpu().numpy().round(6) + 0.0, strict=True):
        same[row.tobytes()].append(name)
    for group in same.values():
        if len(group) > 1:
            logger.warning("Nothing tells these classes apart, and all get one answer: %s.", abbreviate(group))


def compute_deterministically(device: torch.device) -> None:
    """Use only algorithms that give the same bits every time; raises ValueError where cuBLAS was not told to."""
    if device.type == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise ValueError(
            "deterministic=True on a GPU needs CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment of the command."
        )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def new_model(experiment: Experiment, table: AttributeTable, settings: TrainingSettings) -> DEDNForZeroShot:
    """A model that depends on nothing but the experiment, the table and the seed."""
    set_seed(settings.seed)
    return experiment.build(table)


def open_caches(
    experiment: Experiment, model: DEDNForZeroShot, settings: TrainingSettings, accelerator: Accelerator
) -> list[FeatureCache]:
    """The feature cache of all images, with `flip_test` that of their mirror images, those of views for training.

    The main process makes what is not there, in one pass over the images. Without a folder for features, there are
    none.
    """
    if experiment.features is None:
        return []
    views, images = views_of(experiment.features, experiment.load(False)[0], model, settings)
    precision, workers = settings.feature_precision, settings.num_workers
    model.to(accelerator.device)
    with accelerator.main_process_first():
        return open_views(views, model, images, precision, num_workers=workers, bar=experiment.bar)


def pictures_to_compute(experiment: Experiment, model: DEDNForZeroShot, settings: TrainingSettings) -> int:
    """How many pictures have still to go through the backbone, before all features are there."""
    if experiment.features is None:
        return 0
    views, images = views_of(experiment.features, experiment.load(False)[0], model, settings)
    return sum(map(len, missing_views(views, image_hashes(images))))


def views_of(
    folder: Path, splits: datasets.DatasetDict, model: DEDNForZeroShot, settings: TrainingSettings
) -> tuple[list[View], datasets.Dataset]:
    """The views whose features a training uses, each with its own folder, and all images, those of 'train' first."""
    ordered = [splits["train"], *(split for name, split in splits.items() if name != "train")]
    images = datasets.concatenate_datasets([split.select_columns(["image", "file"]) for split in ordered])
    views = [View(folder)]
    if model.config.flip_test:
        views.append(View(folder / "mirrored", {"mirrored": True}))
    for view in range(1, settings.feature_views):
        options = {"view": view, **augmentation_of(settings)}
        views.append(View(folder / f"view-{view}", options, only=range(len(splits["train"]))))
    return views, images


def inputs_of(task: Task, model: DEDNForZeroShot, settings: TrainingSettings, caches: list[FeatureCache]) -> Inputs:
    """Cached features where there are caches, else images, augmented for training."""
    if caches:
        plain, *others = caches
        mirrored = others.pop(0) if model.config.flip_test else None
        return task.cached(plain, *others, mirrored=mirrored)
    return task.decoded(training_transform(model, **augmentation_of(settings)), evaluation_transform(model))


def augmentation_of(settings: TrainingSettings) -> dict:
    """Arguments of `training_transform`."""
    return {name: getattr(settings, name) for name in ("augmentation", "crop_scale", "jitter")}
