"""Run again what a run.json records, and say whether the same numbers come out."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from dedn_hf.data.loading import BUILDERS, builder_class
from dedn_hf.data.threads import settle_threads
from dedn_hf.metrics.scores import SCORES
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.saving import temporary_folder
from dedn_hf.training.experiment import RUN_FILE, Experiment, new_model, run
from dedn_hf.training.record import backbone_hash, data_fingerprint, surroundings
from dedn_hf.training.settings import TrainingSettings

SECTIONS = ("data", "model", "training")
NEEDED = {  # of a record, to run it again and to have something to compare with
    "experiment.data.name": str,
    "experiment.model.backbone": str,
    "experiment.training": dict,
    "results.H": float,
    "history": list,
    "hardware.device": str,
    "versions": dict,
}
USED = {"hardware.threads": int, "data.fingerprint": dict, "model.weights": str, "model.backbone_start": str}
HARDWARE = ("machine", "cpu", "threads", "gpu", "device", "processes")  # what rounding can depend on
TOLERANCE = 0.02


@dataclass
class Reproduction:
    """What came out of a second run.

    Args:
        blocked: why there was no second run: what of data or backbone is not the same. unknown: what the old record
            does not say. surroundings: what differs of versions and hardware, name -> (then, now).
        exact: whether the bits have to be the same. different: names of the numbers that are not the same bits.
        scores: T1, U, S, H and AUSUC (0..1), then and now. tolerance: largest difference of these that is allowed
            where the bits need not be the same.
    """

    blocked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    surroundings: dict[str, tuple] = field(default_factory=dict)
    exact: bool = True
    different: list[str] = field(default_factory=list)
    scores: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    @property
    def matches(self) -> bool:
        """The numbers are those of the record: the same bits, or within the tolerance where these may differ."""
        if self.blocked:
            return False
        return not self.different or (not self.exact and self.largest() <= self.tolerance)

    def largest(self) -> float:
        """The largest difference of a score; infinite where only one of the two has it."""
        differences = [0.0]
        for then, now in self.scores.values():
            if then is not None and now is not None:
                differences.append(abs(now - then))
            elif then is not now:
                differences.append(float("inf"))
        return max(differences)

    def summary(self) -> str:
        """The verdict and its reasons, for the screen."""
        if self.blocked:
            return "\n".join(["NOT RUN: this would be another experiment.", *(f"  {line}" for line in self.blocked)])
        lines = [f"Not checked: {line}" for line in self.unknown]
        lines += [f"Differs: {name} was {then}, is {now}" for name, (then, now) in self.surroundings.items()]
        lines += [
            f"  {name:6}{percent(then):>8}{percent(now):>8}{'' if then == now else '  differs'}"
            for name, (then, now) in self.scores.items()
        ]
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """One sentence."""
        if not self.different:
            return "MATCHES: every recorded number is the same, to the last bit."
        what = f"{len(self.different)} recorded numbers are not the same bits, first {self.different[0]}"
        if self.exact:
            return f"DIFFERS: {what}; on the same machine with the same versions they have to be."
        within = f"the largest difference of a score is {self.largest():.4f}, {self.tolerance} are allowed"
        return f"{'MATCHES within the tolerance' if self.matches else 'DIFFERS'}: {what}; {within}."


def reproduce(
    run_file: str | Path,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    features_dir: str | Path | None = None,
    out: str | Path | None = None,
    tolerance: float = TOLERANCE,
) -> Reproduction:
    """Train again from what run.json says, after a look at whether data and backbone are the same.

    The bits have to be the same where machine, versions, code and number of threads are, on a CPU or with the setting
    `deterministic`. Elsewhere rounding differs, and training magnifies that; then the scores have a tolerance.

    Args:
        run_file: run.json or the folder that holds it. data_dir: folder of the images, or of the prepared data set.
        weights: file of backbone weights, where the run began with one. features_dir: an existing feature cache, or
            where to make it (default: made again, and removed). out: folder for the second run (default: not kept).
        tolerance: largest allowed difference of a score, 0..1.

    Raises:
        FileNotFoundError, ValueError: no such file, a record that does not say enough, something to be given. And as
            `dedn_hf.training.experiment.run`.
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}; it is a difference of scores, from 0 to 1.")
    record = read_record(run_file)
    preset = with_paths({section: dict(record["experiment"][section]) for section in SECTIONS}, data_dir, weights)
    # Presets once left these out and meant 1 and 'center'; now that is the backbone's own.
    preset["model"].setdefault("crop_pct", part_of(record, "model.config.crop_pct") or 1.0)
    preset["model"].setdefault("crop_mode", part_of(record, "model.config.crop_mode") or "center")
    settings = TrainingSettings.from_dict(preset["training"])
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    accelerator = Accelerator(cpu=record["hardware"]["device"] == "cpu", mixed_precision=settings.mixed_precision)
    found = Reproduction(tolerance=tolerance)
    experiment = Experiment.from_preset(preset)
    splits, table = experiment.load(False)
    fingerprint = data_fingerprint(splits, table)
    experiment = replace(experiment, fingerprint=fingerprint)
    check_data(found, record, fingerprint)
    check_backbone(found, record, experiment, table, settings)
    if found.blocked:
        return found
    settle_threads()  # before the record's number, which is to stay
    threads = torch.get_num_threads()
    torch.set_num_threads(record["hardware"].get("threads") or threads)
    try:
        found.surroundings = differing_surroundings(record, surroundings(accelerator))
        found.exact = not found.surroundings and (accelerator.device.type == "cpu" or settings.deterministic)
        with temporary_folder("dedn-reproduce-") as temporary:
            if record.get("cached_features"):
                experiment.features = Path(features_dir or temporary / "features")
            again = run(experiment, settings, out or temporary / "run", accelerator)
    finally:
        torch.set_num_threads(threads)
    again = json.loads(json.dumps(again))
    found.scores = {name: (record["results"].get(name), again["results"].get(name)) for name in SCORES}
    found.different = different_numbers(record, again)
    if part_of(record, "model.weights") is None:
        found.unknown.append("whether the trained weights are the same (the record does not have their hash)")
    return found


