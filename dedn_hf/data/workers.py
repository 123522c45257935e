"""Processes that load images: they outlive a signal to stop, and their death is explained."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def outlive_signals(_worker: int = 0) -> None:
    """A `worker_init_fn`: Ctrl-C reaches workers too, but the step that is finished may need their batches.

    A second SIGTERM ends the worker: the main process sends one to those that do not end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: signal.signal(number, signal.SIG_DFL))


@contextmanager
def explained_worker_death() -> Iterator[None]:
    """Turn what torch raises when a worker of a DataLoader dies into ChildProcessError, with what to do."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ChildProcessError(
            f"A process that loads images died: {str(error).strip(' .')}. Often the memory was used up: try a smaller "
            "num_workers (0: no such processes). Nothing is lost: the same command goes on from the last checkpoint."
        ) from error
