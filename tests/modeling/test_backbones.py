"""Any timm backbone: what it gives, what can be saved, where its weights and its preprocessing come from."""

import argparse
import pickle
import shutil

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.functional import to_pil_image
from transformers import AutoImageProcessor

from dedn_hf import DEDNConfig, DEDNForZeroShot
from dedn_hf.data.features import weights_hash
from dedn_hf.modeling import backbone
from dedn_hf.modeling.backbone import create_body, preprocessing_of
from tests.fake_data import SHARED
from tests.tables import small_table

LITE0 = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"


def new_model(backbone: str, image_size: int | None = 64, pretrained=False, **config) -> DEDNForZeroShot:
    torch.manual_seed(0)
    return DEDNForZeroShot.from_timm(backbone, small_table(), image_size, pretrained=pretrained, **config).eval()


def images(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


needs_coat = pytest.mark.skipif(
    not hasattr(timm.models.coat.CoaT, "forward_intermediates"), reason="this timm reads no feature maps of CoaT"
)

# Shared weights ---------------------------------------------------------------------------------------------------


@needs_coat
def test_a_backbone_whose_blocks_share_weights_is_trained_saved_and_loaded(tmp_path):
    model = new_model("coat_tiny", 32)
    model.unfreeze_backbone()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(images(32), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images(32)).logits, model(images(32)).logits)
    assert len(list(loaded.parameters())) == len(list(model.parameters())), "what was shared is shared no more"


def test_arguments_that_config_json_cannot_hold_are_refused_at_once():
    with pytest.raises(ValueError, match="act_layer.*cannot be saved"):
        new_model("test_resnet", backbone_kwargs={"act_layer": nn.GELU})


# feature_source ---------------------------------------------------------------------------------------------------

TOKENS = {
    "mixer_s32_224": (224, [512, 7, 7]),
    "levit_128s": (224, [384, 4, 4]),
    "tnt_s_legacy_patch16_224": (64, [384, 4, 4]),
    "efficientformer_l1": (224, [448, 7, 7]),
}


@pytest.mark.parametrize("backbone", TOKENS)
def test_the_head_of_a_network_of_tokens_gives_the_map_of_its_last_stage(backbone):
    size, shape = TOKENS[backbone]
    model, stage = (new_model(backbone, size, feature_source=source) for source in ("head", "stage"))
    assert model.config.feature_shape == shape
    for parameter in model.backbone.parameters():  # some start at 0, where all regions are the same
        nn.init.normal_(parameter, std=0.3)
    stage.backbone.body.load_state_dict({f"model.{k}": t for k, t in model.backbone.body.state_dict().items()}, False)
    with torch.no_grad():
        head, last = (m.extract_features(images(size)) for m in (model, stage))
        norm = getattr(model.backbone.body, "norm", nn.Identity())
        torch.testing.assert_close(head, norm(last.movedim(1, -1)).movedim(-1, 1))
    assert not torch.allclose(head[..., 0, 0], head[..., 0, 1])


@pytest.mark.parametrize(
    ("backbone", "size"), [("coat_tiny", 64), ("crossvit_tiny_240", 240), ("pit_ti_224", 64), ("volo_d1_224", 64)]
)
def test_a_network_whose_head_sees_no_map_or_several_is_refused_with_the_alternative(backbone, size):
    with pytest.raises(ValueError, match=f"{backbone} gives no feature map.*Use feature_source='stage'"):
        new_model(backbone, size, feature_source="head")


def test_an_image_size_that_a_network_does_not_take_is_refused_with_its_own():
    with pytest.raises(ValueError, match="efficientformer_l1 takes no images of 64 x 64 pixels; its own .* is 224"):
        new_model("efficientformer_l1", 64, feature_source="head")


@pytest.mark.parametrize("kwargs", [{"no_such_argument": 1}, {"img_size": 65}])
def test_arguments_that_timm_does_not_take_are_refused(kwargs):
    with pytest.raises(ValueError, match="timm .* cannot make vit_tiny_patch16_224 with"):
        new_model("vit_tiny_patch16_224", backbone_kwargs={**kwargs, "strict_img_size": True})


