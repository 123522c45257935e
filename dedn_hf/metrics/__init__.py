"""Scores of generalized zero-shot learning, as functions and as a metric of the `evaluate` library."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
