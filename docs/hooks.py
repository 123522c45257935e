"""What mkdocs does beside the Markdown of docs/: reference pages from the code, and pages that lie outside docs/.

A page asks for a generated part by a comment of its own line, `<!-- generated: commands -->`.
"""

import argparse
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from inspect import cleandoc, get_annotations
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {  # file of the repository -> page of the site
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "results/benchmarks.md",
    "README.md": "index.md",
}
GENERATED = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
SHIM = "https://unpkg.com/iframe-worker/shim"
ROOMS = ("data", "traits", "training", "classify", "explain", "publish", "metrics", "studies")


def on_startup(command: str, dirty: bool) -> None:
    """Both folders as the one package that is installed, for mkdocstrings, which reads the source."""
    package = ROOT / "build" / "package" / "dedn_hf"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for path in (*(ROOT / "dedn_hf").iterdir(), ROOT / "modeling"):
        (package / path.name).symlink_to(path)


def on_files(files: Files, config: Any) -> Files:
    """The pages outside docs/, with their pictures."""
    for source, page in OUTSIDE.items():
        if page == "index.md":  # the site has a first page of its own
            continue
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for picture, _, target in LINK.findall(text):
            if picture and (ROOT / source).parent.joinpath(target).is_file():
                path = (ROOT / source).parent / target
                place = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
                files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The generated parts, and links that lead to where a file is on the site; of a file that is not, its name."""
    filled = GENERATED.sub(lambda match: PARTS[match[1]](), markdown)
    outside = {there: source for source, there in OUTSIDE.items() if source != "README.md"}
    own = outside.get(page.file.src_uri) or f"docs/{page.file.src_uri}"
    return LINK.sub(lambda match: followed(match, own, page.file.src_uri, files), filled)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The script with which the plugin `offline` searches comes with the site, and not from another host."""
    return output.replace(
        SHIM, posixpath.relpath("vendor/iframe-worker.js", posixpath.dirname(page.file.dest_uri) or ".")
    )


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """The same for the page of what is not found."""
    return output_content.replace(SHIM, "/vendor/iframe-worker.js")


