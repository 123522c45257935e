"""What became of a trait table, on one screen: columns, gaps, classes, and what will spoil the answers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.traits.columns import header_unit

MANY_GAPS = 0.5
SHOWN = 6


@dataclass
class TraitReport:
    """What `read_traits` found and did; `str` gives one screen, `to_dict` everything.

    Args:
        source: the file. notes: what was found out about it. class_column: with the classes' names, and why that one.
        matched: name in the table -> photo folder, where they differ. names_without_photos, photos_without_row: what
            is left on both sides, with the nearest names. columns: what each column became: name, kind, unit, number
            of attributes, share of gaps, range, notes. ignored: column -> why. several_rows: class -> number of its
            rows. scale: what was done about scales. alike: groups of classes that nothing tells apart. warnings: what
            will spoil the answers.
        classes, seen, attributes: how many. photo_classes: how many have photos, with a row and in all.
    """

    source: str
    notes: list[str] = field(default_factory=list)
    class_column: str = ""
    matched: dict[str, str] = field(default_factory=dict)
    names_without_photos: list[str] = field(default_factory=list)
    photos_without_row: dict[str, list[str]] = field(default_factory=dict)
    columns: list[dict[str, Any]] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    several_rows: dict[str, int] = field(default_factory=dict)
    scale: str = ""
    alike: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    classes: int = 0
    seen: int = 0
    attributes: int = 0
    photo_classes: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, as data for JSON."""
        return asdict(self)

    def keep_labels(self, known: Sequence[str], unknown: Sequence[str]) -> None:
        """Forget folders that turned out to be no classes. known, unknown: classes with a row, and without."""
        self.photos_without_row = {name: self.photos_without_row.get(name, []) for name in unknown}
        self.photo_classes = len(known), len(known) + len(unknown)

    def look_at(self, table: AttributeTable, for_training: bool = True) -> None:
        """Add the numbers of the finished table, and warn of what will spoil its answers."""
        self.classes, self.seen, self.attributes = len(table), int(table.seen.sum()), table.num_attributes
        self.alike = classes_alike(table)
        roles = dict(zip(table.class_names, table.seen, strict=True))
        for group in self.alike:
            names = ", ".join(f"{name!r} ({'seen' if roles[name] else 'unseen'})" for name in group[:SHOWN])
            more = f" and {len(group) - SHOWN} more" if len(group) > SHOWN else ""
            self.warnings.append(f"nothing tells apart: {names}{more}; all their photos get one answer")
        if table.num_attributes < 3:
            self.warnings.append(
                f"only {table.num_attributes} attribute{'s' * (table.num_attributes > 1)}: too few to tell classes "
                "apart, as the model compares directions"
            )
        if self.seen < 2 and for_training:
            self.warnings.append(f"{self.seen or 'no'} seen class: training needs several, two at the very least")
        for name, share in dominating(table):
            self.warnings.append(f"{name!r} makes up {share:.0%} of the differences between classes")
        for column in self.columns:
            if column["gaps"] > MANY_GAPS:
                self.warnings.append(f"{column['name']!r} is a gap in {column['gaps']:.0%} of the classes")

    def __str__(self) -> str:
        classes, attributes = _count(self.classes, "class", "es"), _count(self.attributes, "attribute", "s")
        lines = [f"{self.source}: {classes} ({self.seen} seen), {attributes}"]
        lines += [f"  {note}" for note in self.notes]
        found = "{} of {} photo classes found in it".format(*self.photo_classes) if self.photo_classes else ""
        lines.append(f"  classes: {self.class_column}{', ' if found else ''}{found}")
        if self.several_rows:
            most = max(self.several_rows.values())
            shown = _some(self.several_rows)
            have = "class has" if len(self.several_rows) == 1 else "classes have"
            lines.append(f"  {len(self.several_rows)} {have} several rows (up to {most}), made one: {shown}")
        if self.matched:
            lines.append(
                f"  {len(self.matched)} named otherwise: {_some([f'{a} = {b}' for a, b in self.matched.items()], 3)}"
            )
        if self.names_without_photos:
            lines.append(f"  {len(self.names_without_photos)} without photos: {_some(self.names_without_photos)}")
        for folder, near in list(self.photos_without_row.items())[:SHOWN]:
            hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
            lines.append(f"  photos without a row in the table: {folder!r}{hint}")
        if len(self.photos_without_row) > SHOWN:
            lines.append(f"  photos without a row: {len(self.photos_without_row) - SHOWN} more")
        lines.append(f"  scale: {self.scale}")
        lines += self._column_lines()
        lines += [f"  ! {warning}" for warning in self.warnings[:10]]
        if len(self.warnings) > 10:
            lines.append(f"  ! {len(self.warnings) - 10} more warnings")
        return "\n".join(lines)

    def _column_lines(self) -> list[str]:
        lines = []
        by_kind = defaultdict(list)
        for column in self.columns:
            plain = not (column["notes"] or column["gaps"] or column["kind"] == "category")
            unit = f" ({column['unit']})" if column["unit"] not in ("", header_unit(column["name"])) else ""
            if len(self.columns) > 24 or plain:
                by_kind[column["kind"]].append(column["name"] + unit)
                continue
            size = f", {_count(column['attributes'], 'value', 's')}" if column["kind"] == "category" else ""
            gaps = f", {column['gaps']:.0%} gaps" if column["gaps"] else ""
            notes = "".join(f"; {note}" for note in column["notes"])
            lines.append(f"  {column['name']}{unit}: {column['kind']}{size}{gaps}{notes}")
        lines = [f"  {kind}: {_some(names, 12)}" for kind, names in by_kind.items()] + lines
        if len(self.columns) > 24:
            guesses = defaultdict(list)  # notes that differ in their numbers only are told once
            for column in self.columns:
                for note in column["notes"]:
                    guesses[re.sub(r"[\d.]+", "0", note)].append((repr(column["name"]), note))
            for (name, note), *others in guesses.values():
                also = f"; likewise {_some([other for other, _ in others], 8)}" if others else ""
                lines.append(f"  {name}: {note}{also}")
        reasons = defaultdict(list)
        for name, why in self.ignored.items():
            reasons[why].append(repr(name))
        return lines + [f"  not used, {why}: {_some(names, 8)}" for why, names in reasons.items()]


def classes_alike(table: AttributeTable) -> list[list[str]]:
    """Groups of classes whose rows are the same or proportional: the model compares directions only."""
    values = table.class_attributes.astype(np.float64)
    rows = np.round(values / np.linalg.norm(values, axis=1, keepdims=True), 6) + 0.0
    groups = defaultdict(list)
    for name, row in zip(table.class_names, rows, strict=True):
        groups[row.tobytes()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def dominating(table: AttributeTable) -> list[tuple[str, float]]:
    """Columns that make up most of the differences between classes, with their share."""
    values = table.class_attributes.astype(np.float64)
    spread = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    of = [trait["column"] for trait in table.traits or ()] or table.attribute_names
    shares = defaultdict(float)
    for column, each in zip(of, spread / max(spread.sum(), 1e-30), strict=True):
        shares[column] += each
    return [(name, each) for name, each in shares.items() if len(shares) > 2 and each > 0.5]


def _count(number: int, word: str, ending: str) -> str:
    return f"{number} {word}{ending * (number != 1)}"


def _some(names: Sequence[str] | dict, count: int = SHOWN) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
