"""The networks do what the method says, formula by formula, and behave like any other transformers model."""

import json

import pytest
import torch
from torch.nn import functional as F

from dedn_hf import DEDNConfig, DEDNForZeroShot
from dedn_hf.modeling import modeling_dedn
from dedn_hf.modeling.backbone import create_body
from dedn_hf.modeling.experts import (
    Expert,
    FrozenFeatureChannelAttention,
    FrozenFeatureRegionAttention,
    channel_attention,
    distillation_loss,
    jensen_shannon,
    margin_loss,
    permute_rows,
    region_attention,
    regression_loss,
    self_calibration_loss,
)
from tests.tables import small_table

SHAPE = [12, 3, 5]
MANY_GROUPS = ["wing", "head", "wing", "tail", "head", "wing", "leg", "wing"]  # of unequal sizes, interleaved
VARIANTS = {
    "two groups": {},
    "one group": {"attribute_groups": ["all"] * 8},
    "many groups": {"attribute_groups": MANY_GROUPS},
    "a group an attribute": {"attribute_groups": list("abcdefgh")},
    "a factorised region value": {"query_rank": 3, "attribute_groups": MANY_GROUPS},
    "one region": {"feature_shape": [12, 1, 1]},
    "tall maps": {"feature_shape": [7, 9, 2]},
    "cosine logits": {"normalize_scores": True, "center_attributes": True},
}


def randomise_keys(model: DEDNForZeroShot) -> DEDNForZeroShot:
    """Keys start at 0, where every attention is uniform and hides mistakes."""
    for name, parameter in model.experts.named_parameters():
        if name.endswith("_key"):
            torch.nn.init.normal_(parameter, std=3)
    return model


def feature_model(**config) -> DEDNForZeroShot:
    torch.manual_seed(0)
    config = {"feature_shape": SHAPE, **config}
    return randomise_keys(DEDNForZeroShot.from_timm(None, small_table(), **config)).train()


def image_model(backbone: str = "test_resnet", image_size: int = 32, **config) -> DEDNForZeroShot:
    torch.manual_seed(0)
    model = DEDNForZeroShot.from_timm(backbone, small_table(), image_size=image_size, pretrained=False, **config)
    return randomise_keys(model).train()


def feature_maps(model: DEDNForZeroShot, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, *model.config.feature_shape, generator=torch.Generator().manual_seed(1))


def images(model: DEDNForZeroShot, batch: int = 4) -> torch.Tensor:
    size = model.config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def labels(batch: int = 4) -> torch.Tensor:
    return torch.arange(batch) % 4


def gradients(model: DEDNForZeroShot, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs, labels=labels()).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed features", "features with a gradient"])
def test_fused_and_plain_attention_give_the_same_scores_and_gradients(variant, fixed):
    model = feature_model(**VARIANTS[variant])
    results = {}
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        features = feature_maps(model).requires_grad_(not fixed)
        of_weights = gradients(model, features=features)
        of_features = {} if fixed else {"features": features.grad}
        results[name] = {"scores": model.dual_attention(features)[0], **of_features, **of_weights}
    assert set(results["sdpa"]) == set(results["eager"]) >= {"experts.fine.channel_key", "experts.coarse.region_key"}
    for key, fused in results["sdpa"].items():
        torch.testing.assert_close(fused, results["eager"][key], rtol=1e-4, atol=1e-5, msg=key)


# Mirror images -----------------------------------------------------------------------------------------------------


def halves_of(model: DEDNForZeroShot, pixels: torch.Tensor) -> list:
    """What the model gives for images and for their mirror images, each by itself."""
    model.config.flip_test = False
    halves = [model(side, output_attentions=True) for side in (pixels, pixels.flip(-1))]
    model.config.flip_test = True
    return halves


@torch.no_grad()
def test_with_flip_test_evaluation_is_the_mean_over_the_image_and_its_mirror_image():
    model = image_model().eval()
    pixels = images(model)
    plain, mirrored = halves_of(model, pixels)
    assert not torch.allclose(plain.logits, mirrored.logits, rtol=1e-3)
    output = model(pixels, output_attentions=True)
    torch.testing.assert_close(output.logits, (plain.logits + mirrored.logits) / 2)
    torch.testing.assert_close(output.attribute_scores, (plain.attribute_scores + mirrored.attribute_scores) / 2)
    torch.testing.assert_close(model.score_attributes(pixels), output.attribute_scores)
    torch.testing.assert_close(model(pixels.flip(-1)).logits, output.logits)
    shape = model.config.feature_shape[1:]
    back = mirrored.region_maps.unflatten(-1, shape).flip(-1).flatten(-2)
    torch.testing.assert_close(output.region_maps, (plain.region_maps + back) / 2)


def test_with_flip_test_training_sees_the_image_alone():
    model = image_model(flip_test=True)
    loss = model(images(model), labels=labels()).loss
    model.config.flip_test = False
    assert torch.equal(loss, model(images(model), labels=labels()).loss)


@torch.no_grad()
def test_with_flip_test_features_come_in_pairs():
    model = image_model(flip_test=True).eval()
    pixels = images(model)
    sides = [model.extract_features(side) for side in (pixels, pixels.flip(-1))]
    torch.testing.assert_close(model(features=torch.stack(sides, dim=1)).logits, model(pixels).logits)
    with pytest.raises(ValueError, match=r"this model takes B x 2 x .*mirror image \(config.flip_test\)"):
        model(features=sides[0])