def followed(match: re.Match, source: str, page: str, files: Files) -> str:
    """A link of the file `source` of the repository as the page `page` of the site has it."""
    picture, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if picture or not path or re.match(r"[a-z]+:", target):
        return match[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    there = OUTSIDE.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
    if there is None or files.get_file_from_path(there) is None:
        return text if "`" in text else f"{text} (`{wanted}` of the repository)"
    place = posixpath.relpath(there, posixpath.dirname(page) or ".")
    on_site = anchor and wanted != "README.md"
    return f"[{text}]({place}{'#' + anchor if on_site else ''})"


# Generated parts -----------------------------------------------------------------------------------------------------


def escaped(text: object) -> str:
    """Text in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def rows(heads: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    """A table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def commands() -> str:
    """Every command of `dedn` with every argument, from the parser itself."""
    from dedn_hf.cli.parser import build_parser

    (subparsers,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    return "\n\n".join(command(name, parser) for name, parser in subparsers.choices.items())


def command(name: str, parser: argparse.ArgumentParser) -> str:
    """One command: what it does, its arguments, how it ends."""
    actions = [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    positional = [each for each in actions if not each.option_strings]
    parts = [f"## dedn {name}", escaped(parser.description)]
    usage = f"dedn {name} " + " ".join(written(each) for each in positional) + " [OPTION ...]"
    parts.append(f"```text\n{usage}\n```")
    parts.append(rows(("Argument", "Meaning"), ([f"`{invocation(each)}`", meaning(each)] for each in actions)))
    if parser.epilog:
        parts.append(escaped(parser.epilog))
    return "\n\n".join(parts)


def written(action: argparse.Action) -> str:
    """A positional argument as a usage line has it."""
    name = action.metavar or action.dest
    more = f"{name} [{name} ...]" if action.nargs == "+" else name
    return f"[{more}]" if action.nargs == "?" else more


def invocation(action: argparse.Action) -> str:
    """'--traits FILE', or 'PHOTOS'."""
    if not action.option_strings:
        return written(action)
    value = ""
    if action.nargs != 0:
        value = (
            "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.metavar or action.dest.upper()
        )
        value = f" {value}" + (" ..." if action.nargs in ("+", "*") else "")
    return ", ".join(action.option_strings) + value


def meaning(action: argparse.Action) -> str:
    """The help, and whether the option has to be given."""
    required = " (required)" if action.required and action.option_strings else ""
    return (
        escaped((action.help or "") % {"default": action.default} if "%(" in (action.help or "") else action.help)
        + required
    )


def python() -> str:
    """Every public name: those of `dedn_hf`, then those of each room."""
    from importlib import import_module

    parts = []
    for module in ("dedn_hf", *(f"dedn_hf.{room}" for room in ROOMS)):
        package = import_module(module)
        parts.append(f"## {module}\n\n{cleandoc(package.__doc__).split(chr(10) * 2)[0]}")
        for name in package.__all__:
            public = getattr(package, name)
            if isinstance(public, type) or callable(public):
                place = f"{public.__module__}.{public.__qualname__}"
                parts.append(f"::: {place}\n    options:\n      heading_level: 3\n      show_root_full_path: false")
    return "\n\n".join(parts)


def configuration() -> str:
    """Every field of `DEDNConfig`."""
    from dedn_hf import DEDNConfig

    names = list(get_annotations(DEDNConfig))
    told = meanings(DEDNConfig.__doc__ or "", [*names, "id2label"])
    defaults = {name: getattr(DEDNConfig, name) for name in names} | {"id2label": "LABEL_0, LABEL_1"}
    return rows(
        ("Field", "Default", "Meaning"), ([f"`{name}`", f"`{defaults[name]}`", told[name]] for name in defaults)
    )


def settings() -> str:
    """Every field of `TrainingSettings`."""
    from dedn_hf.training import TrainingSettings

    known = fields(TrainingSettings)
    told = meanings(TrainingSettings.__doc__ or "", [each.name for each in known])
    defaults = {each.name: each.default_factory() if each.default is MISSING else each.default for each in known}
    return rows(
        ("Setting", "Default", "Meaning"),
        ([f"`{name}`", f"`{value}`", told[name]] for name, value in defaults.items()),
    )


def meanings(docstring: str, names: list[str]) -> dict[str, str]:
    """Field -> what the section Args of a docstring says of it; several fields may share a sentence.

    Raises:
        ValueError: a field is not explained.
    """
    text = re.search(r"Args:\n(.*?)(?:\n\s*\n|\Z)", cleandoc(docstring), re.DOTALL)[1]
    text = " ".join(text.split())
    either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    heads = list(
        re.finditer(rf"(?:^|(?<=[.;)] ))((?:{either})(?: \([^)]*\))?(?:, (?:{either})(?: \([^)]*\))?)*): ", text)
    )
    found = {}
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        said = text[head.end() : following.start() if following else None].strip()
        found |= dict.fromkeys(re.findall(either, head[1]), escaped(said))
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"The docstring does not explain {', '.join(missing)}.")
    return found


def presets() -> str:
    """Every preset, by its first comment."""
    from dedn_hf.training.settings import PRESETS

    def said(path: Path) -> str:
        lines = path.read_text(encoding="utf-8").splitlines()
        return escaped(" ".join(line.removeprefix("#").strip() for line in lines[: first_of(lines)]))

    def first_of(lines: list[str]) -> int:
        return next(number for number, line in enumerate(lines) if not line.startswith("#"))

    return rows(("Preset", "What it is"), ([f"`{path.stem}`", said(path)] for path in sorted(PRESETS.glob("*.yaml"))))


def columns() -> str:
    """Every column of the table that `dedn classify` writes."""
    from dedn_hf.classify import COLUMNS

    return rows(("Column", "Meaning"), ([f"`{name}`", escaped(text)] for name, text in COLUMNS.items()))


def measures() -> str:
    """Every unit that a table of traits may have."""
    from dedn_hf.modeling.inputs import UNITS

    return rows(("Kind", "Units"), ([kind, ", ".join(f"`{unit}`" for unit in units)] for kind, units in UNITS.items()))


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (commands, python, configuration, settings, presets, columns, measures)
}
