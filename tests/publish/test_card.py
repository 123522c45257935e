"""Model cards say what the record of a run says, in words, in numbers, in the picture and in the metadata."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from huggingface_hub import ModelCard, metadata_eval_result
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from dedn_hf import AttributeTable, DEDNConfig, DEDNForZeroShot
from dedn_hf.data.benchmarks import attribute_table
from dedn_hf.data.shapes import shapes_table
from dedn_hf.modeling.saving import basic_card, card_data
from dedn_hf.publish.card import Pictures, draw_training, main, model_card, write_card
from dedn_hf.training.experiment import Experiment, run
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import FEATURE_SHAPE, feature_model, image_model, load_tiny, picture, tiny_table

ROOT = Path(__file__).parents[2]
RUNS = sorted(path for path in (ROOT / "docs" / "runs").glob("*.json") if path.stem != "quickstart")
ROWS = ["cub50-published-protocol", "cub50-published-recipe", "cub50-calibrated", "cub50-finetuned", "cub50-views"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a very small run, and its record."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    folder = tmp_path_factory.mktemp("card") / "tiny-birds"
    settings = {"epochs": 3, "batch_size": 6, "sampling": "uniform", "learning_rate": 0.003, "calibrate": True}
    described = {"data": {"name": "tiny"}, "model": {"pretrained": False}}
    experiment = Experiment(load_tiny, image_model, folder.parent / "cache", described)
    record = run(experiment, TrainingSettings(**settings, evaluate_every=2), folder, Accelerator(cpu=True))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return folder, record


def epochs(count: int) -> list[dict]:
    return [
        {"epoch": e, "loss": 5 / e, "T1": 0.5 + e / 100, "U": 0.4, "S": 0.6, "H": 0.48} for e in range(1, count + 1)
    ]


def a_record(select_on: str = "val", **changes) -> dict:
    """What a run on CUB writes down; `changes` by path, as in settings__seed=1."""
    settings = TrainingSettings(epochs=3, select_on=select_on, calibrate=select_on == "val", seed=0).to_dict()
    history, scores = epochs(3), {"AUSUC": 0.3, "per_class_accuracy": [0.05, 0.5, 1.0, None] * 50}
    record = {
        "protocol": "...",
        "selection": {"chosen": epochs(3)[2], "history": epochs(5), "images": {"train": 4000, "val_unseen": 900}},
        "history": history,
        "results": {**history[-1], **scores},
        "calibration_bias": 1.25 if select_on == "val" else 0.0,
        "settings": settings,
        "experiment": {"data": {"name": "cub"}, "model": {"backbone": "resnet101", "image_size": 448}},
        "cached_features": True,
        "versions": {"torch": "2.99"},
        "hardware": {"machine": "x86", "cpu": "Fast 1", "threads": 2, "gpu": "G1", "device": "cpu", "processes": 1},
        "time": {"started": "2026-01-31", "resumed": False, "seconds": {"selection": 200.4, "training": 3725.0}},
        "data": {
            "name": "cub",
            "builder": "cub",
            "variant": "default",
            "images": {"train": 7057, "test_seen": 1764, "test_unseen": 2967},
            "classes": {"train": 100, "val": 50, "unseen": 50},
            "unseen_classes": [f"bird {i}" for i in range(50)],
        },
        "model": {
            "config": {"backbone": "resnet101", "image_size": 448, "margin": 3.0, "calibration_bias": 1.25},
            "attribute_groups": {"head": 112, "wing": 200},
            "parameters": {"backbone": 1000, "experts": 500, "trained": 500},
        },
    }
    if select_on != "val":
        record["selection"] = None
    for path, value in changes.items():
        *keys, last = path.split("__")
        place = record
        for key in keys:
            place = place[key]
        place[last] = value
    return record


def card_of(*records: dict, license: str | None = None) -> ModelCard:
    return ModelCard(str(model_card(records, "birds", Pictures("training.png"), license)))


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n")[1].split("\n## ")[0]


def rows_of(card: ModelCard) -> dict[str, list[str]]:
    """First cell -> other cells, of the table of results."""
    lines = [line for line in section(card, "Results").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


# The card of a run ------------------------------------------------------------------------------------------------


def test_a_run_ends_with_a_card_that_the_hub_can_read(trained):
    folder, _ = trained
    data = ModelCard.load(folder / "README.md").data
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data["library_name"] == "transformers"
    assert {"dedn", "zero-shot-learning", "timm"} <= set(data.tags)
    (widget,) = data.widget
    assert set(widget["candidate_labels"].split(", ")) <= set(tiny_table().class_names)
    with Image.open(folder / "training.png") as curves:
        assert len(set(curves.convert("L").resize((64, 64)).tobytes())) > 20  # not blank
    assert "](training.png)" in (folder / "README.md").read_text()


def test_how_far_to_trust_the_confidence_is_in_words_and_in_a_picture(trained):
    folder, record = trained
    text = (folder / "README.md").read_text()
    assert "](confidence.png)" in text and all(sentence in text for sentence in record["confidence"]["sentences"])
    with Image.open(folder / "confidence.png") as picture:
        assert picture.size == (880, 352)
    assert "even a picture of something else" in text and "not calibrated probabilities" not in text
    older = {key: value for key, value in record.items() if key != "confidence"}
    assert "## Confidence" not in str(model_card([older], "birds", Pictures("training.png")))
    newer = copy.deepcopy(record)
    newer["model"]["config"]["none_of_these"] = [1.0, 2.0]
    assert "Most such pictures are then told, not all" in str(model_card([newer], "birds", Pictures("training.png")))


def test_the_metadata_hold_the_results_of_the_record(trained):
    folder, _ = trained
    record = json.loads((folder / "run.json").read_text())
    data = ModelCard.load(folder / "README.md").data
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    expected = {score: record["results"][score] for score in ("T1", "U", "S", "H", "AUSUC")}
    assert found == pytest.approx(expected, abs=5e-5)
    assert data.model_name == "tiny-birds"
    assert all(result.verified is None and result.verify_token is None for result in data.eval_results)


def test_the_model_index_has_the_form_that_the_hub_library_makes(trained):
    folder, _ = trained
    for result in ModelCard.load(folder / "README.md").data.eval_results:
        made = metadata_eval_result(
            model_pretty_name="tiny-birds",
            task_pretty_name=None,
            task_id="zero-shot-image-classification",
            metrics_pretty_name=result.metric_name,
            metrics_id=result.metric_type,
            metrics_value=result.metric_value,
            dataset_pretty_name="`tiny`",
            dataset_id="tiny",
            dataset_split={"T1": "test_unseen", "U": "test_unseen", "S": "test_seen"}.get(
                result.metric_type, "test_seen+test_unseen"
            ),
        )
        name, (expected,) = model_index_to_eval_results(made["model-index"])
        expected.verified = None
        assert (name, expected) == ("tiny-birds", result)


def test_the_text_says_what_happened(trained):
    folder, record = trained
    card = ModelCard.load(folder / "README.md")
    cells = [f"{100 * record['results'][score]:.1f}" for score in ("T1", "U", "S", "H", "AUSUC")]
    assert rows_of(card)["**This model**, seed 0"] == cells
    assert rows_of(card)["guessing"] == ["50.0", "14.3", "14.3", "14.3", ""]
    epoch, bias = record["selection"]["chosen"]["epoch"], record["calibration_bias"]
    assert (
        f"epoch {epoch} of 3 had the best H there (2 epochs were evaluated), with a constant of {bias:.2f} added"
        in card.text
    )
    data = section(card, "Data")
    assert "7; 5 seen (1 of them validation classes) and 2 unseen" in data
    assert "train 20, test_seen 5, test_unseen 10" in data and "train 12, val_seen 4, val_unseen 4" in data
    assert "Unseen classes: bird b, bird f\n" in data
    assert "8 in 3 groups: wing 4, head 2, tail 2" in data
    training = section(card, "Training")
    assert (
        "`test_resnet` (timm), images of 64 x 64 pixels. Start: random weights; kept frozen, its feature" in training
    )
    assert f"  epochs: {epoch}\n" in training and "  learning_rate: 0.003\n" in training and "margin: 2.0" in training


def test_the_record_of_a_run_knows_its_data_its_model_and_its_time(trained):
    folder, record = trained
    assert record["data"]["name"] == "tiny" and record["data"]["unseen_classes"] == ["bird b", "bird f"]
    assert record["data"]["classes"] == {"train": 4, "val": 1, "unseen": 2}
    model = DEDNForZeroShot.from_pretrained(folder)
    backbone = sum(p.numel() for p in model.backbone.parameters())
    experts = sum(p.numel() for p in model.experts.parameters())
    assert record["model"]["parameters"] == {"backbone": backbone, "experts": experts, "trained": experts}
    stored = json.loads((folder / "run.json").read_text())["model"]["config"]
    assert {key: model.config.to_dict()[key] for key in stored} == stored
    assert not {"attribute_names", "id2label"} & set(record["model"]["config"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["time"]["started"]) and record["time"]["resumed"] is False
    assert set(record["time"]["seconds"]) == {"selection", "training"} and min(record["time"]["seconds"].values()) > 0
    assert record["hardware"]["device"] == "cpu" and record["hardware"]["processes"] == 1
    assert record["cached_features"] is True


def code_of(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


def run_code(card: ModelCard, model: Path, tmp_path: Path) -> str:
    """Run the Python code of a card as a reader would, without this package, and give what it printed."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(model, target_is_directory=True)
    (tmp_path / "photo.jpg").write_bytes(picture(0, 0))
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.modules['dedn_hf'] = None\n" + "\n".join(code_of(card)))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_code_of_the_card_runs(trained, tmp_path):
    folder, _ = trained
    card = ModelCard.load(folder / "README.md")
    assert "pipeline(" in code_of(card)[0] and "candidate_labels={labels[0]: None" in code_of(card)[0]
    assert run_code(card, folder, tmp_path).strip() in tiny_table().class_names
    assert AttributeTable.from_csv(tmp_path / "classes.csv").class_names == tiny_table().class_names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "features"])
