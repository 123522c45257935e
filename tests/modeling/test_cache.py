"""What the model keeps from call to call is never stale."""

import copy

import numpy as np
import pytest
import torch

from dedn_hf import DEDNForZeroShot
from dedn_hf.modeling.experts import TensorCache
from tests.tables import small_table
from tests.tiny_runs import FEATURE_SHAPE, feature_model


def features(count: int = 2) -> torch.Tensor:
    return torch.randn(count, *FEATURE_SHAPE, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: DEDNForZeroShot) -> torch.Tensor:
    return model(features=features()).logits


@torch.no_grad()
def anew(model: DEDNForZeroShot) -> torch.Tensor:
    """The logits of a model that has nothing to remember."""
    return logits(copy.deepcopy(model))


def counted(model: DEDNForZeroShot, monkeypatch) -> list[str]:
    """A list that grows by a name whenever something is computed."""
    calls, expert = [], type(model.experts["coarse"])
    original = expert.forward
    monkeypatch.setattr(expert, "forward", lambda self: (calls.append("queries"), original(self))[1])
    return calls


def test_queries_are_computed_once(monkeypatch):
    model = feature_model().eval()
    calls = counted(model, monkeypatch)
    first = logits(model)
    assert len(calls) == 2, "one a expert"
    assert torch.equal(logits(model), first)
    assert len(calls) == 2


def test_with_autograd_they_are_computed_every_time_and_carry_gradients(monkeypatch):
    model = feature_model().eval()
    calls = counted(model, monkeypatch)
    for _ in range(2):
        model(features=features()).logits.sum().backward()
    assert len(calls) == 4
    assert model.experts["coarse"].region_value.grad.abs().sum() > 0


CHANGES = {
    "in place": lambda model: model.experts["fine"].region_value.mul_(2),
    "another tensor": lambda model: setattr(
        model.experts["fine"], "region_value", torch.nn.Parameter(model.experts["fine"].region_value * 2)
    ),
    "load_state_dict": lambda model: model.load_state_dict(
        {name: value * 2 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    ),
    "data, then training mode and back": lambda model: (
        model.experts["fine"].region_value.data.mul_(2),
        model.train().eval(),
    ),
    "other classes": lambda model: model.set_classes(
        model.attribute_table.replace(class_attributes=model.attribute_table.class_attributes[::-1])
    ),
    "class attributes in place": lambda model: model.class_attributes[:, 0].mul_(5),
    "precision": lambda model: model.to(torch.bfloat16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_nothing_old_is_used(change):
    model = feature_model(center_attributes=True).eval()
    before = logits(model)
    with torch.no_grad():
        CHANGES[change](model)
    after = logits(model)
    assert torch.equal(after, anew(model))
    assert not torch.equal(after, before)


def test_an_optimizer_step_is_noticed():
    model = feature_model().eval()
    before = logits(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(features=features(), labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    assert torch.equal(logits(model), anew(model))
    assert not torch.equal(logits(model), before)


def test_inference_mode_and_a_copy_agree():
    model = feature_model().eval()
    with torch.inference_mode():
        inside = model(features=features()).logits.clone()
    assert torch.equal(logits(model), inside)
    other = copy.deepcopy(model)
    other.set_classes(small_table(attributes=8).replace(attribute_names=model.config.attribute_names))
    assert torch.equal(logits(model), inside)
    assert logits(other).shape == (2, 6)


def test_a_model_made_in_inference_mode_works():
    with torch.inference_mode():
        model = feature_model().eval()
        expected = model(features=features()).logits
        model.class_attributes[:, 0].mul_(5)
        assert not torch.equal(model(features=features()).logits, expected)


@torch.no_grad()
def test_another_tensor_at_the_address_of_the_old_one_is_not_taken_for_it():
    memory, remembered = np.ones(3, np.float32), TensorCache()
    first = torch.from_numpy(memory)
    assert remembered("sum", (first,), first.sum) == 3
    memory[:] = 2  # as where the first is gone and its memory is used again
    second = torch.from_numpy(memory)
    assert second.data_ptr() == first.data_ptr()
    assert remembered("sum", (second,), second.sum) == 6


def test_a_round_trip_through_lower_precision_is_noticed():
    model = feature_model().eval()
    for _ in range(20):
        logits(model)
        model.to(torch.bfloat16).to(torch.float32)
        assert torch.equal(logits(model), anew(model))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)


@pytest.mark.parametrize("first", [True, False], ids=["autocast first", "autocast second"])
@torch.no_grad()
def test_autocast_and_plain_calls_do_not_share_what_is_kept(first):
    model = feature_model().eval()
    results = {}
    for enabled in (first, not first, first):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.setdefault(enabled, []).append(logits(model))
            assert torch.equal(results[enabled][0], anew(model))
    assert not torch.equal(results[True][0], results[False][0])
