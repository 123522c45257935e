"""Explanations and figures say what the model and the numbers say."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dedn_hf import DEDNForZeroShot
from dedn_hf.explain.explainer import attribute_evidence, region_maps_of, strongest_attributes, unnormalized
from dedn_hf.explain.figures import (
    figure_comparison,
    figure_explaining,
    figure_heat_maps,
    figure_training,
)
from dedn_hf.explain.heat import paint_heat, place_heat
from tests.explain.test_explain import tiny_model


@pytest.fixture(scope="module")
def model() -> DEDNForZeroShot:
    return tiny_model()


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_region_maps_of_an_attribute_sum_to_its_region_score(model):
    maps = region_maps_of(model, pixels())
    scores, _ = model.dual_attention(model.extract_features(pixels()))
    assert maps.shape == (2, 2, model.config.num_attributes, 4, 4)
    assert torch.allclose(maps.sum(dim=(-2, -1)), scores[:, :, 0], atol=1e-5)


@torch.no_grad()
def test_region_maps_lie_where_the_regions_lie(model):
    features = model.extract_features(pixels(1))
    keys, values = model.experts["coarse"].region_queries()
    vectors = F.normalize(features, dim=1)[0]
    attention = torch.einsum("c,chw->hw", keys[3], vectors).flatten().softmax(dim=0).view(4, 4)
    expected = attention * torch.einsum("c,chw->hw", values[3], vectors)
    assert torch.allclose(region_maps_of(model, pixels(1))[0, 0, 3], expected, atol=1e-5)


def test_a_model_without_region_attention_has_no_region_maps():
    with pytest.raises(ValueError, match="no region attention"):
        region_maps_of(tiny_model(attentions=["channel"]), pixels())


@torch.no_grad()
def test_the_evidence_for_a_class_sums_to_its_lead_over_the_average_class(model):
    labels = torch.tensor([1, 3])
    output = model(pixels())
    attributes = model.normalized_class_attributes()
    logits = output.attribute_scores @ attributes.T
    lead = logits[torch.arange(2), labels] - logits.mean(dim=1)
    assert torch.allclose(attribute_evidence(model, pixels(), labels).sum(dim=1), lead, atol=1e-5)


def test_the_strongest_attributes_are_the_strongest_that_the_class_has():
    evidence = np.array([2.0, 5.0, -1.0, 3.0, 9.0])
    has = np.array([1, 1, 1, 1, 0])
    assert strongest_attributes(evidence, has, 3) == [1, 3, 0]
    assert strongest_attributes(evidence, has, 9) == [1, 3, 0, 2]


def test_the_image_seen_is_the_centre_of_the_resized_image(model):
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = (200, 100, 50)
    pixel_values = model.image_processor()(images=wide, return_tensors="pt")["pixel_values"][0]
    seen = unnormalized(model, pixel_values)
    assert seen.shape == (32, 32, 3)
    assert np.abs(seen[16, 16] * 255 - (200, 100, 50)).max() < 1


def test_heat_peaks_at_one_where_the_region_map_does_and_leaves_out_what_speaks_against():
    region_map = -np.ones((4, 4))
    region_map[0, 3] = 2.0
    heat = place_heat(region_map, (40, 40))
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (heat.min(), heat.max()) == (0, 1) and row < 10 and column >= 30
    assert not place_heat(-np.ones((4, 4)), (8, 8)).any()
    assert place_heat(np.ones((2, 3)), (30, 20)).shape == (20, 30)


def explained():
    maps = np.zeros((2, 3, 4, 4))
    maps[0, :, 0, 0], maps[1, :, 3, 3] = 1.0, 1.0
    scores = [0.7, 0.2]
    return figure_explaining(np.ones((16, 16, 3)), ["wren", "robin"], scores, ["red", "long", "dark"], maps, title="t")


def test_the_first_row_of_heat_maps_is_the_coarse_expert_and_the_second_the_fine_one():
    figure = explained()
    panels = [axes for axes in figure.get_axes() if axes.images][1:]
    assert [axes.get_title() for axes in panels] == ["red", "long", "dark", "", "", ""]
    assert [axes.get_ylabel() for axes in panels] == ["coarse expert", "", "", "fine expert", "", ""]
    colours = [np.ptp(axes.images[0].get_array(), axis=-1) for axes in panels]  # the image is white
    peaks = [np.unravel_index(colour.argmax(), (16, 16)) for colour in colours]
    assert all(row < 8 and column < 8 for row, column in peaks[:3])
    assert all(row >= 8 and column >= 8 for row, column in peaks[3:])


def test_bars_are_as_long_as_the_scores():
    (bars,) = [axes for axes in explained().get_axes() if axes.patches]
    assert [bar.get_width() for bar in bars.patches] == [0.7, 0.2]
    assert [text.get_text() for text in bars.texts] == ["wren", "70.0%", "robin", "20.0%"]


def test_a_long_class_name_takes_no_room_from_the_image():
    def width_of_the_image(name):
        figure = figure_explaining(np.ones((16, 16, 3)), [name], [0.7], ["red"], np.ones((2, 1, 4, 4)))
        figure.draw_without_rendering()
        return figure.get_axes()[0].get_window_extent().width

    assert width_of_the_image("W" * 200) == pytest.approx(width_of_the_image("wren"))


def test_region_maps_that_do_not_fit_the_names_are_refused():
    with pytest.raises(ValueError, match=r"expected \(2, 1, H, W\)"):
        figure_explaining(np.ones((8, 8, 3)), ["wren"], [1.0], ["red"], np.zeros((2, 2, 4, 4)))


def test_heat_is_orange_where_it_is_and_the_rest_is_grey():
    image = np.full((2, 2, 3), (1.0, 0.0, 0.0))
    heat = np.array([[0.0, 0.4], [0.0, 0.2]])
    painted = paint_heat(image, heat)
    assert np.ptp(painted[:, 0], axis=-1).max() == 0  # no heat: no colour
    red, green, blue = painted[0, 1]
    assert red > green > blue and np.ptp(painted[0, 1]) > np.ptp(painted[1, 1]) > 0
    assert painted.min() >= 0 and painted.max() <= 1


def test_a_dark_line_where_heat_falls_to_one_half_is_seen_without_colour():
    heat = np.linspace(1, 0, 20) * np.ones((20, 1))
    grey = paint_heat(np.ones((20, 20, 3)), heat).mean(axis=-1)
    (columns,) = np.nonzero(grey[5] < 0.25)
    assert columns.tolist() == [9] and heat[5, 9] >= 0.5 > heat[5, 10]
    assert (grey[5, [0, 19]] > 0.3).all()  # nothing else is as dark, though the heat reaches the border


def compared():
    heats = {"coarse": [np.eye(16), np.zeros((16, 16))], "fine": [np.zeros((16, 16)), np.eye(16)]}
    experts = {"coarse": [2.5, -0.5], "fine": [1.5, -1.5]}
    return figure_comparison(
        np.ones((16, 16, 3)),
        (4, 0, 12, 16),
        [("wren", 0.7), ("robin", 0.2)],
        [("red", 2.0), ("long", -1.0)],
        experts,
        [("wing", 1.0)],
        ["red", "long"],
        heats,
        "Why wren, and not robin?",
    )


def test_contributions_go_right_for_the_class_and_left_against_it_with_a_mark_for_each_expert():
    (chart,) = [axes for axes in compared().get_axes() if axes.get_title(loc="left") == "By attribute"]
    assert [label.get_text() for label in chart.get_yticklabels()] == ["red", "long"]
    assert [bar.get_width() for bar in chart.patches] == [2.0, -1.0]
    assert chart.patches[0].get_facecolor() != chart.patches[1].get_facecolor()
    marks = {marks.get_label(): marks.get_offsets().tolist() for marks in chart.collections}
    assert marks == {"coarse expert alone": [[2.5, 0], [-0.5, 1]], "fine expert alone": [[1.5, 0], [-1.5, 1]]}


def test_the_frame_is_the_crop_and_what_was_not_found_says_so():
    axes = compared().get_axes()
    frames = [patch.get_bbox().extents.tolist() for patch in axes[0].patches]
    assert frames == [[4, 0, 12, 16]] * 2
    maps = [panel for panel in axes[1:] if panel.images]
    assert [panel.get_title() for panel in maps] == ["red", "long", "", ""]
    assert [panel.get_xlabel() for panel in maps] == ["", "not found", "not found", ""]
    assert [panel.get_ylabel() for panel in maps] == ["coarse expert", "", "fine expert", ""]


SELECTION = [
    {"epoch": 1, "loss": 3.0},
    {"epoch": 2, "loss": 2.0, "T1": 0.5, "U": 0.2, "S": 0.6, "H": 0.3},
    {"epoch": 3, "loss": 1.5},
    {"epoch": 4, "loss": 1.25, "T1": 0.7, "U": 0.4, "S": 0.8, "H": 0.53},
]


def curves(axes) -> dict[str, tuple[list, list]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_the_curves_of_a_phase_are_its_losses_and_the_accuracies_where_there_are_some():
    losses, accuracies = figure_training({"choosing": SELECTION}).axes
    assert losses.get_title(loc="left") == "choosing"
    assert curves(losses) == {"loss": ([1, 2, 3, 4], [3.0, 2.0, 1.5, 1.25])}
    found = curves(accuracies)
    assert list(found) == ["T1", "U", "S", "H"]
    assert all(epochs == [2, 4] for epochs, _ in found.values())
    assert found["T1"][1] == pytest.approx([50, 70]) and found["H"][1] == pytest.approx([30, 53])
    assert accuracies.get_ylim() == (0, 100) and accuracies.get_ylabel() == "accuracy (%)"
    assert [text.get_text() for text in accuracies.get_legend().get_texts()] == ["T1", "U", "S", "H"]


def test_every_phase_has_a_row_and_the_chosen_epoch_a_line():
    figure = figure_training({"choosing": SELECTION, "training": SELECTION[:2]}, {"choosing": 4})
    assert len(figure.axes) == 4
    for axes in figure.axes[:2]:
        assert curves(axes)["chosen"][0] == [4, 4]
    assert all("chosen" not in curves(axes) for axes in figure.axes[2:])
    assert [axes.get_xlim() for axes in figure.axes[1::2]] == [(0.5, 4.5), (0.5, 2.5)]


def test_one_epoch_has_one_tick_and_no_fractions():
    figure = figure_training({"choosing": [{**SELECTION[1], "epoch": 1}]})
    figure.draw_without_rendering()
    shown = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert all("." not in text for text in shown), shown


def test_accuracies_differ_in_more_than_colour():
    lines = figure_training({"choosing": SELECTION}).axes[1].lines
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 4


@pytest.mark.parametrize("phases", [{}, {"choosing": SELECTION, "training": []}])
def test_without_an_epoch_there_are_no_curves(phases):
    with pytest.raises(ValueError, match="at least one epoch"):
        figure_training(phases)


def heat_maps():
    first, second = np.zeros((2, 2, 4, 4)), -np.ones((2, 3, 4, 4))
    first[0, :, 0, 0], first[1, :, 3, 3] = 1.0, 1.0
    second[1, 2, 0, 3] = 1.0
    names = [["red", "long"], ["dark", "wide", "spotted"]]
    return figure_heat_maps([np.ones((16, 16, 3))] * 2, ["wren", "robin, taken for wren"], names, [first, second])


def test_heat_maps_stand_in_rows_of_experts_and_columns_of_attributes_beside_their_image():
    axes = heat_maps().get_axes()
    assert [panel.get_title() for panel in axes[:5]] == ["wren", "red", "long", "", ""]
    assert [panel.get_title() for panel in axes[5:]] == ["robin, taken for wren", "dark", "wide", "spotted", *[""] * 3]
    assert [axes[i].get_ylabel() for i in (1, 3, 6, 9)] == ["coarse expert", "fine expert"] * 2
    orange = [panel.images[0].get_array()[..., 0] - panel.images[0].get_array()[..., 2] for panel in axes[1:5]]
    peaks = [np.unravel_index(heat.argmax(), (16, 16)) for heat in orange]
    assert all(row < 8 and column < 8 for row, column in peaks[:2])
    assert all(row >= 8 and column >= 8 for row, column in peaks[2:])
    assert [panel.get_xlabel() for panel in axes[6:]] == ["not found"] * 5 + [""]


@pytest.mark.parametrize(
    ("count", "names", "message"),
    [(0, [], "at least one image"), (1, [["red"], ["long"]], "at least one image"), (1, [["red"]], "experts, attr")],
)
def test_heat_maps_that_do_not_fit_their_names_are_refused(count, names, message):
    with pytest.raises(ValueError, match=message):
        figure_heat_maps([np.ones((8, 8, 3))] * count, ["wren"] * count, names, [np.zeros((2, 2, 4, 4))] * count)


def test_figures_leave_no_global_state():
    from matplotlib import pyplot

    explained()
    compared()
    figure_training({"choosing": SELECTION})
    heat_maps()
    assert not pyplot.get_fignums()


def test_a_score_that_was_not_tested_has_no_curve():
    epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "T1": None, "U": None, "S": 0.5, "H": None}]
    figure = figure_training({"training": epochs})
    assert [line.get_label() for line in figure.axes[1].lines] == ["S"]
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.25  # nothing invisible takes the room
