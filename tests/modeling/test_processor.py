"""Processor and Auto classes: a DEDN is used like CLIP, and like any image classifier."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, AutoProcessor, pipeline

from dedn_hf import DEDNForZeroShot, DEDNPipeline
from dedn_hf.modeling.pipeline_dedn import DEDNProcessor
from tests.tiny_runs import image_model, picture

ZERO_SHOT, CLASSIFICATION = "zero-shot-image-classification", "image-classification"


@pytest.fixture(scope="module")
def model() -> DEDNForZeroShot:
    return image_model(initializer_range=0.1, normalize_scores=True, center_attributes=True).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processor") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder) -> DEDNProcessor:
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    for label in range(2):
        (tmp_path / f"{label}.png").write_bytes(picture(label, 0))
    return [tmp_path / "0.png", tmp_path / "1.png"]


@torch.no_grad()
def test_scores_of_named_classes_are_those_of_the_pipeline(model, processor, folder, photos):
    names = ["bird c", "bird f", "bird a"]
    inputs = processor(images=photos, text=names, return_tensors="pt", padding=True)
    assert set(inputs) == set(processor.model_input_names)
    scores = model(**inputs).logits_per_image.softmax(dim=1)
    assert scores.shape == (2, 3)
    answers = pipeline(ZERO_SHOT, model=folder, pipeline_class=DEDNPipeline)(photos, candidate_labels=names)
    for row, answer in zip(scores.tolist(), answers, strict=True):
        by_name = {each["label"]: each["score"] for each in answer}
        assert dict(zip(names, row, strict=True)) == pytest.approx(by_name, abs=1e-6)


@torch.no_grad()
def test_a_described_class_is_a_class(model, processor, photos):
    text = {"bird a": None, "my bird": {"attribute 3": 0.9}}
    inputs = processor(images=photos[0], text=text)
    table = model.attribute_table
    expected = table.class_attributes[table.seen].mean(axis=0)
    expected[3] = 0.9
    np.testing.assert_array_equal(inputs["class_attributes"], np.stack([table.class_attributes[0], expected]))
    assert inputs["seen"].tolist() == [True, False]
    assert model(**inputs).logits.shape == (1, 2)


@torch.no_grad()
def test_without_text_the_model_chooses_among_its_own_classes(model, processor, photos):
    inputs = processor(images=[Image.open(photo) for photo in photos])
    assert set(inputs) == {"pixel_values"}
    assert model(**inputs).logits.shape == (2, 7)


def test_text_alone_gives_classes_alone(processor):
    inputs = processor(text="bird b")
    assert set(inputs) == {"class_attributes", "seen"} and inputs["class_attributes"].shape == (1, 8)


def test_pixels_as_arrays_are_left_to_the_image_processor(processor):
    pixels = torch.zeros(2, 3, 80, 100, dtype=torch.uint8)
    assert processor(images=pixels)["pixel_values"].shape == (2, 3, 64, 64)
    assert processor(images=list(pixels))["pixel_values"].shape == (2, 3, 64, 64)


def test_what_it_cannot_read_is_refused_with_what_to_do(processor, photos):
    with pytest.raises(ValueError, match="Pass images, or text"):
        processor()
    with pytest.raises(ValueError, match="knows no class 'bird x'.*bird"):
        processor(images=photos, text=["bird x"])
    with pytest.raises(ValueError, match="neither a file"):
        processor(images="nowhere.jpg")


def test_it_follows_the_classes_of_the_model_when_that_is_saved_again(folder, tmp_path):
    model = DEDNForZeroShot.from_pretrained(folder)
    model.set_classes(model.attribute_table.select(["bird d", "bird b"]))
    for _ in range(2):
        model.save_pretrained(tmp_path)
    table = AutoProcessor.from_pretrained(tmp_path).table
    assert (table.class_names, table.roles) == (["bird d", "bird b"], model.attribute_table.roles)
    np.testing.assert_array_equal(table.class_attributes, model.class_attributes)


def test_a_processor_is_saved_by_itself(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.table.class_names == processor.table.class_names
    assert again.table.attribute_groups == processor.table.attribute_groups
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()


def test_a_folder_without_a_class_table_is_refused(folder, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    with pytest.raises(OSError, match="class_table.safetensors"):
        DEDNProcessor.from_pretrained(tmp_path)


def test_a_model_that_takes_features_alone_has_no_processor_to_save(tmp_path):
    from tests.tiny_runs import feature_model

    feature_model().save_pretrained(tmp_path)
    assert not (tmp_path / "processor_config.json").exists()


@torch.no_grad()
def test_it_is_an_image_classifier_over_its_own_classes(model, folder, photos):
    assert type(AutoModelForImageClassification.from_pretrained(folder)) is DEDNForZeroShot
    photo = str(photos[0])
    ours = pipeline(ZERO_SHOT, model=folder, pipeline_class=DEDNPipeline)(photo, top_k=5)
    theirs = pipeline(CLASSIFICATION, model=folder)(photo)
    assert [each["label"] for each in theirs] == [each["label"] for each in ours]
    assert [each["score"] for each in theirs] == pytest.approx([each["score"] for each in ours], abs=1e-6)


def test_at_most_nine_files_of_code_are_written_beside_the_weights(folder):
    assert len(list(folder.glob("*.py"))) <= 9


def test_the_folder_serves_every_auto_class_where_this_package_cannot_be_imported(model, folder, photos, tmp_path):
    code = f"""
        import sys, torch
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "dedn_hf":
                    raise ModuleNotFoundError("dedn_hf is not here")
        sys.meta_path.insert(0, Refuse())
        import transformers
        folder, photo = {str(folder)!r}, {str(photos[0])!r}
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        inputs = processor(images=[photo], text=["bird c", "bird f"], return_tensors="pt")
        for auto in ("AutoModel", "AutoModelForImageClassification", "AutoModelForZeroShotImageClassification"):
            model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
            with torch.no_grad():
                assert model(**inputs).logits_per_image.shape == (1, 2)
        best = transformers.pipeline({CLASSIFICATION!r}, model=folder, trust_remote_code=True)(photo)[0]
        again = transformers.pipeline({ZERO_SHOT!r}, model=folder, trust_remote_code=True)(photo)[0]
        assert best["label"] == again["label"] and abs(best["score"] - again["score"]) < 1e-6
        processor.save_pretrained({str(tmp_path / "again")!r})
        again = transformers.AutoProcessor.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True)
        assert again.table.class_names == processor.table.class_names
        print(type(processor).__module__)
    """
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transformers_modules.")
    assert "not supported" not in done.stderr
