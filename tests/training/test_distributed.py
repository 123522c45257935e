"""Two processes give the numbers of one, with whole models and with sharded ones; the files for accelerate launch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from timm.layers import BatchNormAct2d, SyncBatchNormAct

from dedn_hf import DEDNForZeroShot
from dedn_hf.data.features import weights_hash
from dedn_hf.training.distributed import joint_loss, require_supported, synchronise_batch_norm
from dedn_hf.training.loop import build_optimizer
from dedn_hf.training.settings import TrainingSettings
from tests import distributed_worker
from tests.tiny_runs import feature_model, feature_task, image_model

ROOT = Path(__file__).parents[2]
# The processes add the same gradients in another order: float32 rounding, and what RMSprop makes of it where a
# gradient is nearly 0. As a share of the distance that all weights together have moved since the start.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, tuple[dict, Path]]:
    """Numbers and folder of the worker's run, here in one process and, launched, in two."""
    folders = {processes: tmp_path_factory.mktemp(f"on_{processes}") for processes in (1, 2)}
    AcceleratorState._reset_state(reset_partial_state=True)
    distributed_worker.main(folders[1])
    AcceleratorState._reset_state(reset_partial_state=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, "-m", "tests.distributed_worker", str(folders[2])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return {n: (json.loads((folder / "numbers.json").read_text()), folder) for n, folder in folders.items()}


@pytest.mark.slow
def test_the_second_run_had_two_processes(results):
    assert [results[count][0]["processes"] for count in (1, 2)] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["3", "64"])
def test_evaluation_counts_every_image_once(results, batch_size):
    one, two = (results[count][0]["evaluation"][batch_size] for count in (1, 2))
    assert len(one["labels"]) == 13
    assert two["labels"] == one["labels"]
    torch.testing.assert_close(torch.tensor(two["logits"]), torch.tensor(one["logits"]))
    assert two["scores"].pop("per_class_accuracy") == one["scores"].pop("per_class_accuracy")
    assert two["scores"] == pytest.approx(one["scores"])


@pytest.mark.slow
@pytest.mark.parametrize("run", distributed_worker.RUNS)
def test_every_step_of_training_gives_the_same_weights_and_every_epoch_the_same_loss(results, run):
    (one, first), (two, second) = results[1], results[2]
    expected, found = (torch.load(folder / f"{run}.pt", weights_only=True) for folder in (first, second))
    assert len(found["steps"]) == len(expected["steps"]) >= 3
    start, *steps = expected["steps"]
    assert torch.equal(found["steps"][0], start)
    for number, (step, other) in enumerate(zip(steps, found["steps"][1:], strict=True), start=1):
        assert (other - step).norm() < TOLERANCE * (step - start).norm(), f"step {number}"
    assert set(found["weights"]) == set(expected["weights"])
    for name, tensor in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], tensor, rtol=1e-3, atol=3e-4, msg=name)
    assert two["losses"][run] == pytest.approx(one["losses"][run], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", distributed_worker.SHARDED)
def test_a_sharded_model_ends_with_the_weights_and_losses_of_a_whole_one(results, run):
    (one, first), (two, second) = results[1], results[2]
    expected = torch.load(first / f"{run}.pt", weights_only=True)["weights"]
    found = torch.load(second / "sharded" / f"{run}.pt", weights_only=True)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=3e-4, msg=name)
    assert two["sharded losses"][run] == pytest.approx(one["losses"][run], rel=1e-5)


@pytest.mark.slow
def test_what_a_sharded_run_saves_is_a_model_like_any_other(results):
    plain, sharded = (results[2][1] / folder / "augmented" / "run" for folder in ("", "sharded"))
    model = DEDNForZeroShot.from_pretrained(sharded)
    assert (model.config.architectures, model.config.auto_map) == (["DEDNForZeroShot"], plain_auto_map(plain))
    assert {path.name for path in sharded.iterdir()} == {path.name for path in plain.iterdir()}
    record = json.loads((sharded / "run.json").read_text())
    assert record["model"]["weights"] == weights_hash(model)


def plain_auto_map(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["auto_map"]


# What goes together, and the files for accelerate launch ------------------------------------------------------------

FILES = sorted((ROOT / "examples" / "configs" / "accelerate").glob("*.yaml"))
KINDS = {
    "cpu": "MULTI_GPU",
    "multi_gpu": "MULTI_GPU",
    "multi_node": "MULTI_GPU",
    "fsdp": "FSDP",
    "deepspeed": "DEEPSPEED",
}


def test_there_is_a_file_for_every_kind_of_launch():
    assert {path.stem for path in FILES} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file_and_knows_all_its_keys(path):
    config = load_config_from_file(str(path))  # refuses unknown keys of the first level
    assert (config.distributed_type, config.use_cpu) == (KINDS[path.stem], path.stem == "cpu")
    assert config.num_processes >= 2 and config.num_machines == (2 if path.stem == "multi_node" else 1)
    known = vars(launch_command_parser().parse_args(["train.py"]))
    assert not [
        key for section in (config.fsdp_config, config.deepspeed_config) for key in section if key not in known
    ]


def fake_accelerator(kind: str, **plugin) -> SimpleNamespace:
    """What `require_supported` looks at."""
    fsdp = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "min_num_params": None, **plugin}
    return SimpleNamespace(
        distributed_type=DistributedType(kind),
        num_processes=1,
        deepspeed_plugin=SimpleNamespace(zero_stage=plugin.get("zero_stage", 2)),
        state=SimpleNamespace(fsdp_plugin=SimpleNamespace(**fsdp)),
        is_fsdp2=fsdp["fsdp_version"] == 2,
    )


