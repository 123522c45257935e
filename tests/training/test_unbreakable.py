"""Killed at any moment, every command goes on or starts cleanly when it is given again, and nothing wrong loads.

The moments are random, but the same in every run: before the n-th change of a file, at the n-th request to the Hub, or
after a share of the time that the operation takes. `pytest -s` prints them.
"""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from dedn_hf import DEDNForZeroShot
from dedn_hf.data import load
from dedn_hf.data.features import FeatureCache
from dedn_hf.training.experiment import RUN_FILE
from tests.fake_data import write_csv, write_folder
from tests.hub_server import HubServer
from tests.killable import SAVED_FILE, TOKEN, digest, digests, perform, prepare_data, save

ROOT = Path(__file__).parents[2]
SEEDS = range(5)
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["tests.killable"])


class Operation:
    """One of the operations, in a folder of its own: what is there before, and what of it loads at any time."""

    name: str
    arguments: tuple = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.begin()

    def begin(self) -> None:
        """Write what is there before."""

    def found(self) -> object:
        """What loads now, in a form that can be compared; None where nothing does."""

    def right(self, usual: dict) -> bool:
        """Whether what loads now is what was there before, or the whole result."""
        return self.found() in (None, usual["before"], usual["after"])

    def start(self, kill_at: int = 0) -> multiprocessing.Process:
        """A process that performs it, or is killed before change `kill_at` of a file."""
        log = self.folder.with_suffix(".log")
        process = forkserver.Process(target=perform, args=(self.name, self.folder, kill_at, log, *self.arguments))
        process.start()
        return process

    def complete(self) -> None:
        """Perform it to the end."""
        process = self.start()
        process.join(120)
        assert process.exitcode == 0, self.folder.with_suffix(".log").read_text()[-3000:]

    def requests(self) -> int:
        """How many the Hub has got."""
        return 0

    def close(self) -> None:
        """Release what is open."""


class Prepare(Operation):
    name = "prepare"

    def begin(self) -> None:
        write_folder(self.folder / "zoo", {"lynx": 5, "okapi": 5, "zebra": 5})
        write_csv(self.folder / "zoo.csv", {"lynx": "train", "okapi": "train", "zebra": "unseen"})
        prepare_data(self.folder)
        write_folder(self.folder / "zoo", {"ibis": 5})
        write_csv(self.folder / "zoo.csv", {"lynx": "train", "okapi": "train", "zebra": "unseen", "ibis": "unseen"})

    def found(self):
        if not (self.folder / "out").exists():
            return None
        splits, table = load(self.folder / "out", cache_dir=self.folder.with_suffix(".arrow"))
        return table.class_names, {split: sorted(rows["file"]) for split, rows in splits.items()}


class Extract(Operation):
    name = "extract"

    def found(self):
        try:
            cache = FeatureCache(self.folder / "cache")
        except FileNotFoundError:
            return None
        return [digest(cache.read([row])) for row in range(len(cache))]

    def right(self, usual):
        """A cache grows photo by photo: whether what is there is a beginning of the whole."""
        found = self.found() or []
        return found == usual["after"][: len(found)]


class Train(Operation):
    name = "train"

    def found(self):
        """Of a finished run, the model and its record; of any other, whether the model is one that the run saves."""
        weights, record = weights_of(self.folder / "run"), self.folder / "run" / RUN_FILE
        if record.exists():
            content = json.loads(record.read_text())
            return weights, {key: content[key] for key in ("results", "history", "settings", "model")}
        saved = self.folder / SAVED_FILE
        known = [json.loads(line) for line in saved.read_text().splitlines()] if saved.exists() else []
        return None if weights is None or weights[1] in known else weights


class SaveWhole(Operation):
    """A model of one file in place of one of several."""

    name, before, arguments = "save", "sharded", ("whole",)

    def begin(self) -> None:
        save(self.folder, self.before)

    def found(self):
        return weights_of(self.folder / "model")


class SaveSharded(SaveWhole):
    """A model of several files in place of one of a single one."""

    before, arguments = "whole", ("sharded",)


