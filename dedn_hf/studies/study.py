"""Studies: variants of a preset, each trained with several seeds, to be compared with one of them.

Every training is kept under a hash of all that its result depends on, the data included. No study trains it again, and
commands that run at the same time in one folder share the work. Options that only weigh the scores of a trained model
need no training of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from accelerate import Accelerator
from filelock import FileLock, Timeout

from dedn_hf import __version__
from dedn_hf.data.cpu import available_cores
from dedn_hf.data.features import BACKBONE, PREPROCESSING, UNSAID
from dedn_hf.data.tasks import test_task
from dedn_hf.modeling.attribute_table import near_names
from dedn_hf.modeling.modeling_dedn import DEDNConfig
from dedn_hf.publish.saved import load_model
from dedn_hf.studies.workers import worker_pool
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.experiment import RUN_FILE, Experiment, inputs_of, new_model, open_caches, run
from dedn_hf.training.record import data_fingerprint, json_hash
from dedn_hf.training.settings import WITHOUT_EFFECT, TrainingSettings, read_preset

logger = logging.getLogger(__name__)

# These weigh a trained model's scores and are in no loss: where scores choose nothing, they change no weight.
PREDICTION_OPTIONS = ("coarse_weight", "region_weight", "calibration_bias")
LOCK_FILE = ".lock"
FEATURE_OPTIONS = {
    "model": BACKBONE + PREPROCESSING,
    "training": ("feature_precision", "augmentation", "crop_scale", "jitter"),
}
DEFAULTS = {  # where they are not those of DEDNConfig
    **dict.fromkeys(["image_size", "crop_pct", "crop_mode", "num_groups", "backbone_kwargs"]),
    "pretrained": True,
    "groups": "given",
}


class UniqueKeys(yaml.SafeLoader):
    """Refuses the same key twice, of which YAML would silently keep the last: a variant would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As the base class; raises ValueError for a key that comes twice."""
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice.")
        return super().construct_mapping(node, deep)


@dataclass
class Study:
    """What is compared with what.

    Args:
        title: above the tables. variants: name -> {section: {key: value}}, what changes in the preset.
        reference: the variant that the others are compared with. common: as a variant, for all of them.
        axis: what the variants' names are numbers of, where they are numbers; else None.

    Raises:
        ValueError: a reference that is not a variant, changes that are not a mapping, names along an axis that are not
            numbers.
    """

    title: str
    reference: str
    variants: dict[str, dict]
    common: dict = field(default_factory=dict)
    axis: str | None = None

    def __post_init__(self) -> None:
        self.variants = {str(name): changes or {} for name, changes in self.variants.items()}
        self.reference = str(self.reference)
        if self.reference not in self.variants:
            raise ValueError(
                f"The reference {self.reference!r} is not a variant; there are {', '.join(self.variants) or 'none'}."
            )
        for name, changes in {"common": self.common, **self.variants}.items():
            if not isinstance(changes, dict) or not all(isinstance(part, dict) for part in changes.values()):
                raise ValueError(f"{name}: write {{section: {{key: value}}}}, e.g. {{model: {{margin: 0}}}}.")
        if self.axis is not None:
            list(map(float, self.variants))

    def select(self, names: Sequence[str]) -> Study:
        """These variants and the reference. Raises ValueError, with near names, for one that does not exist."""
        for name in names:
            if name not in self.variants:
                raise ValueError(f"No variant {name!r} of {self.title!r}.{near_names(name, self.variants)}")
        kept = {name: v for name, v in self.variants.items() if name in names or name == self.reference}
        return replace(self, variants=kept)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Study:
        """A study file. Raises FileNotFoundError, or ValueError with what is wrong in it."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"No study {path}. Those of this project are in examples/configs/study/.")
        try:
            content = yaml.load(Path(path).read_text(encoding="utf-8"), UniqueKeys)
            return cls(**content)
        except (yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a study: {error} It needs title, reference and variants, and may have common and axis."
            ) from error


@dataclass(frozen=True)
class Training:
    """One training, and the predictions that are read from it.

    Args:
        name: variant and seed that asked for it first. preset: with all its settings. features: folder of a feature
            cache, or None. fingerprint: of the data. folder: of the run. predictions: file -> options of the model's
            configuration to predict with. cpu: also where there is a GPU.
    """

    name: str
    preset: dict
    features: Path | None
    fingerprint: dict
    folder: Path
    predictions: dict[Path, dict]
    cpu: bool

    def done(self) -> bool:
        """Nothing of it is left to do."""
        return all(file.exists() for file in self.predictions)


@dataclass
class Plan:
    """All trainings of a study, each once, and where the predictions of each variant and seed will be."""

    trainings: list[Training]
    predictions: dict[str, dict[int, Path]]


