"""The Markdown files name only what exists: files, headings, paths, names of the package, commands and options."""

import argparse
import ast
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import torch

from dedn_hf.cli.parser import build_parser
from tests.fake_data import write_csv, write_folder

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "examples", "model_cards")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NOT_A_FILE = re.compile(r"[a-z]+:|.*{{")  # a URL, or filled in later
IMPORT = re.compile(r"^from (dedn_hf[\w.]*) import (.+)$", re.MULTILINE)
DOTTED = re.compile(r"\bdedn_hf(?:\.[A-Za-z]\w*)+")
PATH = re.compile(r"(?:dedn_hf|modeling|tests|docs|examples|benchmarks|model_cards)/[\w./-]*")


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(text) if name == language]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings, if no two headings are the same."""
    headings = re.findall(r"^#+ (.+?)\s*$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(target: str, page: Path, text: str) -> bool:
    """Whether a relative link on `page`, whose content is `text`, has a file, and its anchor a heading."""
    path, _, anchor = unquote(target).partition("#")
    file = page.parent / path
    if not anchor or not file.exists():
        return file.exists()
    return anchor in anchors(file.read_text(encoding="utf-8") if path else text)


def broken_links(page: Path, text: str) -> list[str]:
    targets = [target for target in LINK.findall(prose(text)) if not NOT_A_FILE.match(target)]
    return [target for target in targets if not leads_somewhere(target, page, text)]


def dotted_names(text: str) -> set[str]:
    """`dedn_hf.a.b` in inline code, and what Python examples import from the package."""
    names = {name for code in inline_code(text) for name in DOTTED.findall(code)}
    for module, imported in IMPORT.findall("\n".join(blocks(text, "python"))):
        names |= {f"{module}.{name.split(' as ')[0].strip()}" for name in imported.split("#")[0].split(",")}
    return names


def given_commands(text: str) -> list[list[str]]:
    """The words after `dedn` of every command of the bash blocks; `examples/train.py` is `dedn train`."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quotation that goes on in the next line: a variable, no command
            continue
        words = words[words.index("dedn") :] if "dedn" in words[:1] else words
        for start, command in (
            (["dedn"], []),
            (["accelerate", "launch", "-m", "dedn_hf"], []),
            (["python", "examples/train.py"], ["train"]),
        ):
            if words[: len(start)] == start:
                found.append([*command, *words[len(start) :]])
    return found


def is_understood(words: list[str]) -> bool:
    """Whether `dedn` takes these words. What a variable of the shell holds is not known."""
    if any(word.startswith("$") for word in words):
        return set(options_of(words)) <= known_options(words[0])
    try:
        build_parser().parse_args(words)
    except SystemExit:
        return False
    return True


def options_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]


