"""Compare variants of a preset over several seeds: ablations, sensitivity, backbones.

    python examples/study.py examples/configs/study/components.yaml --config cub \\
        --data-dir data --features-dir runs/features --seeds 0 1 2 --jobs 2 --output-dir runs/study

The tables go to OUTPUT_DIR/components.md and .tex. The same command goes on after an interruption, and another study
with the same output folder uses the trainings that are there. Commands that run at the same time share the work.
"""

import argparse
import json
import sys
from pathlib import Path

import datasets

from dedn_hf.studies.report import write_report
from dedn_hf.studies.study import Study, execute, make_plan


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the variants, e.g. examples/configs/study/components.yaml")
    parser.add_argument("--config", required=True, help="the preset that they vary, e.g. cub")
    parser.add_argument("--output-dir", type=Path, required=True, help="tables, trainings and predictions go there")
    parser.add_argument("--name", help="of the tables (default: the study file's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants and the reference")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default 1)")
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--features-dir", type=Path, help="cache the frozen backbone's feature maps there")
    parser.add_argument("--weights", help="file of backbone weights, in place of timm's download")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, also where there is a GPU")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="change settings of all")
    return parser.parse_args()


def main() -> None:
    """Plan, train what is missing, write the tables."""
    arguments = parse_arguments()
    datasets.disable_progress_bars()
    study = Study.from_yaml(arguments.study)
    if arguments.only:
        study = study.select(arguments.only)
    overrides = list(arguments.set)
    if arguments.data_dir:
        overrides.append(f"data.data_dir={json.dumps(arguments.data_dir)}")
    if arguments.weights:
        overrides.append(f"model.pretrained={json.dumps(arguments.weights)}")
    plan = make_plan(
        *(study, arguments.config, overrides, arguments.seeds, arguments.output_dir),
        features=arguments.features_dir,
        cpu=arguments.cpu,
    )
    failed = execute(plan, arguments.jobs)
    if failed:
        sys.exit(f"study.py: {len(failed)} of {len(plan.trainings)} trainings failed; the same command tries again.")
    report = write_report(study, plan, arguments.output_dir, arguments.name or arguments.study.stem)
    print(f"\n{report.read_text(encoding='utf-8')}\nTables are in {report.parent}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"study.py: {error}")
    except KeyboardInterrupt:
        print("\nstudy.py: stopped. The same command goes on.", file=sys.stderr)
        sys.exit(130)
