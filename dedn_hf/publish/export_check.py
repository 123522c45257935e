"""Whether an exported model gives what the model gives: both on the same random inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    import onnxruntime

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

OUTPUTS = ("logits", "attribute_scores")
TOLERANCE = 1e-4
Run = Callable[[dict[str, torch.Tensor]], Sequence[np.ndarray]]


class Difference(NamedTuple):
    """How far the outputs of an exported model are from those that it should give, over random inputs.

    Args:
        largest: largest difference, relative to the largest value of the same output.
        agreement: share of the inputs with the same best class, 0..1.
        inputs: how many there were.
    """

    largest: float
    agreement: float
    inputs: int


def difference(run: Run, expected: Run, shapes: dict[str, tuple], batches: Sequence[int] = (1, 3)) -> Difference:
    """How far `run` is from `expected`, on batches of random inputs of several sizes. Raises ValueError for shapes."""
    largest, same = 0.0, []
    for batch in batches:
        inputs = random_inputs(shapes, batch)
        outputs, wanted = run(inputs), expected(inputs)
        for name, output, want in zip(OUTPUTS, outputs, wanted, strict=True):
            if output.shape != want.shape:
                raise ValueError(f"The exported {name} have shape {output.shape} in place of {want.shape}.")
            distance = float(np.abs(output - want).max() / np.abs(want).max())
            largest = max(largest, distance) if np.isfinite(distance) else np.inf
        same += (outputs[0].argmax(axis=1) == wanted[0].argmax(axis=1)).tolist()
    return Difference(largest, sum(same) / len(same), len(same))


def require_equal(found: Difference) -> Difference:
    """The same; raises ValueError where the difference is above the tolerance."""
    if not found.largest <= TOLERANCE:
        raise ValueError(
            f"The exported model differs from PyTorch by {found.largest:.1e} (relative), more than {TOLERANCE:.0e}. "
            "Nothing was written."
        )
    return found


def random_inputs(shapes: dict[str, tuple], batch: int) -> dict[str, torch.Tensor]:
    """Inputs of these shapes: normally distributed, classes seen or not by chance; the same for the same batch."""
    sizes = {"batch": batch, "classes": batch + 4}
    generator = torch.Generator().manual_seed(batch)
    inputs = {
        name: torch.randn([sizes.get(size, size) for size in shape], generator=generator)
        for name, shape in shapes.items()
    }
    return {name: values > 0 if name == "seen" else values for name, values in inputs.items()}


def reference_runner(model: DEDNForZeroShot) -> Run:
    """What the model itself gives. Classes that are an input become its own."""

    @torch.no_grad()
    def run(inputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
        images = dict(inputs)
        if "seen" in images:
            model.class_attributes, model.seen = images.pop("class_attributes"), images.pop("seen")
        return named_outputs(model(**images))

    return run


def session_runner(session: onnxruntime.InferenceSession) -> Run:
    """What an ONNX file gives."""
    return lambda inputs: session.run(list(OUTPUTS), {name: values.numpy() for name, values in inputs.items()})


def open_session(path: str | Path) -> onnxruntime.InferenceSession:
    """An ONNX file, ready to run on as many threads of the CPU as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def named_outputs(outputs) -> list[np.ndarray]:
    """The outputs of a model or program, in the order of an ONNX file."""
    return [outputs[name].detach().numpy() for name in OUTPUTS]
