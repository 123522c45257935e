"""Which classes are trained on: by a column of the table, or by the photos that are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dedn_hf.modeling.inputs import NO, YES
from dedn_hf.traits.opening import Sheet

WORDS = dict.fromkeys(("train", "training", "trainval", "seen", "source", "train_seen"), "train")
WORDS |= dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val")
WORDS |= dict.fromkeys(("unseen", "test", "testing", "test_unseen", "target", "novel", "zero-shot"), "unseen")
HEADERS = ("role", "seen", "split", "set", "partition", "subset", "fold", "zsl_split")


def find_role_column(sheet: Sheet, class_column: str) -> str | None:
    """The column that says which classes are trained on: called role or seen, or split with the usual words."""
    for header in HEADERS:
        for name in sheet.cells:
            words = {cell.casefold() for cell in sheet.cells[name]} - {""}
            named = name != class_column and name.casefold() == header
            if named and (header in ("role", "seen") or (words and words <= set(WORDS))):
                return name
    return None


def roles_of(
    sheet: Sheet, column: str | None, owners: np.ndarray, class_names: Sequence[str], pictured: set[str] | None
) -> list[str]:
    """'train', 'val' or 'unseen' for each of K classes.

    Args:
        column: says so, first of all. owners: number of the class of each row. pictured: classes with photos, which
            are seen, the others unseen; None where the photos are not known: then all are seen.

    Raises:
        ValueError: another word, or two roles for one class.
    """
    roles = ["train" if pictured is None or name in pictured else "unseen" for name in class_names]
    if column is None:
        return roles
    said: dict[int, str] = {}
    for (index, cell), owner in zip(sheet.cells[column].items(), owners, strict=True):
        word = cell.casefold()
        if not word:
            continue
        role = WORDS.get(word)
        if role is None and column.casefold() == "seen" and word in YES | NO:
            role = "train" if word in YES else "unseen"
        if role is None:
            raise ValueError(f"{sheet.place(index, column)}: {cell!r}. Use train, val or unseen.")
        if said.setdefault(owner, role) != role:
            raise ValueError(
                f"{sheet.place(index, column)}: {class_names[owner]!r} is {role!r} here, elsewhere {said[owner]!r}. "
                "Give it one role."
            )
    return [said.get(i, role) for i, role in enumerate(roles)]
