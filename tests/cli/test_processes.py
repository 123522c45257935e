"""The commands in several processes, as `accelerate launch -m dedn_hf` and `torchrun -m dedn_hf` start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.tables import SIX_BIRDS
from tests.tiny_runs import image_model, picture

ROOT = Path(__file__).parents[2]
CPU = ROOT / "examples" / "configs" / "accelerate" / "cpu.yaml"
LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--config_file", str(CPU), "--main_process_port", "0"],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
LEARNED = ("kite", "wren", "tern", "lapwing", "jay")


def dedn(home: Path, *command: str, launcher: str | None = None) -> str:
    """What the command prints, run in one process, or launched in two."""
    launch = ["-m", *LAUNCHERS[launcher]] if launcher else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HOME": str(home / "hf")}
    program = [sys.executable, *launch, "-m", "dedn_hf", *command]
    done = subprocess.run(program, cwd=home, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_classify_into_the_file_of_one(launcher, tmp_path):
    torch.manual_seed(0)
    image_model().eval().save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for number in range(260):  # more than one process answers at a time
        (tmp_path / "photos" / f"{number:03}.png").write_bytes(picture(number % 7, number))
    names = ["two.csv", "one.csv"]
    for name, how in zip(names, (launcher, None), strict=True):
        printed = dedn(tmp_path, "classify", "model", "photos", "--out", name, launcher=how)
        assert printed.count("260 photos") == 1
    two, one = ((tmp_path / name).read_bytes() for name in names)
    assert two == one and two.count(b"\n") == 261


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one_and_speak_once(tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "birds.csv").write_text(SIX_BIRDS)
    for label, name in enumerate(LEARNED):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "photos" / name / f"{number}.png").write_bytes(picture(label, number))
    command = ["train", "photos", "--traits", "birds.csv", "--backbone", "test_resnet", "--cpu", "--effort", "quick"]
    command += ["--weights", "weights.safetensors", "--select-on", "last", "--features", "features"]
    changes = ["--set", "model.image_size=64", "training.epochs=3", "training.batch_size=8"]
    said = dedn(tmp_path, *command, "--out", "two", *changes, launcher="torchrun")
    assert said.count("30 photos of 5 classes") == 1 and said.count("5 classes learned from photos") == 1
    dedn(tmp_path, *command, "--out", "one", *changes)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("two", "one")]
    assert [record["hardware"]["processes"] for record in records] == [2, 1]
    two, one = ([epoch["loss"] for epoch in record["history"]] for record in records)
    assert two == pytest.approx(one, rel=1e-4)
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=3e-4, msg=name)
