"""Classifies photos by the thousand: in batches, on any number of processes, and to be continued after any stop."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from PIL import ExifTags
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dedn_hf.classify.answers import COLUMNS, SUFFIXES, TOP_K_COLUMNS, Blocks
from dedn_hf.data.photos import Photos, printable, walk, why_unused
from dedn_hf.data.processor import at_full_speed
from dedn_hf.data.transforms import already_batched, evaluation_transform
from dedn_hf.explain.names import find_name, spoken, spoken_class
from dedn_hf.modeling.attribute_table import AttributeTable
from dedn_hf.modeling.inputs import open_encoded, upright_rgb
from dedn_hf.modeling.saving import require_writable

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

BLOCK = 256  # photos; what a stop costs at most, on each process
UNKNOWN = "unknown"


@dataclass
class Summary:
    """What came of a classification.

    Args:
        out: the file. photos: how many. unreadable, unknown: how many of them could not be read, and had too low a
            confidence. skipped: one line for each reason why files were not looked at.
    """

    out: Path
    photos: int = 0
    unreadable: int = 0
    unknown: int = 0
    skipped: Sequence[str] = ()


def classify(
    model: DEDNForZeroShot,
    photos: str | os.PathLike | Iterable[str | os.PathLike],
    out: str | os.PathLike,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    candidates: AttributeTable | None = None,
    min_confidence: float = 0.0,
    top_k: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    excel: bool = False,
    overwrite: bool = False,
) -> Summary:
    """Write one row of answers for every photo; started again after a stop, it goes on.

    Several processes (`accelerate launch -m dedn_hf classify ...`) share the work; the file is the same.

    Args:
        model: in evaluation mode. photos: files, folders (with all folders in them), or several of these.
        out: .csv, .jsonl or .parquet, with the columns `COLUMNS`. classes: names of the classes to choose among;
            default: all of the model. exclude: names to leave out. candidates: more classes, described by attributes.
        min_confidence: 0..1; below it, the answer is 'unknown'. top_k: so many rows a photo, one for each of the best
            classes, in place of one. batch_size: photos at a time. num_workers: processes that decode photos.
        excel: begin a CSV with a byte order mark, so that Excel reads it as UTF-8. overwrite: replace `out`.

    Raises:
        ValueError: an unknown class, fewer than two candidates, another suffix, an option out of range, an unfinished
            file of another command. FileExistsError: `out` is there. FileNotFoundError: no such photo or folder.
        OSError: nothing can be written there.
    """
    out = Path(out).absolute()
    require_usable(out, min_confidence, top_k, overwrite)
    table = candidate_classes(model.attribute_table, classes, exclude, candidates)
    found = list_photos([photos] if isinstance(photos, str | os.PathLike) else photos)
    options = {"min_confidence": min_confidence, "top_k": top_k, "batch_size": batch_size}
    blocks = Blocks(
        out,
        {"model": fingerprint(model), "photos": digest(found.files), "classes": digest(table.class_names), **options},
    )
    state = processes()
    if state.is_main_process:
        blocks.open()
    state.wait_for_everyone()
    count = -(-len(found.files) // BLOCK)
    # By number, and not by place in the list: another process may have written a block before this one looks.
    mine = [block for block in blocks.missing(count) if block % state.num_processes == state.process_index]
    scorer = Scorer(model, table, min_confidence, top_k)
    with at_full_speed(model):
        silent = not state.is_main_process
        for block, rows in answered_blocks(scorer, found.files, mine, batch_size, num_workers, silent):
            blocks.write(block, rows)
    state.wait_for_everyone()
    summary = Summary(out, len(found.files), skipped=found.skipped)
    for row in blocks.rows(count):
        if row.get("rank", 1) == 1:
            summary.unreadable += bool(row["error"])
            summary.unknown += row["answer"] == UNKNOWN
    state.wait_for_everyone()
    if state.is_main_process:
        blocks.finish(count, list(COLUMNS) if top_k is None else TOP_K_COLUMNS, excel)
    state.wait_for_everyone()
    return summary


def processes() -> PartialState:
    """The processes that share the work. Where there are CPUs only, accelerate has to be told so."""
    return PartialState(cpu=not torch.accelerator.is_available())


def require_usable(out: Path, min_confidence: float, top_k: int | None, overwrite: bool) -> None:
    """Raise ValueError or FileExistsError before the work, for what would be refused after it."""
    require_writable(out, SUFFIXES)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already. Give another name, or --overwrite.")
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence is {min_confidence}; it lies between 0 and 1.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be 1 or more.")


# What to look at, what to choose among ------------------------------------------------------------------------------


@dataclass
class Found:
    """files: absolute paths, in order, each once. skipped: one line for each reason why files are not among them."""

    files: list[str]
    skipped: list[str]


def list_photos(sources: Iterable[str | os.PathLike]) -> Found:
    """The photos of files and folders, in the order given, those of a folder sorted. Raises FileNotFoundError."""
    files, unused = {}, Photos("")
    for source in map(os.path.abspath, map(os.fspath, sources)):
        if os.path.isdir(source):
            for path, parts in sorted(walk(source, unused)):
                if reason := why_unused(path):
                    unused.skipped[reason].append(printable("/".join(parts)))
                else:
                    files[path] = None
        elif os.path.isfile(source):
            files[source] = None
        else:
            raise FileNotFoundError(f"There is no file or folder {source}.")
    if not files:
        raise FileNotFoundError(" ".join(["There are no photos.", *unused.describe_skipped()]))
    return Found(list(files), unused.describe_skipped())


def candidate_classes(
    table: AttributeTable, classes: Sequence[str] | None, exclude: Sequence[str], candidates: AttributeTable | None
) -> AttributeTable:
    """The classes to choose among: those of the model that are named, and those that are described.

    Raises ValueError for an unknown name, a described class that the model knows, or fewer than two candidates.
    """
    names = table.class_names

    def known(name: str) -> str:
        return names[find_name(name, names, spoken_class, "class")]

    left_out = set(map(known, exclude))
    chosen = [
        name for name in (names if classes is None else dict.fromkeys(map(known, classes))) if name not in left_out
    ]
    if candidates is not None:
        table = joined(table, candidates)
        chosen += candidates.class_names
    if len(chosen) < 2:
        raise ValueError(f"There is {len(chosen)} class to choose among; give two at least.")
    return table.select(chosen)


def joined(table: AttributeTable, more: AttributeTable) -> AttributeTable:
    """Both tables' classes, with the first one's attributes; those of `more` count as unseen."""
    twice = sorted(set(table.class_names) & set(more.class_names))
    if twice:
        raise ValueError(f"The model knows {twice[0]!r} already. Rename the described class, or leave it out.")
    more = more.select_attributes(table.attribute_names)
    return table.replace(
        class_names=table.class_names + more.class_names,
        class_attributes=[*table.class_attributes, *more.class_attributes],
        roles=table.roles + ["unseen"] * len(more),
    )


def fingerprint(model: DEDNForZeroShot) -> str:
    """16 hexadecimal digits that change with the weights and the configuration."""
    found = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
    return found.hexdigest()[:16]


def digest(texts: Iterable[str]) -> str:
    """16 hexadecimal digits of a list of texts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


