"""The published formulation of DEDN's attention, kept as the slow side of comparisons.

As ../modeling/modeling_dedn.py in every number, but computed as the authors' release does: each attribute group by
itself, and the B x A x C maps of the channel attention written out (Rao et al., IJCAI 2024, section 3.2).
"""

import torch
from torch.nn import functional as F

from dedn_hf import DEDNForZeroShot
from dedn_hf.modeling.dual_attention import Expert


class PublishedDEDN(DEDNForZeroShot):
    """A DEDN whose attention is not fused and whose queries are not stacked. Same parameters, same results."""

    def attend(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = F.normalize(features.to(self.class_attributes.dtype).flatten(2), dim=1)
        results = [attend_of_expert(expert, features) for expert in self.experts.values()]
        scores, region_maps = zip(*results, strict=True)
        return torch.stack(scores, dim=1), torch.stack(region_maps, dim=1)


def attend_of_expert(expert: Expert, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores B x 2 x A and region maps B x A x R of one expert, group by group. features: B x C x R."""
    scores, region_maps = [], []
    groups = expert.attribute_embeddings[expert.group_order].split(expert.group_sizes)
    for number, embeddings in enumerate(groups):
        attention = torch.einsum("ad,dc,bcr->bar", embeddings, expert.region_key[number], features).softmax(dim=-1)
        values = torch.einsum("ad,dc,bcr->bar", embeddings, expert.region_value[number], features)
        region_map = attention * values
        attention = torch.einsum("ad,dr,bcr->bac", embeddings, expert.channel_key[number], features).softmax(dim=-1)
        values = torch.einsum("ad,dr,bcr->bac", embeddings, expert.channel_value[number], features)
        scores.append(torch.stack([region_map.sum(dim=-1), (attention * values).sum(dim=-1)], dim=1))
        region_maps.append(region_map)
    attribute_order = expert.group_order.argsort()
    return torch.cat(scores, dim=2)[:, :, attribute_order], torch.cat(region_maps, dim=1)[:, attribute_order]