# Weights files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> nn.Module:
    """A whole classifier with weights of its own."""
    torch.manual_seed(7)
    return timm.create_model("test_resnet", num_classes=3)


def prefixed(network: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in network.state_dict().items()}


def assert_has_the_weights_of(network: nn.Module, file, feature_source: str = "stage") -> None:
    loaded = create_body("test_resnet", feature_source, pretrained=file).state_dict()
    expected = network.state_dict()
    assert loaded
    for key, tensor in loaded.items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize("feature_source", ["stage", "head"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "model.", "encoder.", "_orig_mod.module.", "model.backbone.", "net.0."]
)
def test_weights_are_found_behind_the_names_of_wrappers(prefix, feature_source, network, tmp_path):
    others = {"head_of_mine.weight": torch.ones(2)}
    save_file({**prefixed(network, prefix), **others}, tmp_path / "weights.safetensors")
    assert_has_the_weights_of(network, tmp_path / "weights.safetensors", feature_source)


WRAPPINGS = {
    "bare": lambda weights: weights,
    "Lightning": lambda weights: {
        "epoch": 3, "state_dict": {f"model.{k}": t for k, t in weights.items()}, "optimizer_states": [{"state": {}}],
    },
    "timm": lambda weights: {"arch": "test_resnet", "state_dict": weights, "args": argparse.Namespace(lr=0.1)},
    "model_state": lambda weights: {"model_state": weights, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["pth", "bin", "pt", "ckpt"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_of_pytorch_are_read(wrapping, suffix, network, tmp_path):
    torch.save(WRAPPINGS[wrapping](network.state_dict()), tmp_path / f"weights.{suffix}")
    assert_has_the_weights_of(network, tmp_path / f"weights.{suffix}")


@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "vit_tiny_patch16_224",
        "convnext_atto",
        pytest.param("coat_tiny", marks=needs_coat),
        "pit_ti_224",
    ],
)
def test_the_backbone_of_a_saved_model_starts_another_one(backbone, tmp_path):
    saved = new_model(backbone, 32)
    saved.save_pretrained(tmp_path)
    again = DEDNForZeroShot.from_timm(backbone, small_table(), 32, pretrained=tmp_path / "model.safetensors")
    assert weights_hash(again.backbone) == weights_hash(saved.backbone)


def test_a_file_without_classifier_and_counters_of_batches_is_complete(network, tmp_path):
    weights = {k: t for k, t in network.state_dict().items() if not k.endswith("tracked") and not k.startswith("fc.")}
    save_file(weights, tmp_path / "weights.safetensors")
    body = create_body("test_resnet", pretrained=tmp_path / "weights.safetensors")
    assert torch.equal(body.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])


def test_a_classifier_of_its_own_is_no_obstacle_where_timms_weights_have_none(tmp_path):
    name = "vit_small_patch14_dinov2"
    network = timm.create_model(name, img_size=28, num_classes=5)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    for feature_source in ("stage", "head"):
        body = create_body(name, feature_source, pretrained=tmp_path / "weights.safetensors", img_size=28)
        assert torch.equal(getattr(body, "model", body).pos_embed, network.pos_embed)


@pytest.mark.parametrize("backbone", ["convnext_atto", "pit_ti_224", pytest.param("coat_tiny", marks=needs_coat)])
def test_features_have_other_names_than_the_file_and_still_get_its_weights(backbone, tmp_path):
    network = timm.create_model(backbone)
    torch.save(prefixed(network, "model.backbone."), tmp_path / "weights.pt")
    body = create_body(backbone, pretrained=tmp_path / "weights.pt")
    values = {tensor.sum().item() for tensor in network.parameters()}
    assert {tensor.sum().item() for tensor in body.parameters()} <= values


def test_timms_conversions_are_applied(tmp_path):
    """Position embeddings of another image size are resampled as timm does."""
    network = timm.create_model("vit_tiny_patch16_224", img_size=64)
    save_file({f"module.{k}": t for k, t in network.state_dict().items()}, tmp_path / "weights.safetensors")
    body = create_body("vit_tiny_patch16_224", pretrained=tmp_path / "weights.safetensors", img_size=32)
    expected = timm.create_model("vit_tiny_patch16_224", img_size=64)
    expected.load_state_dict(network.state_dict())
    expected.set_input_size(img_size=32)
    torch.testing.assert_close(body.model.pos_embed, expected.pos_embed)


