"""Temporary folders: each belongs to one process, and what killed ones leave is removed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dedn_hf.modeling.saving import temporary_folder
from dedn_hf.publish import export

FILL_AND_DIE = """
import os, signal, sys
from dedn_hf.modeling.saving import temporary_folder
with temporary_folder("dedn-test-") as folder:
    (folder / "weights").write_bytes(b"1234")
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("filled", flush=True)
    sys.stdin.read()
    assert (folder / "weights").read_bytes() == b"1234"
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders are made, of this process and of those it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def started(how: str) -> subprocess.Popen:
    """Another process that has filled a temporary folder, and either is killed or waits."""
    command = [sys.executable, "-c", FILL_AND_DIE, how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_leaves_is_removed_and_what_a_living_one_uses_stays(temporary):
    assert started("die").wait(300) == -signal.SIGKILL
    left = list(temporary.rglob("weights"))
    assert len(left) == 1
    living = started("wait")
    assert living.stdout.readline() == "filled\n"
    assert len(list(temporary.rglob("weights"))) == 1 and not left[0].exists()
    with temporary_folder("dedn-test-") as folder:
        assert not list(folder.iterdir())
    living.communicate("", timeout=300)
    assert living.returncode == 0
    assert not list(temporary.iterdir())


def test_what_is_no_abandoned_folder_of_ours_stays(temporary):
    for name in ("dedn-other-1/content", "dedn-test-empty", "elsewhere/content"):
        (temporary / name).mkdir(parents=True)
    (temporary / "dedn-test-link").symlink_to(temporary / "elsewhere")
    (temporary / "dedn-test-file").write_text("mine")
    before = set(temporary.rglob("*"))
    with temporary_folder("dedn-test-"):
        pass
    assert set(temporary.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_stays(temporary):
    (temporary / "dedn-test-theirs" / "content").mkdir(parents=True)
    os.chown(temporary / "dedn-test-theirs", 65534, -1)
    with temporary_folder("dedn-test-"):
        pass
    assert (temporary / "dedn-test-theirs" / "content").exists()


def test_what_a_killed_export_to_int8_leaves_is_removed_by_the_next_one(temporary, monkeypatch):
    (temporary / "dedn-export-killed" / "content").mkdir(parents=True)

    def pretend(_model, path, **_) -> None:
        assert [path.parent] == list(temporary.glob("*/content"))
        path.write_text("a model of float32")

    monkeypatch.setattr(export, "export_onnx", pretend)
    monkeypatch.setattr(export, "quantize_onnx", lambda path, out: path.read_text())
    assert export.export_model(None, temporary / "model.onnx", "onnx-int8") == "a model of float32"
    assert not list(temporary.iterdir())
