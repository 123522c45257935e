"""Figures of what a trained model can do, of how its explanations were measured, and of studies.

Pure functions: arrays in, a matplotlib `Figure` out; nothing is shown, and no global state is touched.

Letters of the shapes: K classes, A attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dedn_hf.explain.figures import (
    ACCURACY_STYLES,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    TEXT_SIZE,
    TITLE_SIZE,
    VERMILLION,
    keep_two_spines,
)

BLUES = LinearSegmentedColormap.from_list("blues", ["white", BLUE, "#00293F"])  # darker is more, also in grey print
LINES = ((BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "^", "-."), (BLACK, "D", ":"), (GREY, "v", "-"))
SCORE_STYLES = {**ACCURACY_STYLES, "AUSUC": ("#CC79A7", "v")}
NUMBERED_CLASSES = 15  # a confusion matrix of at most this many classes has numbers in its cells


def style_of(position: int) -> dict:
    """Colour, marker and dash of a curve. 25 curves differ, also in grey print."""
    colour, _, dash = LINES[position % len(LINES)]
    marker = LINES[(position + position // len(LINES)) % len(LINES)][1]
    return {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.6}


def figure_seen_unseen(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Accuracy of seen over that of unseen classes as a constant is added to unseen logits, with the area under it.

    Args:
        curves: model -> U and S, 0..1, as `metrics.scores.seen_unseen_curve` gives them. The legend has the AUSUC.
        points: model -> its U and S without an added constant, marked on the curve.

    Raises:
        ValueError: no curve, or a point of a model without one.
    """
    points = points or {}
    if not curves or not set(points) <= set(curves):
        raise ValueError(f"Give at least one curve, and points of these only: {', '.join(curves) or 'none'}.")
    figure = Figure(figsize=(4.4, 4.9), layout="constrained", dpi=130)
    axes = figure.subplots()
    for position, (name, (unseen, seen)) in enumerate(curves.items()):
        style = style_of(position)
        area = np.trapezoid(seen, unseen)
        colour = {"color": style["color"]}
        line = {"linestyle": style["linestyle"], "linewidth": 1.8, "drawstyle": "default", **colour}
        label = fill(f"{name}: AUSUC {100 * area:.1f} %", 46)
        axes.plot(100 * np.asarray(unseen), 100 * np.asarray(seen), label=label, **line)
        if len(curves) == 1:
            axes.fill_between(100 * np.asarray(unseen), 100 * np.asarray(seen), alpha=0.12, linewidth=0, **colour)
        if name in points:
            u, s = (100 * value for value in points[name])
            marks = {"marker": style["marker"], "s": 46, "edgecolor": BLACK, "zorder": 3, **colour}
            axes.scatter([u], [s], label=fill(f"{name} without a constant: U {u:.1f}, S {s:.1f}", 46), **marks)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_aspect("equal")
    axes.set_xlabel("U, accuracy of unseen classes among all (%)", fontsize=TITLE_SIZE)
    axes.set_ylabel("S, accuracy of seen classes among all (%)", fontsize=TITLE_SIZE)
    labels = axes.get_legend_handles_labels()[1]
    figure.set_figheight(4.5 + 0.25 * sum(1 + label.count("\n") for label in labels))
    axes.legend(fontsize=TEXT_SIZE, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14))
    keep_two_spines(axes)
    return figure


def figure_confusion(counts: np.ndarray, class_names: Sequence[str], title: str = "") -> Figure:
    """What each class is taken for: rows are true classes, columns predicted ones, in percent of the row's images.

    Args:
        counts: K x K numbers of images. class_names: K; a row without images stays white.

    Raises:
        ValueError: counts that are not one row and column for each name.
    """
    counts, size = np.asarray(counts, dtype=float), len(class_names)
    if counts.shape != (size, size) or not size:
        raise ValueError(f"counts has shape {counts.shape}, expected ({size}, {size}) and at least one class.")
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    numbered = size <= NUMBERED_CLASSES
    side = max(0.5 * size, 2) + 2.6 if numbered else max(0.16 * size, 5) + 2.4
    figure = Figure(figsize=(side + 0.7, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap=BLUES, vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(counts), strict=True) if numbered else ():
        colour = "white" if shares[row, column] > 40 else BLACK
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TEXT_SIZE, "color": colour}
        axes.text(column, row, f"{shares[row, column]:.0f}", **style)
    text: dict[str, Any] = {"fontsize": TEXT_SIZE if numbered else 6, "parse_math": False}
    axes.set_xticks(range(size), class_names, rotation=90, **text)
    axes.set_yticks(range(size), class_names, **text)
    axes.tick_params(length=0)
    axes.set_xlabel("taken for", fontsize=TITLE_SIZE)
    axes.set_ylabel("true class", fontsize=TITLE_SIZE)
    axes.set_title(title, fontsize=TITLE_SIZE, loc="left", parse_math=False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, label="% of the true class's images")
    bar.ax.tick_params(labelsize=TEXT_SIZE)
    return figure


