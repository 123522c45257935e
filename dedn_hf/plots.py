"""Figures. Pure functions: arrays in, a matplotlib `Figure` out; nothing is shown, and no global state is touched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette, told apart with any colour vision.
VERMILLION, BLUE, GREY = "#D55E00", "#0072B2", "#9A9A9A"
HEAT = LinearSegmentedColormap.from_list("heat", [(*to_rgb(VERMILLION), 0.0), (*to_rgb(VERMILLION), 0.9)])
TEXT_SIZE, TITLE_SIZE = 9, 10


def upsample(region_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """A region map, H x W, to height x width, smoothly."""
    picture = Image.fromarray(np.asarray(region_map, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def heat_of(region_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """What to paint over an image: the positive part of a region map, its peak at 1; zeros where nothing is positive.

    H x W to height x width, values in 0..1.
    """
    positive = upsample(region_map, height, width).clip(min=0)
    return positive / positive.max() if positive.max() > 0 else positive


def draw_heat(axes: Axes, image: np.ndarray, region_map: np.ndarray) -> None:
    """A region map (H x W) over a pale grey version of the image (height x width x 3, 0..1)."""
    axes.imshow(0.25 + 0.7 * image.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
    axes.imshow(heat_of(region_map, *image.shape[:2]), cmap=HEAT, vmin=0, vmax=1)
    without_ticks(axes)


def draw_bars(axes: Axes, names: Sequence[str], scores: Sequence[float]) -> None:
    """Classes and their scores (0..1) as horizontal bars, best first, its bar coloured."""
    places = range(len(names))
    axes.barh(places, scores, color=[BLUE, *[GREY] * (len(names) - 1)], height=0.35)
    for place, name, score in zip(places, names, scores, strict=True):
        axes.text(0, place - 0.28, name, ha="left", va="bottom", fontsize=TEXT_SIZE)
        axes.text(1, place - 0.28, f"{score:.0%}", ha="right", va="bottom", fontsize=TEXT_SIZE)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) - 0.5, -0.9)
    axes.axis("off")


def without_ticks(axes: Axes) -> None:
    """An image has no scales."""
    axes.set_xticks([])
    axes.set_yticks([])


def figure_explaining(
    image: np.ndarray,
    class_names: Sequence[str],
    class_scores: Sequence[float],
    attribute_names: Sequence[str],
    region_maps: np.ndarray,
    experts: Sequence[str] = ("coarse", "fine"),
    title: str | None = None,
) -> Figure:
    """An image, its most likely classes, and where each expert found each of a few attributes.

    Args:
        image: height x width x 3 in 0..1, as the model saw it. class_names, class_scores: best first, scores in 0..1.
        attribute_names: N attributes to show. region_maps: E x N x H x W. experts: E names, one row each.
        title: a sentence above everything.

    Raises:
        ValueError: region maps that do not fit the names.
    """
    region_maps = np.asarray(region_maps)
    rows, columns = len(experts), len(attribute_names)
    if region_maps.ndim != 4 or region_maps.shape[:2] != (rows, columns):
        raise ValueError(f"region_maps has shape {region_maps.shape}, expected ({rows}, {columns}, H, W).")
    figure = Figure(figsize=(2.9 + 1.75 * columns, 0.9 + 1.85 * rows), layout="constrained", dpi=130)
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE + 2)
    left, right = figure.subfigures(1, 2, width_ratios=[2.3, 1.75 * columns])
    picture, bars = left.subplots(2, 1, height_ratios=[3, 2])
    picture.imshow(image)
    picture.set_title("the image", fontsize=TITLE_SIZE)
    without_ticks(picture)
    draw_bars(bars, class_names, class_scores)
    panels = right.subplots(rows, columns, squeeze=False)
    for row, expert in enumerate(experts):
        panels[row, 0].set_ylabel(f"{expert} expert", fontsize=TITLE_SIZE)
        for column, name in enumerate(attribute_names):
            draw_heat(panels[row, column], image, region_maps[row, column])
            if row == 0:
                panels[row, column].set_title(name, fontsize=TITLE_SIZE)
    right.supxlabel("Where each expert found the attribute (orange: strongest)", fontsize=TEXT_SIZE)
    return figure
