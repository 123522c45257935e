"""An explanation of one image, for readers: as text, numbers, a figure or a page, and as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_hf.explain.evidence import Evidence
from dedn_hf.explain.page import as_html
from dedn_hf.explain.report import as_dict, as_figure, as_text
from dedn_hf.modeling.saving import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".json", ".html")


class Explanation(Evidence):
    """Why a model answered as it did. `explain` makes it; numbers and arguments are those of `Evidence`."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the picture, as values for JSON; 'about' says what they mean."""
        return as_dict(self)

    def to_text(self) -> str:
        """A few lines for people."""
        return as_text(self)

    def to_html(self) -> str:
        """A page that needs no other file and no network."""
        return as_html(self)

    def figure(self) -> Figure:
        """Ranking, contributions and heat maps in one figure."""
        return as_figure(self)

    def save(self, path: str | Path) -> None:
        """Write a figure (.png, .svg), the numbers (.json) or a page (.html).

        Raises:
            ValueError: another kind of file, or a folder that does not exist or is protected.
        """
        require_writable(path)
        suffix = Path(path).suffix.lower()
        with whole_file(path) as unfinished:
            if suffix in (".png", ".svg"):
                self.figure().savefig(unfinished, format=suffix[1:])
            else:
                html = suffix == ".html"
                text = self.to_html() if html else json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
                unfinished.write_text(text, encoding="utf-8")


def require_writable(path: str | Path, formats: Sequence[str] = FORMATS) -> None:
    """Raise ValueError unless a file can be written there, with one of these suffixes."""
    path = Path(path)
    if path.suffix.lower() not in formats:
        ending = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise ValueError(f"{str(path)!r} {ending}; give one of {', '.join(formats)}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent}; make it, or write to another one.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"Nothing can be written to the folder {path.parent}; write to another one.")
