"""Do heat maps peak on the part that their attribute describes? The pointing game (Zhang et al., IJCV 2018).

Letters of the shapes: B images, A attributes, E experts, H x W regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dedn_hf.explain.explainer import region_maps_of
from dedn_hf.explain.heat import Box, crop_of

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

Parts = Mapping[str, Sequence[Box]]  # part -> its boxes in one picture, in its pixels; a point is an empty box
CUB_PARTS = {  # how an attribute's name begins -> names in CUB's parts.txt
    "has_bill_": ("beak",),
    "has_eye_": ("left eye", "right eye"),
    "has_forehead_": ("forehead",),
    "has_crown_": ("crown",),
    "has_nape_": ("nape",),
    "has_throat_": ("throat",),
    "has_head_": ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"),
    "has_breast_": ("breast",),
    "has_belly_": ("belly",),
    "has_underparts_": ("belly", "breast", "throat"),
    "has_back_": ("back",),
    "has_upperparts_": ("back", "crown", "left wing", "nape", "right wing"),
    "has_wing_": ("left wing", "right wing"),
    "has_leg_": ("left leg", "right leg"),
    "has_tail_": ("tail",),
    "has_upper_tail_": ("tail",),
    "has_under_tail_": ("tail",),
}


def cub_parts_of(attribute: str) -> tuple[str, ...]:
    """The parts that an attribute of CUB describes; none if it describes the whole bird (size, shape, main colour).

    >>> cub_parts_of("has_bill_shape::hooked")
    ('beak',)
    """
    return next((parts for start, parts in CUB_PARTS.items() if attribute.startswith(start)), ())


def shapes_parts_of(attribute: str) -> tuple[str, ...]:
    """The part that an attribute of `Shapes` describes.

    >>> shapes_parts_of("leg count: two")
    ('legs',)
    """
    part = attribute.split(" ")[0]
    return ("legs" if part == "leg" else part,)


def read_cub_birds(folder: str | Path) -> dict[str, Parts]:
    """Image file -> the box of the whole bird, from images.txt and bounding_boxes.txt in CUB_200_2011.

    Raises FileNotFoundError if one of them is missing.
    """
    files = dict(read_rows(Path(folder) / "images.txt"))
    boxes: dict[str, Parts] = {}
    for number, line in read_rows(Path(folder) / "bounding_boxes.txt"):
        x, y, width, height = map(float, line.split())
        boxes[files[number]] = {"bird": [(x, y, x + width, y + height)]}
    return boxes


def read_cub_parts(folder: str | Path) -> dict[str, Parts]:
    """Image file -> the points of its visible parts, from images.txt, parts/parts.txt and parts/part_locs.txt.

    Raises FileNotFoundError if one of them is missing.
    """
    root = Path(folder)
    files, names = dict(read_rows(root / "images.txt")), dict(read_rows(root / "parts" / "parts.txt"))
    parts: dict[str, dict] = {file: {} for file in files.values()}
    for number, line in read_rows(root / "parts" / "part_locs.txt"):
        part, x, y, visible = line.split()
        if visible == "1":
            parts[files[number]][names[part]] = [(float(x), float(y), float(x), float(y))]
    return dict(parts)


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Each line '1 some text' as ('1', 'some text')."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, text) for number, _, text in (line.strip().partition(" ") for line in lines) if number]


def regions_of(boxes: Iterable[Box], crop: Box, grid: tuple[int, int], margin: float = 0.0) -> np.ndarray:
    """The regions of a feature map that belong to a part: H x W bool.

    These are the regions whose centre lies in a box. A box that is narrower or lower than a region gets the regions
    that hold its middle, so that a small part or a point has a region too. All are False if the part lies outside of
    what the model saw.

    Args:
        boxes: of the part, in pixels of the picture. crop: what the model saw of it, see `heat.crop_box`.
        grid: H and W. margin: how many regions boxes are widened by on every side.
    """
    height, width = grid
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    covered = np.zeros(grid, dtype=bool)
    for left, top, right, bottom in boxes:
        x0, x1 = ((x - crop[0]) / (crop[2] - crop[0]) * width for x in (left, right))
        y0, y1 = ((y - crop[1]) / (crop[3] - crop[1]) * height for y in (top, bottom))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        in_row = (abs(rows - y) <= (y1 - y0) / 2 + margin) | (np.floor(rows) == np.floor(y))
        in_column = (abs(columns - x) <= (x1 - x0) / 2 + margin) | (np.floor(columns) == np.floor(x))
        covered |= in_row[:, None] & in_column
    return covered


def pointing_hits(region_maps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether each region map has its maximum in its target: B x E x A bool; False without a positive value.

    Args:
        region_maps: B x E x A x H x W. targets: B x A x H x W bool.
    """
    flat = region_maps.reshape(*region_maps.shape[:3], -1)
    wanted = targets.reshape(*targets.shape[:2], -1)[:, None]
    peak = flat.argmax(axis=-1)[..., None]
    return np.take_along_axis(np.broadcast_to(wanted, flat.shape), peak, axis=-1)[..., 0] & (flat.max(axis=-1) > 0)


