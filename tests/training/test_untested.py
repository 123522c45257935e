"""Classes without photos: what cannot be tested is said to be so, and training works from start to finish."""

import json
import shutil

import pytest

from dedn_hf import DEDNForZeroShot
from dedn_hf.training import Experiment, TrainingSettings, run
from tests.fake_data import write_csv, write_folder

ROLES = {"wren": "train", "kite": "train", "tern": "train", "gull": "train", "swan": "unseen", "crow": "unseen"}
MODEL = {"backbone": "test_resnet", "image_size": 64, "pretrained": False}


@pytest.fixture
def birds(tmp_path):
    write_csv(tmp_path / "table.csv", ROLES)
    return write_folder(tmp_path / "photos", dict.fromkeys(ROLES, 6))


def trained(birds, tmp_path, accelerator, **settings) -> dict:
    data = {"name": "folder", "data_dir": str(birds), "csv": str(tmp_path / "table.csv")}
    data["cache_dir"] = str(tmp_path / "cache")
    experiment = Experiment.from_preset({"data": data, "model": MODEL, "training": {}})
    options = TrainingSettings(epochs=2, batch_size=4, sampling="uniform", checkpoint_every=0, **settings)
    return run(experiment, options, tmp_path / "out", accelerator)


def remove(birds, *names: str, keep: int = 0) -> None:
    for name in names:
        for photo in sorted((birds / name).iterdir())[keep:]:
            photo.unlink()


@pytest.mark.parametrize("settings", [{"select_on": "last"}, {"select_on": "val", "calibrate": True}])
def test_unseen_classes_may_be_described_only(settings, birds, tmp_path, accelerator):
    shutil.rmtree(birds / "swan")
    shutil.rmtree(birds / "crow")
    record = trained(birds, tmp_path, accelerator, **settings)
    scores = record["results"]
    assert scores["T1"] is None and scores["U"] is None and scores["H"] is None and 0 <= scores["S"] <= 1
    assert "not tested" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["results"]["H"] is None
    model = DEDNForZeroShot.from_pretrained(tmp_path / "out")
    assert {"swan", "crow"} <= set(model.attribute_table.class_names)


def test_one_photo_a_class_trains_and_leaves_seen_classes_untested(birds, tmp_path, accelerator):
    remove(birds, *ROLES, keep=1)
    scores = trained(birds, tmp_path, accelerator, select_on="last")["results"]
    assert scores["S"] is None and scores["H"] is None and 0 <= scores["T1"] <= 1


def test_one_photo_a_class_is_too_little_to_choose_by(birds, tmp_path, accelerator):
    remove(birds, *ROLES, keep=1)
    with pytest.raises(ValueError, match="too few photos to choose settings by.*--select-on last"):
        trained(birds, tmp_path, accelerator, select_on="val")


def test_nothing_to_test_on_is_refused(birds, tmp_path, accelerator):
    remove(birds, "swan", "crow")
    remove(birds, *ROLES, keep=1)
    with pytest.raises(ValueError, match="no photo to test on"):
        trained(birds, tmp_path, accelerator, select_on="last")


def test_choosing_on_the_test_splits_needs_photos_of_both(birds, tmp_path, accelerator):
    remove(birds, "swan", "crow")
    with pytest.raises(ValueError, match="no photo of unseen classes"):
        trained(birds, tmp_path, accelerator, select_on="test")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_very_unequal_classes_train(birds, tmp_path, accelerator):
    remove(birds, "wren", "kite", keep=1)
    scores = trained(birds, tmp_path, accelerator, select_on="last")["results"]
    assert all(0 <= scores[name] <= 1 for name in ("T1", "U", "S", "H"))


@pytest.mark.parametrize("calibrate", [False, True])
def test_too_few_classes_to_choose_by_are_warned_of(calibrate, birds, tmp_path, accelerator, caplog):
    trained(birds, tmp_path, accelerator, select_on="val", calibrate=calibrate)
    assert "with 1 held-out class playing the unseen ones. That is too few" in caplog.text
    assert ("the constant on unseen logits" in caplog.text) == calibrate


def test_a_class_without_a_direction_is_refused_before_the_training(birds, tmp_path, accelerator, monkeypatch):
    monkeypatch.setitem(MODEL, "center_attributes", True)
    write_csv(tmp_path / "table.csv", {name: "train" if name == "wren" else "unseen" for name in ROLES})
    with pytest.raises(ValueError, match="wren: nothing sets this class apart from the mean of the seen classes"):
        trained(birds, tmp_path, accelerator, select_on="last")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_classes_with_one_description_are_named(birds, tmp_path, accelerator, caplog):
    rows = ["class,role,red,round", "wren,train,1,0", "kite,train,1,0", "tern,train,0,1", "gull,train,1,1"]
    (tmp_path / "table.csv").write_text("\n".join([*rows, "swan,unseen,0,1", "crow,unseen,1,1"]) + "\n")
    trained(birds, tmp_path, accelerator, select_on="last")
    assert "Nothing tells these classes apart, and all get one answer: wren, kite." in caplog.text
