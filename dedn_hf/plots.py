"""Figures. Pure functions: arrays in, a matplotlib `Figure` out; nothing is shown, and no global state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Okabe and Ito's palette, told apart with any colour vision.
VERMILLION, BLUE, GREY = "#D55E00", "#0072B2", "#9A9A9A"
GREEN, BLACK = "#009E73", "#000000"
HEAT = LinearSegmentedColormap.from_list("heat", [(*to_rgb(VERMILLION), 0.0), (*to_rgb(VERMILLION), 0.9)])
TEXT_SIZE, TITLE_SIZE = 9, 10
ACCURACY_STYLES = {"T1": (GREEN, "^"), "U": (VERMILLION, "o"), "S": (BLUE, "s"), "H": (BLACK, "D")}


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


def draw_accuracies(axes: Axes, epochs: Sequence[dict]) -> None:
    """T1, U, S and H, in percent, of the epochs that were evaluated."""
    evaluated = [epoch for epoch in epochs if "H" in epoch]
    for name, (colour, marker) in ACCURACY_STYLES.items():
        scores = [100 * epoch[name] for epoch in evaluated]
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 2 if name == "H" else 1.2}
        every = max(1, len(evaluated) // 20)  # more markers than that would run into each other
        axes.plot([epoch["epoch"] for epoch in evaluated], scores, label=name, markevery=every, clip_on=False, **style)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy (%)", fontsize=TEXT_SIZE)


def figure_training(phases: Mapping[str, Sequence[dict]], chosen: Mapping[str, int] | None = None) -> Figure:
    """Loss and accuracies over the epochs, one row for each phase of a training run.

    Args:
        phases: title -> epochs as `run` records them: dicts with 'epoch' (1, 2, ...), 'loss' and, where evaluated,
            'T1', 'U', 'S' and 'H' (0..1). chosen: title -> the epoch that was chosen there, marked by a line.

    Raises:
        ValueError: no phase, or one without an epoch.
    """
    if not phases or not all(phases.values()):
        raise ValueError("There is nothing to draw: give at least one phase, each with at least one epoch.")
    figure = Figure(figsize=(8, 0.4 + 2.3 * len(phases)), layout="constrained", dpi=110)
    panels = figure.subplots(len(phases), 2, squeeze=False)
    for (losses, accuracies), (title, epochs) in zip(panels, phases.items(), strict=True):
        mark = "." if len(epochs) <= 40 else None
        losses.plot([e["epoch"] for e in epochs], [e["loss"] for e in epochs], color=BLACK, marker=mark, label="loss")
        losses.set_ylabel("loss", fontsize=TEXT_SIZE)
        losses.set_title(title, fontsize=TITLE_SIZE, loc="left")
        draw_accuracies(accuracies, epochs)
        for axes in (losses, accuracies):
            axes.set_xlim(0.5, max(e["epoch"] for e in epochs) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.tick_params(labelsize=TEXT_SIZE)
            axes.spines[["top", "right"]].set_visible(False)
            if chosen and title in chosen:
                axes.axvline(chosen[title], color=GREY, linestyle="--", linewidth=1, label="chosen", zorder=0)
        accuracies.legend(fontsize=TEXT_SIZE, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in panels[-1]:
        axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    return figure
