"""An `Explanation` as one HTML page: nothing is loaded from elsewhere, and every name is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from itertools import zip_longest

import numpy as np
from PIL import Image

from dedn_hf.explain.evidence import Comparison, Evidence
from dedn_hf.explain.figures import paint_heat
from dedn_hf.explain.names import spoken
from dedn_hf.explain.report import (
    expert_lines,
    given_corrections,
    impression,
    odds,
    parts_of,
    question,
    ranked,
    sides,
    signed,
    small_picture,
)

STYLE = """
:root { color-scheme: light; --for: #0072b2; --against: #d55e00; --quiet: #555; --line: #ddd; --empty: #eee;
  --text: #111; --page: #fff; }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --for: #56b4e9; --against: #e69138;
  --quiet: #b0b0b0; --line: #444; --empty: #333; --text: #eee; --page: #16181a; } }
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 68rem;
  margin: 0 auto; padding: 1rem;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.columns h2:first-child { margin-top: 0; } .columns { margin-top: 2rem; } h1 + .columns { margin-top: 1rem; }
h3 { font-size: 1rem; } h3::first-letter { text-transform: uppercase; }
.hint { color: var(--quiet); font-size: .9rem; margin: .3rem 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem; }
.photo { position: relative; overflow: hidden; line-height: 0; width: 100%; }
.photo img { width: 100%; }
.photo i { position: absolute; border: 1px dashed #000; outline: 1px solid #fff; box-sizing: border-box; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .9rem; line-height: 1.3; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(10rem, 45%), 1fr)); gap: .75rem; }
.maps figure { max-width: 20rem; } .maps img { max-width: 100%; max-height: 20rem; width: 100%; object-fit: contain;
  object-position: left; }
ul, ol { list-style: none; padding: 0; margin: .5rem 0; }
li { break-inside: avoid; display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; padding: .2rem 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { color: var(--quiet); font-size: .85rem; } li small.why { grid-column: 1 / -1; line-height: 1.3; }
.bar { grid-column: 1 / -1; height: .5rem; background: var(--empty); position: relative; margin-top: .15rem; }
.bar i { position: absolute; top: 0; bottom: 0; background: var(--for); }
.bar.against i { background: var(--against); }
.bar u { position: absolute; left: 50%; height: 100%; border-left: 1px solid var(--text); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid var(--line); }
td, tbody th { vertical-align: top; } tbody th { font-weight: normal; min-width: 6.5rem; }
thead th, thead th.number { vertical-align: bottom; white-space: normal; overflow-wrap: normal; }
summary { cursor: pointer; margin: 1rem 0; font-weight: 600; }
@media (max-width: 30rem) {
  table { font-size: .8rem; } th, td { padding-right: .3rem; }
}
@media print { html { font-size: 11px; } body { padding: 0; max-width: none; } .scroll { overflow: visible; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MAP_SIZE = 300  # pixels of the longer side of a heat map


def as_html(explanation: Evidence) -> str:
    """The page; it takes no script."""
    comparison = explanation.comparison
    title = escape(question(explanation, comparison))
    parts = [
        f"<h1>{title}</h1>",
        f'<div class="columns">{photo(explanation)}<section>{ranking(explanation)}</section></div>',
        corrected(explanation),
        f'<div class="columns"><section>{why(explanation, comparison)}</section>',
        f"<section>{groups(explanation, comparison)}{experts(explanation, comparison)}</section></div>",
        heat_maps(explanation),
        traits(explanation, comparison),
        every_attribute(explanation, comparison),
        origin(explanation),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>{STYLE}</style></head>\n<body><main>\n{chr(10).join(filter(None, parts))}\n</main></body></html>\n"
    )


def photo(explanation: Evidence) -> str:
    """The picture, and a frame around what the model saw."""
    (width, height), (left, top, right, bottom) = explanation.picture.size, explanation.crop
    narrow = f"min(100%, {28 * width / height:.2f}rem)"  # no higher than 28rem
    frame = (
        f"left:{left / width:.2%};top:{top / height:.2%};"
        f"width:{(right - left) / width:.2%};height:{(bottom - top) / height:.2%}"
    )
    picture = image_tag(small_picture(explanation, 800), "the picture that is explained")
    return (
        f'<figure><div class="photo" style="width:{narrow}">{picture}<i style="{frame}"></i></div>'
        "<figcaption>Framed: what the model saw.</figcaption></figure>"
    )


def ranking(explanation: Evidence) -> str:
    """The best classes as bars."""
    rows = [
        f"<li><span>{named(explanation, k)}{'' if row['seen'] else ' <small>(described)</small>'}</span>"
        f'<span class="number">{row["score"]:.1%}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{row["score"]:.1%}"></i></span></li>'
        for k, row in zip(explanation.ranking, ranked(explanation), strict=False)
    ]
    return (
        f"<h2>Best classes</h2><ol>{''.join(rows)}</ol>"
        f'<p class="hint">The {len(explanation.class_titles)} classes share 100 %. Described: the model knows the '
        "class from its attributes only, without a photo in training.</p>"
    )


def corrected(explanation: Evidence) -> str:
    """What somebody corrected, and the ranking before that."""
    if not explanation.corrections:
        return ""
    now = explanation.ranking
    given = escape(given_corrections(explanation))
    rows = [
        [named(explanation, k), f"{row['score']:.1%}", f"{explanation.probabilities[k]:.1%}", str(now.index(k) + 1)]
        for k, row in zip(explanation.uncorrected.ranking, ranked(explanation.uncorrected), strict=False)
    ]
    return (
        f"<section><h2>What the correction changed</h2><p>Corrected: {given}.</p>"
        f"{table('Before and after', ['Best classes before', 'Before', 'After', 'Place after'], rows)}"
        '<p class="hint">A class loses in proportion to how far its own value is from the corrected one.</p>'
        "</section>"
    )


def why(explanation: Evidence, comparison: Comparison) -> str:
    """What adds up to the difference of the logits."""
    pair = [k for k in (comparison.one, comparison.other) if k is not None]
    notes, parts = [], parts_of(explanation, comparison)
    for part in parts:
        values = () if part.attribute is None else explanation.table.class_attributes[pair, part.attribute]
        own = [f" · {named(explanation, k)} {value:.3g}" for k, value in zip(pair, values, strict=False)]
        notes.append(f"picture: {impression(explanation, part.attribute)}{''.join(own)}" if own else "")
    meaning = escape(odds(explanation, comparison))
    hint = (
        "Picture: whether it seems to have much or little of the attribute, or what it was corrected to. Beside that, "
        "the classes' own values, in the scale of the model's table."
    )
    if comparison.bias:
        hint += " The fixed bonus is added for having, or not having, had photos in training, whatever the picture."
    return (
        f"<h2>What decided</h2><p>{escape(sides(explanation, comparison))}. All of it adds up to "
        f"<b>{signed(comparison.difference)}</b>, the difference of the two logits{meaning and ': ' + meaning}.</p>"
        f'{bars([(part.name, part.value) for part in parts], notes)}<p class="hint">{hint}</p>'
    )


def groups(explanation: Evidence, comparison: Comparison) -> str:
    """The same by group of attributes."""
    sums = explanation.by_group(comparison.contributions)
    order = sorted(sums, key=lambda group: -abs(sums[group]))
    return f"<h2>By group</h2>{bars([(spoken(group), sums[group]) for group in order])}"


def experts(explanation: Evidence, comparison: Comparison) -> str:
    """What they would answer alone, and the attributes that they dispute most."""
    lines = "".join(f"<p>{escape(line)}</p>" for line in expert_lines(explanation, comparison))
    sizes = np.abs(comparison.expert_contributions).min(axis=0) * comparison.disputed
    rows = [
        [attribute_of(explanation, a), *map(signed, comparison.expert_contributions[:, a])]
        for a in np.argsort(-sizes, kind="stable")[:5].tolist()
        if signed(sizes[a]) != "0.00"
    ]
    disputes = table("Disputes", ["Disputed most", *explanation.experts], rows) if rows else ""
    return f"<h2>The experts</h2>{lines}{disputes}"


def heat_maps(explanation: Evidence) -> str:
    """One picture for each attribute and expert."""
    if explanation.region_maps is None:
        return '<p class="hint">This model has no region attention, so there are no heat maps.</p>'
    if not explanation.shown:
        return '<p class="hint">No attribute that was found decided anything, so there are no heat maps.</p>'
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
        "Orange regions raised the expert's score of the attribute, the deepest most; at the dark line it is half of "
        "that. They need not be where the part "
        "is: the model learned what goes with a class, not where it lies. Each map has its own scale, so two maps do "
        "not compare. The model did not see what lies outside the frame."
    )
    return f'<section><h2>Where they looked</h2><p class="hint">{hint}</p>{"".join(rows)}</section>'


def traits(explanation: Evidence, comparison: Comparison) -> str:
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
    if not rows:
        return ""  # all classes are alike
    name = named(explanation, comparison.one)
    head = ["Attribute", "Picture", "Strength", name, "All classes", "Fits"]
    hint = (
        "Much or little: whether the picture speaks for classes with a high or a low value. Strength, in logits, is "
        "what that usually puts between two classes; it is not a measurement of the picture. Then the class's own "
        "value, the mean over all classes, and whether the class lies on that side of it."
    )
    title = "What the picture seems to have"
    return f'<section><h2>{title}</h2><p class="hint">{hint}</p>{table(title, head, rows)}</section>'


def every_attribute(explanation: Evidence, comparison: Comparison) -> str:
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
    head = ["Attribute", *(named(explanation, k) for k in pair), "Adds", *map(escape, explanation.experts)]
    title = f"All {len(rows)} attributes"
    return f"<details><summary>{title}</summary>{table(title, head, rows)}</details>"


def origin(explanation: Evidence) -> str:
    """What the page was made with."""
    given = [f"{key} {escape(value)}" for key, value in sorted(explanation.origin.items())]
    return f'<footer class="hint">Made with {", ".join(given)}.</footer>' if given else ""


def bars(values: Sequence[tuple[str, float]], notes: Sequence[str] = ()) -> str:
    """Bars from the middle: to the right for the first class, to the left for the other; notes are HTML already."""
    widest = max((abs(value) for _, value in values), default=0) or 1
    rows = []
    for (name, value), note in zip_longest(values, notes, fillvalue=""):
        width = abs(value) / widest / 2
        side, left = ("for", 0.5) if value >= 0 else ("against", 0.5 - width)
        rows.append(
            f'<li><span>{escape(name)}</span><span class="number">{signed(value)}</span>'
            f'<small class="why">{note}</small><span class="bar {side}" aria-hidden="true"><u></u>'
            f'<i style="left:{left:.1%};width:{width:.1%}"></i></span></li>'
        )
    return f"<ul>{''.join(rows)}</ul>"


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; every column but the first is of numbers or single words."""
    heads = "".join(f'<th scope="col"{" class=number" * (i > 0)}>{cell}</th>' for i, cell in enumerate(head))
    lines = []
    for first, *others in rows:
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{numbers}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def where(heat: np.ndarray) -> str:
    """In words, for who does not see the map."""
    if not heat.any():
        return "not found"
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return f"strongest {100 * row // heat.shape[0]} % from the top and {100 * column // heat.shape[1]} % from the left"


def attribute_of(explanation: Evidence, attribute: int) -> str:
    return escape(spoken(explanation.table.attribute_names[attribute]))


def named(explanation: Evidence, label: int) -> str:
    """A class's name as HTML; a long one breaks after an underscore."""
    return escape(explanation.class_titles[label]).replace("_", "_<wbr>")


def image_tag(image: np.ndarray, description: str) -> str:
    """height x width x 3, 0..1, inside the page."""
    buffer = BytesIO()
    Image.fromarray((255 * image).round().astype(np.uint8)).save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(description)}">'