def read_record(run_file: str | Path) -> dict:
    """A run.json that says how to run it again. Raises FileNotFoundError or ValueError."""
    path = Path(run_file)
    path = path / RUN_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Give the {RUN_FILE} of a finished run, or its folder.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    missing = [name for name, kind in NEEDED.items() if not isinstance(part_of(record, name), kind)]
    missing += ["history"] if part_of(record, "history") == [] else []
    if missing:
        raise ValueError(
            f"{path} does not say how to run it again: it has no {', '.join(missing)}. Runs of examples/train.py "
            "record it; one from before that, or of another script, has to be repeated by hand."
        )
    damaged = [name for name, kind in USED.items() if not isinstance(part_of(record, name), (kind, type(None)))]
    if damaged:
        raise ValueError(f"{path} is damaged: {', '.join(damaged)} cannot be right.")
    return record


def part_of(record: object, name: str) -> object:
    """'hardware.device' of nested mappings; None where a key is missing."""
    for key in name.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def with_paths(preset: dict, data_dir: str | Path | None, weights: str | Path | None) -> dict:
    """The recorded preset with the paths of this machine in it. Raises ValueError where one is needed."""
    data, model = preset["data"], preset["model"]
    if data["name"] not in BUILDERS:
        if data_dir is None:
            raise ValueError(f"The run used the prepared data set {data['name']!r}: give its folder by --data-dir.")
        data["name"] = str(data_dir)
    elif "data_dir" in inspect.signature(builder_class(data["name"]).__init__).parameters:
        if data_dir is None:
            raise ValueError(f"{data['name']} needs --data-dir, the folder of its images.")
        data["data_dir"] = str(data_dir)
        for key in ("csv", "groups"):  # of a file outside the data folder, the name is all that is known
            given = data.get(key)
            files = [Path(data_dir) / name for name in ([given] if isinstance(given, str) else given or [])]
            if files and all(file.is_file() for file in files):
                data[key] = str(files[0]) if isinstance(given, str) else list(map(str, files))
    elif data_dir is not None:
        raise ValueError(f"{data['name']} takes no --data-dir. Leave it out.")
    if isinstance(model.get("pretrained"), str) and weights is None:
        raise ValueError(f"The run began with the weights file {model['pretrained']!r}: give it by --weights.")
    if weights is not None:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"No weights file {weights}.")
        model["pretrained"] = str(weights)
    return preset


