"""What an installed `dedn_hf` promises: quick to import, complete, and honest about what it needs."""

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


def test_importing_the_package_is_quick(tmp_path):
    code = "import time; start = time.perf_counter(); import dedn_hf; print(time.perf_counter() - start)"
    assert min(float(run_python(code, tmp_path)) for _ in range(3)) < 0.3


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
    templates = {"dedn_hf/model_cards/template.md", "dedn_hf/explain/page.html"}
    assert modeling | around | metadata | templates <= names
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
    assert Path(found).read_text(encoding="utf-8").startswith("---\n{{ card_data }}\n---\n")