def known_options(command: str) -> set[str]:
    """Of a command of `dedn`; none where there is no such command."""
    (subparsers,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    parser = subparsers.choices.get(command)
    return set() if parser is None else {option for each in parser._actions for option in each.option_strings}


def commands_in_prose(text: str) -> list[list[str]]:
    """The words after `dedn` of inline code such as `dedn check --backbone NAME`."""
    return [code.split()[1:] for code in inline_code(text) if re.match(r"dedn [a-z]", code)]


def can_be_imported(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@every_page
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(page):
    assert not broken_links(page, page.read_text(encoding="utf-8"))


@every_page
def test_every_dotted_name_of_the_package_can_be_imported(page):
    names = dotted_names(page.read_text(encoding="utf-8"))
    assert not [name for name in sorted(names) if not can_be_imported(name)]


@every_page
def test_every_path_in_the_repository_exists(page):
    text = page.read_text(encoding="utf-8")
    words = " ".join([*inline_code(text), *blocks(text, "bash")]).split()
    assert not [word for word in words if PATH.fullmatch(word) and not (ROOT / word).exists()]


@every_page
def test_every_command_is_understood(page):
    text = page.read_text(encoding="utf-8")
    assert not [" ".join(words) for words in given_commands(text) if not is_understood(words)]
    mentioned = [words for words in commands_in_prose(text) if not set(options_of(words)) <= known_options(words[0])]
    assert not [" ".join(words) for words in mentioned]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_a_list_after_text_begins_with_an_empty_line(page):
    """Else the site shows it as part of the text."""
    lines = prose(page.read_text(encoding="utf-8")).splitlines()
    item = re.compile(r"\s*(?:[-*]|\d+\.) ")
    follows = re.compile(rf"\s*$|#|{item.pattern}")
    assert [line for before, line in pairwise(lines) if item.match(line) and not follows.match(before)] == []


@every_page
def test_every_python_example_is_python(page):
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        if not code.startswith(" "):  # else a line to be put somewhere
            ast.parse(code)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install -e .[docs]")
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_other_hosts(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    loaded = re.compile(r"<(?:script|img|iframe)[^>]*src=\"https?:|<link[^>]*rel=\"stylesheet\"[^>]*href=\"https?:")
    assert pages and not [str(path) for path, text in pages.items() if loaded.search(text)]
    reference = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "dedn classify" in reference and "--min-confidence" in reference


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A function that imports the Python example of CONTRIBUTING.md in which a name is defined, and gives the name."""
    monkeypatch.syspath_prepend(tmp_path)

    def imported(name: str):
        examples = blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "python")
        (code,) = [code for code in examples if re.search(rf"^(class|def) {name}\(", code, re.MULTILINE)]
        (tmp_path / f"example_{name}.py").write_text("import torch\n" + code, encoding="utf-8")
        return getattr(import_module(f"example_{name}"), name)

    return imported


def test_the_example_of_a_data_set_loads_images_with_its_split(example, tmp_path):
    roles = {"apple": "train", "pear": "train", "plum": "train", "fig": "unseen"}
    write_csv(tmp_path / "attributes.csv", roles)
    write_folder(tmp_path / "images", dict.fromkeys(roles, 3))
    rows = ["file,class,split"]
    for name, role in roles.items():
        first, others = ("test_seen", "trainval") if role == "train" else ("test_unseen", "test_unseen")
        rows += [f"{name}/0.jpg,{name},{first}", f"{name}/1.jpg,{name},{others}", f"{name}/2.jpg,{name},{others}"]
    (tmp_path / "split.csv").write_text("\n".join(rows))
    splits = example("Fruit")(tmp_path, cache_dir=tmp_path / "cache").load()
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "test_seen": 3, "test_unseen": 3}
    assert splits["test_unseen"]["file"] == ["fig/0.jpg", "fig/1.jpg", "fig/2.jpg"]
    assert splits["train"][0]["image"].size == (24, 16)


def test_the_example_of_a_loss_gives_the_value_worked_out_by_hand(example):
    torch.testing.assert_close(example("entropy_loss")(torch.full((2, 5), 0.3)), torch.tensor(5.0).log())


def test_the_functions_that_a_new_loss_needs_are_where_the_guide_says():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = guide.partition("## Adding a loss")[2].partition("## Pull requests")[0]
    named = re.findall(r"`(\w+_(?:terms|loss))`", steps)
    experts = import_module("dedn_hf.modeling.experts")
    assert named and not [name for name in named if not hasattr(experts, name)]
    config = SimpleNamespace(entropy_weight=0.5)  # a field of the name that the first step gives
    torch.testing.assert_close(experts.total_loss(config, {"coarse.entropy": torch.tensor(3.0)}), torch.tensor(1.5))


def test_what_does_not_exist_is_found():
    lines = ("dedn check photos --traits t.csv", "dedn check photos \\\n  --colour red --traits t.csv", "dedn grow")
    block = "```bash\n" + "\n".join(lines) + "\n```\n"
    assert [is_understood(words) for words in given_commands(block)] == [True, False, False]
    links = "# A heading: here\n[a](#a-heading-here) [b](#elsewhere) [c](docs/none.md) [d](https://example.org)\n"
    assert broken_links(ROOT / "README.md", links) == ["#elsewhere", "docs/none.md"]
    names = "`dedn_hf.data.load` or `dedn_hf.lode`\n```python\nfrom dedn_hf.training import run, walk  # both\n```\n"
    assert {name: can_be_imported(name) for name in dotted_names(names)} == {
        "dedn_hf.data.load": True,
        "dedn_hf.lode": False,
        "dedn_hf.training.run": True,
        "dedn_hf.training.walk": False,
    }
