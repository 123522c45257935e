"""What holds on a GPU as on the CPU. Each test runs on both: `pytest -m gpu` on a machine with one, else on the CPU.

Numbers of a GPU are compared with those of the CPU: convolutions may use TF32 there, which keeps three digits.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import pipeline

from dedn_hf import DEDNForZeroShot, DEDNPipeline
from dedn_hf.classify import classify
from dedn_hf.data.features import FeatureCache
from dedn_hf.data.tasks import test_task as full_task
from dedn_hf.explain import explain
from dedn_hf.modeling.handler import EndpointHandler
from dedn_hf.publish.export import export_model
from dedn_hf.training import run
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.experiment import Experiment, inputs_of, training_images
from dedn_hf.training.loop import fit
from dedn_hf.training.plan import MEASURED_STEPS, shortest
from dedn_hf.training.pooled import fit_pooled_expert
from tests.publish.test_export import awake
from tests.tiny_runs import feature_model, feature_task, image_data, image_model, load_tiny, picture
from tests.tiny_trainings import assert_same, at_step, settings

TASK = "zero-shot-image-classification"
WHOLE = {"pooled_weight": 0.4, "attribute_power": 0.5, "center_attributes": True, "flip_test": True}
COSINE = {"normalize_scores": True, "standardize_features": True, "feature_dropout": 0.2, "query_rank": 3}
PRECISIONS = [("cpu", "no"), ("cpu", "bf16"), *(("cuda", precision) for precision in ("no", "bf16", "fp16"))]
ON_EACH_DEVICE = pytest.mark.parametrize(
    ("device", "precision"),
    [pytest.param(*each, marks=[pytest.mark.gpu] * (each[0] == "cuda"), id="-".join(each)) for each in PRECISIONS],
)


def seeded_model(**config) -> DEDNForZeroShot:
    """A model whose attention and pooled expert see something."""
    torch.manual_seed(0)
    model = awake(image_model(initializer_range=0.1, **config))
    if model.pooled_expert is not None:
        torch.nn.init.normal_(model.pooled_expert.weight, std=0.1)
    return model


@pytest.fixture(params=[{}, WHOLE, COSINE], ids=["published", "whole", "cosine"])
def model(request) -> DEDNForZeroShot:
    """On the CPU."""
    return seeded_model(**request.param)


@pytest.fixture
def accelerator(accelerators, device):
    return accelerators(cpu=device == "cpu")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for label in range(7):
        (folder / f"{label}.png").write_bytes(picture(label, 0))
    return folder


def pixels(count: int = 5, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_near(found, expected, share: float = 0.01) -> None:
    """Every number within a share of the largest one."""
    found, expected = (torch.as_tensor(each).detach().double().cpu() for each in (found, expected))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()


def devices_of(model: torch.nn.Module) -> set[str]:
    return {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]}


# Placement -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_loaded_model_moves_with_all_it_holds_and_gives_the_same(model, device, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = DEDNForZeroShot.from_pretrained(tmp_path / "model").to(device).eval()
    assert devices_of(loaded) == {device}
    expected, found = model(pixels(), output_attentions=True), loaded(pixels().to(device), output_attentions=True)
    for name in ("logits", "attribute_scores", "region_maps"):
        assert_near(getattr(found, name), getattr(expected, name))
    best = [each.top_classes(output.attribute_scores, 3)[0] for each, output in ((model, expected), (loaded, found))]
    assert_near(best[1], best[0])
    loaded.set_classes(loaded.attribute_table.select(["bird c", "bird a"]))
    assert devices_of(loaded) == {device} and loaded(pixels().to(device)).logits.shape == (5, 2)
    assert devices_of(loaded.to("cpu")) == {"cpu"}
    assert_near(loaded(pixels()).attribute_scores, expected.attribute_scores)


@torch.no_grad()
def test_a_device_map_is_chosen_by_itself(model, device, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = DEDNForZeroShot.from_pretrained(tmp_path / "model", device_map="auto").eval()
    assert loaded.device.type == device
    assert_near(loaded(pixels().to(device)).logits, model(pixels()).logits)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.14") and not torch.cuda.is_available(),
    reason="without a driver, torch 2.9 ends the process at a convolution that pretends to be on a GPU",
)
@pytest.mark.parametrize("config", [WHOLE, COSINE], ids=["whole", "cosine"])
def test_no_step_of_the_model_mixes_devices(config):
    """With tensors that only pretend to be on a GPU, which needs none: they know device and shape, and no numbers."""
    model = seeded_model(**config, calibration_weight=0.1, regression_weight=1.0)
    with FakeTensorMode():
        for module in model.modules():
            for name, tensor in module._parameters.items():
                if tensor is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(tensor.shape, device="cuda"))
            for name, tensor in module._buffers.items():
                if tensor is not None:
                    module._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
        images, labels = torch.empty(5, 3, 64, 64, device="cuda"), torch.zeros(5, dtype=torch.long, device="cuda")
        assert model.train()(images, labels=labels).loss.device.type == "cuda"
        with torch.no_grad():
            output = model.eval()(images, output_attentions=True)
            assert {each.device.type for each in output.to_tuple()} == {"cuda"}
            assert model.score_classes(output.attribute_scores).device.type == "cuda"
            assert model.top_classes(output.attribute_scores, 3)[2].device.type == "cuda"
        if model.pooled_expert is not None:
            rows = model.normalized_class_attributes()
            pooled = torch.empty(5, model.config.feature_shape[0], device="cuda")
            model.pooled_expert.learn(pooled, labels, rows)
            assert model.pooled_expert.weight.device.type == "cuda"


# Answers -------------------------------------------------------------------------------------------------------------


def assert_same_answers(found: list[dict], expected: list[dict]) -> None:
    scores = [{each["label"]: each["score"] for each in answers} for answers in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.parametrize("candidates", [None, ["bird c", "bird a"], {"bird c": None, "new": {"attribute 2": 1.1}}])
def test_the_pipeline_answers_on_the_device_it_is_given(device, candidates, tmp_path):
    seeded_model(**WHOLE).save_pretrained(tmp_path / "model")
    picked = [Image.fromarray(np.full((50, 40, 3), shade, np.uint8)) for shade in (10, 120, 240)]
    answers = {}
    for where in ("cpu", 0 if device == "cuda" else "cpu"):
        pipe = pipeline(TASK, model=str(tmp_path / "model"), pipeline_class=DEDNPipeline, device=where)
        assert devices_of(pipe.model) == {"cuda" if where == 0 else "cpu"}
        answers[where] = pipe(picked, candidate_labels=candidates, batch_size=2)
    found, expected = list(answers.values())[-1], answers["cpu"]
    for each, other in zip(found, expected, strict=True):
        assert_same_answers(each, other)


def test_the_handler_answers_with_a_model_on_the_device(device, photos):
    handlers = []
    for where in ("cpu", device):
        model = seeded_model(**WHOLE)
        pipe = DEDNPipeline(model=model, image_processor=model.image_processor(), task=TASK, device=where)
        handlers.append(EndpointHandler(pipeline=pipe))
    request = {"inputs": (photos / "3.png").read_bytes(), "parameters": {"candidate_labels": ["bird a", "bird d"]}}
    expected, found = (handler(request) for handler in handlers)
    assert_same_answers(found, expected)


@pytest.mark.parametrize("options", [{}, {"min_confidence": 0.2}, {"top_k": 3}], ids=["plain", "unsure", "top-k"])
def test_classify_writes_the_same_rows(device, photos, tmp_path, options):
    tables = []
    for name, where in (("first", "cpu"), ("second", device)):
        classify(seeded_model(**WHOLE).to(where), photos, tmp_path / f"{name}.csv", batch_size=3, **options)
        with open(tmp_path / f"{name}.csv", newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 7 * options.get("top_k", 1)
    for expected, found in zip(*tables, strict=True):
        assert found["error"] == "" and found["file"] == expected["file"]
        assert float(found["confidence"]) == pytest.approx(float(expected["confidence"]), abs=0.01)


def test_an_explanation_adds_up_and_is_the_same(device, photos, tmp_path):
    expected, found = (explain(seeded_model(**WHOLE).to(where), photos / "2.png") for where in ("cpu", device))
    assert_near(found.logits, expected.logits)
    assert_near(found.region_maps, expected.region_maps)
    found.save(tmp_path / "why.html")
    assert (tmp_path / "why.html").stat().st_size > 1000


# Precision and layout ------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_under_autocast_logits_stay_near_those_of_float32(model, device, dtype):
    model.to(device)
    expected = model(pixels().to(device)).logits
    with torch.autocast(device, dtype):
        found = model(pixels().to(device)).logits
    assert_near(found, expected, share=0.05)


@torch.no_grad()
def test_channels_last_changes_no_answer(model, device):
    model.to(device)
    expected = model(pixels().to(device)).logits
    model.to(memory_format=torch.channels_last)
    assert_near(model(pixels().to(device, memory_format=torch.channels_last)).logits, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cache_made_on_the_device_holds_what_one_made_on_the_cpu_holds(device, precision, tmp_path):
    images, maps = image_data([(0, 0), (3, 1), (2, 0), (0, 1), (5, 4)]), {}
    for name, where, how in (("first", "cpu", "float32"), ("second", device, precision)):
        model = seeded_model().to(where)
        cache = FeatureCache.open_or_build(tmp_path / name, model, images, progress=False, precision=how)
        maps[name] = cache.read(cache.rows(images["file"])).float()
    assert_near(maps["second"], maps["first"], share=0.01 if precision == "float32" else 0.05)


def test_a_model_on_the_device_is_exported_and_stays_there(device, tmp_path):
    model = seeded_model(**WHOLE).to(device)
    assert export_model(model, tmp_path / "model.onnx").largest <= 1e-4
    assert export_model(model, tmp_path / "model.pt2", format="torch").largest <= 1e-4
    assert devices_of(model) == {device}


# Training ------------------------------------------------------------------------------------------------------------


def on_features(accelerator, folder: Path, **changes):
    model, (task, inputs) = feature_model(feature_dropout=0.2), feature_task()
    progress = fit(model, task, inputs, settings(**changes), accelerator, folder)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, progress.epochs


def on_images(accelerator, folder: Path, **changes):
    torch.manual_seed(0)
    model, task = image_model(), full_task(*load_tiny())
    changes = {"train_backbone": True, "augmentation": "crop", "jitter": 0.3, "channels_last": True, **changes}
    chosen = settings(**changes)
    progress = fit(model, task, inputs_of(task, model, chosen, []), chosen, accelerator, folder)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, progress.epochs


@ON_EACH_DEVICE
@pytest.mark.parametrize("train", [on_features, on_images])
def test_training_learns_and_goes_on_from_a_checkpoint_to_the_same_weights(
    train, device, precision, accelerators, tmp_path, monkeypatch
):
    changes = {"epochs": 2, "ema_decay": 0.5, "schedule": "cosine", "max_grad_norm": 1.0}
    how = {"cpu": device == "cpu", "mixed_precision": precision}
    expected, history = train(accelerators(**how), tmp_path / "whole", **changes)
    assert history[-1]["loss"] < history[0]["loss"]

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 6 if train is on_features else 5, stop)  # in the second epoch
        with pytest.raises(KeyboardInterrupt):
            train(accelerators(**how), tmp_path / "stopped", **changes)
    found, again = train(accelerators(**how), tmp_path / "stopped", **changes)
    if device == "cpu":
        assert_same((found, again), (expected, history))
    for name, tensor in expected.items():  # a GPU may add up in another order each time
        if tensor.is_floating_point():
            torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-2 * float(tensor.abs().max() + 1e-6))
    assert again[-1]["loss"] == pytest.approx(history[-1]["loss"], rel=1e-2)


@pytest.fixture
def back_to_any_algorithm():
    """Torch's switches, as they were before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.usefixtures("back_to_any_algorithm")
