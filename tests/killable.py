"""The operations that test_unbreakable.py kills. Each is a function of a folder and runs in a process of its own.

The processes are forked from one that has imported everything, so each starts within milliseconds.
"""

import hashlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import huggingface_hub.constants
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure

from dedn_hf import DEDNForZeroShot
from dedn_hf.data import features, prepare
from dedn_hf.data.features import FeatureCache
from dedn_hf.publish import card
from dedn_hf.publish.hub import push_model
from dedn_hf.training import experiment as experiment_module
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import feature_model, image_data, image_model, load_tiny

SAVED_FILE = "saved.jsonl"  # digests of all models that a training run was about to save
TOKEN = "hf_" + "Ada0" * 9
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link", "fsync"}
IMAGES = [(label, number) for label in range(7) for number in range(3)]


def perform(operation: str, folder: Path, kill_at: int, log: Path, *arguments: str) -> None:
    """Run an operation in `folder`, killed just before file change number `kill_at` there (0: never)."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    count_changes(folder, kill_at, log.with_suffix(".count"))
    torch.set_num_threads(1)
    OPERATIONS[operation](folder, *arguments)


def count_changes(folder: Path, kill_at: int, counter: Path) -> None:
    """Count changes of files below `folder` in the file `counter`, and kill this process before change `kill_at`."""
    count, fsync = 0, os.fsync
    written = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def is_change(event: str, arguments: tuple) -> bool:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR) or any(letter in (mode or "") for letter in "wax+")
            return isinstance(path, (str, bytes)) and bool(writes) and os.fsdecode(path).startswith(str(folder))
        if event not in CHANGES:
            return False
        path = arguments[0]
        # rmtree gives names relative to an open folder.
        return isinstance(path, int) or not os.path.isabs(path) or os.fsdecode(path).startswith(str(folder))

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if is_change(event, arguments):
            count += 1
            os.pwrite(written, f"{count:9d}".encode(), 0)
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched_fsync(descriptor: int) -> None:
        watch("fsync", (descriptor,))
        fsync(descriptor)

    os.fsync = watched_fsync
    sys.addaudithook(watch)


# Operations ----------------------------------------------------------------------------------------------------------


def prepare_data(folder: Path) -> None:
    """Prepare a data set again, in place of the existing one."""
    prepare("folder", folder / "out", folder / "zoo", csv=folder / "zoo.csv")


def backbone() -> DEDNForZeroShot:
    """The model whose features are extracted. It is the same every time."""
    torch.manual_seed(0)
    return image_model(image_size=32)


def extract(folder: Path) -> None:
    """Build a feature cache of 21 images, in 11 batches."""
    features.RECORD_EVERY = 2
    FeatureCache.open_or_build(folder / "cache", backbone(), image_data(IMAGES), batch_size=2, progress=False)


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def digests(model: torch.nn.Module) -> dict[str, str]:
    """Name -> SHA-256 of each of the model's weights."""
    return {name: digest(tensor) for name, tensor in model.state_dict().items()}


def train(folder: Path) -> None:
    """Do a whole run that saves the best epoch. The picture of the card is left blank, because drawing takes long."""
    save_model = experiment_module.save_model

    def save_and_tell(model: torch.nn.Module, *arguments: object) -> None:
        with open(folder / SAVED_FILE, "a") as file:
            file.write(json.dumps(digests(model)) + "\n")
        save_model(model, *arguments)

    experiment_module.save_model = save_and_tell
    card.draw_training = lambda _record: Figure((0.2, 0.2))
    settings = TrainingSettings(epochs=3, batch_size=6, learning_rate=0.003, select_on="test", sampling="uniform")
    experiment = Experiment(load_tiny, lambda table: image_model(table, image_size=32, feature_dropout=0.2))
    experiment.features = folder / "cache"
    run(experiment, settings, folder / "run", Accelerator(cpu=True))


MODELS = {
    "whole": ({}, {"coarse_weight": 0.75}),
    "sharded": ({"max_shard_size": "2KB"}, {"coarse_weight": 0.25}),
}


def save(folder: Path, kind: str) -> None:
    """Save a model in one weights file or in several, in place of the existing one."""
    options, config = MODELS[kind]
    model = feature_model(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(config["coarse_weight"])
    model.save_pretrained(folder / "model", **options)


def push(folder: Path, url: str) -> None:
    """Push the saved model to a Hub at this address."""
    constants = huggingface_hub.constants
    constants.ENDPOINT, constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = url, False, True
    os.environ["HF_TOKEN"] = TOKEN
    tempfile.tempdir = str(folder / "temporary")
    push_model(folder / "model", "ada/bird")


OPERATIONS = {"prepare": prepare_data, "extract": extract, "train": train, "save": save, "push": push}
