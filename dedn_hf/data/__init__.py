"""Data sets for zero-shot learning: images with labels, and a table that describes every class by its attributes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "awa2": ["AWA2"],
        "benchmarks": ["attribute_table"],
        "cub": ["CUB"],
        "folder": ["Folder"],
        "loading": ["load"],
        "preparing": ["prepare"],
        "shapes": ["Shapes"],
        "sun": ["SUN"],
    },
)
