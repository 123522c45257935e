"""`dedn reproduce`: the same numbers, to the last bit, or a reason why not."""

import copy
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

import dedn_hf.modeling
from dedn_hf.cli import main
from dedn_hf.data import load
from dedn_hf.modeling import modeling_dedn
from dedn_hf.modeling.backbone import preprocessing_of
from dedn_hf.studies.reproduction import with_paths
from dedn_hf.training.experiment import Experiment, compute_deterministically, new_model, run
from dedn_hf.training.record import code_hash, data_fingerprint
from dedn_hf.training.settings import TrainingSettings
from tests.fake_data import jpeg, write_csv, write_folder

CLASSES = {f"bird {letter}": "unseen" if letter in "bd" else "train" for letter in "abcde"}
MODEL = {"backbone": "test_resnet", "image_size": 64, "pretrained": False}
TRAINING = {"epochs": 2, "batch_size": 6, "learning_rate": 0.003, "select_on": "last", "sampling": "uniform"}


@pytest.fixture(autouse=True)
def fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def write_data(root: Path) -> Path:
    write_folder(root, dict.fromkeys(CLASSES, 5))
    write_csv(root / "attributes.csv", CLASSES)
    return root


def train(data_dir: Path, output: Path, features: Path | None = None, **model) -> dict:
    preset = {
        "data": {"name": "folder", "data_dir": str(data_dir)},
        "model": {**MODEL, **model},
        "training": {**TRAINING, "deterministic": True},
    }
    try:
        settings = TrainingSettings.from_dict(preset["training"])
        return run(Experiment.from_preset(preset, features), settings, output, Accelerator(cpu=True))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recorded(data_dir, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    AcceleratorState._reset_state(reset_partial_state=True)
    output = tmp_path_factory.mktemp("recorded") / "run"
    train(data_dir, output)
    return output


@pytest.fixture
def record(recorded) -> dict:
    return json.loads((recorded / "run.json").read_text())


def reproduced(record: dict, tmp_path: Path, *arguments: object) -> int:
    """The exit status of the command for a changed record."""
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    return main(["reproduce", str(file), *map(str, arguments)])


@pytest.fixture
def answering(monkeypatch, record):
    """In place of a second training, what it would give: the true record."""
    true = copy.deepcopy(record)
    monkeypatch.setattr("dedn_hf.studies.reproduction.run", lambda *_: true)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr("dedn_hf.studies.reproduction.run", lambda *_: pytest.fail("trained"))


def test_a_run_comes_out_the_same_to_the_last_bit_wherever_its_data_lie(recorded, data_dir, tmp_path, capsys):
    moved = shutil.copytree(data_dir, tmp_path / "moved", copy_function=shutil.copyfile)  # with other times of change
    assert main(["reproduce", str(recorded), "--data-dir", str(moved), "--out", str(tmp_path / "again")]) == 0
    assert "MATCHES: every recorded number is the same, to the last bit." in capsys.readouterr().out
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (recorded / "model.safetensors").read_bytes()


def test_a_run_on_cached_features_is_reproduced_without_its_cache(data_dir, tmp_path, capsys):
    train(data_dir, tmp_path / "run", features=tmp_path / "features")
    assert main(["reproduce", str(tmp_path / "run" / "run.json"), "--data-dir", str(data_dir)]) == 0
    assert "to the last bit" in capsys.readouterr().out


def test_a_preset_that_meant_the_whole_picture_by_saying_nothing_still_means_it(data_dir, tmp_path, capsys):
    record = train(data_dir, tmp_path / "run", crop_pct=1.0)
    del record["experiment"]["model"]["crop_pct"]
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    assert "to the last bit" in capsys.readouterr().out


def test_a_run_from_before_pictures_were_squashed_is_repeated_without(data_dir, tmp_path, capsys, monkeypatch):
    record = train(data_dir, tmp_path / "run")
    del record["model"]["config"]["crop_mode"]
    own = {**preprocessing_of(MODEL["backbone"]), "crop_mode": "squash"}
    monkeypatch.setattr(modeling_dedn, "preprocessing_of", lambda name: own)
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    assert "to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "bird a" / "0.jpg").write_bytes(jpeg(99)), "split 'train'"),
        (lambda root: (root / "bird b" / "0.jpg").write_bytes(jpeg(99)), "split 'test_unseen'"),
        (lambda root: (root / "bird c" / "0.jpg").unlink(), "split 'train'"),
        (
            lambda root: (root / "attributes.csv").write_text((root / "attributes.csv").read_text().replace("4", "5")),
            "the attribute table",
        ),
    ],
)
def test_other_data_are_reported_and_nothing_is_trained(record, tmp_path, no_training, capsys, change, expected):
    root = write_data(tmp_path / "data")
    change(root)
    assert reproduced(record, tmp_path, "--data-dir", root) == 1
    output = capsys.readouterr().out
    assert output.startswith("NOT RUN") and expected in output


