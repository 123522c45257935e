"""Tables of traits as people have them: spreadsheets of any kind become attribute tables that say what they mean."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