def test_the_code_of_the_card_of_an_untrained_model_runs(kind, tmp_path):
    model = image_model() if kind == "images" else feature_model()
    model.save_pretrained(tmp_path / "saved")
    card = basic_card(model.config, model.attribute_table)
    assert ("pipeline(" in card.text) == (kind == "images")
    assert run_code(card, tmp_path / "saved", tmp_path).strip() in tiny_table().class_names


# Protocols --------------------------------------------------------------------------------------------------------


def test_a_choice_on_validation_classes_is_called_so():
    text = card_of(a_record()).text
    assert "On **validation classes**" in text and "epoch 3 of 5 had the best H there, with a constant of" in text
    assert "1.25" in text and "trained again from the start on all seen classes for 3 epochs" in text
    assert "used the test splits once" in text and "On the **test splits**" not in text


def test_a_choice_on_the_test_splits_is_called_so():
    text = card_of(a_record("test", results__epoch=2)).text
    assert "On the **test splits**, which is the published protocol: epoch 2 of 3 had the best H" in text
    assert "better than an honest choice would give" in text
    assert "validation classes**" not in text and "once" not in text.split("## Use")[0]


def test_the_last_epoch_is_no_choice():
    text = card_of(a_record("last")).text
    assert "Nothing was selected: these are the weights after epoch 3, the last. This run used the test" in text
    given = card_of(a_record("last", calibration_bias=2.5)).text
    assert "A constant of 2.50 was added to unseen logits; how it was found is not recorded." in given