def test_a_number_that_differs_on_the_same_machine_is_no_reproduction(record, data_dir, tmp_path, answering, capsys):
    record["history"][0]["loss"] += 1e-12
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 1
    output = capsys.readouterr().out
    assert "DIFFERS: 1 recorded numbers are not the same bits, first history.0.loss" in output


def test_the_flag_of_the_best_epoch_is_not_compared_because_older_records_have_another(
    record, data_dir, tmp_path, answering, capsys
):
    record["history"][-1]["best_so_far"] = record["results"]["best_so_far"] = False
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    assert "to the last bit" in capsys.readouterr().out


def test_other_weights_after_the_same_scores_are_noticed(record, data_dir, tmp_path, answering):
    record["model"]["weights"] = "0" * 64
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 1


def test_other_versions_are_named_and_the_scores_compared_within_the_tolerance(
    record, data_dir, tmp_path, answering, capsys
):
    record["versions"]["torch"] = "0.4"
    record["results"]["H"] += 0.015
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    output = capsys.readouterr().out
    assert "Differs: torch was 0.4, is " in output
    assert "MATCHES within the tolerance" in output and "0.0150, 0.02 are allowed" in output
    assert reproduced(record, tmp_path, "--data-dir", data_dir, "--tolerance", 0.01) == 1
    assert "\nDIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize("code", [None, "0123456789abcdef"])
def test_numbers_of_other_or_unknown_code_need_not_be_the_same_bits(
    record, data_dir, tmp_path, answering, capsys, code
):
    record["code"], record["revision"] = code, None
    record["history"][0]["loss"] += 1e-12
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    output = capsys.readouterr().out
    assert f"Differs: code of dedn_hf was {code or 'unknown'} (revision unknown), is " in output
    assert "MATCHES within the tolerance" in output


def test_the_same_code_in_another_revision_has_to_give_the_same_bits(record, data_dir, tmp_path, answering, capsys):
    record["revision"] = "0" * 40
    record["history"][0]["loss"] += 1e-12
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 1
    assert "Differs: code" not in capsys.readouterr().out


def test_the_hash_of_the_code_is_that_of_all_its_files_wherever_they_lie(tmp_path, monkeypatch):
    """In a clone, modeling/ lies beside dedn_hf/; installed, in it."""
    before = code_hash()
    for package, folder in ((dedn_hf, tmp_path / "dedn_hf"), (dedn_hf.modeling, tmp_path / "dedn_hf" / "modeling")):
        shutil.copytree(
            Path(package.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__", "modeling")
        )
        monkeypatch.setattr(package, "__file__", str(folder / "__init__.py"))
    assert code_hash() == before
    for changed in ("training.py", "data/base.py", "modeling/experts.py"):
        with open(tmp_path / "dedn_hf" / changed, "a") as file:
            file.write("\n")
        before, now = code_hash(), before
        assert before != now


def test_the_second_run_has_as_many_threads_as_the_first(record, data_dir, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(
        "dedn_hf.studies.reproduction.run", lambda *_: threads.append(torch.get_num_threads()) or record
    )
    record["hardware"]["threads"] = other = torch.get_num_threads() + 1
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    assert threads == [other] and torch.get_num_threads() == other - 1


def test_what_a_killed_reproduction_left_is_removed(record, data_dir, tmp_path, answering, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "dedn-reproduce-killed" / "content" / "features").mkdir(parents=True)
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    assert not list(tmp_path.glob("dedn-reproduce-*"))


def test_an_old_record_is_compared_and_what_cannot_be_checked_is_said(record, data_dir, tmp_path, answering, capsys):
    del record["data"]["fingerprint"], record["model"]["weights"]
    record["experiment"]["model"]["pretrained"] = True
    del record["model"]["backbone_start"]
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 0
    output = capsys.readouterr().out
    assert "Not checked: whether the data are the same" in output
    assert "Not checked: whether the backbone's first weights are the same" in output
    assert "Not checked: whether the trained weights are the same" in output


def test_a_record_that_does_not_say_how_to_run_it_is_refused(record, tmp_path, capsys):
    record["experiment"] = {"data": {"name": "folder"}}
    assert reproduced(record, tmp_path) == 2
    message = capsys.readouterr().err
    assert "it has no experiment.model.backbone, experiment.training. Runs of examples/train.py record it" in message
    assert main(["reproduce", str(tmp_path / "absent")]) == 2
    assert "Give the run.json of a finished run" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("{")
    assert main(["reproduce", str(tmp_path / "broken.json")]) == 2
    assert "is not JSON" in capsys.readouterr().err


def changed(record: dict, name: str, value: object) -> dict:
    """A copy with another value for 'section.key'."""
    record = copy.deepcopy(record)
    *sections, key = name.split(".")
    part = record
    for section in sections:
        part = part[section]
    part[key] = value
    return record


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("experiment", "x"),
        ("experiment.data", []),
        ("experiment.data.name", None),
        ("experiment.model.backbone", None),
        ("results", None),
        ("results", {}),
        ("history", None),
        ("history", []),
        ("hardware", None),
        ("hardware.threads", "two"),
        ("data.fingerprint", "abc"),
    ],
)
def test_a_record_with_damage_is_refused_and_never_matches_for_want_of_numbers(record, name, value, tmp_path, capsys):
    assert reproduced(changed(record, name, value), tmp_path) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, 3, "text"])
