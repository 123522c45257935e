"""dedn train: from photos and a table of traits to a tested model."""

from __future__ import annotations

import argparse
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.cli.check import READING, add_reading_arguments, add_traits_argument, reading_of, run_check

if TYPE_CHECKING:
    import datasets
    from accelerate import Accelerator

    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.training.experiment import Experiment
    from dedn_hf.training.settings import TrainingSettings


def add_train(commands: argparse._SubParsersAction) -> None:
    """dedn train: from photos and a table of traits to a tested model."""
    parser = commands.add_parser(
        "train",
        help="train a model on photos and a table of traits, and test it",
        description="Checks photos and table, says what it will do and about how long it takes, chooses settings on "
        "seen classes that are held out, trains on all of them, tests, and saves a model with its card. After a stop, "
        "the same command goes on. On several GPUs: accelerate launch -m dedn_hf train ... Researchers give a preset "
        "in place of photos and table: dedn train --preset cub --data-dir data --out runs/cub.",
    )
    parser.add_argument(
        "photos", nargs="?", metavar="PHOTOS", help="folder with one folder a class, or a list of files"
    )
    add_traits_argument(parser)
    parser.add_argument("--out", "--output-dir", required=True, metavar="MODEL", help="folder for the trained model")
    parser.add_argument(
        "--effort", choices=("quick", "normal", "best"), help="how much to try: time against accuracy (default normal)"
    )
    parser.add_argument(
        "--backbone", metavar="NAME", help="dinov2_base, or any timm model (default tf_efficientnet_lite0)"
    )
    parser.add_argument("--weights", metavar="FILE", help="file of backbone weights, in place of timm's download")
    parser.add_argument(
        "--start-from", metavar="MODEL", help="go on with a saved model, such as after new photos of described classes"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="list of photos with a column 'label' that a person has filled, such as answers of dedn classify "
        "--label-column: it alone says which photo is which class. Relative paths start at PHOTOS",
    )
    parser.add_argument(
        "--old-photos",
        metavar="FOLDER",
        help="with --labels: folder of classes whose photos are trained on, too, such as those of --start-from",
    )
    parser.add_argument(
        "--features",
        "--features-dir",
        metavar="DIR",
        help="folder for the photos' features, which further trainings use again (default: MODEL-features; with a "
        "preset: none)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="another seed, another training (default 0)")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, also where there is a GPU")
    parser.add_argument(
        "--set",
        nargs="*",
        dest="changes",
        metavar="SECTION.KEY=VALUE",
        help="for those who know: change settings, such as training.epochs=5",
    )
    add_reading_arguments(parser)
    preset = parser.add_argument_group("for research: presets and data sets, in place of PHOTOS and --traits")
    preset.add_argument("--preset", "--config", metavar="NAME", help="name of a preset, or a YAML file")
    preset.add_argument("--variant", metavar="NAME", help="variant of the preset, e.g. zsl")
    preset.add_argument("--data", metavar="NAME", help="data set in place of the preset's, or a prepared folder")
    preset.add_argument("--data-dir", metavar="DIR", help="folder of its images")
    preset.add_argument(
        "--select-on",
        choices=("val", "test", "last"),
        help="epoch: the best on learned classes that are held out (val, the default), the best on the test photos "
        "(test: as published; the scores are then too good), or the last",
    )
    parser.set_defaults(run=run_train)


