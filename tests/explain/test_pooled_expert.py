"""The pooled expert is explained as the others are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dedn_hf.explain import explain
from tests.tiny_runs import image_model, picture


@pytest.fixture(scope="module")
def explanation():
    torch.manual_seed(0)
    model = image_model(pooled_weight=0.6, center_attributes=True, attribute_power=0.5).eval()
    model.pooled_expert.weight.normal_()
    model.pooled_expert.mean.normal_()
    photo = Image.open(io.BytesIO(picture(0, 0)))
    logits = model(model.image_processor()(images=photo, return_tensors="pt")["pixel_values"]).logits
    return explain(model, photo), logits[0].detach().numpy()


def test_its_parts_add_up_to_the_logits_of_the_model(explanation):
    found, logits = explanation
    assert found.experts == ("coarse", "fine", "pooled")
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    assert found.comparison.difference == pytest.approx(logits.max() - np.sort(logits)[-2], rel=1e-3)


def test_every_format_shows_it(explanation, tmp_path):
    found, _ = explanation
    found.save(tmp_path / "why.png")
    assert Image.open(tmp_path / "why.png").size[0] > 100
    assert "pooled expert" in found.to_html() and "pooled" in found.to_text()
    assert {each["expert"] for each in found.to_dict()["heat_maps"]} == {"coarse", "fine", "pooled"}
