"""The numbers of an explanation: why a model answered as it did, where it looked, and what corrections change.

Everything follows from one equation of the model: logits == attribute_scores @ T^t + class_bias. So what attribute a
adds to the lead of class y over class k is s_a (T_ya - T_ka), and nothing is estimated.

Letters of the shapes: K classes, A attributes, E experts, H x W regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dedn_hf.explain.heat import Box, place_heat
from dedn_hf.explain.names import find_name, spoken, spoken_class
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.pipeline_dedn import UNKNOWN, why_unknown

if TYPE_CHECKING:
    from typing_extensions import Self

HEAT_MAPS = 4  # of each expert, unless attributes are named


@dataclass(frozen=True, eq=False)
class Comparison:
    """Why one class and not another: `contributions.sum() + bias` is the difference of their logits.

    Args:
        one, other: indices of the classes; `other` is None where the model has a single class, whose logit it then is.
        contributions: A, what each attribute adds to the difference. Negative values speak for `other`.
        expert_contributions: E x A, the same for each expert alone. Their mean, weighted by
            `Evidence.expert_weights`, is `contributions`.
        bias: the part that does not depend on the image: seen bias and calibration.
    """

    one: int
    other: int | None
    contributions: np.ndarray
    expert_contributions: np.ndarray
    bias: float

    @property
    def classes(self) -> list[int]:
        """`one` and, if there is one, `other`."""
        return [self.one] if self.other is None else [self.one, self.other]

    @property
    def difference(self) -> float:
        """Logit of `one` minus logit of `other`."""
        return float(self.contributions.sum()) + self.bias

    @property
    def expert_differences(self) -> np.ndarray:
        """E, what `difference` would be if one expert had all the weight."""
        return self.expert_contributions.sum(axis=1) + self.bias

    @property
    def disputed(self) -> np.ndarray:
        """A bool, True where the experts pull in opposite directions."""
        return (self.expert_contributions.min(axis=0) < 0) & (self.expert_contributions.max(axis=0) > 0)

    @property
    def agreement(self) -> float:
        """0..1, the share of the experts' contributions, by size, that lies in attributes they do not dispute."""
        sizes = np.abs(self.expert_contributions).sum(axis=0)
        return float(sizes[~self.disputed].sum() / sizes.sum()) if sizes.any() else 1.0

    def strongest(self, count: int) -> list[int]:
        """The attributes that contribute most, in either direction; at most `count`, and none that contributes 0."""
        return positive_descending(np.abs(self.contributions))[:count]


