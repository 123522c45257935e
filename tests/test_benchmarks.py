"""All benchmarks run, at small sizes, and say on which processor; none writes its results then."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import ALL
from benchmarks.harness import RESULTS, processor
from dedn_hf.data.cpu import cpu_name

ROOT = Path(__file__).parents[1]


def results() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in RESULTS.glob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_benchmark_runs_quickly_names_the_processor_and_writes_nothing(name):
    before = results()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"on {processor()}") >= 1 and done.stdout.rstrip().endswith("All have run.")
    assert results() == before


def test_the_processor_is_named_with_what_torch_uses_of_it():
    assert processor().startswith(str(cpu_name())) and "1 threads" in processor()


def test_what_fails_is_named_and_the_others_run_all_the_same(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("__main__.py", "harness.py"):
        (folder / name).write_bytes((ROOT / "benchmarks" / name).read_bytes())
    (folder / "step.py").write_text("raise SystemExit(1)\n")
    (folder / "memory.py").write_text("print('measured')\n")
    command = [sys.executable, "-m", "benchmarks", "--only", "step", "memory"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "measured" in done.stdout and "Failed: step" in done.stdout
