"""Threads: no more than the process has cores, and a word where other programs keep them waiting."""

from __future__ import annotations

import functools
import logging
import os

import torch

from dedn_hf.data.cpu import available_cores

logger = logging.getLogger(__name__)

BUSY = 1.5  # programs that want to run, for each core


@functools.cache
def settle_threads() -> None:
    """Once a process, before it computes: at most as many threads as it has cores. OMP_NUM_THREADS goes before.

    In a container that may use two cores of a machine of 64, torch would start 64 threads, which take turns on two.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
    load = load_per_core()
    if torch.get_num_threads() > 1 and load > BUSY and not torch.accelerator.is_available():
        logger.warning(
            "Other programs keep this machine busy: %.1f of them for each core. Threads then wait for each other, and "
            "a network can be slower with several than with one. Try OMP_NUM_THREADS=1.",
            load,
        )


def load_per_core() -> float:
    """Programs that ran or waited in the last minute, for each core of the machine; 0 where that is not known."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):  # as on Windows
        return 0.0
