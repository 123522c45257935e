"""Measures of explanations: importance adds up, regions are replaced in order, corrections count."""

import numpy as np
import pytest
import torch

from dedn_hf.explain.explainer import explain
from dedn_hf.studies.faithfulness import (
    ORDERS,
    area_under,
    balanced_sample,
    faithfulness_curves,
    join_batches,
    region_importance,
    region_orders,
    replace_regions,
    right_after_corrections,
    without_detail,
)
from tests.explain.test_explain import COSINE, PUBLISHED, picture, red_finder, square, tiny_model


def pixels_of(model, *images) -> torch.Tensor:
    return model.image_processor()(images=list(images), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("config", [{**PUBLISHED, "region_weight": 0.8}, {**COSINE, "region_weight": 0.3}, {}])
@torch.no_grad()
def test_the_regions_add_up_to_the_lead_without_the_channel_attention_and_the_constants(config):
    model = tiny_model(**config)
    pixel_values, labels = pixels_of(model, picture(seed=1), picture(seed=2)), torch.tensor([1, 5])
    importance = region_importance(model, pixel_values, labels)
    assert importance.shape == (2, 4, 4)
    logits = model(pixel_values).logits - model.class_bias(model.seen)
    lead = logits[[0, 1], labels] - logits.mean(dim=1)
    scores, _ = model.dual_attention(model.extract_features(pixel_values))
    mixed = model.mix_attentions(scores)
    channel = (1 - model.config.region_weight) * scores[:, :, 1] * (model.scale_scores(mixed) / mixed)
    class_attributes = model.normalized_class_attributes()
    directions = class_attributes[labels] - class_attributes.mean(dim=0)
    of_channels = (model.expert_weights(scores) * channel * directions[:, None]).sum(dim=(1, 2))
    assert torch.allclose(importance.sum(dim=(1, 2)), lead - of_channels, rtol=1e-4, atol=1e-4 * lead.abs().max())


@torch.no_grad()
def test_with_region_attention_alone_the_regions_add_up_to_all_of_the_lead():
    model = tiny_model(experts=["fine"], attentions=["region"], calibration_bias=0.7)
    pixel_values, labels = pixels_of(model, picture()), torch.tensor([4])
    logits = model(pixel_values).logits - model.class_bias(model.seen)
    lead = float(logits[0, 4] - logits.mean())
    assert float(region_importance(model, pixel_values, labels).sum()) == pytest.approx(lead, rel=1e-4)


def test_orders_are_by_importance_by_distance_from_the_centre_and_at_random():
    importance = torch.tensor([[[0.1, -1.0, 0.3], [2.0, 0.0, -0.5], [0.7, 0.6, 0.5]]])
    orders = region_orders(importance, torch.Generator().manual_seed(3))
    assert tuple(orders) == ORDERS
    assert orders["most important first"].tolist() == [[3, 6, 7, 8, 2, 0, 4, 5, 1]]
    assert orders["least important first"].tolist() == [[1, 5, 4, 0, 2, 8, 7, 6, 3]]
    centre = orders["centre first"][0].tolist()
    assert centre[0] == 4 and set(centre[1:5]) == {1, 3, 5, 7}
    again = region_orders(importance, torch.Generator().manual_seed(3))["random"]
    assert orders["random"].equal(again) and sorted(again[0].tolist()) == list(range(9))


def test_the_first_regions_of_an_order_are_replaced_and_no_other():
    start, end = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    order = torch.tensor([[5, 0, 15, *range(1, 5), *range(6, 15)]])
    images = replace_regions(start, end, order, 3, (4, 4))
    expected = torch.zeros(4, 4)
    expected[1, 1] = expected[0, 0] = expected[3, 3] = 1  # regions 5, 0 and 15
    assert images[0, 2].equal(expected.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert replace_regions(start, end, order, 0, (4, 4)).equal(start) and replace_regions(
        start, end, order, 16, (4, 4)
    ).equal(end)


def test_without_detail_an_image_keeps_its_colours_and_nothing_finer():
    image = torch.zeros(1, 3, 32, 32)
    image[..., ::2], image[..., 16:, :] = 1.0, 0.25  # fine stripes above, grey below
    plain = without_detail(image, (4, 4))
    assert plain.shape == image.shape
    assert plain[..., 2:6, :].std() < 0.02 and plain[..., 2:6, :].mean() == pytest.approx(0.5, abs=0.05)
    assert plain[..., 26:30, :].mean() == pytest.approx(0.25, abs=0.05)


def colour_judge():
    """What it answers depends on red against blue alone, region by region."""
    model = red_finder()
    model.config.region_weight = 1.0
    return model


@torch.no_grad()
def test_the_answer_depends_most_on_what_is_most_important():
    model = colour_judge()
    pixel_values = pixels_of(model, square(64, 64, (8, 0, 24, 24)), square(64, 64, (40, 30, 64, 50)))
    curves = faithfulness_curves(model, pixel_values, 8, torch.Generator().manual_seed(0))
    areas = {kind: {order: area_under(curve).mean() for order, curve in curves[kind].items()} for kind in curves}
    most, _, random, least = ORDERS
    assert areas["deletion"][most] < areas["deletion"][random] < areas["deletion"][least]
    assert areas["insertion"][most] > areas["insertion"][random] > areas["insertion"][least]


@torch.no_grad()
def test_a_curve_runs_from_the_whole_image_to_nothing_of_it_and_back():
    model = tiny_model()
    pixel_values = pixels_of(model, picture(seed=1), picture(seed=2), picture(seed=3))
    curves = faithfulness_curves(model, pixel_values, 4, torch.Generator().manual_seed(0))
    probabilities = model(pixel_values).logits.softmax(dim=-1)
    best, labels = probabilities.max(dim=-1)
    plain = pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
    emptied = model(plain).logits.softmax(dim=-1)[range(3), labels]
    for order in ORDERS:
        deletion, insertion = curves["deletion"][order], curves["insertion"][order]
        assert deletion.shape == insertion.shape == (3, 5)
        assert deletion[:, 0] == pytest.approx(best.numpy()) and insertion[:, -1] == pytest.approx(best.numpy())
        assert deletion[:, -1] == pytest.approx(emptied.numpy(), rel=1e-5)
    order = region_orders(region_importance(model, pixel_values, labels))["most important first"]
    half = model(replace_regions(pixel_values, plain, order, 8, (4, 4))).logits.softmax(dim=-1)[range(3), labels]
    assert curves["deletion"]["most important first"][:, 2] == pytest.approx(half.numpy(), rel=1e-5)
    both = join_batches([curves, curves])["insertion"]["random"]
    assert both.tolist() == [*curves["insertion"]["random"].tolist()] * 2


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda model: model.train(), {}, r"call model.eval\(\) first"),
        (lambda model: model, {"steps": 0}, "must be 1 or more"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(prepare, options, message):
    model = prepare(tiny_model())
    with pytest.raises(ValueError, match=message):
        faithfulness_curves(model, pixels_of(model, picture()), **options)


def test_a_model_without_region_attention_has_no_important_regions():
    model = tiny_model(attentions=["channel"])
    with pytest.raises(ValueError, match="no region attention"):
        region_importance(model, pixels_of(model, picture()), torch.tensor([0]))


def test_the_area_under_a_curve_is_its_mean_height():
    assert area_under(np.array([[0.3, 0.3, 0.3], [1.0, 0.5, 0.0], [1.0, 0.0, 0.0]])) == pytest.approx([0.3, 0.5, 0.25])


def test_a_balanced_sample_has_as_many_of_every_class_and_all_of_a_small_one():
    labels = [7] * 10 + [2] * 3 + [5] * 20
    places = balanced_sample(labels, 5, seed=1)
    assert places == sorted(set(places)) == balanced_sample(labels, 5, seed=1) != balanced_sample(labels, 5, seed=2)
    assert [[labels[place] for place in places].count(label) for label in (7, 2, 5)] == [5, 3, 5]
    with pytest.raises(ValueError, match="take 1 or more"):
        balanced_sample(labels, 0)


def wrong_explanation():
    explanation = explain(tiny_model(), picture())
    return explanation, explanation.ranking[1]


def test_correcting_every_attribute_to_the_true_classs_values_makes_the_answer_right():
    explanation, label = wrong_explanation()  # among classes of the same bias
    assert right_after_corrections(explanation, label, [0, explanation.table.num_attributes]) == [False, True]


def test_what_speaks_most_against_the_true_class_is_corrected_first(monkeypatch):
    explanation, label = wrong_explanation()
    names, attributes = explanation.table.class_names, explanation.table.attribute_names
    against = explanation.compare(names[label], names[explanation.ranking[0]]).contributions
    corrected = []
    given = type(explanation).correct
    monkeypatch.setattr(type(explanation), "correct", lambda self, c: corrected.append(c) or given(self, c))
    results = right_after_corrections(explanation, label, [1, 3])
    worst = [attributes[a] for a in np.argsort(against)[:3]]
    values = dict(zip(attributes, explanation.table.class_attributes[label].tolist(), strict=True))
    assert corrected == [{name: values[name] for name in worst[:count]} for count in (1, 3)]
    assert results == [given(explanation, c).ranking[0] == label for c in corrected]
    corrected.clear()
    for seed in range(5):
        right_after_corrections(explanation, label, [1], np.random.default_rng(seed))
    assert len({tuple(c) for c in corrected}) > 1  # at random: not always the same one


def test_a_right_answer_needs_no_correction():
    explanation, _ = wrong_explanation()
    with pytest.raises(ValueError, match="is right"):
        right_after_corrections(explanation, explanation.ranking[0], [1])
