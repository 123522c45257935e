"""From pixels to rows of answers, among the classes that were asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from dedn_hf.classify.answers import COLUMNS, TOP_K_COLUMNS
from dedn_hf.classify.corrected import Corrected
from dedn_hf.classify.rollup import Rollup
from dedn_hf.data.catalog import abbreviate
from dedn_hf.data.processor import computing_in
from dedn_hf.explain.evidence import contributions_of
from dedn_hf.explain.names import find_name, spoken, spoken_class
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.pipeline_dedn import NONE_OF_THESE, UNKNOWN, why_unknown

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

logger = logging.getLogger(__name__)

TELLING = 3  # attributes in an answer


def candidate_classes(
    table: AttributeTable, classes: Sequence[str] | None, exclude: Sequence[str], candidates: AttributeTable | None
) -> AttributeTable:
    """The classes to choose among: those of the model that are named, and those that are described.

    A described class that the model knows is a candidate, too, and stays as the model knows it.

    Raises ValueError for an unknown name, or fewer than two candidates.
    """
    names = table.class_names

    def known(name: str) -> str:
        return names[find_name(name, names, spoken_class, "class")]

    left_out = set(map(known, exclude))
    chosen = [
        name for name in (names if classes is None else dict.fromkeys(map(known, classes))) if name not in left_out
    ]
    if candidates is not None:
        there = {name: table.known_name(name) for name in candidates.class_names}
        new = [name for name, known_as in there.items() if known_as is None]
        kept = [known_as for known_as in there.values() if known_as is not None]
        if kept:
            logger.warning(
                "%d of the candidates are classes of the model, and stay as it knows them: %s. dedn describe changes "
                "them.",
                *(len(kept), abbreviate(kept)),
            )
        table = joined(table, candidates.select(new)) if new else table
        chosen = [name for name in dict.fromkeys([*chosen, *kept]) if name not in left_out] + new
    if len(chosen) < 2:
        raise ValueError(f"There is {len(chosen)} class to choose among; give two at least.")
    return table.select(chosen)


def joined(table: AttributeTable, more: AttributeTable) -> AttributeTable:
    """Both tables' classes, with the first one's attributes; those of `more` count as unseen."""
    more = more.select_attributes(table.attribute_names)
    return table.replace(
        class_names=table.class_names + more.class_names,
        class_attributes=[*table.class_attributes, *more.class_attributes],
        roles=table.roles + ["unseen"] * len(more),
    )


class Scorer:
    """Turns pixels into rows of answers.

    Args:
        table: the K' classes to choose among. threshold: the confidence below which no class is the answer; None:
            every photo gets an answer. rollup: of such a photo to a group of classes, if any. top_k: rows a photo.
        dtype: 'float32' or 'bfloat16', in which the backbone computes.
    """

    def __init__(
        self,
        model: DEDNForZeroShot,
        table: AttributeTable,
        threshold: float | None = None,
        rollup: Rollup | None = None,
        top_k: int | None = None,
        dtype: str = "float32",
    ) -> None:
        self.model, self.table, self.dtype = model.eval(), table, dtype
        self.threshold, self.rollup, self.top_k = threshold, rollup, top_k
        attributes = torch.from_numpy(table.class_attributes).to(model.device, model.dtype)
        self.directions = model.normalized_class_attributes(attributes)
        self.attribute_names = [spoken(name) for name in table.attribute_names]

    @torch.no_grad()
    def rows(self, described: Sequence[dict], pixels: torch.Tensor | None) -> list[dict]:
        """The rows of one batch: what is said of each photo, with the answers where it has no error."""
        corrected = [about.get("corrected") for about in described if not about["error"]]
        answers = iter([] if pixels is None else self._answers(pixels.to(self.model.device), corrected))
        columns = COLUMNS if self.top_k is None else TOP_K_COLUMNS
        empty, found = dict.fromkeys(columns), []
        for about in described:
            for rank, answer in enumerate([{}] if about["error"] else next(answers)):
                found.append({**empty, **answer, **about})
                if "corrected" in about:
                    found[-1]["corrected"] = str(about["corrected"])
                if rank:
                    found[-1].pop("thumbnail", None)  # once is enough
        return found

    def _answers(self, pixels: torch.Tensor, corrected: Sequence[Corrected | None]) -> Iterator[list[dict]]:
        with computing_in(self.dtype, pixels.device):
            features = self.model.feature_map(pixels.contiguous(memory_format=torch.channels_last), None)
        scores = self.model.score_attributes(features=features.to(self.model.dtype))
        added = {image: self._added(scores[image], each) for image, each in enumerate(corrected) if each}
        for image, columns in added.items():
            scores[image, list(columns)] = 0  # the picture no longer has a say in these
        logits = self.model.score_classes(scores, self.table)
        for image, columns in added.items():
            logits[image] += sum(columns.values())
        probabilities = self.model.probabilities(logits)
        none = self.model.config.shows_none(logits.amax(dim=1), scores.norm(dim=1))
        none[list(added)] = False  # who corrected it has seen one of the classes
        values, labels = probabilities.sort(dim=1, descending=True, stable=True)
        telling = self._telling(scores, labels, added)
        probabilities, values, labels = probabilities.cpu(), values.tolist(), labels.tolist()
        for image, (value, label, shows_none) in enumerate(zip(values, labels, none.tolist(), strict=True)):
            reason = why_unknown(value[0], shows_none, self.threshold)
            if self.top_k is not None:
                ranks = range(min(self.top_k, len(label)))
                yield [self._ranked_row(rank, value, label, None if rank else reason) for rank in ranks]
                continue
            names = self.table.class_names
            yield [
                {
                    **self._answer(value[0], names[label[0]], probabilities[image], reason),
                    "second": names[label[1]],
                    "second_confidence": round(value[1], 6),
                    "margin": round(value[0] - value[1], 6),
                    "learned_from": self._source(label[0]),
                    "attributes": telling[image],
                }
            ]

    def _answer(self, value: float, best: str, probabilities: torch.Tensor, reason: str | None) -> dict:
        """Answer, level and confidence: the best class, or a group that is sure enough, or 'unknown' for a reason."""
        if reason is None:
            return {"answer": best, "level": "class", "confidence": round(value, 6)}
        if self.rollup and reason != NONE_OF_THESE and (group := self.rollup.answer(probabilities)):
            answer, level, confidence = group
            return {"answer": answer, "level": level, "confidence": round(confidence, 6), "guess": best}
        return {"answer": UNKNOWN, "confidence": round(value, 6), "guess": best, "reason": reason}

    def _ranked_row(self, rank: int, value: list[float], label: list[int], reason: str | None) -> dict:
        name = self.table.class_names[label[rank]]
        return {
            "rank": rank + 1,
            "answer": UNKNOWN if reason else name,
            "confidence": round(value[rank], 6),
            "guess": name if reason else None,
            "reason": reason,
            "learned_from": self._source(label[rank]),
        }

    def _source(self, label: int) -> str:
        return "photos" if self.table.seen[label] else "description"

    def _added(self, scores: torch.Tensor, corrected: Corrected) -> dict[int, torch.Tensor]:
        """Corrected attribute -> what it adds to the logit of every class, K', as in `dedn explain`."""
        own, directions = (tensor.double().cpu().numpy() for tensor in (scores, self.directions))
        columns = contributions_of(corrected.values, own, directions, self.table.class_attributes)
        return {a: torch.from_numpy(column).to(scores) for a, column in columns.items()}

    def _telling(
        self, scores: torch.Tensor, labels: torch.Tensor, added: Mapping[int, Mapping[int, torch.Tensor]]
    ) -> list[str]:
        """The attributes that add most to the lead of the best class over the second, of each photo."""
        adds = scores * (self.directions[labels[:, 0]] - self.directions[labels[:, 1]])
        for image, columns in added.items():
            for a, column in columns.items():
                adds[image, a] = column[labels[image, 0]] - column[labels[image, 1]]
        values, attributes = adds.topk(min(TELLING, adds.shape[1]), dim=1)
        return [
            "; ".join(self.attribute_names[a] for a, v in zip(of_photo, added, strict=True) if v > 0)
            for of_photo, added in zip(attributes.tolist(), values.tolist(), strict=True)
        ]
