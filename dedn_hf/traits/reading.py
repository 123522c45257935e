"""From a spreadsheet as people have it to an attribute table, and a report of what was made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dedn_hf.modeling.attribute_table import CLASS_COLUMNS, TRAITS_ROW, AttributeTable, near_names
from dedn_hf.traits import layout, matching
from dedn_hf.traits.choosing import why_no_trait
from dedn_hf.traits.columns import KINDS, Column, read_column
from dedn_hf.traits.encoding import encode_columns
from dedn_hf.traits.joining import ClassRows, beside
from dedn_hf.traits.opening import Sheet, open_sheet
from dedn_hf.traits.report import TraitReport
from dedn_hf.traits.roles import find_role_column, roles_of
from dedn_hf.traits.scaling import attributes_of
from dedn_hf.traits.styles import Style, find_styles
from dedn_hf.traits.wording import columns_of


class TraitTable(AttributeTable):
    """An attribute table that says in `report` what was made of the table it came from."""

    report: TraitReport


def read_traits(
    source: str | Path | pd.DataFrame | Sequence[str | Path | pd.DataFrame],
    photos: str | Path | Iterable[str] | None = None,
    names: str | Path | Mapping | None = None,
    name_column: str | None = None,
    use: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    sheet: str | int | None = None,
    like: Any = None,
    long_columns: Sequence[str] | None = None,
    transposed: bool | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: int | None = None,
    decimal: str | None = None,
    missing: Sequence[Any] = (),
) -> TraitTable:
    """Read a table of traits: CSV of any kind, Excel, Parquet or a DataFrame. What is guessed stands in `.report`.

    Args:
        source: the table, or a list of tables: the first says which classes there are, the others add columns.
        photos: names of the classes with photos, or the folder with one folder a class; those are the seen classes,
            unless a column 'role', 'seen' or 'split' says otherwise. names: which folder is which name, a mapping or
            a CSV of folder,name; overrules what the names say.
        name_column: with the classes' names. use: columns that are traits, whatever they look like; ignore: columns
            that are none. kinds: column -> 'number', 'percent', 'yes/no' or 'category'; 'number in g' gives a unit.
        sheet: of an Excel file, name or number from 1. like: a model or a table whose columns and scales are meant:
            the classes are described in their words, as for `model.set_classes`.
        long_columns: of a table with one trait a row, its columns of the trait, the value and the unit.
        transposed: whether the classes stand in columns. delimiter, encoding, header (line, from 1), decimal ('.' or
            ','), missing (further marks of gaps): of the file. What is None is found out.

    Returns:
        K x A table with `traits` and `report`. A gap is the column's mean over the training classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: what does not fit, with file, line, column, and what to do.
    """
    folders = None if photos is None else matching.photo_classes(photos)
    aliases = None if names is None else matching.read_names(names, folders)
    choices = Choices(list(use or ()), list(ignore or ()), dict(kinds or {}))
    dialect = Dialect(name_column, sheet, long_columns, transposed, delimiter, encoding, header)
    sources = list(source) if isinstance(source, list | tuple) else [source]
    if len(sources) == 1 and not (choices.any() or dialect.any() or decimal or missing):
        table = _own_format(sources[0])
        ready = None if table is None else _own_table(table, sources[0], folders, aliases, like)
        if ready is not None:
            return ready
    photos_known = folders is not None
    folders = list(aliases) if folders is None and aliases else folders
    report = TraitReport("")
    opened = _class_rows(sources, 0, folders, aliases, dialect, report)
    report.source = opened.sheet.source
    try:
        found = matching.match(opened.names, folders or [], aliases)
    except ValueError as error:
        raise ValueError(f"{opened.sheet.source}, column {opened.class_column!r}: {error}") from None
    if photos_known:
        report.class_column = f"column {opened.class_column!r}"
        report.photo_classes = len(found.folder_of), len(folders)
    _report_matches(report, found, folders, photos_known)
    report.warnings += matching.written_in_two_ways(found.unmatched_names, opened.names)
    class_names = [found.folder_of.get(name, name) for name in dict.fromkeys(opened.names)]
    for number in range(1, len(sources)):
        other = _class_rows(sources, number, class_names, aliases, dialect, report)
        opened = beside(opened, other, number + 1, found.folder_of, aliases, report)
        report.source += f" + {other.sheet.source}"
    rows, class_column, groups, units = opened.sheet, opened.class_column, opened.groups, opened.units
    owners = pd.factorize(opened.names)[0]  # row -> class, in order of appearance
    counts = np.bincount(owners)
    report.several_rows = {name: int(n) for name, n in zip(class_names, counts, strict=True) if n > 1}
    role_column = find_role_column(rows, class_column)
    pictured = set(found.folder_of.values()) if photos_known else None
    roles = roles_of(rows, role_column, owners, class_names, pictured)
    if role_column:
        report.notes.append(f"roles by the column {role_column!r}")
    choices.require_columns(rows)
    candidates = [name for name in rows.cells if name not in (class_column, role_column)]
    for name in [each for each in candidates if role_column and each.casefold() in CLASS_COLUMNS]:
        report.ignored[name] = f"{role_column!r} says the roles"
        candidates.remove(name)
    styles = find_styles(rows, candidates, decimal, missing, report.notes)
    if like is not None:
        old = _table_of(like)
        if role_column is None and not photos_known:
            known = dict(zip(old.class_names, old.roles, strict=True))
            roles = [known.get(name, "unseen") for name in class_names]
        values, traits = encode_columns(old, rows, candidates, owners, len(class_names), styles, report, units)
        report.scale = "as the model has it"
        return _reported(_checked(class_names, values, old.attribute_groups, roles, traits, report), report, False)
    columns = _read_columns(rows, candidates, choices, class_column, owners, len(class_names), styles, units, report)
    return _finish(columns, class_names, roles, groups, report)


@dataclass(frozen=True)
class Dialect:
    """What the user says about the files: arguments of `read_traits`."""

    name_column: str | None
    sheet: str | int | None
    long_columns: Sequence[str] | None
    transposed: bool | None
    delimiter: str | None
    encoding: str | None
    header: int | None

    def any(self) -> bool:
        return any(value for name, value in vars(self).items() if name != "sheet")


def _class_rows(
    sources: Sequence[Any],
    number: int,
    folders: list[str] | None,
    aliases: Mapping | None,
    dialect: Dialect,
    report: TraitReport,
) -> ClassRows:
    """One of the tables with its classes in rows; what was found out about it goes into the report."""
    opened = open_sheet(sources[number], dialect.sheet, dialect.delimiter, dialect.encoding, dialect.header)
    opened = layout.with_binomials(layout.upright(opened, folders, aliases, dialect.transposed))
    given = dialect.name_column
    if len(sources) > 1 and given not in opened.cells:
        given = None  # it is the name of a column of another table
    class_column, why = matching.find_class_column(opened, folders, aliases, given)
    if folders and matching.count_matches([class_column], folders, aliases):
        raise ValueError(
            f"{opened.source}: {class_column!r} stands where the names of columns should be, and has photos. Add a "
            "header row: class, trait, ..."
        )
    opened.cells[class_column] = opened.cells[class_column].str.replace("\n", " ")
    opened = layout.turned(opened, class_column, dialect.long_columns)
    opened, ignored = layout.with_units(opened)
    opened, groups, units = layout.second_headers(opened, class_column)
    opened = layout.classes_only(opened, class_column)
    if (trait := layout.seems_long(opened, class_column)) is not None:
        report.warnings.append(
            f"each class has a row for every {trait!r}: if these are traits, say long_columns=({trait!r}, 'VALUE') "
            f"(--long {trait} VALUE), with the column of the values"
        )
    if TRAITS_ROW in set(opened.cells[class_column]):
        raise ValueError(
            f"{opened.source} was written by this software, on its own scale. Give it alone and as it is, or "
            "the tables it was made of."
        )
    report.ignored |= ignored
    report.notes += [f"{opened.source}: {'; '.join(opened.notes)}"] if len(sources) > 1 else opened.notes
    if not number:
        report.class_column = f"column {class_column!r}, {why}"
    return ClassRows(opened, class_column, groups, units)


def _read_columns(
    opened: Sheet,
    candidates: Sequence[str],
    choices: Choices,
    class_column: str,
    owners: np.ndarray,
    count: int,
    styles: Mapping[str, Style],
    units: Mapping[str, str],
    report: TraitReport,
) -> list[Column]:
    """The columns that are traits; why the others are not goes into the report."""
    columns = []
    for name in candidates:
        if name[-2:-1] == "." and name[-1].isdigit() and name[:-2] in candidates:
            report.notes.append(f"{name!r} looks like what pandas calls a second column {name[:-2]!r}")
        why_not = choices.why_not(name) or (
            None if choices.wants(name) else why_no_trait(opened, name, styles[name], class_column)
        )
        if why_not:
            report.ignored[name] = why_not
            continue
        kind, unit = choices.kind(name)
        column = read_column(opened, name, owners, count, styles[name], kind, unit or units.get(name))
        told = column.values[~column.gaps]
        if not len(told) or (count > 1 and not choices.wants(name) and (told == told[0]).all()):
            report.ignored[name] = "it has no value" if not len(told) else "it is the same for all classes"
            continue
        column.table = opened.part(name).source
        columns.append(column)
    return columns


@dataclass
class Choices:
    """What the user says about columns."""

    use: list[str]
    ignore: list[str]
    kinds: dict[str, str]

    def any(self) -> bool:
        return bool(self.use or self.ignore or self.kinds)

    def wants(self, name: str) -> bool:
        return name in self.use or name in self.kinds

    def why_not(self, name: str) -> str | None:
        return "as you said" if name in self.ignore and name not in self.use else None

    def kind(self, name: str) -> tuple[str | None, str | None]:
        """Kind and unit."""
        kind, _, unit = self.kinds.get(name, "").partition(" in ")
        return kind or None, unit or None

    def require_columns(self, opened: Sheet) -> None:
        """Raise ValueError for a column that the table does not have, or a kind that does not exist."""
        for name in (*self.use, *self.ignore, *self.kinds):
            if name not in opened.cells:
                raise ValueError(f"{opened.source} has no column {name!r}.{near_names(name, opened.cells)}")
        for name in self.kinds:
            if self.kind(name)[0] not in KINDS:
                raise ValueError(f"{name!r} cannot be of the kind {self.kinds[name]!r}; use {', '.join(KINDS)}.")


def _own_format(source: Any) -> AttributeTable | None:
    """What `AttributeTable.to_csv` wrote, bit by bit; None for anything else."""
    if isinstance(source, pd.DataFrame) or not Path(source).is_file():
        return None
    with open(source, "rb") as file:
        if not file.readline().removeprefix(b"\xef\xbb\xbf").lower().startswith(b"class,role,"):
            return None
    try:
        return AttributeTable.from_csv(source)
    except ValueError:
        return None


def _own_table(
    table: AttributeTable, source: Any, folders: list[str] | None, aliases: Mapping | None, like: Any
) -> TraitTable | None:
    """The table as it is, if its columns need no scaling."""
    columns = [
        Column(name, "number", values.astype(np.float64))
        for name, values in zip(table.attribute_names, table.class_attributes.T, strict=True)
    ]
    report = TraitReport(str(source), ["a table in our own format"], "the first column")
    if table.traits is None:
        _, traits, report.scale = attributes_of(columns, table.seen)
        if any(trait["scale"] is not None for trait in traits) or like is not None:
            return None
        table = table.replace(traits=traits)
    else:
        report.scale = "as the table's own traits say"
        if like is not None:
            table = table.select_attributes(_table_of(like).attribute_names)
    if folders or aliases:
        found = matching.match(table.class_names, folders or list(aliases), aliases)
        _report_matches(report, found, folders, folders is not None)
        table = table.replace(class_names=[found.folder_of.get(name, name) for name in table.class_names])
    for name, places in columns_of(table).items():
        first = table.traits[places[0]]
        words = [table.traits[i]["category"] for i in places if first["category"] is not None]
        report.columns.append(_column_entry(Column(name, first["kind"], np.zeros(1), first["unit"], words)))
    return _reported(table, report, like is None)


def _table_of(like: Any) -> AttributeTable:
    return like if isinstance(like, AttributeTable) else like.attribute_table


def _report_matches(report: TraitReport, found: matching.Match, folders: list[str] | None, photos_known: bool) -> None:
    report.matched = {name: folder for name, folder in found.folder_of.items() if name != folder}
    if not photos_known:
        return
    if folders and not found.folder_of:
        near = [f"{name!r} (nearest folder {', '.join(map(repr, matching.nearest(name, folders))) or 'none'})"
                for name in found.unmatched_names[:3]]  # fmt: skip
        raise ValueError(
            f"{report.source}: no class is a photo folder. The table has {', '.join(near)}; the folders are "
            f"{', '.join(map(repr, folders[:3]))}. Say which column names the classes (name_column, --name-column), "
            "or which folder is which class (names, --names FILE)."
        )
    report.names_without_photos = found.unmatched_names
    report.photos_without_row = {
        folder: matching.nearest(folder, found.unmatched_names) for folder in found.unmatched_folders
    }


def _column_entry(column: Column) -> dict[str, Any]:
    values = column.values[~column.gaps]
    return {
        "name": column.name,
        "kind": column.kind,
        "unit": column.unit,
        "attributes": len(column.categories) or 1,
        "categories": column.categories,
        "range": None if column.categories else [float(values.min()), float(values.max())],
        "gaps": float(column.gaps.mean()),
        "notes": column.notes,
    }


def _finish(
    columns: list[Column], class_names: list[str], roles: list[str], groups: dict[str, str] | None, report: TraitReport
) -> TraitTable:
    left_out = "; ".join(f"{name!r}: {why}" for name, why in list(report.ignored.items())[:6])
    if not columns:
        raise ValueError(
            f"{report.source} has no column of traits. Not used: {left_out or 'nothing'}. Say use=[...] "
            "(--use COLUMN)."
        )
    gaps = np.stack([column.gaps for column in columns], axis=1)
    empty = np.asarray(gaps.all(axis=1))
    if empty.any():
        names = [name for name, gone in zip(class_names, empty, strict=True) if gone]
        report.warnings.append(f"classes with nothing but gaps left out: {', '.join(map(repr, names[:6]))}")
        keep = np.flatnonzero(~empty)
        class_names, roles = [class_names[i] for i in keep], [roles[i] for i in keep]
        for column in columns:
            column.values = column.values[keep]
    for name, share in zip(class_names, gaps[~empty].mean(axis=1), strict=True):
        if share > 0.5:
            report.warnings.append(f"class {name!r}: {share:.0%} of the columns are gaps")
    seen = np.array([role != "unseen" for role in roles])
    values, traits, report.scale = attributes_of(columns, seen)
    report.columns = [_column_entry(column) for column in columns]
    attribute_groups = [groups.get(trait["column"], "") for trait in traits] if groups else None
    return _reported(_checked(class_names, values, attribute_groups, roles, traits, report), report)


def _checked(
    class_names: list[str],
    values: np.ndarray,
    groups: list[str] | None,
    roles: list[str],
    traits: list[dict],
    report: TraitReport,
) -> AttributeTable:
    zero = np.flatnonzero(~values.astype(np.float32).any(axis=1))
    if len(zero):
        left_out = "; ".join(f"{name!r}: {why}" for name, why in list(report.ignored.items())[:6])
        raise ValueError(
            f"{report.source}: class {class_names[zero[0]]!r} is 0 in all attributes, so nothing "
            f"describes it. Give it a trait that it has{f' (not used: {left_out})' if left_out else ''}."
        )
    names = [trait["attribute"] for trait in traits]
    try:
        return AttributeTable(class_names, names, values, groups, roles, traits=traits)
    except ValueError as error:
        raise ValueError(f"{report.source}: {error}") from None


def _reported(table: AttributeTable, report: TraitReport, for_training: bool = True) -> TraitTable:
    report.look_at(table, for_training)
    fields = {name: getattr(table, name) for name in table.__dataclass_fields__}
    result = TraitTable(**fields)
    result.report = report
    return result
