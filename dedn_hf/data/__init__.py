"""Data sets for zero-shot learning: images with labels, and a table that describes every class by its attributes.

Everything is imported on first use, so that naming a data set does not wait for `datasets`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOME_OF = {
    "AWA2": "dedn_hf.data.awa2",
    "CUB": "dedn_hf.data.cub",
    "Folder": "dedn_hf.data.folder",
    "SUN": "dedn_hf.data.sun",
    "Shapes": "dedn_hf.data.shapes",
    "attribute_table": "dedn_hf.data.benchmarks",
    "load": "dedn_hf.data.loading",
    "prepare": "dedn_hf.data.preparing",
}

__all__ = ["AWA2", "CUB", "SUN", "Folder", "Shapes", "attribute_table", "load", "prepare"]

if TYPE_CHECKING:
    from dedn_hf.data.awa2 import AWA2
    from dedn_hf.data.benchmarks import attribute_table
    from dedn_hf.data.cub import CUB
    from dedn_hf.data.folder import Folder
    from dedn_hf.data.loading import load
    from dedn_hf.data.preparing import prepare
    from dedn_hf.data.shapes import Shapes
    from dedn_hf.data.sun import SUN


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
