"""Evaluate a saved model on a data set: T1, U, S, H and AUSUC, and the accuracy of every class.

    python examples/evaluate.py runs/cub --data cub --data-dir data

It is the command `dedn evaluate`. Several processes give the same numbers: accelerate launch examples/evaluate.py ...
"""

import sys

from dedn_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
