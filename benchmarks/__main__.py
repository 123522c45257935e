"""All benchmarks that need no data set, one after the other: what `make bench` runs.

python -m benchmarks            writes benchmarks/results/*.json
python -m benchmarks --quick    small sizes, nothing written: whether all of them run
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import processor

ALL = ("step", "inference", "memory", "startup", "extraction", "classify", "growth", "serving")


def main() -> int:
    """Run them, and say at the end which have failed; gives 1 then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL, metavar="NAME", help=", ".join(ALL))
    arguments = parser.parse_args()
    print(f"On {processor()}", flush=True)
    failed = []
    for name in arguments.only:
        command = [sys.executable, str(Path(__file__).parent / f"{name}.py"), *["--quick"] * arguments.quick]
        if subprocess.run(command).returncode:
            failed.append(name)
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nAll have run.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
