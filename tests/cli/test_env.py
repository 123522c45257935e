"""dedn env: what a report of a fault needs, and nothing that is private."""

import json
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

import dedn_hf
from dedn_hf.cli import env, main
from dedn_hf.data import cpu
from dedn_hf.publish import extras

CPU = "model name : Example 9000\nflags : fpu avx2 avx512f\n"
CPUINFO = f"processor : 0\n{CPU}\nprocessor : 1\n{CPU}"


@pytest.fixture
def without_uvicorn(monkeypatch):
    """The package as it is with an extra missing."""

    def installed(name: str) -> str:
        if name == "uvicorn":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(extras, "version", installed)


def printed(capsys, *options: str) -> str:
    assert main(["env", *options]) == 0
    return capsys.readouterr().out


def test_it_says_versions_threads_and_what_the_processor_computes(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: CPUINFO)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = json.loads(printed(capsys, "--json"))
    assert found["dedn_hf"] == dedn_hf.__version__ and found["libraries"]["transformers"] == version("transformers")
    assert found["processor"] == "Example 9000" and found["OMP_NUM_THREADS"] == "1"
    assert found["instructions"] == {"AVX2": True, "AVX-512": True, "bfloat16": False, "AMX": False}


def test_it_says_what_a_missing_extra_is_for_and_how_to_install_it(without_uvicorn, capsys):
    assert [name.partition(">=")[0] for name in json.loads(printed(capsys, "--json"))["missing extras"]["serve"]] == [
        "uvicorn"
    ]
    (line,) = [line for line in printed(capsys).splitlines() if line.startswith("  serve")]
    assert "for dedn serve" in line and 'pip install "uvicorn>=' in line


def test_a_package_that_is_too_old_counts_as_missing(monkeypatch):
    monkeypatch.setattr(extras, "version", lambda _: "0.0.1")
    assert [each.partition(">=")[0] for each in extras.missing_of("heic")] == ["pillow-heif"]


def test_a_system_that_is_not_linux_is_said_to_be_unknown_not_slow(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: None)
    assert "Instructions        unknown on this system" in printed(capsys)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_it_tells_no_folder_no_host_and_no_token(options, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", "/home/ada/cache")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:password@proxy.example")
    said = printed(capsys, *options)
    assert "ada" not in said and "secret" not in said and "HF_HOME" in said


def test_an_accelerator_that_is_full_is_said_in_one_line_with_what_to_try(monkeypatch, capsys):
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(env, "environment", full)
    assert main(["env"]) == 2
    said = capsys.readouterr().err
    assert "too little memory" in said and "--batch-size" in said and said.count("\n") == 1


def test_a_fault_of_the_program_itself_is_not_hidden(monkeypatch):
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(env, "environment", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["env"])