def test_a_number_of_epochs_that_was_set_beforehand_was_not_chosen():
    calibrated = a_record(settings__schedule="cosine")
    text = card_of(calibrated).text
    assert "a constant of 1.25, added to unseen logits, gave the best H there. The number of epochs, 3, was" in text
    assert "had the best H there" not in text
    plain = a_record(settings__schedule="cosine", settings__calibrate=False, calibration_bias=0.0)
    assert "nothing was left to choose, because the number of epochs, 3, was set" in card_of(plain).text
    lines = {line.get_label() for axes in draw_training(calibrated).axes for line in axes.lines}
    assert "chosen" not in lines


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"settings__train_backbone": True}, "Start: pretrained weights, from timm or from a file; fine-tuned\n"),
        ({"settings__train_backbone": True, "settings__frozen_stages": ["stem"]}, "; fine-tuned, but for stem\n"),
        ({}, "; kept frozen, its feature maps computed once\n"),
        ({"cached_features": False}, "; kept frozen, images decoded in every epoch\n"),
        ({"experiment__model__pretrained": False}, "Start: random weights; kept frozen"),
        ({"experiment": None}, "Start: not recorded; kept frozen"),
        ({"model__config__backbone": None}, "Backbone: none, the model takes feature maps\n"),
    ],
)
def test_what_became_of_the_backbone(changes, expected):
    assert expected in section(card_of(a_record(**changes)), "Training")


