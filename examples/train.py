"""Train a DEDN.

    accelerate launch examples/train.py --config cub --data-dir data --output-dir runs/cub

Without images at hand, `--data shapes` needs none. Settings of the preset change by `--set training.epochs=5`.
"""

import argparse
import sys

from accelerate import Accelerator, DistributedDataParallelKwargs

from dedn_hf.metrics.scores import SCORES, percent
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.settings import TrainingSettings, read_preset


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="preset, e.g. cub")
    parser.add_argument("--variant", help="variant of the preset, e.g. zsl")
    parser.add_argument(
        "--data", help="data set in place of the preset's: cub, sun, awa2, folder, shapes, or a folder"
    )
    parser.add_argument("--data-dir", help="folder of the images")
    parser.add_argument("--output-dir", required=True, help="the trained model and run.json go there")
    parser.add_argument("--features-dir", help="cache the frozen backbone's feature maps there, and train on those")
    parser.add_argument("--weights", help="file of backbone weights, in place of timm's download")
    parser.add_argument("--select-on", choices=["val", "test", "last"], help="see TrainingSettings.select_on")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, also where there is a GPU")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="change settings")
    return parser.parse_args()


def main() -> None:
    """Read the preset, train, print the result."""
    arguments = parse_arguments()
    preset = read_preset(arguments.config, arguments.variant, arguments.set)
    for section, key, value in (
        ("training", "select_on", arguments.select_on),
        ("training", "seed", arguments.seed),
        ("data", "name", arguments.data),
        ("data", "data_dir", arguments.data_dir),
        ("model", "pretrained", arguments.weights),
    ):
        if value is not None:
            preset[section][key] = value
    settings = TrainingSettings.from_dict(preset["training"])
    accelerator = Accelerator(
        cpu=arguments.cpu,
        mixed_precision=settings.mixed_precision,
        log_with=settings.tracker,
        project_dir=arguments.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    record = run(Experiment.from_preset(preset, arguments.features_dir), settings, arguments.output_dir, accelerator)
    accelerator.end_training()
    if accelerator.is_main_process:
        results = record["results"]
        print(f"{record['protocol']}\nepoch {results['epoch']}: ", end="")
        print("  ".join(f"{key} {percent(results[key])}" for key in SCORES))
        print(f"Model and run.json are in {arguments.output_dir}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        print("\ntrain.py: stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