def test_what_a_file_lacks_is_named(network, tmp_path):
    weights = {k: t for k, t in prefixed(network, "model.").items() if ".conv2." not in k}
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"Missing .*: 4 tensors of the model, 'layer1.0.conv2.weight"):
        new_model("test_resnet", pretrained=tmp_path / "weights.safetensors")


def test_tensors_of_another_shape_are_named(network, tmp_path):
    weights = network.state_dict()
    weights["conv1.3.weight"] = weights["conv1.3.weight"][:, :5].contiguous()
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r": 1 tensors .*conv1.3.weight \(\[\d+, 5, 3, 3\] for"):
        new_model("test_resnet", pretrained=tmp_path / "weights.safetensors")


def test_weights_of_another_network_are_refused(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    for other in ("tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"):
        with pytest.raises(ValueError, match=f"weights.safetensors does not fit {other}. Missing"):
            new_model(other, None, pretrained=tmp_path / "weights.safetensors")


def test_two_networks_in_one_file_are_not_mixed_up(network, tmp_path):
    torch.save({**prefixed(network, "student."), **prefixed(network, "teacher.")}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="several networks: 'student.', 'teacher.'"):
        new_model("test_resnet", pretrained=tmp_path / "weights.pt")


class Hostile:
    def __reduce__(self):
        return print, ("a pickle ran code",)


FOREIGN = {
    "a pickle": ("weights.bin", pickle.dumps(Hostile(), protocol=2)),
    "text": ("weights.pth", b"not found\n"),
    "a safetensors file that is none": ("weights.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
    "an empty file": ("weights.pt", b""),
    "a pickled list": ("weights.pt", pickle.dumps([1, 2], protocol=2)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_with_what_to_do(kind, tmp_path, capfd):
    name, content = FOREIGN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read(.|\n)*safetensors"):
        new_model("test_resnet", pretrained=tmp_path / name)
    assert "ran code" not in capfd.readouterr().out


def test_a_checkpoint_without_tensors_or_with_several_sets_of_them_is_refused(network, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save({"online": network.state_dict(), "target": network.state_dict()}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match="no tensors"):
        new_model("test_resnet", pretrained=tmp_path / "none.pt")
    with pytest.raises(ValueError, match="several sets of tensors: 'online', 'target'"):
        new_model("test_resnet", pretrained=tmp_path / "two.pt")


def test_reading_a_file_draws_the_random_numbers_that_a_download_draws(network, tmp_path):
    """A seed gives the same experts, whatever is checked in the file."""
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(0)
    timm.create_model("test_resnet", features_only=True)
    expected = torch.rand(3)
    torch.manual_seed(0)
    create_body("test_resnet", pretrained=tmp_path / "weights.safetensors")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(not LITE0.is_file(), reason="needs the ImageNet weights of EfficientNet-Lite0")
@pytest.mark.parametrize("feature_source", ["stage", "head"])
def test_the_weights_of_efficientnet_lite0_are_those_that_timm_loads(feature_source):
    how = {"features_only": True, "out_indices": (-1,)} if feature_source == "stage" else {"num_classes": 0}
    expected = timm.create_model(
        "tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay={"file": str(LITE0)}, **how
    )
    body = create_body("tf_efficientnet_lite0", feature_source, pretrained=LITE0)
    assert weights_hash(body) == weights_hash(expected)
    assert torch.equal(body.state_dict()["conv_stem.weight"], load_file(LITE0)["conv_stem.weight"])


# Preprocessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "crop_pct"), [("tf_efficientnet_lite0", 0.875), ("resnet50", 0.95)])
def test_a_new_model_crops_as_its_backbone_was_evaluated(backbone, crop_pct):
    assert timm.get_pretrained_cfg(backbone).crop_pct == crop_pct
    model = new_model(backbone, 64)
    assert model.config.crop_pct == crop_pct
    assert model.image_processor().size["shortest_edge"] == round(64 / crop_pct)


@pytest.mark.parametrize("size", [(300, 200), (150, 260), (64, 64)])
@pytest.mark.parametrize(
    "backbone",
    [
        "convnext_tiny.in12k_ft_in1k_384",
        "vit_base_patch16_clip_384.openai_ft_in12k_in1k",
        "tf_efficientnetv2_b3.in21k_ft_in1k",
    ],
)
def test_squashed_pixels_are_those_that_timm_gives_the_backbone(backbone, size, tmp_path):
    told = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(backbone).to_dict())
    noise = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    picture = to_pil_image(noise).resize(size, Image.Resampling.BICUBIC)
    assert told["crop_mode"] == "squash"
    expected = timm.data.create_transform(**told)(picture)
    model = DEDNForZeroShot(DEDNConfig(**preprocessing_of(backbone), feature_shape=[4, 2, 2]))
    model.image_processor().save_pretrained(tmp_path)
    for processor in (model.image_processor(), AutoImageProcessor.from_pretrained(tmp_path)):
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        assert pixels.shape == expected.shape
        levels = (pixels - expected).abs() * torch.tensor(told["std"])[:, None, None] * 255
        assert levels.max() < 2.1 and levels.mean() < 0.05  # Pillow and torchvision round differently


def test_every_backbone_says_how_its_pictures_are_cropped(monkeypatch):
    assert preprocessing_of("convnext_tiny.in12k_ft_in1k_384")["crop_mode"] == "squash"
    assert preprocessing_of("tf_efficientnet_lite0")["crop_mode"] == "center"
    assert DEDNConfig().crop_mode == "center"
    border = timm.models.PretrainedCfg(crop_mode="border")  # of deepseek_vit
    monkeypatch.setattr(backbone, "timm_config", lambda name: border)
    assert preprocessing_of("of_a_mode_that_is_not_ours")["crop_mode"] == "center"


def test_an_unknown_crop_mode_is_refused():
    with pytest.raises(ValueError, match="crop_mode is .'border'.; choose from center, squash"):
        DEDNConfig(crop_mode="border")


def test_a_saved_model_still_squashes_pictures(tmp_path):
    new_model("resnet10t", crop_mode="squash", crop_pct=0.9).save_pretrained(tmp_path)
    model, processor = DEDNForZeroShot.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)
    assert model.config.crop_mode == "squash" and (processor.size["height"], processor.size["width"]) == (71, 71)
    picture = to_pil_image(images(90, batch=1)[0, :, :60])
    saved, own = (
        each(images=picture, return_tensors="pt")["pixel_values"] for each in (processor, model.image_processor())
    )
    torch.testing.assert_close(saved, own, rtol=0, atol=0.02)  # one of 255 greys: transformers 5.0 resizes in two ways


def test_a_crop_that_is_given_stays(tmp_path):
    new_model("resnet10t", crop_pct=1.0).save_pretrained(tmp_path)
    assert DEDNForZeroShot.from_pretrained(tmp_path).config.crop_pct == 1.0


def test_a_backbone_of_a_folder_is_given_pictures_as_that_folder_says(network, tmp_path):
    told = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8, "input_size": (3, 96, 96)}
    config = {"num_classes": 3, "pretrained_cfg": {**told, "interpolation": "bilinear"}}
    timm.models.save_for_hf(network, tmp_path, model_config=config)
    model = new_model(f"local-dir:{tmp_path}", None, pretrained=True)
    c = model.config
    assert (c.image_mean, c.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (c.crop_pct, c.image_size, c.interpolation) == (0.8, 96, "bilinear")
    assert torch.equal(model.backbone.body.state_dict()["conv1.0.weight"], network.state_dict()["conv1.0.weight"])


def test_a_model_whose_backbone_came_from_a_folder_loads_without_that_folder(network, tmp_path):
    source = tmp_path / "timm"
    arguments = {"model_args": {"drop_path_rate": 0.1}, "pretrained_cfg": {"input_size": (3, 64, 64)}}
    timm.models.save_for_hf(network, source, model_config={"num_classes": 3, **arguments})
    model = new_model(f"local-dir:{source}", None, pretrained=True)
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    loaded = DEDNForZeroShot.from_pretrained(tmp_path / "model")
    assert loaded.config.backbone == "test_resnet" and loaded.config.backbone_kwargs["drop_path_rate"] == 0.1
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images).logits, model.eval()(images).logits)
