"""Trainings on several processes that are forked from one, which imports everything once; stopped and watched."""

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

STOP_AT = 7  # With 4 steps an epoch this is where two processes ask each other for the eighth time: epoch 2, step 3


def run_worker(module: str, folder: Path) -> None:
    """Run a worker as a program of its own: it must not have computed anything before it forks."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


def in_processes(count: int, act: Callable, *arguments: object) -> None:
    """Call `act(accelerator, *arguments)` in so many processes, and wait. The caller must not have computed anything.

    One process has a group too, where it can share a model with itself, but Accelerate does not know of it.
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
    """Call `look` before each epoch's first step and after every step of the trainings within."""
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
    """Train until the last process gets SIGTERM; `folder` then holds a checkpoint."""

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
    """Train with the checkpoint in `folder`, and write what came of it to the file result.pt there.

    That is 'steps', all trained weights as one vector before and after each step that was made here, by its number;
    and the 'weights' at the end and the 'losses' that `train` gives.
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
