"""Where dedn_hf is installed, the Auto classes of transformers load a DEDN folder without trust_remote_code."""

import subprocess
import sys
import textwrap

import pytest

from tests.tiny_runs import image_model

IMPORTS = {
    "dedn_hf first": """
        import dedn_hf
        from transformers import AutoConfig, AutoModelForZeroShotImageClassification as Auto
    """,
    "transformers first": """
        from transformers import AutoConfig, AutoModelForZeroShotImageClassification as Auto
        import dedn_hf
    """,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model whose own code must not run."""
    folder = tmp_path_factory.mktemp("model")
    image_model().save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.write_text("raise SystemExit('code of the folder was run')")
    return folder


@pytest.mark.parametrize("order", IMPORTS)
def test_the_installed_code_loads_a_folder_without_the_flag(order, folder):
    code = textwrap.dedent(IMPORTS[order]) + textwrap.dedent(f"""
        from transformers import pipeline
        model = Auto.from_pretrained({str(folder)!r})
        assert type(model) is dedn_hf.DEDNForZeroShot, type(model)
        assert type(AutoConfig.from_pretrained({str(folder)!r})) is dedn_hf.DEDNConfig
        pipe = pipeline("zero-shot-image-classification", {str(folder)!r}, pipeline_class=dedn_hf.DEDNPipeline)
        assert type(pipe.model) is dedn_hf.DEDNForZeroShot
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_importing_dedn_hf_imports_neither_torch_nor_transformers():
    code = "import sys, dedn_hf; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_finder_steps_aside_after_its_work():
    code = textwrap.dedent("""
        import sys, dedn_hf
        from dedn_hf.registration import register_when_loaded
        ours = lambda: [f for f in sys.meta_path if type(f).__module__ == "dedn_hf.registration"]
        register_when_loaded()
        assert len(ours()) == 1, "it waits once, however often it is asked"
        import transformers.models.auto.modeling_auto
        assert not ours()
        register_when_loaded()  # loaded now: registers at once, again
        assert not ours()
    """)
    subprocess.run([sys.executable, "-c", code], check=True)
