"""An explanation as one HTML page that loads nothing from elsewhere: the values that `page.html` lays out."""

from __future__ import annotations

import base64
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from PIL import Image

from dedn_hf.explain.evidence import Comparison, Evidence, descending_order
from dedn_hf.explain.heat import paint_heat
from dedn_hf.explain.names import spoken, spoken_class
from dedn_hf.explain.report import (
    as_dict,
    expert_sentences,
    given_corrections,
    main_contributions,
    meaning_of_colours,
    odds,
    question,
    signed,
    small_picture,
    strongest_groups,
)

PICTURE_SIZE, MAP_SIZE = 800, 300  # pixels of the longer side
MOST_DISPUTED = 5  # attributes


def as_html(explanation: Evidence) -> str:
    """The page. It has no scripts, and every name in it is escaped."""
    comparison, titles = explanation.comparison, list(map(breakable, explanation.class_titles))
    groups = explanation.by_group(comparison.contributions)
    return template().render(
        as_dict(explanation),
        title_of=dict(zip(explanation.table.class_names, titles, strict=True)),
        titles=[titles[k] for k in comparison.classes],
        question=question(explanation, comparison),
        colours=meaning_of_colours(explanation, comparison),
        odds=odds(explanation, comparison),
        picture=jpeg(small_picture(explanation, PICTURE_SIZE)),
        corrected=given_corrections(explanation),
        places={explanation.table.class_names[k]: place for place, k in enumerate(explanation.ranking, 1)},
        probabilities=dict(zip(explanation.table.class_names, explanation.probabilities, strict=True)),
        contributions=bars(main_contributions(explanation, comparison)),
        groups=bars(strongest_groups(groups, len(groups))),
        expert_sentences=expert_sentences(explanation, comparison),
        disputes=most_disputed(explanation, comparison),
        heat_pictures=heat_pictures(explanation),
        has_regions=explanation.region_maps is not None,
    )


@cache
def template(name: str = "explain/page.html") -> Template:
    """A page of this package, by its path."""
    loader = PackageLoader("dedn_hf", ".")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "spoken": spoken,
        "spoken_class": spoken_class,
        "signed": signed,
        "percent": "{:.1%}".format,
        "short": "{:.3g}".format,
    }
    return environment.get_template(name)


def breakable(title: str) -> Markup:
    """A class's name as HTML; a long one breaks after an underscore."""
    return escape(title).replace("_", Markup("_<wbr>"))


def bars(items: list) -> list[tuple[Any, float, float]]:
    """Each item (its second field is a value), and left edge and width of its bar, 0..1, which starts at 0.5."""
    widest = max((abs(item[1]) for item in items), default=0) or 1
    widths = [abs(item[1]) / widest / 2 for item in items]
    return [(item, 0.5 if item[1] >= 0 else 0.5 - width, width) for item, width in zip(items, widths, strict=True)]


def most_disputed(explanation: Evidence, comparison: Comparison) -> list[tuple[str, list[float]]]:
    """Attributes for which the experts pull in opposite directions, and what each adds in each expert alone."""
    sizes = np.abs(comparison.expert_contributions).min(axis=0) * comparison.disputed
    chosen = [a for a in descending_order(sizes)[:MOST_DISPUTED] if signed(sizes[a]) != "0.00"]
    names = explanation.table.attribute_names
    return [(names[a], comparison.expert_contributions[:, a].tolist()) for a in chosen]


def heat_pictures(explanation: Evidence) -> dict[str, list[tuple[str, str, str]]]:
    """Expert -> name of an attribute, its heat map as data of an image, and where it is strongest."""
    image, pictures = small_picture(explanation, MAP_SIZE), {}
    names = [explanation.table.attribute_names[a] for a in explanation.heat_map_attributes]
    for expert in explanation.experts:
        heats = [explanation.heat_map(name, expert, image.shape[1::-1]) for name in names]
        pictures[expert] = [
            (name, jpeg(paint_heat(image, heat)), peak_in_words(heat)) for name, heat in zip(names, heats, strict=True)
        ]
    return pictures


def peak_in_words(heat: np.ndarray) -> str:
    """Where a heat map is strongest, for people who do not see it; '' where nothing was found."""
    if not heat.any():
        return ""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return f"strongest {100 * row // heat.shape[0]} % from the top and {100 * column // heat.shape[1]} % from the left"


def jpeg(image: np.ndarray) -> str:
    """height x width x 3, 0..1, as a data URL."""
    buffer = BytesIO()
    Image.fromarray((255 * image).round().astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
