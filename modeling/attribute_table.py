"""Classes x attributes: the description of every class that a zero-shot model knows.

One `AttributeTable` is all that separates a seen class from an unseen one: a name and a row of attribute values.
Needs numpy only; CSV in and out, so that a spreadsheet is enough to describe new classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import describe_class, encode_one, near_names, plain_traits, spoken_class
from .saving import whole_file

ROLES = ("train", "val", "unseen")
GROUP_ROW, TRAITS_ROW = "#group", "#traits"
CLASS_COLUMNS = ("role", "seen")
GROUPINGS = ("given", "single", "embeddings", "co-occurrence")
_SEEN_WORDS = {"1": True, "true": True, "yes": True, "seen": True, "0": False, "false": False, "no": False}
_SEEN_WORDS["unseen"] = False


@dataclass(eq=False)
class AttributeTable:
    """K classes described by A attributes.

    Args:
        class_names: K unique names, in the order of the labels 0..K-1.
        attribute_names: A unique names.
        class_attributes: K x A, raw scale (percent, 0/1, anything finite; the model L2-normalises each row).
        attribute_groups: group name of each of the A attributes (body part, colour family...), or None.
        roles: K of 'train', 'val', 'unseen'; 'train' and 'val' classes are the *seen* ones. Default: all 'train'.
        attribute_embeddings: A x D, e.g. word vectors of the attribute names, or None.
        traits: what each of the A attributes came from, as `dedn_hf.traits.read_traits` says it, or None: a dict of
            attribute, column, kind, category, unit, range, scale, offset, fill and has_it; see `describe_class`.

    Raises:
        ValueError: names not unique or with spaces around them, shapes that disagree, values that are not finite, an
            all-zero row.
    """

    class_names: list[str]
    attribute_names: list[str]
    class_attributes: np.ndarray
    attribute_groups: list[str] | None = None
    roles: list[str] = None  # type: ignore[assignment]  # a list from __post_init__ on
    attribute_embeddings: np.ndarray | None = None
    traits: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self.class_names = [str(name) for name in self.class_names]
        self.attribute_names = [str(name) for name in self.attribute_names]
        self.class_attributes = np.ascontiguousarray(self.class_attributes, dtype=np.float32)
        self.roles = ["train"] * len(self.class_names) if self.roles is None else [str(role) for role in self.roles]
        if self.attribute_groups is not None:
            self.attribute_groups = [str(group) for group in self.attribute_groups]
        if self.attribute_embeddings is not None:
            self.attribute_embeddings = np.asarray(self.attribute_embeddings, dtype=np.float32)
        self._validate()

    def _validate(self) -> None:
        k, a = len(self.class_names), len(self.attribute_names)
        if k == 0 or a == 0:
            raise ValueError(f"An attribute table needs at least one class and one attribute; got {k} and {a}.")
        _require_unique(self.class_names, "class")
        _require_unique(self.attribute_names, "attribute")
        for kind, names in (
            ("class", self.class_names),
            ("attribute", self.attribute_names),
            ("group", self.attribute_groups or []),
        ):
            _require_fit_for_csv(names, kind)
        for name in self.attribute_names:
            if name.strip().lower() in CLASS_COLUMNS:
                raise ValueError(f"An attribute cannot be called {name!r}, a column of its own in the CSV. Rename it.")
        if self.class_attributes.shape != (k, a):
            raise ValueError(
                f"class_attributes has shape {self.class_attributes.shape}, but {k} class names and {a} attribute "
                f"names ask for ({k}, {a})."
            )
        lengths = (
            ("roles", self.roles, k),
            ("attribute_groups", self.attribute_groups, a),
            ("traits", self.traits, a),
        )
        for title, values, length in lengths:
            if values is not None and len(values) != length:
                raise ValueError(f"{title} has {len(values)} entries; give {length}, in the same order as the names.")
        for name, role in zip(self.class_names, self.roles, strict=True):
            if role not in ROLES:
                raise ValueError(f"Class {name!r} has role {role!r}; use one of {', '.join(ROLES)}.")
        self._validate_values()

    def _validate_values(self) -> None:
        bad = np.argwhere(~np.isfinite(self.class_attributes))
        if len(bad):
            row, column = bad[0]
            raise ValueError(
                f"Class {self.class_names[row]!r}, attribute {self.attribute_names[column]!r}: the value is "
                f"{self.class_attributes[row, column]}, not a finite number ({len(bad)} such in all). Fill it in."
            )
        zero = np.flatnonzero(~self.class_attributes.any(axis=1))
        if len(zero):
            raise ValueError(_only_zeros(self.class_names[zero[0]]))
        if self.attribute_embeddings is not None:
            shape = self.attribute_embeddings.shape
            if len(shape) != 2 or shape[0] != len(self.attribute_names) or shape[1] == 0:
                raise ValueError(f"attribute_embeddings has shape {shape}, expected ({len(self.attribute_names)}, D).")
            if not np.isfinite(self.attribute_embeddings).all():
                raise ValueError("attribute_embeddings holds values that are not finite numbers.")

    def __len__(self) -> int:
        return len(self.class_names)

    def __repr__(self) -> str:
        groups = len(set(self.attribute_groups)) if self.attribute_groups else 0
        return (
            f"AttributeTable({len(self)} classes ({int(self.seen.sum())} seen), "
            f"{len(self.attribute_names)} attributes, {groups} groups)"
        )

    @property
    def num_attributes(self) -> int:
        """A."""
        return len(self.attribute_names)

    @property
    def seen(self) -> np.ndarray:
        """K bool: True where the class has images to train on."""
        return np.array([role != "unseen" for role in self.roles])

    def require_seen(self) -> None:
        """Raise ValueError unless there is a seen class to train on."""
        if not self.seen.any():
            raise ValueError(
                "The attribute table has no seen class, so there is nothing to train on. Give photos of some classes, "
                "or a column 'role' (train, val, unseen) or 'seen' (1, 0) that says which are trained on."
            )

    def require_seen_and_unseen(self) -> None:
        """Raise ValueError unless there is at least one seen and one unseen class, as zero-shot learning needs."""
        self.require_seen()
        if self.seen.all():
            raise ValueError(
                "The attribute table has no unseen class. Give it a column 'role' (train, val, unseen) or 'seen' "
                "(1, 0) so that some classes are trained on and some are only described."
            )

    def known_name(self, name: str) -> str | None:
        """What the table calls a class, also where it is named as people say it; None where it is not known."""
        if name in self.class_names:
            return name
        plain = spoken_class(name).casefold()
        meant = [each for each in self.class_names if spoken_class(each).casefold() == plain]
        return meant[0] if len(meant) == 1 else None

    def select(self, class_names: Sequence[str]) -> AttributeTable:
        """The table of `class_names` only, in that order. Raises ValueError for a name that is not in the table."""
        position = {name: i for i, name in enumerate(self.class_names)}
        for name in class_names:
            if name not in position:
                raise ValueError(f"No class {name!r} in the attribute table.{near_names(name, position)}")
        rows = [position[name] for name in class_names]
        return self.replace(
            class_names=list(class_names),
            class_attributes=self.class_attributes[rows],
            roles=[self.roles[i] for i in rows],
        )

    def select_attributes(self, attribute_names: Sequence[str]) -> AttributeTable:
        """The table with exactly `attribute_names` as columns, in that order. Raises ValueError for unknown names."""
        position = {name: i for i, name in enumerate(self.attribute_names)}
        missing = [name for name in attribute_names if name not in position]
        if missing:
            raise ValueError(
                f"{len(missing)} attribute(s) are not in the table, first {missing[0]!r}."
                f"{near_names(missing[0], position)} It has {self.num_attributes}; {len(attribute_names)} are needed."
            )
        columns = [position[name] for name in attribute_names]
        return self.replace(
            attribute_names=list(attribute_names),
            class_attributes=self.class_attributes[:, columns],
            attribute_groups=self.attribute_groups and [self.attribute_groups[i] for i in columns],
            attribute_embeddings=None if self.attribute_embeddings is None else self.attribute_embeddings[columns],
            traits=self.traits and [self.traits[i] for i in columns],
        )

    def encode(self, key: str, value: Any) -> dict[str, float]:
        """Attribute -> value on the table's scale, of one trait in the words of the table: 'bill', 'hooked'.

        Raises ValueError as `describe`.
        """
        places, values = encode_one(self.traits or plain_traits(self), key, value)
        return {self.attribute_names[place]: float(number) for place, number in zip(places, values, strict=True)}

    def describe(self, name: str, description: Mapping | Sequence[float]) -> np.ndarray:
        """The row of class `name`, A, from a description in the words of the table: see `describe_class`."""
        return describe_class(self.traits or plain_traits(self), description, name)

    def replace(self, **changes) -> AttributeTable:
        """A copy with some fields changed; validated again."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return AttributeTable(**{**fields, **changes})

    # CSV ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_csv(cls, path: str | Path, groups: str | Path | dict[str, str] | None = None) -> AttributeTable:
        """Read one row a class, one column an attribute.

        The first column is the class name. A column `role` (train, val, unseen) or `seen` (1/0, yes/no, true/false)
        says which classes have training images; without one, all are seen. An optional first row whose class cell is
        `#group` names each attribute's group; `groups` (a dict, or a CSV file of attribute,group) does the same.

        Raises:
            FileNotFoundError: no such file.
            ValueError: what is wrong with the table, with file, line and column.
        """
        path = Path(path)
        header, rows = _read_rows(path)
        special = {name: i for i, name in enumerate(h.strip().lower() for h in header) if name in CLASS_COLUMNS and i}
        columns = [i for i in range(1, len(header)) if i not in special.values()]
        names = [header[i].strip() for i in columns]
        _require_unique(names, "attribute", [f"{path}, header, column {i + 1}: " for i in columns])
        row_groups = None
        if rows and rows[0][1][0].strip().lower() == GROUP_ROW:
            row_groups = [rows[0][1][i].strip() for i in columns]
            rows = rows[1:]
        traits = None
        if rows and rows[0][1][0] == TRAITS_ROW:
            traits = [_read_trait(rows[0][1][i], path, rows[0][0], header[i]) for i in columns]
            rows = rows[1:]
        values = [[_number(cells[i], path, line, header[i]) for i in columns] for line, cells in rows]
        roles = [_role(cells, special, path, line) for line, cells in rows]
        class_names, places = [cells[0].strip() for _, cells in rows], [f"{path}, line {line}: " for line, _ in rows]
        _require_unique(class_names, "class", places)
        for name, row, place in zip(class_names, values, places, strict=True):
            if names and not any(row):
                raise ValueError(f"{place}{_only_zeros(name)}")
        attribute_groups = row_groups if groups is None else read_groups(groups, names)
        try:
            matrix = np.array(values, dtype=np.float32).reshape(len(rows), len(names))
            return cls(class_names, names, matrix, attribute_groups, roles, traits=traits)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_csv(self, path: str | Path) -> None:
        """Write what `from_csv` reads: values survive the round trip bit by bit (embeddings are not in the CSV)."""
        with whole_file(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["class", "role", *self.attribute_names])
            if self.attribute_groups:
                writer.writerow([GROUP_ROW, "", *self.attribute_groups])
            if self.traits:
                writer.writerow([TRAITS_ROW, "", *(json.dumps(trait, ensure_ascii=False) for trait in self.traits)])
            for name, role, row in zip(self.class_names, self.roles, self.class_attributes, strict=True):
                writer.writerow([name, role, *(str(value) for value in row)])

    def save(self, folder: str | Path) -> None:
        """Write attributes.csv and, where there are embeddings, attributes.npz into an existing folder."""
        table, embeddings = Path(folder) / "attributes.csv", Path(folder) / "attributes.npz"
        if embeddings.exists() or self.attribute_embeddings is not None:
            table.unlink(missing_ok=True)  # no table is found until both files are those of this one
            embeddings.unlink(missing_ok=True)
        if self.attribute_embeddings is not None:
            with whole_file(embeddings) as unfinished:
                np.savez_compressed(unfinished, attribute_embeddings=self.attribute_embeddings)
        self.to_csv(table)

    @classmethod
    def load(cls, folder: str | Path) -> AttributeTable:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError as `from_csv`."""
        table = cls.from_csv(Path(folder) / "attributes.csv")
        embeddings = Path(folder) / "attributes.npz"
        if embeddings.exists():
            with np.load(embeddings, allow_pickle=False) as file:
                table = table.replace(attribute_embeddings=file["attribute_embeddings"])
        return table


def _only_zeros(class_name: str) -> str:
    return (
        f"Class {class_name!r} has only zeros, so nothing describes it. "
        "Give it at least one attribute or drop the row."
    )


def _require_unique(names: list[str], kind: str, places: list[str] | None = None) -> None:
    """`places` says where each name stands, for the message."""
    seen: set[str] = set()
    for name, place in zip(names, places or [""] * len(names), strict=True):
        if not name:
            raise ValueError(f"{place}An empty {kind} name. Every {kind} needs a name of its own.")
        if name in seen:
            raise ValueError(f"{place}The {kind} name {name!r} stands twice. Rename or remove one of them.")
        seen.add(name)


def _require_fit_for_csv(names: list[str], kind: str) -> None:
    """Raise ValueError for a name that would not come back from a CSV file as it was."""
    for name in names:
        lost = any(character in name for character in "\r\0")
        if lost or name != name.strip() or name.encode("utf-8", "replace").decode() != name:
            raise ValueError(
                f"The {kind} name {name!r} has spaces around it, a carriage return, a null character, or half a "
                "character. Clean it."
            )
        if name.lower() in (GROUP_ROW, TRAITS_ROW):
            raise ValueError(f"A {kind} cannot be called {name!r}, which marks a row of another kind. Rename it.")


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"No attribute table at {path}. Give a CSV file: one row a class, one column an attribute."
        )
    lines = _read_lines(path)
    if len(lines) < 2 or len(lines[0][1]) < 2:
        raise ValueError(f"{path}: needs a header line (class, attribute, ...) and at least one class row.")
    header = lines[0][1]
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)}.")
    return header, lines[1:]


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every line that is not empty."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable CSV file in UTF-8 ({error}). Save it as 'CSV UTF-8'.") from None


def _number(cell: str, path: Path, line: int, column: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = float("nan")
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.float32(number))
    if not finite:
        what = "is empty" if not cell.strip() else f"holds {cell!r}, which is not a finite number"
        raise ValueError(f"{path}, line {line}, column {column!r}: {what}. Put a number there.")
    return number


def _read_trait(cell: str, path: Path, line: int, column: str) -> dict[str, Any]:
    try:
        trait = json.loads(cell)
    except json.JSONDecodeError:
        trait = None
    if not isinstance(trait, dict) or not {"column", "kind", "fill"} <= set(trait):
        raise ValueError(f"{path}, line {line}, column {column!r}: {cell!r} is not a trait. Delete the whole row.")
    return trait


def _role(cells: list[str], special: dict[str, int], path: Path, line: int) -> str:
    role = cells[special["role"]].strip().lower() if "role" in special else ""
    if role:
        if role not in (*ROLES, "seen"):
            raise ValueError(f"{path}, line {line}, column 'role': {role!r}. Use train, val or unseen.")
        return "train" if role == "seen" else role
    if "seen" in special:
        word = cells[special["seen"]].strip().lower()
        if word not in _SEEN_WORDS:
            raise ValueError(f"{path}, line {line}, column 'seen': {word!r}. Use 1 (has training images) or 0.")
        return "train" if _SEEN_WORDS[word] else "unseen"
    return "train"


def read_groups(groups: str | Path | dict[str, str], attribute_names: list[str]) -> list[str]:
    """Group name of each attribute, from a dict or a CSV file of attribute,group. Raises ValueError if one lacks."""
    place = ""
    if not isinstance(groups, dict):
        path = Path(groups)
        if not path.is_file():
            raise FileNotFoundError(f"No attribute group file at {path}. Give a CSV file of attribute,group.")
        lines = _read_lines(path)
        for line, cells in lines:
            if len(cells) < 2:
                raise ValueError(f"{path}, line {line}: {cells[0]!r} has no group. Write attribute,group there.")
        place, groups = f"{path}: ", {cells[0].strip(): cells[1].strip() for _, cells in lines}
    missing = [name for name in attribute_names if name not in groups]
    if missing:
        raise ValueError(
            f"{place}{len(missing)} attribute(s) have no group, first {missing[0]!r}. Add them to the groups."
        )
    return [groups[name] for name in attribute_names]


# Groups of attributes --------------------------------------------------------------------------------------------


def group_attributes(
    table: AttributeTable, method: str = "given", num_groups: int | None = None, seed: int = 0
) -> list[str]:
    """Group name of each of the A attributes.

    Args:
        method: 'given', the table's own groups (one group where it has none); 'single', one group; 'embeddings',
            k-means on the attribute embeddings; 'co-occurrence', k-means on the columns of the seen classes'
            attributes, so that attributes that go together share a group.
        num_groups: number of k-means groups, 2..A. seed: of k-means.

    Raises:
        ValueError: unknown method, no embeddings to cluster, a number of groups outside 2..A.
    """
    if method not in GROUPINGS:
        raise ValueError(f"Unknown attribute grouping {method!r}; use one of {', '.join(GROUPINGS)}.")
    if method == "single":
        return ["all"] * table.num_attributes
    if method == "given":
        return table.attribute_groups or ["all"] * table.num_attributes
    points = table.attribute_embeddings if method == "embeddings" else table.class_attributes[table.seen].T
    if points is None:
        raise ValueError("groups='embeddings' needs attribute embeddings, and the attribute table has none.")
    return _k_means(points, num_groups or len(set(table.attribute_groups or [])) or 4, seed)


def _k_means(points: np.ndarray, num_groups: int, seed: int) -> list[str]:
    if not 2 <= num_groups <= len(points):
        raise ValueError(f"num_groups is {num_groups}; use 2 to {len(points)}, the number of attributes.")
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("k-means attribute groups need scikit-learn: pip install scikit-learn.") from error
    directions = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    labels = KMeans(num_groups, n_init=10, random_state=seed).fit_predict(directions)
    return [f"group-{label}" for label in labels]
