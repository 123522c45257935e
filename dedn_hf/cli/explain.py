"""dedn explain: why a model answers as it does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from dedn_hf.cli.classify import add_confidence


def add_explain(commands: argparse._SubParsersAction) -> None:
    """dedn explain: why a model answers as it does."""
    parser = commands.add_parser(
        "explain",
        help="say why a model takes a photo for this class and not for another",
        description="Says which attributes decided between the best class and the second best, or two others, by how "
        "much, and where the model looked. Code in the model's folder is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument("image", metavar="PHOTO", help="a file")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class to explain (default: the best one)")
    parser.add_argument("--against", metavar="NAME", help="class to compare it with (default: the best of the others)")
    parser.add_argument(
        "--attribute", dest="attributes", action="append", metavar="NAME", help="show its heat maps; may be repeated"
    )
    parser.add_argument(
        "--set",
        dest="corrections",
        action="append",
        metavar="NAME=VALUE",
        help="correct a trait, as the model's table has it, and see the ranking change; may be repeated",
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        help="keep what --set corrects in this .csv, for dedn classify --corrections: a row for each photo and trait",
    )
    add_confidence(parser)
    parser.add_argument("--top-k", type=int, metavar="N", help="how many classes to report (default 5)")
    parser.add_argument("--out", metavar="FILE", help=".html, .png, .svg or .json (default: a short text)")
    parser.set_defaults(run=run_explain)


def run_explain(
    model: str,
    image: str,
    corrections: Sequence[str] = (),
    out: str | None = None,
    save: str | None = None,
    **given: Any,
) -> None:
    """Print or write the explanation of an image, and keep its corrections. Raises as `dedn_hf.explain.explain`."""
    from dedn_hf.explain import explain
    from dedn_hf.explain.corrections import keep_corrections, require_keepable
    from dedn_hf.explain.explanation import FORMATS
    from dedn_hf.modeling.saving import require_writable
    from dedn_hf.publish.saved import load_model

    if out is not None:
        require_writable(out, FORMATS)  # before the work
    if save is not None:
        if not corrections:
            raise ValueError("--save keeps what --set corrects; give --set NAME=VALUE, too.")
        require_keepable(save, image)
    values = dict(map(attribute_and_value, corrections))
    if len(values) < len(corrections):
        raise ValueError("--set corrects an attribute twice; give one value for each.")
    explanation = explain(load_model(model), image, corrections=values, **given)
    if out is None:
        print(explanation.to_text())
    else:
        explanation.save(out)
        print(f"Wrote {out}")
    if save is not None:
        count = keep_corrections(save, image, explanation, values)
        print(f"Kept in {save}, which holds {count} correction{'s' * (count > 1)} of this photo now.")


def attribute_and_value(text: str) -> tuple[str, float | str]:
    """Split 'name=80' or 'bill=hooked'; the name may contain '='. Raises ValueError for text of another form."""
    from dedn_hf.explain.corrections import given_value

    name, _, value = text.rpartition("=")
    if not name or not value.strip():
        raise ValueError(f"--set {text!r} is not NAME=VALUE; e.g. --set 'bill shape: hooked=80' or --set mass='120 g'")
    return name, given_value(value)
