"""dedn classify: a table of answers about photos."""

from __future__ import annotations

import argparse
from typing import Any

BROKEN = 3  # exit status where a photo could not be read


def add_classify(commands: argparse._SubParsersAction) -> None:
    """dedn classify: a table of answers about photos."""
    parser = commands.add_parser(
        "classify",
        help="write a table of answers about a folder of photos",
        description="Writes one row for each photo: the class, how sure the model is, the second best class, and the "
        "attributes that decided. After a stop, the same command goes on. Several processes share the work: "
        "accelerate launch -m dedn_hf classify ... Code that lies beside the weights is not run.",
        epilog="Exit status 0: every photo was read. 2: nothing was done, the message says why. 3: some photos could "
        "not be read, and have a row that says why. 130: stopped by Ctrl-C; the same command goes on.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument(
        "photos",
        metavar="PHOTOS",
        nargs="+",
        help="photos; folders, with the folders in them; lists of files "
        "(.csv, .tsv, .txt, .jsonl, .parquet); data sets of images, folders or names on the Hub",
    )
    parser.add_argument(
        "--file-column",
        metavar="NAME",
        help="column of a list with the files, or of a data set with the images (default: found out)",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help=".csv, .jsonl or .parquet")
    parser.add_argument(
        "--html", metavar="FILE", help="also write a page to look through: thumbnails, the least sure answers first"
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="choose among these (default: all of the model)")
    parser.add_argument("--exclude", nargs="+", metavar="NAME", help="leave these classes out")
    parser.add_argument("--candidates", metavar="FILE", help="more classes, in a table of traits as the model's own")
    add_confidence(parser)
    parser.add_argument(
        "--rollup",
        metavar="FILE",
        help="where no class is sure enough, but a group of classes is, answer with the group: a table with a row a "
        "class and columns such as group, genus or family (the table of traits, if it has them)",
    )
    parser.add_argument(
        "--levels", nargs="+", metavar="COLUMN", help="columns of --rollup with the groups, the finest first"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="N rows a photo, one for each of the best classes")
    parser.add_argument("--batch-size", type=int, metavar="N", help="photos at a time (default 32)")
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes that decode photos (default: none on a CPU, up to 4 beside a GPU)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        help="in which the backbone computes: float32 (the default), bfloat16, faster where the processor has "
        "instructions for it, but it moves probabilities a little, or auto: bfloat16 on such processors",
    )
    parser.add_argument(
        "--corrections",
        metavar="FILE",
        help="what dedn explain --save kept: answers of these photos rest on what a person corrected",
    )
    parser.add_argument(
        "--label-column",
        action="store_true",
        help="add an empty column 'label' for a person to fill, with a class, or yes where the answer is right: dedn "
        "train --labels learns from it",
    )
    parser.add_argument("--excel", action="store_true", help="begin a CSV with the mark by which Excel knows UTF-8")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    parser.set_defaults(run=run_classify)


def add_confidence(parser: argparse.ArgumentParser) -> None:
    """The two ways to say below which confidence an answer is 'unknown'."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="how often answers should be right, 0..1, such as 0.95: less sure photos, and those of something else, "
        "are 'unknown'; training has estimated which confidence this takes",
    )
    either.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help="answer 'unknown' below this confidence, 0..1, and where the photo shows none of the classes; 0: only "
        "there",
    )


def run_classify(
    model: str,
    photos: list[str],
    out: str,
    candidates: str | None = None,
    rollup: str | None = None,
    levels: list[str] | None = None,
    **given: Any,
) -> int:
    """Classify and say what came out. Raises as `dedn_hf.classify.classify`."""
    from dedn_hf.classify import read_groups
    from dedn_hf.classify.classifier import classify, processes
    from dedn_hf.publish import load_model

    state, loaded = processes(), load_model(model)
    if candidates is not None:
        from dedn_hf.traits import read_traits

        given["candidates"] = read_traits(candidates, like=loaded)
    if levels and rollup is None:
        raise ValueError("--levels names columns of --rollup; give that file, too.")
    if rollup is not None:
        own, more = loaded.attribute_table, getattr(given.get("candidates"), "class_names", [])
        names = own.class_names + [name for name in more if own.known_name(name) is None]
        given["groups"] = read_groups(rollup, names, levels)
    found = classify(loaded.to(state.device), photos, out, **given)
    if state.is_main_process:
        for line in found.skipped:
            print(f"Not looked at: {line}")
        print(f"Wrote {found.out}: {found}" + ": see the column 'error'" * bool(found.unreadable))
    return BROKEN if found.unreadable else 0
