"""Studies: every training once, comparisons that are paired, tables that say what they show."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState
from filelock import FileLock
from PIL import Image

from dedn_hf import DEDNForZeroShot
from dedn_hf.metrics.scores import gzsl_scores
from dedn_hf.studies import study
from dedn_hf.studies.comparison import (
    Predictions,
    bootstrap,
    compare,
    holm,
    latex_table,
    markdown_tables,
    paired_p,
    what_seeds_can_show,
)
from dedn_hf.studies.report import read_predictions, write_report
from dedn_hf.studies.study import Plan, Study, execute, make_plan
from tests.fake_data import jpeg, write_csv, write_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = {f"bird {letter}": "unseen" if letter in "bd" else "train" for letter in "abcdef"}
TRAINING = {"epochs": 1, "batch_size": 6, "sampling": "uniform", "select_on": "last", "checkpoint_every": 0}


@pytest.fixture(autouse=True)
def fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def data_dir(tmp_path) -> Path:
    root = write_folder(tmp_path / "data", dict.fromkeys(CLASSES, 5))
    write_csv(root / "attributes.csv", CLASSES)
    return root


@pytest.fixture
def config(tmp_path, data_dir) -> Path:
    preset = {
        "data": {"name": "folder", "data_dir": str(data_dir)},
        "model": {"backbone": "test_resnet", "image_size": 64, "pretrained": False},
        "training": TRAINING,
    }
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


WEIGHTS = Study("Weights", "0.5", {w: {"model": {"coarse_weight": float(w)}} for w in ("0.0", "0.5", "1.0")})
PARTS = Study("Parts", "full", {"full": {}, "coarse only": {"model": {"experts": ["coarse"]}}})


@pytest.fixture
def trained(monkeypatch) -> list:
    """The folders that were trained in, in order."""
    folders, real = [], study.run

    def run(experiment, settings, folder, accelerator):
        folders.append(folder)
        return real(experiment, settings, folder, accelerator)

    monkeypatch.setattr(study, "run", run)
    return folders


# Studies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((EXAMPLES / "configs" / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_fits_its_presets(path, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "data_fingerprint", lambda *_: {"train": "0"})
    monkeypatch.setattr("dedn_hf.training.experiment.load", lambda **_: (None, None))
    presets = ["shapes"] if "shapes" in path.stem else ["cub", "sun", "awa2"]
    for preset in presets:
        plan = make_plan(Study.from_yaml(path), preset, [], [0], tmp_path)
        assert all(training.preset["training"]["select_on"] == "last" for training in plan.trainings)


def test_what_weighs_scores_only_is_trained_once_and_predicted_with_every_weight(config, tmp_path, trained):
    plan = make_plan(WEIGHTS, config, [], [0], tmp_path / "out", features=tmp_path / "features", cpu=True)
    assert len(plan.trainings) == 1 and execute(plan) == {}
    assert trained == [plan.trainings[0].folder]
    by_weight = {name: read_predictions(files[0]) for name, files in plan.predictions.items()}
    mixed = (by_weight["0.0"].logits + by_weight["1.0"].logits) / 2
    np.testing.assert_allclose(by_weight["0.5"].logits, mixed, rtol=0, atol=1e-5)
    assert np.abs(by_weight["0.0"].logits - by_weight["1.0"].logits).max() > 1e-3
    assert DEDNForZeroShot.from_pretrained(plan.trainings[0].folder).config.coarse_weight == 0.0


def test_what_is_done_is_not_done_again_and_shared_between_studies(config, tmp_path, trained, capsys):
    for seeds, expected in (([0], 1), ([0], 1), ([0, 1], 2)):
        execute(make_plan(WEIGHTS, config, [], seeds, tmp_path / "out", cpu=True))
        assert len(trained) == expected
    same = Study("Same", "full", {"full": {}, "0.1, the default": {"model": {"distillation_weight": 0.1}}})
    plan = make_plan(same, config, ["training.num_workers=0", "training.checkpoint_every=3"], [0, 1], tmp_path / "out")
    assert len(plan.trainings) == 2 and all(training.done() for training in plan.trainings)


@pytest.mark.parametrize(
    "change",
    [
        "training.learning_rate=0.5",
        "training.seed=3",
        "model.margin=0.5",
        "model.coarse_weight=0.25",
        "model.crop_pct=1.0",  # without it, the backbone's own
        "model.crop_mode=center",
        "data",
        "select",
    ],
)
def test_whatever_changes_the_result_changes_where_it_is_kept(config, data_dir, tmp_path, change):
    def files(overrides: list[str]) -> set[Path]:
        return {file for t in make_plan(PARTS, config, overrides, [0], tmp_path).trainings for file in t.predictions}

    before = files([])
    assert files([]) == before
    if change == "data":
        (data_dir / "bird a" / "0.jpg").write_bytes(jpeg(99))
        assert not files([]) & before
    elif change == "select":
        assert not files(["training.select_on=test"]) & before
    elif change == "training.seed=3":  # the seeds of the study, not the preset's
        assert files([change]) == before
    else:
        assert not files([change]) & before


def test_a_new_setting_at_its_default_trains_nothing_again(config, tmp_path, monkeypatch):
    now = make_plan(PARTS, config, [], [0], tmp_path)
    written = study.normalized
    monkeypatch.setattr(
        study, "normalized", lambda preset: {**written(preset), "model": {**written(preset)["model"], "new": False}}
    )
    later = make_plan(PARTS, config, [], [0], tmp_path)
    assert [training.folder for training in now.trainings] == [training.folder for training in later.trainings]


def test_a_weight_of_prediction_is_part_of_the_training_where_scores_choose_the_epoch(config, tmp_path):
    assert len(make_plan(WEIGHTS, config, ["training.select_on=test"], [0], tmp_path).trainings) == 3


def test_variants_of_other_features_have_caches_of_their_own(config, tmp_path):
    sizes = Study("Sizes", "64", {str(size): {"model": {"image_size": size}} for size in (64, 96)})
    (tmp_path / "weights.pt").write_bytes(b"")
    for pretrained, expected in ((str(tmp_path / "weights.pt"), 2), ("false", 4)):  # a random backbone is its seed's
        overrides = [f"model.pretrained={pretrained}"]
        plan = make_plan(sizes, config, overrides, [0, 1], tmp_path, features=tmp_path / "features")
        folders = [training.features for training in plan.trainings]
        assert folders[0] == tmp_path / "features" and len(set(folders)) == expected
        assert all(folder.parent == folders[0] for folder in set(folders) - {folders[0]})


@pytest.mark.parametrize(
    ("option", "first", "second"),
    [
        ("backbone", "test_resnet", "test_vit"),
        ("backbone_kwargs", None, {"in_chans": 3}),
        ("feature_source", "stage", "head"),
        ("image_size", 64, 96),
        ("image_mean", [0.5, 0.5, 0.5], [0.4, 0.5, 0.5]),
        ("image_std", [0.5, 0.5, 0.5], [0.4, 0.5, 0.5]),
        ("interpolation", "bicubic", "bilinear"),
        ("crop_pct", 1.0, 0.875),
        ("crop_mode", "center", "squash"),
    ],
)
def test_whatever_changes_features_has_a_cache_of_its_own(config, tmp_path, option, first, second):
    variants = Study("Features", "a", {"a": {"model": {option: first}}, "b": {"model": {option: second}}})
    plan = make_plan(variants, config, ["model.pretrained=false"], [0], tmp_path, features=tmp_path / "features")
    assert len({training.features for training in plan.trainings}) == 2


def test_variants_of_other_interpolation_are_trained_on_caches_of_their_own(config, tmp_path):
    kinds = {kind: {"model": {"interpolation": kind}} for kind in ("bicubic", "bilinear")}
    plan = make_plan(
        Study("x", "bicubic", kinds), config, [], [0], tmp_path / "out", features=tmp_path / "features", cpu=True
    )
    assert execute(plan) == {}


def test_a_failure_stops_no_other_training_and_is_tried_again(config, tmp_path, monkeypatch, capsys):
    plan, real = make_plan(PARTS, config, [], [0], tmp_path / "out", cpu=True), study.run

    def fail_once(experiment, settings, folder, accelerator):
        if folder == plan.trainings[0].folder:
            raise FloatingPointError("The loss is nan")
        return real(experiment, settings, folder, accelerator)

    monkeypatch.setattr(study, "run", fail_once)
    assert list(execute(plan)) == [plan.trainings[0].folder]
    assert "full, seed 0: " in (output := capsys.readouterr().out) and "FloatingPointError: The loss is nan" in output
    assert [training.done() for training in plan.trainings] == [False, True]
    monkeypatch.setattr(study, "run", real)
    assert execute(plan) == {} and all(training.done() for training in plan.trainings)


def test_what_another_command_is_training_is_left_to_it_and_taken_from_there(config, tmp_path, trained, monkeypatch):
    mine, theirs = make_plan(PARTS, config, [], [0], tmp_path / "out", cpu=True).trainings
    plan, printed, waiting = Plan([theirs, mine], {}), [], Event()

    def note(text: str, **_) -> None:
        printed.append(text)
        if "waiting for it" in text:
            waiting.set()

    monkeypatch.setattr(study, "print", note, raising=False)
    theirs.folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, FileLock(theirs.folder / study.LOCK_FILE):
        found = pool.submit(execute, plan)
        assert waiting.wait(120)
        assert trained == [mine.folder]
        for file in theirs.predictions:
            file.write_bytes(b"theirs")
    assert found.result() == {} and trained == [mine.folder]
    assert [file.read_bytes() for file in theirs.predictions] == [b"theirs"]
    assert "Another command is doing 1 of them: waiting for it." in printed


def test_what_a_killed_command_was_training_is_trained(config, tmp_path, trained):
    plan = make_plan(WEIGHTS, config, [], [0], tmp_path / "out", cpu=True)
    hold = "import os, signal, sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire()"
    plan.trainings[0].folder.mkdir(parents=True)
    code = f"{hold}; os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(plan.trainings[0].folder / study.LOCK_FILE)], check=False)
    assert (plan.trainings[0].folder / study.LOCK_FILE).exists()
    assert execute(plan) == {} and trained == [plan.trainings[0].folder]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("title: x\nreference: full\nvariants: {part: {}}", "reference 'full' is not a variant; there are part"),
        ("title: x\nreference: a\nvariants: {a: {model: 3}}", "a: write {section: {key: value}}"),
        ("title: x\nvariants: {a: {}}", "missing.*'reference'.*It needs title, reference and variants"),
        ("title: x\nreference: a\naxis: weight\nvariants: {a: {}}", "could not convert string to float: 'a'"),
        ("variants: [", "is not a study"),
        ("a list", "is not a study"),
        ("title: x\nreference: a\nvariants: {a: {}, b: {}, b: {model: {margin: 0}}}", "'b' is there twice"),
    ],
)
def test_a_study_that_cannot_be_read_is_refused(tmp_path, content, expected):
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(ValueError, match=expected):
        Study.from_yaml(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"distilation_weight": 0}}, "No model option 'distilation_weight'.*distillation_weight"),
        ({"model": {"coarse_weight": 1.5}}, "coarse_weight is 1.5"),
        ({"training": {"epoch": 3}}, "No training setting 'epoch'"),
        ({"modle": {"margin": 0}}, "Unknown section 'modle'"),
        ({"training": {"mixed_precision": "bf16"}}, "mixed_precision is one for a whole study"),
    ],
)
def test_a_variant_with_a_mistake_is_refused_before_anything_is_trained(config, tmp_path, trained, changes, expected):
    with pytest.raises(ValueError, match=expected):
        make_plan(Study("x", "a", {"a": {}, "b": changes}), config, [], [0], tmp_path)


def test_fewer_jobs_than_one_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match="--jobs is 0; it must be 1 or more"):
        execute(make_plan(PARTS, config, [], [0], tmp_path, cpu=True), jobs=0)


def test_an_unknown_variant_is_answered_with_near_ones():
    assert list(PARTS.select(["coarse only"]).variants) == ["full", "coarse only"]
    with pytest.raises(ValueError, match="No variant 'coarse' of 'Parts'.*coarse only"):
        PARTS.select(["coarse"])


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_the_example_writes_its_tables(config, tmp_path):
    (tmp_path / "parts.yaml").write_text(
        yaml.safe_dump({"title": "Parts", "reference": "full", "variants": PARTS.variants})
    )
    for jobs in ("1", "2"):
        command = [sys.executable, EXAMPLES / "study.py", tmp_path / "parts.yaml", "--config", config, "--cpu"]
        command += ["--seeds", "0", "1", "--jobs", jobs, "--output-dir", tmp_path / jobs]
        command += ["--features-dir", tmp_path / "features" / jobs]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "| coarse only |" in done.stdout
    one, two = (json.loads((tmp_path / jobs / "parts.json").read_text())["variants"] for jobs in "12")
    assert one == two
    assert (tmp_path / "1" / "parts.tex").read_text().count(r"$\pm$") == 11  # 2 variants x 5 scores, the caption


# Comparisons ------------------------------------------------------------------------------------------------------


def predictions(seed: int, skill: float, images: int = 60) -> Predictions:
    """Random logits of 6 classes, two of them unseen, with more or less of the truth in them."""
    labels = np.arange(images) % 6
    logits = np.random.default_rng(seed).normal(size=(images, 6)) + skill * np.eye(6)[labels]
    return Predictions(logits, labels, np.array([True, False, True, True, False, True]))


def test_a_comparison_holds_the_scores_their_spread_and_paired_differences():
    found = {
        "full": {s: predictions(s, 2.0) for s in range(3)},
        "part": {s: predictions(s, 1.0) for s in range(3)},
    }
    rows = compare(found, "full")
    expected = [gzsl_scores(p.logits, p.labels, p.seen)["H"] for p in found["part"].values()]
    assert rows["part"]["scores"]["H"] == expected
    assert rows["part"]["mean"]["H"] == pytest.approx(sum(expected) / 3)
    assert rows["part"]["std"]["H"] == pytest.approx(np.std(expected) * (3 / 2) ** 0.5)
    assert "differences" not in rows["full"]
    difference = rows["part"]["differences"]["H"]
    assert difference["mean"] == pytest.approx(rows["part"]["mean"]["H"] - rows["full"]["mean"]["H"])
    low, high = difference["interval"]
    assert low < difference["mean"] < high < 0


def test_the_paired_test_is_the_one_of_the_textbook():
    # differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom; p = 1 - t / sqrt(t^2 + 2)
    assert paired_p([2, 4, 6], [1, 2, 3]) == pytest.approx(1 - 12**0.5 / 14**0.5)
    assert paired_p([0.5], [0.4]) is None
    assert paired_p([0.5, 0.6], [0.5, 0.6]) is None


def test_holms_correction_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_interval_of_a_variant_with_itself_is_nothing_and_pairing_narrows_it():
    same = [predictions(0, 1.0)]
    assert bootstrap(same, same) == {"T1": [0.0, 0.0], "H": [0.0, 0.0]}
    nearly = Predictions(same[0].logits.copy(), same[0].labels, same[0].seen)
    nearly.logits[0] = np.eye(6)[3] * 9  # one image is now wrong
    paired, unpaired = (bootstrap(same, [other])["H"] for other in (nearly, predictions(5, 1.0)))
    assert paired[1] - paired[0] < (unpaired[1] - unpaired[0]) / 3


def test_the_interval_has_the_width_of_the_binomial_distribution():
    """One class of each role; the reference is always right, the variant in 30 of 100 unseen-class images."""
    labels = np.repeat([0, 1, 2], 100)
    seen = np.array([True, False, False])
    right = np.eye(3)[labels]
    right[labels == 1] = [2, 1, 0]  # among all classes wrong, which T1 does not look at
    wrong = right.copy()
    wrong[100:170] = [2, 0, 1]
    low, high = bootstrap([Predictions(right, labels, seen)], [Predictions(wrong, labels, seen)])["T1"]
    # T1 is the mean of 1 and a share of 0.3: its standard deviation is sqrt(0.3 * 0.7 / 100) / 2
    half = 1.96 * (0.3 * 0.7 / 100) ** 0.5 / 2
    assert (low, high) == (pytest.approx(-0.35 - half, abs=0.005), pytest.approx(-0.35 + half, abs=0.005))


def test_other_test_images_have_no_interval():
    assert bootstrap([predictions(0, 1.0)], [predictions(0, 1.0, images=66)]) == {}


def test_few_seeds_are_said_to_be_few():
    assert "no test is possible" in what_seeds_can_show(1)
    text = what_seeds_can_show(3)  # t of 2 degrees of freedom at 97.5 % is 4.303, over sqrt 3: 2.48
    assert "more than 2.48 times" in text and "below p = 0.25" in text and "not that there is no difference" in text


def test_tables_hold_every_variant_and_mark_what_holds_after_correction():
    row = {
        "mean": dict.fromkeys(("T1", "U", "S", "H", "AUSUC"), 0.5),
        "std": dict.fromkeys(("T1", "U", "S", "H", "AUSUC"), 0.021),
    }
    sure = {"mean": -0.0312, "p": 0.004, "holm": 0.012, "interval": [-0.05, -0.01]}
    unsure = {"mean": 0.01, "p": 0.03, "holm": 0.06, "interval": None}
    none = {"mean": 0.0, "p": None, "holm": None, "interval": None}
    rows = {"full": row, "λ_e & 5 %": {**row, "differences": {"T1": sure, "H": unsure, "AUSUC": none}}}
    markdown = markdown_tables(rows, "full")
    assert "| full | 50.0 ± 2.1 | 50.0 ± 2.1 |" in markdown
    assert "| λ_e & 5 % | -3.1 [-5.0, -1.0], p 0.004* | +1.0, p 0.03 | +0.0 |" in markdown
    latex = latex_table(rows, "full", "50 % of it")
    assert r"$\lambda$\_e \& 5 \% & 50.0 $\pm$ 2.1" in latex and r"\caption{50 \% of it}" in latex
    assert r"0.004 & 0.03 & \textendash \\" in latex
    rows["λ_e & 5 %"]["differences"]["T1"] = {**sure, "p": 0.0001}
    assert r"$<$0.001 & 0.03" in latex_table(rows, "full", "x")  # a bare < is another sign in LaTeX's first fonts


def test_a_report_is_written_from_what_was_trained(config, tmp_path):
    along = replace(WEIGHTS, axis="w_e")
    plan = make_plan(along, config, [], [0, 1], tmp_path / "out", cpu=True)
    execute(plan)
    assert write_report(along, plan, tmp_path / "out", "of/weights").exists()
    report = write_report(along, plan, tmp_path / "out", "weights")
    text, content = report.read_text(), json.loads((tmp_path / "out" / "weights.json").read_text())
    assert "| 0.5 |" in text and "2 trainings" in text and "seeds 0, 1" in text and "test_resnet at 64 pixels" in text
    assert content["variants"]["0.0"]["scores"]["T1"] == [  # the preset of the first variant is the one trained
        json.loads((t.folder / "run.json").read_text())["results"]["T1"] for t in plan.trainings
    ]
    latex = (tmp_path / "out" / "weights.tex").read_text()
    assert latex.startswith("\\begin{table}") and "paired t-test over the seeds against 0.5" in latex
    assert r"mean $\pm$ standard deviation over 2 seeds; $p$:" in latex
    assert Image.open(tmp_path / "out" / "weights.png").width > 300
