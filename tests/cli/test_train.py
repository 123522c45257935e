"""`dedn train`: from photos and a table of traits to a tested model."""

import csv
import json

import datasets
import pytest
import timm
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file

from dedn_hf import DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.training.automatic import EFFORTS, automatic_preset, continued
from dedn_hf.training.plan import JointBar, Plan, duration, plan_of
from dedn_hf.training.settings import TrainingSettings
from tests.fake_data import jpeg, write_folder

TABLE = """species;bill;mass;crest
kite;hooked;1,2 kg;no
wren;thin;9 g;no
tern;straight;120 g;no
lapwing;straight;220 g;yes
jay;strong;160 g;yes
snow owl;hooked;2 kg;no
hoopoe;curved;70 g;yes
"""
LEARNED = ("kite", "wren", "tern", "lapwing", "jay")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Each command is a process of its own for its user."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture
def birds(tmp_path):
    """Photos of five classes and a table of seven."""
    write_folder(tmp_path / "photos", dict.fromkeys(LEARNED, 8))
    (tmp_path / "birds.csv").write_text(TABLE)
    return tmp_path


def train(birds, weights, *options: str, out: str = "model", epochs: int = 2) -> int:
    command = ["train", str(birds / "photos"), "--traits", str(birds / "birds.csv"), "--out", str(birds / out)]
    command += ["--backbone", "test_resnet", "--weights", str(weights), "--effort", "quick", "--cpu", *options]
    changes = ["model.image_size=64", f"training.epochs={epochs}", "training.evaluate_every=1"]
    return main([*command, "--set", *changes])


def test_four_commands_lead_from_photos_to_answers(birds, weights, capsys):
    photos, table, model = str(birds / "photos"), str(birds / "birds.csv"), str(birds / "model")
    assert main(["check", photos, "--traits", table]) == 0
    assert train(birds, weights) == 0
    said = capsys.readouterr().out
    assert (
        "5 classes learned from photos, 2 only described" in said
        and "in all" in said
        and "before it was stopped" not in said
    )
    assert f"dedn evaluate {model} {photos}" in said and "not tested" in said
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(["evaluate", model, photos, "--cpu"]) == 0
    write_folder(birds / "new", {"trip": 3})
    assert main(["classify", model, str(birds / "new"), "--out", str(birds / "answers.csv")]) == 0
    with open(birds / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and {row["answer"] for row in rows} <= {*LEARNED, "snow owl", "hoopoe"}


def test_what_was_chosen_on_held_out_classes_is_part_of_the_model(birds, weights):
    assert train(birds, weights) == 0
    record = json.loads((birds / "model" / "run.json").read_text())
    held_out = [set(fold["held_out"]) for fold in record["selection"]["folds"]]
    assert set().union(*held_out) == set(LEARNED)
    config = DEDNForZeroShot.from_pretrained(birds / "model").config
    assert config.temperature == record["selection"]["temperature"]
    assert config.calibration_bias == record["calibration_bias"]
    assert str(birds) not in (birds / "model" / "run.json").read_text()


def test_with_very_few_classes_nothing_is_chosen_and_the_last_epoch_is_taken(tmp_path, weights):
    write_folder(tmp_path / "photos", {"kite": 5, "wren": 5})
    (tmp_path / "birds.csv").write_text(TABLE)
    assert train(tmp_path, weights) == 0
    record = json.loads((tmp_path / "model" / "run.json").read_text())
    assert record["settings"]["select_on"] == "last" and record["calibration_bias"] == 0


SAME = "species;bill;crest\n" + "".join(f"{name};thin;yes\n" for name in LEARNED) + "hoopoe;curved;no\n"
ONE_TRAIT = "species;mass\n" + "".join(f"{name};{9 + place} g\n" for place, name in enumerate(LEARNED))


@pytest.mark.parametrize(
    ("counts", "table", "damaged", "message"),
    [
        (dict.fromkeys(LEARNED, 1), TABLE, "", "no photo to test on. Add photos: two of a seen class"),
        ({"kite": 5}, TABLE, "", "Photos of 1 class (kite) are too few"),
        (dict.fromkeys(LEARNED, 3), SAME, "", "nothing sets these classes apart from the others"),
        (dict.fromkeys(LEARNED, 3), ONE_TRAIT, "", "The table has 1 attribute, 'mass'"),
        (dict.fromkeys(LEARNED, 3), TABLE, "kite", "No photo of kite is left to learn from"),
        (dict.fromkeys(LEARNED, 3), TABLE, "*", "None of the 15 images of"),
    ],
    ids=["one photo a class", "one class", "all alike", "one trait", "a class unreadable", "all unreadable"],
)
def test_photos_that_nothing_can_be_learned_from_are_refused_at_once(
    counts, table, damaged, message, tmp_path, weights, capsys
):
    root = write_folder(tmp_path / "photos", counts)
    (tmp_path / "birds.csv").write_text(table)
    for path in root.glob(f"{damaged}/*.jpg") if damaged else ():
        path.write_bytes(b"damaged")
    assert train(tmp_path, weights) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "model").exists()


