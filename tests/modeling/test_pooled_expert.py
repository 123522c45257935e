"""The pooled expert: attribute scores of the whole picture, in closed form."""

import numpy as np
import pytest
import torch

from dedn_hf import DEDNConfig, DEDNForZeroShot
from dedn_hf.modeling.experts import POOLED_SPREAD, PooledExpert
from dedn_hf.studies.probes import ESZSL
from tests.tables import small_table

SHAPE = [12, 3, 3]


def model_with(table, **options):
    torch.manual_seed(0)
    options = {"pooled_weight": 0.5, "center_attributes": True, "attribute_power": 0.5, **options}
    return DEDNForZeroShot.from_timm(None, table, feature_shape=SHAPE, **options).eval()


def learned(model, images=60):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(images, *SHAPE, generator=generator)
    seen = model.seen.nonzero()[:, 0]
    labels = torch.arange(images) % len(seen)
    model.pooled_expert.learn(features.mean(dim=(2, 3)), labels, model.normalized_class_attributes()[seen])
    return features, labels


@pytest.fixture
def table():
    return small_table(classes=8, attributes=10, unseen=2)


def test_its_scores_are_those_of_eszsl(table):
    model = model_with(table)
    features, labels = learned(model)
    rows = model.normalized_class_attributes().double().numpy()
    peer = ESZSL(features.mean(dim=(2, 3)).double().numpy(), labels.numpy(), rows[: len(model.seen.nonzero())])
    peer.fit((1e-3, 0.1))
    expected = peer.scores(features.mean(dim=(2, 3)).double().numpy(), rows)
    scores, _ = model.pooled_expert(features.flatten(2))
    found = (scores @ model.normalized_class_attributes().T / POOLED_SPREAD).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_class_with_few_images_is_found_as_well_as_the_others(table):
    model = model_with(table)
    seen = model.seen.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(2)
    kinds = torch.randn(len(seen), SHAPE[0], generator=generator)
    counts = torch.tensor([2] + [40] * (len(seen) - 1))
    labels = torch.arange(len(seen)).repeat_interleave(counts)
    rows = model.normalized_class_attributes()[seen]
    noise = torch.randn(len(labels), SHAPE[0], generator=generator)
    model.pooled_expert.learn(kinds[labels] + 0.5 * noise, labels, rows)
    new = kinds[:1] + 0.5 * torch.randn(50, SHAPE[0], generator=generator)
    scores, _ = model.pooled_expert(new[:, :, None])
    assert ((scores @ rows.T).argmax(dim=1) == 0).float().mean() > 0.8


def test_a_channel_that_no_training_image_used_does_not_drown_the_others(table):
    model = model_with(table)
    seen = model.seen.nonzero()[:, 0]
    pooled = torch.randn(60, SHAPE[0], generator=torch.Generator().manual_seed(3))
    pooled[:, 4] = 0
    model.pooled_expert.learn(pooled, torch.arange(60) % len(seen), model.normalized_class_attributes()[seen])
    before, _ = model.pooled_expert(pooled[:, :, None])
    pooled[:, 4] = 0.2
    after, _ = model.pooled_expert(pooled[:, :, None])
    torch.testing.assert_close(after, before, rtol=0.2, atol=0.2)


def test_what_the_regions_add_sums_up_to_its_scores(table):
    model = model_with(table)
    features, _ = learned(model)
    scores, region_maps = model.pooled_expert(features.flatten(2))
    assert region_maps.shape == (60, 10, 9)
    assert torch.equal(region_maps.sum(dim=-1), scores)


def test_the_prediction_is_the_weighted_mean_of_all_experts(table):
    model = model_with(table, pooled_weight=0.3, coarse_weight=0.9)
    features, _ = learned(model)
    with torch.no_grad():
        output = model(features=features, output_attentions=True)
    trained = 0.9 * output.coarse_logits + 0.1 * output.fine_logits
    torch.testing.assert_close(output.logits, 0.7 * trained + 0.3 * output.pooled_logits)
    torch.testing.assert_close(output.logits, model.score_classes(output.attribute_scores))
    assert model.config.expert_names == ["coarse", "fine", "pooled"] and output.region_maps.shape[1] == 3
    best, labels, _ = model.top_classes(output.attribute_scores, k=1, chunk_size=3)
    torch.testing.assert_close(best[:, 0], output.logits.amax(dim=1))
    assert torch.equal(labels[:, 0], output.logits.argmax(dim=1))


def test_training_is_that_of_the_other_experts(table):
    torch.manual_seed(0)
    plain = DEDNForZeroShot.from_timm(None, table, feature_shape=SHAPE, center_attributes=True, attribute_power=0.5)
    model = model_with(table).train()
    features, labels = learned(model)
    with_it, without = (one(features=features, labels=labels) for one in (model, plain.train()))
    assert torch.equal(with_it.loss, without.loss) and with_it.pooled_logits is None


def test_it_is_saved_and_loaded(table, tmp_path):
    model = model_with(table)
    features, _ = learned(model)
    model.save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(features=features).logits, model(features=features).logits)


def test_a_power_of_one_half_takes_the_root_and_keeps_the_sign(table):
    model = model_with(table, center_attributes=False)
    rows = torch.tensor([[4.0, -9.0] + [0.0] * 8])
    torch.testing.assert_close(
        model.normalized_class_attributes(rows), torch.tensor([[2.0, -3.0] + [0.0] * 8]) / 13**0.5
    )


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="pooled_weight is 1.5"):
        DEDNConfig(pooled_weight=1.5)
    with pytest.raises(ValueError, match="attribute_power is 0"):
        DEDNConfig(attribute_power=0)
    with pytest.raises(ValueError, match="normalize_scores"):
        DEDNConfig(pooled_weight=0.5, normalize_scores=True)


def test_before_it_has_learned_every_score_is_zero():
    scores, region_maps = PooledExpert(4, 3)(torch.randn(2, 4, 9))
    assert not scores.any() and not region_maps.any()


def test_one_class_is_refused(table):
    with pytest.raises(ValueError, match="two classes at least"):
        PooledExpert(4, 10).learn(torch.randn(5, 4), torch.zeros(5, dtype=torch.long), torch.randn(1, 10))


def test_without_its_weight_a_loaded_model_is_as_if_it_had_none(table):
    model = model_with(table)
    features, _ = learned(model)
    model.config.pooled_weight = 0.0
    output = model(features=features, output_attentions=True)
    assert output.region_maps.shape[1] == len(model.config.expert_names) == 2 and output.pooled_logits is None


def test_lower_precision_does_not_round_its_sums(table):
    model = model_with(table)
    features, _ = learned(model)
    exact, _ = model.pooled_expert(features.flatten(2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = model.pooled_expert(features.flatten(2))
    assert torch.equal(mixed, exact)
