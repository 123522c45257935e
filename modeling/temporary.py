"""Temporary folders of which nothing stays: what a killed process leaves, the next one removes."""

import glob
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

LOCK_FILE, CONTENT = "lock", "content"


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that is removed at the end, or after a kill by the next call with the same prefix and parent.

    Who has one holds a lock in it, which the operating system releases when the process dies.

    Args:
        prefix: what its name starts with. parent: the folder to make it in; default, the system's for such folders.
    """
    own_folder = TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    with own_folder as own, FileLock(Path(own) / LOCK_FILE):
        remove_abandoned(Path(own), prefix)
        content = Path(own) / CONTENT  # made under the lock: where there is one without, nobody uses it any more
        content.mkdir()
        yield content


def remove_abandoned(own: Path, prefix: str) -> None:
    """Remove the folders beside `own` with this prefix that belong to the same user and that nobody has locked."""
    user = own.stat().st_uid
    for folder in own.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError, Timeout):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == user and (folder / CONTENT).exists():
                with FileLock(folder / LOCK_FILE, blocking=False):
                    shutil.rmtree(folder)
