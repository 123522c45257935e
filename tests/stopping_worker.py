"""Trains on two processes, one of which gets a signal. test_stopping.py runs it."""

import json
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from dedn_hf.training import loop as training
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import feature_model, feature_task


def trained(accelerator: Accelerator, folder: Path, signal_at: int = 0) -> dict[str, torch.Tensor] | int:
    """Final weights, or the exit code if training stops. The second process gets SIGTERM at step `signal_at`."""
    build, steps = training.build_optimizer, []

    def watched(*arguments):
        optimizer = build(*arguments)

        def count(*_):
            steps.append(1)
            if len(steps) == signal_at and not accelerator.is_main_process:
                signal.raise_signal(signal.SIGTERM)

        optimizer.register_step_post_hook(count)
        return optimizer

    training.build_optimizer = watched
    settings = TrainingSettings(epochs=12, batch_size=6, sampling="uniform", learning_rate=0.003)
    model, (task, inputs) = feature_model(feature_dropout=0.2), feature_task()
    try:
        fit(model, task, inputs, settings, accelerator, folder)
    except SystemExit as stop:
        return stop.code
    finally:
        training.build_optimizer = build
    return model.state_dict()


def main(folder: Path) -> None:
    """Train without and with an interruption; the main process saves what it found."""
    accelerator = Accelerator(cpu=True)
    whole = trained(accelerator, folder / "whole")
    code = trained(accelerator, folder / "cut", signal_at=22)
    state = json.loads((folder / "cut" / "checkpoint-tiny" / "state.json").read_text())
    resumed = trained(accelerator, folder / "cut")
    found = {
        "processes": accelerator.num_processes,
        "code": code,
        "epochs": len(state["epochs"]),
        "step": state["step"],
        "different": [name for name in whole if not torch.equal(whole[name], resumed[name])],
    }
    if accelerator.is_main_process:
        (folder / "found.json").write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
