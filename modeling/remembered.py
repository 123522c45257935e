"""Keeps what a model would compute again at every call, although nothing that it comes from has changed."""

from collections.abc import Callable, Sequence

import torch


class Remembered:
    """Results by name, each valid while its source tensors stay as they are.

    Every in-place change of a tensor counts up its version, and a new tensor has another address. Changes through
    `tensor.data` go unnoticed, therefore `forget` whenever training starts or weights are replaced.
    """

    def __init__(self) -> None:
        self._results: dict[str, tuple[list, object]] = {}

    def __call__(self, name: str, sources: Sequence[torch.Tensor], compute: Callable[[], object]) -> object:
        """The result of `compute`, from last time if no source has changed. Under autograd it is always computed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        if any(tensor.is_inference() for tensor in sources):  # these do not count their versions
            return compute()
        state = [(tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device) for tensor in sources]
        if name not in self._results or self._results[name][0] != state:
            self._results[name] = (state, compute())
        return self._results[name][1]

    def forget(self) -> None:
        """Compute everything anew."""
        self._results.clear()

    def __deepcopy__(self, memo: dict) -> "Remembered":
        return Remembered()

    def __getstate__(self) -> dict:
        return {"_results": {}}
