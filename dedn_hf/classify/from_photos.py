"""A class described by a few photos: what the model sees in them, on the scale of the table.

The model gives every photo a score for each attribute. Over the classes that it was trained on, their mean scores are
fitted to the values of the table, attribute by attribute. That fit turns the mean scores of a few photos of another
class into a row.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from dedn_hf.data.photos import Photos, walk, why_unused
from dedn_hf.data.transforms import evaluation_transform
from dedn_hf.explain.names import spoken
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.inputs import read_image
from dedn_hf.traits.wording import columns_of, described_columns, in_words

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

PHOTO_SCORES = "photo-scores.csv"  # beside the weights: the mean attribute scores of classes with photos
PER_CLASS, FEWEST_CLASSES, BATCH = 10, 3, 16
# Chosen on the validation classes of 50 bird classes, see docs/describing.md.
WEIGHT_OF_WORDS, WEIGHT_GAINED = 0.5, 0.2  # of a described trait: 0.5 beside many photos, 0.7 beside one
DRAWN_IN = 0.3  # of what photos say: such rows fit the model better than words, and would win too often
SHOWN_TRAITS, RELIABLE = 12, 0.5


@dataclass
class ScoreFit:
    """How the attribute scores of photos go with the table, over K classes with photos; A entries, but for `table`.

    Args:
        table: K x A, the class attributes. scores, values: means over the classes of the mean scores of their photos,
            and of their class attributes. slopes: of the lines through both. correlations: how well a trait can be
            told from photos, -1..1.
    """

    table: np.ndarray
    scores: np.ndarray
    values: np.ndarray
    slopes: np.ndarray
    correlations: np.ndarray

    @classmethod
    def over(cls, reference: AttributeTable, table: AttributeTable) -> ScoreFit:
        """The fit over the classes of `reference`, whose class attributes are the mean scores of their photos.

        Raises ValueError for fewer than three classes that `table` knows as seen ones.
        """
        seen = {name for name, is_seen in zip(table.class_names, table.seen, strict=True) if is_seen}
        names = [name for name in reference.class_names if name in seen]
        if len(names) < FEWEST_CLASSES:
            raise ValueError(
                f"There are photos of {len(names)} classes that the model was trained on. To relate what it sees to "
                f"the table, {FEWEST_CLASSES} are needed: add folders of their photos (--reference)."
            )
        scores = reference.select(names).select_attributes(table.attribute_names).class_attributes.astype(np.float64)
        values = table.select(names).class_attributes.astype(np.float64)
        score_mean, value_mean = scores.mean(axis=0), values.mean(axis=0)
        products = ((scores - score_mean) * (values - value_mean)).mean(axis=0)
        score_spreads, spreads = scores.std(axis=0), values.std(axis=0)
        slopes = np.divide(products, score_spreads**2, out=np.zeros_like(products), where=score_spreads > 0)
        both = score_spreads * spreads
        correlations = np.divide(products, both, out=np.zeros_like(products), where=both > 0)
        return cls(values, score_mean, value_mean, slopes, correlations)

    def row(self, scores: np.ndarray) -> np.ndarray:
        """A row, A, from mean attribute scores, A, within the values that the classes have.

        A trait that cannot be told from photos stays near the average.
        """
        row = self.values + np.abs(self.correlations) * self.slopes * (scores - self.scores)
        return row.clip(self.table.min(axis=0), self.table.max(axis=0))

    def combined(self, scores: np.ndarray, photos: int, words: np.ndarray, told: np.ndarray) -> np.ndarray:
        """A row, A, of what is described and what photos show.

        Args:
            scores: A, means over `photos` photos. words: A, the described row. told: A bool, what it speaks of.
        """
        weight = np.where(told, WEIGHT_OF_WORDS + WEIGHT_GAINED / photos, 0.0)
        mixed = weight * (words - self.values) + (1 - weight) * (self.row(scores) - self.values)
        return (self.values + (1 - DRAWN_IN * (1 - weight)) * mixed).astype(np.float32)


# Scores of photos ----------------------------------------------------------------------------------------------------


def photo_files(folder: str | os.PathLike) -> list[str]:
    """The photos in a folder, at any depth, or the one file. Raises FileNotFoundError where there is none."""
    path = os.path.abspath(folder)
    if os.path.isfile(path):
        return [path]
    files = []
    if os.path.isdir(path):
        files = [file for file, _ in sorted(walk(path, Photos(path))) if why_unused(file) is None]
    if not files:
        raise FileNotFoundError(f"There are no photos in {folder}. Give a folder of photos, or one photo.")
    return files


def mean_scores(model: DEDNForZeroShot, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The mean attribute scores, A, of the photos that can be read, and the files that cannot.

    Raises ValueError where none can be read.
    """
    pictures, broken = [], []
    for file in files:
        try:
            pictures.append(read_image(file))
        except Exception:  # noqa: BLE001 - damaged files make PIL's decoders raise nearly anything
            broken.append(file)
    if not pictures:
        raise ValueError(f"None of the {len(files)} photos can be read, the first is {files[0]}.")
    return attribute_scores(model, pictures).mean(axis=0), broken


