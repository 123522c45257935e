"""DeepSpeed on two CPU processes gives the weights of one process without it. Skipped where it is not installed."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.features import weights_hash
from tests.forked import run_worker
from tests.training.test_distributed import TOLERANCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install deepspeed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the worker has trained."""
    folder = tmp_path_factory.mktemp("trained")
    run_worker("tests.deepspeed_worker", folder)
    return folder


def results(folder: Path, name: str) -> tuple[dict, dict]:
    return tuple(torch.load(folder / n / name / "result.pt", weights_only=True) for n in ("whole", "shared"))


@pytest.mark.parametrize(("name", "made_here"), [("accumulated", range(5)), ("saved", range(9)), ("stopped", [7, 8])])
def test_every_step_gives_the_weights_and_every_epoch_the_loss_of_one_process(folder, name, made_here):
    expected, found = results(folder, name)
    assert (expected["processes"], found["processes"], list(found["steps"])) == (1, 2, list(made_here))
    start = expected["steps"][0]
    for step, weights in found["steps"].items():
        moved = (expected["steps"][step] - start).norm()
        assert (weights - expected["steps"][step]).norm() <= TOLERANCE * moved, f"step {step}"
    assert set(found["weights"]) == set(expected["weights"])
    for key, tensor in expected["weights"].items():
        torch.testing.assert_close(found["weights"][key], tensor, rtol=1e-3, atol=3e-4, msg=key)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)


def test_the_optimizer_is_in_shares_and_its_checkpoint_says_so(folder):
    checkpoint = folder / "shared" / "stopped" / "checkpoint-test"
    state = json.loads((checkpoint / "state.json").read_text())
    assert (state["sharding"], len(state["totals"])) == ("DEEPSPEED", 2)
    assert len([name for name in state["files"] if name.endswith("optim_states.pt")]) == 2


def test_what_is_saved_is_a_model_like_any_other(folder):
    plain, shared = (folder / n / "saved" / "run" for n in ("whole", "shared"))
    assert {path.name for path in shared.iterdir()} == {path.name for path in plain.iterdir()}
    model = DEDNForZeroShot.from_pretrained(shared)
    assert json.loads((shared / "run.json").read_text())["model"]["weights"] == weights_hash(model)
