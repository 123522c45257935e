"""Why a model answers as it does: evidence by attribute, heat maps, and the pages and figures that show them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "explainer": ["explain"],
        "explanation": ["Explanation"],
    },
)
