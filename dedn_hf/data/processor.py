"""Backbones at the speed that the processor has: memory is kept, layout and precision are the fastest."""

from __future__ import annotations

import ctypes
import functools
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from dedn_hf.data.cpu import cpu_instructions
from dedn_hf.data.folding import folded_batch_norm
from dedn_hf.data.threads import settle_threads

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PICTURES, ROUNDS = 8, 2  # to measure a precision with


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for its next tensors; whether the C library can.

    glibc gives every freed activation back to the system and fetches it anew, page by page, which takes most of the
    time of a convolutional backbone on a CPU. It holds for the whole process, and for processes forked from it. The
    process then keeps the memory of its peak. Only for glibc, and no number changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, 2**31 - 1) for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))


@contextmanager
def at_full_speed(model: DEDNForZeroShot) -> Iterator[None]:
    """Within `with`, the model computes as fast as this processor can; sums are added up in another order.

    It is channels-last, which is faster for convolutions, and freed memory is kept. In evaluation mode, its backbone
    does without batch normalisation, see `folded_batch_norm`.
    """
    keep_freed_memory()
    settle_threads()
    model.to(memory_format=torch.channels_last)
    try:
        with folded_batch_norm(model.backbone, example_pixels(model)) if foldable(model) else nullcontext():
            yield
    finally:
        model.to(memory_format=torch.contiguous_format)


def foldable(model: DEDNForZeroShot) -> bool:
    """Whether the backbone is there, as a whole and on one device, and does not learn."""
    return model.backbone is not None and not model.training and all(not p.is_meta for p in model.parameters())


def example_pixels(model: DEDNForZeroShot) -> torch.Tensor:
    """One picture of noise, the same every time."""
    size, generator = model.config.image_size, torch.Generator().manual_seed(0)
    return torch.rand(1, 3, size, size, generator=generator).to(model.device, model.dtype)


def faster_precision(model: DEDNForZeroShot) -> str:
    """'bfloat16' where the device has instructions for it and a few pictures are faster in it, else 'float32'."""
    if not computes_bfloat16(model.device):
        return "float32"
    with at_full_speed(model.eval()):
        seconds = {precision: seconds_of(model, precision) for precision in ("float32", "bfloat16")}
    return min(seconds, key=seconds.__getitem__)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16. Elsewhere it is emulated, ten times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (cpu_instructions() or {}).get("bfloat16", False)


def dtype_on(device: torch.device, dtype: str) -> str:
    """The precision of a backbone that answers: 'auto' is 'bfloat16' where the device has instructions for it.

    Raises ValueError for anything but 'auto', 'float32' and 'bfloat16'.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}; use auto, float32 or bfloat16.")
    if dtype == "bfloat16":
        warn_of_emulation(device, "float32 or auto")
    return ("bfloat16" if computes_bfloat16(device) else "float32") if dtype == "auto" else dtype


@functools.cache
def warn_of_emulation(device: torch.device, instead: str) -> None:
    """Say once that bfloat16, which was asked for, is emulated on this device. instead: what to ask for."""
    known = device.type == "cuda" or (device.type == "cpu" and cpu_instructions() is not None)
    if known and not computes_bfloat16(device):
        logger.warning(
            "bfloat16 was asked for, and this processor has no instructions for it: that is ten to fifteen times "
            "slower than float32. Use %s.",
            instead,
        )


@torch.no_grad()
def seconds_of(model: DEDNForZeroShot, precision: str) -> float:
    """Shortest time of some rounds of a few pictures through the backbone, after a first one."""
    size = model.config.image_size
    pixels = torch.zeros(PICTURES, 3, size, size, device=model.device).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        with computing_in(precision, model.device):
            model.extract_features(pixels).float().cpu()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """Within `with`, the backbone computes in 'float32' or 'bfloat16'."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