@pytest.mark.parametrize("counts", [dict.fromkeys(LEARNED, 2), {"kite": 1, "wren": 60, "tern": 2, "lapwing": 2}])
def test_with_too_few_photos_to_choose_by_nothing_is_chosen_and_answers_are_given(counts, tmp_path, weights):
    write_folder(tmp_path / "photos", counts)
    (tmp_path / "birds.csv").write_text(TABLE)
    assert train(tmp_path, weights) == 0
    record = json.loads((tmp_path / "model" / "run.json").read_text())
    assert record["settings"]["select_on"] == "last" and record["results"]["S"] is not None
    assert main(["classify", str(tmp_path / "model"), str(tmp_path / "photos"), "--out", str(tmp_path / "a.csv")]) == 0


def test_a_photo_that_cannot_be_read_is_named_before_the_training(birds, weights, capfd, caplog):
    (birds / "photos" / "kite" / "0.jpg").write_bytes(b"damaged")
    assert train(birds, weights, epochs=1) == 0
    assert caplog.text.count("1 of 40 images do not decode and are left out: kite/0.jpg") == 1


def test_the_batch_fits_the_smallest_training_that_settings_are_chosen_by():
    assert automatic_preset({}, 100, 4, smallest=12)["training"]["batch_size"] == 12
    assert automatic_preset({}, 100, 4, smallest=60)["training"]["batch_size"] == 30
    assert automatic_preset({}, 100, 4, smallest=0)["training"]["select_on"] == "last"


