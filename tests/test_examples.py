"""The examples do what they promise, run as a user runs them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.creatures import Creature
from dedn_hf.data.shapes import creatures
from dedn_hf.training.inputs import require_same_classes

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = ["--data", "shapes", "--set", "images_per_class=5", "image_size=64"]
pytestmark = pytest.mark.slow


def python(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def output_of(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def quickstart(home) -> tuple[Path, str]:
    """The folder of a very short quickstart, and what it printed."""
    folder = home / "quickstart"
    short = ["--output-dir", folder, "--epochs", "1", "--images-per-class", "5"]
    return folder, output_of(python(EXAMPLES / "quickstart.py", *short, home=home))


@pytest.fixture(scope="module")
def evaluated(quickstart, home) -> dict:
    """What evaluate.py wrote about the quickstart's model."""
    file = home / "one.json"
    output_of(python(EXAMPLES / "evaluate.py", quickstart[0], *DATA, "--cpu", "--json", file, home=home))
    return json.loads(file.read_text())


def test_quickstart_leaves_a_model_and_a_picture(quickstart):
    folder, _ = quickstart
    model = DEDNForZeroShot.from_pretrained(folder)
    assert model.config.num_labels == 40 and int((~model.seen).sum()) == 8
    with Image.open(folder / "quickstart.png") as picture:
        assert picture.width > 800 and picture.height > 400
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 20  # not blank


def test_quickstart_prints_the_scores_of_its_run_beside_what_guessing_gives(quickstart):
    folder, printed = quickstart
    results = json.loads((folder / "run.json").read_text())["results"]
    lines = {line.split()[0]: line for line in printed.splitlines() if line.startswith("  ")}
    for key, guessing in (("T1", "12.5%"), ("U", "2.5%"), ("S", "2.5%"), ("H", "2.5%")):
        assert f"{results[key]:.1%}" in lines[key] and lines[key].endswith(guessing)
    assert "griffle" in printed and "among 9 classes of which the model has seen no image" in printed


def test_quickstart_describes_a_class_that_the_data_set_does_not_have():
    module = example("quickstart")
    griffle = Creature(*(attribute.split(": ")[1] for attribute in module.DESCRIPTION))
    assert [attribute.split(": ")[0].replace(" ", "_") for attribute in module.DESCRIPTION] == list(Creature._fields)
    assert min(sum(a != b for a, b in zip(griffle, other, strict=True)) for other in creatures()) >= 3


def test_quickstart_replaces_its_own_earlier_run_and_no_other(tmp_path):
    module = example("quickstart")
    for name, described in (("own", {"example": "quickstart"}), ("other", {"data": {}}), ("bare", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"experiment": described}))
        module.remove_earlier_quickstart(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "other"]


def test_quickstart_says_in_one_line_that_a_folder_holds_another_run(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    refused = python(EXAMPLES / "quickstart.py", "--output-dir", tmp_path, home=tmp_path)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr and f"quickstart.py: {tmp_path} holds a finished run." in refused.stderr


def test_evaluating_a_saved_model_gives_the_results_of_its_run(quickstart, evaluated):
    results = json.loads((quickstart[0] / "run.json").read_text())["results"]
    assert evaluated["results"] == {key: results[key] for key in evaluated["results"]}
    assert set(evaluated["results"]) >= {"T1", "U", "S", "H", "AUSUC", "per_class_accuracy"}
    model = DEDNForZeroShot.from_pretrained(quickstart[0])
    by_name = {model.config.id2label[i]: a for i, a in enumerate(results["per_class_accuracy"]) if a is not None}
    assert evaluated["accuracy_of_class"] == by_name


def test_two_processes_give_the_numbers_of_one(quickstart, evaluated, home):
    file = home / "two.json"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [EXAMPLES / "evaluate.py", quickstart[0], *DATA, "--cpu", "--batch-size", "7", "--json", file]
    printed = output_of(python(*launch, *script, home=home))
    assert json.loads(file.read_text())["results"] == evaluated["results"]
    assert printed.count("AUSUC") == 1


def test_cached_features_give_nearly_the_numbers_of_images(quickstart, evaluated, home):
    file = home / "cached.json"
    cache = ["--features-dir", home / "cache", "--json", file, "--cpu"]
    output_of(python(EXAMPLES / "evaluate.py", quickstart[0], *DATA, *cache, home=home))
    cached = json.loads(file.read_text())["results"]
    assert all(cached[key] == pytest.approx(evaluated["results"][key], abs=0.05) for key in ("T1", "U", "S", "H"))


def test_classes_that_the_model_was_trained_on_are_no_unseen_ones(quickstart, home):
    process = python(EXAMPLES / "evaluate.py", quickstart[0], *DATA, "--split", "validation", "--cpu", home=home)
    assert process.returncode != 0 and "was trained on the class" in process.stderr
    assert "Traceback" not in process.stderr


def test_classes_and_attributes_that_the_model_does_not_know_are_named(quickstart):
    model = DEDNForZeroShot.from_pretrained(quickstart[0])
    table = model.attribute_table
    require_same_classes(model, table.select(table.class_names[::-1]))
    with pytest.raises(ValueError, match="does not know the class 'creature_0O'.*Did you mean 'creature_"):
        require_same_classes(model, table.replace(class_names=["creature_0O", *table.class_names[1:]]))
    with pytest.raises(ValueError, match="attribute.*not in the table, first 'leg count: four'"):
        model.set_classes(table.replace(attribute_names=[*table.attribute_names[:-1], "leg count: six"]))