def attribute_scores(model: DEDNForZeroShot, pictures: Sequence) -> np.ndarray:
    """B x A, of pictures (PIL)."""
    transform = evaluation_transform(model)
    parts = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    batches = ({"pixel_values": torch.stack([transform(picture) for picture in part])} for part in parts)
    return np.concatenate([scores_of_batch(model, batch) for batch in batches])


@torch.no_grad()
def scores_of_batch(model: DEDNForZeroShot, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Attribute scores, B x A, of `pixel_values` or `features`."""
    inputs = {key: batch[key].to(model.device) for key in ("pixel_values", "features") if key in batch}
    return model.score_attributes(**inputs).float().cpu().numpy()


def reference_scores(
    model: DEDNForZeroShot, data: Dataset, labels: Sequence[int], table: AttributeTable
) -> AttributeTable:
    """Mean attribute scores of up to ten photos of each class, as a table in place of the class attributes.

    Args:
        data: photos that the model was trained on, as batches for evaluation, with `__getitems__`. labels: one index
            into the classes of `table` for each of them.
    """
    classes, draw, names, means = np.asarray(labels), random.Random(0), [], []
    for label in np.unique(classes).tolist():
        rows = np.flatnonzero(classes == label).tolist()
        rows = sorted(draw.sample(rows, min(PER_CLASS, len(rows))))
        names.append(table.class_names[label])
        means.append(scores_of_batch(model, data.__getitems__(rows)).mean(axis=0))
    return AttributeTable(names, model.config.attribute_names, np.stack(means))


def row_with_photos(
    fit: ScoreFit, table: AttributeTable, scores: np.ndarray, photos: int, words: np.ndarray | None
) -> np.ndarray:
    """A row, A, from the mean scores of `photos` photos and, where something is described, from its row `words`."""
    told = np.zeros(table.num_attributes, dtype=bool)
    if words is not None:
        for column in described_columns(table, words):
            told[columns_of(table)[column]] = True
    return fit.combined(scores, photos, fit.values if words is None else words, told)


# What photos show ----------------------------------------------------------------------------------------------------


def shown_traits(fit: ScoreFit, table: AttributeTable, scores: np.ndarray) -> list[str]:
    """The traits in which photos differ most from the average class, in words, the most special first.

    Only traits that the model tells from photos of the classes that it was trained on.
    """
    row = fit.row(scores)
    spreads = fit.table.std(axis=0)
    special = np.abs(row - fit.values) / np.where(spreads > 0, spreads, np.inf)
    special = np.where(fit.correlations >= RELIABLE, special, 0.0)
    sizes = {column: special[places].max() for column, places in columns_of(table).items()}
    ordered = sorted(sizes, key=sizes.__getitem__, reverse=True)
    best = [column for column in ordered if sizes[column] > 0][:SHOWN_TRAITS]
    return [
        f"{spoken(column)}: {in_words(table, row, column)} (average: {in_words(table, fit.values, column)}; "
        f"correlation {fit.correlations[columns_of(table)[column]].max():.2f})"
        for column in best
    ]