def test_a_stopped_training_goes_on_with_the_same_command(birds, weights, monkeypatch, capsys):
    from dedn_hf.training import loop

    evaluate, calls = loop.evaluate, []

    def stop_at_the_third(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(loop, "evaluate", stop_at_the_third)
    assert train(birds, weights) == 130
    assert "The same command goes on" in capsys.readouterr().err
    assert not (birds / "model" / "run.json").exists()
    monkeypatch.setattr(loop, "evaluate", evaluate)
    capsys.readouterr()
    assert train(birds, weights) == 0
    assert "less what was done before it was stopped" in capsys.readouterr().out
    assert json.loads((birds / "model" / "run.json").read_text())["time"]["resumed"]


def test_photos_that_arrive_later_make_a_described_class_a_seen_one(birds, weights, capsys):
    assert train(birds, weights) == 0
    before = DEDNForZeroShot.from_pretrained(birds / "model")
    write_folder(birds / "photos", {"hoopoe": 6})
    capsys.readouterr()
    assert train(birds, weights, "--start-from", str(birds / "model"), out="second", epochs=1) == 0
    assert "features of the photos   are there" in capsys.readouterr().out  # all classes have the same photos
    after = DEDNForZeroShot.from_pretrained(birds / "second")
    seen = dict(zip(after.attribute_table.class_names, after.seen.tolist(), strict=True))
    assert seen["hoopoe"] and not seen["snow owl"]
    assert after.config.calibration_bias == before.config.calibration_bias
    assert after.config.temperature == before.config.temperature
    assert json.loads((birds / "second" / "run.json").read_text())["selection"] is None


# Labels -------------------------------------------------------------------------------------------------------------


def labelled(birds, labels: dict[str, str], photos: str = "new"):
    """Answers about new photos in one folder, of which some were confirmed or corrected by a person."""
    (birds / photos).mkdir(exist_ok=True)
    with open(birds / "answers.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "answer", "label", "error"])
        writer.writeheader()
        for number, (name, label) in enumerate(labels.items()):
            path = birds / photos / f"{name}.jpg"
            path.write_bytes(jpeg(1000 + number))
            writer.writerow({"file": path, "answer": "hoopoe", "label": label})
    return birds / "answers.csv"


def train_on_labels(birds, weights, *options: str, out: str = "second") -> int:
    command = ["train", str(birds / "new"), "--labels", str(birds / "answers.csv"), "--out", str(birds / out)]
    command += ["--backbone", "test_resnet", "--weights", str(weights), "--effort", "quick", "--cpu", *options]
    return main([*command, "--set", "model.image_size=64", "training.epochs=2", "training.evaluate_every=1"])


CONFIRMED = {f"h{number}": "yes" for number in range(5)} | {"k": "kite", "m": "", "n": "no"}


def test_confirmed_answers_make_a_described_class_a_seen_one_and_the_learned_ones_stay(birds, weights, capsys):
    assert train(birds, weights) == 0
    before = DEDNForZeroShot.from_pretrained(birds / "model")
    labelled(birds, CONFIRMED)
    capsys.readouterr()
    assert train_on_labels(birds, weights, "--start-from", str(birds / "model")) == 0
    said = capsys.readouterr().out
    assert "6 photos of 2 classes" in said and "left out: 1 rows without a label" in said
    assert f"4 classes that {birds / 'model'} has learned have no photos here" in said and "--old-photos" in said
    after = DEDNForZeroShot.from_pretrained(birds / "second")
    assert after.attribute_table.class_names == before.attribute_table.class_names
    seen = dict(zip(after.attribute_table.class_names, after.seen.tolist(), strict=True))
    assert [name for name, is_seen in seen.items() if not is_seen] == ["snow owl"]
    assert torch.equal(after.class_attributes, before.class_attributes)
    assert after.config.calibration_bias == before.config.calibration_bias
    record = json.loads((birds / "second" / "run.json").read_text())
    assert record["data"]["images"] == {"train": 5, "test_seen": 1, "test_unseen": 0}
    assert str(birds) not in (birds / "second" / "run.json").read_text()


def test_old_photos_are_trained_on_beside_confirmed_answers_and_their_features_are_used_again(birds, weights, capsys):
    assert train(birds, weights) == 0
    labelled(birds, CONFIRMED)
    features = birds / "model-features" / "images.txt"
    known = features.read_text().splitlines()
    options = ["--start-from", str(birds / "model"), "--old-photos", str(birds / "photos")]
    capsys.readouterr()
    assert train_on_labels(birds, weights, *options) == 0
    assert "have no photos here" not in capsys.readouterr().out
    record = json.loads((birds / "second" / "run.json").read_text())
    assert sum(record["data"]["images"].values()) == 40 + 6
    assert features.read_text().splitlines()[: len(known)] == known
    assert not (birds / "second-features").exists()


def test_labels_alone_say_which_photo_is_which_class(birds, weights):
    labelled(birds, {f"{name}-{number}": name for name in LEARNED for number in range(4)})
    assert train_on_labels(birds, weights, "--traits", str(birds / "birds.csv")) == 0
    model = DEDNForZeroShot.from_pretrained(birds / "second")
    seen = {name for name, is_seen in zip(model.config.id2label.values(), model.seen.tolist(), strict=True) if is_seen}
    assert seen == set(LEARNED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give --traits FILE, the table that describes the classes, or --start-from MODEL"),
        (["--traits", "birds.csv", "--labels", "nowhere.csv"], "There is no list of labels"),
        (["--traits", "birds.csv", "--labels", "birds.csv"], "has no column of files"),
        (["--traits", "birds.csv", "--old-photos", "nowhere"], "No folder"),
        (["--start-from", "nowhere"], "nowhere"),
        (["--preset", "cub"], "--labels go with PHOTOS"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_and_nothing_is_written(
    options, message, birds, weights, capsys, monkeypatch
):
    monkeypatch.chdir(birds)
    labelled(birds, {"a": "kite", "b": "wren"})
    before = sorted(birds.rglob("*"))
    assert train_on_labels(birds, weights, *options) == 2
    assert message in capsys.readouterr().err
    assert [path for path in sorted(birds.rglob("*")) if path not in before and "datasets" not in str(path)] == []


def test_old_photos_without_labels_are_refused(birds, weights, capsys):
    assert train(birds, weights, "--old-photos", str(birds / "photos")) == 2
    assert "--old-photos go with --labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--out", "model"], "Give PHOTOS and --traits FILE, or --preset NAME"),
        (["photos", "--out", "model"], "Give --traits FILE"),
        (["nowhere", "--traits", "birds.csv", "--out", "model"], "nowhere"),
        (["--preset", "cup", "--out", "model"], "Did you mean 'cub'"),
        (["photos", "--traits", "birds.csv", "--out", "birds.csv"], "birds.csv is a file. Give --out a folder"),
    ],
)
def test_a_command_that_cannot_be_says_what_is_missing_and_writes_nothing(
    command, message, birds, capsys, monkeypatch
):
    monkeypatch.chdir(birds)
    before = sorted(birds.rglob("*"))
    assert main(["train", *command]) == 2
    assert message in capsys.readouterr().err
    assert [path for path in sorted(birds.rglob("*")) if path not in before and "datasets" not in str(path)] == []


