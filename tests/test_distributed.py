"""Two processes give the numbers of one: the scores of an odd number of images, and the weights after training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests import distributed_worker

ROOT = Path(__file__).parents[1]
# The processes add the same gradients in another order: float32 rounding, and what RMSprop makes of it.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, tuple[dict, Path]]:
    """Numbers and folder of the worker's run, here in one process and, launched, in two."""
    folders = {processes: tmp_path_factory.mktemp(f"on_{processes}") for processes in (1, 2)}
    AcceleratorState._reset_state(reset_partial_state=True)
    distributed_worker.main(folders[1])
    AcceleratorState._reset_state(reset_partial_state=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, "-m", "tests.distributed_worker", str(folders[2])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return {n: (json.loads((folder / "numbers.json").read_text()), folder) for n, folder in folders.items()}


def test_the_second_run_had_two_processes(results):
    assert [results[count][0]["processes"] for count in (1, 2)] == [1, 2]


@pytest.mark.parametrize("batch_size", ["3", "64"])
def test_evaluation_counts_every_image_once(results, batch_size):
    one, two = (results[count][0]["evaluation"][batch_size] for count in (1, 2))
    assert len(one["labels"]) == 13
    assert two["labels"] == one["labels"]
    torch.testing.assert_close(torch.tensor(two["logits"]), torch.tensor(one["logits"]))
    assert two["scores"].pop("per_class_accuracy") == one["scores"].pop("per_class_accuracy")
    assert two["scores"] == pytest.approx(one["scores"])


@pytest.mark.parametrize("run", ["uniform", "balanced", "images"])
def test_training_ends_with_the_same_weights_and_reports_the_same_losses(results, run):
    (one, first), (two, second) = results[1], results[2]
    expected, found = (torch.load(folder / f"{run}.pt", weights_only=True) for folder in (first, second))
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}", **TOLERANCE
        )
    assert two["losses"][run] == pytest.approx(one["losses"][run], rel=1e-5)
