"""What makes backbones fast on CPUs: memory that is kept, the layout, a precision and threads that there are."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dedn_hf.data import cpu, processor, threads
from dedn_hf.data.features import FeatureCache
from dedn_hf.data.processor import at_full_speed, computes_bfloat16, faster_precision
from tests.tiny_runs import image_data, image_model
from tests.tiny_trainings import fitted

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


def test_bfloat16_without_instructions_for_it_is_answered_with_a_warning_once(monkeypatch, caplog):
    processor.warn_of_emulation.cache_clear()
    monkeypatch.setattr(processor, "cpu_instructions", lambda: {"bfloat16": False})
    for _ in range(2):
        processor.warn_of_emulation(torch.device("cpu"), "feature_precision=auto")
    assert "ten to fifteen times slower than float32. Use feature_precision=auto." in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("instructions", [{"bfloat16": True}, None], ids=["has them", "is not known"])
def test_a_processor_that_has_them_or_is_not_known_is_not_warned_of(instructions, monkeypatch, caplog):
    processor.warn_of_emulation.cache_clear()
    monkeypatch.setattr(processor, "cpu_instructions", lambda: instructions)
    processor.warn_of_emulation(torch.device("cpu"), "feature_precision=auto")
    assert not caplog.records


@pytest.fixture
def emulated(monkeypatch):
    """A processor without instructions for bfloat16."""
    processor.warn_of_emulation.cache_clear()
    monkeypatch.setattr(processor, "cpu_instructions", lambda: {"bfloat16": False})
    yield
    processor.warn_of_emulation.cache_clear()


@pytest.mark.usefixtures("emulated")
def test_a_cache_in_bfloat16_is_warned_of_when_something_is_computed_and_not_when_it_is_read(tmp_path, caplog):
    images, model = image_data([(0, 0), (3, 1)]), image_model()
    for _ in range(2):
        FeatureCache.open_or_build(tmp_path / "cache", model, images, progress=False, precision="bfloat16")
        assert len([each for each in caplog.records if "bfloat16 was asked for" in each.message]) == 1
        processor.warn_of_emulation.cache_clear()


@pytest.mark.usefixtures("emulated")
def test_a_training_in_mixed_precision_is_warned_of(accelerators, tmp_path, caplog):
    fitted(accelerators(cpu=True, mixed_precision="bf16"), tmp_path, epochs=1, mixed_precision="bf16")
    assert "Use mixed_precision=no." in caplog.text


@pytest.mark.parametrize(("has", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_answers_in_bfloat16_where_there_are_instructions_for_it(has, chosen, monkeypatch):
    monkeypatch.setattr(processor, "computes_bfloat16", lambda _: has)
    assert processor.dtype_on(torch.device("cpu"), "auto") == chosen
    assert processor.dtype_on(torch.device("cpu"), "float32") == "float32"
    with pytest.raises(ValueError, match="dtype is 'float16'; use auto"):
        processor.dtype_on(torch.device("cpu"), "float16")


# Cores and threads ---------------------------------------------------------------------------------------------------

LIMITS = {  # of control groups: what /proc/self/cgroup says, files below /sys/fs/cgroup, cores
    "none": ("0::/user.slice\n", {"user.slice/cpu.max": "max 100000\n"}, 8),
    "a container": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "part of a core": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "less than one": ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    "a group around it": ("0::/jobs/7\n", {"jobs/7/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, 3),
    "the older kind": (
        "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n",
        {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "the older kind, none": (
        "3:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        8,
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_process_has_the_cores_that_its_container_gives_it(limit, monkeypatch, tmp_path):
    own, files, cores = LIMITS[limit]
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr(cpu, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(cpu, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cpu.available_cores() == cores


def test_without_control_groups_it_has_those_it_is_bound_to(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "OWN_CGROUPS", tmp_path / "missing")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cpu.available_cores() == 2


@pytest.fixture
def sixteen_threads(monkeypatch):
    """A process that has not computed yet, in which torch would use 16 threads."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "load_per_core", lambda: 0.1)
    torch.set_num_threads(16)
    threads.settle_threads.cache_clear()
    yield
    threads.settle_threads.cache_clear()
    torch.set_num_threads(before)


@pytest.mark.usefixtures("sixteen_threads")
@pytest.mark.parametrize(("cores", "expected"), [(3, 3), (64, 16)])
def test_work_begins_with_no_more_threads_than_cores(cores, expected, monkeypatch, caplog):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    with at_full_speed(image_model()):
        assert torch.get_num_threads() == expected
    assert not caplog.records


@pytest.mark.usefixtures("sixteen_threads")
def test_omp_num_threads_goes_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    threads.settle_threads()
    assert torch.get_num_threads() == 16


@pytest.mark.usefixtures("sixteen_threads")
def test_threads_that_one_sets_later_stay(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    threads.settle_threads()
    torch.set_num_threads(5)
    threads.settle_threads()
    assert torch.get_num_threads() == 5


@pytest.mark.usefixtures("sixteen_threads")
@pytest.mark.parametrize(("cores", "warned"), [(3, True), (1, False)])
def test_a_busy_machine_is_warned_of_where_threads_would_wait_for_each_other(cores, warned, monkeypatch, caplog):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setattr(threads, "load_per_core", lambda: 4.0)
    threads.settle_threads()
    assert ("busy: 4.0 of them for each core" in caplog.text and "OMP_NUM_THREADS=1" in caplog.text) is warned
