"""Draws the creatures of `Shapes`: body, head, tail and legs on a cluttered background, with each part's exact box.

Creature coordinates: the body's centre is (0, 0), its half-width about 1, the head to the right, y downwards. All
parts are polygons, turned, scaled and moved together, so that boxes follow from the corners.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw

COLOURS = {"red": (214, 44, 44), "green": (44, 166, 66), "blue": (50, 84, 220), "yellow": (236, 200, 40)}
PART_NAMES = ("tail", "legs", "body", "head")  # in drawing order
OUTLINE = (24, 20, 20)
LEG_COLOUR = (58, 44, 38)
OVERSAMPLING = 2
_ANGLES = np.linspace(0, 2 * np.pi, 22, endpoint=False)
_UNIT_DISC = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
BLOBS = {  # closed shapes of half-width about 1 around (0, 0); the wedge points to the left
    "ellipse": _UNIT_DISC,
    "box": np.array([[-0.92, -0.92], [0.92, -0.92], [0.92, 0.92], [-0.92, 0.92]]),
    "wedge": np.array([[-1.25, 0.0], [0.85, -1.1], [0.85, 1.1]]),
}

Pose = Callable[[np.ndarray], np.ndarray]  # from creature to canvas coordinates, N x 2 both


class Creature(NamedTuple):
    """One class: the value of each property."""

    body_shape: str  # "ellipse", "box", "wedge"
    body_colour: str  # a key of COLOURS
    body_pattern: str  # "plain", "stripes", "spots"
    head_shape: str  # "ellipse", "box", "wedge"
    head_colour: str
    tail_form: str  # "stick", "ball", "fork"
    tail_colour: str
    leg_count: str  # "two", "four"


def draw(creature: Creature, rng: np.random.Generator, size: int) -> tuple[Image.Image, dict[str, list[float]]]:
    """A `size` x `size` RGB picture and part name -> [x0, y0, x1, y1] in pixels, all inside the picture.

    `rng` decides background, place, scale, turn, proportions, shades and light; the creature decides everything else.
    """
    canvas_size = size * OVERSAMPLING
    shapes = outlines(creature, rng)
    to_canvas = random_pose([corners for part in PART_NAMES for corners in shapes[part]], rng, canvas_size)
    placed = {part: [to_canvas(corners) for corners in shapes[part]] for part in PART_NAMES}
    canvas = background(rng, canvas_size)
    paint(canvas, creature, placed, to_canvas, rng)
    picture = light(canvas.reduce(OVERSAMPLING), rng)
    boxes = {part: box_of(np.concatenate(placed[part]) / OVERSAMPLING, size) for part in PART_NAMES}
    return picture, boxes


def outlines(creature: Creature, rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Part -> polygons (N x 2, creature coordinates); proportions vary a little from picture to picture."""
    # Head and body are about equally large, so that the area of a colour does not tell which part has it.
    head_centre, head_radius = np.array([1.05, -0.5]), rng.uniform(0.52, 0.8)
    return {
        "body": [BLOBS[creature.body_shape] * [0.9, 0.66] * rng.uniform(0.82, 1.12, 2)],
        "head": [BLOBS[creature.head_shape] * [-head_radius, head_radius] + head_centre],
        "tail": tail(creature.tail_form, rng.uniform(0.9, 1.15)),
        "legs": legs(creature.leg_count, rng.uniform(1.1, 1.35)),
    }


def disc(centre: tuple[float, float], radius: float) -> np.ndarray:
    """A polygon that looks round."""
    return _UNIT_DISC * radius + centre


def bar(start: tuple[float, float], end: tuple[float, float], width: float) -> np.ndarray:
    """The rectangle around the line from `start` to `end`."""
    (x0, y0), (x1, y1) = start, end
    half = width / 2 / math.hypot(x1 - x0, y1 - y0)
    x, y = (y0 - y1) * half, (x1 - x0) * half
    return np.array([[x0 - x, y0 - y], [x1 - x, y1 - y], [x1 + x, y1 + y], [x0 + x, y0 + y]])


def tail(form: str, length: float) -> list[np.ndarray]:
    """The polygons of a tail that points up and away from the body: 'stick', 'ball' or 'fork'."""
    root, tip = (-0.7, 0.05), (-0.9 - 0.85 * length, -0.45)
    if form == "fork":
        return [bar(root, tip, 0.22), bar(root, (tip[0], 0.5), 0.22)]
    if form == "ball":
        return [bar(root, tip, 0.14), disc(tip, 0.34)]
    return [bar(root, tip, 0.26)]


def legs(count: str, length: float) -> list[np.ndarray]:
    """The polygons of 'two' or 'four' legs: bars that reach down to y = `length`."""
    places = (-0.35, 0.45) if count == "two" else (-0.62, -0.22, 0.3, 0.7)
    return [bar((x, 0.2), (x, length), 0.17) for x in places]