# Decoding -----------------------------------------------------------------------------------------------------------


class PhotoFiles(Dataset):
    """Batches of photos from files: their pixels, what their cameras wrote, and why some cannot be read."""

    def __init__(self, files: Sequence[str], transform: Any) -> None:
        self.files, self.transform = files, transform

    def __getitems__(self, indices: list[int]) -> tuple[list[dict], torch.Tensor | None]:
        """One row for each photo; the pixels of those without an error, B x 3 x H x W, or None where all have one."""
        rows, pixels = [], []
        for index in indices:
            row = {"file": printable(self.files[index]), "taken": None, "camera": None, "error": None}
            try:
                with open_encoded(self.files[index]) as image:
                    row.update(said_by_camera(image))
                    pixels.append(self.transform(upright_rgb(image)))
            except Exception as error:  # noqa: BLE001 - damaged files make PIL's decoders raise nearly anything
                row["error"] = f"{type(error).__name__}: {error}"
            rows.append(row)
        return rows, torch.stack(pixels) if pixels else None


def said_by_camera(image: Any) -> dict[str, str | None]:
    """'taken' and 'camera' from the EXIF data, None where they say nothing, or nothing that can be read."""
    try:
        exif = image.getexif()
        taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        camera = [exif.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
        texts = [str(part).strip("\0 ") for part in (taken or "", " ".join(str(part) for part in camera if part))]
        return {
            key: text if text.isprintable() and text else None
            for key, text in zip(("taken", "camera"), texts, strict=True)
        }
    except Exception:  # noqa: BLE001 - damaged EXIF makes PIL raise nearly anything
        return {}


def answered_blocks(
    scorer: Scorer, files: Sequence[str], blocks: Sequence[int], batch_size: int, num_workers: int, silent: bool
) -> Iterator[tuple[int, list[dict]]]:
    """The rows of each block, in order."""
    spans = {block: range(block * BLOCK, min((block + 1) * BLOCK, len(files))) for block in blocks}
    batches = [list(span[i : i + batch_size]) for span in spans.values() for i in range(0, len(span), batch_size)]
    photos = PhotoFiles(files, evaluation_transform(scorer.model))
    loader = DataLoader(photos, batch_sampler=batches, num_workers=num_workers, collate_fn=already_batched)
    waiting = iter(loader)
    with tqdm(total=sum(map(len, spans.values())), unit=" photos", desc="classifying", disable=silent) as bar:
        for block, span in spans.items():
            rows = []
            for _ in range(0, len(span), batch_size):
                described, pixels = next(waiting)
                rows += scorer.rows(described, pixels)
                bar.update(len(described))
            yield block, rows


# Scores -------------------------------------------------------------------------------------------------------------


class Scorer:
    """Turns pixels into rows of answers.

    Args:
        table: the K' classes to choose among. min_confidence, top_k: as of `classify`.
    """

    def __init__(
        self, model: DEDNForZeroShot, table: AttributeTable, min_confidence: float, top_k: int | None
    ) -> None:
        self.model, self.table = model.eval(), table
        self.min_confidence, self.top_k = min_confidence, top_k
        attributes = torch.from_numpy(table.class_attributes).to(model.device, model.dtype)
        self.directions = model.normalized_class_attributes(attributes)
        self.attribute_names = [spoken(name) for name in table.attribute_names]

    @torch.no_grad()
    def rows(self, described: Sequence[dict], pixels: torch.Tensor | None) -> list[dict]:
        """The rows of one batch: those of photos with an error have no answer."""
        answers = iter([] if pixels is None else self._answers(pixels.to(self.model.device)))
        found = []
        for about in described:
            if about["error"]:
                empty = dict.fromkeys(COLUMNS if self.top_k is None else TOP_K_COLUMNS)
                found.append({**empty, **about})
            else:
                found += [{**answer, **about} for answer in next(answers)]
        order = list(COLUMNS) if self.top_k is None else TOP_K_COLUMNS
        return [{column: row.get(column) for column in order} for row in found]

    def _answers(self, pixels: torch.Tensor) -> Iterator[list[dict]]:
        scores = self.model.score_attributes(pixel_values=pixels)
        confidences = self.model.probabilities(self.model.score_classes(scores, self.table))
        values, labels = confidences.sort(dim=1, descending=True, stable=True)
        for image, (value, label) in enumerate(zip(values.tolist(), labels.tolist(), strict=True)):
            if self.top_k is None:
                yield [self._one_row(value, label, scores[image])]
            else:
                yield [self._ranked_row(rank, value, label) for rank in range(min(self.top_k, len(label)))]

    def _one_row(self, value: list[float], label: list[int], scores: torch.Tensor) -> dict:
        names, best = self.table.class_names, label[0]
        sure = value[0] >= self.min_confidence
        return {
            "answer": names[best] if sure else UNKNOWN,
            "confidence": round(value[0], 6),
            "guess": None if sure else names[best],
            "second": names[label[1]],
            "second_confidence": round(value[1], 6),
            "margin": round(value[0] - value[1], 6),
            "learned_from": self._source(best),
            "attributes": self._telling(scores, best, label[1]),
        }

    def _ranked_row(self, rank: int, value: list[float], label: list[int]) -> dict:
        name, confidence = self.table.class_names[label[rank]], round(value[rank], 6)
        answer = UNKNOWN if rank == 0 and confidence < self.min_confidence else name
        return {
            "rank": rank + 1,
            "answer": answer,
            "confidence": confidence,
            "learned_from": self._source(label[rank]),
        }

    def _source(self, label: int) -> str:
        return "photos" if self.table.seen[label] else "description"

    def _telling(self, scores: torch.Tensor, best: int, second: int, count: int = 3) -> str:
        """The attributes that add most to the lead of the best class over the second."""
        adds = scores * (self.directions[best] - self.directions[second])
        values, attributes = adds.topk(min(count, len(adds)))
        return "; ".join(
            self.attribute_names[a] for a, v in zip(attributes.tolist(), values.tolist(), strict=True) if v > 0
        )
