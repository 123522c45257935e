"""The published formulation of DEDN, to compare the package's faster one with.

It gives the same numbers as ../modeling/modeling_dedn.py, but computes them as the authors' release does
(github.com/zjrao/DEDN; Rao et al., IJCAI 2024, section 3.2). Each attribute group is computed by itself. The
B x A x R and B x A x C maps of all groups are kept, those of the coarse expert are split by group, and all of them
are joined and then summed. Logits go through B x A x K products.
"""

import torch
from torch.nn import functional as F

from dedn_hf import DEDNForZeroShot
from dedn_hf.modeling.experts import Expert, seen_bias_vector


class PublishedDEDN(DEDNForZeroShot):
    """A DEDN whose attention is not fused and whose queries are not stacked. Same parameters, same results."""

    def dual_attention(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = F.normalize(features.to(self.class_attributes.dtype).flatten(2), dim=1)
        fine = self.experts["fine"]
        results = [attend_of_expert(expert, fine, features) for expert in self.experts.values()]
        scores, region_maps = zip(*results, strict=True)
        attribute_order = fine.group_order.argsort()
        return torch.stack(scores, dim=1)[..., attribute_order], torch.stack(region_maps, dim=1)[:, :, attribute_order]

    def class_logits(
        self, attribute_scores: torch.Tensor, class_attributes: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        experts = [
            torch.einsum("ka,ba->bak", class_attributes, scores).sum(dim=1) for scores in attribute_scores.unbind(1)
        ]
        logits = torch.stack(experts, dim=1)
        return logits + seen_bias_vector(seen, self.config.seen_bias, logits.dtype)


def attend_of_expert(expert: Expert, fine: Expert, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores B x 2 x A and region maps B x A x R of one expert, attributes in the order of the fine one's groups."""
    groups = expert.attribute_embeddings[expert.group_order].split(expert.group_sizes)
    parts = [attend_of_group(expert, number, embeddings, features) for number, embeddings in enumerate(groups)]
    if expert is not fine:
        (whole,) = parts
        members = fine.group_order.split(fine.group_sizes)
        parts = [[attention_map[:, group] for attention_map in whole] for group in members]
    region_map, channel_map = (torch.cat(maps, dim=1) for maps in zip(*parts, strict=True))
    return torch.stack([region_map.sum(dim=-1), channel_map.sum(dim=-1)], dim=1), region_map


def attend_of_group(
    expert: Expert, number: int, embeddings: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps B x a x R and B x a x C of the a attributes of one group."""
    attention = torch.einsum("ad,dc,bcr->bar", embeddings, expert.region_key[number], features).softmax(dim=-1)
    values = torch.einsum("ad,dc,bcr->bar", embeddings, expert.region_value[number], features)
    region_map = attention * values
    attention = torch.einsum("ad,dr,bcr->bac", embeddings, expert.channel_key[number], features).softmax(dim=-1)
    values = torch.einsum("ad,dr,bcr->bac", embeddings, expert.channel_value[number], features)
    return region_map, attention * values