def test_json_that_is_no_record_is_refused(content, tmp_path, capsys):
    assert reproduced(content, tmp_path) == 2
    assert "it has no experiment.data.name" in capsys.readouterr().err


def test_what_has_to_be_given_is_asked_for(record, data_dir, tmp_path, no_training, capsys):
    assert reproduced(record, tmp_path) == 2
    assert "folder needs --data-dir" in capsys.readouterr().err
    record["experiment"]["model"]["pretrained"] = "lite0.safetensors"
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 2
    assert "weights file 'lite0.safetensors': give it by --weights" in capsys.readouterr().err
    assert reproduced(record, tmp_path, "--data-dir", data_dir, "--weights", tmp_path / "absent") == 2
    assert "No weights file" in capsys.readouterr().err
    record["experiment"]["data"]["name"] = "my-prepared-birds"
    assert reproduced(record, tmp_path) == 2
    assert "'my-prepared-birds': give its folder by --data-dir" in capsys.readouterr().err
    record["experiment"]["data"] = {"name": "shapes"}
    assert reproduced(record, tmp_path, "--data-dir", data_dir) == 2
    assert "shapes takes no --data-dir" in capsys.readouterr().err


def test_other_backbone_weights_are_reported_and_nothing_is_trained(
    record, data_dir, tmp_path, no_training, monkeypatch, capsys
):
    def weights_of(seed: int) -> Path:
        torch.manual_seed(seed)
        settings = TrainingSettings(seed=seed)
        preset = {"data": {"name": "folder", "data_dir": str(data_dir)}, "model": MODEL, "training": {}}
        experiment = Experiment.from_preset(preset)
        body = new_model(experiment, experiment.load(False)[1], settings).backbone.body
        torch.save(body.state_dict(), tmp_path / f"{seed}.pt")
        return tmp_path / f"{seed}.pt"

    record["experiment"]["model"]["pretrained"] = "0.pt"
    monkeypatch.setattr("dedn_hf.studies.reproduction.run", lambda *_: record)
    assert reproduced(record, tmp_path, "--data-dir", data_dir, "--weights", weights_of(0)) == 0
    monkeypatch.setattr("dedn_hf.studies.reproduction.run", lambda *_: pytest.fail("trained"))
    assert reproduced(record, tmp_path, "--data-dir", data_dir, "--weights", weights_of(1)) == 1
    assert "the backbone's first weights: hash" in capsys.readouterr().out


def test_the_record_holds_no_path_of_this_machine(record, data_dir):
    assert str(data_dir.parent) not in json.dumps(record)


def test_tables_in_the_data_folder_are_found_again(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    preset = {"data": {"name": "folder", "csv": ["a.csv", "b.csv"], "groups": "c.csv"}, "model": {}}
    data = with_paths(preset, tmp_path, None)["data"]
    assert data["csv"] == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    assert data["groups"] == "c.csv"


def test_a_fingerprint_tells_the_order_of_the_images_and_their_labels(data_dir):
    splits, table = load("folder", data_dir=data_dir)
    first = data_fingerprint(splits, table)
    assert set(first) == {"train", "test_seen", "test_unseen", "table"}
    assert data_fingerprint(*load("folder", data_dir=data_dir)) == first
    turned = type(splits)({**splits, "train": splits["train"].select(range(len(splits["train"]))[::-1])})
    relabelled = type(splits)({**splits, "test_seen": splits["test_seen"].map(lambda row: {"label": 0})})
    assert [name for name in first if data_fingerprint(turned, table)[name] != first[name]] == ["train"]
    assert [name for name in first if data_fingerprint(relabelled, table)[name] != first[name]] == ["test_seen"]
    renamed = table.replace(attribute_names=["a", "b", "c"])
    assert [name for name in first if data_fingerprint(splits, renamed)[name] != first[name]] == ["table"]


def test_deterministic_training_on_a_gpu_asks_for_the_environment_variable(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        compute_deterministically(torch.device("cuda"))