# Seeds ------------------------------------------------------------------------------------------------------------


def three_seeds(**changes) -> list[dict]:
    h = {0: 0.5, 1: 0.6, 2: 0.7}
    return [a_record(settings__seed=seed, results__H=h[seed], **changes) for seed in h]


def test_several_seeds_have_a_mean_and_a_standard_deviation():
    card = card_of(*three_seeds())
    rows = rows_of(card)
    assert [rows[f"{title}"][3] for title in ("**This model**, seed 0", "seed 1", "seed 2")] == [
        "50.0",
        "60.0",
        "70.0",
    ]
    assert rows["mean ± standard deviation of 3 seeds"][3] == "60.0 ± 10.0"
    assert "Other seeds, in the same way: seed 1 epoch 3 and constant 1.25; seed 2 epoch 3" in card.text
    assert "3 runs, seeds 0, 1, 2" in card.text and "Only one seed" not in card.text
    (h,) = [result for result in card.data.eval_results if result.metric_type == "H"]
    assert h.metric_value == 0.5  # of these weights
    assert h.metric_args == {"seeds": 3, "mean": 0.6, "standard_deviation": 0.1}


def test_one_seed_is_called_one():
    card = card_of(a_record())
    assert "±" not in card.text and "Only one seed was trained: how much" in card.text
    assert card.data.eval_results[0].metric_args is None


def test_settings_that_differ_between_seeds_are_shown():
    records = three_seeds()
    records[1]["settings"]["epochs"] = 7
    del records[2]["settings"]["jitter"]
    text = card_of(*records).text
    assert "  epochs: 3  # seed 1: 7\n" in text and "  jitter: 0.0  # seed 2: not recorded\n" in text
    assert "  seed: 0\n" in text and "  batch_size: 50\n" in text


def test_seeds_of_another_protocol_are_told_apart():
    first, other = a_record(), a_record("last", settings__seed=4)
    text = card_of(first, other).text
    assert "On **validation classes**" in text and "Seed 4: nothing was selected: these are the weights" in text
    assert "in the same way" not in text


