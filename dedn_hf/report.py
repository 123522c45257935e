"""An `Explanation` for readers: as text, as a dict for JSON, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from dedn_hf.explanation import Comparison, Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 8  # attributes, or groups, before the rest is summed up
PICTURE_SIZE = 400  # pixels of the longer side in figures


def spoken(attribute: str) -> str:
    """An attribute's name for people.

    >>> spoken("has_bill_shape::hooked")
    'bill shape: hooked'
    """
    return attribute.removeprefix("has_").replace("::", ": ").replace("_", " ")


def signed(number: float) -> str:
    """'+1.20', '−0.30', '0.00'."""
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def question(explanation: Explanation, comparison: Comparison) -> str:
    """'Why one, and not the other?'"""
    names = explanation.table.class_names
    other = "" if comparison.other is None else f", and not {names[comparison.other]}"
    return f"Why {names[comparison.one]}{other}?"


def sides(explanation: Explanation, comparison: Comparison) -> str:
    """What the colours of the bars mean."""
    names = explanation.table.class_names
    other = "against it" if comparison.other is None else f"for {names[comparison.other]}"
    return f"Blue speaks for {names[comparison.one]}, orange {other}"


def named_attribute(explanation: Explanation, attribute: int) -> str:
    """Its spoken name, marked where the user has corrected it."""
    name = spoken(explanation.table.attribute_names[attribute])
    return f"{name} (corrected)" if attribute in explanation.corrected_votes else name


class Part(NamedTuple):
    """Something that adds to the difference of two logits: how much, and how much in each expert alone (E)."""

    name: str
    value: float
    of_experts: np.ndarray


def parts_of(explanation: Explanation, comparison: Comparison) -> list[Part]:
    """What adds up to the difference: the strongest attributes, the sum of the others, the bias if there is one."""
    chosen = comparison.strongest(BARS)
    values, of_experts = comparison.contributions, comparison.expert_contributions
    parts = [Part(named_attribute(explanation, a), float(values[a]), of_experts[:, a]) for a in chosen]
    others = np.setdiff1d(np.arange(len(values)), chosen)
    if values[others].any():
        name = f"{len(others)} other attributes"
        parts.append(Part(name, float(values[others].sum()), of_experts[:, others].sum(axis=1)))
    if comparison.bias:
        of_each = np.full(len(explanation.experts), comparison.bias)
        parts.append(Part("bias (seen or unseen)", comparison.bias, of_each))
    return parts


def strongest_groups(groups: Mapping[str, float], count: int = BARS) -> list[tuple[str, float]]:
    """The groups with the largest sums, in either direction, and the sum of the others."""
    order = sorted(groups, key=lambda group: -abs(groups[group]))
    kept = [(spoken(group), groups[group]) for group in order[:count]]
    if len(order) > count:
        kept.append((f"{len(order) - count} other groups", sum(groups[group] for group in order[count:])))
    return kept


def shortened(name: str, length: int = 36) -> str:
    """A name that leaves room for a chart."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def small_picture(explanation: Explanation, longer_side: int = PICTURE_SIZE) -> np.ndarray:
    """The picture, made smaller where it is large: height x width x 3, 0..1."""
    picture = explanation.picture.copy()
    picture.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.float32) / 255


def as_text(explanation: Explanation) -> str:
    """Ranking, what decided, and what the experts think of each other's reasons."""
    comparison, names = explanation.comparison, explanation.table.class_names
    lines = [f"{explanation.probabilities[k]:7.1%}  {names[k]}" for k in explanation.ranking[: explanation.top_k]]
    if explanation.corrections:
        lines.append(f"Before the correction: {names[explanation.uncorrected.ranking[0]]}")
    lines += ["", f"{question(explanation, comparison)} The logits differ by {signed(comparison.difference)}:"]
    for name, value, of_experts in parts_of(explanation, comparison):
        alone = ", ".join(f"{e} {signed(v)}" for e, v in zip(explanation.experts, of_experts, strict=True))
        lines.append(f"{signed(value):>7}  {name} ({alone})")
    groups = strongest_groups(explanation.by_group(comparison.contributions))
    lines += ["", "By group: " + ", ".join(f"{name} {signed(value)}" for name, value in groups)]
    lines += expert_lines(explanation, comparison)
    return "\n".join(lines)


