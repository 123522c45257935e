"""What makes backbones fast on CPUs: memory that is kept, the layout, a precision that the processor really has."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dedn_hf.data import processor
from dedn_hf.data.processor import at_full_speed, computes_bfloat16, faster_precision
from tests.tiny_runs import image_model

FAULTS = """
import resource
import torch
import dedn_hf.data.features, dedn_hf.classify.classifier, dedn_hf.training.loop, dedn_hf.publish.serving
from dedn_hf.data.processor import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

imported, kept = faults(), keep_freed_memory()
faults()
print(imported, int(kept), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told so")
def test_memory_is_kept_from_the_call_on_and_not_from_the_import():
    # Without huge pages, a page of 4 KB a fault; the numbers leave room for pages of other sizes.
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    imported, kept, after = map(int, done.stdout.split())
    assert kept and imported > 100 > 10 * after


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(processor.ctypes, "CDLL", lambda _: pytest.fail("a C library was opened"))
    assert processor.keep_freed_memory.__wrapped__() is False


def test_at_full_speed_a_model_is_channels_last_gives_the_same_numbers_and_is_put_back():
    model, pixels = image_model().eval(), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = model.extract_features(pixels)
        weight = next(p for p in model.backbone.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
        with at_full_speed(model):
            assert not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(model.extract_features(pixels), expected, rtol=1e-3, atol=1e-5)
    assert weight.is_contiguous()


CPUINFO = "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu sse4_2 avx2 {}\n"


@pytest.mark.parametrize(
    ("flags", "known"), [("avx512f", False), ("avx512_bf16", True), ("amx_bf16 amx_tile", True), ("asimd bf16", True)]
)
def test_bfloat16_is_only_for_processors_with_instructions_for_it(flags, known, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO.format(flags))
    assert computes_bfloat16(torch.device("cpu")) is known


def test_a_processor_without_them_is_not_even_measured(monkeypatch):
    monkeypatch.setattr(processor, "computes_bfloat16", lambda _: False)
    monkeypatch.setattr(processor, "seconds_of", lambda *_: pytest.fail("measured"))
    assert faster_precision(image_model()) == "float32"


@pytest.mark.parametrize(("seconds", "faster"), [(0.5, "bfloat16"), (2.0, "float32")])
def test_where_there_are_instructions_the_faster_precision_is_taken(seconds, faster, monkeypatch):
    monkeypatch.setattr(processor, "computes_bfloat16", lambda _: True)
    monkeypatch.setattr(processor, "seconds_of", lambda _, precision: {"float32": 1.0, "bfloat16": seconds}[precision])
    assert faster_precision(image_model()) == faster


def test_both_precisions_can_be_measured():
    model = image_model().eval()
    assert processor.seconds_of(model, "float32") > 0 and processor.seconds_of(model, "bfloat16") > 0
