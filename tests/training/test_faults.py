"""Full disks, damaged files, broken images and numbers: a message with what to do, and nothing lost or wrong."""

import os
import resource
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.data import features, prepare
from dedn_hf.data.features import FeatureCache
from dedn_hf.data.tasks import test_task as full_task
from dedn_hf.data.transforms import evaluation_transform
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.loop import fit
from tests.fake_data import write_csv, write_folder
from tests.tiny_runs import feature_model, feature_task, image_data, image_model, load_tiny, tiny_table
from tests.tiny_trainings import assert_same, at_step, fitted, settings, state_of

# Full disks, folders that cannot be written --------------------------------------------------------------------------


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond some bytes: for a program, that is a full disk."""

    class FullDisk:
        def __init__(self, size: int) -> None:
            self.size = size

        def __enter__(self) -> None:
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

        def __exit__(self, *_) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    return FullDisk


def test_a_checkpoint_that_does_not_fit_stops_the_training_and_the_one_before_stays(
    accelerator, tmp_path, monkeypatch, full_disk
):
    expected = fitted(accelerator, tmp_path / "whole")
    full = full_disk(3000)
    try:
        at_step(monkeypatch, 7, full.__enter__)
        with pytest.raises(OSError, match="checkpoint-tiny could not be written.*Make room.*same command goes on"):
            fitted(accelerator, tmp_path / "cut")
    finally:
        full.__exit__()
        monkeypatch.undo()
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint-tiny"]
    assert len(state_of(tmp_path / "cut")["epochs"]) == 1
    assert_same(fitted(accelerator, tmp_path / "cut"), expected)


@pytest.mark.parametrize("size", [100, 3000, 12_000])
def test_a_model_that_does_not_fit_leaves_the_one_that_is_there(size, tmp_path, full_disk):
    feature_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    there = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with full_disk(size), pytest.raises(OSError, match="model could not be saved in .*model"):
        feature_model(coarse_weight=0.1).save_pretrained(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == there


def test_features_that_do_not_fit_are_gone_on_with_when_there_is_room(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(features, "RECORD_EVERY", 1)
    images = image_data([(label, number) for label in range(5) for number in range(2)])
    torch.manual_seed(0)
    model = image_model()
    expected = FeatureCache.open_or_build(tmp_path / "whole", model, images, batch_size=2, progress=False)
    size = 2 * expected.read([0]).numel()
    with full_disk(7 * size), pytest.raises(OSError, match="cache cannot be written: .*it goes on where it stopped"):
        FeatureCache.open_or_build(tmp_path / "cache", model, images, batch_size=2, progress=False)
    assert len(FeatureCache(tmp_path / "cache")) == 6
    ran, extract_features = [], DEDNForZeroShot.extract_features
    monkeypatch.setattr(
        DEDNForZeroShot, "extract_features", lambda self, pixels: ran.append(1) or extract_features(self, pixels)
    )
    cache = FeatureCache.open_or_build(tmp_path / "cache", model, images, batch_size=2, progress=False)
    assert len(ran) == 2  # of five batches, three were on the disk
    assert torch.equal(cache.read(range(10)), expected.read(range(10)))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["cache.json", "features.bin", "images.txt"]


def zoo(folder: Path) -> dict:
    """Arguments of `prepare` for a small data set."""
    write_folder(folder / "zoo", {"lynx": 5, "okapi": 5, "zebra": 5})
    csv = write_csv(folder / "zoo.csv", {"lynx": "train", "okapi": "train", "zebra": "unseen"})
    return {"name": "folder", "data_dir": folder / "zoo", "csv": csv}


def test_a_data_set_that_does_not_fit_leaves_the_one_that_is_there(tmp_path, full_disk):
    data = zoo(tmp_path)
    prepare(out=tmp_path / "out", **data)
    there = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with full_disk(2000), pytest.raises(OSError, match="data could not be written: .*large"):
        prepare(out=tmp_path / "out", **data)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "zoo", "zoo.csv"]


def test_a_file_that_does_not_fit_is_not_there_and_the_message_names_it(tmp_path, full_disk):
    path = tmp_path / "birds.csv"
    with full_disk(50), pytest.raises(OSError, match="birds.csv"):
        tiny_table().to_csv(path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def read_only():
    """A folder in which nothing can be written, also by root: the test goes on as somebody else."""
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        folder = Path(parent) / "locked"
        folder.mkdir()
        feature_model().save_pretrained(Path(parent) / "first")  # imports what that somebody may not read
        for path, mode in ((Path(parent), 0o755), (folder, 0o555)):
            path.chmod(mode)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(accelerator, read_only):
    untouched = Experiment(lambda _: pytest.fail("data were loaded"), lambda _: pytest.fail("a model was built"))
    with pytest.raises(OSError, match="Nothing can be written to .*locked.*Permission denied.*Give another folder"):
        run(untouched, settings(), read_only, accelerator)
    with pytest.raises(OSError, match="Nothing can be written to .*locked/new"):
        run(untouched, settings(), read_only / "new", accelerator)
    with pytest.raises(OSError, match="locked"):
        feature_model().save_pretrained(read_only)
    with pytest.raises(OSError, match="locked"):
        feature_model().save_pretrained(read_only / "model")
    with pytest.raises(OSError, match="locked"):
        tiny_table().to_csv(read_only / "birds.csv")


# Damaged files -------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {"truncated": truncate, "changed": change_a_byte, "missing": Path.unlink}
FILES = ["model.safetensors", "optimizer.bin", "extra.pt", "random_states_0.pkl", "state.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_in_place_of_a_damaged_checkpoint_the_one_before_is_used(damage, file, accelerator, tmp_path, monkeypatch):
    if (damage, file) == ("changed", "state.json"):
        pytest.skip("a changed number in it is not noticed; the file is written whole")
    folder = originals(accelerator, tmp_path)
    expected = fitted(accelerator, tmp_path / "whole")
    DAMAGE[damage](folder / "checkpoint-tiny" / file)
    assert_same(fitted(accelerator, folder), expected)


def originals(accelerator, tmp_path) -> Path:
    """A folder with two checkpoints of an interrupted training."""

    def interrupt(_model, epoch, _predictions):
        if epoch["epoch"] == 3:
            raise InterruptedError

    model, (task, inputs) = feature_model(feature_dropout=0.2), feature_task()
    with pytest.raises(InterruptedError):
        fit(model, task, inputs, settings(), accelerator, tmp_path / "cut", interrupt)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["checkpoint-tiny", "checkpoint-tiny.old"]
    return tmp_path / "cut"


def test_where_all_checkpoints_are_damaged_the_message_names_files_and_the_way_out(accelerator, tmp_path):
    folder = originals(accelerator, tmp_path)
    truncate(folder / "checkpoint-tiny" / "model.safetensors")
    change_a_byte(folder / "checkpoint-tiny.old" / "optimizer.bin")
    with pytest.raises(ValueError) as refusal:
        fitted(accelerator, folder)
    said = str(refusal.value)
    assert "checkpoint-tiny/model.safetensors is damaged: its checksum" in said
    assert "checkpoint-tiny.old/optimizer.bin is damaged: its checksum" in said
    assert f"Delete {folder}/checkpoint-tiny and {folder}/checkpoint-tiny.old: the training then starts again" in said


def test_checkpoints_hold_one_model_whatever_was_trained_before_with_the_same_accelerator(accelerator, tmp_path):
    expected = fitted(accelerator, tmp_path / "first")
    fitted(accelerator, tmp_path / "second", seed=1)
    names = [sorted(path.name for path in (tmp_path / n / "checkpoint-tiny").iterdir()) for n in ("first", "second")]
    assert names[0] == names[1]
    assert_same(fitted(accelerator, tmp_path / "first"), expected)


@pytest.mark.parametrize("order", [("2KB", "1GB"), ("1GB", "2KB"), ("2KB", "4KB")])
def test_weights_of_an_earlier_model_are_never_read_in_place_of_the_new_ones(order, tmp_path):
    for size, weight in zip(order, (1.0, 2.0), strict=True):
        model = feature_model()
        with torch.no_grad():
            model.experts["coarse"].region_value.fill_(weight)
        model.save_pretrained(tmp_path, max_shard_size=size)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path)
    assert (loaded.experts["coarse"].region_value == 2).all()


def test_a_folder_in_which_saving_was_interrupted_says_so(tmp_path):
    feature_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(OSError, match="has no config.json. If saving was interrupted, save or train again"):
        DEDNForZeroShot.from_pretrained(tmp_path)
    assert DEDNForZeroShot.from_pretrained(tmp_path, config=feature_model().config)


def test_a_table_is_never_read_with_the_embeddings_of_another(tmp_path, monkeypatch):
    table = tiny_table()
    table.save(tmp_path)
    other = table.replace(attribute_embeddings=table.attribute_embeddings + 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "savez_compressed", interrupt_now)
        other.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="No attribute table"):
        AttributeTable.load(tmp_path)
    other.save(tmp_path)
    assert (AttributeTable.load(tmp_path).attribute_embeddings == other.attribute_embeddings).all()
    table.replace(attribute_embeddings=None).save(tmp_path)
    assert AttributeTable.load(tmp_path).attribute_embeddings is None


def interrupt_now(*_, **__):
    raise KeyboardInterrupt


# Images and numbers --------------------------------------------------------------------------------------------------


def broken_images():
    """Images of which number 3 has lost its second half."""
    images = image_data([(label, 0) for label in range(7)])
    rows = images.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][: len(rows[3]["image"]["bytes"]) // 2]
    return datasets.Dataset.from_list(rows, images.features)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_breaks_during_extraction_is_named_and_the_rest_is_kept(num_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "RECORD_EVERY", 1)
    with pytest.raises(ValueError, match="bird d/0.png cannot be read .*Replace that image"):
        FeatureCache.open_or_build(
            tmp_path / "cache", image_model(), broken_images(), batch_size=2, num_workers=num_workers, progress=False
        )
    assert len(FeatureCache(tmp_path / "cache")) == 2


def test_an_image_that_breaks_during_training_is_named(accelerator, tmp_path):
    splits, table = load_tiny()
    model = image_model()
    transform = evaluation_transform(model)
    splits["train"] = broken_images().select([0, 2, 3, 4, 6])  # of the seen classes
    task = full_task(splits, table)
    with pytest.raises(ValueError, match="bird d/0.png cannot be read"):
        fit(model, task, task.decoded(transform, transform), settings(batch_size=5), accelerator, tmp_path)


def test_a_loss_that_is_no_number_names_the_images_of_its_batch(accelerator, tmp_path):
    splits, table = load_tiny()
    model = image_model()
    transform = evaluation_transform(model)
    task = full_task(splits, table)
    with torch.no_grad():
        model.experts["coarse"].region_value.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 1. The batch: bird .*png, .*png. Try a lower learning_rate"):
        fit(model, task, task.decoded(transform, transform), settings(batch_size=5), accelerator, tmp_path)


def test_an_input_that_is_no_number_is_named_alone(accelerator, tmp_path):
    model, (task, inputs) = feature_model(), feature_task()
    inputs("train").features[11] = float("inf")
    with pytest.raises(FloatingPointError, match="The input itself is not finite, in image 11: replace"):
        fit(model, task, inputs, settings(), accelerator, tmp_path)


def test_a_device_is_written_to_and_not_replaced():
    tiny_table().to_csv("/dev/null")
    assert Path("/dev/null").is_char_device()
