"""The notebooks run from the first cell to the last, as on a machine that was just set up."""

import os
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e .[test]")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e .[test]")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e .[test]")

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"
pytestmark = pytest.mark.slow


def executed(name: str, folder: Path, **environment: str) -> tuple[list, str]:
    """What the cells of a notebook gave in an empty folder, and all that they printed."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    everything = {**os.environ, "PATH": path, "HF_HOME": str(folder / "home"), **environment}
    everything.pop("MPLBACKEND", None)  # a notebook has its own
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}})
    client.execute(env=everything)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return outputs, "".join(output.get("text", "") for output in outputs)


def pictures(outputs: list) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_first_steps_lead_from_photos_to_answers_and_a_described_class(tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    short = "--backbone test_resnet --weights weights.safetensors --set training.epochs=3 training.evaluate_every=1"
    outputs, said = executed("first_steps.ipynb", tmp_path, TRAIN_OPTIONS=short)
    assert pictures(outputs) == 4
    for expected in ("416 photos of 26 classes", "6 only described", "Tested on", "96 photos", "griffle, a new class"):
        assert expected in said, said[-3000:]
    assert (tmp_path / "why.png").is_file() and (tmp_path / "griffles.csv").is_file()


def test_the_study_compares_seeds_and_gets_its_numbers_again(tmp_path):
    short = "data.images_per_class=5 training.epochs=1"
    outputs, said = executed("study.ipynb", tmp_path, STUDY_CHANGES=short)
    table = next(output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    assert "fine expert only" in table and "\\begin{tabular}" in said
    assert "MATCHES" in said, said[-2000:]
