"""Runs, stops and watches trainings on processes that are forked from one, so that imports are done only once."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch.multiprocessing import start_processes

from dedn_hf.training.loop import Training

STOP_AT = 7  # at 4 steps an epoch: epoch 2, step 3, where two processes ask each other for the eighth time


def run_worker(module: str, folder: Path) -> None:
    """Run a worker as a program of its own, because it must not have computed anything before it forks."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


def in_processes(count: int, act: Callable, *arguments: object) -> None:
    """Call `act(accelerator, *arguments)` in `count` processes and wait. The caller must not have computed anything.

    A single process also gets a process group, so that it can shard a model. Accelerate does not know of this group.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    start_processes(_process, (count, address, act, arguments), count, start_method="fork")


def _process(rank: int, count: int, address: str, act: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    if count > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in places.items()})
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    assert accelerator.num_processes == count
    act(accelerator, *arguments)
    torch.distributed.destroy_process_group()


@contextmanager
def watched(look: Callable[[Training], None]) -> Iterator[None]:
    """Within this context, call `look` before the first step of each epoch and after every step of a training."""
    original = Training.steps

    def steps(self, *arguments) -> Iterator[None]:
        look(self)
        for _ in original(self, *arguments):
            look(self)
            yield

    Training.steps = steps
    try:
        yield
    finally:
        Training.steps = original


def stopped(train: Callable, accelerator: Accelerator, folder: Path) -> None:
    """Train until the last process gets SIGTERM. `folder` then has a checkpoint."""

    def stop(running: Training) -> None:
        if running.scheduler.last_epoch == STOP_AT and accelerator.is_last_process:
            signal.raise_signal(signal.SIGTERM)

    try:
        with watched(stop):
            train(accelerator, folder)
    except SystemExit:
        return
    raise AssertionError("the training was not stopped")


def finished(train: Callable, accelerator: Accelerator, folder: Path) -> None:
    """Continue from the checkpoint in `folder`, and save the result in result.pt there.

    'steps' maps step number -> all trained weights as one vector, before the first and after each step done here.
    'weights' are those at the end, and 'losses' those that `train` gives.
    """
    steps = {}

    def note(running: Training) -> None:
        trained = [p for p in accelerator.unwrap_model(running.model).parameters() if p.requires_grad]
        whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trained]
        steps[running.scheduler.last_epoch] = torch.cat([p.detach().flatten() for p in whole])

    with watched(note):
        weights, losses = train(accelerator, folder)
    if accelerator.is_main_process:
        found = {"processes": accelerator.num_processes, "steps": steps, "weights": weights, "losses": losses}
        torch.save(found, folder / "result.pt")
