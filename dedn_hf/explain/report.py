"""An explanation for readers: as text, as a dict for JSON, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from dedn_hf.explain.evidence import Comparison, Evidence, Trait, descending_order
from dedn_hf.explain.names import spoken
from dedn_hf.modeling.pipeline_dedn import NONE_OF_THESE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 8  # attributes, or groups, before the rest is summed up
PICTURE_SIZE = 400  # pixels of the longer side in figures


def signed(number: float) -> str:
    """'+1.20', '−0.30', '0.00'."""
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def question(explanation: Evidence, comparison: Comparison) -> str:
    """'Why one, and not the other?', after the answer if it is unknown, or new by corrections and not `one`."""
    titles, best = explanation.class_titles, explanation.ranking[0]
    news = best not in (comparison.one, explanation.uncorrected.ranking[0])
    answer = f"The answer is now {titles[best]}. " if news else ""
    if explanation.unknown == NONE_OF_THESE:
        answer = f"Unknown: the picture seems to show none of these classes; most like it is {titles[best]}. "
    elif explanation.unknown:
        probability, needed = explanation.probabilities[best], explanation.min_confidence
        answer = f"Unknown: {titles[best]} has {probability:.1%}, and an answer needs {needed:.1%}. "
    other = "" if comparison.other is None else f", and not {titles[comparison.other]}"
    return f"{answer}Why {titles[comparison.one]}{other}?"


def meaning_of_colours(explanation: Evidence, comparison: Comparison) -> str:
    """What the colours of the bars mean."""
    titles = explanation.class_titles
    other = "against it" if comparison.other is None else f"for {titles[comparison.other]}"
    return f"Blue speaks for {titles[comparison.one]}, orange {other}"


def odds(explanation: Evidence, comparison: Comparison) -> str:
    """What the difference of two logits means for the shares of their classes; '' for a model of one class."""
    if comparison.other is None:
        return ""
    pair = [explanation.class_titles[k] for k in comparison.classes]
    larger, smaller = pair if comparison.difference >= 0 else pair[::-1]
    size = abs(comparison.difference)
    times = "more than a million" if size > np.log(1e6) else f"{np.exp(size):,.{0 if size > np.log(100) else 1}f}"
    return f"the share of {larger} is {times} times that of {smaller}"


def named_attribute(explanation: Evidence, attribute: int) -> str:
    """Its spoken name, marked where the user has corrected it."""
    name = spoken(explanation.table.attribute_names[attribute])
    return f"{name} (corrected)" if attribute in explanation.corrected_contributions else name


def impression(explanation: Evidence, attribute: int) -> str:
    """How much of it the picture seems to have, 'much' or 'little'; or the value to which the user corrected it."""
    name = explanation.table.attribute_names[attribute]
    if name in explanation.corrections:
        return f"{explanation.corrections[name]:g}"
    return "much" if explanation.attribute_scores[attribute] > 0 else "little"


def given_corrections(explanation: Evidence) -> str:
    """'bill color: yellow = 60 (the classes: 0 to 91.2)', one after the other."""
    given = []
    for name, value in explanation.corrections.items():
        values = explanation.table.class_attributes[:, explanation.table.attribute_names.index(name)]
        given.append(f"{spoken(name)} = {value:g} (the classes: {values.min():.3g} to {values.max():.3g})")
    return ", ".join(given)


class Contribution(NamedTuple):
    """Something that adds to the difference of two logits.

    Args:
        value: how much it adds. expert_values: E, how much it adds in each expert alone.
        impression, class_values: of an attribute, see `impression`, and the values of the compared classes; empty for
            a sum and for the bonus.
    """

    name: str
    value: float
    expert_values: np.ndarray
    impression: str = ""
    class_values: Sequence[float] = ()


def main_contributions(explanation: Evidence, comparison: Comparison) -> list[Contribution]:
    """What adds up to the difference: the strongest attributes, the sum of the others, and the bias, if any."""
    strongest = comparison.strongest(BARS)
    values, expert_values = comparison.contributions, comparison.expert_contributions
    found = []
    for a in strongest:
        name, seen = named_attribute(explanation, a), impression(explanation, a)
        class_values = explanation.table.class_attributes[comparison.classes, a].tolist()
        found.append(Contribution(name, float(values[a]), expert_values[:, a], seen, class_values))
    others = np.setdiff1d(np.arange(len(values)), strongest)
    if values[others].any():
        total = float(values[others].sum())
        found.append(Contribution(f"{len(others)} other attributes", total, expert_values[:, others].sum(axis=1)))
    if comparison.bias:
        of_each = np.full(len(explanation.experts), comparison.bias)
        found.append(Contribution("fixed bonus (seen or unseen class)", comparison.bias, of_each))
    return found


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


def small_picture(explanation: Evidence, longer_side: int = PICTURE_SIZE) -> np.ndarray:
    """The picture, made smaller where it is large: height x width x 3, 0..1."""
    picture = explanation.picture.copy()
    picture.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.float32) / 255


def as_text(explanation: Evidence) -> str:
    """The ranking, what decided, and where the experts disagree."""
    comparison, titles = explanation.comparison, explanation.class_titles
    lines = [f"{explanation.probabilities[k]:7.1%}  {titles[k]}" for k in explanation.ranking[: explanation.top_k]]
    if explanation.corrections:
        lines.append(f"Corrected: {given_corrections(explanation)}")
        lines.append(f"Before the correction: {titles[explanation.uncorrected.ranking[0]]}")
    meaning = odds(explanation, comparison)
    lines += [
        "",
        question(explanation, comparison),
        f"The logits differ by {signed(comparison.difference)}{meaning and ': ' + meaning}.",
        "In brackets: what the picture seems to have, and the value of "
        f"{' and of '.join(titles[k] for k in comparison.classes)}.",
    ]
    for each in main_contributions(explanation, comparison):
        alone = ", ".join(map("{} {}".format, explanation.experts, map(signed, each.expert_values)))
        values = ", ".join(f"{value:.3g}" for value in each.class_values)
        seen = f" [{each.impression}; {values}]" if each.impression else ""
        lines.append(f"{signed(each.value):>7}  {each.name}{seen} ({alone})")
    groups = strongest_groups(explanation.by_group(comparison.contributions))
    lines += ["", "By group: " + ", ".join(f"{name} {signed(value)}" for name, value in groups)]
    return "\n".join(lines + expert_sentences(explanation, comparison))


def expert_sentences(explanation: Evidence, comparison: Comparison) -> list[str]:
    """What each expert would answer alone, and on how much of it they agree."""
    sentences = [
        f"The {expert} expert alone would answer {explanation.class_titles[int(logits.argmax())]}; "
        f"the two logits would differ by {signed(lead)}."
        for expert, logits, lead in zip(
            explanation.experts, explanation.expert_logits, comparison.expert_differences, strict=True
        )
    ]
    if len(sentences) > 1:
        disputed, undisputed = int(comparison.disputed.sum()), f"{comparison.agreement:.0%}"
        if disputed and undisputed == "100%":
            undisputed = "more than 99%"
        verb = "dispute none of them" if not disputed else f"pull in opposite directions in {disputed}"
        sentences.append(
            f"Of {len(comparison.contributions)} attributes they {verb}; "
            f"{undisputed} of their contributions, by size, is undisputed."
        )
    return sentences


ABOUT = {
    "image": "size of the upright original, pixels",
    "crop": "left, top, right, bottom of what the model saw, pixels of the original; beyond it: a black border",
    "answer": "the best class, or unknown where its score is below min_confidence, or the picture shows none of these",
    "reason": "why it is unknown",
    "min_confidence": "0..1, as asked for; null: the answer is never unknown",
    "classes": "the best, best first; score: 0..1, over all classes it sums to 1; seen: had photos in training",
    "comparison": "difference: logit of class minus logit of against == sum of the contributions + bias; "
    "contribution: what an attribute adds to it; experts: what it would add in each expert alone; bias: the part that "
    "does not depend on the image; class_value, against_value: of the classes, in the scale of the model's table",
    "experts": "weight in the prediction; class and difference: what each would answer alone",
    "agreement": "0..1, share of the experts' contributions, by size, that lies in attributes they do not dispute",
    "traits": "what the image seems to have; strength: logits that it usually puts between two classes; fits: the "
    "class's value lies on that side of the mean_value of all classes",
    "heat_maps": "regions: attention times value, rows from the top, which divide the crop evenly; above 0: found",
    "corrections": "true values that the user gave; classes_before: the best without them",
    "origin": "names of image and model, version of dedn_hf",
}


def as_dict(explanation: Evidence) -> dict[str, Any]:
    """Everything but the picture, of plain Python types."""
    comparison, names = explanation.comparison, explanation.table.attribute_names
    maps = explanation.region_maps
    data = {
        "about": ABOUT,
        "origin": dict(explanation.origin),
        "image": {"width": explanation.picture.width, "height": explanation.picture.height},
        "crop": list(explanation.crop),
        "answer": explanation.answer,
        "reason": explanation.unknown,
        "min_confidence": explanation.min_confidence,
        "classes": best_classes(explanation),
        "comparison": comparison_as_dict(explanation, comparison),
        "experts": experts_alone(explanation, comparison),
        "agreement": comparison.agreement,
        "traits": [trait_as_dict(trait, names) for trait in explanation.traits(comparison.one)],
        "heat_maps": []
        if maps is None
        else [
            {"attribute": names[a], "expert": expert, "regions": maps[e, a].tolist()}
            for a in explanation.heat_map_attributes
            for e, expert in enumerate(explanation.experts)
        ],
    }
    if explanation.corrections:
        data["corrections"] = dict(explanation.corrections)
        data["classes_before"] = best_classes(explanation.uncorrected)
    return data


def best_classes(explanation: Evidence) -> list[dict[str, Any]]:
    """The best classes, best first."""
    names, seen = explanation.table.class_names, explanation.table.seen
    scores, logits = explanation.probabilities, explanation.logits
    return [
        {"class": names[k], "score": float(scores[k]), "logit": float(logits[k]), "seen": bool(seen[k])}
        for k in explanation.ranking[: explanation.top_k]
    ]


def experts_alone(explanation: Evidence, comparison: Comparison) -> list[dict[str, Any]]:
    """The weight of each expert, and what it would answer alone."""
    names, best = explanation.table.class_names, explanation.expert_logits.argmax(axis=1)
    weights, differences = explanation.expert_weights.tolist(), comparison.expert_differences.tolist()
    return [
        {"expert": expert, "weight": weight, "class": names[k], "difference": difference}
        for expert, weight, k, difference in zip(explanation.experts, weights, best, differences, strict=True)
    ]


def trait_as_dict(trait: Trait, attribute_names: Sequence[str]) -> dict[str, Any]:
    """A trait with the name of its attribute, and 'much' or 'little'."""
    name, image = attribute_names[trait.attribute], "much" if trait.high else "little"
    values = {"strength": trait.strength, "class_value": trait.class_value, "mean_value": trait.mean_value}
    return {"attribute": name, "image": image, **values, "fits": trait.fits}


def comparison_as_dict(explanation: Evidence, comparison: Comparison) -> dict[str, Any]:
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
                "corrected": a in explanation.corrected_contributions,
            }
            for a in descending_order(np.abs(comparison.contributions))
        ],
        "groups": explanation.by_group(comparison.contributions),
    }


def as_figure(explanation: Evidence) -> Figure:
    """See `dedn_hf.explain.figures.figure_comparison`."""
    from dedn_hf.explain.figures import figure_comparison

    comparison, image = explanation.comparison, small_picture(explanation)
    size = image.shape[1::-1]
    scale = np.divide(size, explanation.picture.size)
    titles, attributes = explanation.class_titles, explanation.table.attribute_names
    contributions = main_contributions(explanation, comparison)
    shown = [attributes[a] for a in explanation.heat_map_attributes]
    groups = strongest_groups(explanation.by_group(comparison.contributions))
    lines = [f"{question(explanation, comparison)} The logits differ by {signed(comparison.difference)}"]
    if explanation.corrections:
        lines.append(f"Corrected: {given_corrections(explanation)}")
    lines.append(meaning_of_colours(explanation, comparison))
    return figure_comparison(
        image,
        tuple(np.array(explanation.crop) * [*scale, *scale]),
        [(shortened(titles[k], 24), explanation.probabilities[k]) for k in explanation.ranking[: explanation.top_k]],
        [(fill(shortened(each.name, 50), 26), each.value) for each in contributions],
        {expert: [each.expert_values[e] for each in contributions] for e, expert in enumerate(explanation.experts)},
        [(fill(shortened(name, 30), 16), value) for name, value in groups],
        [fill(shortened(spoken(name), 50), 28) for name in shown],
        {expert: [explanation.heat_map(name, expert, size) for name in shown] for expert in explanation.experts},
        "\n".join(fill(line, 110) for line in lines),
    )
