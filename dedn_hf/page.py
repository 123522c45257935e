"""An `Explanation` as one HTML page: nothing is loaded from elsewhere, and every name is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from dedn_hf.explanation import Comparison, Explanation
from dedn_hf.plots import paint_heat
from dedn_hf.report import expert_lines, parts_of, question, ranked, sides, signed, small_picture, spoken

STYLE = """
:root { color-scheme: light; --for: #0072b2; --against: #d55e00; --quiet: #555; --line: #ddd; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 68rem; margin: 0 auto;
  padding: 1rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.hint { color: var(--quiet); font-size: .9rem; margin: .3rem 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem; }
.photo { position: relative; overflow: hidden; line-height: 0; } .photo img { width: 100%; }
.photo i { position: absolute; border: 1px dashed #000; outline: 1px solid #fff; box-sizing: border-box; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .9rem; line-height: 1.3; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(10rem, 45%), 1fr)); gap: .75rem; }
.maps figure { max-width: 20rem; } .maps img { width: 100%; }
ul, ol { list-style: none; padding: 0; margin: .5rem 0; }
li { break-inside: avoid; display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; padding: .2rem 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { grid-column: 1 / -1; height: .5rem; background: #eee; position: relative; }
.bar i { position: absolute; top: 0; bottom: 0; background: var(--for); }
.bar.against i { background: var(--against); }
.bar u { position: absolute; left: 50%; height: 100%; border-left: 1px solid #111; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; overflow-wrap: break-word; } th, th.number { vertical-align: bottom; white-space: normal; }
th, td:first-child { overflow-wrap: normal; } td:first-child { min-width: 6.5rem; }
summary { cursor: pointer; margin: 1rem 0; font-weight: 600; }
@media (max-width: 30rem) {
  table { font-size: .8rem; } th, td { padding-right: .3rem; } td:first-child { min-width: 5rem; }
}
@media print { html { font-size: 11px; } body { padding: 0; max-width: none; } .scroll { overflow: visible; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MAP_SIZE = 300  # pixels of the longer side of a heat map


def as_html(explanation: Explanation) -> str:
    """The page; it takes no script."""
    comparison = explanation.comparison
    title = escape(question(explanation, comparison))
    parts = [
        f"<h1>{named(question(explanation, comparison))}</h1>",
        f'<div class="columns">{photo(explanation)}<section>{ranking(explanation)}</section></div>',
        corrected(explanation),
        f'<div class="columns"><section>{why(explanation, comparison)}</section>',
        f"<section>{groups(explanation, comparison)}{experts(explanation, comparison)}</section></div>",
        heat_maps(explanation),
        traits(explanation, comparison),
        every_attribute(explanation, comparison),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>{STYLE}</style></head>\n<body><main>\n{chr(10).join(filter(None, parts))}\n</main></body></html>\n"
    )


def photo(explanation: Explanation) -> str:
    """The picture, and a frame around what the model saw."""
    (width, height), (left, top, right, bottom) = explanation.picture.size, explanation.crop
    frame = (
        f"left:{left / width:.2%};top:{top / height:.2%};"
        f"width:{(right - left) / width:.2%};height:{(bottom - top) / height:.2%}"
    )
    picture = image_tag(small_picture(explanation, 800), "the picture that is explained")
    return (
        f'<figure><div class="photo">{picture}<i style="{frame}"></i></div>'
        "<figcaption>Framed: what the model saw.</figcaption></figure>"
    )


def ranking(explanation: Explanation) -> str:
    """The best classes as bars."""
    rows = [
        f"<li><span>{named(row['class'])}{'' if row['seen'] else ' <small>(described)</small>'}</span>"
        f'<span class="number">{row["score"]:.1%}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{row["score"]:.1%}"></i></span></li>'
        for row in ranked(explanation)
    ]
    return (
        f"<h2>Best classes</h2><ol>{''.join(rows)}</ol>"
        '<p class="hint">Shares of all classes together. Described: the model knows it from its attributes only, '
        "without a photo in training.</p>"
    )


def corrected(explanation: Explanation) -> str:
    """What somebody corrected, and the ranking before that."""
    if not explanation.corrections:
        return ""
    now = explanation.ranking
    given = ", ".join(f"{escape(spoken(name))} = {value:g}" for name, value in explanation.corrections.items())
    rows = [
        [named(row["class"]), f"{row['score']:.1%}", f"{explanation.probabilities[k]:.1%}", str(now.index(k) + 1)]
        for k, row in zip(explanation.uncorrected.ranking, ranked(explanation.uncorrected), strict=False)
    ]
    return (
        f"<section><h2>After a correction: {given}</h2>"
        f"{table(['Best classes before', 'Before', 'After', 'Place after'], rows)}"
        '<p class="hint">A class loses in proportion to how far its own value is from the corrected one.</p>'
        "</section>"
    )


def why(explanation: Explanation, comparison: Comparison) -> str:
    """What adds up to the difference of the logits."""
    parts = [(name, value) for name, value, _ in parts_of(explanation, comparison)]
    return (
        f"<h2>What decided</h2><p>{escape(sides(explanation, comparison))}. All of it adds up to "
        f"<b>{signed(comparison.difference)}</b>, the difference of the two logits.</p>{bars(parts)}"
    )


def groups(explanation: Explanation, comparison: Comparison) -> str:
    """The same by group of attributes."""
    sums = explanation.by_group(comparison.contributions)
    order = sorted(sums, key=lambda group: -abs(sums[group]))
    return f"<h2>By group</h2>{bars([(spoken(group), sums[group]) for group in order])}"


def experts(explanation: Explanation, comparison: Comparison) -> str:
    """What they would answer alone, and the attributes that they dispute most."""
    lines = "".join(f"<p>{escape(line)}</p>" for line in expert_lines(explanation, comparison))
    sizes = np.abs(comparison.expert_contributions).min(axis=0) * comparison.disputed
    rows = [
        [attribute_of(explanation, a), *map(signed, comparison.expert_contributions[:, a])]
        for a in np.argsort(-sizes, kind="stable")[:5].tolist()
        if sizes[a]
    ]
    disputes = table(["Disputed most", *explanation.experts], rows) if rows else ""
    return f"<h2>The experts</h2>{lines}{disputes}"


def heat_maps(explanation: Explanation) -> str:
    """One picture for each attribute and expert."""
    if explanation.region_maps is None:
        return '<p class="hint">This model has no region attention, so there are no heat maps.</p>'
    image, rows = small_picture(explanation, MAP_SIZE), []
    for expert in explanation.experts:
        cells = []
        for a in explanation.shown:
            heat = explanation.heat_map(explanation.table.attribute_names[a], expert, image.shape[1::-1])
            name, note = attribute_of(explanation, a), "" if heat.any() else " (not found)"
            picture = image_tag(
                paint_heat(image, heat), f"{spoken(explanation.table.attribute_names[a])}: {where(heat)}"
            )
            cells.append(f"<figure>{picture}<figcaption>{name}{note}</figcaption></figure>")
        rows.append(f'<h3>{escape(expert)} expert</h3><div class="maps">{"".join(cells)}</div>')
    hint = (
        "Orange is where the expert found the attribute, deepest where it was strongest. Each map has its own scale, "
        "so two maps do not compare. The model did not see what lies outside the frame."
    )
    return f'<section><h2>Where they looked</h2><p class="hint">{hint}</p>{"".join(rows)}</section>'


def traits(explanation: Explanation, comparison: Comparison) -> str:
    """What the image seems to have, beside the class's own values."""
    rows = [
        [
            attribute_of(explanation, trait.attribute),
            "much" if trait.high else "little",
            f"{trait.strength:.2f}",
            f"{trait.own:.3g}",
            f"{trait.average:.3g}",
            "yes" if trait.fits else "no",
        ]
        for trait in explanation.traits(comparison.one)
    ]
    head = ["Attribute", "Picture", "Strength", "Class", "Mean", "Fits"]
    hint = (
        "Much or little: whether the picture speaks for classes with a high or a low value. Strength, in logits, is "
        "what that usually puts between two classes; it is not a measurement of the picture. Then the value of "
        f"{named(explanation.table.class_names[comparison.one])}, the mean over all classes, and whether the class "
        "lies on the same side of it."
    )
    return f'<section><h2>What the picture seems to have</h2>{table(head, rows)}<p class="hint">{hint}</p></section>'


def every_attribute(explanation: Explanation, comparison: Comparison) -> str:
    """All contributions, folded away."""
    table_, pair = explanation.table, [k for k in (comparison.one, comparison.other) if k is not None]
    rows = [
        [
            attribute_of(explanation, a),
            *(f"{table_.class_attributes[k, a]:.3g}" for k in pair),
            signed(comparison.contributions[a]),
            *map(signed, comparison.expert_contributions[:, a]),
        ]
        for a in np.argsort(-np.abs(comparison.contributions), kind="stable").tolist()
    ]
    head = ["Attribute", *(named(table_.class_names[k]) for k in pair), "Adds", *map(escape, explanation.experts)]
    return f"<details><summary>All {len(rows)} attributes</summary>{table(head, rows)}</details>"


def bars(values: Sequence[tuple[str, float]]) -> str:
    """Bars from the middle: to the right for the first class, to the left for the other."""
    widest = max((abs(value) for _, value in values), default=0) or 1
    rows = []
    for name, value in values:
        width = abs(value) / widest / 2
        side, left = ("for", 0.5) if value >= 0 else ("against", 0.5 - width)
        rows.append(
            f'<li><span>{escape(name)}</span><span class="number">{signed(value)}</span>'
            f'<span class="bar {side}" aria-hidden="true"><u></u>'
            f'<i style="left:{left:.1%};width:{width:.1%}"></i></span></li>'
        )
    return f"<ul>{''.join(rows)}</ul>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; every column but the first is of numbers or single words."""

    def line(cells: Iterable[str], tag: str) -> str:
        first, *others = cells
        numbers = "".join(f'<{tag} class="number">{cell}</{tag}>' for cell in others)
        return f"<tr><{tag}>{first}</{tag}>{numbers}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'
    )


def where(heat: np.ndarray) -> str:
    """In words, for who does not see the map."""
    if not heat.any():
        return "not found"
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return f"strongest {100 * row // heat.shape[0]} % from the top and {100 * column // heat.shape[1]} % from the left"


def attribute_of(explanation: Explanation, attribute: int) -> str:
    return escape(spoken(explanation.table.attribute_names[attribute]))


def named(class_name: str) -> str:
    """A class's name as HTML; a long one breaks after an underscore."""
    return escape(class_name).replace("_", "_<wbr>")


def image_tag(image: np.ndarray, description: str) -> str:
    """height x width x 3, 0..1, inside the page."""
    buffer = BytesIO()
    Image.fromarray((255 * image).round().astype(np.uint8)).save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(description)}">'
