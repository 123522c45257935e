"""The folder of a training run: it can be written, holds no finished run, and one training at a time uses it."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from dedn_hf.modeling import saving
from dedn_hf.publish.saved import CHECKPOINTS, RUN_FILE

logger = logging.getLogger(__name__)

LOCK_FILE = ".training.lock"


@contextmanager
def sole_use(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Within `with`, every other training is refused this folder, until the end or the death of this one.

    All processes of a training call it. The main one takes the lock; none goes on before that, or without it.

    Raises:
        BlockingIOError: another training uses the folder. FileExistsError: it holds a finished run.
        OSError: nothing can be written there.
    """
    with ExitStack() as held:
        refusal = None
        if accelerator.is_main_process:
            try:
                require_writable(folder)
                held.enter_context(locked(folder))
                require_unfinished(folder)
            except OSError as error:
                refusal = error
        (refusal,) = broadcast_object_list([refusal])
        if refusal is not None:
            raise refusal
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the operating system releases when the process dies.

    It is a file in the folder, because machines may share that, and one folder can have several names.
    """
    busy = f"Another process is training in {folder}. Give another output folder (--out), or wait for its end."
    with saving.locked(folder / LOCK_FILE, busy):
        yield


def require_unfinished(folder: Path) -> None:
    """Raise FileExistsError where the folder holds a finished run, NotADirectoryError where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file. Give --out a folder for the trained model, a new one best.")
    if (folder / RUN_FILE).exists():
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # where it was killed as the very last thing
        raise FileExistsError(f"{folder} holds a finished run. Give another output folder, or delete that one.")


def write_json(path: Path, content: dict) -> None:
    """Write a file that is whole or absent."""
    with saving.whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Make the folder. Raises OSError where nothing can be written to it, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"Nothing can be written to {folder} ({error.strerror}). Give another folder.") from error
