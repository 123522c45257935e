"""Explains a model's answers: evidence by attribute, heat maps, and the pages and figures that show them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "explainer": ["attribute_evidence", "explain", "region_maps_of"],
        "explanation": ["Explanation"],
    },
)
