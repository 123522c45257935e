"""The numbers of the published implementation."""

from pathlib import Path

import pytest
import torch

from tests import golden

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=["awa2", "sun"])
def golden_name(request):
    return request.param


@pytest.fixture(params=["sdpa", "eager"])
def model_and_numbers(golden_name, request):
    model, tensors, meta = golden.load(GOLDEN / golden_name)
    model.set_attn_implementation(request.param)
    return model, tensors, meta


def test_attribute_scores_and_region_maps_agree(model_and_numbers):
    model, tensors, _ = model_and_numbers
    scores, region_maps = model.dual_attention(tensors["features"])
    for i, expert in enumerate(("coarse", "fine")):
        torch.testing.assert_close(scores[:, i].sum(1), tensors[f"train.{expert}.attribute_scores"], **TOLERANCE)
        torch.testing.assert_close(region_maps[:, i], tensors[f"train.{expert}.region_map"], **TOLERANCE)


def test_training_logits_agree(model_and_numbers):
    model, tensors, _ = model_and_numbers
    output = model(features=tensors["features"])
    torch.testing.assert_close(output.coarse_logits, tensors["train.coarse.logits"], **TOLERANCE)
    torch.testing.assert_close(output.fine_logits, tensors["train.fine.logits"], **TOLERANCE)


def test_every_loss_term_agrees(model_and_numbers):
    model, tensors, meta = model_and_numbers
    output = model(features=tensors["features"], labels=tensors["labels"])
    losses = {name: output.losses[name].item() for name in meta["losses"] if name != "total"}
    assert losses | {"total": output.loss.item()} == pytest.approx(meta["losses"], rel=1e-4)


def test_five_training_steps_and_the_evaluation_after_them_agree(model_and_numbers):
    model, tensors, meta = model_and_numbers
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr=meta["lr"], weight_decay=meta["weight_decay"], momentum=meta["momentum"]
    )
    curve = []
    for _ in meta["loss_curve"]:
        loss = model(features=tensors["features"], labels=tensors["labels"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert curve == pytest.approx(meta["loss_curve"], rel=1e-4)
    with torch.no_grad():
        output = model.eval()(features=tensors["features"])
    torch.testing.assert_close(output.coarse_logits, tensors["eval.coarse.logits"], **TOLERANCE)
    torch.testing.assert_close(output.fine_logits, tensors["eval.fine.logits"], **TOLERANCE)
