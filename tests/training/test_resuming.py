"""A training that was stopped within an epoch goes on with another number of processes than it was started on."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from dedn_hf.training.checkpoint import Checkpoint
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import TrainingSettings
from tests.distributed_worker import FSDP_GOES_ON
from tests.forked import run_worker
from tests.tiny_runs import feature_model, feature_task
from tests.tiny_trainings import state_of
from tests.training.test_distributed import TOLERANCE

DIRECTIONS = {"1 to 2": (1, 2), "2 to 1": (2, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the worker has trained."""
    folder = tmp_path_factory.mktemp("trained")
    run_worker("tests.resuming_worker", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["features", "images", "sharded"])
def test_what_goes_on_elsewhere_ends_with_the_weights_and_losses_of_what_was_never_stopped(folder, direction, name):
    if name == "sharded" and not FSDP_GOES_ON:
        pytest.skip("torch 2.9 does not restore the state of the optimizer with FSDP, and going on is refused")
    expected, found = (torch.load(folder / n / name / "result.pt", weights_only=True) for n in ("whole", direction))
    assert (expected["processes"], found["processes"]) == (1, DIRECTIONS[direction][1])
    assert (list(expected["steps"]), list(found["steps"])) == ([*range(9)], [7, 8])  # stopped before the last step
    start, *_, end = expected["steps"].values()
    allowed = TOLERANCE * (end - start).norm()
    for step, weights in found["steps"].items():
        assert (weights - expected["steps"][step]).norm() < allowed, step
    assert set(found["weights"]) == set(expected["weights"])
    for key, tensor in expected["weights"].items():  # of the average, where there is one
        assert (found["weights"][key].float() - tensor.float()).norm() < allowed, key
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)


# What is refused -----------------------------------------------------------------------------------------------------

SETTINGS = TrainingSettings(epochs=1, batch_size=6, sampling="uniform")


def checkpoint_of(accelerator, folder: Path, **state) -> None:
    """Leave a checkpoint in `folder`, and change what is written in it."""
    task, inputs = feature_task()
    fit(feature_model(), task, inputs, SETTINGS, accelerator, folder)
    file = folder / "checkpoint-tiny" / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | state))


@pytest.mark.parametrize(("sharding", "name"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_a_checkpoint_in_shares_is_not_taken_for_a_whole_one(sharding, name, accelerator, tmp_path):
    checkpoint_of(accelerator, tmp_path, sharding=sharding)
    with pytest.raises(ValueError, match=f"checkpoint with {name}, .*without sharding. Start it as at first"):
        checkpoint_of(accelerator, tmp_path)


def test_deepspeed_on_another_number_of_processes_is_refused_with_the_right_one(accelerator, tmp_path):
    checkpoint_of(accelerator, tmp_path, sharding="DEEPSPEED", totals=[1.0, 2.0])
    four = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, num_processes=4, is_main_process=True)
    identity = state_of(tmp_path)["identity"]
    with pytest.raises(ValueError, match="2 processes with DeepSpeed, which cannot go on with 4. Start 2, or give"):
        Checkpoint(four, tmp_path / "checkpoint-tiny", SETTINGS, identity, []).resume()