@pytest.mark.parametrize("cached", [True, False], ids=["features", "images"])
def test_deterministic_runs_end_with_the_same_bits(device, cached, accelerators, tmp_path):
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
    config = WHOLE if cached else {}
    images = {} if cached else {"train_backbone": True, "augmentation": "flip", "channels_last": True}
    chosen = settings(deterministic=True, epochs=2, ema_decay=0.5, **images)
    found = []
    for name in ("first", "second"):
        features = tmp_path / f"{name}-features" if cached else None
        experiment = Experiment(load_tiny, lambda table: image_model(table, **config), features)
        record = run(experiment, chosen, tmp_path / name, accelerators(cpu=device == "cpu"))
        found.append((record["model"]["weights"], record["history"]))
        assert record["hardware"]["device"] == device
    assert found[0] == found[1]


def test_a_run_uses_the_backbone_on_the_device_only(device, accelerator, tmp_path, monkeypatch):
    extract, used = DEDNForZeroShot.extract_features, set()

    def watched(self, pixel_values):
        used.add(pixel_values.device.type)
        return extract(self, pixel_values)

    monkeypatch.setattr(DEDNForZeroShot, "extract_features", watched)
    run(Experiment(load_tiny, image_model), settings(epochs=1), tmp_path / "run", accelerator)
    assert used == {device}