def test_results_with_a_constant_that_was_added_later_say_so():
    other = a_record("last", settings__seed=4)
    other["results_with_bias_of_seed_0"] = {**other["results"], "H": 0.9}
    card = card_of(a_record(), other)
    assert rows_of(card)["seed 4"][3] == "90.0"
    assert "For the results of seed 4, the constant of seed 0, 1.25, was added to unseen logits" in card.text


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "needs the record of a run"),
        ([a_record(), a_record()], "of the seeds 0, 0; give one record a seed"),
        ([a_record(), a_record(settings__seed=1, data__name="sun")], "seeds 0 and 1 have different data sets"),
        ([a_record(), a_record(settings__seed=1, data__classes={"train": 3})], "different numbers of classes"),
        ([a_record(), a_record(settings__seed=1, model__config={"backbone": "vit"})], "different models"),
    ],
)
def test_records_that_make_no_card_are_refused(records, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        write_card(tmp_path, records)
    assert not list(tmp_path.iterdir())


# What was not recorded --------------------------------------------------------------------------------------------


MISSING = {
    "data": ["Images: not recorded", "Unseen classes: not recorded", "are seen: not recorded"],
    "model": ["Parameters: not recorded", "Attributes: not recorded"],
    "time": ["Started: not recorded", "Time: not recorded"],
    "hardware": ["Hardware: not recorded"],
    "versions": ["Software: not recorded"],
    "experiment": ["Start: not recorded"],
    "cached_features": ["kept frozen\n"],
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_was_not_recorded_is_said_to_be_so(missing):
    record = a_record()
    del record[missing]
    card = card_of(record)
    assert len(card.data.eval_results) == 5
    assert all(sentence in card.text for sentence in MISSING[missing])
    assert "None" not in card.text


def test_a_run_of_nothing_but_numbers_has_no_name():
    card = card_of({key: value for key, value in a_record().items() if key not in MISSING})
    assert "trained on data that were not recorded" in card.text and "Backbone: not recorded" in card.text
    assert card.data.eval_results[0].dataset_type == "unknown" and card.data.get("widget") is None


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_record_in_the_documentation_makes_a_card(path):
    record = json.loads(path.read_text())
    card = card_of(record)
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == pytest.approx({score: record["results"][score] for score in found}, abs=5e-5) and len(found) == 5
    assert "CUB-200-2011 (50 of its 200 classes)" in card.text


def assert_same_statements(card: ModelCard, made: ModelCard) -> None:
    """Every number of the results and every fact about data and training is the same; the wording may differ."""
    assert card.data.eval_results == made.data.eval_results, "The card is old. Write it again: make cards"
    assert rows_of(card) == rows_of(made)
    for title in ("Data", "Training"):
        assert re.findall(r"\d[\d.,]*", section(card, title)) == re.findall(r"\d[\d.,]*", section(made, title))


@pytest.mark.parametrize(("row", "name"), list(enumerate(ROWS, start=1)))
def test_the_cards_in_model_cards_have_the_numbers_of_the_records_and_of_the_page(row, name, tmp_path):
    records = [json.loads((ROOT / f"docs/runs/row{row}-seed{seed}.json").read_text()) for seed in range(3)]
    stored = ModelCard.load(ROOT / "model_cards" / f"{name}.md")
    assert_same_statements(stored, ModelCard.load(write_card(tmp_path / f"{name}.md", records)))
    assert (ROOT / "model_cards" / f"{name}-training.png").exists()
    readme = (ROOT / "docs/published.md").read_text(encoding="utf-8").split("| | T1 | U | S | H |")[1].splitlines()
    cells = [cell.strip(" *") for cell in readme[1 + row].split("|")[2:6]]
    assert rows_of(stored)["mean ± standard deviation of 3 seeds"][:4] == cells


def test_the_card_of_the_quickstart_has_the_numbers_of_its_record(tmp_path):
    made = write_card(tmp_path / "quickstart.md", [json.loads((ROOT / "docs/runs/quickstart.json").read_text())])
    assert_same_statements(ModelCard.load(ROOT / "model_cards/quickstart.md"), ModelCard.load(made))


def test_no_part_of_the_template_shows_in_a_card():
    for card in (card_of(a_record()), card_of(a_record("last"), a_record(settings__seed=4))):
        assert not re.search(r"{%|%}|{{|}}|{#|\n\n\n|[ \t]\n", card.text)


def test_a_name_is_not_escaped_as_in_html():
    text = card_of(on_data("birds & bees", "parquet", data__unseen_classes=["<tern> & 'gull'"])).text
    assert "trained on `birds & bees`." in text and "Unseen classes: <tern> & 'gull'\n" in text


def test_what_was_not_tested_is_said_to_be_so():
    untested = {f"results__{score}": None for score in ("T1", "U", "H", "AUSUC")}
    card = card_of(a_record(**untested), a_record(settings__seed=1, **untested))
    assert rows_of(card)["**This model**, seed 0"] == ["not tested", "not tested", "60.0", "not tested", "not tested"]
    assert rows_of(card)["mean ± standard deviation of 2 seeds"][1:3] == ["not tested", "60.0 ± 0.0"]
    assert [result.metric_type for result in card.data.eval_results] == ["S"]


# Data and licences ------------------------------------------------------------------------------------------------


def on_data(name: str, builder: str | None = None, **changes) -> dict:
    return a_record(data__name=name, data__builder=builder or name, **changes)


def test_a_part_of_a_benchmark_is_not_taken_for_the_whole():
    whole, part = a_record(), a_record(data__classes={"train": 32, "val": 8, "unseen": 10})
    assert "of its 200 classes" not in card_of(whole).text
    card = card_of(part)
    assert "trained on CUB-200-2011 (50 of its 200 classes)" in card.text
    assert "Do not compare with results on all classes" in section(card, "Intended use and limits")
    assert card.data.eval_results[0].dataset_name == "CUB-200-2011 (50 of its 200 classes)"


def test_a_prepared_folder_that_bears_the_name_of_a_benchmark_is_not_taken_for_it():
    text = card_of(on_data("cub", "parquet")).text
    assert "trained on `cub`." in text and "CUB-200-2011" not in text and "terms not known" in text


@pytest.mark.parametrize(
    ("record", "license", "said"),
    [
        (on_data("cub"), "unknown", "non-commercial research"),
        (on_data("cub", experiment__model__pretrained=False), "unknown", "non-commercial research"),
        (on_data("sun"), "unknown", "terms not known here, see the homepage"),
        (on_data("awa2"), "unknown", "terms not known here, see the homepage"),
        (on_data("folder"), "unknown", "terms not known"),
        (on_data("shapes"), "unknown", "drawn by `dedn_hf`, Apache-2.0"),  # from pretrained weights
        (on_data("shapes", experiment__model__pretrained=False), "apache-2.0", "drawn by `dedn_hf`, Apache-2.0"),
    ],
)
def test_the_licence_is_stated_only_where_all_is_made_here(record, license, said):
    card = card_of(record)
    assert card.data.license == license
    assert said in section(card, "Licence")
    assert ("no licence is stated" in section(card, "Licence")) == (license == "unknown")


def test_a_licence_that_is_given_is_stated():
    card = card_of(a_record(), license="cc-by-nc-4.0")
    assert card.data.license == "cc-by-nc-4.0" and "Weights: cc-by-nc-4.0" in card.text


def test_time_and_hardware_are_those_that_were_used():
    card = card_of(a_record())
    assert (
        "selection 3 min 20 s, training 1 h 2 min, including reading the data and computing feature maps" in card.text
    )
    assert "CPU, Fast 1, 2 threads, 1 process" in card.text and "G1" not in card.text
    card = card_of(a_record(time__resumed=True, hardware__device="cuda", hardware__processes=4))
    assert "The run had been interrupted: the time before that is not recorded" in card.text
    assert "Hardware: 4 x G1" in card.text
    old = a_record()
    del old["hardware"]["device"]
    assert "there was a GPU, G1, its use is not recorded" in card_of(old).text


def test_the_limits_count_the_classes_that_are_hardly_recognised():
    limits = section(card_of(a_record()), "Intended use and limits")
    assert "5.0 to 100.0 % of the test images" in limits and "fewer than 10 % for 50 of 150 classes" in limits


# Pictures and the widget ------------------------------------------------------------------------------------------


def test_the_curves_are_those_of_the_record():
    record = a_record()
    figure = draw_training(record)
    losses, accuracies = figure.axes[0], figure.axes[1]
    lines = {line.get_label(): line for line in [*losses.lines, *accuracies.lines]}
    assert np.allclose(lines["loss"].get_ydata(), [e["loss"] for e in record["selection"]["history"]])
    assert np.allclose(lines["T1"].get_ydata(), [51, 52, 53, 54, 55])
    assert list(lines["chosen"].get_xdata()) == [3, 3]
    assert "validation" in losses.get_title(loc="left") and "test" in figure.axes[2].get_title(loc="left")
    assert list(figure.axes[2].lines[0].get_xdata()) == [1, 2, 3]
    assert len(draw_training(a_record("last")).axes) == 2


def test_a_model_of_drawings_ships_one_as_an_example(tmp_path):
    table = shapes_table()
    table.save(tmp_path)
    path = write_card(tmp_path, [on_data("shapes", experiment__data={"name": "shapes", "image_size": 48})])
    (widget,) = ModelCard.load(path).data.widget
    assert widget["src"] == "example.png"
    with Image.open(tmp_path / "example.png") as image:
        assert image.size == (48, 48)
    labels = widget["candidate_labels"].split(", ")
    roles = [table.roles[table.class_names.index(label)] for label in labels]
    assert roles[:2] == ["unseen"] * 2 and "unseen" not in roles[2:]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_example_that_is_shipped_is_upright_and_says_nothing_of_its_place_and_camera(format, tmp_path):
    exif, photo = Image.Exif(), Image.new("RGB", (40, 20), "red")
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.BodySerialNumber] = 6, "serial-4711"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 2.0, 3.0)
    options = {"pnginfo": PngInfo()} if format == "PNG" else {}
    if options:
        options["pnginfo"].add_text("Comment", "serial-4711")
    photo.save(tmp_path / "mine", format, exif=exif, xmp=b"serial-4711", **options)
    assert b"serial-4711" in (tmp_path / "mine").read_bytes()
    write_card(tmp_path / "card.md", [a_record()], example=tmp_path / "mine")
    assert b"serial-4711" not in (tmp_path / "card-example.png").read_bytes()
    with Image.open(tmp_path / "card-example.png") as image:
        assert image.size == (20, 40)
        assert not image.getexif()
        assert not image.info