def make_plan(
    study: Study,
    config: str | Path,
    overrides: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    features: Path | None = None,
    cpu: bool = False,
) -> Plan:
    """Settle everything before the first training.

    Args:
        config: the preset. overrides: 'section.key=value', stronger than the preset and `study.common`, weaker than
            the variants. output: folder of the study. features: folder for feature caches; further ones, of variants
            that need other features, get subfolders.

    Raises:
        ValueError: settings that do not exist or do not fit. FileNotFoundError: no such preset, data or weights.
    """
    common = [*as_overrides(study.common), *overrides]
    base, fingerprints, by_key, predictions = read_preset(config, None, common), {}, {}, {}
    for name, changes in study.variants.items():
        predictions[name] = {}
        for seed in seeds:
            preset = read_preset(config, None, [*common, *as_overrides(changes), f"training.seed={seed}"])
            normal = normalized(preset)
            data = json.dumps(preset["data"], sort_keys=True)
            if data not in fingerprints:
                fingerprints[data] = data_fingerprint(*Experiment.from_preset(preset).load(False))
            prediction = prediction_options(normal)
            key = json_hash([without_defaults(without(normal, prediction)), fingerprints[data]])
            if key not in by_key:
                cache = None if normal["training"]["train_backbone"] else features_folder(features, preset, base)
                folder = output / "runs" / key
                by_key[key] = Training(f"{name}, seed {seed}", preset, cache, fingerprints[data], folder, {}, cpu)
            file = output / "predictions" / f"{json_hash([key, prediction])}.npz"
            by_key[key].predictions[file] = prediction
            predictions[name][seed] = file
    # Seed by seed: what is finished first can be compared.
    trainings = sorted(by_key.values(), key=lambda training: seeds.index(training.preset["training"]["seed"]))
    if len({training.preset["training"].get("mixed_precision", "no") for training in trainings}) > 1:
        raise ValueError("mixed_precision is one for a whole study: give it by --set, not in a variant.")
    return Plan(trainings, predictions)


def as_overrides(changes: dict) -> list[str]:
    """{section: {key: value}} as `read_preset` takes it."""
    return [f"{section}.{key}={json.dumps(value)}" for section, part in changes.items() for key, value in part.items()]


def normalized(preset: dict) -> dict:
    """Model and training settings of a preset with every default written out, and the hash of a weights file.

    Raises ValueError for settings that do not exist, FileNotFoundError for a weights file that does not.
    """
    Experiment.from_preset(preset)
    training = TrainingSettings.from_dict(preset["training"]).to_dict()
    names = DEDNConfig.__annotations__
    config = DEDNConfig(**{name: value for name, value in preset["model"].items() if name in names})
    model = {**{name: getattr(config, name) for name in names}, **DEFAULTS, **preset["model"]}
    if isinstance(model["pretrained"], str):
        model["pretrained"] = hashlib.sha256(Path(model["pretrained"]).read_bytes()).hexdigest()
    return {
        "model": model,
        "training": {key: value for key, value in training.items() if key not in WITHOUT_EFFECT},
        "version": __version__,
    }


def prediction_options(normal: dict) -> dict:
    """The options that can change after training; none where the scores chose something."""
    if normal["training"]["select_on"] != "last":
        return {}
    return {name: normal["model"][name] for name in PREDICTION_OPTIONS}


def without(normal: dict, options: dict) -> dict:
    """Normalised settings without these options of the model."""
    return {**normal, "model": {key: value for key, value in normal["model"].items() if key not in options}}


def without_defaults(normal: dict) -> dict:
    """Normalised settings that differ from the defaults: a new setting, off by default, changes no hash."""
    defaults = normalized({"data": {}, "model": {}, "training": {}})
    changed = {
        section: {key: value for key, value in normal[section].items() if value != defaults[section].get(key)}
        for section in ("model", "training")
    }
    return {**normal, **changed}


def features_folder(folder: Path | None, preset: dict, base: dict) -> Path | None:
    """`folder` for features as of the base preset, a subfolder for others."""

    def relevant(of: dict) -> list:
        options = [(of[section], key) for section, keys in FEATURE_OPTIONS.items() for key in keys]
        # Where nothing is said of `UNSAID`, folders are called as before there was something to say.
        values = [part.get(key) for part, key in options if key in part or key not in UNSAID]
        pretrained = of["model"].get("pretrained", True)
        start = pretrained or of["training"].get("seed", 0)  # a random backbone is another one for every seed
        return [*values, start, of["data"]]

    if folder is None or relevant(preset) == relevant(base):
        return folder
    return folder / f"{preset['model'].get('backbone')}-{json_hash(relevant(preset))}"


