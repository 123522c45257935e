"""The extras of the package: what each is for, and how to install what it lacks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

USES = {
    "export": "dedn export --format onnx",
    "heic": "photos in HEIC, as phones take them",
    "serve": "dedn serve",
    "space": "the app of examples/space",
}


def missing_of(extra: str) -> list[str]:
    """The requirements of an extra that are not installed, or too old: ['uvicorn>=0.38', ...]."""
    return [str(each.name) + str(each.specifier) for each in requirements_of(extra) if not is_there(each)]


def requirements_of(extra: str | None = None) -> list[Requirement]:
    """What an extra needs, or what the package needs without any; nothing where it was not installed by pip."""
    try:
        lines = requires("dedn-hf") or []
    except PackageNotFoundError:
        return []
    found = map(Requirement, lines)
    return [each for each in found if str(each.marker or "") == (f'extra == "{extra}"' if extra else "")]


def is_there(requirement: Requirement) -> bool:
    """Whether a version that is new enough is installed."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def how_to_install(requirements: list[str]) -> str:
    """The command that installs them. It holds before and after this package itself is on PyPI."""
    return "pip install " + " ".join(f'"{each}"' for each in requirements)


def require_extra(extra: str) -> None:
    """Raise ValueError where packages of an extra are missing."""
    missing = missing_of(extra)
    if missing:
        raise ValueError(f"{USES[extra]} needs packages that are not installed. {how_to_install(missing)}")
