"""`python -m dedn_hf` is the command `dedn`."""

import sys

from dedn_hf.cli import main

if __name__ == "__main__":
    sys.exit(main())
