"""Weights that accelerate keeps in memory or on the disk until they are needed give the numbers of the whole model."""

from pathlib import Path

import accelerate
import pytest
import torch
from PIL import Image
from transformers import pipeline

from dedn_hf import DEDNForZeroShot, DEDNPipeline
from dedn_hf.modeling.experts import Expert
from tests.modeling.test_modeling import image_model, images

TASK = "zero-shot-image-classification"
# An attention that reads weights of modules which it never calls, a network whose `forward` is never called, and one
# with neither.
BACKBONES = {"beit_base_patch16_224": 32, "test_vit": 32, "test_resnet": 32}
TINY = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32}
MIXED = dict.fromkeys(
    ("backbone", "feature_norm", "logit_scale", "class_attributes", "attribute_mean", "seen"), "cpu"
) | {"experts": "disk"}
OPTIONS = {"normalize_scores": True, "standardize_features": True, "center_attributes": True}


@pytest.fixture(params=BACKBONES)
def model(request) -> DEDNForZeroShot:
    tiny = {"backbone_kwargs": TINY} if request.param.startswith("beit") else {}
    return image_model(request.param, BACKBONES[request.param], **OPTIONS, **tiny).eval()


@torch.no_grad()
def logits(model: DEDNForZeroShot) -> torch.Tensor:
    return model(images(model)).logits


def test_every_module_with_weights_is_called_so_that_its_hooks_run():
    model, called = image_model(normalize_scores=True), set()
    modules = {"": model, "backbone": model.backbone, "experts": model.experts}
    modules |= {name: module for name, module in model.named_modules() if isinstance(module, Expert)}
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(images(model))
    assert called == set(modules)
    assert {"experts.coarse", "experts.fine"} <= called


def test_weights_offloaded_to_memory_give_the_same_logits(model):
    expected = logits(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(logits(model), expected)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(logits(model), expected)


def test_weights_offloaded_to_the_disk_give_the_same_logits(model, tmp_path):
    expected = logits(model)
    model.save_pretrained(tmp_path / "model")
    maps = (MIXED | {"backbone": "disk"}, MIXED)
    for number, device_map in enumerate(maps):
        folder = tmp_path / str(number)
        loaded = DEDNForZeroShot.from_pretrained(tmp_path / "model", device_map=device_map, offload_folder=folder)
        assert any(parameter.is_meta for parameter in loaded.parameters())
        torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_a_device_map_is_found_for_little_memory(tmp_path):
    model = image_model(**OPTIONS).eval()
    expected = logits(model)
    model.save_pretrained(tmp_path / "model")
    loaded = load_with_little_memory(model, tmp_path)
    assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_a_pipeline_uses_an_offloaded_model(tmp_path):
    model = image_model(**OPTIONS).eval()
    model.save_pretrained(tmp_path / "model")
    offloaded = {"model_kwargs": {"device_map": MIXED, "offload_folder": tmp_path / "offloaded"}}
    picture = Image.new("RGB", (40, 50), "orange")
    for candidates in (None, ["class 0", "class 5"]):
        expected, found = (
            pipeline(TASK, model=tmp_path / "model", pipeline_class=DEDNPipeline, **options)(
                picture, candidate_labels=candidates
            )
            for options in ({}, offloaded)
        )
        assert [each["label"] for each in found] == [each["label"] for each in expected]
        assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected], rel=1e-4)


def load_with_little_memory(model: DEDNForZeroShot, folder: Path) -> DEDNForZeroShot:
    """The model of `folder`/model with room for its backbone, and the rest on the disk."""
    of_backbone = sum(tensor.nbytes for tensor in model.backbone.state_dict().values())
    memory = {"cpu": of_backbone + 4000}
    return DEDNForZeroShot.from_pretrained(
        folder / "model", device_map="auto", max_memory=memory, offload_folder=folder / "offloaded"
    )