@pytest.mark.parametrize("numbers", [1, 3 * 5 * 2, 2**20], ids=["an image", "two images", "all"])
def test_the_derivatives_that_come_with_the_scores_are_those_of_the_attention(numbers, monkeypatch):
    monkeypatch.setitem(FrozenFeatureChannelAttention.chunk, "cpu", numbers)
    keys, values = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    features = torch.randn(3, 5, 4, dtype=torch.float64)  # 3 images, 5 channels, 4 regions
    torch.autograd.gradcheck(lambda k, v: FrozenFeatureChannelAttention.apply(k, v, features), (keys, values))
    plain = channel_attention(features.transpose(0, 1), keys, values, fused=False)
    torch.testing.assert_close(FrozenFeatureChannelAttention.apply(keys, values, features), plain)


def test_the_derivatives_of_scores_and_maps_of_the_region_attention_are_those_of_autograd():
    keys, values = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    features = torch.randn(4, 2, 5, dtype=torch.float64)  # 4 channels, 2 images, 5 regions
    for used in (slice(2), slice(1), slice(1, 2)):  # scores and maps, scores, maps
        torch.autograd.gradcheck(lambda k, v: FrozenFeatureRegionAttention.apply(k, v, features)[used], (keys, values))  # noqa: B023
    by_autograd = region_attention(features.clone().requires_grad_(), keys, values)
    torch.testing.assert_close(region_attention(features, keys, values), by_autograd)


def test_under_autocast_fixed_features_give_the_plain_versions_scores_and_gradients_roughly():
    model, results = feature_model(), {}
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        with torch.autocast("cpu", torch.bfloat16):
            results[name] = gradients(model, features=feature_maps(model))
    for key, fused in results["sdpa"].items():
        assert fused.dtype == torch.float32
        torch.testing.assert_close(fused, results["eager"][key], rtol=0.05, atol=0.05 * fused.abs().max(), msg=key)


def test_reordering_by_a_permutation_has_the_derivative_of_indexing():
    rows, order = torch.randn(5, 2, dtype=torch.float64, requires_grad=True), torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(permute_rows(rows, order, order.argsort()), rows[order])
    torch.autograd.gradcheck(lambda rows: permute_rows(rows, order, order.argsort()), rows)


def dual_attention_as_written(maps, embeddings, region_value, region_key, channel_value, channel_key):
    """One DAN, line by line: F is B x C x R, the scores s_r and s_c are B x A."""
    by_channel = maps.transpose(1, 2)
    alpha = (embeddings @ region_key @ maps).softmax(dim=2)
    region_map = embeddings @ region_value @ maps
    beta = (embeddings @ channel_key @ by_channel).softmax(dim=2)
    channel_map = embeddings @ channel_value @ by_channel
    return (alpha * region_map).sum(dim=2), (beta * channel_map).sum(dim=2)


@pytest.mark.parametrize("variant", ["two groups", "many groups", "a factorised region value"])
def test_scores_are_those_of_one_attention_network_a_group(variant):
    model = feature_model(**VARIANTS[variant])
    features = feature_maps(model)
    scores, _ = model.dual_attention(features)
    maps = features.flatten(2) / features.flatten(2).norm(dim=1, keepdim=True)
    for i, name in enumerate(("coarse", "fine")):
        expert = model.experts[name]
        groups = ["all"] * 8 if name == "coarse" else model.config.attribute_groups
        for g, group in enumerate(dict.fromkeys(groups)):
            members = [a for a in range(8) if groups[a] == group]
            down_up = (expert.region_value_down[g] @ expert.region_value_up[g]) if expert.rank else None
            region_value = expert.region_value[g] if down_up is None else down_up
            matrices = (region_value, expert.region_key[g], expert.channel_value[g], expert.channel_key[g])
            expected = dual_attention_as_written(maps, expert.attribute_embeddings[members], *matrices)
            for attention in range(2):
                torch.testing.assert_close(scores[:, i, attention, members], expected[attention], rtol=1e-4, atol=1e-5)


def test_a_factorised_region_value_has_the_rank_it_is_given_and_starts_with_variance_one():
    torch.manual_seed(0)
    model = DEDNForZeroShot(DEDNConfig(feature_shape=[200, 1, 1], embedding_size=150, query_rank=40))
    expert = model.experts["coarse"]
    product = expert.region_value_down[0] @ expert.region_value_up[0]
    assert torch.linalg.matrix_rank(product) == 40
    assert product.std().item() == pytest.approx(1, rel=0.1)


def test_a_new_model_attends_uniformly_with_values_of_variance_one():
    torch.manual_seed(0)
    expert = DEDNForZeroShot.from_timm(None, small_table(), feature_shape=[300, 4, 4]).experts["fine"]
    assert not expert.region_key.any() and not expert.channel_key.any()
    assert expert.region_value.std().item() == pytest.approx(1, rel=0.1)


def test_region_maps_sum_to_the_region_scores():
    model = feature_model()
    features = feature_maps(model)
    scores, _ = model.dual_attention(features)
    maps = model(features=features, output_attentions=True).region_maps
    assert maps.shape == (4, 2, 8, 15)
    torch.testing.assert_close(maps.sum(-1), scores[:, :, 0])
    assert model(features=features).region_maps is None


