"""Two processes of one training use a folder that is free, then one that is taken. test_output_folder.py runs it."""

import json
import sys
import time
from pathlib import Path

import pytest
from accelerate import Accelerator

from dedn_hf.training import output_folder
from dedn_hf.training.output_folder import LOCK_FILE, locked, require_writable, sole_use
from tests.forked import in_processes


def claim(accelerator: Accelerator, folder: Path) -> None:
    """Save whether each process saw the lock file, and the message with which a taken folder was refused."""
    found, take = {"seen": []}, output_folder.locked

    def take_slowly(wanted: Path):
        time.sleep(0.5)
        return take(wanted)

    output_folder.locked = take_slowly
    with sole_use(folder / "run", accelerator):
        found["seen"].append((folder / "run" / LOCK_FILE).exists())
        accelerator.wait_for_everyone()
        found["seen"].append((folder / "run" / LOCK_FILE).exists())
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()
    require_writable(folder / "other")
    if accelerator.is_last_process:
        with locked(folder / "other"):
            found["refusal"] = refused(accelerator, folder / "other")
    else:
        found["refusal"] = refused(accelerator, folder / "other")
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(found))


def refused(accelerator: Accelerator, folder: Path) -> str:
    """The error message of a training whose folder another training uses."""
    accelerator.wait_for_everyone()
    with pytest.raises(BlockingIOError) as refusal, sole_use(folder, accelerator):
        pass
    accelerator.wait_for_everyone()
    return str(refusal.value)


if __name__ == "__main__":
    in_processes(2, claim, Path(sys.argv[1]))