def play_pointing_game(
    model: DEDNForZeroShot,
    pictures: Sequence[Image.Image],
    labels: Sequence[int],
    parts: Sequence[Parts],
    part_names: Sequence[Sequence[str]],
    margin: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Hits and targets of a batch of pictures.

    A pair of picture and attribute counts where the picture's class has the attribute (at least half of the largest
    value in the model's table) and the model saw one of its parts.

    Args:
        pictures: B. labels: B, indices of the model's classes. parts: B. part_names: A, those that each attribute
            describes. margin: see `regions_of`.

    Returns:
        Hits, B x E x A: 1.0 or 0.0, NaN for a pair that does not count. Targets, B x A x H x W bool.

    Raises:
        ValueError: a model without region attention.
    """
    processor, grid = model.image_processor(), tuple(model.config.feature_shape[1:])
    pixel_values = processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(model.device)
    region_maps = region_maps_of(model, pixel_values).float().cpu().numpy()
    targets = np.zeros((len(pictures), len(part_names), *grid), dtype=bool)
    for b, (picture, of_picture) in enumerate(zip(pictures, parts, strict=True)):
        crop = crop_of(model.config, picture)
        covered = {name: regions_of(boxes, crop, grid, margin) for name, boxes in of_picture.items()}
        for a, names in enumerate(part_names):
            for name in names:
                if name in covered:
                    targets[b, a] |= covered[name]
    table = model.class_attributes.cpu().numpy()
    counts = (table[np.asarray(labels)] >= table.max() / 2) & targets.any(axis=(2, 3))
    return np.where(counts[:, None], pointing_hits(region_maps, targets), np.nan), targets


def pointing_accuracy(
    hits: np.ndarray, targets: np.ndarray, groups: Sequence[str], experts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Group (the last is 'all') -> share of hits of each expert, and of two baselines that need no model.

    Args:
        hits, targets: as `play_pointing_game` gives them, for all pictures. groups: A names. experts: E names.

    Returns:
        For each group with a pair that counts: 'pairs', the number of these; and, 0..1, each expert, 'chance' (a
        random region) and 'centre' (always the middle of the picture).
    """
    counts = ~np.isnan(hits[:, 0])
    chance = targets.mean(axis=(2, 3))
    rows, columns = (slice((side - 1) // 2, side // 2 + 1) for side in targets.shape[2:])
    centre = targets[:, :, rows, columns].mean(axis=(2, 3))
    results = {}
    for group in [*dict.fromkeys(groups), "all"]:
        chosen = counts & np.array([group in (name, "all") for name in groups])
        if chosen.any():
            of_experts = {name: float(hits[:, e][chosen].mean()) for e, name in enumerate(experts)}
            shares = {"chance": float(chance[chosen].mean()), "centre": float(centre[chosen].mean())}
            results[group] = {"pairs": int(chosen.sum()), **of_experts, **shares}
    return results
