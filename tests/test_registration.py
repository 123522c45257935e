"""Where dedn_hf is installed, the Auto classes of transformers load a DEDN folder without trust_remote_code."""

import json
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
USES = {
    "auto classes": """
from transformers import AutoConfig
assert type(AutoConfig.from_pretrained(folder)) is dedn_hf.DEDNConfig
from transformers import AutoModelForZeroShotImageClassification as Auto
assert type(Auto.from_pretrained(folder)) is dedn_hf.DEDNForZeroShot
""",
    "other auto classes": """
from transformers import AutoModel, AutoModelForImageClassification
assert type(AutoModel.from_pretrained(folder)) is dedn_hf.DEDNForZeroShot
assert type(AutoModelForImageClassification.from_pretrained(folder)) is dedn_hf.DEDNForZeroShot
""",
    "processor": """
from transformers import AutoProcessor
from dedn_hf.modeling.pipeline_dedn import DEDNProcessor
processor = AutoProcessor.from_pretrained(folder)
assert type(processor) is DEDNProcessor
assert processor(text=processor.table.class_names)["seen"].dtype.is_floating_point is False
""",
    "image classification": """
from transformers import pipeline
pipe = pipeline("image-classification", folder)
assert type(pipe.model) is dedn_hf.DEDNForZeroShot
""",
    "pipeline": """
from transformers import pipeline
pipe = pipeline("zero-shot-image-classification", folder, pipeline_class=dedn_hf.DEDNPipeline)
assert type(pipe.model) is dedn_hf.DEDNForZeroShot
""",
}
CASES = [(order, use) for order in IMPORTS for use in ("auto classes", "processor")]
CASES += [("dedn_hf first", use) for use in ("other auto classes", "image classification", "pipeline")]
# What takes long to import and knows nothing of either is imported once; each case then has a process of its own.
EACH_IN_A_FORK = """
import json, os, sys, traceback
import scipy.optimize, timm, torchvision
assert not {"dedn_hf", "transformers"} & set(sys.modules)
folder, errors = sys.argv[1], []
for code in json.loads(sys.argv[2]):
    read, write = os.pipe()
    if not os.fork():
        try:
            exec(code, {"folder": folder})
        except BaseException:
            os.write(write, traceback.format_exc()[-4000:].encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        errors.append(pipe.read())
    assert os.wait()[1] == 0
print("", json.dumps(errors), sep="\\n")  # below what a case may have asked
"""


def run(*arguments: str) -> str:
    """What Python, started anew, prints."""
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[tuple[str, str], str]:
    """What went wrong in each case, with a saved model whose own code must not run."""
    folder = tmp_path_factory.mktemp("model")
    image_model().save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.write_text("raise SystemExit('code of the folder was run')")
    programs = [f"{IMPORTS[order]}\n{USES[use]}" for order, use in CASES]
    printed = run(EACH_IN_A_FORK, str(folder), json.dumps(programs)).splitlines()[-1]
    return dict(zip(CASES, json.loads(printed), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_the_installed_code_loads_a_folder_without_the_flag(case, errors):
    assert errors[case] == ""


def test_importing_dedn_hf_imports_neither_torch_nor_transformers():
    code = "import sys, dedn_hf; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert run(code).strip() == "[]"


def test_asking_twice_watches_once():
    run(
        "import sys, dedn_hf\n"
        "from dedn_hf import register_when_loaded\n"
        "register_when_loaded()\n"
        "ours = [f for f in sys.meta_path if type(f).__name__ == '_Watch']\n"
        "assert len(ours) == 1"
    )
