"""Trains and evaluates on one or several processes, and writes down the numbers; run by test_distributed.py."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from dedn_hf.evaluation import evaluate
from dedn_hf.settings import TrainingSettings
from dedn_hf.tasks import test_task
from dedn_hf.training import fit
from dedn_hf.transforms import evaluation_transform
from tests.tiny_runs import feature_model, feature_task, image_model, load_tiny


def randomise_keys(model: torch.nn.Module) -> torch.nn.Module:
    """Keys start at 0, where attention hides the input."""
    for name, parameter in model.experts.named_parameters():
        if name.endswith("_key"):
            torch.nn.init.normal_(parameter)
    return model


def evaluated(accelerator: Accelerator, batch_size: int) -> dict:
    """Scores, logits and labels of the 13 images of a tiny task, on this number of processes."""
    task, inputs = feature_task()
    model = randomise_keys(feature_model()).to(accelerator.device)
    scores, logits, labels = evaluate(model, inputs, task.table.seen, accelerator, batch_size=batch_size)
    return {"scores": scores, "logits": logits.tolist(), "labels": labels.tolist()}


def trained_on_features(accelerator: Accelerator, folder: Path, **changes) -> tuple[dict, list]:
    """Weights and losses after two epochs in float32."""
    task, inputs = feature_task()
    model = randomise_keys(feature_model(calibration_weight=0.0))
    settings = TrainingSettings(epochs=2, learning_rate=1e-3, **changes)
    history = fit(model, task, inputs, settings, accelerator, folder)
    accelerator.free_memory()
    return model.state_dict(), [epoch["loss"] for epoch in history.epochs]


def trained_on_images(accelerator: Accelerator, folder: Path) -> tuple[dict, list]:
    """The same with the backbone, its batch statistics kept."""
    splits, table = load_tiny()
    task = test_task(splits, table)
    torch.manual_seed(0)
    model = randomise_keys(image_model(table))
    settings = TrainingSettings(
        epochs=1, batch_size=4, train_backbone=True, freeze_batch_norm=True, sampling="uniform"
    )
    transform = evaluation_transform(model)
    history = fit(model, task, task.decoded(transform, transform), settings, accelerator, folder)
    accelerator.free_memory()
    return model.state_dict(), [epoch["loss"] for epoch in history.epochs]


def main(folder: Path) -> None:
    """Everything, written by the main process."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    if accelerator.num_processes > 1:
        assert accelerator.distributed_type == DistributedType.MULTI_CPU, accelerator.distributed_type
    numbers = {"processes": accelerator.num_processes}
    numbers["evaluation"] = {size: evaluated(accelerator, size) for size in (3, 64)}
    runs = {
        "uniform": lambda path: trained_on_features(accelerator, path, batch_size=7, sampling="uniform"),
        "balanced": lambda path: trained_on_features(
            accelerator, path, batch_size=10, sampling="class_balanced", gradient_accumulation_steps=2, max_grad_norm=1
        ),
        "images": lambda path: trained_on_images(accelerator, path),
    }
    numbers["losses"] = {}
    for name, train in runs.items():
        weights, numbers["losses"][name] = train(folder / f"checkpoints-{name}")
        if accelerator.is_main_process:
            torch.save(weights, folder / f"{name}.pt")
    if accelerator.is_main_process:
        (folder / "numbers.json").write_text(json.dumps(numbers))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
