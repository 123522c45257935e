"""Settings that must be made before the libraries are imported: no network, no display, few threads."""

import gc
import os
import signal
import tempfile

import pytest

for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(switch, "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What torch.compile keeps does not tell processors apart: code of another one crashes, or gives wrong numbers.
COMPILED = tempfile.TemporaryDirectory(prefix="dedn-tests-", ignore_cleanup_errors=True)
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", COMPILED.name)
os.environ.setdefault("MPLBACKEND", "Agg")
# The tensors in tests are small, and `make test` gives the other processors test files of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Keep the imported modules out of garbage collection, which every training starts: it takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def accelerator():
    """An Accelerator on the CPU. Its global state is reset before and after the test."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def heeding_ctrl_c():
    """Python's own handler of Ctrl-C, because a process in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