def test_scores_do_not_depend_on_the_length_of_the_feature_vectors():
    model = feature_model()
    features = feature_maps(model)
    torch.testing.assert_close(model(features=5 * features).logits, model(features=features).logits)


def test_attentions_are_added_in_training_and_weighted_in_evaluation():
    model = feature_model(region_weight=0.7, coarse_weight=0.9, calibration_bias=0.25)
    features = feature_maps(model)
    scores, _ = model.dual_attention(features)
    unseen = ~model.seen
    bias = torch.where(model.seen, -1.0, 1.0)
    attributes = F.normalize(torch.from_numpy(small_table().class_attributes), dim=1)
    for mode, mixed in (
        ("train", scores[:, :, 0] + scores[:, :, 1]),
        ("eval", 0.7 * scores[:, :, 0] + 0.3 * scores[:, :, 1]),
    ):
        output = getattr(model, mode)()(features=features)
        coarse, fine = (mixed[:, i] @ attributes.T + bias for i in range(2))
        torch.testing.assert_close(output.coarse_logits, coarse, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.fine_logits, fine, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.logits, 0.9 * coarse + 0.1 * fine + 0.25 * unseen, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            output.attribute_scores, 0.9 * mixed[:, 0] + 0.1 * mixed[:, 1], rtol=1e-4, atol=1e-4
        )


def test_the_loss_is_the_same_in_training_and_in_evaluation():
    model = feature_model(region_weight=0.7)
    inputs = {"features": feature_maps(model), "labels": labels()}
    torch.testing.assert_close(model.train()(**inputs).loss, model.eval()(**inputs).loss)


def test_normalised_scores_give_cosine_logits_times_the_scale():
    model = feature_model(normalize_scores=True, logit_scale=7.0, seen_bias=0.0)
    features = feature_maps(model)
    scores, attributes = model.dual_attention(features)[0].sum(2), torch.from_numpy(small_table().class_attributes)
    cosine = F.cosine_similarity(scores[:, 0, None], attributes[None], dim=2)
    torch.testing.assert_close(model(features=features).coarse_logits, 7 * cosine, rtol=1e-4, atol=1e-5)


def test_centred_attributes_are_taken_from_the_mean_of_the_seen_classes():
    model = feature_model(center_attributes=True, seen_bias=0.0)
    raw = torch.from_numpy(small_table().class_attributes)
    centred = F.normalize(raw - raw[:4].mean(0), dim=1)
    features = feature_maps(model)
    expected = model.dual_attention(features)[0].sum(2)[:, 0] @ centred.T
    torch.testing.assert_close(model(features=features).coarse_logits, expected, rtol=1e-4, atol=1e-4)
    model.set_classes(small_table().select(["class 5", "class 0"]))
    torch.testing.assert_close(model.normalized_class_attributes(), centred[[5, 0]], rtol=1e-4, atol=1e-5)


def test_feature_dropout_acts_in_training_only():
    model = feature_model(feature_dropout=0.5)
    features = feature_maps(model)
    assert not torch.equal(model(features=features).logits, model(features=features).logits)
    model.eval()
    assert torch.equal(model(features=features).logits, model(features=features).logits)


# Losses -----------------------------------------------------------------------------------------------------------

SEEN = torch.tensor([True, True, False, True, False])


