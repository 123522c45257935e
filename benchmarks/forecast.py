"""Is the forecast of `dedn check --backbone` right? Divisions drawn at random, forecast and then measured.

    python benchmarks/forecast.py --data cub --data-dir data --backbone tf_efficientnet_lite0 --image-size 224 \\
        --crop-pct 1.0 --weights tf_efficientnet_lite0.safetensors --features runs/features
    python benchmarks/forecast.py --data cub ... --traits avonet.csv --names names.csv    # other traits, same photos
    python benchmarks/forecast.py --data shapes --unseen 8 --backbone ...

In each division other classes are unseen. The forecast sees the training photos of the seen classes only; the truth is
what ESZSL, chosen and trained on these, reaches on the test photos.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from harness import RESULTS, environment

from dedn_hf.cli.backbone import add_backbone_arguments, pooled_photos, take_backbone
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.studies.baselines import baselines
from dedn_hf.studies.forecast import FORECAST, forecast
from dedn_hf.studies.pooled import redivided
from dedn_hf.studies.probes import ESZSL
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
        print(
            seed, *(f"{name} {100 * expected.expected[name]:.1f} {100 * truth.scores[name]:.1f}" for name in FORECAST)
        )
    print("score  forecast  truth  difference  within one spread, two")
    for name in FORECAST:
        expected, spread, truth = (100 * np.array([each[part][name] for each in found]) for part in found[0])
        off = np.abs(expected - truth) / spread
        print(
            f"{name:5} {expected.mean():6.1f} ± {expected.std(ddof=1):4.1f} "
            f"{truth.mean():6.1f} ± {truth.std(ddof=1):4.1f} {(expected - truth).mean():+6.1f}  "
            f"{np.mean(off < 1):.0%} {np.mean(off < 2):.0%}"
        )
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"forecast-{arguments['name'] or Path(arguments['data']).name}.json"
    file.write_text(json.dumps({"environment": environment(), "divisions": found}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"forecast.py: {error}")