def figure_class_attributes(
    class_attributes: np.ndarray, class_names: Sequence[str], groups: Sequence[str], seen: Sequence[bool]
) -> Figure:
    """The attributes of the classes, ordered by group, with seen classes above unseen ones.

    Args:
        class_attributes: K x A, in any scale; each attribute is drawn from its lowest to its highest value.
        class_names: K. groups: A. seen: K bool.

    Raises:
        ValueError: a table that does not fit names, groups and `seen`.
    """
    values, trained = np.asarray(class_attributes, dtype=float), np.asarray(seen, dtype=bool)
    if values.shape != (len(class_names), len(groups)) or len(trained) != len(class_names):
        raise ValueError(
            f"class_attributes has shape {values.shape}; there are {len(class_names)} names, {len(groups)} groups and "
            f"{len(trained)} values of seen."
        )
    names = list(dict.fromkeys(groups))
    columns = np.argsort([names.index(group) for group in groups], kind="stable")
    rows = np.argsort(~trained, kind="stable")
    low, extent = values.min(axis=0), np.ptp(values, axis=0)
    scaled = np.divide(values - low, extent, out=np.zeros_like(values), where=extent > 0)
    figure = Figure(figsize=(11, 2 + 0.13 * max(len(rows), 12)), layout="constrained", dpi=130)
    axes = figure.subplots()
    shown = axes.imshow(scaled[rows][:, columns], cmap=BLUES, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    start = 0
    for name in names:
        count = list(groups).count(name)
        axes.axvline(start - 0.5, color=VERMILLION, linewidth=1.2)
        about: dict[str, Any] = {
            "rotation": 0 if count > 0.05 * len(groups) else 90,
            "fontsize": TEXT_SIZE,
            "parse_math": False,
        }
        about |= {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(f"{name} ({count})", (start + count / 2 - 0.5, 1), (0, 5), **about)
        start += count
    if 0 < trained.sum() < len(trained):
        axes.axhline(trained.sum() - 0.5, color=VERMILLION, linewidth=1.6, linestyle="--")
    text: dict[str, Any] = {"fontsize": 6 if len(rows) > 12 else TEXT_SIZE, "parse_math": False}
    axes.set_yticks(range(len(rows)), [class_names[row] for row in rows], **text)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_xlabel("attributes, by group; below the dashed line: unseen classes", fontsize=TITLE_SIZE)
    bar = figure.colorbar(shown, ax=axes, ticks=[0, 1], shrink=0.6, pad=0.01)
    bar.ax.set_yticklabels(["lowest of\nthe attribute", "highest"], fontsize=TEXT_SIZE)
    return figure


def figure_deletion(curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Figure:
    """Probability of the predicted class while regions are deleted or put back, one panel for each kind of curve.

    Args:
        curves: kind, such as 'deletion' -> order of the regions -> means and standard deviations, 0..1, of points at
            equal distances from 'no region' to 'all of them'. The legend has the areas under the curves.

    Raises:
        ValueError: no curve.
    """
    if not curves or not all(curves.values()):
        raise ValueError("There is nothing to draw: give at least one kind of curve, each with at least one order.")
    figure = Figure(figsize=(5 * len(curves), 4.4), layout="constrained", dpi=130)
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axes, (kind, of_orders) in zip(panels, curves.items(), strict=True):
        for position, (order, (means, deviations)) in enumerate(of_orders.items()):
            middle, spread = 100 * np.asarray(means), 100 * np.asarray(deviations)
            share, style = np.linspace(0, 1, len(middle)), style_of(position)
            area = np.trapezoid(middle, share)
            axes.plot(share, middle, label=f"{order}: area {area:.1f} %", clip_on=False, **style)
            axes.fill_between(share, middle - spread, middle + spread, color=style["color"], alpha=0.15, linewidth=0)
        axes.set_title(kind, fontsize=TITLE_SIZE + 1, loc="left")
        axes.set_xlabel(f"regions {'deleted' if kind == 'deletion' else 'put back'}", fontsize=TITLE_SIZE)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        legend = {"loc": "upper left", "bbox_to_anchor": (0, -0.14), "handlelength": 3.5}
        axes.legend(fontsize=TEXT_SIZE, frameon=False, **legend)
        keep_two_spines(axes)
    panels[0].set_ylabel("probability of the predicted class (%)", fontsize=TITLE_SIZE)
    return figure


def figure_sensitivity(
    values: Sequence[float],
    means: Mapping[str, Sequence[float]],
    deviations: Mapping[str, Sequence[float]] | None = None,
    label: str = "weight",
    chosen: float | None = None,
) -> Figure:
    """Accuracies over the values of one setting, such as a loss weight (Figure 4 of the DEDN paper).

    The values stand at equal distances, so that 0 and several powers of ten fit on one axis.

    Args:
        values: P, in the order to draw them. means: curve, such as 'H' -> P accuracies, 0..1.
        deviations: the same curves -> P standard deviations, drawn as bars. label: name of the setting.
        chosen: one of the values, marked by a line.

    Raises:
        ValueError: no curve, curves of another length than `values`, `chosen` not among them.
    """
    deviations = deviations or {}
    if not means or any(len(curve) != len(values) for curve in (*means.values(), *deviations.values())):
        raise ValueError(f"Give at least one curve, and for each one number per value: there are {len(values)}.")
    if chosen is not None and chosen not in list(values):
        raise ValueError(f"chosen is {chosen}, which is none of the values {list(values)}.")
    figure = Figure(figsize=(5.2, 3.4), layout="constrained", dpi=130)
    axes, places = figure.subplots(), np.arange(len(values))
    for position, (name, curve) in enumerate(means.items()):
        spread = 100 * np.asarray(deviations[name]) if name in deviations else None
        style = {**style_of(position), "capsize": 3, "elinewidth": 1}
        if name in SCORE_STYLES:  # as in the training curves
            style["color"], style["marker"] = SCORE_STYLES[name]
        axes.errorbar(places, 100 * np.asarray(curve), spread, label=name, **style)
    if chosen is not None:
        axes.axvline(list(values).index(chosen), color=GREY, linestyle="--", linewidth=1, label="chosen", zorder=0)
    axes.set_xticks(places, [f"{value:g}" for value in values])
    axes.set_xlabel(label, fontsize=TITLE_SIZE)
    axes.set_ylabel("accuracy (%)", fontsize=TITLE_SIZE)
    axes.legend(fontsize=TEXT_SIZE, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    keep_two_spines(axes)
    return figure