def test_a_finished_model_is_not_trained_over(birds, weights, capsys):
    assert train(birds, weights, epochs=1) == 0
    assert train(birds, weights, epochs=1) == 2
    assert "holds a finished run" in capsys.readouterr().err


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize(("images", "classes"), [(9, 3), (175, 7), (2000, 40), (100_000, 500)])
def test_every_effort_gives_settings_that_there_are(effort, images, classes):
    preset = automatic_preset({"name": "folder"}, images, classes, effort)
    settings = TrainingSettings.from_dict(preset["training"])
    steps = settings.epochs * max(images // settings.batch_size, 1)
    assert steps >= EFFORTS[effort].steps and settings.epochs >= EFFORTS[effort].epochs
    assert settings.epochs % settings.evaluate_every == 0
    assert (settings.select_on == "val" and settings.calibrate) == (classes >= 4)


def test_more_effort_is_more_of_everything():
    quick, normal, best = EFFORTS.values()
    for less, more in ((quick, normal), (normal, best)):
        assert less.steps < more.steps and less.folds < more.folds and less.views <= more.views


def test_an_unknown_effort_is_refused():
    with pytest.raises(ValueError, match="no effort 'huge'; use quick, normal, best"):
        automatic_preset({}, 100, 10, "huge")


def test_going_on_with_a_model_chooses_nothing_anew():
    preset = continued(automatic_preset({"name": "folder"}, 2000, 40), "birds")
    settings = TrainingSettings.from_dict(preset["training"])
    assert preset["model"] == {"start_from": "birds"}
    assert (settings.select_on, settings.calibrate, settings.folds, settings.epochs) == ("last", False, 0, 8)


# The plan ------------------------------------------------------------------------------------------------------------

SECONDS = {"seconds_per_photo": 0.1, "seconds_per_step": 0.5, "seconds_per_test": 0.01}


def test_the_plan_counts_passes_and_steps():
    splits = {"train": range(100), "test_seen": range(20), "test_unseen": range(30)}
    settings = TrainingSettings(epochs=4, batch_size=25, evaluate_every=2, feature_views=3, augmentation="flip")
    plan = plan_of(splits, settings, trainings=2, passes=500, seconds=SECONDS, flip=True)
    assert plan.steps == 2 * 4 * (75 // 25) + 4 * (100 // 25)
    assert plan.tested == 2 * (2 * 2 * 25 + 50)
    assert plan.seconds["features"] == pytest.approx(50)


def test_one_bar_moves_from_nothing_to_all_and_never_beyond():
    bar = JointBar(Plan(photos=10, steps=4, tested=0, **SECONDS), silent=True)
    moved = []
    bar.bar.update = lambda seconds: (moved.append(seconds), setattr(bar.bar, "n", bar.bar.n + seconds))
    assert list(bar(range(5), desc="computing features", total=5)) == list(range(5))
    assert sum(moved) == pytest.approx(1)
    assert list(bar(range(1, 3), desc="fold-1 1/2", total=2, initial=1)) == [1, 2]
    assert list(bar(range(100), desc="test 1/2", total=100)) == list(range(100))
    assert min(moved) >= 0 and bar.bar.n == pytest.approx(bar.bar.total)
    bar.close()


def test_the_time_left_counts_neither_features_that_were_there_nor_steps_before_a_stop(monkeypatch):
    clock = [100.0]
    bar = JointBar(Plan(photos=10, steps=4, tested=0, **SECONDS))
    monkeypatch.setattr(bar.bar, "_time", lambda: clock[0])
    bar.bar.start_t = clock[0]
    bar.skip_steps(2)
    for _ in bar(range(1), desc="test 3/4", total=1):
        clock[0] += 30
    assert bar.bar.total - bar.bar.n == pytest.approx(bar.step)  # one step is left, and one took half a minute
    assert bar.bar.format_meter(**bar.bar.format_dict).endswith("about 00:30 left")
    bar.close()


def test_features_that_are_there_take_no_time():
    plan = Plan(photos=0, steps=4, tested=0, **SECONDS)
    assert plan.describe()[0].endswith("are there") and plan.seconds["features"] == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "about 10 seconds"), (44, "about 40 seconds"), (200, "about 3 minutes"), (9000, "about 2.5 hours")],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert text in duration(seconds)
