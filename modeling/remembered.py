"""Keeps what a model would compute again at every call, although nothing that it comes from has changed."""

import operator
from collections.abc import Callable, Sequence

import torch


class Remembered:
    """Results by name, each valid while its source tensors stay as they are.

    Every in-place change of a tensor counts up its version. Changes through `tensor.data` go unnoticed, therefore
    `forget` whenever training starts or weights are moved.
    """

    def __init__(self) -> None:
        self._results: dict[str, tuple[list[torch.Tensor], list[int], object]] = {}

    def __call__(self, name: str, sources: Sequence[torch.Tensor], compute: Callable[[], object]) -> object:
        """The result of `compute`, from last time if no source has changed. Under autograd it is always computed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        if any(tensor.is_inference() for tensor in sources):  # these do not count their versions
            return compute()
        versions = [tensor._version for tensor in sources]
        old_sources, old_versions, result = self._results.get(name, ((), None, None))
        # The tensors themselves are compared, and so kept: a new one could lie at the address of one that is gone.
        same = len(old_sources) == len(sources) and all(map(operator.is_, old_sources, sources))
        if not same or versions != old_versions:
            result = compute()
            self._results[name] = (list(sources), versions, result)
        return result

    def forget(self) -> None:
        """Compute everything anew."""
        self._results.clear()

    def __deepcopy__(self, memo: dict) -> "Remembered":
        return Remembered()

    def __getstate__(self) -> dict:
        return {"_results": {}}
