"""From data to a trained model: choose on validation classes, train on all seen ones, test, write it all down."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
