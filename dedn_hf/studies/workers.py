"""Worker processes that do not outlive the command that started them, even where it was killed."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread


def worker_pool(count: int) -> ProcessPoolExecutor:
    """`count` fresh processes that exit when their parent is gone.

    Otherwise the workers of a killed command would finish their tasks, and then wait for others for ever.
    """
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=end_with_parent)


def end_with_parent() -> None:
    """Watch the parent from a thread of its own."""
    if (parent := parent_process()) is not None:
        Thread(target=end_after, args=[parent], daemon=True).start()


def end_after(process: BaseProcess) -> None:
    """End this process, whatever it does, when another has ended."""
    process.join()
    os._exit(1)
