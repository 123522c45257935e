"""Batch normalisation folded into the convolution before it: the same function, with a pass over its maps less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)
CLOSE = 1e-3  # of the largest value: in float32, networks with random weights differ by 1e-5


@contextmanager
@torch.no_grad()
def folded_batch_norm(network: nn.Module, pixels: torch.Tensor) -> Iterator[None]:
    """Within `with`, a network in evaluation mode computes without its batch normalisation; nothing else changes.

    Sums are added up in another order, which changes the last digits. Where the outputs differ by more, because a
    network uses what a convolution gave in another way as well, it stays as it is.

    Args:
        network: gives one tensor. pixels: B x 3 x H x W, any that it takes.
    """
    if not any(type(module) in NORMS for module in network.modules()):
        yield
        return
    with ExitStack() as folded:
        expected, pairs = pairs_of(network, pixels)
        for name, convolution in pairs.items():
            folded.enter_context(fold(network, name, convolution))
        if (network(pixels) - expected).abs().max() > CLOSE * expected.abs().max():
            folded.close()
        yield


def pairs_of(network: nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, nn.Conv2d]]:
    """What the network makes of the pixels; and of each batch normalisation, by name, the convolution before it."""
    names = {module: name for name, module in network.named_modules()}
    pairs, calls = {}, Counter()

    def gave(convolution: nn.Module, _: tuple, output: torch.Tensor) -> None:
        calls[convolution] += 1
        output.made_by = convolution

    def takes(norm: nn.Module, inputs: tuple) -> None:
        calls[norm] += 1
        if hasattr(inputs[0], "made_by"):
            pairs[norm] = inputs[0].made_by

    hooks = [module.register_forward_hook(gave) for module in names if type(module) in CONVOLUTIONS]
    hooks += [module.register_forward_pre_hook(takes) for module in names if type(module) in NORMS]
    output = network(pixels)
    for hook in hooks:
        hook.remove()
    return output, {names[norm]: before for norm, before in pairs.items() if calls[norm] == calls[before] == 1}


@contextmanager
def fold(network: nn.Module, name: str, convolution: nn.Conv2d) -> Iterator[None]:
    """Within `with`, the convolution does the work of the batch normalisation of that name."""
    norm, own = network.get_submodule(name), (convolution.weight, convolution.bias)
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    convolution.weight, convolution.bias = fuse_conv_bn_weights(*own, *statistics)
    rest = (norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else ()
    network.set_submodule(name, nn.Sequential(*rest))
    try:
        yield
    finally:
        convolution.weight, convolution.bias = own
        network.set_submodule(name, norm)
