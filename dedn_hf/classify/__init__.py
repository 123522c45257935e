"""A whole collection of photos in, a table of answers out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "answers": ["COLUMNS"],
        "classifier": ["Summary", "classify"],
        "collection": ["collect"],
        "rollup": ["read_groups"],
    },
)
