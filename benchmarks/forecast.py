"""Is the forecast of `dedn check --backbone` right? Divisions drawn at random, forecast and then measured.

    python benchmarks/forecast.py --data cub --data-dir data --backbone tf_efficientnet_lite0 --image-size 224 \\
        --crop-pct 1.0 --weights tf_efficientnet_lite0.safetensors --features runs/features
    python benchmarks/forecast.py --data cub ... --traits avonet.csv --names names.csv    # other traits, same photos
    python benchmarks/forecast.py --data shapes --unseen 8 --backbone ...

In each division other classes are unseen. The forecast sees the training photos of the seen classes only; the truth is
what ESZSL, chosen and trained on these, reaches on the test photos. The pairs that are named are compared with the
confusions of that ESZSL, and the two classes to photograph with two that are drawn.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import RESULTS, environment

from dedn_hf.cli.backbone import add_backbone_arguments, pooled_photos, take_backbone
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.studies.baselines import Baseline, baselines
from dedn_hf.studies.forecast import FORECAST, Forecast, forecast
from dedn_hf.studies.pooled import PooledPhotos, joined, redivided
from dedn_hf.studies.probes import ESZSL
from dedn_hf.studies.trials import hold_out_classes
from dedn_hf.studies.visibility import confusions
from dedn_hf.traits import read_traits


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cub, sun, awa2, shapes, or a prepared folder")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--traits", nargs="+", default=[], help="tables of traits in place of the data set's own")
    parser.add_argument("--names", help="which class is which name of these tables: CSV of folder,name")
    parser.add_argument("--unseen", type=int, default=10, help="classes that are unseen in each division (default 10)")
    parser.add_argument("--divisions", type=int, default=20, help="(default 20)")
    parser.add_argument("--name", help="of the file of results (default: the data set's)")
    add_backbone_arguments(parser, required=True)
    return parser.parse_args()


def described_by(table: AttributeTable, traits: list[str], names: str | None) -> AttributeTable:
    """The same classes, described by other tables, side by side."""
    parts = [read_traits(path, photos=table.class_names, names=names).select(table.class_names) for path in traits]
    if not parts:
        return table
    return AttributeTable(
        table.class_names,
        [f"{number}: {name}" for number, part in enumerate(parts) for name in part.attribute_names],
        np.hstack([part.class_attributes for part in parts]),
    )


def pairs_named(
    parts: dict[str, PooledPhotos], table: AttributeTable, said: Forecast, truth: Baseline
) -> dict[str, float]:
    """Share of photos confused in the five pairs of unseen classes that are named, and in all pairs of them."""
    everything, tested = together(parts)
    seen, unseen = np.flatnonzero(table.seen), np.flatnonzero(~table.seen)
    (trial,) = hold_out_classes(ESZSL, everything, tested, table.class_attributes, seen, unseen, [truth.setting])
    beaten = confusions(trial)[len(seen) :, len(seen) :]
    shares = (beaten + beaten.T) / 2
    place = {table.class_names[index]: number for number, index in enumerate(unseen)}
    named = [pair for pair in said.pairs if not pair.seen][:5]
    return {
        "said of the named": float(np.mean([pair.share for pair in named])),
        "true of the named": float(np.mean([shares[place[pair.first], place[pair.second]] for pair in named])),
        "true of all": float(shares[np.triu_indices(len(unseen), 1)].mean()),
    }


def photographed(
    parts: dict[str, PooledPhotos], table: AttributeTable, classes: Sequence[int], truth: Baseline
) -> float:
    """Accuracy of all unseen classes among all classes, with four fifths of the photos of some of them learned."""
    everything, tested = together(parts)
    tested &= ~(np.isin(everything.labels, classes) & ~everything.held_out("test"))
    seen = np.sort([*np.flatnonzero(table.seen), *classes])
    rest = np.setdiff1d(np.flatnonzero(~table.seen), classes)
    (trial,) = hold_out_classes(ESZSL, everything, tested, table.class_attributes, seen, rest, [truth.setting])
    accuracies = dict(zip(trial.classes.tolist(), trial.scores(truth.constant)["per_class_accuracy"], strict=True))
    return float(np.mean([accuracies[index] for index in [*classes, *rest]]))


def together(parts: dict[str, PooledPhotos]) -> tuple[PooledPhotos, np.ndarray]:
    """All photos, and which of them are tested."""
    everything = joined([parts["train"], parts["test_seen"], parts["test_unseen"]])
    return everything, np.arange(len(everything.labels)) >= len(parts["train"].labels)


def main() -> None:
    """Forecast and measure every division, print the means, keep all numbers."""
    arguments = vars(parse_arguments())
    options = {key: value for key, value in arguments.items() if value is not None}
    source = {"name": options["data"]} | ({"data_dir": options["data_dir"]} if "data_dir" in options else {})
    photos, table = pooled_photos(source, **take_backbone(options))
    table = described_by(table, arguments["traits"], arguments["names"])
    found = []
    for seed in range(arguments["divisions"]):
        parts, divided = redivided(photos, table, arguments["unseen"], seed)
        expected = forecast(parts["train"], divided)
        (truth,) = baselines(parts, divided, [ESZSL])
        found.append({"expected": expected.expected, "spread": expected.spread, "truth": truth.scores})
        found[-1]["pairs"] = pairs_named(parts, divided, expected, truth)
        named = [divided.class_names.index(name) for name in expected.to_photograph[:2]]
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(~divided.seen))
        found[-1]["photographed"] = {
            "named": photographed(parts, divided, named, truth),
            "drawn": float(np.mean([photographed(parts, divided, drawn[at : at + 2], truth) for at in (0, 2, 4)])),
        }
        print(
            seed, *(f"{name} {100 * expected.expected[name]:.1f} {100 * truth.scores[name]:.1f}" for name in FORECAST)
        )
    print("score  forecast  truth  difference  within one spread, two")
    for name in FORECAST:
        expected, spread, truth = (
            100 * np.array([each[part][name] for each in found]) for part in ("expected", "spread", "truth")
        )
        off = np.abs(expected - truth) / spread
        print(
            f"{name:5} {expected.mean():6.1f} ± {expected.std(ddof=1):4.1f} "
            f"{truth.mean():6.1f} ± {truth.std(ddof=1):4.1f} {(expected - truth).mean():+6.1f}  "
            f"{np.mean(off < 1):.0%} {np.mean(off < 2):.0%}"
        )
    for title, part in (("share of photos confused", "pairs"), ("right, two of them photographed", "photographed")):
        means = {name: 100 * np.mean([each[part][name] for each in found]) for name in found[0][part]}
        print(f"{title}:", ", ".join(f"{name} {value:.1f}" for name, value in means.items()))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"forecast-{arguments['name'] or Path(arguments['data']).name}.json"
    file.write_text(json.dumps({"environment": environment(), "divisions": found}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"forecast.py: {error}")