class Push(Operation):
    name = "push"

    def begin(self) -> None:
        save(self.folder, "sharded")
        (self.folder / "temporary").mkdir()
        self.hub = HubServer({TOKEN: "ada"}).__enter__()
        self.arguments = (self.hub.url,)

    def found(self):
        repo = self.hub.repos.get(("model", "ada/bird"))
        return (repo.files(), len(repo.commits)) if repo and repo.files() else None

    def requests(self) -> int:
        return len(self.hub.requests)

    def close(self) -> None:
        self.hub.__exit__()


OPERATIONS = {operation.__name__: operation for operation in (Prepare, Extract, Train, SaveWhole, SaveSharded, Push)}


def weights_of(folder: Path) -> tuple | None:
    """Configuration and every bit of the weights of a saved model, or None where none loads."""
    try:
        model = DEDNForZeroShot.from_pretrained(folder)
    except OSError:
        return None
    return {**model.config.to_dict(), "_name_or_path": None}, digests(model)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Of an operation that is never killed: what loads before and after it, its seconds, changes and requests."""
    first = forkserver.Process(target=time.sleep, args=(0,))
    first.start()  # with it, the process that the others are forked from
    first.join()

    @cache
    def measure(name: str) -> dict:
        operation = OPERATIONS[name](tmp_path_factory.mktemp(name) / "whole")
        known, start = {"before": operation.found()}, time.monotonic()
        operation.complete()
        known |= {"seconds": time.monotonic() - start, "after": operation.found(), "requests": operation.requests()}
        operation.close()
        return known | {"changes": int((operation.folder.with_suffix(".count")).read_text())}

    return measure


def kill(operation: Operation, usual: dict, rng: random.Random) -> str:
    """Start the operation and kill it at a random moment, which it gives in words."""
    before = operation.requests()
    if usual["requests"] and rng.random() < 0.5:
        request, process = rng.randint(1, usual["requests"]), operation.start()
        while operation.requests() < before + request and process.is_alive():
            time.sleep(0.0005)
        process.kill()
        process.join()
        return f"at request {request} of {usual['requests']}"
    change = rng.randint(1, usual["changes"])
    process = operation.start(kill_at=change)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, operation.folder.with_suffix(".log").read_text()[-3000:]
    return f"before change {change} of {usual['changes']}"


def kill_after_a_while(operation: Operation, usual: dict, rng: random.Random) -> str:
    """The same, after a share of the time that it takes; it may have ended by then."""
    seconds, process = rng.random() * usual["seconds"], operation.start()
    process.join(seconds)
    process.kill()
    process.join()
    return f"after {seconds:.2f} s" + " (too late)" * (process.exitcode == 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_killed_goes_on_and_leaves_nothing_wrong(name, seed, undisturbed, tmp_path):
    rng, usual = random.Random(f"{name} {seed}"), undisturbed(name)
    operation = OPERATIONS[name](tmp_path / "killed")
    try:
        for way in (kill, kill_after_a_while):
            print(f"{name} {seed}: killed {way(operation, usual, rng)}")
            assert operation.right(usual)
        if not (operation.folder / "run" / RUN_FILE).exists():  # a finished run says so in place of starting again
            operation.complete()
        assert operation.found() == usual["after"]
        assert not [
            path for path in operation.folder.rglob("*") if re.search("unfinished|partial|replaced", path.name)
        ]
        assert not list(operation.folder.glob("temporary/*/content"))
    finally:
        operation.close()


@pytest.mark.slow
def test_a_stopped_command_says_so_by_its_exit_code_and_goes_on_when_it_is_given_again(tmp_path, heeding_ctrl_c):
    given = ["training.epochs=6", "training.calibrate=false", "training.checkpoint_every=1", "data.images_per_class=5"]
    command = ["examples/train.py", "--config", "shapes", "--cpu", "--select-on", "last"]
    command = [sys.executable, *command, "--output-dir", str(tmp_path / "run"), "--set", *given]
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    for number, epoch in ((signal.SIGTERM, 1), (signal.SIGINT, 3)):
        process = subprocess.Popen(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True, env=unbuffered)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if f"epoch   {epoch}/6" in line:
                process.send_signal(number)
        assert process.wait(120) == 128 + number, "".join(lines)[-3000:]
        assert "Stopping after this step, with a checkpoint" in "".join(lines)
        assert not (tmp_path / "run" / RUN_FILE).exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "epoch   3/6" not in done.stdout
    record = json.loads((tmp_path / "run" / RUN_FILE).read_text())
    assert len(record["history"]) == 6 and record["time"]["resumed"]
