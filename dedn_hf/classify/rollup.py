"""Answers at the level of a group, a genus or a family, where no single class is sure enough."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch

from dedn_hf.modeling.inputs import near_names

_RANKS = "group genus tribe subfamily family superfamily order phylum gruppe gattung familie ordnung unterfamilie "
_RANKS += "groupe genre famille ordre grupo genero género familia orden"
RANKS = set(_RANKS.split())

Groups = Mapping[str, Mapping[str, str]]  # level -> class -> its group, the finest level first


def read_groups(path: str | os.PathLike, class_names: Sequence[str], levels: Sequence[str] | None = None) -> Groups:
    """Read from a table with a row a class, such as the table of traits, which group each class belongs to.

    Args:
        path: CSV of any kind or Excel. class_names: of the model; found in the table as folders of photos are.
        levels: columns that say a group, the finest first. Default: the only other column, or those whose header has
            a word such as group, genus or family, the one with the most groups first.

    Raises:
        FileNotFoundError: no such file. ValueError: no such column, none of the classes is in it.
    """
    from dedn_hf.traits import open_sheet  # pandas is slow to import; most classifying does without
    from dedn_hf.traits.choosing import words_of
    from dedn_hf.traits.matching import find_class_column, match

    sheet = open_sheet(path)
    column, _ = find_class_column(sheet, class_names, None, None)
    others = [name for name in sheet.cells if name != column]
    for name in levels or ():
        if name not in others:
            raise ValueError(f"{path} has no column {name!r}.{near_names(name, others)}")
    if levels is None:
        levels = others if len(others) == 1 else [name for name in others if RANKS & set(words_of(name))]
        levels = sorted(levels, key=lambda name: -sheet.cells[name].nunique())
    if not levels:
        raise ValueError(f"{path} has no column of groups, such as 'family'. Say which with levels=[...] (--levels).")
    folder_of = match(sheet.cells[column], class_names).folder_of
    groups = {level: {} for level in levels}
    for _, row in sheet.cells.iterrows():
        for level in levels:
            if row[column] in folder_of and row[level]:
                groups[level].setdefault(folder_of[row[column]], row[level])
    if not any(groups.values()):
        raise ValueError(f"{path}: none of the model's classes has a group in {', '.join(map(repr, levels))}.")
    return groups


class Rollup:
    """Sums probabilities over the groups of each level.

    Args:
        groups: as of `read_groups`. class_names: the K classes to choose among. threshold: the lowest probability of
            an answer. A group of all these classes would always be sure: it is no answer.
    """

    def __init__(self, groups: Groups, class_names: Sequence[str], threshold: float) -> None:
        self.threshold, self.levels = threshold, []
        for level, group_of in groups.items():
            of_class = [group_of.get(name) for name in class_names]
            names = [name for name in dict.fromkeys(of_class) if name and set(of_class) != {name}]
            members = torch.tensor([[group == name for name in names] for group in of_class])
            if names:
                self.levels.append((level, names, members))

    def answer(self, probabilities: torch.Tensor) -> tuple[str, str, float] | None:
        """The group at the finest level that is sure enough, its level and its probability; None where none is.

        Args:
            probabilities: K, on the CPU.
        """
        for level, names, members in self.levels:
            value, best = (probabilities @ members.to(probabilities)).max(dim=0)
            if value >= self.threshold:
                return names[int(best)], level, float(value)
        return None
