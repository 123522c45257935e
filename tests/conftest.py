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
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic trainings on a GPU need it


def pytest_collection_finish() -> None:
    """Keep the imported modules out of garbage collection, which every training starts: it takes half a second."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, unless they are what is tested: everything else expects the CPU, to the bit."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped without one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU, or not asked for: pytest -m gpu, on a machine with one")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """'cpu', and 'cuda' where there is a GPU: the same test on both."""
    return request.param


@pytest.fixture
def accelerators():
    """Makes an Accelerator from its arguments. The global state is reset before each, and after the test."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    def fresh(**options) -> Accelerator:
        reset()
        return Accelerator(**options)

    yield fresh
    reset()


@pytest.fixture
def accelerator(accelerators):
    """An Accelerator on the CPU."""
    return accelerators(cpu=True)


@pytest.fixture
def heeding_ctrl_c():
    """Python's own handler of Ctrl-C, because a process in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