@dataclass(frozen=True)
class Trait:
    """An attribute of which the image seems to have much or little, see `Evidence.traits`.

    Args:
        attribute: its index. high: True for much, False for little. strength: in logits, 0 or more.
        class_value: of the class, in the table's scale. mean_value: the mean over the model's classes.
    """

    attribute: int
    high: bool
    strength: float
    class_value: float
    mean_value: float

    @property
    def fits(self) -> bool:
        """Whether the class lies on that side of the mean, too."""
        return self.class_value >= self.mean_value if self.high else self.class_value <= self.mean_value


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a model computed for one image. All numbers are float64.

    Args:
        picture: the original, RGB, upright.
        crop: the part that the model saw, in pixels of the original. It reaches beyond the original where the
            image was padded.
        table: the classes and attributes of the model.
        experts: E names. expert_weights: E, their weights in the prediction.
        expert_scores: E x A, attribute scores of each expert as they enter its logits.
        class_directions: K x A, the normalised class attributes T. class_bias: K.
        region_maps: E x A x H x W, or None for a model without region attention.
        temperature: divides the logits before their softmax. min_confidence: the probability below which the answer is
            'unknown'; None: it never is. shows_none: whether the picture seems to show none of the classes.
        compared_classes: names of the class to explain and of the one to compare it with; None as in `compare`.
        attributes: names of the attributes to show heat maps of; empty: see `heat_map_attributes`.
        top_k: how many classes to report.
        corrections: attribute name -> value in the table's scale, see `correct`.
        origin: names of the 'image' and the 'model', if they have one, and the version of 'dedn_hf'.
    """

    picture: Image.Image
    crop: Box
    table: AttributeTable
    experts: tuple[str, ...]
    expert_weights: np.ndarray
    expert_scores: np.ndarray
    class_directions: np.ndarray
    class_bias: np.ndarray
    region_maps: np.ndarray | None
    temperature: float = 1.0
    min_confidence: float | None = None
    shows_none: bool = False
    compared_classes: tuple[str | None, str | None] = (None, None)
    attributes: tuple[str, ...] = ()
    top_k: int = 5
    corrections: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    # Classes ------------------------------------------------------------------------------------------------------

    @cached_property
    def class_titles(self) -> list[str]:
        """K, names for people, see `names.spoken_class`; the table's names if two of these would be alike."""
        titles = [spoken_class(name) for name in self.table.class_names]
        return titles if len(set(titles)) == len(titles) else list(self.table.class_names)

    @property
    def attribute_scores(self) -> np.ndarray:
        """A, from the model, before corrections."""
        return self.expert_weights @ self.expert_scores

    @cached_property
    def expert_logits(self) -> np.ndarray:
        """E x K, what the logits would be if one expert had all the weight (`class_bias` included)."""
        kept = self.expert_scores.copy()
        kept[:, list(self.corrected_contributions)] = 0
        return kept @ self.class_directions.T + sum(self.corrected_contributions.values()) + self.class_bias

    @property
    def logits(self) -> np.ndarray:
        """K, with the corrections."""
        return self.expert_weights @ self.expert_logits

    @property
    def probabilities(self) -> np.ndarray:
        """K, softmax of the logits over the temperature."""
        powers = np.exp((self.logits - self.logits.max()) / self.temperature)
        return powers / powers.sum()

    @cached_property
    def ranking(self) -> list[int]:
        """All K classes, best first."""
        return descending_order(self.logits)

    @property
    def unknown(self) -> str | None:
        """The reason why the answer is 'unknown', if it is: 'not sure' or 'none of these'.

        Corrections say that the picture does show one of the classes.
        """
        none = self.shows_none and not self.corrections
        return why_unknown(self.probabilities[self.ranking[0]], none, self.min_confidence)

    @property
    def answer(self) -> str:
        """The best class, as the table calls it, or 'unknown'."""
        return UNKNOWN if self.unknown else self.table.class_names[self.ranking[0]]

    @property
    def uncorrected(self) -> Self:
        """The same without corrections."""
        return replace(self, corrections={})

    def correct(self, corrections: Mapping[str, Any]) -> Self:
        """The same image with true values of some attributes: attribute name -> value in the table's scale.

        Where the table has traits, in their words: {"bill": "hooked", "mass": "120 g"}.

        What attribute a adds to the logit of class k, s_a T_ka, becomes -m |V_ka - v| / (max V_a - min V_a): V_ka is
        the class's value in the table, v the true one. So a class loses in proportion to how far its value is from
        the true one, and at most m against another class. m is the larger of two numbers: the standard deviation over
        the classes of what the image adds to their logits, and the most that any attribute puts between two classes,
        max_b |s_b| (max T_b - min T_b). So a correction outweighs what the image said of the attribute: a class with
        the true value never loses by it against a class at the other end of the scale. All other attributes keep
        their scores. All experts are corrected alike. Earlier corrections are dropped.

        Raises:
            ValueError: an unknown attribute, or a value that is not a finite number, or none that the trait can have.
        """
        return replace(self, corrections=corrected_values(self.table, corrections))

    @cached_property
    def corrected_contributions(self) -> dict[int, np.ndarray]:
        """Corrected attribute -> what it adds to the logit of every class, K; the formula is in `correct`."""
        values = {self._attribute(name): value for name, value in self.corrections.items()}
        return contributions_of(values, self.attribute_scores, self.class_directions, self.table.class_attributes)

    # Why ----------------------------------------------------------------------------------------------------------

    def class_contributions(self, label: int) -> np.ndarray:
        """E x A, what each attribute adds to a class's logit, for each expert alone."""
        added = self.expert_scores * self.class_directions[label]
        for a, column in self.corrected_contributions.items():
            added[:, a] = column[label]
        return added

    def compare(self, class_name: str | None = None, against: str | None = None) -> Comparison:
        """Why `class_name` (default: the best class) and not `against` (default: the best of the other classes).

        Raises:
            ValueError: an unknown class, or the same class twice.
        """
        rival = None if against is None else self._class(against)
        if class_name is not None:
            one = self._class(class_name)
        else:  # against the best class, the next one is explained
            one = next(k for k in self.ranking if k != rival or len(self.ranking) == 1)
        if one == rival:
            raise ValueError(f"{class_name!r} and {against!r} are one class; name two.")
        if rival is None:
            rival = next((k for k in self.ranking if k != one), None)
        parts, bias = self.class_contributions(one), self.class_bias[one]
        if rival is not None:
            parts, bias = parts - self.class_contributions(rival), bias - self.class_bias[rival]
        return Comparison(one, rival, self.expert_weights @ parts, parts, float(bias))

    @cached_property
    def comparison(self) -> Comparison:
        """The comparison that was asked for."""
        return self.compare(*self.compared_classes)

    def by_group(self, values: np.ndarray) -> dict[str, float]:
        """The sum of A values over each attribute group, groups in order of first appearance."""
        groups = self.table.attribute_groups or ["all"] * self.table.num_attributes
        sums = dict.fromkeys(groups, 0.0)
        for group, value in zip(groups, values, strict=True):
            sums[group] += float(value)
        return sums

    def traits(self, label: int, count: int = 8) -> list[Trait]:
        """The attributes that the image seems to have much or little of, the strongest first, for one class.

        s_a > 0 speaks for classes with much of attribute a, s_a < 0 for those with little. The strength is |s_a| times
        the standard deviation of T_a over the classes: what the attribute usually puts between two classes. It is the
        model's view and not a measurement: a strength is no percentage, and a weak one does not mean a medium value.
        Corrected attributes are left out.
        """
        scores, values = self.attribute_scores, self.table.class_attributes
        strengths = np.abs(scores) * self.class_directions.std(axis=0)
        order = [a for a in positive_descending(strengths) if a not in self.corrected_contributions]
        return [
            Trait(a, bool(scores[a] > 0), float(strengths[a]), float(values[label, a]), float(values[:, a].mean()))
            for a in order[:count]
        ]

    # Where --------------------------------------------------------------------------------------------------------

    @property
    def heat_map_attributes(self) -> list[int]:
        """Indices of the attributes to show heat maps of: those named, or those found (s_a > 0) that decided most.

        Between similar classes few attributes decide. Those that set the first class apart from the average follow.
        """
        if self.region_maps is None:
            return []
        if self.attributes:
            return [self._attribute(name) for name in self.attributes]
        found, one = self.attribute_scores > 0, self.comparison.one
        decided = np.abs(self.comparison.contributions) * found
        set_apart = self.attribute_scores * (self.class_directions[one] - self.class_directions.mean(axis=0)) * found
        return list(dict.fromkeys(positive_descending(decided) + positive_descending(set_apart)))[:HEAT_MAPS]

    def heat_map(self, attribute: str, expert: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Where an expert found an attribute, on the original picture: height x width, 0..1, with its peak at 1.

        The positive part of the region map, smoothly. It is 0 outside the crop, and everywhere if no region speaks
        for the attribute.

        Args:
            size: (width, height) of the result; default: as the picture.

        Raises:
            ValueError: an unknown attribute or expert, or a model without region attention.
        """
        if self.region_maps is None:
            raise ValueError("This model has no region attention, so there are no heat maps.")
        if expert not in self.experts:
            raise ValueError(f"No expert {expert!r}; the model has {', '.join(self.experts)}.")
        region_map = self.region_maps[self.experts.index(expert), self._attribute(attribute)]
        return place_heat(region_map, self.picture.size, self.crop, size)

    def require_known_names(self) -> None:
        """Raise ValueError if the model does not have a class or attribute that was asked for."""
        self.compare(*self.compared_classes)
        for name in self.attributes:
            self._attribute(name)

    def _class(self, name: str) -> int:
        return find_name(name, self.table.class_names, spoken_class, "class")

    def _attribute(self, name: str) -> int:
        return find_name(name, self.table.attribute_names, spoken, "attribute")


def corrected_values(table: AttributeTable, corrections: Mapping[str, Any]) -> dict[str, float]:
    """Attribute -> true value in the table's scale, of corrections in the words of the table; errors as `correct`."""
    known: dict[str, float] = {}
    for name, value in corrections.items():
        if table.traits is not None:
            known.update(table.encode(as_in_table(table, name), value))
            continue
        if not isinstance(value, int | float | np.number) or not np.isfinite(value):
            raise ValueError(f"The true value of {name!r} is {value!r}; give a number, in the table's scale.")
        known[table.attribute_names[find_name(name, table.attribute_names, spoken, "attribute")]] = float(value)
    return known


def as_in_table(table: AttributeTable, name: str) -> str:
    """What a table with traits calls a column or an attribute that people may name as they say it."""
    names = dict.fromkeys([*(trait["column"] for trait in table.traits or ()), *table.attribute_names])
    said = [each for each in names if spoken(each).casefold() == spoken(str(name)).casefold()]
    return said[0] if len(said) == 1 and name not in names else name


def contributions_of(
    values: Mapping[int, float], scores: np.ndarray, directions: np.ndarray, class_attributes: np.ndarray
) -> dict[int, np.ndarray]:
    """Corrected attribute -> what it adds to the logit of every class, K; the formula is in `Evidence.correct`.

    Args:
        values: attribute -> its true value. scores: A, of the image. directions, class_attributes: K x A.
    """
    if not values:
        return {}
    most = max((np.abs(scores) * np.ptp(directions, axis=0)).max(), (directions @ scores).std())
    columns = {a: class_attributes[:, a].astype(float) for a in values}
    return {a: -most * np.abs(of - values[a]) / (np.ptp(of) or np.inf) for a, of in columns.items()}


def descending_order(values: np.ndarray) -> list[int]:
    """Indices by value, the largest first; equal values keep their order."""
    return np.argsort(-values, kind="stable").tolist()


def positive_descending(values: np.ndarray) -> list[int]:
    """As `descending_order`, without the values that are not positive."""
    return [i for i in descending_order(values) if values[i] > 0]
