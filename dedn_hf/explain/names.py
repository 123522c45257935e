"""Names of classes and attributes as people say them, and the search for a name that a person gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dedn_hf.modeling.attribute_table import near_names, spoken_class

__all__ = ["find_name", "spoken", "spoken_class"]


def spoken(attribute: str) -> str:
    """An attribute's name for people.

    >>> spoken("has_bill_shape::hooked")
    'bill shape: hooked'
    """
    return attribute.removeprefix("has_").replace("::", ": ").replace("_", " ")


def find_name(name: str, known: Sequence[str], as_spoken: Callable[[str], str], kind: str) -> int:
    """The index of a name. It may be given as people say it, in any case, if that fits only one.

    Args:
        as_spoken: `spoken` or `spoken_class`. kind: 'class' or 'attribute', for the error.

    Raises:
        ValueError: an unknown name; the error suggests similar ones.
    """
    if name in known:
        return known.index(name)

    def plain(text: str) -> str:
        return as_spoken(str(text)).casefold()

    meant = [place for place, other in enumerate(known) if plain(other) == plain(name)]
    if len(meant) == 1:
        return meant[0]
    near = near_names(str(name), known) or f" It has {len(known)}, the first are {', '.join(map(repr, known[:3]))}."
    raise ValueError(f"The model has no {kind} {name!r}.{near}")