def test_what_shares_models_as_the_files_say_is_supported():
    for kind in ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED"):
        require_supported(TrainingSettings(), fake_accelerator(kind))
    require_supported(TrainingSettings(ema_decay=0.9, channels_last=True), fake_accelerator("MULTI_GPU"))


@pytest.mark.parametrize(
    ("kind", "plugin", "changes", "expected"),
    [
        ("FSDP", {}, {"ema_decay": 0.9}, "FSDP shards them. Set training.ema_decay=null"),
        ("DEEPSPEED", {}, {"ema_decay": 0.9}, "DeepSpeed shards them. Set training.ema_decay=null"),
        ("DEEPSPEED", {"zero_stage": 3}, {}, "ZeRO stage 3 .* zero_stage: 2, or use fsdp.yaml"),
        ("DEEPSPEED", {}, {"mixed_precision": "bf16"}, "Set training.mixed_precision=no"),
        ("FSDP", {"fsdp_version": 1}, {}, "Set fsdp_version: 2"),
        ("FSDP", {"cpu_ram_efficient_loading": True}, {}, "loses the class table.*Set it to false"),
        ("FSDP", {"min_num_params": 10}, {}, "SIZE_BASED_WRAP.*Backbone"),
        ("FSDP", {}, {"mixed_precision": "fp16"}, "mixed_precision=bf16 or no"),
        ("FSDP", {}, {"channels_last": True}, "channels_last=false"),
    ],
)
def test_what_cannot_be_sharded_is_refused_with_what_to_do(kind, plugin, changes, expected):
    with pytest.raises(ValueError, match=expected):
        require_supported(TrainingSettings(**changes), fake_accelerator(kind, **plugin))


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started.*with --cpu"):
        require_supported(TrainingSettings(), fake_accelerator("NO"))


@pytest.mark.slow
def test_accelerate_launch_trains_on_two_cpu_processes_with_its_file(tmp_path):
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(FILES[0]),
        "--main_process_port",
        "0",
    ]
    settings = ["data.images_per_class=5", "model.backbone=test_resnet", "model.backbone_kwargs={}"]
    settings += [
        "training.epochs=1",
        "training.freeze_batch_norm=true",
        "training.channels_last=false",
        "training.calibrate=false",
    ]
    command = [
        *launcher,
        "examples/train.py",
        "--config",
        "shapes",
        "--select-on",
        "last",
        "--cpu",
    ]
    command += ["--output-dir", str(tmp_path / "run"), "--set", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["hardware"]["processes"] == 2
    assert DEDNForZeroShot.from_pretrained(tmp_path / "run").config.num_labels == 40


def test_the_mean_loss_of_uneven_shares_is_that_of_the_joint_batch_also_for_the_logarithm_of_a_mean():
    model = distributed_worker.randomise_keys(feature_model(calibration_weight=1.0)).train()
    _, inputs = feature_task()
    batch = inputs("train").__getitems__(list(range(7)))
    model(**batch).loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    outputs = [model(**{key: values[rank::2] for key, values in batch.items()}) for rank in (0, 1)]
    shares = [4 * 2 / 7, 3 * 2 / 7]
    terms = [name for name in outputs[0].losses if name.endswith(".calibration")]
    masses = [[(-output.losses[name].detach()).exp() for output in outputs] for name in terms]
    means = [(first * shares[0] + second * shares[1]) / 2 for first, second in masses]
    losses = []
    for output, share in zip(outputs, shares, strict=True):
        found = iter(means)
        together = SimpleNamespace(num_processes=2, reduce=lambda *_, found=found: next(found))
        losses.append(joint_loss(output.loss, output.losses, 1.0, share, together))
    sum(losses).div(2).backward()
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sum(losses) / 2, model(**batch).loss)


def processes(device: str, count: int = 2) -> SimpleNamespace:
    return SimpleNamespace(num_processes=count, device=torch.device(device))


def test_batch_norm_that_is_trained_is_joined_on_gpus_with_its_activation_and_its_names():
    model = image_model(backbone="test_efficientnet", standardize_features=True)
    before = model.state_dict()
    build_optimizer(model, TrainingSettings(train_backbone=True, frozen_stages=["conv_stem", "bn1"]))
    activations = [type(m.act) for m in model.modules() if isinstance(m, BatchNormAct2d)]
    synchronise_batch_norm(model, processes("cuda"))
    joined = {name for name, m in model.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)}
    assert "feature_norm" in joined and len(joined) > 3 and not any("body.bn1" in name for name in joined)
    after = [type(m.act) for m in model.modules() if isinstance(m, (BatchNormAct2d, SyncBatchNormAct))]
    assert after == activations
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert set(before) == set(model.state_dict())


def test_batch_norm_that_cannot_be_joined_is_refused_and_one_that_is_kept_is_not():
    model = image_model()
    build_optimizer(model, TrainingSettings(train_backbone=True))
    synchronise_batch_norm(model, processes("cpu", count=1))
    with pytest.raises(ValueError, match="each process's own images.*freeze_batch_norm=true"):
        synchronise_batch_norm(model, processes("cpu"))
    build_optimizer(model, TrainingSettings(train_backbone=True, freeze_batch_norm=True))
    synchronise_batch_norm(model, processes("cpu"))
