"""Tables of traits as people have them: spreadsheets of any kind become attribute tables that say what they mean."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "opening": ["open_sheet"],
        "reading": ["read_traits"],
        "report": ["TraitReport", "classes_alike"],
    },
)
