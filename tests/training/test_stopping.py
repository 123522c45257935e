"""Ctrl-C, SIGTERM and workers that die: a training stops, says what to do, and goes on from there."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dedn_hf.training.loop import fit
from tests.tiny_runs import FeatureMaps, feature_model, feature_task
from tests.tiny_trainings import assert_same, at_step, fitted, settings, state_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("heeding_ctrl_c")
STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (6, {}),
        (8, {"checkpoint_every": 2, "ema_decay": 0.8, "schedule": "cosine", "sampling": "class_balanced"}),
        (3, {"gradient_accumulation_steps": 3, "optimizer": "adamw"}),
    ],
)
def test_a_stop_within_an_epoch_saves_it_and_the_end_has_the_same_bits(
    number, step, changes, accelerator, tmp_path, monkeypatch
):
    expected = fitted(accelerator, tmp_path / "whole", **changes)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(STOPS[number]) as stop:
        at_step(patch, step, lambda: signal.raise_signal(number))
        fitted(accelerator, tmp_path / "cut", **changes)
    assert number == signal.SIGINT or stop.value.code == 143
    assert signal.getsignal(number) == before
    each = 2 if "gradient_accumulation_steps" in changes else 4
    state = state_of(tmp_path / "cut")
    assert (len(state["epochs"]), state["step"] > 0) == ((step - 1) // each, True)
    assert_same(fitted(accelerator, tmp_path / "cut", **changes), expected)


def test_a_second_signal_stops_at_once_and_the_checkpoint_before_stays(accelerator, tmp_path, monkeypatch):
    expected = fitted(accelerator, tmp_path / "whole")

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 6, twice)
        fitted(accelerator, tmp_path / "cut")
    assert (len(state_of(tmp_path / "cut")["epochs"]), state_of(tmp_path / "cut")["step"]) == (1, 0)
    assert_same(fitted(accelerator, tmp_path / "cut"), expected)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_that_is_ignored_stays_ignored(number, accelerator, tmp_path, monkeypatch):
    before = signal.signal(number, signal.SIG_IGN)  # as a script starts a command in the background
    try:
        at_step(monkeypatch, 6, lambda: signal.raise_signal(number))
        assert len(fitted(accelerator, tmp_path)[1]) == 3
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_without_checkpoints_a_signal_is_left_as_it_is(accelerator, tmp_path, monkeypatch):
    at_step(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fitted(accelerator, tmp_path, checkpoint_every=0)
    assert not list(tmp_path.iterdir())


class FromWorkers(FeatureMaps):
    """Feature maps that come from processes, which get every signal that the main process gets; number 3 may kill."""

    deadly = False

    def __getitems__(self, indices):
        if self.deadly and 3 in indices and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(indices)


def from_workers(accelerator, folder, deadly: bool = False) -> tuple:
    model, (task, inputs) = feature_model(), feature_task()
    data = FromWorkers(task.labels["train"].tolist(), seed=1)
    data.deadly = deadly
    history = fit(
        model, task, lambda s: data if s == "train" else inputs(s), settings(num_workers=2), accelerator, folder
    )
    return model.state_dict(), history.epochs


def test_workers_outlive_the_signal_that_stops_the_training(accelerator, tmp_path, monkeypatch):
    expected = from_workers(accelerator, tmp_path / "whole")

    def to_all():
        for process in torch.multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)
            os.kill(process.pid, signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 5, to_all)
        from_workers(accelerator, tmp_path / "cut")
    assert_same(from_workers(accelerator, tmp_path / "cut"), expected)


def test_a_worker_that_dies_is_an_error_that_says_what_to_try_and_nothing_is_lost(accelerator, tmp_path):
    with pytest.raises(ChildProcessError, match="loads images died: DataLoader worker.*num_workers.*goes on from"):
        from_workers(accelerator, tmp_path / "cut", deadly=True)
    assert_same(from_workers(accelerator, tmp_path / "cut"), from_workers(accelerator, tmp_path / "whole"))


def test_two_processes_stop_at_the_same_step_when_one_of_them_gets_a_signal(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, "-m", "tests.stopping_worker", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    # The signal comes at step 2 of the sixth epoch; they agree at its end, and at every eighth question at least.
    assert found["epochs"] == 5 and 2 <= found["step"] <= 4 or (found["epochs"], found["step"]) == (6, 0)
    assert (found["processes"], found["code"], found["different"]) == (2, 143, [])
