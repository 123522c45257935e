"""Can a model tell a picture of something else from photos of its classes? AUROC of several scores, and what it says.

    python benchmarks/none_of_these.py MODEL --photos PHOTOS --others holiday-photos --textures 60 --creatures 120
    python benchmarks/none_of_these.py runs/quickstart --data shapes --others birds --textures 60

The photos of the model's classes are those that `dedn evaluate` tests on. The area under the ROC curve is that of
these photos, of seen and of unseen classes, against each kind of other pictures: 1 tells them all, 0.5 is guessing.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import report
from PIL import Image

from dedn_hf.data import load
from dedn_hf.data.shapes import render
from dedn_hf.data.testing import photos_to_test
from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot
from dedn_hf.modeling.pipeline_dedn import open_image
from dedn_hf.publish.saved import load_model
from dedn_hf.studies.visibility import area_under_roc

BATCH, SIZE = 32, 224


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a saved model")
    known = parser.add_mutually_exclusive_group(required=True)
    known.add_argument("--photos", help="folder of class folders, as of dedn evaluate")
    known.add_argument("--data", help="in its place: shapes")
    parser.add_argument("--others", nargs="+", default=[], metavar="FOLDER", help="pictures of other subjects")
    parser.add_argument("--most", type=int, default=200, help="pictures of a folder (default 200, drawn at random)")
    parser.add_argument("--textures", type=int, default=0, help="so many noises, blurs, waves, boards, slopes, plains")
    parser.add_argument("--creatures", type=int, default=0, help="so many drawn creatures")
    return parser.parse_args()


# Pictures ------------------------------------------------------------------------------------------------------------


def texture(number: int) -> Image.Image:
    """Noise, a blur, waves, a chess board, a slope or a plain, in two colours."""
    random, kind = np.random.default_rng(number), number % 6
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    angle, count = random.uniform(0, 2 * np.pi), random.integers(3, 20)
    across = columns * np.cos(angle) + rows * np.sin(angle)
    if kind == 0:
        share = random.random((SIZE, SIZE))
    elif kind == 1:
        small = Image.fromarray(random.integers(0, 256, (count, count), dtype=np.uint8))
        share = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) / 255
    elif kind == 2:
        share = (np.sin(2 * np.pi * count * across) + 1) / 2
    elif kind == 3:
        share = (np.floor(columns * count) + np.floor(rows * count)) % 2
    elif kind == 4:
        share = (across - across.min()) / np.ptp(across)
    else:
        share = np.full((SIZE, SIZE), 0.5)
    one, other = random.uniform(0, 255, (2, 3))
    return Image.fromarray((one * share[..., None] + other * (1 - share[..., None])).astype(np.uint8))


def pictures_in(folder: str, most: int) -> list[Path]:
    """Some pictures of a folder and of the folders in it, always the same."""
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in kinds)
    return [found[i] for i in sorted(np.random.default_rng(0).permutation(len(found))[:most])]


def known_pictures(arguments: argparse.Namespace, model: DEDNForZeroShot) -> dict[str, list]:
    """Test photos of seen and of unseen classes."""
    if arguments.data:
        splits, _ = load(arguments.data)
    else:
        splits, _ = photos_to_test(arguments.photos, model.attribute_table)
    parts = {"seen": splits["test_seen"], "unseen": splits["test_unseen"]}
    return {name: [row["image"] for row in part] for name, part in parts.items() if len(part)}


def other_pictures(arguments: argparse.Namespace) -> dict[str, list]:
    """Pictures that show none of the classes, by kind."""
    found: dict[str, list] = {Path(folder).name: pictures_in(folder, arguments.most) for folder in arguments.others}
    if arguments.textures:
        found["textures"] = [texture(number) for number in range(arguments.textures)]
    if arguments.creatures:
        found["creatures"] = [render(number % 40, number)[0] for number in range(arguments.creatures)]
    return found


# Scores --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def scores_of(model: DEDNForZeroShot, pictures: Sequence[Any], seen_only: bool = False) -> dict[str, np.ndarray]:
    """Name -> N numbers, which should be high for pictures of the classes; and what the model says.

    seen_only: the unseen classes do not compete.
    """
    processor, parts = model.image_processor(), []
    for start in range(0, len(pictures), BATCH):
        images = [
            open_image(each if isinstance(each, Image.Image) else str(each)) for each in pictures[start:][:BATCH]
        ]
        parts.append(model.score_attributes(processor(images=images, return_tensors="pt")["pixel_values"]))
    attribute_scores = torch.cat(parts)
    kept = model.seen if seen_only else torch.ones_like(model.seen)
    logits = model.score_classes(attribute_scores)[:, kept]
    best, lengths = logits.amax(dim=1), attribute_scores.norm(dim=1)
    weight = (model.config.none_of_these or [0.0, 0.0])[0]
    found = {
        "probability": model.probabilities(logits).amax(dim=1),
        "best logit": best,
        "energy": (logits / model.config.temperature).logsumexp(dim=1),
        "best logit without constants": (logits - model.class_bias(model.seen)[kept]).amax(dim=1),
        "length of attribute scores": lengths,
        "best logit and length": best + weight * lengths,
        "says none of these": model.config.shows_none(best, lengths),
    }
    return {name: values.numpy() for name, values in found.items()}


def against(known: np.ndarray, other: np.ndarray, area: Callable = area_under_roc) -> float:
    """The area under the ROC curve of the known against the others."""
    return area(np.concatenate([known, other]), np.arange(len(known) + len(other)) < len(known))


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    model = load_model(arguments.model).eval()
    pictures = known_pictures(arguments, model)
    known = {name: scores_of(model, each) for name, each in pictures.items()}
    others = {name: scores_of(model, pictures) for name, pictures in other_pictures(arguments).items()}
    said = "says none of these"
    rows = [
        {
            "score": score,
            **{f"{a} / {b}": float(against(known[a][score], others[b][score])) for a in known for b in others},
        }
        for score in next(iter(known.values()))
        if score != said
    ]
    if "unseen" in pictures:  # pictures that are hard to tell: of classes that are like those of the model
        alike = {name: scores_of(model, each, seen_only=True) for name, each in pictures.items()}
        for row in rows:
            row["seen / unseen, left out"] = float(against(alike["seen"][row["score"]], alike["unseen"][row["score"]]))
        others["unseen, left out"] = alike["unseen"]
    name = f"none-of-these-{Path(arguments.model).name}"
    shares = {kind: f"{of[said].mean():.1%} of {len(of[said])}" for kind, of in {**known, **others}.items()}
    report(name, rows, note=f"taken for none of these: {shares}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"none_of_these.py: {error}")
