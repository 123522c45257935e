"""Data sets for zero-shot learning: images with labels, and a table that describes every class by its attributes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