def random_logits(seed: int = 0, batch: int = 6, size: int = 5) -> torch.Tensor:
    return 3 * torch.randn(batch, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGETS = torch.tensor([0, 1, 3, 3, 0, 1])


def margin_loss_as_written(z, targets, seen, delta, classes):
    total = 0.0
    for row, label in zip(z.tolist(), targets.tolist(), strict=True):
        u = [value + 1 if is_seen else value - 1 for value, is_seen in zip(row, seen.tolist(), strict=True)]  # z - m
        u = [value + 1 if is_seen else value for value, is_seen in zip(u, seen.tolist(), strict=True)]
        u[label] -= delta
        u = torch.tensor(u, dtype=torch.float64)
        total += u[classes].exp().sum().log() - u[label]
    return total / len(z)


@pytest.mark.parametrize("delta", [0.0, 2.0, 3.0])
def test_the_margin_loss_is_its_formula(delta):
    z = random_logits()
    expected = margin_loss_as_written(z, TARGETS, SEEN, delta, torch.arange(5))
    torch.testing.assert_close(margin_loss(z, TARGETS, SEEN, delta), expected)


def test_the_margin_loss_among_seen_classes_ignores_the_unseen_ones():
    z = random_logits()
    expected = margin_loss_as_written(z, TARGETS, SEEN, 2.0, SEEN.nonzero()[:, 0])
    torch.testing.assert_close(margin_loss(z, TARGETS, SEEN, 2.0, seen_only=True), expected)
    z[:, ~SEEN] += 100
    torch.testing.assert_close(margin_loss(z, TARGETS, SEEN, 2.0, seen_only=True), expected)


def test_label_smoothing_spreads_the_target_over_the_classes():
    z = random_logits()
    plain = margin_loss(z, TARGETS, SEEN, 0.0)
    u = z + SEEN * 2.0 - (~SEEN) * 1.0
    uniform = -u.log_softmax(1).mean()
    torch.testing.assert_close(margin_loss(z, TARGETS, SEEN, 0.0, label_smoothing=0.2), 0.8 * plain + 0.2 * uniform)


def test_self_calibration_is_the_negative_log_of_the_mean_mass_on_unseen_classes():
    z = random_logits()
    mass = (z.exp()[:, ~SEEN].sum(1) / z.exp().sum(1)).mean()
    torch.testing.assert_close(self_calibration_loss(z, SEEN), -mass.log())


def distillation_as_written(first, second):
    distances, divergences = [], []
    for p, q in zip(first, second, strict=True):
        d = p - q
        distances.append((d.abs() ** 3).sum() / d.norm())
        p, q = p.exp() / p.exp().sum(), q.exp() / q.exp().sum()
        middle = (p + q) / 2
        divergences.append(((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2)
    return torch.stack(distances).mean() + torch.stack(divergences).mean()


def test_distillation_is_its_formula():
    first, second = random_logits(1), random_logits(2)
    torch.testing.assert_close(distillation_loss(first, second), distillation_as_written(first, second))


def test_distillation_is_symmetric_and_zero_with_finite_gradients_where_both_agree():
    first, second = random_logits(1), random_logits(2)
    torch.testing.assert_close(distillation_loss(first, second), distillation_loss(second, first))
    twin = first.clone().requires_grad_()
    loss = distillation_loss(twin, first)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-8)  # rounding of the logarithms
    assert torch.isfinite(twin.grad).all()


def test_the_jensen_shannon_divergence_lies_between_zero_and_log_two():
    certain = torch.tensor([[100.0, 0.0, 0.0]])
    torch.testing.assert_close(jensen_shannon(certain, certain.roll(1, 1)), torch.tensor(2.0).log())


def test_the_regression_loss_is_the_cosine_distance():
    scores, targets = random_logits(1), random_logits(2)
    cosine = torch.stack([p @ q / (p.norm() * q.norm()) for p, q in zip(scores, targets, strict=True)])
    torch.testing.assert_close(regression_loss(scores, targets), (1 - cosine).mean())


def test_the_loss_is_the_weighted_sum_of_the_terms():
    weights = {"calibration_weight": 0.3, "distillation_weight": 0.2, "alignment_weight": 0.05}
    model = feature_model(regression_weight=0.7, margin_weight=1.1, **weights)
    output = model(features=feature_maps(model), labels=labels())
    terms = output.losses
    assert set(terms) == {
        f"{expert}.{kind}"
        for expert in ("coarse", "fine")
        for kind in ("margin", "calibration", "regression", "alignment")
    } | {"distillation"}
    expected = 0.2 * terms["distillation"]
    for expert in ("coarse", "fine"):
        expected = expected + 1.1 * terms[f"{expert}.margin"] + 0.3 * terms[f"{expert}.calibration"]
        expected = expected + 0.05 * terms[f"{expert}.alignment"] + 0.7 * terms[f"{expert}.regression"]
    torch.testing.assert_close(output.loss, expected)


def test_the_defaults_are_the_published_weights():
    config = DEDNConfig()
    assert (config.distillation_weight, config.alignment_weight, config.regression_weight) == (0.1, 0.001, 0)
    assert (config.seen_bias, config.initializer_range, config.loss_classes, config.label_smoothing) == (
        1,
        1,
        "all",
        0,
    )


# Ablations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [["coarse"], ["fine"], ["coarse", "fine"]])
@pytest.mark.parametrize("attentions", [["region"], ["channel"], ["region", "channel"]])
@pytest.mark.parametrize("extra", [{}, {"query_rank": 2, "normalize_scores": True, "loss_classes": "seen"}])
def test_every_ablation_gives_a_finite_loss_and_a_gradient_to_every_parameter(experts, attentions, extra):
    model = feature_model(experts=experts, attentions=attentions, **extra)
    features = feature_maps(model)
    loss = model(features=features, labels=labels()).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    output = model.eval()(features=features, output_attentions=True)
    assert (output.region_maps is not None) == ("region" in attentions)
    assert (output.coarse_logits is not None) == ("coarse" in experts)
    assert (output.fine_logits is not None) == ("fine" in experts)
    if len(experts) == 1:
        torch.testing.assert_close(output.logits, output[f"{experts[0]}_logits"])


def test_an_ablation_has_the_same_weights_after_loading(tmp_path):
    model = feature_model(experts=["fine"], attentions=["channel"]).eval()
    model.save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path)
    assert torch.equal(loaded(features=feature_maps(model)).logits, model(features=feature_maps(model)).logits)


# Classes ----------------------------------------------------------------------------------------------------------


def test_attributes_are_matched_by_name_when_classes_are_set():
    model = feature_model().eval()
    features, table = feature_maps(model), small_table()
    expected = model(features=features).logits
    model.set_classes(table.select_attributes(table.attribute_names[::-1]))
    assert torch.equal(model(features=features).logits, expected)


def test_new_unseen_classes_leave_the_logits_of_the_others_as_they_were():
    model = feature_model().eval()
    features, table = feature_maps(model), small_table()
    expected = model(features=features).logits
    more = small_table(classes=9, unseen=3)
    more.class_attributes[:6] = table.class_attributes
    more.roles[:6] = table.roles
    model.set_classes(more)
    logits = model(features=features).logits
    assert logits.shape == (4, 9)
    torch.testing.assert_close(logits[:, :6], expected)


def test_setting_classes_renames_the_labels_and_is_kept_when_saved(tmp_path):
    model = feature_model().eval()
    fewer = small_table().select(["class 5", "class 1"])
    model.set_classes(fewer)
    assert model.config.num_labels == 2
    assert model.config.id2label == {0: "class 5", 1: "class 1"}
    assert model.config.label2id == {"class 5": 0, "class 1": 1}
    model.save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path)
    assert loaded.attribute_table.class_names == ["class 5", "class 1"]
    assert loaded.attribute_table.roles == ["unseen", "train"]
    assert torch.equal(loaded(features=feature_maps(model)).logits, model(features=feature_maps(model)).logits)