def execute(plan: Plan, jobs: int = 1) -> dict[Path, str]:
    """Do what is not done yet, `jobs` trainings at a time, each in a process of its own with its share of the cores.

    Returns:
        Folder -> error of the trainings that failed; the others are finished.

    Raises:
        ValueError: fewer jobs than 1.
    """
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; it must be 1 or more.")
    waiting = [training for training in plan.trainings if not training.done()]
    done = len(plan.trainings) - len(waiting)
    print(f"{len(plan.trainings)} trainings, {done} of them done before.")
    failed = {}
    for number, (training, seconds, error) in enumerate(train_missing(waiting, jobs), start=done + 1):
        end = "" if error is None else f"  FAILED, see {training.folder / 'log.txt'}: {error.splitlines()[-1]}"
        print(f"[{number}/{len(plan.trainings)}] {training.name}: {seconds:.0f} s{end}", flush=True)
        if error is not None:
            failed[training.folder] = error
    return failed


def train_missing(waiting: Sequence[Training], jobs: int) -> Iterator[tuple[Training, float, str | None]]:
    """Each training with its seconds and its error, as they finish; those that another command is doing come last."""
    elsewhere = []
    for training, seconds, error in train_all(waiting, jobs, wait=False):
        if seconds is None:
            elsewhere.append(training)
        else:
            yield training, seconds, error
    if elsewhere:
        print(f"Another command is doing {len(elsewhere)} of them: waiting for it.", flush=True)
        yield from (
            (training, seconds or 0.0, error) for training, seconds, error in train_all(elsewhere, jobs, wait=True)
        )


def train_all(
    trainings: Sequence[Training], jobs: int, wait: bool
) -> Iterator[tuple[Training, float | None, str | None]]:
    """`train_and_predict` of each training, as they finish."""
    if jobs == 1:
        yield from (train_and_predict(training, wait) for training in trainings)
        return
    prepare_features(trainings)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // jobs)))  # read by new processes
    with worker_pool(jobs) as pool:
        futures: list[Future] = [pool.submit(train_and_predict, training, wait) for training in trainings]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def prepare_features(waiting: Sequence[Training]) -> None:
    """Compute the features that are not there, with all cores: the trainings would have to wait for them."""
    different = {
        (t.features, t.preset["training"].get("feature_views"), t.preset["model"].get("flip_test")): t
        for t in waiting
        if t.features
    }
    for training in different.values():
        experiment, settings, accelerator = parts_of(training)
        _, table = experiment.load(False)
        open_caches(experiment, new_model(experiment, table, settings), settings, accelerator)


def parts_of(training: Training) -> tuple[Experiment, TrainingSettings, Accelerator]:
    """What `run` takes, but for the folder."""
    settings = TrainingSettings.from_dict(training.preset["training"])
    accelerator = Accelerator(cpu=training.cpu, mixed_precision=settings.mixed_precision)
    experiment = Experiment.from_preset(training.preset, training.features, training.fingerprint)
    return experiment, settings, accelerator


def train_and_predict(training: Training, wait: bool = True) -> tuple[Training, float | None, str | None]:
    """Do one training, unless it is done, and its predictions; gives it back with the seconds and the error.

    While another process does it: waits, or gives it back with None for the seconds.
    """
    start, error = time.perf_counter(), None
    training.folder.mkdir(parents=True, exist_ok=True)
    try:  # the operating system releases the lock when a process is killed
        lock = FileLock(training.folder / LOCK_FILE).acquire(blocking=wait, poll_interval=1)
    except Timeout:
        return training, None, None
    with (
        lock,
        open(training.folder / "log.txt", "a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        if training.done():
            return training, time.perf_counter() - start, None
        try:
            experiment, settings, accelerator = parts_of(training)
            if not (training.folder / RUN_FILE).exists():
                run(experiment, settings, training.folder, accelerator)
                accelerator.free_memory()
            predict(training, experiment, settings, accelerator)
        except Exception:  # noqa: BLE001 - one failed training does not stop the others
            error = traceback.format_exc()
            log.write(error)
    return training, time.perf_counter() - start, error


def predict(training: Training, experiment: Experiment, settings: TrainingSettings, accelerator: Accelerator) -> None:
    """Write the logits of all test images (N x K), labels (N) and roles (K), for each way to weigh the scores."""
    splits, table = experiment.load(False)
    task = test_task(splits, table)
    model = load_model(str(training.folder)).to(accelerator.device)
    inputs = inputs_of(task, model, settings, open_caches(experiment, model, settings, accelerator))
    for file, options in training.predictions.items():
        for name, value in options.items():
            setattr(model.config, name, value)
        _, found = evaluate(model, inputs, table.seen, accelerator)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, logits=found.logits, labels=found.labels, seen=table.seen)
        partial.replace(file)
