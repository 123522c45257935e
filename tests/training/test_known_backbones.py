"""Backbones with short names and their presets: all but the download, run with random weights and few layers."""

import json

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from dedn_hf import DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.cli.backbone import take_backbone
from dedn_hf.cli.train import named_preset
from dedn_hf.modeling.backbone import preprocessing_of
from dedn_hf.training.automatic import automatic_preset
from dedn_hf.training.backbones import BACKBONES, backbone_options
from dedn_hf.training.settings import PRESETS
from tests.fake_data import jpeg, write_csv

ROLES = {"kite": "train", "wren": "train", "tern": "train", "jay": "val", "gull": "unseen"}
OF_PRESETS = {  # preset, variant -> short name
    ("cub_dinov2", None): "dinov2_base",
    ("cub_dinov2", "small"): "dinov2_small",
    ("cub_dinov2", "pixels448"): "dinov2_base",
    ("cub_dinov3", None): "dinov3_base",
    ("cub_dinov3", "small"): "dinov3_small",
    ("cub_dinov3", "convnext"): "dinov3_convnext_tiny",
    ("cub_siglip2", None): "siglip2_base",
    ("cub_clip", None): "clip_base",
    ("cub_clip", "laion"): "clip_laion_base",
    ("cub_clip", "convnext"): "clip_convnext_base",
}


@pytest.fixture
def birds(tmp_path):
    """Photos of five classes, and a table with the role of each."""
    for number, name in enumerate(ROLES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for photo in range(4):
            (tmp_path / "photos" / name / f"{photo}.jpg").write_bytes(jpeg(10 * number + photo))
    write_csv(tmp_path / "birds.csv", ROLES)
    return tmp_path


def small(backbone: str) -> tuple[int, list[str]]:
    """Pixels, and settings that make a network of this family small; transformers have regions of 14 or 16 pixels."""
    layers = "depths: [1, 1, 1, 1], dims: [8, 8, 8, 16]" if "convnext" in backbone else "depth: 1, embed_dim: 192"
    pixels = 56 if "dinov2" in backbone else 64
    return pixels, [f"model.backbone_kwargs={{{layers}}}", f"model.image_size={pixels}"]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "variant"), OF_PRESETS)
def test_a_preset_runs_from_photos_to_answers(preset, variant, birds):
    backbone = OF_PRESETS[preset, variant]
    pixels, changes = small(backbone)
    changes += ["model.pretrained=false", "training.epochs=3", "training.batch_size=6", "data.test_fraction=0.25"]
    command = ["train", "--preset", preset, *(["--variant", variant] if variant else []), str(birds / "photos")]
    command += ["--traits", str(birds / "birds.csv"), "--out", str(birds / "model"), "--cpu"]
    assert main([*command, "--features", str(birds / "features"), "--set", *changes]) == 0
    config = DEDNForZeroShot.from_pretrained(birds / "model").config
    side = 2 if "convnext" in backbone else 4
    assert config.backbone == BACKBONES[backbone] and config.feature_shape[1:] == [side, side]
    assert config.image_mean == preprocessing_of(config.backbone)["image_mean"] and config.image_size == pixels
    record = json.loads((birds / "model" / "run.json").read_text())
    assert record["selection"]["chosen"]["epoch"] == 3 and record["calibration_bias"] is not None
    assert main(["classify", str(birds / "model"), str(birds / "photos"), "--out", str(birds / "answers.csv")]) == 0
    assert (
        main(["explain", str(birds / "model"), str(birds / "photos/kite/0.jpg"), "--out", str(birds / "a.svg")]) == 0
    )


def test_every_short_name_has_a_preset_that_asks_for_the_same():
    assert set(OF_PRESETS.values()) == set(BACKBONES)
    known = {preset for preset, _ in OF_PRESETS}
    for preset in known:
        variants = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8")).get("variants") or {}
        assert {variant for name, variant in OF_PRESETS if name == preset} == {None, *variants}
    for (preset, variant), backbone in OF_PRESETS.items():
        model = named_preset(preset, variant)[0]["model"]
        own = {"feature_source": "stage", "image_size": preprocessing_of(BACKBONES[backbone])["image_size"]}
        wanted = own | backbone_options(backbone) | ({"image_size": 448} if variant == "pixels448" else {})
        assert {key: model[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", BACKBONES.values())
def test_timm_has_weights_and_preprocessing_for_every_short_name(name):
    assert name in timm.list_pretrained() and timm.get_pretrained_cfg(name).hf_hub_id


def test_a_file_of_weights_for_more_pixels_is_read_for_fewer(birds, capsys):
    pixels, changes = small("dinov2_small")
    torch.manual_seed(0)
    network = timm.create_model(BACKBONES["dinov2_small"], depth=1, embed_dim=192)
    torch.nn.init.normal_(network.pos_embed)
    save_file(network.state_dict(), birds / "weights.safetensors")
    command = ["train", str(birds / "photos"), "--traits", str(birds / "birds.csv"), "--out", str(birds / "model")]
    command += ["--backbone", "dinov2_small", "--weights", str(birds / "weights.safetensors"), "--effort", "quick"]
    assert main([*command, "--cpu", "--set", *changes, "training.epochs=1"]) == 0
    model = DEDNForZeroShot.from_pretrained(birds / "model")
    assert model.config.feature_source == "head" and model.backbone.body.pos_embed.shape == (1, 1 + 4 * 4, 192)
    assert torch.equal(model.backbone.body.patch_embed.proj.weight, network.patch_embed.proj.weight)
    assert "with vit_small_patch14_dinov2.lvd142m" in capsys.readouterr().out


def test_a_training_uses_the_features_that_a_check_has_computed():
    check = take_backbone({"backbone": "dinov2_base", "features": "features", "other": 1})
    model = automatic_preset({}, 100, 10, backbone="dinov2_base")["model"]
    assert check == {
        "backbone": "vit_base_patch14_dinov2.lvd142m",
        "feature_source": "head",
        "image_size": 224,
        "features": "features",
    }
    assert {key: model[key] for key in ("backbone", "feature_source", "image_size")}.items() <= check.items()
    assert take_backbone({"backbone": "dinov2_base", "image_size": 448})["image_size"] == 448


def test_other_backbones_are_what_they_were():
    for name in ("tf_efficientnet_lite0", "vit_tiny_patch16_224", "hf-hub:timm/resnet18.a1_in1k", "convnext_tiny"):
        assert backbone_options(name) == {"backbone": name}


def test_with_a_preset_another_backbone_keeps_the_presets_pixels_and_has_its_own_map():
    model = named_preset("cub", backbone="siglip2_base")[0]["model"]
    assert (model["backbone"], model["image_size"], model["feature_source"]) == (
        BACKBONES["siglip2_base"],
        448,
        "head",
    )
    model = named_preset("cub_dinov2", backbone="resnet50", changes=["model.image_size=288"])[0]["model"]
    assert (model["backbone"], model["image_size"]) == ("resnet50", 288) and "feature_source" not in model


def test_the_beginning_of_a_short_name_is_answered_with_those_that_there_are(birds, capsys):
    with pytest.raises(ValueError, match="no backbone 'dinov2'. Did you mean 'dinov2_base', 'dinov2_small'"):
        backbone_options("dinov2")
    command = ["check", str(birds / "photos"), "--traits", str(birds / "birds.csv"), "--backbone", "clip"]
    assert main(command) == 2
    assert "clip_base" in capsys.readouterr().err
