"""Dual attention: every attribute looks at the regions and at the channels of one feature map.

After Rao et al., IJCAI 2024, section 3.2. The queries of all experts are stacked and meet the feature map once; the
channel attention has two versions with equal results, plain (stores the B x EA x C map) and fused (does not).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class Expert(nn.Module):
    """One expert: a dual attention network for each of G disjoint groups of attributes (G = 1: the coarse expert).

    Holds the attribute embeddings V (A x D) and, for each group, the four matrices P_r, Q_r (D x C), P_c, Q_c (D x R).
    P_r may be factorised, D x h times h x C. Without one of the two `attentions` there are no matrices of it.
    """

    def __init__(
        self,
        groups: list[str],
        embedding_size: int,
        channels: int,
        regions: int,
        rank: int | None = None,
        attentions: Sequence[str] = ("region", "channel"),
    ) -> None:
        super().__init__()
        names = list(dict.fromkeys(groups))
        order = sorted(range(len(groups)), key=lambda i: (names.index(groups[i]), i))
        self.group_sizes = [groups.count(name) for name in names]
        self.rank, self.attentions = rank, attentions

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(len(names), rows, columns))

        self.attribute_embeddings = nn.Parameter(torch.empty(len(groups), embedding_size))
        if "region" in attentions:
            if rank is None:
                self.region_value = matrix(embedding_size, channels)
            else:
                self.region_value_down = matrix(embedding_size, rank)
                self.region_value_up = matrix(rank, channels)
            self.region_key = matrix(embedding_size, channels)
        if "channel" in attentions:
            self.channel_value = matrix(embedding_size, regions)
            self.channel_key = matrix(embedding_size, regions)
        # Attributes sorted by group. Persistent, so that it survives construction without storage.
        self.register_buffer("group_order", torch.tensor(order))

    def _per_group(self, *matrices: torch.Tensor) -> torch.Tensor:
        """V times each group's own matrix (or chain of matrices): A x columns, in attribute order."""
        parts = self.attribute_embeddings[self.group_order].split(self.group_sizes)
        for matrix in matrices:
            parts = [part @ group_matrix for part, group_matrix in zip(parts, matrix, strict=True)]
        return torch.cat(tuple(parts))[self.group_order.argsort()]

    def queries(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each attention by its name."""
        queries = {"region": self.region_queries, "channel": self.channel_queries}
        return {name: query() for name, query in queries.items() if name in self.attentions}

    def region_queries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """V Q_r and V P_r, each A x C."""
        if self.rank is None:
            return self._per_group(self.region_key), self._per_group(self.region_value)
        return self._per_group(self.region_key), self._per_group(self.region_value_down, self.region_value_up)

    def channel_queries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """V Q_c and V P_c, each A x R."""
        return self._per_group(self.channel_key), self._per_group(self.channel_value)


def region_attention(features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Region map alpha * M_r of every attribute: its sum over the regions is the region score.

    Args:
        features: B x C x R.
        keys, values: V Q_r and V P_r, EA x C (the experts' queries, stacked).

    Returns:
        B x EA x R.
    """
    attention, value_map = (torch.cat([keys, values]) @ features).chunk(2, dim=1)
    return attention.softmax(dim=-1) * value_map


def channel_attention(features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, fused: bool) -> torch.Tensor:
    """Channel score of every attribute.

    The sum over channels of beta * (V P_c G) equals (V P_c) . (beta G^T): ordinary attention with the feature map as
    keys and as values, so that a fused kernel never stores beta.

    Args:
        features: B x C x R.
        keys, values: V Q_c and V P_c, EA x R.
        fused: use the fused kernel; the plain version gives the same numbers.

    Returns:
        B x EA.
    """
    if fused:
        features = features.contiguous()
        queries = keys.expand(features.shape[0], *keys.shape)
        if torch.compiler.is_exporting():  # to ONNX, attention needs an axis of heads
            queries, features = queries.unsqueeze(1), features.unsqueeze(1)
        attended = F.scaled_dot_product_attention(queries, features, features, scale=1.0).flatten(0, -3)
        return (attended * values).sum(dim=-1)
    by_channel = features.transpose(1, 2)
    return ((keys @ by_channel).softmax(dim=-1) * (values @ by_channel)).sum(dim=-1)
