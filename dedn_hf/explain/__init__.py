"""Explains a model's answers: evidence by attribute, heat maps, and the pages and figures that show them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
