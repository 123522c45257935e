"""Zero-shot classifiers in a few lines each, on pooled features: what DEDN has to beat, and what forecasts it.

Shapes: N photos, C channels, K classes, A attributes. All of them learn from photos of some classes, and then score
any class by its row of attributes. Each has a few settings to choose from, on folds of the classes with photos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import product
from typing import ClassVar

import numpy as np

TINY = 1e-6


class Probe(ABC):
    """A zero-shot classifier of pooled features.

    Features are standardised over the photos that it learns from, then L2-normalised; rows are L2-normalised.

    Args:
        features: N x C. labels: N indices into the rows. rows: K x A, of the classes that it learns from.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple]

    def __init__(self, features: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
        self.mean, self.deviation = features.mean(axis=0), features.std(axis=0) + TINY
        self.features, self.labels, self.rows = self._standardised(features), np.asarray(labels), directions(rows)
        self.gram = self.features.T @ self.features / len(features)

    @abstractmethod
    def fit(self, setting: tuple) -> None:
        """Learn with one of `settings`."""

    @abstractmethod
    def compare(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """N x K scores, of prepared features and rows."""

    def scores(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """N x K scores of photos for any classes, after `fit`.

        Their unit is the spread over the classes that were learned, so that a constant on the scores of unseen classes
        means the same whatever the number of classes and the setting.
        """
        spread = self.compare(self.features, self.rows).std(axis=1).mean()
        return self.compare(self._standardised(features), directions(rows)) / max(spread, TINY)

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        return directions((features - self.mean) / self.deviation)

    def _regression(self, targets: np.ndarray, penalty: float) -> np.ndarray:
        """Weights of a ridge regression of targets (one row a photo) on the features: C rows."""
        penalised = self.gram + penalty * np.eye(len(self.gram), dtype=self.gram.dtype)
        return np.linalg.solve(penalised, self.features.T @ targets / len(targets))


class ESZSL(Probe):
    """Romera-Paredes and Torr, ICML 2015: a bilinear map between features and attributes, in closed form."""

    name = "ESZSL"
    settings = tuple(
        product((1e-4, 1e-3, 1e-2, 1e-1), (3e-4, 3e-3, 3e-2))
    )  # the penalties of features and of attributes

    def fit(self, setting: tuple) -> None:
        """Learn. The targets are 1 for the class of a photo and -1 for the others."""
        of_features, of_attributes = setting
        targets = 2 * np.eye(len(self.rows))[self.labels] - 1
        similarity = self.rows @ self.rows.T / len(self.rows)
        # S (S'S + p I)^-1 = (SS' + p I)^-1 S: there are mostly fewer classes than attributes.
        penalised = similarity + of_attributes * np.eye(len(self.rows))
        self.map = np.linalg.solve(penalised, self._regression(targets, of_features).T).T

    def compare(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The bilinear scores."""
        return features @ (self.map @ (self.rows @ rows.T))


class Ridge(Probe):
    """Attributes predicted by ridge regression; the answer is the class with the nearest row."""

    name = "ridge regression on attributes"
    settings = tuple((penalty,) for penalty in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))

    def fit(self, setting: tuple) -> None:
        """Learn."""
        targets = self.rows[self.labels]
        self.centre = targets.mean(axis=0)
        self.weights = self._regression(targets - self.centre, setting[0])

    def predict(self, features: np.ndarray) -> np.ndarray:
        """N x A attributes of photos, on the scale of L2-normalised rows."""
        return self._standardised(features) @ self.weights + self.centre

    def compare(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Minus the squared distance, but for a term that all classes share."""
        return 2 * (features @ self.weights + self.centre) @ rows.T - (rows**2).sum(axis=1)


class Cosine(Ridge):
    """As `Ridge`; the answer is the class whose row has the largest cosine with the predicted attributes."""

    name = "nearest class by cosine"
    settings = tuple(product((1e-5, 1e-4, 1e-3, 1e-2, 1e-1), (False, True)))  # penalty; attributes less their mean

    def fit(self, setting: tuple) -> None:
        """Learn."""
        super().fit(setting)
        self.origin = self.centre if setting[1] else 0

    def compare(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines."""
        predicted = features @ self.weights + self.centre
        return directions(predicted - self.origin) @ directions(rows - self.origin).T


class DAP(Probe):
    """Direct attribute prediction (Lampert et al., TPAMI 2014): a logistic regression for each attribute.

    Attributes are made yes or no at their mean over the classes that are learned.
    """

    name = "attribute prediction (DAP)"
    settings = tuple((penalty,) for penalty in (1e-3, 1e-4, 1e-5))  # each goes on from the one before

    def fit(self, setting: tuple) -> None:
        """Learn all A regressions at once."""
        import torch

        self.middle = self.rows.mean(axis=0)
        has = (self.rows > self.middle).astype(np.float32)
        self.prior = has.mean(axis=0).clip(0.05, 0.95)
        x, y = torch.from_numpy(self.features).float(), torch.from_numpy(has[self.labels])
        start = getattr(self, "weights", np.zeros((x.shape[1], y.shape[1]), np.float32))
        weights = torch.from_numpy(start).clone().requires_grad_()
        bias = torch.logit(torch.from_numpy(self.prior)).requires_grad_()
        search = torch.optim.LBFGS([weights, bias], max_iter=30, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            search.zero_grad()
            errors = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights + bias, y, reduction="none")
            value = errors.mean(dim=0).sum() + setting[0] * (weights**2).sum()
            value.backward()
            return value

        search.step(loss)
        self.weights, self.bias = weights.detach().numpy(), bias.detach().numpy()

    def compare(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logarithms of the classes' probabilities, with the attributes taken as independent."""
        logits = features @ self.weights + self.bias
        has = rows > self.middle
        log_yes, log_no = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
        prior = has @ np.log(self.prior) + ~has @ np.log(1 - self.prior)
        return log_yes @ has.T + log_no @ ~has.T - prior


PROBES: tuple[type[Probe], ...] = (ESZSL, Ridge, DAP, Cosine)


def directions(values: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
