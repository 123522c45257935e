"""dedn evaluate: how often a model is right, and how far its confidence can be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.cli.check import OneOrSeveral, add_reading_arguments, reading_of
from dedn_hf.cli.train import no_bars_of_datasets

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.training.testing import TestSet

LEAST_CLASSES = 3  # that the bar to beat learns from


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """dedn evaluate: how often a model is right, and how far its confidence can be trusted."""
    parser = commands.add_parser(
        "evaluate",
        help="test a model on photos that it was not trained on",
        description="Says how often the model is right, class by class, what it mixes up, and how far its confidence "
        "can be trusted. Of the photos that it was trained on, only those that the training held out are tested on. "
        "Several processes share the work: accelerate launch -m dedn_hf evaluate ... Code that lies beside the "
        "weights is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument("photos", metavar="PHOTOS", nargs="?", help="folder with one folder a class, or list of files")
    parser.add_argument("--all", dest="all_new", action="store_true", help="none was trained on: test on every photo")
    parser.add_argument(
        "--traits",
        metavar="FILE",
        action=OneOrSeveral,
        help="choose among the classes of this table (default: its own); give it again for a further table",
    )
    add_reading_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--html", metavar="FILE", help="write a page with diagrams and the confusion of all classes")
    parser.add_argument(
        "--features",
        "--features-dir",
        metavar="DIR",
        help="folder that keeps the photos' features; made if it is not there",
    )
    parser.add_argument(
        "--bar",
        action="store_true",
        help="also say what a simple method, ESZSL, reaches that is trained on the photos that are not tested on, on "
        "the same features; with --features it is always said where there are such photos",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="photos at a time, in each process (default 64)")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes that decode photos (default 0)")
    parser.add_argument("--cpu", action="store_true", help="use the CPU, also where there is a GPU")
    known = parser.add_argument_group("benchmarks and other data sets, in place of PHOTOS")
    known.add_argument("--data", metavar="NAME", help="cub, sun, awa2, folder, shapes, or a prepared folder")
    known.add_argument("--data-dir", metavar="DIR", help="folder of the images")
    known.add_argument("--csv", metavar="FILE", help="folder: class attributes (default: attributes.csv in it)")
    known.add_argument("--set", nargs="*", metavar="KEY=VALUE", help="other options of the data set")
    known.add_argument("--split", choices=["test", "validation"], help="(default: test)")
    parser.set_defaults(run=run_evaluate)


def run_evaluate(
    model: str,
    cpu: bool,
    all_new: bool,
    json: str | None = None,
    html: str | None = None,
    features: str | None = None,
    bar: bool = False,
    **given: Any,
) -> None:
    """Test, print one screen, and write what was asked for. Raises as `evaluate_photos`."""
    from accelerate import Accelerator

    from dedn_hf.modeling.saving import require_writable
    from dedn_hf.training.output_folder import write_json
    from dedn_hf.training.testing import evaluated

    for path, suffix in ((json, ".json"), (html, ".html")):
        if path is not None:
            require_writable(path, [suffix])  # before the work
    accelerator = Accelerator(cpu=cpu)
    how = {name: given.pop(name) for name in ("batch_size", "num_workers") if name in given}
    with no_bars_of_datasets():
        loaded, chosen, described = what_to_test(model, all_new, accelerator, **given)
        found = evaluated(loaded, chosen, features, accelerator, **how)
    if not accelerator.is_main_process:
        return
    if bar or features:
        with nullcontext() if bar else suppress(ValueError):  # only who asks for it is told why there is none
            found.bar = bar_to_beat(loaded, chosen, features)
    print(found.to_text())
    if json:
        write_json(Path(json), {"model": model, **described, **found.to_dict()})
        print(f"\nWrote {json}")
    if html:
        found.save(html, f"How well {Path(model).name} recognises its classes")
        print(f"Wrote {html}")


def bar_to_beat(model: DEDNForZeroShot, chosen: TestSet, features: str | None) -> dict[str, Any]:
    """What ESZSL reaches, trained on the photos that are not tested on: its name, their number, and its scores.

    Raises ValueError where there are too few of these, or no class is unseen.
    """
    from dedn_hf.studies.baselines import baselines
    from dedn_hf.studies.pooled import pool
    from dedn_hf.studies.probes import ESZSL

    task, names = chosen.task, {"train": "train", "seen": "test_seen", "unseen": "test_unseen"}
    if len(task.labels["train"].unique()) < LEAST_CLASSES:
        raise ValueError(
            f"The bar to beat needs photos to learn from, of {LEAST_CLASSES} classes at least, beside those that are "
            "tested on. Give the folder that the model was trained on, or leave out --bar."
        )
    photos = pool({name: task.images[split] for split, name in names.items()}, model, features)
    photos = {name: replace(photos[name], labels=task.labels[split].numpy()) for split, name in names.items()}
    (found,) = baselines(photos, task.table, [ESZSL])
    return {"name": found.name, "photos": len(photos["train"].labels), **found.scores}


def what_to_test(
    model: str, all_new: bool, accelerator: Accelerator, photos: str = "", data: str = "", **given: Any
) -> tuple[DEDNForZeroShot, TestSet, dict]:
    """Model, test set, and its description. Raises ValueError unless either photos or a data set is given."""
    if bool(photos) == bool(data):
        raise ValueError("Give a folder of photos to test on, or a data set with --data.")
    if data:
        return benchmark(model, data, accelerator, **given)
    from dedn_hf.training.testing import model_and_photos

    for name in ("data_dir", "csv", "set", "split"):
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --data. Leave it out.")
    found = model_and_photos(model, photos, accelerator, all_new=all_new, **{**given, **reading_of(given)})
    return *found, {"photos": Path(photos).name}


def benchmark(
    model: str,
    data: str,
    accelerator: Accelerator,
    data_dir: str | None = None,
    csv: str | None = None,
    set: Sequence[str] = (),
    split: str = "test",
    **others: Any,
) -> tuple[DEDNForZeroShot, TestSet, dict]:
    """A data set that `load` knows. Raises ValueError for an argument that belongs to own photos only."""
    from dedn_hf.publish.saved import load_model
    from dedn_hf.training.inputs import data_options
    from dedn_hf.training.testing import known_data

    for name in others:
        raise ValueError(f"--{name.replace('_', '-')} belongs to a folder of photos, not to --data. Leave it out.")
    named = data_options(argparse.Namespace(data=data, data_dir=data_dir, csv=csv, set=set))
    loaded = load_model(model)
    chosen = known_data(loaded, named, accelerator, validation=split == "validation")
    return loaded, chosen, {"data": named, "split": split}
