"""What is exported gives the numbers of the model, whatever the batch, the classes, the backbone and the settings."""

import functools
import json
import zipfile

import numpy as np
import onnx
import pytest
import torch

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.cli import main
from dedn_hf.publish import export, extras, saved
from dedn_hf.publish.export import export_model, export_onnx, export_program, metadata, open_session, quantize_onnx
from dedn_hf.publish.saved import load_model
from tests.modeling.test_model_loading import random_model
from tests.tiny_runs import FEATURE_SHAPE, feature_model, image_model, tiny_table

SETTINGS = {
    "published": {},
    "cosine and centred": {"normalize_scores": True, "center_attributes": True, "standardize_features": True},
    "factorised, as for SUN": {"query_rank": 3},
    "one expert, one attention": {"experts": ["fine"], "attentions": ["channel"]},
    "calibrated": {"calibration_bias": 2.5, "seen_bias": 0.0, "coarse_weight": 0.3, "region_weight": 0.6},
}


def awake(model: DEDNForZeroShot) -> DEDNForZeroShot:
    """The same with keys that are not 0, where attention would hide the input."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.experts.named_parameters():
        if name.endswith("_key"):
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model.eval()


def inputs_of(model: DEDNForZeroShot, batch: int) -> dict[str, torch.Tensor]:
    config, generator = model.config, torch.Generator().manual_seed(100 + batch)
    if model.backbone is None:
        return {"features": torch.randn(batch, *config.feature_shape, generator=generator)}
    return {"pixel_values": torch.randn(batch, 3, config.image_size, config.image_size, generator=generator)}


def run_file(path, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    names = ["logits", "attribute_scores"]
    values = open_session(path).run(names, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))


def assert_same(outputs, expected, tolerance: float = 1e-4) -> None:
    """Every output within `tolerance` of the largest value, which alone would let small attribute scores be wrong."""
    for name in ("logits", "attribute_scores"):
        want = expected[name].detach().numpy()
        assert outputs[name].shape == want.shape
        np.testing.assert_allclose(outputs[name], want, rtol=0, atol=tolerance * np.abs(want).max())


@torch.no_grad()
def assert_exports(model: DEDNForZeroShot, path, batches=(1, 3)) -> None:
    assert export_onnx(model, path).largest <= 1e-4
    for batch in batches:
        inputs = inputs_of(model, batch)
        assert_same(run_file(path, inputs), model(**inputs))


def describe(path) -> dict:
    texts = open_session(path).get_modelmeta().custom_metadata_map
    return {key: json.loads(text) for key, text in texts.items() if key != "onnx.infer"}  # of onnxruntime


# ONNX ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "attention"), [*((name, "sdpa") for name in SETTINGS), ("published", "eager")])
def test_onnx_gives_the_numbers_of_every_kind_of_model(settings, attention, tmp_path):
    model = awake(feature_model(attn_implementation=attention, **SETTINGS[settings]))
    assert model.config._attn_implementation == attention
    model.feature_norm.running_mean = torch.linspace(-1, 1, 6) if "cosine" in settings else None
    assert_exports(model, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("backbone", "image_size", "kwargs"),  # fewer layers where all are alike: an export takes a time for each
    [
        ("test_resnet", 64, {}),
        ("vit_tiny_patch16_224", 64, {"depth": 2}),
        pytest.param("tf_efficientnet_lite0", 64, {}, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", 112, {"depths": [2, 2, 2, 1]}, marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_numbers_of_several_families_of_backbones(backbone, image_size, kwargs, tmp_path):
    model = random_model(backbone, image_size, backbone_kwargs=kwargs)
    assert_exports(model, tmp_path / "model.onnx", batches=(1, 3, 5))


def test_classes_as_input_equal_set_classes_for_any_number_of_classes(tmp_path):
    model = awake(feature_model(**SETTINGS["cosine and centred"], calibration_bias=1.5))
    export_onnx(model, tmp_path / "model.onnx", classes="input")
    for count, batch in ((1, 2), (3, 3), (20, 1)):
        table = AttributeTable(
            [f"new {i}" for i in range(count)],
            tiny_table().attribute_names,
            np.random.default_rng(count).uniform(0, 100, (count, 8)),
            roles=["train" if i % 3 == 0 else "unseen" for i in range(count)],
        )
        inputs = inputs_of(model, batch)
        classes = {"class_attributes": torch.from_numpy(table.class_attributes), "seen": torch.from_numpy(table.seen)}
        outputs = run_file(tmp_path / "model.onnx", inputs | classes)
        model.set_classes(table)
        assert_same(outputs, model(**inputs))


def test_the_model_itself_stays_as_it_is(tmp_path):
    model = awake(feature_model()).to(torch.bfloat16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "model.onnx", classes="input")
    export_program(model, tmp_path / "model.pt2", classes="input")
    assert model.training and model.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hasattr(model.experts["coarse"], "attribute_embeddings")


def test_of_squashed_pictures_the_file_gives_height_and_width():
    model = image_model(image_size=64, crop_pct=0.9, crop_mode="squash")
    preprocessing = json.loads(metadata(model, "baked")["preprocessing"])
    assert (preprocessing["height"], preprocessing["width"], preprocessing["crop_size"]) == (71, 71, 64)
    assert "shortest_edge" not in preprocessing


def test_the_file_says_how_to_use_it_and_nothing_about_this_machine(tmp_path):
    model = image_model(image_size=64, crop_pct=0.875, interpolation="bicubic")
    export_onnx(model, tmp_path / "model.onnx")
    described = describe(tmp_path / "model.onnx")
    assert described["class_names"] == tiny_table().class_names
    assert described["seen"] == tiny_table().seen.tolist()
    assert described["attribute_names"] == tiny_table().attribute_names
    mean, std = list(model.config.image_mean), list(model.config.image_std)
    expected = {"shortest_edge": 73, "crop_size": 64, "interpolation": "bicubic", "mean": mean, "std": std}
    assert described["preprocessing"] == expected
    session = open_session(tmp_path / "model.onnx")
    assert [value.name for value in session.get_outputs()] == ["logits", "attribute_scores"]
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    export_program(model, tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        program = b"".join(archive.read(name) for name in archive.namelist())
    for content in ((tmp_path / "model.onnx").read_bytes(), program):
        assert b"site-packages" not in content and b"modeling/" not in content


def test_what_does_not_depend_on_the_image_is_stored_and_not_computed_again(tmp_path):
    export_onnx(awake(feature_model()), tmp_path / "model.onnx")
    weights = [tuple(each.dims) for each in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert not [shape for shape in weights if 12 in shape]  # the size of the attribute embeddings


def test_an_opset_can_be_chosen_and_one_that_cannot_be_had_is_refused(tmp_path):
    export_onnx(awake(feature_model()), tmp_path / "model.onnx", opset=18)
    assert [each.version for each in onnx.load(tmp_path / "model.onnx").opset_import if not each.domain] == [18]
    with pytest.raises(ValueError, match="opset"):
        export_onnx(feature_model(), tmp_path / "other.onnx", opset=3)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


# int8 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", ["baked", pytest.param("input", marks=pytest.mark.slow)])
def test_int8_is_smaller_and_says_how_much_it_differs(classes, tmp_path):
    model = random_model("test_resnet")
    export_onnx(model, tmp_path / "model.onnx", classes=classes)
    found = quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * (tmp_path / "model.onnx").stat().st_size
    assert 1e-4 < found.largest < 0.2  # eight bits: not exact, not nonsense
    assert 0.5 <= found.agreement <= 1 and found.inputs == 16
    assert describe(tmp_path / "int8.onnx")["attribute_names"] == model.config.attribute_names


def test_int8_leaves_the_small_product_with_the_classes_exact(tmp_path):
    model = random_model("test_resnet")
    export_model(model, tmp_path / "int8.onnx", "onnx-int8")
    outputs = run_file(tmp_path / "int8.onnx", inputs_of(model, 3))
    expected = model.score_classes(torch.from_numpy(outputs["attribute_scores"])).detach()
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)


def test_int8_without_a_backbone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no weights worth quantising"):
        export_model(feature_model(), tmp_path / "int8.onnx", "onnx-int8")
    assert not list(tmp_path.iterdir())


# torch ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("build", [feature_model, image_model])
def test_a_program_of_torch_export_gives_the_same_after_loading(build, tmp_path):
    model = awake(build())
    export_program(model, tmp_path / "model.pt2")
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    for batch in (1, 3):
        inputs = inputs_of(model, batch)
        assert_same(program.module()(**inputs), model(**inputs), tolerance=1e-6)
    assert json.loads(extra["metadata.json"])["class_names"] == tiny_table().class_names


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_torch_export_takes_the_model_as_it_is(attention):
    model = awake(image_model(attn_implementation=attention))
    inputs, dynamic = inputs_of(model, 2), {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dynamic)
    for batch in (1, 3):
        inputs = inputs_of(model, batch)
        torch.testing.assert_close(program.module()(**inputs).logits, model(**inputs).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_whole_model_compiles_into_one_graph():
    model = awake(image_model())
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    inputs, labels = inputs_of(model, 2), torch.tensor([0, 2])
    with torch.no_grad():
        assert_same({name: value.numpy() for name, value in compiled(**inputs).items()}, model(**inputs), 1e-5)
    with_labels = compiled(**inputs, labels=labels, output_attentions=True)
    torch.testing.assert_close(with_labels.loss, model(**inputs, labels=labels).loss)
    torch.compiler.reset()


# Failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "failure"),
    [("onnx", KeyboardInterrupt), ("onnx", OSError), ("onnx-int8", KeyboardInterrupt), ("torch", KeyboardInterrupt)],
)
def test_an_export_that_is_interrupted_leaves_no_file_and_an_older_one_alone(format, failure, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise failure

    (tmp_path / "model").write_text("older")
    monkeypatch.setattr(export, "difference", fail)
    with pytest.raises(failure):
        export_model(image_model(), tmp_path / "model", format)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_text() == "older"


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_export_with_other_numbers_is_refused(format, tmp_path, monkeypatch):
    honest = export.Classifier.forward

    @functools.wraps(honest)  # torch.export asks for the names of its arguments
    def a_little_off(self, *args, **options):
        outputs = honest(self, *args, **options)
        return outputs | {"attribute_scores": outputs["attribute_scores"] * 1.001}

    monkeypatch.setattr(export.Classifier, "forward", a_little_off)
    with pytest.raises(ValueError, match="differs from what it should give by 1.0e-03"):
        export_model(awake(feature_model()), tmp_path / "model", format)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    model = feature_model()
    model.experts["coarse"].region_value.data[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="differs"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_answered_with_what_to_do(tmp_path):
    model = feature_model()
    with pytest.raises(ValueError, match="baked, input"):
        export_onnx(model, tmp_path / "model.onnx", classes="some")
    with pytest.raises(ValueError, match="onnx, onnx-int8, torch"):
        export_model(model, tmp_path / "model.onnx", "tflite")
    with pytest.raises(ValueError, match="leave it out"):
        export_model(model, tmp_path / "model.pt2", "torch", opset=18)
    with pytest.raises(ValueError, match="no folder"):
        export_onnx(model, tmp_path / "missing" / "model.onnx")
    with pytest.raises(FileNotFoundError, match="dedn export"):
        quantize_onnx(tmp_path / "missing.onnx", tmp_path / "int8.onnx")


# Command line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "name"), [("onnx", "model.onnx"), ("onnx-int8", "model.int8.onnx"), ("torch", "model.pt2")]
)
def test_the_command_exports_into_the_folder_of_the_model(format, name, tmp_path, capsys):
    image_model().save_pretrained(tmp_path)
    assert main(["export", str(tmp_path), "--format", format]) == 0
    assert (tmp_path / name).is_file()
    *before, told = capsys.readouterr().out.splitlines()
    assert str(tmp_path / name) in told and "same best class" in told
    assert all("general pattern rewrite rules" in line for line in before)  # which older onnxscript prints


@pytest.mark.parametrize("format", ["onnx", "onnx-int8", "torch"])
def test_a_folder_in_place_of_a_file_is_refused_before_the_work(format, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saved, "load_model", lambda name: pytest.fail("the model was loaded"))
    (tmp_path / "run").mkdir()
    assert main(["export", str(tmp_path), "--format", format, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'run'} is a folder. Give the name of a file in it" in said and "Errno" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_command_takes_a_model_without_backbone_and_other_classes(tmp_path, capsys):
    feature_model().save_pretrained(tmp_path)
    out = tmp_path / "features.onnx"
    assert main(["export", str(tmp_path), "--classes", "input", "--out", str(out), "--opset", "18"]) == 0
    shapes = {value.name: value.shape for value in open_session(out).get_inputs()}
    assert shapes["features"] == ["batch", *FEATURE_SHAPE]
    assert shapes["class_attributes"] == ["classes", 8] and shapes["seen"] == ["classes"]


def test_the_command_says_what_is_wrong_with_the_model(tmp_path, capsys):
    assert main(["export", str(tmp_path / "nowhere")]) == 2
    assert "neither the folder of a model nor the id" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert main(["export", str(tmp_path)]) == 2
    assert "holds no DEDN model" in capsys.readouterr().err


def test_the_command_says_which_packages_are_missing_and_how_to_install_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extras, "is_there", lambda requirement: requirement.name != "onnxscript")
    assert main(["export", str(tmp_path)]) == 2
    assert 'needs packages that are not installed. pip install "onnxscript>=' in capsys.readouterr().err


def test_a_model_loads_for_export_without_its_own_code(tmp_path):
    model = awake(feature_model())
    model.save_pretrained(tmp_path)
    for code in tmp_path.glob("*.py"):
        code.write_text("raise SystemExit('this code was run')")
    inputs = inputs_of(model, 1)
    assert torch.equal(load_model(str(tmp_path))(**inputs).logits, model(**inputs).logits)
