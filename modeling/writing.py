"""Files that are whole or not there: written under another name, and renamed when they have reached the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to. It becomes `path` when all has gone well, and is removed if not.

    A device or a pipe is written to directly. An OSError that names no file, as those of a full disk, gets its name.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    unfinished = path.with_name(f".unfinished-{path.name}")  # with the suffix, which may decide on the format
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def require_writable(path: str | Path) -> None:
    """Raise ValueError, with what to do, unless a file can be written there. To be asked before the work is done."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file in it, such as {path / 'NAME'}.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to. Make it, or give another one.")
    is_device = path.exists() and not path.is_file()
    if not is_device and not os.access(path.parent, os.W_OK):
        raise ValueError(f"Nothing can be written to the folder {path.parent}. Give another one.")


def sync(path: Path) -> None:
    """Wait until a file is on the disk, or the names in a folder where the file system can."""
    if os.name == "nt":  # which cannot do it through a descriptor for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