def test_the_attribute_table_of_a_model_is_the_one_it_was_given():
    table, model = small_table(), feature_model()
    own = model.attribute_table
    for name in ("class_names", "attribute_names", "attribute_groups", "roles"):
        assert getattr(own, name) == getattr(table, name)
    assert own.class_attributes.tobytes() == table.class_attributes.tobytes()
    model.set_classes(own)
    assert model.class_attributes.numpy().tobytes() == table.class_attributes.tobytes()


def test_changing_the_model_leaves_the_table_as_it_was():
    table = small_table()
    model = DEDNForZeroShot.from_timm(None, table, feature_shape=SHAPE)
    model.class_attributes.zero_()
    assert table.class_attributes.all()


def test_classes_that_lack_an_attribute_of_the_model_are_refused_with_near_names():
    table = small_table()
    misspelt = table.replace(attribute_names=["atribute 0", *table.attribute_names[1:]])
    for wrong in (misspelt, table.select_attributes(table.attribute_names[1:])):
        with pytest.raises(ValueError, match="1 attribute.*not in the table, first 'attribute 0'"):
            feature_model().set_classes(wrong)


# Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [[0, 6], [-1, 0]])
def test_labels_outside_the_classes_are_refused(wrong):
    model = feature_model()
    with pytest.raises(ValueError, match="6 classes, 0 to 5.*id2label"):
        model(features=feature_maps(model, 2), labels=torch.tensor(wrong))


def test_exactly_one_input_is_needed():
    model = image_model()
    with pytest.raises(ValueError, match="either pixel_values .* or features"):
        model()
    with pytest.raises(ValueError, match="either pixel_values .* or features"):
        model(pixel_values=images(model), features=feature_maps(model))


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (2, 1, 32, 32), (3, 32, 32)])
def test_images_unlike_the_models_are_refused_with_the_remedy(shape):
    with pytest.raises(ValueError, match=r"B x 3 x 32 x 32.*model.image_processor\(\)"):
        image_model()(pixel_values=torch.zeros(shape))


def test_features_unlike_the_models_are_refused():
    with pytest.raises(ValueError, match=r"features have shape \(2, 12, 5, 3\).*B x 12 x 3 x 5"):
        feature_model()(features=torch.zeros(2, 12, 5, 3))


def test_pixels_without_a_backbone_are_refused():
    with pytest.raises(ValueError, match="no backbone.*features="):
        feature_model()(pixel_values=torch.zeros(2, 3, 32, 32))


def test_an_unknown_backbone_is_answered_with_near_names():
    with pytest.raises(ValueError, match="no model 'resnet10'.*Did you mean .*resnet10"):
        image_model("resnet10")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"experts": ["medium"]}, "experts is .*'medium'.*coarse, fine"),
        ({"experts": []}, "experts is .*coarse, fine"),
        ({"attentions": ["region", "region"]}, "attentions is .*region, channel"),
        ({"loss_classes": "unseen"}, "loss_classes is .*'unseen'.*all, seen"),
        ({"feature_source": "neck"}, "feature_source is .*'neck'.*stage, head"),
        ({"feature_shape": [3, 4]}, "feature_shape is .*channels, height, width"),
        ({"region_weight": 1.5}, "region_weight is 1.5.*between 0 and 1"),
        ({"coarse_weight": -0.5}, "coarse_weight is -0.5.*between 0 and 1"),
        ({"query_rank": 0}, "query_rank is 0"),
        ({"attribute_groups": ["one"], "attribute_names": ["a", "b"]}, "attribute_groups names 1.*attribute_names 2"),
    ],
)
def test_values_that_a_configuration_does_not_know_are_refused(config, expected):
    with pytest.raises(ValueError, match=expected):
        DEDNConfig(**config)


# The backbone -----------------------------------------------------------------------------------------------------


def statistics(model: DEDNForZeroShot) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}


def changed(before: dict[str, torch.Tensor], model: DEDNForZeroShot) -> set[str]:
    return {name for name, buffer in model.backbone.named_buffers() if not torch.equal(buffer, before[name])}


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics_in_training():
    model = image_model()
    before = statistics(model)
    found = gradients(model, pixel_values=images(model))
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not any(name.startswith("backbone") for name in found)
    assert any("running_mean" in name for name in before) and not changed(before, model)


def test_an_unfrozen_backbone_is_trained_statistics_included():
    model = image_model()
    model.unfreeze_backbone()
    model.train()
    before = statistics(model)
    found = gradients(model, pixel_values=images(model))
    assert {name for name, _ in model.backbone.named_parameters()} == {
        name.removeprefix("backbone.") for name in found if name.startswith("backbone.")
    }
    assert any("running_mean" in name for name in changed(before, model))
    model.freeze_backbone()
    assert not changed(statistics(model), model) and not model.backbone.training and model.training


