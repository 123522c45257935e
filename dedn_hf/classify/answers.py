"""Answers as files: CSV, JSON Lines or Parquet, put together from blocks that are whole or not there.

A block holds the answers about so many photos that follow each other. A classification that was stopped at any moment
goes on with the blocks that are missing, and the file gets its name when it is whole.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dedn_hf.modeling.saving import locked, whole_file

COLUMNS = {  # name -> what it says
    "file": "the photo",
    "answer": "its class; a group of classes, or 'unknown', where no class is sure enough; empty where the photo "
    "cannot be read",
    "level": "'class', or the column that the group stands in",
    "confidence": "0..1, of the answer; where it is 'unknown', of the best class",
    "guess": "the best class where it is not the answer",
    "reason": "why the answer is 'unknown': 'not sure', or 'none of these', a picture of something else",
    "second": "the second best class",
    "second_confidence": "0..1",
    "margin": "confidence of the best class minus that of the second",
    "learned_from": "'photos' or 'description': what the model knows the best class from",
    "attributes": "what speaks most for the best class and against the second",
    "corrected": "what a person corrected, and the answer rests on",
    "taken": "date and time by the clock of the camera",
    "camera": "make and model",
    "error": "why the photo cannot be read",
}
TOP_K_COLUMNS = (
    "file",
    "rank",
    "answer",
    "confidence",
    "guess",
    "reason",
    "learned_from",
    "corrected",
    "taken",
    "camera",
    "error",
)
LABEL_COLUMN = "label"  # empty, for a person to fill, after the answer
SUFFIXES = (".csv", ".jsonl", ".parquet")
PLAN_FILE, LOCK_FILE = "plan.json", "lock"


def columns_of(top_k: int | None = None, labels: bool = False) -> list[str]:
    """The columns of a file of answers. labels: with an empty one for a person to fill."""
    columns = list(COLUMNS if top_k is None else TOP_K_COLUMNS)
    if labels:
        columns.insert(columns.index("answer") + 1, LABEL_COLUMN)
    return columns


class Blocks:
    """The unfinished answers beside the file that they will become.

    Args:
        out: the file. plan: what the answers depend on; blocks of another plan are refused.
    """

    def __init__(self, out: Path, plan: dict) -> None:
        self.out, self.plan = out, plan
        self.folder = out.with_name(f"{out.name}.unfinished")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make the folder, or find it; within `with`, no other process uses it.

        Raises BlockingIOError where another does, ValueError where it holds the answers to another question.
        """
        self.folder.mkdir(exist_ok=True)
        busy = f"Another process is writing {self.out}. Wait for its end, or give another --out."
        with locked(self.folder / LOCK_FILE, busy):
            self._require_same_plan()
            yield

    def _require_same_plan(self) -> None:
        path = self.folder / PLAN_FILE
        if path.is_file():
            there = json.loads(path.read_text(encoding="utf-8"))
            different = sorted(key for key in {**there, **self.plan} if there.get(key) != self.plan.get(key))
            if different:
                raise ValueError(
                    f"{self.folder} was begun with other {', '.join(different)}. Give the same command as then, "
                    "another --out, or delete that folder."
                )
        else:
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps(self.plan), encoding="utf-8")

    def path(self, block: int) -> Path:
        """Where a block is."""
        return self.folder / f"{block:08d}.jsonl"

    def missing(self, count: int) -> list[int]:
        """Which of the blocks 0..count-1 are not there yet."""
        return [block for block in range(count) if not self.path(block).is_file()]

    def write(self, block: int, rows: Sequence[dict]) -> None:
        """Write a block, whole or not at all."""
        with whole_file(self.path(block)) as unfinished:
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def rows(self, count: int) -> Iterator[dict]:
        """All rows, in order."""
        for block in range(count):
            with open(self.path(block), encoding="utf-8") as file:
                yield from map(json.loads, file)

    def remove(self) -> None:
        """Remove them, when the file is there."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_rows(path: Path, rows: Iterator[dict], columns: Sequence[str], excel: bool = False) -> None:
    """Write rows in the format of the file's suffix, one at a time. excel: begin a CSV with a byte order mark."""
    if path.suffix == ".parquet":
        write_parquet(path, rows, columns)
    elif path.suffix == ".jsonl":
        with open(path, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({column: row.get(column) for column in columns}, ensure_ascii=False) + "\n")
    else:
        with open(path, "w", newline="", encoding="utf-8-sig" if excel else "utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def write_parquet(path: Path, rows: Iterator[dict], columns: Sequence[str], size: int = 10_000) -> None:
    """Write a Parquet file, `size` rows at a time."""
    import pyarrow
    from pyarrow import parquet

    numbers = {"confidence": pyarrow.float64(), "second_confidence": pyarrow.float64(), "margin": pyarrow.float64()}
    numbers["rank"] = pyarrow.int32()
    schema = pyarrow.schema([(name, numbers.get(name, pyarrow.string())) for name in columns])
    with parquet.ParquetWriter(path, schema) as writer:
        waiting: list[dict] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) == size:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                waiting = []
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
