"""A model that was saved is the same model when it is loaded, for every family of backbones."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from dedn_hf import DEDNForZeroShot
from tests.tables import small_table

BACKBONES = {
    "resnet10t": 64,
    "vit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 112,
    "convnext_atto": 64,
    "eva02_tiny_patch14_224": 56,
    "vit_small_patch16_dinov3": 64,
    "mobilenetv4_conv_small": 64,
    "tf_efficientnet_lite0": 64,
    "maxvit_nano_rw_256": 256,
}


def random_model(backbone: str = "resnet10t", image_size: int = 64, **config) -> DEDNForZeroShot:
    torch.manual_seed(0)
    model = DEDNForZeroShot.from_timm(backbone, small_table(), image_size=image_size, pretrained=False, **config)
    for name, parameter in model.experts.named_parameters():  # the keys start at 0, where attention hides the input
        if name.endswith("_key"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def images(model: DEDNForZeroShot, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, model.config.image_size, model.config.image_size, generator=generator)


@torch.no_grad()
def logits(model: DEDNForZeroShot) -> torch.Tensor:
    return model(images(model)).logits


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_bit_equal_after_loading(backbone, tmp_path):
    model = random_model(backbone, BACKBONES[backbone])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(DEDNForZeroShot.from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_tensors_start_where_vector_instructions_want_them(dtype, tmp_path):
    """Else some processors add up in another order than for the saved model, and the last bits of logits differ."""
    random_model().save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path, dtype=dtype)
    tensors = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert not [name for name, tensor in tensors.items() if tensor.data_ptr() % 64]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_bit_equal_in_bfloat16_and_with_a_device_map(backbone, tmp_path):
    model = random_model(backbone, BACKBONES[backbone]).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_the_head_feature_source_loads_too(backbone, tmp_path):
    model = random_model(backbone, feature_source="head")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(DEDNForZeroShot.from_pretrained(tmp_path)), logits(model))


def test_a_compiled_model_gives_bit_equal_logits_after_loading(tmp_path):
    compiled = torch.compile(random_model())
    compiled.save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(compiled._orig_mod))
    expected = logits_of(compiled)
    torch.compiler.reset()
    assert torch.equal(logits_of(torch.compile(loaded)), expected)


@torch.no_grad()
def logits_of(compiled: torch.nn.Module) -> torch.Tensor:
    return compiled(images(compiled._orig_mod)).logits


def test_the_folder_loads_where_this_package_cannot_be_imported(tmp_path):
    model = random_model(image_size=64)
    model.save_pretrained(tmp_path / "model")
    torch.save(logits(model), tmp_path / "logits.pt")
    code = f"""
        import sys, torch
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "dedn_hf":
                    raise ModuleNotFoundError("dedn_hf is not here")
        sys.meta_path.insert(0, Refuse())
        from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification
        folder = {str(tmp_path / "model")!r}
        model = AutoModelForZeroShotImageClassification.from_pretrained(folder, trust_remote_code=True)
        processor = AutoImageProcessor.from_pretrained(folder)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            logits = model(torch.randn(2, 3, 64, 64, generator=generator)).logits
        assert torch.equal(logits, torch.load({str(tmp_path / "logits.pt")!r}, weights_only=True))
        pixels = processor(images=torch.zeros(3, 80, 100, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, 64, 64), pixels.shape
        assert "dedn_hf" not in sys.modules
        print("loaded", type(model).__module__)
    """
    threads = str(torch.get_num_threads())  # another number adds up in another order
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": threads}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert "transformers_modules" in result.stdout


def test_weights_that_lack_a_part_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    random_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("experts.fine.region_key")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack 1 tensors.*experts.fine.region_key"):
        DEDNForZeroShot.from_pretrained(tmp_path)
