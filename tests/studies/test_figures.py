"""Figures of what a model can do show its numbers, in the right order; the command writes all of them."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_hf.data.shapes import shapes_table
from dedn_hf.metrics.scores import ausuc, gzsl_scores, seen_unseen_curve
from dedn_hf.studies.figures import (
    figure_class_attributes,
    figure_confusion,
    figure_deletion,
    figure_seen_unseen,
    figure_sensitivity,
)
from tests.explain.test_explain import tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"


# Seen and unseen -----------------------------------------------------------------------------------------------------


def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels, seen = np.arange(60) % 6, np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    return rng.normal(size=(60, 6)) + 1.5 * np.eye(6)[labels], labels, seen


def test_the_seen_unseen_curve_has_its_area_and_the_model_on_it():
    logits, labels, seen = scored()
    u, s, _ = seen_unseen_curve(logits, labels, seen)
    scores = gzsl_scores(logits, labels, seen)
    (axes,) = figure_seen_unseen({"ours": (u, s)}, {"ours": (scores["U"], scores["S"])}).axes
    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx(100 * u) and line.get_ydata() == pytest.approx(100 * s)
    assert line.get_label() == f"ours: AUSUC {100 * ausuc(logits, labels, seen):.1f} %"
    point = axes.collections[-1]
    assert point.get_offsets()[0].tolist() == pytest.approx([100 * scores["U"], 100 * scores["S"]])
    assert point.get_label() == f"ours without a constant: U {100 * scores['U']:.1f}, S {100 * scores['S']:.1f}"
    assert axes.get_xlabel().startswith("U") and axes.get_ylabel().startswith("S")


def test_two_models_curves_differ_in_more_than_colour():
    (axes,) = figure_seen_unseen({"one": ([0, 0.5], [1, 0]), "other": ([0, 1], [0.5, 0])}).axes
    assert [line.get_label() for line in axes.lines] == ["one: AUSUC 25.0 %", "other: AUSUC 25.0 %"]
    assert len({line.get_linestyle() for line in axes.lines}) == len({line.get_color() for line in axes.lines}) == 2


def test_long_names_of_models_make_the_figure_higher_and_its_curves_no_smaller():
    def drawn(name):
        figure = figure_seen_unseen({f"{name}{i}": ([0, 0.5], [1, 0]) for i in range(3)})
        figure.draw_without_rendering()
        axes, (width, _) = figure.axes[0], figure.canvas.get_width_height()
        legend = axes.get_legend().get_window_extent()
        assert legend.x1 <= width and legend.y0 >= 0, (legend, width)
        return axes.get_window_extent().width

    assert drawn("a model with a very long name that says everything " * 2) > 0.9 * drawn("ours ")


@pytest.mark.parametrize(("curves", "points"), [({}, {}), ({"one": ([0, 1], [1, 0])}, {"other": (0.5, 0.5)})])
def test_a_point_needs_its_curve(curves, points):
    with pytest.raises(ValueError, match="points of these only"):
        figure_seen_unseen(curves, points)


# Confusion -----------------------------------------------------------------------------------------------------------


def test_a_confusion_is_of_true_classes_in_rows_and_in_percent_of_their_images():
    figure = figure_confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["wren", "robin", "owl"], "T1 88 %")
    axes, bar = figure.axes
    assert axes.images[0].get_array().tolist() == [[75, 25, 0], [0, 100, 0], [0, 0, 0]]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}  # column, row
    assert numbers == {(0, 0): "75", (1, 0): "25", (1, 1): "100"}
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in ticks] == ["wren", "robin", "owl"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("taken for", "true class")
    assert axes.get_title(loc="left") == "T1 88 %" and "true class" in bar.get_ylabel()


def test_numbers_can_be_read_on_their_cells():
    axes, _ = figure_confusion(np.array([[9, 1], [1, 9]]), ["a", "b"]).axes
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours == {"90": "white", "10": "#000000"}


def test_many_classes_have_no_numbers():
    axes, _ = figure_confusion(np.eye(40), [f"class {i}" for i in range(40)]).axes
    assert not axes.texts and len(axes.get_yticklabels()) == 40


def test_counts_that_do_not_fit_the_names_are_refused():
    with pytest.raises(ValueError, match=r"expected \(3, 3\)"):
        figure_confusion(np.eye(2), ["a", "b", "c"])


# Class attributes ----------------------------------------------------------------------------------------------------


def test_attributes_stand_by_group_and_unseen_classes_below_the_others():
    table = np.array([[0, 10, 5, 1], [4, 20, 5, 1], [2, 40, 5, 0]])
    figure = figure_class_attributes(table, ["a", "b", "c"], ["wing", "head", "wing", "head"], [False, True, True])
    axes, _ = figure.axes
    # Columns: wing (0 and 2), head (1 and 3); rows: b, c, a; each column from its lowest to its highest value.
    assert axes.images[0].get_array().tolist() == [[1, 0, pytest.approx(1 / 3), 1], [0.5, 0, 1, 0], [0, 0, 0, 1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    assert [text.get_text() for text in axes.texts] == ["wing (2)", "head (2)"]
    assert [line.get_xdata()[0] for line in axes.lines[:2]] == [-0.5, 1.5]
    assert axes.lines[2].get_ydata()[0] == 1.5  # the border between seen and unseen


def test_the_names_of_groups_stand_right_above_the_table_however_high_its_rows():
    figure = figure_class_attributes(np.eye(2), ["a", "b"], ["wing", "head"], [False, True])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    top = axes.get_window_extent().y1
    assert all(0 < text.get_window_extent().y0 - top < 20 for text in axes.texts)


def test_a_table_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 names, 3 groups and 2 values of seen"):
        figure_class_attributes(np.zeros((2, 2)), ["a", "b"], ["x", "x", "y"], [True, False])


# Deletion ------------------------------------------------------------------------------------------------------------


def test_deletion_has_a_panel_for_each_kind_and_a_curve_for_each_order():
    orders = {"best": ([0.8, 0.2, 0.1], [0.1, 0.0, 0.05]), "random": ([0.8, 0.6, 0.1], [0, 0, 0])}
    figure = figure_deletion({"deletion": orders, "insertion": {"best": ([0.1, 0.7, 0.8], [0, 0, 0])}})
    deletion, insertion = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["deletion", "insertion"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["regions deleted", "regions put back"]
    best, random = deletion.lines
    assert best.get_xdata().tolist() == [0, 0.5, 1] and best.get_ydata().tolist() == [80, 20, 10]
    assert [best.get_label(), random.get_label()] == ["best: area 32.5 %", "random: area 52.5 %"]
    assert insertion.lines[0].get_ydata().tolist() == pytest.approx([10, 70, 80])
    band = deletion.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((5, 90))
    assert len({line.get_linestyle() for line in deletion.lines}) == 2


@pytest.mark.parametrize("curves", [{}, {"deletion": {}}])
def test_without_a_curve_there_is_nothing_to_draw(curves):
    with pytest.raises(ValueError, match="nothing to draw"):
        figure_deletion(curves)


# Sensitivity ---------------------------------------------------------------------------------------------------------


VALUES = [0, 0.001, 0.1]
MEANS, DEVIATIONS = {"H": [0.5, 0.6, 0.4], "T1": [0.7, 0.6, 0.5]}, {"H": [0.01, 0.02, 0.03]}


def test_sensitivity_has_a_curve_of_percentages_over_values_at_equal_distances():
    (axes,) = figure_sensitivity(VALUES, MEANS, DEVIATIONS, "distillation weight", chosen=0.1).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.001", "0.1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("distillation weight", "accuracy (%)")
    h, t1 = axes.containers
    assert (h.get_label(), t1.get_label()) == ("H", "T1")
    assert h.lines[0].get_color() == "#000000" != t1.lines[0].get_color()  # H as in the training curves
    assert h.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert h.lines[0].get_ydata() == pytest.approx([50, 60, 40])
    bars = [bar[:, 1].tolist() for bar in h.lines[2][0].get_segments()]
    assert bars == [pytest.approx([49, 51]), pytest.approx([58, 62]), pytest.approx([37, 43])]
    assert not t1.has_yerr
    (chosen,) = [line for line in axes.lines if line.get_label() == "chosen"]
    assert list(chosen.get_xdata()) == [2, 2]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"H", "T1", "chosen"}


def test_the_scores_of_a_study_differ_in_colour_and_in_marker():
    (axes,) = figure_sensitivity(VALUES, dict.fromkeys(("T1", "U", "S", "H", "AUSUC"), [0.5, 0.6, 0.4])).axes
    lines = [container.lines[0] for container in axes.containers]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 5


@pytest.mark.parametrize(
    ("means", "deviations", "chosen", "message"),
    [
        ({}, None, None, "at least one curve"),
        ({"H": [0.5]}, None, None, "there are 3"),
        (MEANS, {"H": [0.1]}, None, "there are 3"),
        (MEANS, None, 7, "none of the values"),
    ],
)
def test_sensitivity_curves_that_do_not_fit_the_values_are_refused(means, deviations, chosen, message):
    with pytest.raises(ValueError, match=message):
        figure_sensitivity(VALUES, means, deviations, chosen=chosen)


def test_many_curves_are_all_told_apart():
    figure = figure_sensitivity([0, 1], {f"curve {i}": [0.1, 0.2] for i in range(12)})
    styles = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_marker() in "os^Dv"}
    assert len(styles) == 12


# The commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch):
    """Imports a script of examples/, and calls its `main` as the command line would."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def call(name: str, *arguments: str | Path):
        spec = importlib.util.spec_from_file_location(f"{name}_example", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if arguments:
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            module.main()
        return module

    yield call
    sys.modules.pop("faithfulness", None)  # imported by its bare name


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """An untrained model of the shapes."""
    model = tiny_model(shapes_table())
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


DATA = ["--data", "shapes", "--set", "image_size=32", "images_per_class=5", "--seed", 1]


@pytest.mark.slow
def test_all_figures_of_a_model_are_written(example, saved, tmp_path, capsys):
    record = {"history": [{"epoch": 1, "loss": 1.0}], "results": {}, "settings": {"select_on": "val"}}
    (saved / "run.json").write_text(json.dumps(record))
    example("figures", saved, *DATA, "--out", tmp_path / "new", "--per-class", 1, "--steps", 1, "--images", 2)
    names = ["class-attributes", "training", "heat-maps", "seen-unseen", "confusion", "deletion"]
    assert capsys.readouterr().out.splitlines() == [f"Wrote {tmp_path / 'new' / name}.png" for name in names]
    for name in names:
        with Image.open(tmp_path / "new" / f"{name}.png") as picture:
            assert min(picture.size) > 200 and len(set(picture.convert("L").resize((64, 64)).tobytes())) > 5


def test_the_confusion_of_a_model_is_among_unseen_classes(example):
    logits = np.array([[9.0, 1, 2, 0], [9, 2, 1, 0], [9, 1, 2, 0], [0, 5, 5, 6], [7, 0, 0, 0]])
    labels = np.array([2, 2, 1, 3, 0])
    table = shapes_table().select([f"creature_{k:02d}" for k in range(4)])
    table = table.replace(roles=["train", "unseen", "unseen", "train"])
    figures = example("figures").draw_scores(logits, labels, gzsl_scores(logits, labels, table.seen), table)
    axes = figures["confusion"].axes[0]
    assert axes.images[0].get_array().tolist() == [[0, 100], [50, 50]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["creature 01", "creature 02"]
    assert axes.get_title(loc="left") == "Unseen classes among themselves (T1 25.0%)"


@pytest.mark.slow
def test_the_faithfulness_of_two_models_is_measured_printed_and_written(example, saved, tmp_path, capsys):
    files = ["--figure", tmp_path / "deletion.svg", "--json", tmp_path / "faithful.json"]
    example("faithfulness", saved, saved, *DATA, "--per-class", 1, "--steps", 2, *files)
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "faithful.json").read_text())
    assert written["images"] == 40 and "40 test images of 40 classes, 2 model(s)" in printed
    first, second = written["curves"]
    assert first == second and list(first) == ["deletion", "insertion"]  # the same model, and the same random orders
    area = first["deletion"]["random"]["area"]
    assert f"{100 * area:.1f} ± 0.0" in printed
    assert area == pytest.approx(np.trapezoid(first["deletion"]["random"]["curve"], dx=0.5))
    results = written["corrections"][0]
    assert results["images"] == 40 and 0 < results["wrong"] <= 40
    assert results["strongest first"]["30"] == results["random"]["30"]  # all of the 26 attributes
    groups = written["pointing"]["part"][0]
    assert groups["all"]["pairs"] == 40 * 8 and list(groups) == ["body", "head", "tail", "leg", "all"]
    assert "Pointing at the part" in printed and (tmp_path / "deletion.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("option", "file", "message"),
    [("--figure", "curves.gif", "give one of .png, .svg"), ("--json", "nowhere/x.json", "There is no folder")],
)
def test_what_could_not_be_written_is_refused_before_anything_is_measured(example, option, file, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        example("faithfulness", "no model", *DATA, option, tmp_path / file)