def rotation(angle: float) -> np.ndarray:
    """The 2 x 2 matrix that turns row vectors by `angle` (radians)."""
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def random_pose(polygons: list[np.ndarray], rng: np.random.Generator, size: int) -> Pose:
    """A random mirroring, turn, scaling and shift from creature to canvas coordinates; all polygons end up inside."""
    mirror = [[1 - 2 * rng.integers(2)], [1]]
    turn = mirror * rotation(rng.uniform(-1.0, 1.0))
    turned = np.concatenate(polygons) @ turn
    low, extent = turned.min(axis=0), np.ptp(turned, axis=0)
    scale = rng.uniform(0.6, 0.9) * size / extent.max()
    corner = rng.uniform(0.02, 0.98, 2) * (size - extent * scale)
    return lambda corners: (corners @ turn - low) * scale + corner


def paint(canvas: Image.Image, creature: Creature, placed: dict, to_canvas: Pose, rng: np.random.Generator) -> None:
    """Draw the parts from back to front, with the pattern on the body and the eye on the head."""
    pen = ImageDraw.Draw(canvas)
    fill = {
        "tail": shade(creature.tail_colour, rng),
        "legs": LEG_COLOUR,
        "body": shade(creature.body_colour, rng),
        "head": shade(creature.head_colour, rng),
    }
    for part in PART_NAMES:
        for corners in placed[part]:
            pen.polygon(points(corners), fill=fill[part], outline=OUTLINE, width=OVERSAMPLING)
        if part == "body":
            paint_pattern(canvas, creature.body_pattern, placed["body"][0], to_canvas)
    eye = placed["head"][0].mean(axis=0)
    radius = 0.13 * np.ptp(placed["head"][0], axis=0).mean()
    pen.polygon(points(disc(eye, radius)), fill=(250, 250, 250), outline=OUTLINE, width=2)
    pen.polygon(points(disc(eye, radius * 0.5)), fill=OUTLINE)


def paint_pattern(canvas: Image.Image, pattern: str, body: np.ndarray, to_canvas: Pose) -> None:
    """Dark stripes or spots, clipped to the body."""
    if pattern == "plain":
        return
    mask = Image.new("L", canvas.size)
    pen = ImageDraw.Draw(mask)
    if pattern == "stripes":
        marks = [bar((x, -2), (x, 2), 0.2) for x in np.arange(-1.2, 1.3, 0.44)]
    else:
        marks = [disc((x, y), 0.15) for x in np.arange(-1.2, 1.3, 0.46) for y in np.arange(-0.69, 0.9, 0.46)]
    for mark in marks:
        pen.polygon(points(to_canvas(mark)), fill=255)
    inside = Image.new("L", canvas.size)
    ImageDraw.Draw(inside).polygon(points(body), fill=255)
    mask.paste(0, mask=ImageChops.invert(inside))
    canvas.paste(OUTLINE, mask=mask)


def background(rng: np.random.Generator, size: int) -> Image.Image:
    """Smooth random colours with clutter in the creatures' own colours, so that colours alone tell little."""
    noise = rng.integers(60, 235, (5, 5, 3), dtype=np.uint8)
    canvas = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    names, forms = list(COLOURS), list(BLOBS)
    for _ in range(rng.integers(5, 11)):
        turn = rotation(rng.uniform(0, 2 * math.pi))
        corners = BLOBS[forms[rng.integers(3)]] * rng.uniform(0.05, 0.17, 2) @ turn + rng.uniform(0, 1, 2)
        pen.polygon(points(corners * size), fill=shade(names[rng.integers(4)], rng))
    return canvas


def light(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture with random brightness, tint, gradient and noise."""
    values = np.asarray(picture, dtype=np.float32)
    ramp = np.linspace(-1, 1, len(values), dtype=np.float32)
    slope = rng.uniform(-0.2, 0.2, 2)
    gain = (rng.uniform(0.7, 1.1) + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]).astype(np.float32)
    tint = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    noise = rng.standard_normal(values.shape, dtype=np.float32) * 5
    return Image.fromarray(np.clip(values * gain[..., None] * tint + noise, 0, 255).astype(np.uint8))


def shade(colour: str, rng: np.random.Generator) -> tuple[int, ...]:
    """A colour, changed a little at random."""
    change = rng.integers(-22, 23, 3).tolist()
    return tuple(min(max(value + off, 0), 255) for value, off in zip(COLOURS[colour], change, strict=True))


def points(corners: np.ndarray) -> list[float]:
    """Corners (N x 2) in the form that PIL takes: [x, y, x, y, ...]."""
    return corners.ravel().tolist()


def box_of(corners: np.ndarray, size: int) -> list[float]:
    """[x0, y0, x1, y1] of the corners, clipped to the picture."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return np.clip(np.concatenate([low, high]), 0, size).round(2).tolist()
