"""Classifies photos by the thousand: in batches, on any number of processes, and to be continued after any stop."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from PIL import ExifTags
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dedn_hf.classify.answers import SUFFIXES, Blocks, columns_of, write_rows
from dedn_hf.classify.collection import Collection, collect
from dedn_hf.classify.corrected import Corrected, as_facts, corrections_of
from dedn_hf.classify.page import thumbnail, write_page
from dedn_hf.classify.rollup import Groups, Rollup
from dedn_hf.classify.scoring import Scorer, candidate_classes
from dedn_hf.data.cpu import available_cores
from dedn_hf.data.processor import at_full_speed, dtype_on
from dedn_hf.data.transforms import already_batched, evaluation_transform
from dedn_hf.modeling.inputs import open_encoded, upright_rgb
from dedn_hf.modeling.pipeline_dedn import NONE_OF_THESE, UNKNOWN
from dedn_hf.modeling.saving import require_writable, whole_file

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

logger = logging.getLogger(__name__)

BLOCK = 256  # photos; what a stop costs at most, on each process


@dataclass
class Summary:
    """What came of a classification.

    Args:
        out: the file. photos: how many. unreadable, unknown, groups, corrected: how many of them could not be read,
            have no answer, have a group as their answer, and have an answer that rests on corrections. none_of_these:
            how many of the unknown show something else.
        skipped: one line for each reason why files were not looked at. dtype: in which the backbone has computed.
    """

    out: Path
    photos: int = 0
    unreadable: int = 0
    unknown: int = 0
    groups: int = 0
    corrected: int = 0
    none_of_these: int = 0
    skipped: Sequence[str] = ()
    dtype: str = "float32"

    def __str__(self) -> str:
        none = f" ({self.none_of_these} show none of these classes)" if self.none_of_these else ""
        unknown = f", {self.unknown} of them unknown{none}" if self.unknown else ""
        groups = f", {self.groups} answered by a group" if self.groups else ""
        corrected = f", {self.corrected} with corrections" if self.corrected else ""
        broken = f"; {self.unreadable} could not be read" if self.unreadable else ""
        computed = "" if self.dtype == "float32" else f"; computed in {self.dtype}"
        return f"{self.photos} photo{'s' * (self.photos != 1)}{unknown}{groups}{corrected}{broken}{computed}"


def classify(
    model: DEDNForZeroShot,
    photos: str | os.PathLike | Iterable[str | os.PathLike],
    out: str | os.PathLike,
    html: str | os.PathLike | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    candidates: AttributeTable | None = None,
    min_confidence: float | None = None,
    precision: float | None = None,
    groups: Groups | None = None,
    file_column: str | None = None,
    top_k: int | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    dtype: str = "float32",
    corrections: str | os.PathLike | None = None,
    label_column: bool = False,
    excel: bool = False,
    overwrite: bool = False,
) -> Summary:
    """Write one row of answers for every photo; started again after a stop, it goes on.

    Several processes (`accelerate launch -m dedn_hf classify ...`) share the work; the file is the same.

    Args:
        model: in evaluation mode. photos: files, folders (with all folders in them), lists of files, data sets of
            images, or several of these, see `collect`. file_column: of lists and data sets, where it is not clear.
        out: .csv, .jsonl or .parquet, with the columns `COLUMNS`. classes: names of the classes to choose among;
            default: all of the model. exclude: names to leave out. candidates: more classes, described by attributes.
        min_confidence: 0..1; below it, the answer is 'unknown', as it is for a picture of none of the classes, where
            the model can tell. precision: 0..1, in its place: the confidence is the one that was chosen for this
            precision in training. groups: level -> class -> group, see `read_groups`: the
            answer is a group where no class is sure enough, but the sum over the classes of the group is.
        top_k: so many rows a photo, one for each of the best classes, in place of one.
        batch_size: photos at a time. num_workers: processes that decode photos; default: what suits the device.
        dtype: in which the backbone computes: 'float32', 'bfloat16', which is faster where the device has instructions
            for it and moves probabilities (by 0.007 on average in docs/howto/classify.md), or 'auto', bfloat16 there.
        corrections: a file that `dedn explain --save` wrote: answers of these photos rest on what was corrected.
        label_column: with an empty column 'label' for a person to fill, see `dedn train --labels`.
        html: a page to look through, with a thumbnail of each photo, the least sure first.
        excel: begin a CSV with a byte order mark, so that Excel reads it as UTF-8. overwrite: replace `out`.

    Raises:
        ValueError: an unknown class, fewer than two candidates, another suffix, an option out of range, a precision
            that the model has no confidence for, corrections that do not fit, an unfinished file of another command.
        FileExistsError: `out` is there. BlockingIOError: another process is writing it.
        FileNotFoundError: no such photo or folder. OSError: nothing can be written there.
    """
    out, html = Path(out).absolute(), None if html is None else Path(html).absolute()
    threshold = model.config.confidence_threshold(min_confidence, precision)
    require_usable(out, html, top_k, groups, threshold)
    table = candidate_classes(model.attribute_table, classes, exclude, candidates)
    found = collect([photos] if isinstance(photos, str | os.PathLike) else photos, file_column)
    options = {"min_confidence": threshold, "groups": groups, "top_k": top_k, "html": html is not None}
    dtype = dtype_on(model.device, dtype)
    corrected, unused = ({}, []) if corrections is None else corrections_of(corrections, found, table)
    facts = {
        "corrections": as_facts(corrected),
        "model": fingerprint(model),
        "photos": found.digest(),
        "classes": table.class_names,
    }
    facts |= {} if dtype == "float32" else {"dtype": dtype}  # else an unfinished file of before would not be known
    blocks = Blocks(out, {**facts, **options, "batch_size": batch_size})
    require_free(out, html, overwrite, goes_on=blocks.folder.exists())
    state = processes()
    if state.is_main_process:
        for line in unused:
            logger.warning(line)
    rollup = Rollup(groups, table.class_names, threshold) if groups else None
    scorer = Scorer(model, table, threshold, rollup, top_k, dtype)
    batches = PhotoBatches(found, evaluation_transform(model), html is not None, corrected)
    with blocks.in_use() if state.is_main_process else nullcontext():
        state.wait_for_everyone()
        with at_full_speed(model):
            answer_missing(blocks, scorer, batches, state, batch_size, num_workers)
        state.wait_for_everyone()
        count = blocks_of(found)
        summary = replace(summarize(out, blocks.rows(count), found), dtype=dtype)
        state.wait_for_everyone()
        if state.is_main_process:
            if html is not None:
                with whole_file(html) as unfinished:
                    write_page(unfinished, blocks.rows(count), out.name, str(summary))
            with whole_file(out) as unfinished:
                write_rows(unfinished, blocks.rows(count), columns_of(top_k, label_column), excel)
            blocks.remove()
        state.wait_for_everyone()
    return summary


def blocks_of(photos: Sequence) -> int:
    """How many blocks so many photos make."""
    return -(-len(photos) // BLOCK)


def answer_missing(
    blocks: Blocks,
    scorer: Scorer,
    photos: PhotoBatches,
    state: PartialState,
    batch_size: int,
    num_workers: int | None,
) -> None:
    """Write the blocks that are not there yet, those of this process."""
    # By number, and not by place in the list: another process may have written a block before this one looks.
    missing = blocks.missing(blocks_of(photos))
    mine = [block for block in missing if block % state.num_processes == state.process_index]
    for block, rows in answered_blocks(scorer, photos, mine, batch_size, num_workers, not state.is_main_process):
        blocks.write(block, rows)


def summarize(out: Path, rows: Iterable[dict], photos: Collection) -> Summary:
    """Count what came out."""
    summary = Summary(out, len(photos), skipped=photos.skipped)
    for row in rows:
        summary.unreadable += bool(row["error"])
        summary.unknown += row["answer"] == UNKNOWN
        summary.corrected += bool(row["corrected"]) and row.get("rank", 1) == 1
        summary.none_of_these += row["reason"] == NONE_OF_THESE
        summary.groups += row.get("level") not in (None, "class")
    return summary


def processes() -> PartialState:
    """The processes that share the work. Where there are CPUs only, accelerate has to be told so."""
    return PartialState(cpu=not torch.accelerator.is_available())


def require_usable(
    out: Path, html: Path | None, top_k: int | None, groups: Groups | None, threshold: float | None
) -> None:
    """Raise ValueError before the work, for what would be refused after it."""
    require_writable(out, SUFFIXES)
    if html is not None:
        require_writable(html, (".html",))
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be 1 or more.")
    if groups and top_k is not None:
        raise ValueError("top_k gives classes in each row, and groups are answers in their place. Leave out one.")
    if groups and not threshold:
        raise ValueError(
            "A group is the answer where no class is sure enough. Give precision or min_confidence (--precision, "
            "--min-confidence)."
        )


def require_free(out: Path, html: Path | None, overwrite: bool, goes_on: bool) -> None:
    """Raise FileExistsError for a file that is there; but the page may be of a run that now `goes_on`."""
    for path in (out, None if goes_on else html):
        if path is not None and path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already. Give another name, or --overwrite.")


def suitable_workers(model: DEDNForZeroShot, photos: int) -> int:
    """Processes that decode photos: none on CPUs, which the network keeps busy, and for photos that are few."""
    return 0 if model.device.type == "cpu" or photos <= BLOCK else min(4, available_cores())


def fingerprint(model: DEDNForZeroShot) -> str:
    """16 hexadecimal digits that change with the weights and the configuration."""
    found = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
    return found.hexdigest()[:16]


# Decoding -----------------------------------------------------------------------------------------------------------


class PhotoBatches(Dataset):
    """Batches of photos: their pixels, what their cameras wrote, and why some cannot be read.

    Args:
        corrected: place of a photo -> its corrections, which come with it.
    """

    def __init__(
        self,
        photos: Collection,
        transform: Any,
        thumbnails: bool = False,
        corrected: Mapping[int, Corrected] | None = None,
    ) -> None:
        self.photos, self.transform, self.thumbnails = photos, transform, thumbnails
        self.corrected = corrected or {}

    def __len__(self) -> int:
        return len(self.photos)

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[dict], torch.Tensor | None]:
        """One row for each photo; the pixels of those without an error, B x 3 x H x W, or None where all have one."""
        rows, pixels = [], []
        for index in indices:
            name, source = self.photos[index]
            row: dict[str, Any] = {"file": name, "taken": None, "camera": None, "error": None}
            try:
                if source is None:
                    raise ValueError("There is no image in this row.")
                with open_encoded(source) as image:
                    row.update(said_by_camera(image))
                    picture = upright_rgb(image)
                if self.thumbnails:
                    row["thumbnail"] = thumbnail(picture)
                pixels.append(self.transform(picture))
                if index in self.corrected:
                    row["corrected"] = self.corrected[index]
            except Exception as error:  # noqa: BLE001 - damaged files make PIL's decoders raise nearly anything
                row["error"] = re.sub(" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")  # the same every time
            rows.append(row)
        return rows, torch.stack(pixels) if pixels else None


def said_by_camera(image: Any) -> dict[str, str | None]:
    """'taken' and 'camera' from the EXIF data, None where they say nothing, or nothing that can be read."""
    try:
        exif = image.getexif()
        taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        camera = [exif.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
        taken = re.sub(r"^(\d{4}):(\d\d):(\d\d)(?= )", r"\1-\2-\3", str(taken or ""))  # as spreadsheets know dates
        texts = [part.strip("\0 ") for part in (taken, " ".join(str(part) for part in camera if part))]
        return {
            key: text if text.isprintable() and text else None
            for key, text in zip(("taken", "camera"), texts, strict=True)
        }
    except Exception:  # noqa: BLE001 - damaged EXIF makes PIL raise nearly anything
        return {}


def answered_blocks(
    scorer: Scorer, photos: PhotoBatches, blocks: Sequence[int], batch_size: int, num_workers: int | None, silent: bool
) -> Iterator[tuple[int, list[dict]]]:
    """The rows of each block, in order."""
    spans = [range(block * BLOCK, min((block + 1) * BLOCK, len(photos))) for block in blocks]
    batches = (span[i : i + batch_size] for span in spans for i in range(0, len(span), batch_size))
    if num_workers is None:
        num_workers = suitable_workers(scorer.model, sum(map(len, spans)))
    loader = DataLoader(photos, batch_sampler=batches, num_workers=num_workers, collate_fn=already_batched)
    waiting = iter(loader)
    with tqdm(total=sum(map(len, spans)), unit=" photos", desc="classifying", disable=silent) as bar:
        for block, span in zip(blocks, spans, strict=True):
            rows = []
            for _ in range(0, len(span), batch_size):
                described, pixels = next(waiting)
                rows += scorer.rows(described, pixels)
                bar.update(len(described))
            yield block, rows
