"""The numbers as HTML. Names come from people, so every one is escaped."""

from collections.abc import Sequence
from html import escape

import numpy as np

TOP, FOR, AGAINST = 5, 5, 3  # how many bars
EXPERTS_HINT = (
    '<p class="hint">The coarse expert looks for all attributes at once, the fine one group by group. Orange is where '
    "they found the attribute: the deeper, the more. No orange means that they did not find it. A pooled expert, if "
    "there is one, weighs the whole photo.</p>"
)


def spoken(attribute: str, group: str = "") -> str:
    """An attribute's name for people: 'has_bill_shape::hooked' is 'bill shape: hooked'. Adds a group that it lacks.

    >>> spoken("stripes", "pattern")
    'stripes (pattern)'
    """
    name = attribute.removeprefix("has_").replace("::", ": ").replace("_", " ")
    return name if not group or group == "all" or group.lower() in name.lower() else f"{name} ({group})"


def named(class_name: str) -> str:
    """A class's name as HTML; a long one breaks after an underscore."""
    return escape(class_name).replace("_", "_<wbr>")


def hint(text: str) -> str:
    return f'<p class="hint">{escape(text)}</p>'


def alert(text: str) -> str:
    """A message that screen readers read out at once."""
    return f'<p class="alert" role="alert">{escape(text)}</p>'


def heading(source: str, table) -> str:
    """Title and one sentence about the model."""
    return (
        "<h1>Zero-shot classification by attributes</h1>"
        f"<p>The model <code>{escape(source)}</code> tells {len(table)} classes apart by {table.num_attributes} "
        f"attributes. {int((~table.seen).sum())} of them it knows from a description only. Describe one more, and it "
        "joins at once.</p>"
    )


def ranking(table, order: Sequence[int], scores: np.ndarray, new: int, unknown: str = "") -> str:
    """The best classes and their probabilities, and the new one (index `new`) wherever it stands.

    unknown: why there is no answer, if there is none.
    """
    rows = []
    for place, k in enumerate(order, start=1):
        if place <= TOP or k == new:
            mark = "yours" if k == new else "" if table.seen[k] else "described"
            rows.append(
                f'<li value="{place}" class="{mark}"><span class="name">{named(table.class_names[k])}</span>'
                f'{mark and f"<span class=mark>{mark}</span>"}<span class="number">{scores[k]:.1%}</span>'
                f'<span class="bar" aria-hidden="true"><i style="width:{scores[k]:.1%}"></i></span></li>'
            )
    answer = f'<p class="unknown" role="status"><b>Unknown</b>: {escape(unknown)}.</p>' if unknown else ""
    note = '<p class="hint"><span class="mark">described</span> no photo of this class in training</p>'
    return f'{answer}<ol class="ranking">{"".join(rows)}</ol>{note}'


DIAGRAM = (
    "Left: accuracy of answers by their confidence. Right: accuracy of the surest answers. The text has the numbers."
)


def confidence(sentences: Sequence[str]) -> str:
    """What was measured of the confidence, and how to read the diagram."""
    told = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return (
        f"<h2>Measured after the training, on photos that it had not seen</h2>{told}"
        '<p class="hint">Left: on the dashed line, answers are right as often as their confidence says. Right: what '
        "is right if only the surest answers are kept.</p>"
    )


def place(table, order: Sequence[int], scores: np.ndarray) -> str:
    """Where the new class, the table's last, stands."""
    new = len(table) - 1
    number, score = order.index(new) + 1, scores[new]
    name = named(table.class_names[new])
    return f'<p role="status"><b>{name}</b>: place {number} of {len(table)}, {score:.1%}</p>'


def why(table, attributes: Sequence[str], best: int, other: int, parts: np.ndarray, bias: float) -> str:
    """The attributes that decided, as bars to the right (for the best class) and to the left (for the other)."""
    order = (-parts).argsort(kind="stable").tolist()
    shown = [a for a in order[:FOR] if parts[a] > 0] + [a for a in order[-AGAINST:] if parts[a] < 0]
    widest = max((abs(parts[a]) for a in shown), default=1)
    names, rows = [named(table.class_names[k]) for k in (best, other)], []
    for a in shown:
        values = " vs ".join(f"{value:.3g}" for value in table.class_attributes[[best, other], a])
        side, width = "for" if parts[a] > 0 else "against", abs(parts[a]) / widest
        rows.append(
            f'<li><span class="name">{escape(attributes[a])}</span><span class="values">{values}</span>'
            f'<span class="number">{signed(parts[a])}</span>'
            f'<span class="bar {side}" aria-hidden="true"><i style="width:{width:.1%}"></i></span></li>'
        )
    bonus = f"Bias between classes with and without training photos: {signed(bias)}. " if bias else ""
    return (
        f"<h3>Why {names[0]}, and not {names[1]}?</h3>"
        f'<p class="hint">Blue speaks for {names[0]}, orange for {names[1]}. In grey: their values, before each '
        f'class is scaled to length 1.</p><ul class="why">{"".join(rows)}</ul>'
        f'<p class="hint">All {len(parts)} attributes: {signed(parts.sum())}. {bonus}The logits differ by '
        f"{signed(parts.sum() + bias)}.</p>"
    )


def signed(number: float) -> str:
    """'+1.20', '−0.30', '0.00'."""
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")