def test_frozen_stages_keep_weights_and_statistics_while_the_rest_is_trained():
    model = image_model()
    model.unfreeze_backbone()
    model.backbone.freeze_stages(["conv1", "bn1", "layer1"])
    model.train()
    before = statistics(model)
    found = gradients(model, pixel_values=images(model))
    trained = {name.split(".")[2] for name in found if name.startswith("backbone.")}
    moved = {name.split(".")[1] for name in changed(before, model)}
    assert trained == moved == {"layer2", "layer3", "layer4"}


def test_batch_statistics_can_be_kept_while_the_weights_are_trained():
    model = image_model()
    model.unfreeze_backbone()
    model.backbone.freeze_stages([], batch_norm=True)
    model.train()
    before = statistics(model)
    assert "backbone.body.layer1.0.bn1.weight" in gradients(model, pixel_values=images(model))
    assert not changed(before, model)


def test_a_stage_is_frozen_by_its_whole_name_and_an_unknown_one_is_refused():
    model = image_model("vit_tiny_patch16_224", depth := 32, backbone_kwargs={"depth": 11, "img_size": depth})
    model.unfreeze_backbone()
    model.backbone.freeze_stages(["model.blocks.1"])
    frozen = {name.split(".")[3] for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"1"}
    with pytest.raises(ValueError, match="no stage 'block'; it has .*model.blocks"):
        model.backbone.freeze_stages(["block"])


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("backbone", "size"), [("resnet10t", 32), ("vit_tiny_patch16_224", 32)])
def test_gradient_checkpointing_changes_no_gradient(backbone, size):
    model = image_model(backbone, size)
    model.unfreeze_backbone()
    model.eval()  # batch statistics would move between the two passes
    expected = gradients(model, pixel_values=images(model))
    counter = RunsAgain(model)
    for parameter in model.parameters():
        parameter.grad = None
    model.gradient_checkpointing_enable()
    with counter:
        found = gradients(model, pixel_values=images(model))
    assert counter.runs_again, "nothing was checkpointed"
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    model.gradient_checkpointing_disable()


class RunsAgain:
    """Counts how often a block of the backbone runs again in the backward pass."""

    def __init__(self, model):
        self.modules = [m for n, m in model.backbone.named_modules() if n.endswith(("blocks.0", "layer2.0"))]

    def __enter__(self):
        self.calls = []
        self.hooks = [m.register_forward_pre_hook(lambda *_: self.calls.append(1)) for m in self.modules]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    @property
    def runs_again(self) -> bool:
        return len(self.calls) > len(self.modules)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "test_vit"])
def test_image_size_makes_a_vit_for_that_size(backbone):
    model = image_model(backbone, 64).eval()
    assert model.config.image_size == 64
    assert model.config.feature_shape[1:] == [4, 4]
    assert model(pixel_values=images(model)).logits.shape == (4, 6)


def test_features_of_the_backbone_give_the_logits_of_the_pixels():
    model = image_model().eval()
    features = model.extract_features(images(model))
    assert torch.equal(model(features=features).logits, model(pixel_values=images(model)).logits)


# A transformers model ---------------------------------------------------------------------------------------------


def test_the_model_has_what_every_transformers_model_has():
    model = image_model()
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for p in model.experts.parameters())
    assert model.num_parameters(only_trainable=True) == experts
    stored = json.loads(model.config.to_json_string())
    assert stored["model_type"] == "dedn" and stored["backbone"] == "test_resnet"
    assert callable(model.push_to_hub)


def test_a_configuration_survives_json():
    config = feature_model(query_rank=3, center_attributes=True).config
    again = DEDNConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert again.id2label[0] == "class 0"


def test_the_output_can_be_a_tuple_with_the_loss_first():
    model = feature_model()
    inputs = {"features": feature_maps(model), "labels": labels()}
    output, as_tuple = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)
    assert torch.equal(model(features=inputs["features"], return_dict=False)[0], output.logits)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_bfloat16_autocast_gives_finite_gradients_and_losses_in_float32(name):
    model = image_model()
    model.unfreeze_backbone()
    model.set_attn_implementation(name)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixel_values=images(model), labels=labels())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    exact = model(pixel_values=images(model), labels=labels()).loss
    assert output.loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_autocast_does_not_round_the_losses():
    model = feature_model()
    scores, attributes = model.dual_attention(feature_maps(model))[0], model.normalized_class_attributes()
    expected = model.compute_losses(scores, attributes, model.seen, labels())
    with torch.autocast("cpu", torch.bfloat16):
        assert model.compute_losses(scores, attributes, model.seen, labels()) == expected


def test_features_of_half_precision_are_taken_as_they_come_from_a_cache():
    model = feature_model().eval()
    features = feature_maps(model)
    for dtype in (torch.float16, torch.bfloat16):
        logits = model(features=features.to(dtype)).logits
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, model(features=features.to(dtype).float()).logits)


def test_experts_start_from_the_tables_embeddings():
    table, model = small_table(), DEDNForZeroShot.from_timm(None, small_table(), feature_shape=SHAPE)
    expected = F.normalize(torch.from_numpy(table.attribute_embeddings), dim=1)
    assert all(torch.equal(expert.attribute_embeddings, expected) for expert in model.experts.values())
    assert model.config.embedding_size == 5