def test_the_pooled_expert_learns_the_same(device, accelerators):
    fitted = []
    for where in ("cpu", device):
        model, task = seeded_model(**WHOLE), full_task(*load_tiny())
        images = training_images(task, model, settings(), [])
        fit_pooled_expert(model, images, task.labels["train"], accelerators(cpu=where == "cpu"))
        assert devices_of(model) == {where}
        fitted.append(model.pooled_expert)
    pooled = torch.randn(40, fitted[0].mean.numel(), 1, generator=torch.Generator().manual_seed(2))
    expected, found = (expert(pooled.to(expert.mean.device))[0] for expert in fitted)
    assert_near(found, expected, share=0.05)


def test_it_learns_from_tensors_that_are_on_the_device(device):
    model = seeded_model(**WHOLE)
    pooled = torch.randn(40, model.config.feature_shape[0], generator=torch.Generator().manual_seed(2))
    labels, rows, weights = torch.arange(40) % 5, model.normalized_class_attributes()[:5], []
    for where in ("cpu", device):
        expert = model.pooled_expert.to(where)
        expert.learn(pooled.to(where), labels.to(where), rows.to(where))
        weights.append(expert.weight.cpu())
    assert_near(weights[1], weights[0], share=1e-4)


def test_evaluation_on_the_device_gives_the_same_logits(device, accelerators):
    logits = []
    for where in ("cpu", device):
        model, (task, inputs) = awake(feature_model()), feature_task()
        _, found = evaluate(model.to(where), inputs, task.table.seen, accelerators(cpu=where == "cpu"))
        logits.append(found.logits)
    assert_near(logits[1], logits[0])


def test_the_estimate_of_a_plan_waits_until_the_gpu_is_done(monkeypatch):
    done = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: done.append("waited"))
    shortest(lambda: done.append("work"))
    assert done == ["work", "waited"] * (1 + MEASURED_STEPS)
