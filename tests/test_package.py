"""What an installed `dedn_hf` promises: quick to import, complete, and honest about what it needs."""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import dedn_hf

ROOT = Path(__file__).parents[1]


def run_python(code, cwd, **environment):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_no_heavy_library(tmp_path):
    heavy = ("torch", "transformers", "timm", "datasets", "numpy")
    loaded = run_python(f"import sys, dedn_hf; print([name for name in {heavy} if name in sys.modules])", tmp_path)
    assert loaded == "[]"


@pytest.mark.parametrize("name", ["AttributeTable", "DEDNConfig", "DEDNForZeroShot"])
def test_public_names_come_from_the_networks_folder(name):
    public = getattr(dedn_hf, name)
    assert public.__name__ == name
    assert public.__module__.startswith("dedn_hf.modeling.")
    assert name in dir(dedn_hf)


@pytest.mark.parametrize("where", ["repository", "elsewhere"])
def test_both_folders_are_one_package_from_any_directory(where, tmp_path):
    code = "import dedn_hf.modeling, dedn_hf.metrics, dedn_hf.data; print(dedn_hf.modeling.__name__)"
    assert run_python(code, ROOT if where == "repository" else tmp_path) == "dedn_hf.modeling"


def test_the_networks_never_import_the_package_around_them():
    for path in (ROOT / "modeling").glob("*.py"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in lines if line.startswith(("import dedn_hf", "from dedn_hf"))], path.name


def test_the_installed_version_is_the_one_in_the_source():
    assert version("dedn-hf") == dedn_hf.__version__


def test_the_citation_names_the_same_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {dedn_hf.__version__}" in lines


@pytest.mark.parametrize("old", dedn_hf.MOVED)
def test_a_module_of_the_last_release_is_found_by_its_old_name_with_a_warning_that_says_the_new_one(old):
    with pytest.warns(FutureWarning, match=f"dedn_hf.{old} is now dedn_hf") as warned:
        module = importlib.import_module(f"dedn_hf.{old}")
    assert f"is now {module.__name__}. The old name goes" in str(warned[0].message)


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="dedn")
    assert command.value == "dedn_hf.cli:main"


@pytest.mark.parametrize(
    "requirement", [Requirement(line) for line in requires("dedn-hf")], ids=lambda each: each.name
)
def test_no_requirement_asks_for_more_than_these_tests_run_with(requirement):
    (floor,) = requirement.specifier
    assert floor.operator == ">="
    if requirement.marker is None:
        assert Version(floor.version) <= Version(version(requirement.name))


def test_the_oldest_versions_are_tested_as_they_are_promised():
    floors = {Requirement(line).name: Requirement(line).specifier for line in requires("dedn-hf")}
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = {Requirement(line).name: Requirement(line).specifier for line in lines if not line.startswith("#")}
    del floors["build"], floors["pre-commit"]  # of the extra `dev`, which no test needs
    assert {name: str(pin) for name, pin in pins.items()} == {
        name: str(floor).replace(">=", "==") for name, floor in floors.items()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the source, so that leftovers of other builds in the working folder cannot get into it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("dedn_hf", "modeling", "model_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(target)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = target.glob("*.whl")
    return path


def test_the_wheel_holds_every_source_and_metadata_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modeling = {f"dedn_hf/modeling/{path.name}" for path in (ROOT / "modeling").glob("*.py")}
    around = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dedn_hf").rglob("*.py")}
    metadata = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dedn_hf" / "data" / "metadata").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    others = {
        path.relative_to(ROOT).as_posix()
        for kind in ("*.html", "*.yaml", "*.md", "*.pyi", "py.typed")
        for path in (ROOT / "dedn_hf").rglob(kind)
    }
    assert modeling | around | metadata | others | {"dedn_hf/model_cards/template.md"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "modeling/", "model_cards/")) for name in names)
    assert not any("cub50" in name for name in names)  # of the cards, only the template is installed


def test_the_wheel_imports_on_its_own(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import dedn_hf.modeling; print(dedn_hf.modeling.__file__)"
    found = run_python(code, tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert Path(found) == tmp_path / "site" / "dedn_hf" / "modeling" / "__init__.py"


def test_the_wheel_finds_its_card_template(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from importlib.resources import files; print(files('dedn_hf.model_cards') / 'template.md')"
    found = run_python(code, tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert Path(found) == tmp_path / "site" / "dedn_hf" / "model_cards" / "template.md"
    assert "{{ card_data }}" in Path(found).read_text(encoding="utf-8")


# From photos to answers ----------------------------------------------------------------------------------------------

CREATURES = {  # as somebody writes them into a spreadsheet; the last two have no photos
    "snib": "ellipse;red;plain;box;blue;fork;green;two",
    "trolk": "box;green;stripes;ellipse;red;stick;blue;four",
    "wazzle": "wedge;blue;spots;wedge;green;ball;red;two",
    "quorn": "ellipse;yellow;stripes;wedge;red;ball;blue;four",
    "mib": "box;blue;spots;ellipse;yellow;fork;yellow;two",
    "glont": "wedge;red;plain;box;green;stick;green;four",
    "faxel": "ellipse;green;spots;box;yellow;ball;red;two",
    "dorp": "box;red;stripes;wedge;blue;fork;yellow;four",
}
PROPERTIES = "species;body shape;body colour;pattern;head shape;head colour;tail;tail colour;legs"


def write_photos(folder: Path, name: str, count: int) -> None:
    import numpy as np

    from dedn_hf.data.creatures import Creature, draw

    folder.mkdir(parents=True)
    for number in range(count):
        seed = np.random.default_rng([len(name), number, sum(map(ord, name))])
        draw(Creature(*CREATURES[name].split(";")), seed, 64)[0].save(folder / f"{number}.png")


@pytest.mark.slow
def test_four_commands_of_the_wheel_lead_from_photos_and_a_spreadsheet_to_answers(wheel, tmp_path):
    import timm
    import torch
    from safetensors.torch import save_file

    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for name in list(CREATURES)[:-2]:
        write_photos(tmp_path / "photos" / name, name, 10)
    write_photos(tmp_path / "new-photos" / "trip", "dorp", 5)
    (tmp_path / "new-photos" / "broken.jpg").write_bytes(b"no picture")
    rows = [f"{name};{traits}" for name, traits in CREATURES.items()]
    (tmp_path / "creatures.csv").write_text("\n".join([PROPERTIES, *rows]), encoding="utf-8")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")

    def dedn(*command: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "dedn_hf", *command]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)

    checked = dedn("check", "photos", "--traits", "creatures.csv")
    assert checked.returncode == 0 and "60 photos of 6 classes" in checked.stdout, checked.stderr
    how = ["--backbone", "test_resnet", "--weights", "weights.safetensors", "--effort", "quick", "--cpu"]
    how += ["--set", "training.epochs=3", "training.evaluate_every=1"]
    trained = dedn("train", "photos", "--traits", "creatures.csv", "--out", "model", *how)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "6 classes learned from photos, 2 only described" in trained.stdout
    evaluated = dedn("evaluate", "model", "photos", "--json", "scores.json", "--cpu")
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    assert json.loads((tmp_path / "scores.json").read_text())
    classified = dedn("classify", "model", "new-photos", "--out", "answers.csv")
    assert classified.returncode == 3, classified.stderr[-3000:]  # one photo could not be read
    with open(tmp_path / "answers.csv", newline="", encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 6 and sum(bool(row["error"]) for row in answers) == 1
    assert {row["answer"] for row in answers if not row["error"]} <= set(CREATURES)
