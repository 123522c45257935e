"""An explanation adds up, points at the right place, and follows the object and the weights."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import dedn_hf
from dedn_hf import DEDNConfig, DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.data.shapes import render, shapes_table
from dedn_hf.explain.explainer import explain
from dedn_hf.explain.explanation import Explanation
from dedn_hf.explain.heat import crop_box, crop_of, place_heat
from dedn_hf.explain.report import odds
from dedn_hf.publish.saved import load_model
from tests.tables import small_table

PUBLISHED = {"seen_bias": 1.0, "calibration_bias": 0.3, "coarse_weight": 0.9}
COSINE = {"center_attributes": True, "normalize_scores": True, "seen_bias": 0.5, "calibration_bias": -0.2}
SINGLE = {"experts": ["fine"], "attentions": ["region"], "calibration_bias": 0.7}


def with_random_attention(model: DEDNForZeroShot) -> DEDNForZeroShot:
    """Keys start at 0, the same attention everywhere; here they are anything."""
    for name, parameter in model.experts.named_parameters():
        if name.endswith("_key"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def tiny_model(table=None, **config) -> DEDNForZeroShot:
    torch.manual_seed(0)
    kwargs = {"output_stride": 8, "channels": [8, 8, 8, 8]}
    table = table or small_table()
    model = DEDNForZeroShot.from_timm(
        "resnet10t", table, image_size=32, pretrained=False, backbone_kwargs=kwargs, **config
    )
    return with_random_attention(model)


def eye(regions: int = 8, image_size: int = 64, table=None, **preprocessing) -> DEDNForZeroShot:
    """A model whose features are the mean colours of its regions, so that what is where is known exactly."""
    torch.manual_seed(0)
    table = table or small_table()
    model = DEDNForZeroShot(
        DEDNConfig(
            feature_shape=[3, regions, regions],
            image_size=image_size,
            **preprocessing,
            attribute_names=table.attribute_names,
            attribute_groups=table.attribute_groups,
            id2label=dict(enumerate(table.class_names)),
            embedding_size=5,
        )
    )
    model.backbone = torch.nn.AdaptiveAvgPool2d(regions)
    model.set_classes(table)
    return with_random_attention(model)


def red_finder(**config) -> DEDNForZeroShot:
    """Every attribute means: redder than blue; attention is the same everywhere."""
    model = eye(**config)
    with torch.no_grad():
        for expert in model.experts.values():
            expert.attribute_embeddings.fill_(1)
            expert.region_key.zero_()
            expert.region_value.copy_(torch.tensor([1.0, 0.0, -1.0]).expand_as(expert.region_value))
    return model


def picture(width: int = 50, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def square(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Red in `box`, blue elsewhere."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), box)
    return image


def outputs(model: DEDNForZeroShot, image: Image.Image):
    with torch.no_grad():
        return model(model.image_processor()(images=image, return_tensors="pt")["pixel_values"])


@pytest.fixture(scope="module")
def model() -> DEDNForZeroShot:
    return tiny_model()


@pytest.fixture(scope="module")
def explanation(model) -> Explanation:
    return explain(model, picture())


# What adds up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PUBLISHED, COSINE, SINGLE], ids=["published", "cosine", "one expert"])
def test_contributions_sum_to_the_difference_of_the_models_logits(config):
    model = tiny_model(**config)
    explanation, output = explain(model, picture()), outputs(model, picture())
    logits = output.logits[0].double().numpy()
    scale = np.abs(logits).max()
    assert explanation.logits == pytest.approx(logits, abs=1e-5 * scale)
    names = model.attribute_table.class_names
    for one, other in [(0, 1), (0, 5), (4, 2), (4, 5)]:  # classes 4 and 5 are unseen: a bias between the kinds
        comparison = explanation.compare(names[one], names[other])
        total = comparison.contributions.sum() + comparison.bias
        assert total == pytest.approx(explanation.logits[one] - explanation.logits[other], abs=1e-12 * scale)
        assert total == pytest.approx(logits[one] - logits[other], abs=1e-5 * scale)
        assert (comparison.bias == 0) == ((one < 4) == (other < 4))


@pytest.mark.parametrize("config", [PUBLISHED, COSINE], ids=["published", "cosine"])
def test_the_experts_parts_are_their_own_logits_and_make_up_the_whole(config):
    model = tiny_model(**config)
    explanation, output = explain(model, picture()), outputs(model, picture())
    comparison = explanation.compare("class 0", "class 4")
    calibration = -config["calibration_bias"]  # of the prediction, not of an expert; class 4 is unseen
    for own, logits in zip(comparison.expert_differences, (output.coarse_logits, output.fine_logits), strict=True):
        assert own - calibration == pytest.approx(float(logits[0, 0] - logits[0, 4]), rel=1e-4)
    mixed = explanation.expert_weights @ comparison.expert_contributions
    assert comparison.contributions == pytest.approx(mixed)
    assert explanation.expert_weights[0] == pytest.approx(config.get("coarse_weight", 0.5))


def test_groups_sum_up_and_hold_their_own_attributes(explanation):
    values = explanation.comparison.contributions
    groups = explanation.by_group(values)
    assert groups["wing"] == pytest.approx(values[[0, 3, 6]].sum())
    assert sum(groups.values()) == pytest.approx(values.sum())


def test_by_default_the_best_class_is_compared_with_the_best_of_the_others(explanation):
    names, ranking = explanation.table.class_names, explanation.ranking
    assert (explanation.comparison.one, explanation.comparison.other) == tuple(ranking[:2])
    asked = explanation.compare(names[ranking[3]])
    assert (asked.one, asked.other) == (ranking[3], ranking[0])
    against_the_best = explanation.compare(against=names[ranking[0]])
    assert (against_the_best.one, against_the_best.difference < 0) == (ranking[1], True)


def test_a_single_class_is_explained_by_its_own_logit():
    model = tiny_model()
    model.set_classes(small_table().select(["class 0"]))
    explanation = explain(model, picture())
    assert explanation.comparison.other is None
    assert explanation.comparison.difference == pytest.approx(float(outputs(model, picture()).logits[0, 0]), rel=1e-5)
    assert explanation.to_text() and explanation.to_html() and explanation.to_dict()


def test_experts_dispute_an_attribute_when_they_pull_in_opposite_directions():
    from dedn_hf.explain.evidence import Comparison

    comparison = Comparison(0, 1, np.zeros(3), np.array([[2.0, -1.0, 0.0], [1.0, 3.0, -3.0]]), 0.0)
    assert comparison.disputed.tolist() == [False, True, False]
    assert comparison.agreement == pytest.approx(0.6)  # 3 and 3 of 3 + 4 + 3


def test_what_the_image_seems_to_have_is_beside_the_values_of_the_class(explanation):
    traits = explanation.traits(0, count=8)
    strengths = [trait.strength for trait in traits]
    assert strengths == sorted(strengths, reverse=True) and len(traits) == 8
    for trait in traits:
        column = explanation.table.class_attributes[:, trait.attribute]
        assert trait.high == (explanation.attribute_scores[trait.attribute] > 0)
        assert trait.fits == ((column[0] >= column.mean()) == trait.high)


# Where ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (301, 200), (64, 64), (17, 40)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.5])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_the_crop_box_is_what_the_processor_cuts_out(width, height, crop_pct, crop_mode):
    model = eye(crop_pct=crop_pct, crop_mode=crop_mode)
    processor = model.image_processor()
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ramps = np.stack([255 * x / width, 255 * y / height, 0 * x], axis=-1).round().astype(np.uint8)
    seen = processor(images=ramps, return_tensors="pt", do_normalize=False)["pixel_values"][0].numpy()
    left, top, right, bottom = crop_of(model.config, Image.fromarray(ramps))
    centres = (np.arange(64) + 0.5) / 64
    inside = slice(4, -4)  # at the border of the picture a smooth resize has nothing to average with
    for ramp, start, end, length in (
        (seen[0].mean(axis=0), left, right, width),
        (seen[1].mean(axis=1), top, bottom, height),
    ):
        found = ramp * length
        assert found[inside] == pytest.approx((start + centres * (end - start))[inside], abs=0.01 * length)


def test_of_a_squashed_picture_nothing_is_cut_off_where_the_crop_is_the_whole():
    assert crop_box(300, 200, 64, 64, squash=True) == (0, 0, 300, 200)
    assert crop_box(200, 300, 80, 64, squash=True) == (20, 30, 180, 270)


def test_a_border_around_a_small_picture_lies_outside_of_it():
    assert crop_box(32, 32, 32, 64) == (-16, -16, 48, 48)


@pytest.mark.parametrize(("column", "row"), [(0, 0), (5, 2), (7, 7)])
def test_heat_lies_on_the_region_of_the_original_picture(column, row):
    region_map = -np.ones((8, 8))
    region_map[row, column] = 1
    heat = place_heat(region_map, (140, 80), (30.0, 0.0, 110.0, 80.0))
    assert heat.shape == (80, 140) and (heat.min(), heat.max()) == (0, 1)
    rows, columns = np.nonzero(heat > 0.5)
    assert rows.min() >= 10 * row and rows.max() < 10 * (row + 1)
    assert columns.min() >= 30 + 10 * column and columns.max() < 30 + 10 * (column + 1)
    small = place_heat(region_map, (140, 80), (30.0, 0.0, 110.0, 80.0), (70, 40))
    assert small == pytest.approx(heat.reshape(40, 2, 70, 2).mean(axis=(1, 3)), abs=0.1)


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize(("width", "height", "box"), [(240, 128, (130, 32, 162, 64)), (96, 300, (24, 180, 48, 204))])
def test_an_object_off_the_centre_of_a_picture_that_is_not_square_is_found_in_its_place(width, height, box, crop_pct):
    explanation = explain(red_finder(crop_pct=crop_pct), square(width, height, box))
    for expert in ("coarse", "fine"):
        heat = explanation.heat_map("attribute 2", expert)
        y, x = np.indices(heat.shape) + 0.5
        centre = (heat * x).sum() / heat.sum(), (heat * y).sum() / heat.sum()
        assert centre == pytest.approx(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), abs=8)
        left, top, right, bottom = (round(edge) for edge in explanation.crop)
        outside = np.ones(heat.shape, dtype=bool)
        outside[max(top, 0) : bottom, max(left, 0) : right] = False
        assert outside.any() and not heat[outside].any()


@pytest.mark.parametrize(("width", "height", "box"), [(240, 128, (0, 32, 32, 64)), (96, 300, (24, 270, 48, 300))])
def test_an_object_at_the_edge_of_a_squashed_picture_is_found_in_its_place(width, height, box):
    explanation = explain(red_finder(crop_mode="squash"), square(width, height, box))
    assert explanation.crop == (0, 0, width, height)
    heat = explanation.heat_map("attribute 2", "coarse")
    y, x = np.indices(heat.shape) + 0.5
    centre = (heat * x).sum() / heat.sum(), (heat * y).sum() / heat.sum()
    assert centre == pytest.approx(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), abs=12)


def test_heat_maps_follow_the_object_when_it_moves():
    drawn, _ = render(3, 1, 64)
    model = eye(table=shapes_table())
    moved = Image.fromarray(np.roll(np.asarray(drawn), (16, -8), axis=(0, 1)))  # by 2 regions and by 1
    before, after = (explain(model, image).region_maps for image in (drawn, moved))
    assert np.roll(before, (2, -1), axis=(2, 3)) == pytest.approx(after, abs=1e-5)
    assert not np.allclose(before, after, atol=1e-2)


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Mean rank correlation of maps, N x R."""
    ranks = [values.argsort(axis=-1).argsort(axis=-1) for values in (one, other)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


def test_randomising_weights_layer_by_layer_destroys_the_heat_maps():
    """Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: from the experts down to the stem."""
    model = tiny_model(shapes_table())
    image, _ = render(3, 1, 64)
    original = explain(model, image).region_maps.reshape(-1, 16)
    assert spearman(original, explain(model, image).region_maps.reshape(-1, 16)) == pytest.approx(1)
    torch.manual_seed(1)
    parts = [model.experts.parameters(), *(reversed([list(c.parameters()) for c in model.backbone.body.children()]))]
    correlations = []
    for parameters in parts:
        for parameter in parameters:
            torch.nn.init.normal_(parameter, std=0.3)
        model.eval()
        correlations.append(spearman(original, explain(model, image).region_maps.reshape(-1, 16)))
    assert all(abs(correlation) < 0.3 for correlation in correlations), correlations
    backbone_only = tiny_model(shapes_table())
    for parameter in backbone_only.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert abs(spearman(original, explain(backbone_only, image).region_maps.reshape(-1, 16))) < 0.5


class Glance(torch.nn.Module):
    """A backbone of fixed random filters: what is left to learn is which features mean which attribute."""

    def __init__(self, channels: int, regions: int) -> None:
        super().__init__()
        self.filters = torch.nn.Conv2d(3, channels, 3, padding=1).requires_grad_(False)
        torch.nn.init.normal_(self.filters.weight, std=0.4)
        self.pool = torch.nn.AdaptiveAvgPool2d(regions)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.pool(self.filters(pixel_values).relu())


def trained_on_creatures(images_per_class: int = 12, steps: int = 300) -> DEDNForZeroShot:
    """The experts alone learn, from a frozen backbone, so that it takes less than a minute."""
    torch.manual_seed(0)
    recipe = {"center_attributes": True, "normalize_scores": True, "standardize_features": True, "seen_bias": 0.0}
    recipe |= {"initializer_range": 0.02, "loss_classes": "seen", "margin": 0.0, "regression_weight": 1.0}
    model = DEDNForZeroShot.from_timm(None, shapes_table(), image_size=64, feature_shape=[48, 8, 8], **recipe)
    model.backbone = Glance(48, 8)
    labels = torch.tensor(np.nonzero(model.attribute_table.seen)[0]).repeat(images_per_class)
    drawn = [render(label, (5, i), 64)[0] for i, label in enumerate(labels.tolist())]
    pixels = model.image_processor()(images=drawn, return_tensors="pt")["pixel_values"]
    features = model.extract_features(pixels)
    optimizer = torch.optim.AdamW(model.experts.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        model(features=features[batch], labels=labels[batch]).loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def heat_in_boxes(model: DEDNForZeroShot, part: str) -> tuple[float, float]:
    """Mean share of the heat of a part's attributes in the box of this part; and in the box that it has elsewhere.

    Over pairs of new pictures of a class, which differ in where the creature is.
    """
    own, elsewhere = [], []
    table = model.attribute_table
    for label in range(0, 40, 3):
        pair = [render(label, (99, i), 64) for i in range(2)]
        for (image, boxes), (_, other_boxes) in (pair, pair[::-1]):
            explanation = explain(model, image)
            for a, group in enumerate(table.attribute_groups):
                if group == part and table.class_attributes[label, a]:
                    heat = sum(
                        explanation.heat_map(table.attribute_names[a], expert) for expert in explanation.experts
                    )
                    for shares, box in ((own, boxes[part]), (elsewhere, other_boxes[part])):
                        left, top, right, bottom = (round(edge) for edge in box)
                        shares.append(heat[top:bottom, left:right].sum() / heat.sum())
    return float(np.mean(own)), float(np.mean(elsewhere))


@pytest.mark.slow
def test_after_training_heat_follows_the_parts_of_a_creature_until_weights_are_randomised():
    model = trained_on_creatures()
    lead = {}
    for part in ("head", "body"):
        own, elsewhere = heat_in_boxes(model, part)
        assert own > 1.3 * elsewhere, (part, own, elsewhere)
        lead[part] = own - elsewhere
    torch.manual_seed(1)
    for parameter in model.experts.parameters():
        torch.nn.init.normal_(parameter)
    for part in ("head", "body"):
        own, elsewhere = heat_in_boxes(model.eval(), part)
        assert own - elsewhere < lead[part] / 2, (part, lead[part], own, elsewhere)


def test_a_model_without_region_attention_is_explained_without_heat_maps():
    explanation = explain(tiny_model(attentions=["channel"]), picture())
    assert explanation.heat_map_attributes == [] and explanation.to_dict()["heat_maps"] == []
    assert "no heat maps" in explanation.to_html()
    assert explanation.figure().get_axes()
    with pytest.raises(ValueError, match="no region attention"):
        explanation.heat_map("attribute 0", "coarse")


# Corrections ---------------------------------------------------------------------------------------------------------


def test_a_correction_adds_what_the_formula_says(explanation):
    corrected = explanation.correct({"attribute 3": 40})
    scores, directions = explanation.attribute_scores, explanation.class_directions
    evidence = [sum(scores[a] * directions[k, a] for a in range(8)) for k in range(6)]
    most = max(
        *(abs(scores[a]) * (directions[:, a].max() - directions[:, a].min()) for a in range(8)),
        np.sqrt(np.mean(np.square(evidence - np.mean(evidence)))),
    )
    values = explanation.table.class_attributes[:, 3]
    for k in range(6):
        vote = -most * abs(values[k] - 40) / (values.max() - values.min())
        expected = explanation.logits[k] - scores[3] * directions[k, 3] + vote
        assert corrected.logits[k] == pytest.approx(expected)
    comparison = corrected.compare("class 1", "class 2")
    assert comparison.difference == pytest.approx(corrected.logits[1] - corrected.logits[2])
    assert corrected.uncorrected.logits == pytest.approx(explanation.logits)


@pytest.mark.parametrize("config", [PUBLISHED, COSINE], ids=["published", "cosine"])
@pytest.mark.parametrize("seed", range(3))
def test_a_correction_to_a_classs_own_value_never_lowers_it_against_one_of_the_opposite_value(config, seed):
    explanation = explain(tiny_model(**config), picture(seed=seed))
    for a, name in enumerate(explanation.table.attribute_names):
        values = explanation.table.class_attributes[:, a]
        for one, other in ((values.argmin(), values.argmax()), (values.argmax(), values.argmin())):
            after = explanation.correct({name: float(values[one])}).logits
            lead, before = after[one] - after[other], explanation.logits[one] - explanation.logits[other]
            assert lead >= before - 1e-9


def test_the_nearer_the_corrected_value_the_better_for_a_class(explanation):
    values = explanation.table.class_attributes[:, 0]
    top, bottom = int(values.argmax()), int(values.argmin())
    steps = np.linspace(values.min() - 10, values.max() + 10, 30)
    logits = np.array([explanation.correct({"attribute 0": step}).logits for step in steps])
    leads = logits[:, top] - logits[:, bottom]
    assert (np.diff(leads) >= -1e-9).all() and leads[-1] > leads[0]
    assert leads[0] == pytest.approx(leads[1])  # beyond the values of the classes there is nothing to win


def test_an_attribute_that_all_classes_share_changes_nothing_between_them_when_corrected():
    table = small_table()
    table.class_attributes[:, 2] = 7
    explanation = explain(tiny_model(table), picture())
    corrected = explanation.correct({"attribute 2": 50})
    assert not corrected.class_contributions(0)[:, 2].any() and not corrected.class_contributions(5)[:, 2].any()


# As a file -----------------------------------------------------------------------------------------------------------


def test_json_comes_back_as_it_was_and_adds_up(explanation, tmp_path):
    corrected = explanation.correct({"attribute 3": 40})
    for one in (explanation, corrected):
        one.save(tmp_path / "why.json")
        data = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
        assert data == one.to_dict()
        comparison = data["comparison"]
        total = sum(part["contribution"] for part in comparison["attributes"]) + comparison["bias"]
        assert total == pytest.approx(comparison["difference"]) and len(comparison["attributes"]) == 8
        assert sum(comparison["groups"].values()) + comparison["bias"] == pytest.approx(comparison["difference"])
        assert np.array(data["heat_maps"][0]["regions"]).shape == (4, 4)
    assert data["corrections"] == {"attribute 3": 40} and "corrections" not in explanation.to_dict()


EVIL = '<script>alert("1")</script> & $x^{2$'


def with_evil_names(model: DEDNForZeroShot) -> DEDNForZeroShot:
    model.config.id2label = {k: f"{EVIL} {k}" for k in range(model.config.num_labels)}
    model.config.attribute_names = [f"{EVIL} {a}" for a in range(model.config.num_attributes)]
    model.config.attribute_groups = [f"{EVIL} group {a % 2}" for a in range(model.config.num_attributes)]
    return model


class Page(HTMLParser):
    """Tags as they open and close, links and texts of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.sources, self.alts = [], set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "img", "wbr", "br"):
            self.open.append(tag)
        values = dict(attributes)
        self.sources += [values[key] for key in ("src", "href", "data", "action") if key in values]
        if tag == "img":
            self.alts.append(values.get("alt"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_elsewhere_and_escapes_every_name():
    html = explain(with_evil_names(tiny_model()), picture(), corrections={f"{EVIL} 1": 4}).to_html()
    page = Page(html)
    assert not page.open and not page.tags & {"script", "link", "iframe", "object", "base"}
    assert page.sources and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert all(page.alts) and any("% from the top" in alt or "not found" in alt for alt in page.alts)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"data:[^\"]*", "", html))
    assert EVIL not in html and "&lt;script&gt;" in html


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figures_are_files_of_their_kind_whatever_the_names(tmp_path, suffix):
    explanation = explain(with_evil_names(tiny_model()), picture())
    explanation.save(tmp_path / f"why{suffix}")
    start = (tmp_path / f"why{suffix}").read_bytes()[:400]
    assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<svg" in start


def test_the_bars_of_the_figure_add_up_even_where_names_read_alike():
    table = small_table(attributes=20)
    table.attribute_names = [f"has_bill_{'_' * a}::x" for a in range(20)]
    alike = explain(tiny_model(table), picture())
    for name in ("has_wing", "wing"):  # both are spoken "wing"
        alike.table.attribute_names[alike.comparison.strongest(2)[name == "wing"]] = name
    charts = [axes for axes in alike.figure().get_axes() if axes.get_title(loc="left") == "By attribute"]
    (chart,) = charts
    assert [label.get_text() for label in chart.get_yticklabels()].count("wing") == 2
    assert sum(bar.get_width() for bar in chart.patches) == pytest.approx(alike.comparison.difference)


def test_a_page_says_of_every_reason_what_the_picture_seems_to_have_and_what_the_classes_have(explanation):
    corrected = explanation.correct({"attribute 3": 40})
    comparison, table = corrected.comparison, corrected.table
    notes = re.findall(r'<small class="why">([^<]+)</small>', corrected.to_html())
    assert len(notes) == 8
    for a, note in zip(comparison.strongest(8), notes, strict=True):
        seen = "40" if a == 3 else "much" if corrected.attribute_scores[a] > 0 else "little"
        one, other = (
            f"{table.class_names[k]} {table.class_attributes[k, a]:.3g}" for k in (comparison.one, comparison.other)
        )
        assert note == f"picture: {seen} · {one} · {other}"


def test_a_difference_of_logits_is_told_as_a_ratio_of_shares(explanation):
    comparison = explanation.compare("class 4", "class 2")
    ratio = explanation.probabilities[4] / explanation.probabilities[2]
    larger, smaller = ("class 4", "class 2") if ratio >= 1 else ("class 2", "class 4")
    text = odds(explanation, comparison)
    assert text.startswith(f"the share of {larger} is ") and text.endswith(f" times that of {smaller}")
    assert float(text.split(" is ")[1].split()[0]) == pytest.approx(max(ratio, 1 / ratio), rel=0.05)


def test_people_read_names_as_they_say_them_and_may_give_them_so(model, saved, capsys):
    table = small_table()
    table.class_names = ["001.Black_footed_Albatross", "017.Cardinal", "grizzly+bear", *table.class_names[3:]]
    table.attribute_names = ["has_bill_shape::hooked", "has_Wing", "wing", *table.attribute_names[3:]]
    explanation = explain(tiny_model(table), picture(), corrections={"Bill shape: hooked": 3}, against="cardinal")
    assert explanation.class_titles[:3] == ["Black footed Albatross", "Cardinal", "grizzly bear"]
    assert explanation.comparison.other == 1 and dict(explanation.corrections) == {"has_bill_shape::hooked": 3}
    assert "not Cardinal?" in explanation.to_text() and "017." not in explanation.to_html()
    assert explanation.to_dict()["comparison"]["against"] == "017.Cardinal"
    with pytest.raises(ValueError, match="no attribute 'WING'"):  # two are said so
        explanation.correct({"WING": 3})
    with pytest.raises(ValueError, match="no attribute 'hooked'. Did you mean 'has_bill_shape::hooked'"):
        explanation.correct({"hooked": 3})
    explanation.table.class_names[1] = "002.Black_footed_Albatross"
    assert replace(explanation).class_titles == explanation.table.class_names  # else two would be alike


def test_after_a_correction_the_title_names_the_new_answer(explanation):
    best = explanation.ranking[0]
    values = explanation.table.class_attributes[explanation.ranking[-1]]
    corrected = explanation.correct(dict(zip(explanation.table.attribute_names, values.tolist(), strict=True)))
    new = corrected.class_titles[corrected.ranking[0]]
    assert corrected.ranking[0] != best
    assert f"<h1>Why {new}, and not" in corrected.to_html()
    asked = replace(corrected, compared_classes=(explanation.table.class_names[best], None))
    assert f"<title>The answer is now {new}. Why {explanation.class_titles[best]}, and not {new}?" in asked.to_html()
    assert "The answer is now" not in asked.uncorrected.to_html()
    unchanged = asked.correct({"attribute 3": float(explanation.table.class_attributes[best, 3])})
    other = replace(unchanged, compared_classes=(explanation.table.class_names[explanation.ranking[1]], None))
    assert other.ranking[0] == best and "The answer is now" not in other.to_html()


@pytest.mark.parametrize("compared", [(None, None), ("old", None), (None, "old"), (None, "new")])
def test_after_a_correction_every_format_names_the_new_answer(explanation, compared, tmp_path):
    table, best = explanation.table, explanation.ranking[0]
    values = table.class_attributes[explanation.ranking[-1]]
    corrected = explanation.correct(dict(zip(table.attribute_names, values.tolist(), strict=True)))
    new = table.class_names[corrected.ranking[0]]
    assert new != table.class_names[best]
    names = {None: None, "old": table.class_names[best], "new": new}
    corrected = replace(corrected, compared_classes=tuple(names[name] for name in compared))
    assert corrected.to_dict()["answer"] == corrected.answer == new
    title = re.search("<title>(.*)</title>", corrected.to_html())[1]
    asks_for_it = title.startswith(f"Why {new}, ")
    assert asks_for_it or title.startswith(f"The answer is now {new}. Why ")
    assert f"<h1>{title}</h1>" in corrected.to_html() and title in corrected.to_text()
    assert title in " ".join(corrected.figure().get_suptitle().split())


def test_of_a_picture_of_something_else_the_title_says_so(model, monkeypatch):
    monkeypatch.setattr(model.config, "none_of_these", [1.0, 1e9])
    assert explain(model, picture()).unknown is None
    found = explain(model, picture(), min_confidence=0)
    assert "Unknown: the picture seems to show none of these classes; most like it is" in found.to_text()
    assert (found.to_dict()["answer"], found.to_dict()["reason"]) == ("unknown", "none of these")
    assert found.correct({"attribute 3": 1.0}).unknown is None  # who corrects it sees one of the classes


def test_below_the_confidence_the_title_says_unknown(model, saved, capsys):
    sure = explain(model, picture())
    best = sure.probabilities[sure.ranking[0]]
    assert not sure.unknown and not sure.to_text().count("Unknown") and sure.to_dict()["answer"] != "unknown"
    unsure = explain(model, picture(), min_confidence=float(best) + 0.001)
    said = f"Unknown: {unsure.class_titles[unsure.ranking[0]]} has {best:.1%}, and an answer needs {best + 0.001:.1%}."
    assert said in unsure.to_text() and f"<title>{said} Why" in unsure.to_html()
    assert unsure.to_dict()["answer"] == "unknown" and unsure.to_dict()["reason"] == "not sure"
    command = ["explain", str(saved / "model"), str(saved / "bird.png")]
    assert main([*command, "--min-confidence", "1"]) == 0
    assert "Unknown: " in capsys.readouterr().out
    assert main([*command, "--precision", "0.9"]) == 2
    assert "trained without thresholds" in capsys.readouterr().err


def test_a_picture_is_never_much_higher_than_a_screen(model):
    html = explain(model, picture(8, 400)).to_html()
    assert re.search(r'class="photo" style="width:min\(100%, 0\.56rem\)"', html)


def test_a_grey_picture_of_16_bits_is_the_same_as_of_8(model):
    grey = picture().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert explain(model, deep).logits == pytest.approx(explain(model, grey).logits)


def test_the_numbers_say_what_they_mean_and_what_they_were_made_with(saved):
    explanation = explain(load_model(str(saved / "model")), saved / "bird.png", corrections={"attribute 3": 40})
    data = explanation.to_dict()
    assert set(data) - {"about", "classes_before"} == set(data["about"])
    assert data["origin"] == {"model": "model", "dedn_hf": dedn_hf.__version__, "image": "bird.png"}
    assert "image bird.png, model model" in explanation.to_html()


# The command, and what goes wrong ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    model.save_pretrained(folder / "model")
    picture().save(folder / "bird.png")
    return folder


def test_the_command_prints_or_writes_what_python_gives(saved, explanation, capsys):
    model, image = str(saved / "model"), str(saved / "bird.png")
    assert main(["explain", model, image]) == 0
    assert capsys.readouterr().out == explanation.to_text() + "\n"
    options = ["--class", "class 1", "--against", "class 5", "--attribute", "attribute 6", "--set", "attribute 3=40"]
    for suffix in ("json", "html", "png", "svg"):
        assert main(["explain", model, image, *options, "--top-k", "3", "--out", str(saved / f"why.{suffix}")]) == 0
        assert (saved / f"why.{suffix}").stat().st_size
    data = json.loads((saved / "why.json").read_text(encoding="utf-8"))
    expected = explanation.correct({"attribute 3": 40}).compare("class 1", "class 5")
    assert data["comparison"]["difference"] == pytest.approx(expected.difference)
    assert len(data["classes"]) == 3 and {heat["attribute"] for heat in data["heat_maps"]} == {"attribute 6"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "clas 1"], "no class 'clas 1'. Did you mean 'class 1'"),
        (["--against", "clas 1"], "no class 'clas 1'. Did you mean 'class 1'"),
        (["--class", "class 1", "--against", "Class_1"], "'class 1' and 'Class_1' are one class; name two"),
        (["--class", "xyzzy"], "no class 'xyzzy'. It has 6, the first are 'class 0', 'class 1', 'class 2'"),
        (["--attribute", "atribute 1"], "no attribute 'atribute 1'. Did you mean 'attribute 1'"),
        (["--set", "atribute 1=3"], "no attribute 'atribute 1'. Did you mean 'attribute 1'"),
        (["--set", "attribute 1"], "is not NAME=VALUE"),
        (["--set", "=80"], "is not NAME=VALUE"),
        (["--set", "80"], "is not NAME=VALUE"),
        (["--set", "attribute 1=8", "--set", "attribute 1=9"], "corrects an attribute twice"),
        (["--set", "attribute 1=nan"], "give a number, in the table's scale"),
        (["--top-k", "0"], "must be 1 or more"),
        (["--out", "why.pdf"], "ends in '.pdf'; give one of .png, .svg, .json, .html"),
        (["--out", "why"], "has no suffix; give one of"),
        (["--out", "nowhere/why.html"], "There is no folder nowhere to write why.html to. Make it"),
    ],
)
def test_errors_say_what_to_do(saved, capsys, options, message):
    assert main(["explain", str(saved / "model"), str(saved / "bird.png"), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_broken_image_is_refused(saved, capsys):
    (saved / "broken.png").write_bytes((saved / "bird.png").read_bytes()[:100])
    assert main(["explain", str(saved / "model"), str(saved / "broken.png")]) == 2
    assert "does not decode" in capsys.readouterr().err
    assert main(["explain", str(saved / "model"), str(saved / "missing.png")]) == 2
    assert "neither a file" in capsys.readouterr().err
    assert main(["explain", str(saved / "model"), str(saved)]) == 2
    assert "is a folder. Give one image" in capsys.readouterr().err


def test_a_folder_is_no_file_to_write_to_and_nothing_is_left_of_an_attempt(explanation, tmp_path):
    (tmp_path / "why.html").mkdir()
    with pytest.raises(ValueError, match="is a folder. Give the name of a file"):
        explanation.save(tmp_path / "why.html")
    assert [path.name for path in tmp_path.iterdir()] == ["why.html"]


def test_a_model_in_training_or_without_a_backbone_is_not_explained():
    with pytest.raises(ValueError, match="call model.eval"):
        explain(tiny_model().train(), picture())
    model = eye()
    model.backbone = None
    with pytest.raises(ValueError, match="no backbone"):
        explain(model, picture())


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    picture_file = tmp_path / "bird.png"
    picture().save(picture_file)
    assert main(["explain", str(tmp_path / "none"), str(picture_file)]) == 2
    assert "none is neither the folder of a model nor the id of one on the Hub" in capsys.readouterr().err
