"""Several tables of the same classes, such as measures in one file and colours in another, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dedn_hf.modeling.attribute_table import CLASS_COLUMNS
from dedn_hf.traits import matching
from dedn_hf.traits.opening import Sheet
from dedn_hf.traits.report import TraitReport

GAP = "NA"  # an empty cell could mean no: in a column of marks


@dataclass
class ClassRows:
    """A sheet that has classes in its rows.

    Args:
        sheet: at least one row a class. class_column: with their names. groups, units: of columns, where rows under
            the header give them.
    """

    sheet: Sheet
    class_column: str
    groups: dict[str, str] | None
    units: dict[str, str]

    @property
    def names(self) -> pd.Series:
        """The class of each row."""
        return self.sheet.cells[self.class_column]


def beside(
    first: ClassRows,
    other: ClassRows,
    number: int,
    folder_of: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]] | None,
    report: TraitReport,
) -> ClassRows:
    """The classes of `first`, with the columns of `other` too; where that says nothing of a class, gaps.

    Args:
        number: of the table `other`, from 1. folder_of: name in `first` -> photo folder. aliases: folder -> names.

    Raises:
        ValueError: the tables have no class in common, or one name may be several classes.
    """
    names = list(dict.fromkeys(first.names))
    called = [folder_of.get(name, name) for name in names]
    found = match_classes(called, other, aliases)
    source, unmatched = other.sheet.source, found.unmatched_folders
    report.class_column += f"; {source}: column {other.class_column!r}, {len(found.folder_of)} of {len(names)} classes"
    if unmatched:
        near = [f"{name!r}{_nearest(name, found.unmatched_names)}" for name in unmatched[:4]]
        more = f" and {len(unmatched) - 4} more" if len(unmatched) > 4 else ""
        report.warnings.append(f"{source} says nothing of {', '.join(near)}{more}: gaps there")
    if found.unmatched_names:
        report.notes.append(
            f"{source}: {len(found.unmatched_names)} classes that {first.sheet.source} has not left out"
        )
    new_names = renamed(first, other, number, report)
    left = first.names.map({name: i for i, name in enumerate(names)})
    place = {name: i for i, name in enumerate(called)}
    right = other.names.map(lambda name: place.get(found.folder_of.get(name)))
    kept = right.notna()
    cells, lines = (
        _side_by_side(mine, left, others.loc[kept, list(new_names)].rename(columns=new_names), right[kept].astype(int))
        for mine, others in ((first.sheet.cells, other.sheet.cells), (first.sheet.lines, other.sheet.lines))
    )
    cells[first.class_column] = [names[i] for i, _ in cells.index]
    sheet = replace(
        first.sheet,
        cells=cells.fillna(GAP).reset_index(drop=True),
        lines=lines.fillna(0).reset_index(drop=True),
        parts={**first.sheet.parts, **dict.fromkeys(new_names.values(), other.sheet)},
    )
    groups = None if first.groups is None and other.groups is None else (first.groups or {}) | {
        new_names[name]: group for name, group in (other.groups or {}).items() if name in new_names
    }  # fmt: skip
    units = {new_names[name]: unit for name, unit in other.units.items() if name in new_names}
    return ClassRows(sheet, first.class_column, groups, first.units | units)


def match_classes(classes: list[str], other: ClassRows, aliases: Mapping[str, Sequence[str]] | None) -> matching.Match:
    """Which of the classes the rows of `other` are. Raises ValueError where it is none."""
    known = matching.match(classes, list(aliases), aliases).folder_of if aliases else {}
    wanted = {name: [name, folder, *aliases[folder]] for name, folder in known.items()}
    try:
        found = matching.match(other.names, classes, wanted)
    except ValueError as error:
        raise ValueError(f"{other.sheet.source}, column {other.class_column!r}: {error}") from None
    if not found.folder_of:
        raise ValueError(
            f"{other.sheet.source} describes none of the classes of the first table: it has "
            f"{', '.join(map(repr, found.unmatched_names[:3]))}, the first table {', '.join(map(repr, classes[:3]))}. "
            "Write the names alike, or give a file of names: folder,name,name."
        )
    return found


def renamed(first: ClassRows, other: ClassRows, number: int, report: TraitReport) -> dict[str, str]:
    """Column of `other` -> what it is called beside those of `first`; roles are those of `first` where it has any."""
    taken = {name.casefold() for name in first.sheet.cells}
    has_roles = bool(taken & set(CLASS_COLUMNS))
    new_names = {}
    for name in other.sheet.cells:
        if name == other.class_column:
            continue
        if has_roles and name.casefold() in CLASS_COLUMNS:
            report.notes.append(f"{other.sheet.source}: {name!r} not used, the first table says the roles")
            continue
        new_names[name] = f"table {number}: {name}" if name.casefold() in taken else name
        if new_names[name] != name:
            report.notes.append(f"{name!r} of {other.sheet.source} is called {new_names[name]!r}")
    return new_names


def _nearest(name: str, known: Sequence[str]) -> str:
    near = matching.nearest(name, known)
    return f" (nearest: {', '.join(map(repr, near))})" if near else ""


def _side_by_side(left: pd.DataFrame, left_owners: pd.Series, right: pd.DataFrame, right_owners: pd.Series):
    """The rows of a class beside each other, sorted by (class, row of it); NaN where a side has fewer rows."""
    parts = []
    for frame, owners in ((left, left_owners), (right, right_owners)):
        turn = owners.groupby(owners).cumcount()
        parts.append(frame.set_axis(pd.MultiIndex.from_arrays([owners, turn]), axis=0))
    return pd.concat(parts, axis=1).sort_index()