def run_train(out: str, cpu: bool = False, **given: Any) -> None:
    """Train and say what came out. Raises as `dedn_hf.training.run`."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    from dedn_hf.publish.saved import CHECKPOINTS
    from dedn_hf.training.experiment import Experiment, run
    from dedn_hf.training.output_folder import require_unfinished
    from dedn_hf.training.settings import TrainingSettings

    if not given.get("photos") and not given.get("preset"):
        raise ValueError("Give PHOTOS and --traits FILE, or --preset NAME.")
    if given.get("labels") and given.get("preset"):
        raise ValueError("--labels go with PHOTOS and --traits FILE, not with --preset.")
    require_unfinished(Path(out))
    own = not given.get("preset")
    with said_once():
        preset, features = own_preset(out, **given) if own else named_preset(**given)
    settings = TrainingSettings.from_dict(preset["training"])
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=settings.mixed_precision,
        log_with=settings.tracker,
        project_dir=out,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    experiment = Experiment.from_preset(preset, features)
    with nothing_said_twice() if own else nullcontext():
        if own:
            if preset["model"].get("pretrained") is True and accelerator.is_main_process:
                name = preset["model"]["backbone"]
                print(f"\nLoading {name}, whose weights are downloaded the first time.", flush=True)
            experiment.bar = announce(experiment, settings, accelerator, goes_on=(Path(out) / CHECKPOINTS).is_dir())
        record = run(experiment, settings, out, accelerator)
    accelerator.end_training()
    if accelerator.is_main_process:
        if own:
            experiment.bar.close()  # type: ignore[attr-defined]  # a JointBar
        report(record, out, given.get("old_photos") if given.get("labels") else given.get("photos"))


@contextmanager
def said_once() -> Iterator[None]:
    """Within `with`, of several processes only the first prints. The launcher has numbered them."""
    with nullcontext() if os.environ.get("RANK", "0") == "0" else redirect_stdout(io.StringIO()):
        yield


@contextmanager
def nothing_said_twice(*rooms: str) -> Iterator[None]:
    """Within `with`, no warnings about photos and table, which the check has given, and no bars but one for all.

    Nor a line for each time that a download is tried again: if it fails in the end, the error says so.

    rooms: modules whose warnings are meant, default all of `dedn_hf.data`.
    """
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in (*(rooms or ("dedn_hf.data",)), "huggingface_hub")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with no_bars_of_datasets():
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
        transformers_logging.enable_progress_bar()


@contextmanager
def no_bars_of_datasets() -> Iterator[None]:
    """Within `with`, no progress bars of `datasets`: they tell of splits that are generated, and not of photos."""
    import datasets

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()


def named_preset(preset: str, variant: str | None = None, changes: list[str] | None = None, **given: Any) -> tuple:
    """A preset with the options of the command line, and the folder for features or None."""
    from dedn_hf.training.backbones import backbone_options
    from dedn_hf.training.settings import apply_overrides, read_preset

    found = read_preset(preset, variant)
    if given.get("backbone"):
        found["model"].pop("feature_source", None)  # it was of the preset's own backbone
        options = backbone_options(given["backbone"])
        found["model"] = options | found["model"] | {"backbone": options["backbone"]}
    found = apply_overrides(found, changes)
    own = given.get("photos")
    for section, key, value in (
        ("training", "select_on", given.get("select_on")),
        ("training", "seed", given.get("seed")),
        ("data", "name", "folder" if own and not given.get("data") else given.get("data")),
        ("data", "data_dir", own or given.get("data_dir")),
        ("data", "csv", given.get("traits")),
        ("model", "pretrained", given.get("weights")),
        *(("data", name, value) for name, value in reading_of(given).items()),
    ):
        if value is not None:
            found[section][key] = value
    return found, given.get("features")


def own_preset(out: str, photos: str, traits: str | list[str] | None = None, **given: Any) -> tuple:
    """A preset for these photos, after `dedn check` has looked at them, and the folder for features."""
    from dedn_hf.data.loading import load
    from dedn_hf.publish.saved import load_model
    from dedn_hf.training.automatic import automatic_preset, continued, require_trainable, smallest_part
    from dedn_hf.training.settings import apply_overrides

    start = given.get("start_from")
    if start:
        load_model(start)  # there is one, before the work
    data = {"name": "folder", "data_dir": photos, "csv": traits, **reading_of(given)}
    if given.get("labels"):
        data |= labelled_data(data, given["labels"], given.get("old_photos"), start)
    elif given.get("old_photos"):
        raise ValueError("--old-photos go with --labels: without them, put all photos into PHOTOS.")
    elif traits is None:
        raise ValueError("Give --traits FILE, the table that describes the classes.")
    else:
        run_check(photos, traits, **{name: given[name] for name in READING if name in given})
    with nothing_said_twice("dedn_hf.data.own_photos", "dedn_hf.data.labelled"):  # but of damaged photos
        splits, table = load(**data)
    if start and data.get("like"):
        warn_of_forgetting(splits, table, start)
    if not start:
        require_trainable(splits, table)
    preset = automatic_preset(
        data,
        images=len(splits["train"]),
        seen_classes=int(table.seen.sum()),
        smallest=None if start else smallest_part(splits, table),
        **{name: given[name] for name in ("effort", "backbone", "weights") if given.get(name)},
    )
    if start:
        preset = continued(preset, start)
    for key in ("select_on", "seed"):
        if given.get(key) is not None:
            preset["training"][key] = given[key]
    if preset["training"].get("select_on") != "val":
        preset["training"].update(calibrate=False, folds=0)
    features = given.get("features") or features_folder(out, start)
    return apply_overrides(preset, given.get("changes")), features


def features_folder(out: str, start: str | None) -> str:
    """Where features go: beside the model to go on with, where features are there already, else beside the new one."""
    beside = [f"{name.rstrip('/')}-features" for name in (start or out, out)]
    return beside[0] if Path(beside[0]).is_dir() else beside[1]


def labelled_data(data: dict, labels: str, old_photos: str | None, start: str | None) -> dict:
    """Say which labelled photos were found and what is left out; the data's options for them."""
    from dedn_hf.data.labelled import read_labelled

    if data["csv"] is None and start is None:
        raise ValueError("Give --traits FILE, the table that describes the classes, or --start-from MODEL.")
    options: dict[str, Any] = {"labels": labels, "old_photos": old_photos, "like": start}
    reading = {key: value for key, value in data.items() if key != "name"}
    with nothing_said_twice():
        found = read_labelled(**reading, **options)
    for source, what in ((found.photos, labels), (found.old, old_photos)):
        if source is not None:
            print(f"{what}: {len(source.photos)} photos of {len(source.counts())} classes")
            for line in source.describe_skipped():
                print(f"  left out: {line}")
    if found.report is not None:
        print(found.report)
    return options