@pytest.mark.parametrize(("groups", "count"), [("single", 1), ("given", 2), ("embeddings", 3), ("co-occurrence", 4)])
def test_the_fine_expert_has_a_network_for_each_group(groups, count):
    model = DEDNForZeroShot.from_timm(None, small_table(), feature_shape=SHAPE, groups=groups, num_groups=count)
    assert len(model.config.group_names) == count
    assert len(model.experts["fine"].region_key) == count
    assert len(model.experts["coarse"].region_key) == 1


def test_an_expert_keeps_attributes_in_their_order_whatever_the_groups():
    torch.manual_seed(0)
    expert = Expert(MANY_GROUPS, 5, 12, 15, None)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter)
    keys, _ = expert.region_queries()
    names = list(dict.fromkeys(MANY_GROUPS))
    for attribute, group in enumerate(MANY_GROUPS):
        expected = expert.attribute_embeddings[attribute] @ expert.region_key[names.index(group)]
        torch.testing.assert_close(keys[attribute], expected)


def test_the_order_of_experts_in_the_configuration_changes_nothing():
    assert DEDNConfig(experts=["fine", "coarse"]).experts == ["coarse", "fine"]


COSINE = {"normalize_scores": True, "center_attributes": True, "calibration_bias": 0.4, "temperature": 1.7}


@pytest.mark.parametrize("config", [{}, COSINE])
@torch.no_grad()
def test_logits_follow_from_attribute_scores(config):
    model = DEDNForZeroShot.from_timm(None, small_table(), feature_shape=[6, 2, 2], **config).eval()
    features = torch.randn(3, 6, 2, 2)
    output = model(features=features)
    torch.testing.assert_close(model.score_attributes(features=features), output.attribute_scores)
    expected = output.attribute_scores @ model.normalized_class_attributes().T + model.class_bias(model.seen)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(model.score_classes(output.attribute_scores), output.logits)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("k", [1, 3, 50])
@torch.no_grad()
def test_the_best_classes_are_those_of_the_logits_whatever_the_chunks(chunk_size, k):
    model = DEDNForZeroShot.from_timm(None, small_table(classes=9), feature_shape=[6, 2, 2], **COSINE).eval()
    output = model(features=torch.randn(4, 6, 2, 2))
    best, labels, probabilities = model.top_classes(output.attribute_scores, k, chunk_size)
    expected, expected_labels = output.logits.topk(min(k, 9))
    torch.testing.assert_close(best, expected)
    assert torch.equal(labels, expected_labels)
    torch.testing.assert_close(probabilities, model.probabilities(output.logits).topk(min(k, 9))[0])


@torch.no_grad()
def test_the_temperature_changes_how_sure_a_model_is_and_no_answer():
    model = feature_model().eval()
    features = torch.randn(3, *model.config.feature_shape)
    logits = model(features=features).logits
    model.config.temperature = 2.0
    output = model(features=features)
    assert torch.equal(output.logits, logits)
    torch.testing.assert_close(output.logits_per_image.softmax(dim=1), (logits / 2).softmax(dim=1))
    torch.testing.assert_close(model.probabilities(logits), (logits / 2).softmax(dim=1))


def test_the_probability_for_a_precision_is_the_lowest_that_had_it():
    config = feature_model(precision_thresholds=[[0.8, 0.3], [0.9, 0.6], [0.95, 0.8]]).config
    assert [config.probability_for(precision) for precision in (0.5, 0.9, 0.91)] == [0.3, 0.6, 0.8]
    with pytest.raises(ValueError, match="precision of 0.99; the highest on held-out classes is 0.95"):
        config.probability_for(0.99)
    with pytest.raises(ValueError, match="trained without thresholds"):
        feature_model().config.probability_for(0.9)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"precision_thresholds": [[95, 0.5]]}, r"holds \[95, 0.5\]"),
        ({"none_of_these": [1.0]}, "give two numbers"),
    ],
)
def test_a_temperature_or_threshold_that_cannot_be_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        feature_model(**option)


@pytest.mark.parametrize("feature_source", ["stage", "head"])
def test_weights_that_cannot_be_downloaded_are_named_with_what_would_do(feature_source, tmp_path):
    with pytest.raises(OSError, match="weights of resnet10t could not be downloaded. Give a file .*--weights FILE"):
        create_body("resnet10t", feature_source, pretrained=True, cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_body("resnet10t", feature_source, pretrained=str(tmp_path / "nowhere"))


# Classes of one call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, COSINE])
@torch.no_grad()
def test_classes_may_be_given_for_one_call(config):
    model = feature_model(**config).eval()
    features, other = feature_maps(model), small_table(classes=9, unseen=4)
    own = model(features=features).logits
    given = {"class_attributes": torch.from_numpy(other.class_attributes), "seen": torch.from_numpy(other.seen)}
    output = model(features=features, **given)
    assert torch.equal(model(features=features).logits, own)
    model.set_classes(other)
    assert torch.equal(output.logits, model(features=features).logits)
    assert torch.equal(output.logits_per_image, output.logits / model.config.temperature)


@pytest.mark.parametrize("config", [{}, {"loss_classes": "seen"}, COSINE])
def test_labels_are_of_the_classes_of_the_call(config):
    model, other = feature_model(**config), small_table(classes=9, unseen=4)
    inputs = {"features": feature_maps(model), "labels": torch.tensor([0, 1, 4, 4])}
    given = {"class_attributes": torch.from_numpy(other.class_attributes), "seen": torch.from_numpy(other.seen)}
    loss = model(**inputs, **given).loss
    model.set_classes(other)
    assert torch.equal(loss, model(**inputs).loss)


@torch.no_grad()
def test_without_seen_no_class_of_a_call_is_seen():
    model = feature_model().eval()
    classes = torch.rand(3, 8, dtype=torch.float64)
    output = model(features=feature_maps(model), class_attributes=classes)
    unseen = model(features=feature_maps(model), class_attributes=classes, seen=torch.tensor([0, 0, 0]))
    assert torch.equal(output.logits, unseen.logits)
    assert output.logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_attributes": torch.ones(3, 7)}, r"shape \(3, 7\).*classes x 8 attributes.*config.attribute_names"),
        ({"class_attributes": torch.ones(8)}, r"shape \(8,\).*classes x 8 attributes"),
        ({"class_attributes": torch.ones(3, 8), "seen": torch.tensor([0, 1])}, "a boolean for each of the 3 classes"),
        ({"seen": torch.tensor([True] * 6)}, "seen belongs to class_attributes"),
    ],
)
def test_classes_of_a_call_that_do_not_fit_are_refused(given, message):
    model = feature_model()
    with pytest.raises(ValueError, match=message):
        model(features=feature_maps(model), **given)


