"""Generalized zero-shot learning with the Dual Expert Distillation Network (DEDN).

The public names are imported on first use, so that `import dedn_hf` (and `dedn --help`) does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dedn_hf.registration import register_when_loaded

__version__ = "0.1.0"

_HOME_OF = {
    "AttributeTable": "dedn_hf.modeling.attribute_table",
    "DEDNConfig": "dedn_hf.modeling.configuration_dedn",
    "DEDNForZeroShot": "dedn_hf.modeling.modeling_dedn",
    "DEDNPipeline": "dedn_hf.modeling.pipeline_dedn",
}

__all__ = ["AttributeTable", "DEDNConfig", "DEDNForZeroShot", "DEDNPipeline", "__version__"]

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.modeling.configuration_dedn import DEDNConfig
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
    from dedn_hf.modeling.pipeline_dedn import DEDNPipeline


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names: {', '.join(__all__)}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})


register_when_loaded()