def expert_lines(explanation: Explanation, comparison: Comparison) -> list[str]:
    """What each expert would answer alone, and on how much of it they agree."""
    names, lines = explanation.table.class_names, []
    for expert, logits, lead in zip(
        explanation.experts, explanation.expert_logits, comparison.expert_differences, strict=True
    ):
        lines.append(
            f"The {expert} expert alone would answer {names[int(logits.argmax())]}; "
            f"the two logits would differ by {signed(lead)}."
        )
    if len(lines) > 1:
        disputed = int(comparison.disputed.sum())
        verb = "dispute none of them" if not disputed else f"pull in opposite directions in {disputed}"
        lines.append(
            f"Of {len(comparison.contributions)} attributes they {verb}; "
            f"{comparison.agreement:.0%} of what they say, by size, is undisputed."
        )
    return lines


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """Everything but the picture, of plain Python types."""
    comparison, table = explanation.comparison, explanation.table
    data = {
        "image": {"width": explanation.picture.width, "height": explanation.picture.height},
        "crop": list(explanation.crop),
        "classes": ranked(explanation),
        "comparison": compared(explanation, comparison),
        "experts": [
            {
                "expert": expert,
                "weight": float(weight),
                "class": table.class_names[int(logits.argmax())],
                "difference": float(difference),
            }
            for expert, weight, logits, difference in zip(
                explanation.experts,
                explanation.expert_weights,
                explanation.expert_logits,
                comparison.expert_differences,
                strict=True,
            )
        ],
        "agreement": comparison.agreement,
        "traits": [
            {
                "attribute": table.attribute_names[trait.attribute],
                "image": "much" if trait.high else "little",
                "strength": trait.strength,
                "class_value": trait.own,
                "mean_value": trait.average,
                "fits": trait.fits,
            }
            for trait in explanation.traits(comparison.one)
        ],
        "heat_maps": [
            {
                "attribute": table.attribute_names[a],
                "expert": expert,
                "regions": explanation.region_maps[e, a].tolist(),
            }
            for a in explanation.shown
            for e, expert in enumerate(explanation.experts)
        ],
    }
    if explanation.corrections:
        data["corrections"] = dict(explanation.corrections)
        data["classes_before"] = ranked(explanation.uncorrected)
    return data


def ranked(explanation: Explanation) -> list[dict[str, Any]]:
    """The best classes, best first."""
    return [
        {
            "class": explanation.table.class_names[k],
            "score": float(explanation.probabilities[k]),
            "logit": float(explanation.logits[k]),
            "seen": bool(explanation.table.seen[k]),
        }
        for k in explanation.ranking[: explanation.top_k]
    ]


def compared(explanation: Explanation, comparison: Comparison) -> dict[str, Any]:
    """The contribution of every attribute, the strongest first, and the sums."""
    table, (one, other) = explanation.table, (comparison.one, comparison.other)
    groups = table.attribute_groups or ["all"] * table.num_attributes
    return {
        "class": table.class_names[one],
        "against": None if other is None else table.class_names[other],
        "difference": comparison.difference,
        "bias": comparison.bias,
        "attributes": [
            {
                "attribute": table.attribute_names[a],
                "group": groups[a],
                "contribution": float(comparison.contributions[a]),
                "experts": dict(zip(explanation.experts, comparison.expert_contributions[:, a].tolist(), strict=True)),
                "disputed": bool(comparison.disputed[a]),
                "class_value": float(table.class_attributes[one, a]),
                "against_value": None if other is None else float(table.class_attributes[other, a]),
                "corrected": a in explanation.corrected_votes,
            }
            for a in np.argsort(-np.abs(comparison.contributions), kind="stable").tolist()
        ],
        "groups": explanation.by_group(comparison.contributions),
    }


def as_figure(explanation: Explanation) -> Figure:
    """See `dedn_hf.plots.figure_comparison`."""
    from dedn_hf.plots import figure_comparison

    comparison, image = explanation.comparison, small_picture(explanation)
    size = image.shape[1::-1]
    scale = np.divide(size, explanation.picture.size)
    names, attributes = explanation.table.class_names, explanation.table.attribute_names
    parts, shown = parts_of(explanation, comparison), [attributes[a] for a in explanation.shown]
    groups = strongest_groups(explanation.by_group(comparison.contributions))
    return figure_comparison(
        image,
        tuple(np.array(explanation.crop) * [*scale, *scale]),
        [(shortened(names[k], 24), explanation.probabilities[k]) for k in explanation.ranking[: explanation.top_k]],
        [(shortened(part.name), part.value) for part in parts],
        {expert: [part.of_experts[e] for part in parts] for e, expert in enumerate(explanation.experts)},
        [(shortened(name, 24), value) for name, value in groups],
        [shortened(spoken(name), 28) for name in shown],
        {expert: [explanation.heat_map(name, expert, size) for name in shown] for expert in explanation.experts},
        fill(f"{question(explanation, comparison)} The logits differ by {signed(comparison.difference)}", 110),
        fill(sides(explanation, comparison), 60),
    )
