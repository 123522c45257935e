"""Trains with DeepSpeed on two processes, and without it on one. test_deepspeed.py runs it."""

import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType

from tests import distributed_worker
from tests.forked import finished, in_processes, stopped
from tests.resuming_worker import on_images

FILE = Path(__file__).parents[1] / "examples" / "configs" / "accelerate" / "deepspeed.yaml"
RUNS = {
    "accumulated": distributed_worker.on_images,  # with clipping, and self-calibration
    "saved": distributed_worker.RUNS["augmented"],
    "stopped": on_images,
}


def share(accelerator: Accelerator) -> None:
    """Use DeepSpeed from now on as deepspeed.yaml says. Accelerate itself does this on GPUs only."""
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # gloo is enough; compiling it takes minutes
    deepspeed.init_distributed("gloo")
    plugin = DeepSpeedPlugin(**yaml.safe_load(FILE.read_text())["deepspeed_config"])
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.DEEPSPEED
    accelerator.state.deepspeed_plugins = {"default": plugin}
    plugin.select(_from_accelerator_state=True)
    accelerator.deepspeed_engine_wrapped = None


def one_process(accelerator: Accelerator, folder: Path) -> None:
    """On one process, for comparison: train without DeepSpeed."""
    for name, train in RUNS.items():
        finished(train, accelerator, folder / "whole" / name)
        accelerator.free_memory()


def two_processes(accelerator: Accelerator, folder: Path) -> None:
    """On two processes: train with DeepSpeed; one of the trainings is stopped and continued."""
    share(accelerator)
    stopped(on_images, accelerator, folder / "shared" / "stopped")
    for name, train in RUNS.items():
        finished(train, accelerator, folder / "shared" / name)
        accelerator.free_memory()


if __name__ == "__main__":
    for processes, act in ((1, one_process), (2, two_processes)):
        in_processes(processes, act, Path(sys.argv[1]))
