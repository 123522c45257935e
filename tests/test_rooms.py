"""The house: imports run one way, downwards, between rooms and between the files of a room."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dedn_hf
import dedn_hf.modeling

ROOT = Path(dedn_hf.__file__).parent
# From the top down: a room imports from those after it only.
ROOMS = ("cli", "studies", "training", "publish", "classify", "explain", "data", "traits", "metrics", "modeling")
AROUND = ROOMS[:-1]


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything in the package; a room's own name stands for its `__init__`."""
    found = {}
    for name, root in (("dedn_hf", ROOT), ("dedn_hf.modeling", Path(dedn_hf.modeling.__file__).parent)):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a module names in any import, within functions and for type checkers too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inside = f"{source}.{alias.name}"
                found.add(inside if inside in known else source)
    return {each for each in found if each in known} - {name, "dedn_hf"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports. What a room's `__init__` names is imported on first use."""
    known = modules()
    return {name: imports_of(name, path, known) for name, path in known.items()}


def room(name: str) -> str:
    return name.split(".")[1]


def test_no_import_runs_upwards(graph):
    inside = {name: imported for name, imported in graph.items() if name not in ("dedn_hf", "dedn_hf.__main__")}
    upwards = [
        f"{name} imports {other}"
        for name, imported in inside.items()
        for other in imported
        if ROOMS.index(room(other)) < ROOMS.index(room(name))
    ]
    assert not upwards


def test_imports_make_no_circle(graph):
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_house_has_ten_rooms_at_most_and_no_loose_module():
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith((".", "__pycache__"))}
    assert len(AROUND) <= 10
    assert names == {"__init__.py", "__init__.pyi", "__main__.py", "py.typed", *AROUND}


@pytest.mark.parametrize("name", AROUND)
def test_a_room_shows_a_few_names_and_each_can_be_imported(name):
    package = __import__(f"dedn_hf.{name}", fromlist=["__all__"])
    assert 1 <= len(package.__all__) <= 8
    for public in package.__all__:
        assert hasattr(package, public), public


def test_the_reader_of_imports_sees_every_kind(tmp_path):
    known = {"dedn_hf.data": tmp_path, "dedn_hf.data.loading": tmp_path, "dedn_hf.modeling.experts": tmp_path}
    path = tmp_path / "x.py"
    for line in (
        "from dedn_hf.data import loading",
        "import dedn_hf.data.loading",
        "def f():\n    from dedn_hf.data.loading import load",
        "from ..data.loading import load",
    ):
        path.write_text(line)
        assert imports_of("dedn_hf.studies.x", path, known) == {"dedn_hf.data.loading"}, line
