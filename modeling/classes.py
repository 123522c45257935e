"""The classes of a model: a table of their attributes, exchanged or scored at any time, nothing retrained.

Letters of the shapes: B images, K classes, A attributes.
"""

import torch
from torch.nn import functional as F

from .attribute_table import AttributeTable
from .losses import seen_bias_vector


class ClassesMixin:
    """What `DEDNForZeroShot` does with attribute scores and class tables, once the image has been looked at.

    Uses the model's buffers `class_attributes` (K x A, as given), `attribute_mean` (A), `seen` (K bool), its `config`,
    and `remembered`.
    """

    @torch.no_grad()
    def set_classes(self, table: AttributeTable) -> None:
        """Classify among the classes of `table` from now on; nothing is retrained.

        Columns are matched by attribute name, in any order. Raises ValueError when an attribute is missing.
        """
        table = table.select_attributes(self.config.attribute_names)
        old = self.class_attributes
        self.class_attributes = torch.from_numpy(table.class_attributes).to(old.device, old.dtype, copy=True)
        self.seen = torch.from_numpy(table.seen).to(old.device)
        self.config.id2label = dict(enumerate(table.class_names))
        self.config.label2id = {name: label for label, name in enumerate(table.class_names)}

    def normalized_class_attributes(self, class_attributes: torch.Tensor | None = None) -> torch.Tensor:
        """T, K x A: rows of length 1, centred first where the model was trained so. Default: the model's classes."""
        if class_attributes is None:
            own, mean = self.class_attributes, self.attribute_mean
            return self.remembered("classes", (own, mean), lambda: self.normalized_class_attributes(own))
        return F.normalize(class_attributes - self.attribute_mean, dim=-1)

    def class_bias(self, seen: torch.Tensor) -> torch.Tensor:
        """The part of the logits that no image changes: seen bias and calibration. K bool to K."""
        bias = seen_bias_vector(seen, self.config.seen_bias, self.class_attributes.dtype)
        return bias + self.config.calibration_bias * ~seen

    def score_classes(self, attribute_scores: torch.Tensor, table: AttributeTable | None = None) -> torch.Tensor:
        """Logits of any classes, without changing the model's own.

        Args:
            attribute_scores: B x A, from `forward` or `score_attributes`. table: K' classes, columns matched by
                attribute name; default: the model's own classes.

        Returns:
            B x K'.

        Raises:
            ValueError: an attribute is missing.
        """
        if table is None:
            return attribute_scores @ self.normalized_class_attributes().T + self.class_bias(self.seen)
        table = table.select_attributes(self.config.attribute_names)
        class_attributes = torch.from_numpy(table.class_attributes).to(attribute_scores)
        seen = torch.from_numpy(table.seen).to(attribute_scores.device)
        return attribute_scores @ self.normalized_class_attributes(class_attributes).T + self.class_bias(seen)

    @property
    def attribute_table(self) -> AttributeTable:
        """The classes that the model knows now; roles are 'train' (seen) or 'unseen'."""
        return AttributeTable(
            [self.config.id2label[label] for label in range(self.config.num_labels)],
            self.config.attribute_names,
            self.class_attributes.float().cpu().numpy(),
            self.config.attribute_groups,
            ["train" if seen else "unseen" for seen in self.seen.tolist()],
        )

    @torch.no_grad()
    def top_classes(
        self, attribute_scores: torch.Tensor, k: int = 5, chunk_size: int = 65536
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best of the model's own classes, without a B x K matrix: for very many classes.

        Args:
            attribute_scores: B x A. k: how many classes (all, where there are fewer). chunk_size: classes at a time.

        Returns:
            Logits B x k, best first; labels B x k; and the log of the sum of exp(logit) over all K classes, B.
        """
        sources = (self.class_attributes, self.attribute_mean)
        lengths = self.remembered("lengths", sources, lambda: _row_lengths(*sources, chunk_size))
        offset = attribute_scores @ self.attribute_mean
        best, labels, totals = [], [], []
        for start in range(0, len(lengths), chunk_size):
            chunk = slice(start, start + chunk_size)
            logits = (attribute_scores @ self.class_attributes[chunk].T - offset[:, None]) / lengths[chunk]
            logits = logits + self.class_bias(self.seen[chunk])
            values, indices = logits.topk(min(k, logits.shape[1]))
            best.append(values)
            labels.append(indices + start)
            totals.append(logits.logsumexp(dim=1))
        best, labels = torch.cat(best, dim=1), torch.cat(labels, dim=1)
        best, order = best.topk(min(k, best.shape[1]))
        return best, labels.gather(1, order), torch.stack(totals).logsumexp(dim=0)


def _row_lengths(class_attributes: torch.Tensor, mean: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """Lengths of the centred rows, K, without a copy of the whole K x A table."""
    return torch.cat([(rows - mean).norm(dim=1) for rows in class_attributes.split(chunk_size)]).clamp_min(1e-12)