def test_no_other_picture_is_shipped_unless_it_is_given(tmp_path):
    (widget,) = ModelCard.load(write_card(tmp_path / "card.md", [a_record()])).data.widget
    assert "src" not in widget and widget["candidate_labels"] == "bird 0, bird 1, bird 2, bird 3"
    (tmp_path / "mine.jpeg").write_bytes(picture(0, 0))
    (widget,) = ModelCard.load(
        write_card(tmp_path / "card.md", [a_record()], example=tmp_path / "mine.jpeg")
    ).data.widget
    assert widget["src"] == "card-example.png" and (tmp_path / "card-example.png").exists()


def test_a_class_name_with_a_comma_does_not_become_two():
    (widget,) = card_data(["Gull, herring", "Wren"]).widget
    assert widget["candidate_labels"] == "Wren"
    assert card_data(["Gull, herring"]).widget is None


# The card of an untrained model -----------------------------------------------------------------------------------


def config_of(table: AttributeTable, **changes) -> DEDNConfig:
    names = {"attribute_names": table.attribute_names, "attribute_groups": table.attribute_groups}
    return DEDNConfig(feature_shape=[64, 7, 5], id2label=dict(enumerate(table.class_names)), **names, **changes)


def test_a_model_of_which_nothing_is_known_claims_nothing():
    table = attribute_table("cub")
    card = ModelCard(str(basic_card(config_of(table, backbone="resnet50", image_size=96), table)))
    assert card.data.eval_results is None and card.data.license is None and card.data.get("model-index") is None
    assert card.data.pipeline_tag == "zero-shot-image-classification" and card.data["library_name"] == "transformers"
    assert set(card.data.widget[0]["candidate_labels"].split(", ")) <= set(table.class_names)
    assert "`resnet50` (timm), images of 96 x 96 pixels" in card.text
    assert "64 channels, 7 x 5 regions" in card.text
    assert "200, of which 150 are marked as seen and 50 as unseen" in card.text
    assert "312 in 6 groups: head 112" in card.text
    assert "does not know what the model was trained on" in card.text
    assert not re.search(r"accuracy of|T1|\d %|trained on CUB", card.text)


