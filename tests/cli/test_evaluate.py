"""`dedn evaluate`: how good a model is, on photos that it was not trained on."""

import json
import shutil

import datasets
import pytest
from accelerate.state import AcceleratorState, GradientState

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.training import Experiment, TrainingSettings, evaluate_photos, run
from tests.fake_data import jpeg, write_csv, write_folder

ROLES = {"wren": "train", "kite": "val", "tern": "train", "snow_owl": "unseen", "crow": "unseen"}
MODEL = {"backbone": "test_resnet", "image_size": 64, "pretrained": False}


def new_accelerator():
    from accelerate import Accelerator

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of one epoch, `model`, and its photos, ten of each class."""
    root = tmp_path_factory.mktemp("trained")
    write_folder(root / "photos", dict.fromkeys(ROLES, 10))
    data = {"name": "folder", "data_dir": str(root / "photos"), "csv": str(write_csv(root / "birds.csv", ROLES))}
    preset = {"data": {**data, "cache_dir": str(root / "cache")}, "model": MODEL, "training": {}}
    settings = TrainingSettings(epochs=1, batch_size=6, sampling="uniform", select_on="last", checkpoint_every=0)
    run(Experiment.from_preset(preset), settings, root / "model", new_accelerator())
    return root


@pytest.fixture
def birds(trained, tmp_path, monkeypatch):
    """Model and photos, to be changed."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    new_accelerator()
    for name in ("model", "photos"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def evaluated(birds, *options: str) -> dict:
    """What `dedn evaluate` writes as JSON."""
    file = birds / "found.json"
    arguments = ["evaluate", str(birds / "model"), str(birds / "photos"), "--cpu", "--json", str(file), *options]
    assert main(arguments) == 0
    return json.loads(file.read_text())


def change_table(birds, **changes) -> None:
    """Save the model with another table."""
    model = DEDNForZeroShot.from_pretrained(birds / "model")
    table = AttributeTable.load(birds / "model").replace(**changes)
    model.set_classes(table)
    model.save_pretrained(birds / "model")
    table.save(birds / "model")


def test_the_photos_of_the_training_give_its_results(birds, capsys):
    found = evaluated(birds)
    results = json.loads((birds / "model" / "run.json").read_text())["results"]
    assert found["results"] == {key: results[key] for key in found["results"]}
    assert found["photos"] == {"seen": 6, "unseen": 20}
    screen = capsys.readouterr().out
    assert "These are the photos of the training; only those that it held out are tested on." in screen
    assert "by chance" in screen and "50.0" in screen and "snow owl (described)" in screen


def test_a_training_in_another_precision_is_told(birds):
    record = json.loads((birds / "model" / "run.json").read_text())
    (birds / "model" / "run.json").write_text(json.dumps(record | {"feature_precision": "bfloat16"}))
    notes = evaluated(birds)["notes"]
    assert notes[1] == "It computed in bfloat16, so without its features (--features) a few answers differ."


def test_cached_features_give_the_results_of_images(birds):
    plain, cached = evaluated(birds), evaluated(birds, "--features", str(birds / "cache"))
    assert cached["photos"] == plain["photos"] and (birds / "cache" / "features.bin").is_file()
    assert cached["results"]["S"] == pytest.approx(plain["results"]["S"], abs=0.2)


def test_other_photos_are_said_to_be_others(birds):
    (birds / "photos" / "wren" / "new.jpg").write_bytes(jpeg(1000))
    (note,) = evaluated(birds)["notes"]
    assert note.startswith("These are not the photos of the training") and "--all" in note


def test_without_a_record_nobody_knows_what_was_trained_on(birds):
    (birds / "model" / "run.json").unlink()
    (note,) = evaluated(birds)["notes"]
    assert note.startswith("The model has no record of the photos that it was trained on")


def test_new_photos_are_all_tested_on(birds):
    found = evaluated(birds, "--all")
    assert found["photos"] == {"seen": 30, "unseen": 20} and found["notes"] == []


def test_the_share_that_the_training_held_out_is_on_record(birds):
    record = json.loads((birds / "model" / "run.json").read_text())
    record["experiment"]["data"]["test_fraction"] = 0.5
    (birds / "model" / "run.json").write_text(json.dumps(record))
    assert evaluated(birds)["photos"] == {"seen": 15, "unseen": 20}


def test_a_model_of_seen_classes_is_tested_as_a_plain_classifier(birds):
    change_table(birds, roles=["train"] * 5)
    found = evaluated(birds, "--all")
    assert found["results"]["S"] is not None and found["photos"] == {"seen": 50, "unseen": 0}
    assert all(found["results"][name] is None for name in ("T1", "U", "H", "AUSUC"))


def test_photos_of_described_classes_alone_are_enough(birds):
    for name in ("wren", "kite", "tern"):
        shutil.rmtree(birds / "photos" / name)
    found = evaluated(birds)
    assert found["results"]["T1"] is not None and found["results"]["S"] is None and found["notes"] == []


def test_folders_may_be_named_otherwise_and_unknown_classes_are_left_out(birds):
    (birds / "photos" / "snow_owl").rename(birds / "photos" / "017. Snow Owl")
    (birds / "photos" / "crow").rename(birds / "photos" / "raven")
    found = evaluated(birds)
    assert found["accuracy_of_class"].keys() == {"wren", "kite", "tern", "snow_owl"}
    assert "Not used: photos of classes that the model does not know: raven." in found["notes"]
    (birds / "names.csv").write_text("folder,name\nraven,crow\n")
    assert "crow" in evaluated(birds, "--names", str(birds / "names.csv"))["accuracy_of_class"]


def test_another_table_may_describe_more_classes(birds):
    (birds / "more.csv").write_text(
        "bird,striped,spotted,tall\nWren,0,1,0\nKite,1,0,1\nTern,0,1,2\nSnow owl,1,0,3\nCrow,0,1,4\nJay,1,1,0\n"
    )
    found = evaluated(birds, "--traits", str(birds / "more.csv"))
    assert len(found["classes"]) == 6 and found["photos"] == {"seen": 6, "unseen": 20}
    assert found["chance"]["T1"] == pytest.approx(1 / 3)
    assert {row["name"]: row["learned_from"] for row in found["classes"]}["Jay"] == "description"


def test_what_the_confidence_promises_is_checked_where_the_model_promises_something(birds):
    assert evaluated(birds)["confidence"]["precision"] == []
    model = DEDNForZeroShot.from_pretrained(birds / "model")
    model.config.precision_thresholds = [[0.92, 0.0]]
    model.save_pretrained(birds / "model")
    (row,) = evaluated(birds)["confidence"]["precision"]
    assert row["wanted"] == 0.9 and row["threshold"] == 0.0 and row["answered"] == 1.0


def test_the_bar_to_beat_is_a_probe_on_the_same_features_and_photos(birds, capsys):
    found = evaluated(birds, "--bar")
    screen = capsys.readouterr().out
    assert found["bar"]["name"] == "ESZSL" and found["bar"]["photos"] == 24
    assert all(0 <= found["bar"][name] <= 1 for name in ("T1", "U", "S", "H", "AUSUC"))
    assert "by chance       ESZSL" in screen and "trained on the 24 photos here that are not tested on" in screen
    cached = evaluated(birds, "--features", str(birds / "cache"))  # where it costs nothing, it need not be asked for
    assert cached["bar"]["T1"] == pytest.approx(found["bar"]["T1"], abs=0.2)
    assert evaluated(birds)["bar"] is None


def test_without_photos_to_learn_from_there_is_no_bar(birds, capsys):
    assert evaluated(birds, "--all", "--features", str(birds / "cache"))["bar"] is None
    arguments = [str(birds / "model"), str(birds / "photos"), "--all", "--bar", "--cpu"]
    assert main(["evaluate", *arguments]) == 2
    assert "The bar to beat needs photos to learn from" in capsys.readouterr().err


def test_how_many_photos_would_be_taken_for_something_else_is_said_where_the_model_can_tell(birds, capsys):
    assert evaluated(birds)["confidence"]["taken_for_none"] is None
    model = DEDNForZeroShot.from_pretrained(birds / "model")
    model.config.none_of_these = [1.0, 1e9]
    model.save_pretrained(birds / "model")
    assert evaluated(birds)["confidence"]["taken_for_none"] == 1.0
    assert "100.0 % of these photos would be taken for pictures of none of the classes" in capsys.readouterr().out


def test_the_page_is_one_file(birds, capsys):
    page = birds / "page.html"
    evaluated(birds, "--html", str(page))
    assert "How well model recognises its classes" in page.read_text() and f"Wrote {page}" in capsys.readouterr().out


def test_a_prepared_folder_is_tested_on_its_test_splits(birds, capsys):
    shutil.copy(birds / "model" / "attributes.csv", birds / "photos" / "attributes.csv")
    assert main(["prepare", "folder", "--data-dir", str(birds / "photos"), "--out", str(birds / "parquet")]) == 0
    shutil.rmtree(birds / "photos")
    shutil.move(birds / "parquet", birds / "photos")
    expected = json.loads((birds / "model" / "run.json").read_text())["results"]
    assert evaluated(birds)["results"]["per_class_accuracy"] == expected["per_class_accuracy"]


def test_python_gives_what_the_command_gives(birds):
    found = evaluate_photos(birds / "model", birds / "photos", accelerator=new_accelerator())
    assert found.scores == evaluated(birds)["results"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{model}"], "Give a folder of photos to test on, or a data set with --data"),
        (["{model}", "{photos}", "--data", "cub"], "Give a folder of photos to test on, or"),
        (["{model}", "{photos}", "--csv", "x.csv"], "--csv belongs to --data"),
        (["{model}", "--data", "shapes", "--traits", "x.csv"], "--traits belongs to a folder of photos"),
        (["{model}", "{photos}", "--json", "absent/found.json"], "There is no folder absent"),
        (["{model}", "{photos}", "--html", "page.txt"], "give one of .html"),
        (["{model}", "{model}"], "holds no photo of a class of the model"),
        (["{photos}", "{photos}"], "holds no DEDN model"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(arguments, message, birds, capsys):
    filled = [each.format(model=birds / "model", photos=birds / "photos") for each in arguments]
    assert main(["evaluate", "--cpu", *filled]) == 2
    assert message in capsys.readouterr().err


def test_what_the_training_leaves_is_enough_to_describe_a_class_by_photos(birds, capsys):
    (birds / "new").mkdir()
    (birds / "new" / "one.jpg").write_bytes(jpeg(7))
    arguments = ["describe", str(birds / "model"), "jay", "--photos", str(birds / "new")]
    assert main([*arguments, "--out", str(birds / "model2")]) == 0
    assert AttributeTable.from_csv(birds / "model" / "photo-scores.csv").class_names == ["wren", "kite", "tern"]
    assert AttributeTable.load(birds / "model2").class_names[-1] == "jay"
    assert main(["evaluate", str(birds / "model2"), str(birds / "photos"), "--cpu"]) == 0
    assert "Described with photos, which must not be among these: jay." in capsys.readouterr().out


def test_one_bar_shows_how_far_it_is(birds, capfd):
    evaluated(birds)
    said = capfd.readouterr().err
    assert "testing: 100%" in said and "Generating" not in said
