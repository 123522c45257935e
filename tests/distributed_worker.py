"""Trains and evaluates on one or several processes, and saves the numbers. test_distributed.py runs it."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from dedn_hf.data.tasks import test_task
from dedn_hf.training import loop as training
from dedn_hf.training.evaluation import evaluate
from dedn_hf.training.experiment import Experiment, inputs_of, run
from dedn_hf.training.loop import fit
from dedn_hf.training.settings import TrainingSettings
from tests.tiny_runs import feature_model, feature_task, image_model, load_tiny

IMAGES = {"epochs": 2, "batch_size": 5, "sampling": "uniform", "train_backbone": True, "freeze_batch_norm": True}
FSDP_FILE = Path(__file__).parents[1] / "examples" / "configs" / "accelerate" / "fsdp.yaml"


def randomise_keys(model: torch.nn.Module) -> torch.nn.Module:
    """Give the keys random values in place of 0, at which the attention does not depend on the input."""
    for name, parameter in model.experts.named_parameters():
        if name.endswith("_key"):
            torch.nn.init.normal_(parameter)
    return model


def evaluated(accelerator: Accelerator, batch_size: int) -> dict:
    """Scores, logits and labels of the 13 images of a tiny task, evaluated on all processes."""
    task, inputs = feature_task()
    model = randomise_keys(feature_model()).to(accelerator.device)
    scores, found = evaluate(model, inputs, task.table.seen, accelerator, batch_size=batch_size)
    return {"scores": scores, **{name: values.tolist() for name, values in found._asdict().items()}}


def on_features(accelerator: Accelerator, folder: Path, **changes) -> tuple[dict, list]:
    """Weights and losses after two epochs in float32, with self-calibration, which is not a mean over images."""
    task, inputs = feature_task()
    model = randomise_keys(feature_model(calibration_weight=1.0))
    settings = TrainingSettings(epochs=2, learning_rate=1e-3, **changes)
    history = fit(model, task, inputs, settings, accelerator, folder)
    return model.state_dict(), [epoch["loss"] for epoch in history.epochs]


def on_images(accelerator: Accelerator, folder: Path) -> tuple[dict, list]:
    """The same on images that are decoded in every epoch, with the backbone but fixed batch statistics."""
    splits, table = load_tiny()
    task = test_task(splits, table)
    torch.manual_seed(0)
    model = randomise_keys(image_model(table, calibration_weight=1.0))
    settings = TrainingSettings(**IMAGES, gradient_accumulation_steps=2, max_grad_norm=1)
    history = fit(model, task, inputs_of(task, model, settings, []), settings, accelerator, folder)
    return accelerator.get_state_dict(model), [epoch["loss"] for epoch in history.epochs]


def whole_run(accelerator: Accelerator, folder: Path, cached: bool = False, **changes) -> tuple[dict, list]:
    """Saved weights and losses of a whole run with random crops."""
    settings = TrainingSettings(**changes, augmentation="crop", select_on="last")
    experiment = Experiment(
        load_tiny, lambda table: randomise_keys(image_model(table)), folder / "cache" if cached else None
    )
    record = run(experiment, settings, folder / "run", accelerator)
    return load_file(folder / "run" / "model.safetensors"), [epoch["loss"] for epoch in record["history"]]


RUNS = {
    "uniform": lambda *to: on_features(*to, batch_size=7, sampling="uniform"),
    "balanced": lambda *to: on_features(
        *to, batch_size=10, sampling="class_balanced", gradient_accumulation_steps=2, max_grad_norm=1
    ),
    "images": on_images,
    "augmented": lambda *to: whole_run(*to, **IMAGES, jitter=0.4),
    "views": lambda *to: whole_run(*to, cached=True, epochs=2, batch_size=6, feature_views=3, ema_decay=0.5),
}
SHARDED = ("images", "augmented")
FSDP_GOES_ON = not torch.__version__.startswith("2.9.")  # which loses the optimizer's state; `fit` refuses then


def recorded(train: Callable[[], tuple], steps: list[torch.Tensor]) -> tuple:
    """What `train` gives. `steps` gets all trained weights as one vector, before the first and after each step."""
    build = training.build_optimizer

    def build_and_watch(*arguments):
        optimizer = build(*arguments)
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def note(*_) -> None:
            steps.append(torch.cat([parameter.detach().flatten().clone() for parameter in trained]))

        note()
        optimizer.register_step_post_hook(note)
        return optimizer

    training.build_optimizer = build_and_watch
    try:
        return train()
    finally:
        training.build_optimizer = build


def shard(accelerator: Accelerator) -> None:
    """Shard models from now on as fsdp.yaml says. Accelerate's launcher does so on GPUs only, PyTorch also on CPUs."""
    config = yaml.safe_load(FSDP_FILE.read_text())["fsdp_config"]
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=config["fsdp_version"],
        auto_wrap_policy=config["fsdp_auto_wrap_policy"],
        transformer_cls_names_to_wrap=config["fsdp_transformer_layer_cls_to_wrap"].split(","),
        reshard_after_forward=config["fsdp_reshard_after_forward"],
        state_dict_type=config["fsdp_state_dict_type"],
        cpu_ram_efficient_loading=config["fsdp_cpu_ram_efficient_loading"],
    )


def train_sharded(accelerator: Accelerator, folder: Path) -> dict[str, list]:
    """Repeat some of the runs with sharded models: gives their losses, and saves their weights in `folder`."""
    shard(accelerator)
    losses = {}
    for name in SHARDED:
        weights, losses[name] = RUNS[name](accelerator, folder / name)
        if name == "images":  # again: it loads the sharded checkpoint of the last epoch
            with nullcontext() if FSDP_GOES_ON else pytest.raises(ValueError, match="has not restored"):
                weights, losses[name] = RUNS[name](accelerator, folder / name)
        if accelerator.is_main_process:
            torch.save(weights, folder / f"{name}.pt")
    return losses


def main(folder: Path) -> None:
    """Train and evaluate; the main process saves the results."""
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    if accelerator.num_processes > 1:
        assert accelerator.distributed_type == DistributedType.MULTI_CPU, accelerator.distributed_type
    numbers = {"processes": accelerator.num_processes, "losses": {}}
    numbers["evaluation"] = {size: evaluated(accelerator, size) for size in (3, 64)}
    for name, train in RUNS.items():
        steps = []
        weights, numbers["losses"][name] = recorded(lambda: train(accelerator, folder / name), steps)  # noqa: B023
        accelerator.free_memory()
        if accelerator.is_main_process:
            torch.save({"weights": weights, "steps": steps}, folder / f"{name}.pt")
    if accelerator.num_processes > 1:
        numbers["sharded losses"] = train_sharded(accelerator, folder / "sharded")
    if accelerator.is_main_process:
        (folder / "numbers.json").write_text(json.dumps(numbers))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