def warn_of_forgetting(splits: datasets.DatasetDict, table: AttributeTable, start: str) -> None:
    """Say which classes the model has learned and has no photos of now, and what becomes of them."""
    from dedn_hf.data.catalog import abbreviate

    pictured = set(splits["train"]["label"][:])
    forgotten = [name for k, name in enumerate(table.class_names) if table.seen[k] and k not in pictured]
    if forgotten:
        print(
            f"  ! {len(forgotten)} classes that {start} has learned have no photos here: {abbreviate(forgotten)}.\n"
            "    Their answers may get worse. Give those photos, too (--old-photos FOLDER), or use the new ones\n"
            "    without training (dedn describe --photos)."
        )


def announce(
    experiment: Experiment, settings: TrainingSettings, accelerator: Accelerator, goes_on: bool = False
) -> Any:
    """Say what will be done and about how long it takes; the progress bar for all of it. goes_on: after a stop."""
    from dedn_hf.data.tasks import fold_tasks
    from dedn_hf.training.experiment import new_model, pictures_to_compute
    from dedn_hf.training.plan import JointBar, measure, plan_of

    splits, table = experiment.load(False)
    model = new_model(experiment, table, settings).to(accelerator.device)
    trainings = len(fold_tasks(splits, table, settings.folds)) if settings.folds else 0
    passes, seconds = pictures_to_compute(experiment, model, settings), measure(model, splits["train"], settings)
    plan = plan_of(splits, settings, trainings, passes, seconds, model.config.flip_test)
    if accelerator.is_main_process:
        print(f"\nTraining on {accelerator.device.type.upper()} with {model.config.backbone}:")
        print(f"  {describe_classes(table)}")
        if trainings:
            print(f"  {trainings} trainings in which some of the known classes play the unseen ones, to choose by")
        for line in plan.describe():
            print(f"  {line}")
        if goes_on:
            print("  less what was done before it was stopped: it goes on there")
    return JointBar(plan, silent=not accelerator.is_main_process)


def describe_classes(table: AttributeTable) -> str:
    """One line: how many classes are learned from photos, and how many are described only."""
    seen = int(table.seen.sum())
    if seen == len(table):
        return f"{seen} classes learned from photos, none only described: a plain classifier"
    return f"{seen} classes learned from photos, {len(table) - seen} only described"


def report(record: dict, out: str, photos: str | None) -> None:
    """The scores, with what guessing would give, and what to type next."""
    from dedn_hf.metrics.scores import SCORES, chance, percent
    from dedn_hf.publish.evaluation import EXPLAINED

    results, unseen = record["results"], record["data"]["classes"]["unseen"]
    guessing = chance(sum(record["data"]["classes"].values()) - unseen, unseen)
    print(f"After epoch {results['epoch']}, on photos that were not trained on, % right and what guessing gives:")
    for key in SCORES:
        if results[key] is not None:
            print(f"  {key:6}{percent(results[key]):>6}{percent(guessing[key]):>7}   {EXPLAINED[key]}")
    if untested := [key for key in SCORES if results[key] is None]:
        print(f"  not tested, because there are no such photos: {', '.join(untested)}")
    if not photos:
        print(f"Protocol: {record['protocol']}.")
    print(f"The model and its card are in {out}. Next:")
    if photos:
        print(f"  dedn evaluate {out} {photos}")
    print(f"  dedn classify {out} NEW-PHOTOS --out answers.csv")
    print(f"  dedn explain {out} NEW-PHOTOS/ONE.jpg --out why.html")
