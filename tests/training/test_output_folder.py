"""One training at a time uses an output folder, whatever was killed there before."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from filelock import FileLock

from dedn_hf import DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.output_folder import LOCK_FILE, sole_use
from tests.forked import run_worker
from tests.tiny_runs import image_model, load_tiny
from tests.tiny_trainings import settings

ROOT = Path(__file__).parents[2]
OCCUPIED = "Another process is training in .*run. Give another output folder .--out., or wait for its end"
UNTOUCHED = Experiment(lambda _: pytest.fail("data were loaded"), lambda _: pytest.fail("a model was built"))
HOLD = """
import os, signal, sys, time
from pathlib import Path
from accelerate import Accelerator
from dedn_hf.training.output_folder import sole_use
with sole_use(Path(sys.argv[1]), Accelerator(cpu=True)):
    child = os.fork()  # as a worker that loads images
    if child == 0:
        os.close(1)
        time.sleep(600)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def contents(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Path -> time of the last change and content, of everything in a folder but the lock, which is opened to ask."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
        if path.name != LOCK_FILE
    }


def experiment(after_each_save) -> Experiment:
    """A tiny one that calls the function whenever it has saved its model."""

    class Model(type(image_model())):
        def save_pretrained(self, *arguments, **options):
            super().save_pretrained(*arguments, **options)
            after_each_save()

    def build(table) -> DEDNForZeroShot:
        model = image_model(table, image_size=32)
        model.__class__ = Model
        return model

    return Experiment(load_tiny, build)


def test_a_second_training_in_the_same_folder_is_refused_at_once_and_touches_nothing(accelerator, tmp_path):
    refused, link = [], tmp_path / "other name of run"
    link.symlink_to(tmp_path / "run")

    def second() -> None:
        before = contents(tmp_path / "run")
        for folder in (tmp_path / "run", link):
            with pytest.raises(BlockingIOError, match=OCCUPIED):
                run(UNTOUCHED, settings(), folder, accelerator)
        assert contents(tmp_path / "run") == before
        refused.append(1)

    record = run(experiment(second), settings(select_on="test", epochs=3), tmp_path / "run", accelerator)
    assert refused and len(record["history"]) == 3
    assert not [path.name for path in (tmp_path / "run").iterdir() if "lock" in path.name]


def test_after_an_error_the_folder_is_free(accelerator, tmp_path):
    def fail() -> None:
        raise FloatingPointError

    for _ in range(2):
        with pytest.raises(FloatingPointError):
            run(experiment(fail), settings(), tmp_path / "run", accelerator)
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_the_lock_of_a_killed_training_does_not_count_also_where_a_worker_outlives_it(accelerator, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, timeout=300
    )
    try:
        assert killed.returncode == -signal.SIGKILL and (tmp_path / LOCK_FILE).exists()
        with sole_use(tmp_path, accelerator):
            pass
    finally:
        os.kill(int(killed.stdout), signal.SIGKILL)
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_is_not_given_on_a_file_that_was_removed(accelerator, tmp_path, monkeypatch):
    """Whoever opened the file before it was removed must not hold a lock beside the owner of the next file."""
    holder, next_one = (sole_use(tmp_path, accelerator) for _ in range(2))
    waiting, flock = FileLock(tmp_path / LOCK_FILE), fcntl.flock

    def let_the_holder_end_first(*arguments) -> None:
        monkeypatch.undo()
        holder.__exit__(None, None, None)
        next_one.__enter__()
        flock(*arguments)

    holder.__enter__()
    monkeypatch.setattr(fcntl, "flock", let_the_holder_end_first)
    with pytest.raises(TimeoutError):
        waiting.acquire(blocking=False)
    next_one.__exit__(None, None, None)


def test_who_begins_in_the_moment_in_which_another_ends_keeps_the_folder(accelerator, tmp_path, monkeypatch):
    holder, next_one, third = (sole_use(tmp_path, accelerator) for _ in range(3))
    holder.__enter__()
    release = FileLock.release

    def release_and_let_the_next_begin(lock) -> None:
        monkeypatch.undo()
        release(lock)
        next_one.__enter__()

    monkeypatch.setattr(FileLock, "release", release_and_let_the_next_begin)
    holder.__exit__(None, None, None)
    with pytest.raises(BlockingIOError, match="Another process is training"):
        third.__enter__()
    next_one.__exit__(None, None, None)


def test_where_files_cannot_be_locked_a_warning_says_so(accelerator, tmp_path, monkeypatch, caplog):
    def no_locks(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with sole_use(tmp_path, accelerator):
        pass
    assert "No locks available): see that no other process uses it" in caplog.text


def test_the_command_says_it_in_one_line_and_starts_no_tracker(accelerator, tmp_path, capsys):
    command = ["train", "--config", "shapes", "--cpu"]
    command += ["--output-dir", str(tmp_path / "run"), "--set", "training.tracker=tensorboard"]
    with sole_use(tmp_path / "run", accelerator):
        before = contents(tmp_path / "run")
        assert main(command) == 2
        assert re.search(OCCUPIED, capsys.readouterr().err)
        assert contents(tmp_path / "run") == before


def test_the_tracker_is_started_in_the_folder_that_was_free(accelerator, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path / "run")
    record = run(experiment(list), settings(epochs=2, tracker="tensorboard"), tmp_path / "run", tracked)
    tracked.end_training()
    (losses,) = [
        [point.value for point in EventAccumulator(str(file.parent)).Reload().Scalars("test/loss")]
        for file in (tmp_path / "run" / "dedn").glob("events.out.tfevents*")
    ]
    assert losses == pytest.approx([epoch["loss"] for epoch in record["history"]])


@pytest.mark.slow
def test_of_several_processes_one_holds_the_lock_and_all_wait_for_it_or_end_with_the_same_error(tmp_path):
    run_worker("tests.claiming_worker", tmp_path)
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(found) == {"0", "1"}
    for process in found.values():
        assert process["seen"] == [True, True]  # the lock, when they went on; and still, when the last one ended
        assert process["refusal"] == found["0"]["refusal"] != ""
    assert not (tmp_path / "run" / LOCK_FILE).exists()