def check_data(found: Reproduction, record: dict, fingerprint: Mapping[str, str]) -> None:
    """Compare the data with those of the record."""
    then = (record.get("data") or {}).get("fingerprint")
    if then is None:
        found.unknown.append("whether the data are the same (the record is older than fingerprints of the data)")
        return
    for name in sorted(set(then) | set(fingerprint)):
        if then.get(name) != fingerprint.get(name):
            what = "the attribute table" if name == "table" else f"the images, labels or files of the split {name!r}"
            found.blocked.append(f"{what}: fingerprint {fingerprint.get(name)}, recorded {then.get(name)}")


def check_backbone(
    found: Reproduction, record: dict, experiment: Experiment, table: AttributeTable, settings: TrainingSettings
) -> None:
    """Compare the backbone's first weights with those of the record, unless they are random."""
    if not record["experiment"]["model"].get("pretrained", True):
        return
    then = (record.get("model") or {}).get("backbone_start")
    if then is None:
        found.unknown.append("whether the backbone's first weights are the same (the record does not have their hash)")
        return
    now = backbone_hash(new_model(experiment, table, settings))
    if now != then:
        found.blocked.append(f"the backbone's first weights: hash {str(now)[:16]}, recorded {then[:16]}")


def differing_surroundings(record: dict, now: dict) -> dict[str, tuple]:
    """Versions, code and hardware that are not as recorded, name -> (then, now)."""
    then = {**record["versions"], **{key: record["hardware"].get(key) for key in HARDWARE}}
    here = {**now["versions"], **{key: now["hardware"].get(key) for key in HARDWARE}}
    differing = {key: (then.get(key), here.get(key)) for key in [*then, *here] if then.get(key) != here.get(key)}
    if record.get("code") != now["code"]:  # a revision may be unknown, or have changes
        differing["code of dedn_hf"] = (code_of(record), code_of(now))
    return differing


def code_of(record: dict) -> str:
    """'1a2b (revision 3c4d)', of its source."""
    return f"{record.get('code') or 'unknown'} (revision {record.get('revision') or 'unknown'})"


def different_numbers(record: dict, again: dict) -> list[str]:
    """Which numbers of the record the second run does not have, bit by bit: scores, losses, weights.

    `best_so_far` only repeats what H says, and older records have it of the uncalibrated H.
    """
    old, new = flat(numbers(record)), flat(numbers(again))
    return [name for name, value in old.items() if new.get(name) != value and not name.endswith("best_so_far")]


def numbers(record: dict) -> dict:
    """What a run found out."""
    selection, weights = record.get("selection") or {}, (record.get("model") or {}).get("weights")
    found = {"results": record["results"], "selection": selection.get("history", [])}
    found.update(history=record["history"], calibration_bias=record.get("calibration_bias"))
    return {**found, **({"weights": weights} if weights else {})}


def flat(value: object, name: str = "") -> dict[str, object]:
    """Nested lists and mappings as 'history.3.loss' -> value."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {n: v for key, part in items for n, v in flat(part, f"{name}.{key}" if name else str(key)).items()}


def percent(score: float | None) -> str:
    """62.5 %."""
    return "-" if score is None else f"{100 * score:.2f}"
