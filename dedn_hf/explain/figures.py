"""Figures of explanations and of training: arrays in, a matplotlib `Figure` out. No global state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from dedn_hf.explain.heat import paint_heat, place_heat

# Okabe and Ito's palette, told apart with any colour vision.
VERMILLION, BLUE, GREY = "#D55E00", "#0072B2", "#9A9A9A"
GREEN, BLACK = "#009E73", "#000000"
HEAT_NOTE = "Where each expert found the attribute (orange: strongest; line: half of that)"
TEXT_SIZE, TITLE_SIZE = 9, 10
EXPERT_MARKERS = {"coarse": "o", "fine": "^", "pooled": "s"}
ACCURACY_STYLES = {"T1": (GREEN, "^"), "U": (VERMILLION, "o"), "S": (BLUE, "s"), "H": (BLACK, "D")}


def draw_ranking(axes: Axes, names: Sequence[str], scores: Sequence[float]) -> None:
    """Classes and their scores (0..1) as horizontal bars, best first; the best one is coloured."""
    places = range(len(names))
    axes.barh(places, scores, color=[BLUE, *[GREY] * (len(names) - 1)], height=0.35)
    for place, name, score in zip(places, names, scores, strict=True):
        # a long name makes nothing else smaller
        text: dict[str, Any] = {"va": "bottom", "fontsize": TEXT_SIZE, "in_layout": False}
        axes.text(0, place - 0.28, name, parse_math=False, ha="left", **text)
        axes.text(1, place - 0.28, f"{score:.1%}", ha="right", **text)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) - 0.5, -0.9)
    axes.axis("off")


def divided(figure: Figure | SubFigure, rows: int, columns: int, **options: Any) -> list[SubFigure]:
    """The parts of a figure, row by row; options as of `Figure.subfigures`."""
    return np.ravel(np.asarray(figure.subfigures(rows, columns, **options))).tolist()


def keep_two_spines(axes: Axes) -> None:
    """Draw the left and lower axes lines only, with numbers of a readable size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT_SIZE)


def draw_image(axes: Axes, image: np.ndarray, title: str = "", note: str = "") -> None:
    """An image without scales, a title above it and a note below."""
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
    axes.set_xlabel(note, fontsize=TEXT_SIZE)


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
    left, right = divided(figure, 1, 2, width_ratios=[2.3, 1.75 * columns])
    picture, bars = left.subplots(2, 1, height_ratios=[3, 2])
    draw_image(picture, image, "the image")
    draw_ranking(bars, class_names, class_scores)
    draw_heat_maps(right, image, attribute_names, heats_of(experts, region_maps, image))
    right.supxlabel(HEAT_NOTE, fontsize=TEXT_SIZE)
    return figure


def draw_contributions(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    expert_values: Mapping[str, Sequence[float]] | None = None,
    title: str | None = None,
) -> None:
    """Bars from the top down: to the right in blue for a class, to the left in orange for the other.

    Args:
        names, values: N of each. expert_values: expert -> N, each drawn as a mark; NaN: no mark.
    """
    places = np.arange(len(names))
    axes.barh(places, values, color=[BLUE if value >= 0 else VERMILLION for value in values], height=0.6)
    for expert, marks in (expert_values or {}).items():
        style: dict[str, Any] = {"color": "white", "edgecolor": BLACK, "linewidth": 0.9, "s": 22, "zorder": 3}
        axes.scatter(marks, places, marker=EXPERT_MARKERS[expert], label=f"{expert} expert alone", **style)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(places, names, fontsize=TEXT_SIZE, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=TEXT_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title or "", fontsize=TITLE_SIZE, loc="left", parse_math=False)
    if expert_values:
        axes.legend(fontsize=TEXT_SIZE - 1, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.08), ncols=2)


