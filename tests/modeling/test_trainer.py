"""The model trains with the plain `transformers.Trainer`, as any other model does."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.metrics import gzsl_compute_metrics, gzsl_scores
from tests.tables import small_table

IMAGE_SIZE = 64
FEATURE_SHAPE = [6, 2, 2]


def distinct_classes() -> AttributeTable:
    """Every class has one attribute that is its own."""
    table = small_table(embedding_size=12)
    return table.replace(class_attributes=np.eye(6, 8) + 0.1)


class Examples(Dataset):
    """Images (or feature maps) of the four seen classes: a pattern of the class, and a little noise."""

    def __init__(self, name: str, shape: list[int], per_class: int = 6) -> None:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.randn(4, *shape, generator=generator)
        noise = torch.randn(4 * per_class, *shape, generator=generator)
        self.labels = torch.arange(4).repeat(per_class)
        self.name, self.inputs = name, patterns[self.labels] + 0.1 * noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {self.name: self.inputs[index], "labels": self.labels[index]}


def model_and_examples(inputs: str) -> tuple[DEDNForZeroShot, Examples]:
    torch.manual_seed(0)
    if inputs == "features":
        model = DEDNForZeroShot.from_timm(None, distinct_classes(), feature_shape=FEATURE_SHAPE)
        return model, Examples("features", FEATURE_SHAPE)
    model = DEDNForZeroShot.from_timm("test_resnet", distinct_classes(), image_size=IMAGE_SIZE, pretrained=False)
    model.unfreeze_backbone()
    return model, Examples("pixel_values", [3, IMAGE_SIZE, IMAGE_SIZE])


def accuracy(prediction) -> dict[str, float]:
    assert prediction.predictions.shape == (24, 6), "the logits, and nothing else"
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trainer_for(inputs: str, folder, **arguments) -> Trainer:
    model, examples = model_and_examples(inputs)
    short = {
        "learning_rate": 0.05 if inputs == "features" else 0.005,
        "max_steps": 20,
        "per_device_train_batch_size": 12,
        "save_strategy": "no",
    }
    quiet = {"report_to": "none", "use_cpu": True, "logging_steps": 1, "disable_tqdm": True}
    return Trainer(
        model,
        TrainingArguments(str(folder), **{**short, **quiet, **arguments}),
        train_dataset=examples,
        eval_dataset=examples,
        compute_metrics=accuracy,
    )


@pytest.fixture(params=["features", "pixel_values"])
def trained(request, tmp_path):
    trainer = trainer_for(request.param, tmp_path / "run")
    before = trainer.evaluate()
    trainer.train()
    return trainer, before


def test_training_lowers_the_loss_evaluates_predicts_and_saves(trained, tmp_path):
    trainer, before = trained
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_accuracy"] > max(before["eval_accuracy"], 0.5)

    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.predictions.shape == (24, 6)
    assert predicted.metrics["test_accuracy"] == after["eval_accuracy"]
    np.testing.assert_array_equal(predicted.label_ids, trainer.eval_dataset.labels)

    trainer.save_model(tmp_path / "model")
    loaded = DEDNForZeroShot.from_pretrained(tmp_path / "model").eval()
    name, inputs = trainer.eval_dataset.name, trainer.eval_dataset.inputs
    with torch.no_grad():
        np.testing.assert_allclose(loaded(**{name: inputs}).logits, predicted.predictions, rtol=1e-4, atol=1e-4)


def test_the_loss_of_an_evaluation_is_the_models_own(tmp_path):
    trainer = trainer_for("features", tmp_path, per_device_eval_batch_size=24)
    model, examples = trainer.model, trainer.eval_dataset
    with torch.no_grad():
        expected = model.eval()(features=examples.inputs, labels=examples.labels).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    whole = trainer_for("features", tmp_path / "whole", max_steps=4)
    whole.train()
    halved = trainer_for("features", tmp_path / "halved", max_steps=4, save_strategy="steps", save_steps=2)
    halved.train()
    resumed = trainer_for("features", tmp_path / "resumed", max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "halved" / "checkpoint-2"))
    for (name, expected), parameter in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, msg=name)


def test_gradient_accumulation_and_checkpointing_of_activations_run(tmp_path):
    trainer = trainer_for("pixel_values", tmp_path, max_steps=2, gradient_accumulation_steps=2)
    model = trainer.model  # newer versions of transformers have the first of the two names
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 2
    assert not [name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])]


@pytest.mark.parametrize("region_maps", [False, True])
def test_trainer_reports_the_scores_of_generalized_zero_shot_learning(region_maps, tmp_path):
    trainer = trainer_for("features", tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1)
    model, examples = trainer.model, trainer.eval_dataset
    model.config.output_attentions = region_maps  # evaluation gathers the logits, and nothing else
    examples.labels[::3] = torch.tensor([4, 5] * 4)  # classes 4 and 5 are unseen
    trainer.compute_metrics = gzsl_compute_metrics(model.seen)
    trainer.train()
    with torch.no_grad():
        logits = model.eval()(features=examples.inputs).logits.numpy()
    expected = gzsl_scores(logits, examples.labels.numpy(), model.seen.numpy())
    found = trainer.state.log_history[-2]
    assert {name: found[f"eval_{name}"] for name in ("T1", "U", "S", "H", "AUSUC")} == pytest.approx(
        {name: score for name, score in expected.items() if name != "per_class_accuracy"}
    )


def test_scores_about_which_the_images_say_nothing_are_left_out(tmp_path):
    trainer = trainer_for("features", tmp_path)
    trainer.compute_metrics = gzsl_compute_metrics(trainer.model.seen)  # all images are of seen classes
    assert {name for name in trainer.evaluate() if name.removeprefix("eval_") in ("T1", "U", "S", "H")} == {"eval_S"}
