"""Why a model answered as it did, where it looked, and what would change it: the numbers and their arithmetic.

Everything follows from one equation of the model: logits == attribute_scores @ T^t + class_bias. So what attribute a
adds to the lead of class y over class k is s_a (T_ya - T_ka), and nothing is estimated.

Letters of the shapes: K classes, A attributes, E experts, H x W regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dedn_hf.explain.names import find_name, spoken, spoken_class
from dedn_hf.explain.placement import Box, place_heat
from dedn_hf.modeling.attribute_table import AttributeTable

if TYPE_CHECKING:
    from typing_extensions import Self

SHOWN = 4  # heat maps of each expert, unless attributes are named


@dataclass(frozen=True, eq=False)
class Comparison:
    """Why one class and not another: `contributions.sum() + bias` is the difference of their logits.

    Args:
        one, other: indices of the classes; `other` is None where the model has a single class, whose logit it then is.
        contributions: A, what each attribute adds to the difference; negative speaks for `other`.
        expert_contributions: E x A, the same for each expert alone. Their mean, weighted by
            `Evidence.expert_weights`, is `contributions`.
        bias: what no image changes: seen bias and calibration.
    """

    one: int
    other: int | None
    contributions: np.ndarray
    expert_contributions: np.ndarray
    bias: float

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
        """A bool: the experts pull in opposite directions."""
        return (self.expert_contributions.min(axis=0) < 0) & (self.expert_contributions.max(axis=0) > 0)

    @property
    def agreement(self) -> float:
        """0..1, the share of all that the experts say, by size, which lies in attributes that they do not dispute."""
        sizes = np.abs(self.expert_contributions).sum(axis=0)
        return float(sizes[~self.disputed].sum() / sizes.sum()) if sizes.any() else 1.0

    def strongest(self, count: int) -> list[int]:
        """The attributes that contribute most, in either direction: `count` at most, those of 0 left out."""
        order = np.argsort(-np.abs(self.contributions), kind="stable").tolist()
        return [a for a in order if self.contributions[a]][:count]


@dataclass(frozen=True)
class Trait:
    """An attribute of which the image seems to have much or little, see `Evidence.traits`.

    Args:
        attribute: its index. high: much (True) or little. strength: in logits, 0 or more.
        own: the class's value, in the table's scale. average: the mean over the model's classes.
    """

    attribute: int
    high: bool
    strength: float
    own: float
    average: float

    @property
    def fits(self) -> bool:
        """Whether the class, too, lies on that side of the average."""
        return self.own >= self.average if self.high else self.own <= self.average


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a model made of one image; all numbers are float64.

    Args:
        picture: the original, RGB, upright.
        crop: the part that the model saw, in pixels of the original; beyond it where the model saw a padded border.
        table: the classes and attributes of the model.
        experts: E names. expert_weights: E, their weights in the prediction.
        expert_scores: E x A, attribute scores of each expert as they enter its logits.
        class_directions: K x A, the normalised class attributes T. class_bias: K.
        region_maps: E x A x H x W, or None for a model without region attention.
        asked: names of the class to explain and of the one to compare it with, or None: see `compare`.
        attributes: names of the attributes to show heat maps of; empty: the most telling ones.
        top_k: how many classes to report.
        corrections: attribute name -> value in the table's scale, see `correct`.
        origin: what it was made with: 'image' and 'model' (names, where they have one), 'dedn_hf' (version).
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
    asked: tuple[str | None, str | None] = (None, None)
    attributes: tuple[str, ...] = ()
    top_k: int = 5
    corrections: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    # Classes ------------------------------------------------------------------------------------------------------

    @cached_property
    def class_titles(self) -> list[str]:
        """K, names for people, see `names.spoken_class`; those of the table where two would be alike."""
        titles = [spoken_class(name) for name in self.table.class_names]
        return titles if len(set(titles)) == len(titles) else list(self.table.class_names)

    @property
    def attribute_scores(self) -> np.ndarray:
        """A, as the model gave them, before corrections."""
        return self.expert_weights @ self.expert_scores

    @cached_property
    def expert_logits(self) -> np.ndarray:
        """E x K, what the logits would be if one expert had all the weight (`class_bias` included)."""
        kept = self.expert_scores.copy()
        kept[:, list(self.corrected_votes)] = 0
        return kept @ self.class_directions.T + sum(self.corrected_votes.values()) + self.class_bias

    @property
    def logits(self) -> np.ndarray:
        """K, with the corrections."""
        return self.expert_weights @ self.expert_logits

    @property
    def probabilities(self) -> np.ndarray:
        """K, softmax of the logits."""
        powers = np.exp(self.logits - self.logits.max())
        return powers / powers.sum()

    @cached_property
    def ranking(self) -> list[int]:
        """All K classes, best first."""
        return order_of(self.logits)

    @property
    def uncorrected(self) -> Self:
        """The same without corrections."""
        return replace(self, corrections={})

    def correct(self, corrections: Mapping[str, float]) -> Self:
        """The same image, where somebody knows better: attribute name -> its true value, in the table's scale.

        What attribute a adds to the logit of class k, s_a T_ka, becomes -m |V_ka - v| / (max V_a - min V_a): V_ka is
        the class's value in the table, v the true one. So a class loses in proportion to how far it is off, m at most
        against another class. m is the standard deviation over the classes of what the image adds to their logits, or,
        where that is more, the most that any attribute puts between two classes, max_b |s_b| (max T_b - min T_b). So
        a correction counts, and nothing that the image said of the attribute outweighs it: against a class at the
        other end of the scale, a class with the true value never loses by a correction. All other attributes keep
        their scores. Both experts are corrected alike. Earlier corrections no longer hold.

        Raises:
            ValueError: unknown attribute, a value that is not a finite number.
        """
        known = {}
        for name, value in corrections.items():
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise ValueError(f"The true value of {name!r} is {value!r}; give a number, in the table's scale.")
            known[self.table.attribute_names[self._attribute(name)]] = float(value)
        return replace(self, corrections=known)

    @cached_property
    def corrected_votes(self) -> dict[int, np.ndarray]:
        """Corrected attribute -> what it adds to the logit of every class, K; the formula is in `correct`."""
        if not self.corrections:
            return {}
        scores, directions, votes = self.attribute_scores, self.class_directions, {}
        most = max((np.abs(scores) * np.ptp(directions, axis=0)).max(), (directions @ scores).std())
        for name, value in self.corrections.items():
            a = self._attribute(name)
            values = self.table.class_attributes[:, a].astype(float)
            votes[a] = -most * np.abs(values - value) / (np.ptp(values) or np.inf)
        return votes

    # Why ----------------------------------------------------------------------------------------------------------

    def votes(self, label: int) -> np.ndarray:
        """E x A, what each attribute adds to a class's logit, in each expert alone."""
        votes = self.expert_scores * self.class_directions[label]
        for a, column in self.corrected_votes.items():
            votes[:, a] = column[label]
        return votes

    def compare(self, class_name: str | None = None, against: str | None = None) -> Comparison:
        """Why `class_name` (default: the best class) and not `against` (default: the best of the other classes).

        Raises:
            ValueError: unknown class, or twice the same.
        """
        rival = None if against is None else self._class(against)
        if class_name is not None:
            one = self._class(class_name)
        else:  # "and not the best one?" asks for the class that came next
            one = next(k for k in self.ranking if k != rival or len(self.ranking) == 1)
        if one == rival:
            raise ValueError(f"{class_name!r} and {against!r} are one class; name two.")
        if rival is None:
            rival = next((k for k in self.ranking if k != one), None)
        parts, bias = self.votes(one), self.class_bias[one]
        if rival is not None:
            parts, bias = parts - self.votes(rival), bias - self.class_bias[rival]
        return Comparison(one, rival, self.expert_weights @ parts, parts, float(bias))

    @cached_property
    def comparison(self) -> Comparison:
        """The comparison that was asked for."""
        return self.compare(*self.asked)

    def by_group(self, values: np.ndarray) -> dict[str, float]:
        """The sum of A values over each attribute group, groups in order of first appearance."""
        groups = self.table.attribute_groups or ["all"] * self.table.num_attributes
        sums = dict.fromkeys(groups, 0.0)
        for group, value in zip(groups, values, strict=True):
            sums[group] += float(value)
        return sums

    def traits(self, label: int, count: int = 8) -> list[Trait]:
        """What the image seems to have much or little of, the strongest first, beside the values of a class.

        s_a > 0 speaks for classes with much of attribute a, s_a < 0 for those with little; strength, |s_a| times the
        standard deviation of T_a over the classes, is what it usually puts between two classes. It is the model's
        view and has no scale of its own: a strength is not a percentage, and a weak one is not a middling value.
        A corrected attribute is left out.
        """
        scores, values = self.attribute_scores, self.table.class_attributes
        strengths = np.abs(scores) * self.class_directions.std(axis=0)
        order = [a for a in order_of(strengths) if strengths[a] > 0 and a not in self.corrected_votes][:count]
        return [
            Trait(a, bool(scores[a] > 0), float(strengths[a]), float(values[label, a]), float(values[:, a].mean()))
            for a in order
        ]

    # Where --------------------------------------------------------------------------------------------------------

    @property
    def shown(self) -> list[int]:
        """Indices of the attributes to show heat maps of: those named, or those found (s_a > 0) that decided most.

        Where few decided between two similar classes, those follow that set the first one off from the average class.
        """
        if self.region_maps is None:
            return []
        if self.attributes:
            return [self._attribute(name) for name in self.attributes]
        found, one = self.attribute_scores > 0, self.comparison.one
        decided = np.abs(self.comparison.contributions) * found
        told = self.attribute_scores * (self.class_directions[one] - self.class_directions.mean(axis=0)) * found
        order = [a for a in order_of(decided) if decided[a] > 0] + [a for a in order_of(told) if told[a] > 0]
        return list(dict.fromkeys(order))[:SHOWN]

    def heat_map(self, attribute: str, expert: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Where an expert found an attribute, on the original picture: height x width, 0..1, its peak at 1.

        The positive part of the region map, smoothly; 0 outside the crop, and everywhere if nothing speaks for it.

        Args:
            size: (width, height) of the result; default, the picture's own.

        Raises:
            ValueError: unknown attribute or expert, a model without region attention.
        """
        if self.region_maps is None:
            raise ValueError("This model has no region attention, so there are no heat maps.")
        if expert not in self.experts:
            raise ValueError(f"No expert {expert!r}; the model has {', '.join(self.experts)}.")
        region_map = self.region_maps[self.experts.index(expert), self._attribute(attribute)]
        return place_heat(region_map, self.crop, self.picture.size, size)

    def require_known_names(self) -> None:
        """Raise ValueError where a class or attribute was asked for that the model does not have."""
        self.compare(*self.asked)
        for name in self.attributes:
            self._attribute(name)

    def _class(self, name: str) -> int:
        return find_name(name, self.table.class_names, spoken_class, "class")

    def _attribute(self, name: str) -> int:
        return find_name(name, self.table.attribute_names, spoken, "attribute")


def order_of(values: np.ndarray) -> list[int]:
    """Indices by value, the largest first; equal ones keep their order."""
    return np.argsort(-values, kind="stable").tolist()
