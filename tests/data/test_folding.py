"""Backbones without batch normalisation of their own: the same maps, and nothing left behind."""

import copy

import pytest
import torch
from torch import nn

from dedn_hf.data.folding import folded_batch_norm
from dedn_hf.modeling.backbone import Backbone


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with batch normalisation that does something, as after a training."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator)
            nn.init.normal_(module.bias, 0, 0.1, generator)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_efficientnet_lite0", 0),
        ("resnet18", 0),
        ("resnetv2_50", 16),  # batch normalisation comes first there, and after sums
        ("densenet121", 62),  # after concatenations
        ("convnext_atto", 0),  # has none
    ],
)
@torch.no_grad()
def test_without_batch_normalisation_a_backbone_gives_the_same_map_and_then_is_as_before(name, left):
    backbone = with_statistics(Backbone(name))
    pixels, before = torch.rand(2, 3, 64, 64), copy.deepcopy(backbone.state_dict())
    expected = backbone(pixels)
    with folded_batch_norm(backbone, torch.rand(1, 3, 64, 64)):
        assert sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) == left
        torch.testing.assert_close(backbone(pixels), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(backbone(pixels), expected)


class TwoUses(nn.Module):
    """A convolution whose output is used twice: once normalised, once as it is."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, pixels):
        found = self.convolution(pixels)
        return found + self.norm(found)


@torch.no_grad()
def test_a_network_that_cannot_do_without_batch_normalisation_keeps_it():
    network, pixels = with_statistics(TwoUses()), torch.rand(2, 3, 8, 8)
    expected = network(pixels)
    with folded_batch_norm(network, pixels):
        assert isinstance(network.norm, nn.BatchNorm2d)
        assert torch.equal(network(pixels), expected)


@torch.no_grad()
def test_what_goes_wrong_meanwhile_leaves_the_network_as_it_was():
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    expected = network(pixels := torch.rand(1, 3, 8, 8))
    with pytest.raises(KeyError), folded_batch_norm(network, pixels):
        raise KeyError
    assert torch.equal(network(pixels), expected)