def test_the_card_of_many_classes_is_short():
    rng = np.random.default_rng(0)
    names = [f"class number {i}" for i in range(1000)]
    table = AttributeTable(names, names[:300], rng.uniform(size=(1000, 300)), names[:300])
    config = config_of(table, backbone="resnet50")
    card = str(basic_card(config, table))
    assert len(card) < 6000 and "300 in 300 groups" in card and "and 288 more" in card


def test_saving_writes_a_card_but_keeps_the_one_that_is_there(tmp_path):
    torch.manual_seed(0)
    model = feature_model()
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "the model takes feature maps" in card.text and card.data.get("widget") is None
    assert "{} channels, {} x {} regions".format(*FEATURE_SHAPE) in card.text
    (tmp_path / "README.md").write_text("# Mine\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


# The command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_card_beside_the_record_or_elsewhere(tmp_path, capsys):
    run_file = tmp_path / "birds" / "run.json"
    run_file.parent.mkdir()
    run_file.write_text(json.dumps(a_record()))
    assert main([str(run_file)]) == 0
    assert ModelCard.load(run_file.parent / "README.md").data.model_name == "birds"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(a_record(settings__seed=1)))
    out = tmp_path / "cards" / "wings.md"
    arguments = ["--out", str(out), "--name", "Wings", "--license", "mit", "--model-id", "me/wings"]
    assert main([str(run_file), str(other), *arguments]) == 0
    card = ModelCard.load(out)
    assert card.data.model_name == "Wings" and card.data.license == "mit" and 'model="me/wings"' in card.text
    assert {path.name for path in out.parent.iterdir()} == {"wings.md", "wings-training.png"}
    assert capsys.readouterr().out.split() == [str(run_file.parent / "README.md"), str(out)]


def test_the_command_answers_mistakes_with_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "run.json")]) == 2
    record = tmp_path / "run.json"
    record.write_text(json.dumps(a_record()))
    assert main([str(record), str(record)]) == 2
    assert "give one record a seed" in capsys.readouterr().err


def test_records_are_not_changed(tmp_path):
    records = three_seeds()
    before = copy.deepcopy(records)
    write_card(tmp_path, records)
    assert records == before
