"""The experts: dual attention, and the losses that they are trained with.

In dual attention, every attribute looks at the regions and at the channels of one feature map.
After Rao et al., IJCAI 2024, section 3.2. The queries of all experts are stacked and meet the feature map once; the
channel attention has versions with equal results, plain (stores the B x EA x C map) and fused (do not).
`PooledExpert`, a third one without attention, is this package's own.
"""

import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .configuration_dedn import DEDNConfig

EPSILON = 1e-9  # keeps logarithms and divisions finite
POOLED_SPREAD = 4.0  # of the pooled expert's logits over the seen classes: about that of experts trained with margin 3


class TensorCache:
    """Keeps by name what was computed from tensors, for as long as these stay as they are.

    Every in-place change of a tensor counts up its version. Changes through `tensor.data` go unnoticed: `clear` then.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, tuple[list[torch.Tensor], list[int], object]] = {}

    def __call__(self, name: Hashable, sources: Sequence[torch.Tensor], compute: Callable[[], Any]) -> Any:
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

    def clear(self) -> None:
        """Compute everything anew."""
        self._results.clear()

    def __deepcopy__(self, memo: dict) -> "TensorCache":
        return TensorCache()

    def __getstate__(self) -> dict:
        return {"_results": {}}


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
        order, inverse = self.group_order, self.group_order.argsort()
        parts = permute_rows(self.attribute_embeddings, order, inverse).split(self.group_sizes)
        for matrix in matrices:
            parts = [part @ group_matrix for part, group_matrix in zip(parts, matrix, strict=True)]
        return permute_rows(torch.cat(tuple(parts)), inverse, order)

    def forward(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each attention by its name: V Q_r and V P_r (A x C), V Q_c and V P_c (A x R)."""
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


