"""Train a DEDN: the same as `dedn train`, as a script for `accelerate launch`.

    accelerate launch examples/train.py --config cub --data-dir data --output-dir runs/cub
    accelerate launch examples/train.py photos --traits birds.csv --out birds

Without images at hand, `--config shapes` needs none. Settings change by `--set training.epochs=5`.
"""

import sys

from dedn_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