def heats_of(experts: Sequence[str], region_maps: np.ndarray, image: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Expert -> N heat maps of the size of an image (height x width x 3), from region maps (E x N x H x W)."""
    size = image.shape[1::-1]
    return {e: [place_heat(each, size) for each in maps] for e, maps in zip(experts, region_maps, strict=True)}


def draw_heat_maps(
    panels: SubFigure, image: np.ndarray, names: Sequence[str], heats: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Rows of experts, columns of attributes.

    Args:
        image: height x width x 3, 0..1. names: N attributes. heats: expert -> N of height x width, 0..1; all 0 where
            the expert did not find the attribute.
    """
    grid = panels.subplots(len(heats), len(names), squeeze=False)
    for row, (expert, of_attributes) in enumerate(heats.items()):
        grid[row, 0].set_ylabel(f"{expert} expert", fontsize=TITLE_SIZE)
        for axes, name, heat in zip(grid[row], names, of_attributes, strict=True):
            title, note = "" if row else name, "" if heat.any() else "not found"
            draw_image(axes, paint_heat(image, heat), title, note)


def figure_comparison(
    image: np.ndarray,
    crop: tuple[float, float, float, float],
    classes: Sequence[tuple[str, float]],
    contributions: Sequence[tuple[str, float]],
    expert_contributions: Mapping[str, Sequence[float]],
    groups: Sequence[tuple[str, float]],
    heat_names: Sequence[str],
    heats: Mapping[str, Sequence[np.ndarray]],
    title: str,
) -> Figure:
    """Why one class and not another: the image, the best classes, what decided, and where the experts looked.

    Args:
        image: height x width x 3, 0..1. crop: left, top, right, bottom of what the model saw, in its pixels.
        classes: names and scores (0..1), best first. contributions: names and values of the N attributes, or sums of
            attributes, that add to the difference of the logits. expert_contributions: expert -> N, the same in that
            expert alone.
        groups: attribute groups and the sums of their contributions. heat_names, heats: as `names` and `heats` of
            `draw_heat_maps`; they may be empty.
        title: stands above everything and says what the colours mean.
    """
    tall = 1.95 * len(heats) + 0.3 if heat_names else 0
    figure = Figure(figsize=(11, 4.4 + tall), layout="constrained", dpi=120)
    figure.suptitle(title, fontsize=TITLE_SIZE + 2, parse_math=False)
    upper, *lower = divided(figure, 2, 1, height_ratios=[4.4, tall]) if heat_names else divided(figure, 1, 1)
    left, middle, right = divided(upper, 1, 3, width_ratios=[2.4, 5, 3])
    picture, bars = left.subplots(2, 1, height_ratios=[3, 2])
    draw_image(picture, image, note="framed: what the model saw")
    frames: list[dict[str, Any]] = [
        {"color": "white", "linewidth": 2.5},
        {"color": BLACK, "linestyle": "--", "linewidth": 1},
    ]
    for style in frames:
        picture.add_patch(Rectangle(crop[:2], crop[2] - crop[0], crop[3] - crop[1], fill=False, **style))
    draw_ranking(bars, *columns(classes))
    draw_contributions(middle.subplots(), *columns(contributions), expert_contributions, "By attribute")
    draw_contributions(right.subplots(), *columns(groups), title="By attribute group")
    for panel in lower:
        draw_heat_maps(panel, image, heat_names, heats)
        panel.supxlabel(HEAT_NOTE, fontsize=TEXT_SIZE)
    return figure


def columns(pairs: Sequence[tuple[str, float]]) -> tuple[list[str], list[float]]:
    """The names and the values of pairs; two empty lists if there is no pair."""
    return [name for name, _ in pairs], [value for _, value in pairs]


def draw_accuracies(axes: Axes, epochs: Sequence[dict]) -> None:
    """T1, U, S and H, in percent, of the epochs in which they were tested."""
    for name, (colour, marker) in ACCURACY_STYLES.items():
        evaluated = [epoch for epoch in epochs if epoch.get(name) is not None]
        if not evaluated and any(epoch.get(other) is not None for epoch in epochs for other in ACCURACY_STYLES):
            continue  # not tested
        scores = [100 * epoch[name] for epoch in evaluated]
        style: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 4,
            "linewidth": 2 if name == "H" else 1.2,
        }
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
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            keep_two_spines(axes)
            if chosen and title in chosen:
                axes.axvline(chosen[title], color=GREY, linestyle="--", linewidth=1, label="chosen", zorder=0)
        accuracies.legend(fontsize=TEXT_SIZE, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in panels[-1]:
        axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    return figure


def figure_confidence(reliability: Sequence[Mapping], risk_coverage: Sequence[Mapping]) -> Figure:
    """Whether answers are right as often as they are sure, and what is right among the surest.

    Args:
        reliability: as of `metrics.confidence.reliability`. risk_coverage: dicts of 'coverage' and 'accuracy', 0..1.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    images = np.array([row["images"] for row in reliability])
    left.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    points = [[100 * row[name] for row in reliability] for name in ("confidence", "accuracy")]
    left.scatter(*points, s=20 + 400 * images / images.sum(), color=BLUE, zorder=3)
    right.plot(*([100 * point[name] for point in risk_coverage] for name in ("coverage", "accuracy")), color=BLUE)
    for axes, across in ((left, "confidence, %"), (right, "the surest answers, % of all")):
        axes.set(xlim=(0, 102), ylim=(0, 102))
        axes.set_xlabel(across, fontsize=TEXT_SIZE)
        axes.set_ylabel("right, %", fontsize=TEXT_SIZE)
        keep_two_spines(axes)
    return figure


def figure_heat_maps(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    attribute_names: Sequence[Sequence[str]],
    region_maps: Sequence[np.ndarray],
    experts: Sequence[str] = ("coarse", "fine"),
) -> Figure:
    """For each image, where each expert found a few attributes: one row per expert, one column per attribute.

    As in Figure 3 of the DEDN paper: the coarse expert above the fine one.

    Args:
        images: M of height x width x 3 in 0..1, as the model saw them. titles: M, such as their classes.
        attribute_names: M of N names each. region_maps: M of E x N x H x W. experts: E names.

    Raises:
        ValueError: no image, numbers of images or region maps that do not fit the names.
    """
    shapes = [np.shape(maps)[:2] for maps in region_maps]
    if not len(images) or not len(images) == len(titles) == len(attribute_names) == len(region_maps):
        raise ValueError("Give at least one image, and a title, attribute names and region maps for each.")
    if shapes != [(len(experts), len(names)) for names in attribute_names]:
        raise ValueError(f"region_maps are {shapes}; expected (experts, attributes) of each image's names first.")
    columns = max(map(len, attribute_names))
    size = (1.9 * (columns + 1), (1.9 * len(experts) + 0.35) * len(images) + 0.3)
    figure = Figure(figsize=size, layout="constrained", dpi=130)
    blocks = figure.subfigures(len(images), 1, squeeze=False)[:, 0]
    for block, image, title, names, maps in zip(blocks, images, titles, attribute_names, region_maps, strict=True):
        left, right = block.subfigures(1, 2, width_ratios=[1, columns])
        draw_image(left.subplots(), image, title)
        draw_heat_maps(right, image, names, heats_of(experts, maps, image))
    figure.supxlabel(HEAT_NOTE, fontsize=TEXT_SIZE)
    return figure