class Experts(nn.ModuleDict):
    """Dual attention of all experts in one pass over the feature map: their keys and values are stacked."""

    def __init__(self, experts: dict[str, nn.Module]) -> None:
        super().__init__(experts)
        self._cache = TensorCache()

    def forward(self, features: torch.Tensor, fused: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attribute scores of each expert and attention, and region maps.

        Args:
            features: B x C x R, of length 1 along C. fused: see `channel_attention`.

        Returns:
            Region and channel scores, B x E x 2 x A (one attention: B x E x 1 x A), and region maps B x E x A x R.
        """
        dtype, autocast = features.dtype, None
        if torch.is_autocast_enabled(features.device.type):
            autocast = torch.get_autocast_dtype(features.device.type)
            features = features.to(autocast)  # once for all products
        features = features.transpose(0, 1).contiguous()  # C x B x R: all images are one matrix
        # Without autograd computed once, and kept until the weights change.
        queries = self._cache(("queries", autocast), tuple(self.parameters()), self.stacked_queries)
        scores, region_maps = [], None
        if "region" in queries:
            found = region_attention(features, *queries["region"])
            region_scores, region_maps = (part.unflatten(1, (len(self), -1)) for part in found)
            scores.append(region_scores)
        if "channel" in queries:
            keys, values = queries["channel"]
            channel_scores = channel_attention(features, keys, values, fused).to(dtype)
            scores.append(channel_scores.unflatten(1, (len(self), -1)))
        return torch.stack(scores, dim=2), region_maps

    def train(self, mode: bool = True) -> "Experts":
        """Forgets the stacked keys and values, which training will change."""
        self._cache.clear()
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> "Experts":
        """Moving or casting replaces the weights' memory without counting up their versions."""
        self._cache.clear()
        return super()._apply(*args, **kwargs)

    def stacked_queries(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """As one `Expert` gives, EA in place of A."""
        of_experts = [expert() for expert in self.values()]
        return {
            name: tuple(map(torch.cat, zip(*(queries[name] for queries in of_experts), strict=True)))
            for name in of_experts[0]
        }


class PooledExpert(nn.Module):
    """Attribute scores from the whole picture: linear in the mean over its regions, and learned in closed form.

    The mean of the feature map over its regions is standardised, brought to length 1, and mapped to attributes by
    ESZSL (Romera-Paredes and Torr, ICML 2015). It has no attention and is not trained by gradients. It errs on other
    images than the experts with attention do, so both together are better than either. The published method has none.

    Buffers: mean and deviation, C, of the pooled training images; weight, A x C. Before `learn`, every score is 0.
    """

    def __init__(self, channels: int, num_attributes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("weight", torch.zeros(num_attributes, channels))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attribute scores B x A, and what each region adds to them, B x A x R, of features B x C x R."""
        with torch.autocast(features.device.type, enabled=False):  # lower precision would round the small differences
            standard = (features.float() - self.mean.float()[:, None]) / self.deviation.float()[:, None]
            length = standard.mean(dim=-1).norm(dim=-1).clamp_min(EPSILON)
            region_maps = (self.weight.float() @ standard) / (length * standard.shape[-1])[:, None, None]
            scores = region_maps.sum(dim=-1)
        return scores.to(features.dtype), region_maps.to(features.dtype)

    @torch.no_grad()
    def learn(
        self,
        pooled: torch.Tensor,
        labels: torch.Tensor,
        class_attributes: torch.Tensor,
        feature_penalty: float = 1e-3,
        attribute_penalty: float = 0.1,
    ) -> None:
        """The least-squares solution for targets of 1 for an image's class and -1 for the others.

        Every class weighs the same, whatever the number of its images.

        Args:
            pooled: N x C, mean over the regions of the feature maps. labels: N, 0..K-1. class_attributes: K x A, rows
                normalised. feature_penalty, attribute_penalty: of the ridge, relative to the mean square of each.

        Raises:
            ValueError: fewer than two classes.
        """
        if len(class_attributes) < 2:
            raise ValueError("The pooled expert needs images of two classes at least. Use pooled_weight=0.")
        pooled, rows = pooled.double(), class_attributes.double()
        mean, deviation = pooled.mean(dim=0), pooled.std(dim=0, correction=0)
        deviation = deviation.clamp_min(0.3 * deviation.mean() + EPSILON)  # a channel that was silent may speak later
        images = F.normalize((pooled - mean) / deviation, dim=1)
        of_class = F.one_hot(labels, len(rows)).double()
        weighted = (images / of_class.sum(dim=0)[labels, None]).T / len(rows)
        ridge = weighted @ images + feature_penalty * torch.eye(images.shape[1]).to(images)
        by_class = torch.linalg.solve(ridge, weighted @ (2 * of_class - 1))
        similarity = rows @ rows.T / len(rows) + attribute_penalty * torch.eye(len(rows)).to(rows)
        weight = torch.linalg.solve(similarity, by_class.T).T @ rows  # C x A
        spread = (images @ weight @ rows.T).std(dim=1, correction=0).mean().clamp_min(EPSILON)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.weight.copy_(weight.T * POOLED_SPREAD / spread)


def permute_rows(rows: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """rows[order], where `order` is a permutation and `inverse` undoes it."""
    return rows[order] if torch.compiler.is_compiling() else _PermuteRows.apply(rows, order, inverse)


class _PermuteRows(torch.autograd.Function):
    """Indexing by a permutation. Its derivative only moves rows, where that of any indexing would add them up."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order, inverse)
        return rows[order]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _PermuteRows.apply(gradient, inverse, order), None, None


def region_attention(
    features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Region scores, and the region map alpha * M_r of every attribute, whose sum over the regions they are.

    Args:
        features: C x B x R, so that all images are one matrix.
        keys, values: V Q_r and V P_r, EA x C (the experts' queries, stacked).

    Returns:
        B x EA and B x EA x R.
    """
    if features.dtype.itemsize >= 4 and queries_alone_need_gradients(features):  # lower precision would round the maps
        scores, region_maps = FrozenFeatureRegionAttention.apply(keys, values, features)
    else:
        attention, value_map = region_parts(features, keys, values)
        region_maps = attention * value_map
        scores = region_maps.sum(dim=-1)
    return scores.transpose(0, 1), region_maps.transpose(0, 1)


def region_parts(
    features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and M_r, each EA x B x R."""
    attention, value_map = ((query @ features.flatten(1)).unflatten(1, features.shape[1:]) for query in (keys, values))
    return attention.softmax(dim=-1), value_map


def channel_attention(features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, fused: bool) -> torch.Tensor:
    """Channel score of every attribute.

    Args:
        features: C x B x R.
        keys, values: V Q_c and V P_c, EA x R.
        fused: do not store the maps, EA x C for every image; the plain version gives the same numbers.

    Returns:
        B x EA.
    """
    by_image = features.transpose(0, 1)
    if not fused:
        return ((keys @ by_image.mT).softmax(dim=-1) * (values @ by_image.mT)).sum(dim=-1)
    if queries_alone_need_gradients(features):
        return FrozenFeatureChannelAttention.apply(keys.to(features.dtype), values.to(features.dtype), by_image)
    # The sum over channels of beta * (V P_c G) equals (V P_c) . (beta G^T): ordinary attention with the feature map
    # as keys and as values.
    by_image = by_image.contiguous()
    queries = keys.expand(by_image.shape[0], *keys.shape)  # not len(), which an export would take for a constant
    if torch.compiler.is_exporting():  # to ONNX, attention needs an axis of heads
        queries, by_image = queries.unsqueeze(1), by_image.unsqueeze(1)
    attended = F.scaled_dot_product_attention(queries, by_image, by_image, scale=1.0).flatten(0, -3)
    return (attended * values).sum(dim=-1)


def queries_alone_need_gradients(features: torch.Tensor) -> bool:
    """Whether queries are trained on features that are not: cached, or of a frozen backbone."""
    return torch.is_grad_enabled() and not features.requires_grad and not torch.compiler.is_compiling()


class FrozenFeatureRegionAttention(torch.autograd.Function):
    """Region attention on features that need no gradient, in fewer passes over its maps and with two of them kept."""

    @staticmethod
    def forward(
        ctx, keys: torch.Tensor, values: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """keys and values EA x C, features C x B x R; scores EA x B and region maps EA x B x R."""
        attention, region_maps = region_parts(features, keys, values)
        region_maps.mul_(attention)
        ctx.save_for_backward(attention, region_maps, features)
        ctx.set_materialize_grads(False)
        return region_maps.sum(dim=-1), region_maps

    @staticmethod
    @once_differentiable
    def backward(
        ctx, of_scores: torch.Tensor | None, of_maps: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Gradients of scores and maps, either may be missing, to those of keys and values, EA x C."""
        attention, region_maps, features = ctx.saved_tensors
        gradient = 0 if of_maps is None else of_maps
        if of_scores is not None:
            gradient = gradient + of_scores.unsqueeze(-1)
        both = attention.new_empty(2 * len(attention), *attention.shape[1:])
        of_keys, of_values = both.chunk(2)
        torch.mul(region_maps, gradient, out=of_keys)
        of_keys.addcmul_(attention, of_keys.sum(dim=-1, keepdim=True), value=-1)
        torch.mul(attention, gradient, out=of_values)
        return *(both.flatten(1) @ features.flatten(1).T).chunk(2), None


class FrozenFeatureChannelAttention(torch.autograd.Function):
    """Channel attention on features that need no gradient: the derivatives come with the scores, at half the cost.

    The derivative of a score by its query is one vector of R numbers, so they are kept in place of maps over channels,
    and the backward pass multiplies no matrices. With s = sum_c beta_c m_c, beta = softmax(G k), m = G v:
    ds/dv = beta G and ds/dk = (beta * (m - s)) G.
    """

    # Numbers of one map that are worked on at a time: what a processor's cache holds, what keeps a GPU busy.
    chunk = {"cpu": 2**20, "cuda": 2**26}

    @staticmethod
    def forward(ctx, keys: torch.Tensor, values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """keys and values EA x R, features B x C x R; scores B x EA."""
        queries, (images, channels, regions) = torch.cat([keys, values]), features.shape
        scores, (by_value, by_key) = keys.new_empty(images, len(keys)), keys.new_empty(2, images, len(keys), regions)
        size = max(1, FrozenFeatureChannelAttention.chunk.get(features.device.type, 2**20) // (len(keys) * channels))
        parts = zip(*(whole.split(size) for whole in (features, scores, by_value, by_key)), strict=True)
        with torch.autocast(features.device.type, enabled=False):
            for part, score, of_value, of_key in parts:
                attention, value_map = torch.bmm(queries.expand(len(part), -1, -1), part.mT).chunk(2, dim=1)
                attention = attention.softmax(dim=-1)
                torch.bmm(attention, part, out=of_value)
                torch.bmm(attention.mul_(value_map), part, out=of_key)
                torch.sum(values * of_value, dim=-1, out=score)
                of_key.sub_(score.unsqueeze(-1) * of_value)
        ctx.save_for_backward(by_key, by_value)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """gradient B x EA; those of keys and values EA x R."""
        by_key, by_value = ctx.saved_tensors
        gradient = gradient.to(by_key.dtype)
        return torch.einsum("ba,bar->ar", gradient, by_key), torch.einsum("ba,bar->ar", gradient, by_value), None


# Losses (IJCAI 2024, section 3.3). `logits` are z = s T^t + m, the seen bias m included. ----------------------------


def margin_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    seen: torch.Tensor,
    margin: float,
    seen_bias: float = 1.0,
    label_smoothing: float = 0.0,
    seen_only: bool = False,
) -> torch.Tensor:
    """Margin-aware loss (MAL): cross-entropy in which the true class must win by a margin over the seen classes.

    Args:
        logits: B x K. labels: B, 0..K-1. seen: K bool.
        margin: delta, taken from the true class; every seen class gets `seen_bias`, unseen classes nothing.
        seen_only: leave unseen classes out of the competition (labels must then be seen classes).

    Returns:
        Scalar, mean over the batch.
    """
    bias = seen_bias_vector(seen, seen_bias, logits.dtype)
    handicap = seen.to(logits.dtype) * seen_bias - margin * F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    handicapped = logits - bias + handicap
    if seen_only:
        handicapped, labels = handicapped[:, seen], (seen.cumsum(0) - 1)[labels]
    return F.cross_entropy(handicapped, labels, label_smoothing=label_smoothing)


def seen_bias_vector(seen: torch.Tensor, seen_bias: float, dtype: torch.dtype) -> torch.Tensor:
    """m: -seen_bias for seen, +seen_bias for unseen classes. K bool to K."""
    return seen_bias * (1 - 2 * seen.to(dtype))


def self_calibration_loss(logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """-log of the batch mean of the probability that falls on unseen classes. B x K, K bool to a scalar."""
    unseen_mass = (logits.softmax(dim=-1) * ~seen).sum(dim=-1)
    return -unseen_mass.mean().clamp_min(EPSILON).log()


def distillation_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mutual distillation of two predictions, with gradients into both (equation L of the method).

    The cubed distance over the norm, sum_k |d_k|^3 / ||d||, plus the Jensen-Shannon divergence of the softmaxes.

    Args:
        first, second: B x N (logits over classes, or attribute scores for the alignment loss).

    Returns:
        Scalar, mean over the batch.
    """
    difference = first - second
    norm = (difference.square().sum(dim=-1) + EPSILON).sqrt()
    cubed = (difference.abs() ** 3).sum(dim=-1) / norm
    return cubed.mean() + jensen_shannon(first, second)


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence (natural log) of the softmaxes of two B x N tensors, mean over the batch."""
    log_first, log_second = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    log_mean = torch.logaddexp(log_first, log_second) - torch.log(torch.tensor(2.0))
    kl_first = F.kl_div(log_mean, log_first, log_target=True, reduction="batchmean")
    kl_second = F.kl_div(log_mean, log_second, log_target=True, reduction="batchmean")
    return (kl_first + kl_second) / 2


def regression_loss(attribute_scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity between attribute scores (B x A) and the label's class attributes (B x A), batch mean."""
    return (1 - F.cosine_similarity(attribute_scores, targets, dim=-1)).mean()


def require_labels(labels: torch.Tensor, num_classes: int) -> None:
    """Raise ValueError unless all labels (B) lie in 0..num_classes-1."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels lie between {int(labels.min())} and {int(labels.max())}; the model has {num_classes} classes, "
            f"0 to {num_classes - 1}. Use the label order of model.config.id2label."
        )


def loss_terms(
    config: DEDNConfig,
    scores: torch.Tensor,
    summed_scores: torch.Tensor,
    logits: torch.Tensor,
    class_attributes: torch.Tensor,
    seen: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Every loss term, unweighted, by name: 'coarse.margin', ..., 'distillation'.

    Args:
        scores: B x E x 2 x A, of both attentions; summed_scores: B x E x A, their sum. logits: B x E x K, from that.
        class_attributes: K x A, rows normalised. seen: K bool. labels: B.
    """
    losses = {}
    for i, name in enumerate(config.experts):
        losses[f"{name}.margin"] = margin_loss(
            logits[:, i],
            labels,
            seen,
            config.margin,
            config.seen_bias,
            config.label_smoothing,
            seen_only=config.loss_classes == "seen",
        )
        losses[f"{name}.calibration"] = self_calibration_loss(logits[:, i], seen)
        losses[f"{name}.regression"] = regression_loss(summed_scores[:, i], class_attributes[labels])
        if scores.shape[2] == 2:
            losses[f"{name}.alignment"] = distillation_loss(scores[:, i, 0], scores[:, i, 1])
    if len(config.experts) == 2:
        losses["distillation"] = distillation_loss(logits[:, 0], logits[:, 1])
    return losses


def total_loss(config: DEDNConfig, losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum: a term 'coarse.margin' or 'distillation' is weighted by `config.<kind>_weight`.

    Terms of weight 0 are left out; where all are, the loss is 0, with gradients of 0.
    """
    weights = {name: getattr(config, f"{name.split('.')[-1]}_weight") for name in losses}
    if not any(weights.values()):
        return 0 * sum(losses.values())
    return sum(weight * losses[name] for name, weight in weights.items() if weight)
