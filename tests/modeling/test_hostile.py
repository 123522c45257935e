"""Input from people who are not trusted: a clear error, no crash, no hang, and no code of theirs is run."""

import ast
import io
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dedn_hf import DEDNForZeroShot
from dedn_hf.modeling.pipeline_dedn import open_image
from tests.tiny_runs import feature_model, picture

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("modeling", "dedn_hf", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]
quickly = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(0, 0))).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


IMAGES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Some bytes changed, a piece cut out, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return bytes(draw(st.sampled_from([data, data[:end], data[:start] + data[end:]])))


@quickly
@given(st.sampled_from(list(IMAGES)).flatmap(lambda kind: damaged(IMAGES[kind])) | st.binary(max_size=200))
def test_any_bytes_are_an_image_or_a_message(content):
    try:
        assert open_image(content).mode == "RGB"
    except ValueError as error:
        assert "Give a" in str(error)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "model"
    feature_model().save_pretrained(folder)
    return folder


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(quickly, max_examples=30)
@given(data=st.data())
def test_any_value_in_config_json_gives_the_model_or_an_error(saved, tmp_path, data):
    config = json.loads((saved / "config.json").read_text())
    # Numbers of a size that only asks for much memory are left out: that is no error, and no test.
    key = data.draw(st.sampled_from(sorted(config)))
    value = data.draw(JSON)
    huge = any(isinstance(number, int | float) and abs(number) > 10**4 for number in _numbers(value))
    if huge:
        return
    folder = _copy(saved, tmp_path)
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    try:
        model = DEDNForZeroShot.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001  whatever it is, it is no crash
        assert str(error), "an error says something"
    else:
        assert isinstance(model, DEDNForZeroShot)


@settings(quickly, max_examples=30)
@given(data=st.data())
def test_any_damage_to_the_weights_gives_an_error_or_whole_tensors(saved, tmp_path, data):
    content = (saved / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = data.draw(damaged(content[: 8 + length]))
    folder = _copy(saved, tmp_path)
    (folder / "model.safetensors").write_bytes(header + content[8 + length :])
    try:
        model = DEDNForZeroShot.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001  whatever it is, it is no crash
        assert str(error)
    else:
        expected = feature_model().state_dict()
        assert {name: value.shape for name, value in model.state_dict().items()} == {
            name: value.shape for name, value in expected.items()
        }


def test_code_beside_the_weights_is_not_run_by_the_installed_model(saved, tmp_path):
    folder, trace = _copy(saved, tmp_path), tmp_path / "trace"
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(trace)!r}, 'w')")
    with torch.no_grad():
        DEDNForZeroShot.from_pretrained(folder)(features=torch.rand(1, 6, 2, 2))
    assert not trace.exists()


FORBIDDEN = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "pickle": "runs code that is hidden in data",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "marshal", "shelve"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            assert name not in FORBIDDEN, f"line {node.lineno}: {name} {FORBIDDEN.get(name)}"
            assert "shell" not in keywords, f"line {node.lineno}: a shell"
            if name in ("torch.load", "np.load", "numpy.load"):
                safe = keywords.get("weights_only" if name == "torch.load" else "allow_pickle")
                wanted = name == "torch.load"
                assert isinstance(safe, ast.Constant) and safe.value is wanted, f"line {node.lineno}: may run code"


def _numbers(value) -> list:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, int | float) else []


def _copy(saved: Path, tmp_path: Path) -> Path:
    """The saved folder again; the weights are linked until they are replaced."""
    folder = tmp_path / "copy"
    folder.mkdir(exist_ok=True)
    for path in saved.iterdir():
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