# What a transformers user expects of forward -----------------------------------------------------------------------


def test_the_configuration_may_ask_for_tuples():
    model = feature_model()
    expected = model(features=feature_maps(model)).logits
    model.config.return_dict = False
    output = model(features=feature_maps(model))
    assert isinstance(output, tuple) and torch.equal(output[0], expected)
    assert torch.equal(model(features=feature_maps(model), return_dict=True).logits, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_configuration_may_ask_for_region_maps(implementation, tmp_path):
    model = feature_model()
    model.set_attn_implementation(implementation)
    model.config.output_attentions = True
    assert model(features=feature_maps(model)).region_maps.shape == (4, 2, 8, 15)
    assert model(features=feature_maps(model), output_attentions=False).region_maps is None
    model.save_pretrained(tmp_path)
    assert DEDNForZeroShot.from_pretrained(tmp_path).config.output_attentions is True


@pytest.mark.parametrize("typo", ["output_attention", "label", "num_items_in_batch"])
def test_an_unknown_argument_of_a_call_is_refused(typo):
    model = feature_model()
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{typo}'"):
        model(features=feature_maps(model), **{typo: True})


def test_a_loss_without_weighted_terms_is_zero_with_gradients_of_zero():
    kinds = ("margin", "calibration", "distillation", "alignment", "regression")
    model = feature_model(**{f"{kind}_weight": 0.0 for kind in kinds})
    loss = model(features=feature_maps(model), labels=labels()).loss
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


# Arguments of new models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding_size": 64}, "embedding_size is 64, but the attribute table gives 5. Leave it out"),
        ({"id2label": {0: "other"}}, "id2label is .*other.*but the attribute table gives"),
        ({"attribute_names": ["attribute 0", "horns"]}, "not in the table, first 'horns'"),
        ({"groups": "single", "attribute_groups": ["one"] * 8}, "attribute_groups and groups='single'"),
    ],
)
def test_arguments_that_contradict_the_table_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        feature_model(**arguments)


def test_a_feature_shape_that_contradicts_the_backbone_is_refused():
    with pytest.raises(ValueError, match=r"feature_shape is \[3, 2, 2\], but test_resnet with .* 32 pixels gives"):
        image_model(feature_shape=[3, 2, 2])


def test_attribute_names_choose_and_order_attributes_with_all_that_belongs_to_them():
    table, order = small_table(), [6, 2, 0]
    names = [table.attribute_names[i] for i in order]
    model = feature_model(attribute_names=names)
    assert model.config.attribute_names == names
    assert model.config.attribute_groups == [table.attribute_groups[i] for i in order]
    torch.testing.assert_close(model.class_attributes, torch.from_numpy(table.class_attributes[:, order]))
    embeddings = F.normalize(torch.from_numpy(table.attribute_embeddings[order]), dim=1)
    assert torch.equal(model.experts["fine"].attribute_embeddings, embeddings)
    model = feature_model(attribute_names=names, attribute_groups=["a", "b", "a"])
    assert model.config.attribute_groups == ["a", "b", "a"]


def test_unfreezing_the_backbone_unfreezes_its_stages():
    model = image_model()
    model.unfreeze_backbone()
    model.backbone.freeze_stages(["layer1"], batch_norm=True)
    model.unfreeze_backbone()
    model.train()
    assert all(module.training for module in model.backbone.modules())
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())


def test_on_a_cpu_few_pixels_go_through_the_backbone_at_once_and_the_result_is_the_same(monkeypatch):
    model, at_once = image_model().eval(), []
    pixels = images(model, 7)
    whole = model.backbone(pixels)
    model.backbone.register_forward_hook(lambda _, inputs, __: at_once.append(len(inputs[0])))
    monkeypatch.setattr(modeling_dedn, "CPU_PIXELS", 3 * model.config.image_size**2)
    with torch.no_grad():
        torch.testing.assert_close(model.extract_features(pixels), whole, rtol=1e-4, atol=1e-6)
    assert at_once == [3, 3, 1]
    model.extract_features(pixels)  # with gradients, as in training
    monkeypatch.setattr(modeling_dedn, "CPU_PIXELS", 1)  # an image larger than that goes alone
    with torch.no_grad():
        model.extract_features(pixels)
    assert at_once[3:] == [7] + [1] * 7
