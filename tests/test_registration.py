"""Where dedn_hf is installed, the Auto classes of transformers load a DEDN folder without trust_remote_code."""

import subprocess
import sys

import pytest

from tests.tiny_runs import image_model

IMPORTS = {
    "dedn_hf first": "import dedn_hf",
    "transformers first": "import transformers.models.auto.modeling_auto; import dedn_hf",
    "a model first": "from dedn_hf import DEDNForZeroShot; import dedn_hf",
    "a configuration first": "from dedn_hf import DEDNConfig; import dedn_hf",
    "a module first": "import dedn_hf.modeling.modeling_dedn; import dedn_hf",
    "a pipeline first": "from dedn_hf import DEDNPipeline; import dedn_hf",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model whose own code must not run."""
    folder = tmp_path_factory.mktemp("model")
    image_model().save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.write_text("raise SystemExit('code of the folder was run')")
    return folder


def check(*lines: str) -> None:
    """Run lines of Python in a new process."""
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("order", IMPORTS)
def test_the_installed_code_loads_a_folder_without_the_flag(order, folder):
    check(
        IMPORTS[order],
        "from transformers import AutoConfig",
        f"assert type(AutoConfig.from_pretrained({str(folder)!r})) is dedn_hf.DEDNConfig",
        "from transformers import AutoModelForZeroShotImageClassification as Auto",
        f"assert type(Auto.from_pretrained({str(folder)!r})) is dedn_hf.DEDNForZeroShot",
    )


@pytest.mark.slow
def test_the_pipeline_needs_no_flag_with_the_installed_class(folder):
    check(
        "import dedn_hf",
        "from transformers import pipeline",
        f"pipe = pipeline('zero-shot-image-classification', {str(folder)!r}, pipeline_class=dedn_hf.DEDNPipeline)",
        "assert type(pipe.model) is dedn_hf.DEDNForZeroShot",
    )


def test_importing_dedn_hf_imports_neither_torch_nor_transformers():
    code = "import sys, dedn_hf; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_asking_twice_watches_once():
    check(
        "import sys, dedn_hf",
        "from dedn_hf.registration import register_when_loaded",
        "register_when_loaded()",
        "ours = [f for f in sys.meta_path if type(f).__module__ == 'dedn_hf.registration']",
        "assert len(ours) == 1",
    )
