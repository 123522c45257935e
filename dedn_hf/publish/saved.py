"""Opens a saved model, a folder or a Hub id, for the commands that use one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

RUN_FILE, CARD_FILE, CHECKPOINTS = "run.json", "README.md", "checkpoints"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # user/name
COMPANIONS = (CARD_FILE, RUN_FILE, "photo-scores.csv", "*.png", "*.svg")  # of the weights


def load_model(name: str) -> DEDNForZeroShot:
    """A saved model in evaluation mode, with the code installed here: none of the model's own is run.

    Raises:
        ValueError: there is no such model, it is not a model of this package, or its weights are missing or damaged.
    """
    from safetensors import SafetensorError
    from transformers import PreTrainedConfig

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

    if Path(name).is_file():
        raise ValueError(f"{name} is a file. Give the folder of the model, {Path(name).parent}.")
    try:
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        why = f" {str(error).splitlines()[0]}" if HUB_ID.fullmatch(name) else ""
        raise ValueError(f"{name} is neither the folder of a model nor the id of one on the Hub.{why}") from error
    if kind != DEDNForZeroShot.config_class.model_type:
        stopped = " Its training was stopped; the same dedn train goes on." * (Path(name) / CHECKPOINTS).is_dir()
        raise ValueError(
            f"{name} holds no DEDN model: its config.json {f'is of type {kind!r}' if kind else 'is missing'}.{stopped}"
        )
    with without_bars() if Path(name).is_dir() else nullcontext():  # a download may take long, and shows its bar
        try:
            return DEDNForZeroShot.from_pretrained(name).eval()
        except SafetensorError as error:
            raise ValueError(
                f"The weights of {name} are damaged ({error}). Copy the model again, or train it."
            ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Within `with`, no progress bars of transformers, whose reading and writing of files takes no time worth one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def saved_file(model: str, name: str) -> Path | None:
    """A file beside a model's weights, in its folder or on the Hub; None where there is none."""
    from transformers.utils import cached_file

    found = cached_file(
        model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)


def saved_table(name: str, model: DEDNForZeroShot) -> AttributeTable:
    """The model's classes, with the roles of its training and the attribute embeddings where they are on record."""
    from dedn_hf.modeling.attribute_table import AttributeTable

    table = model.attribute_table
    saved_file(name, "attributes.npz")  # brings it to where the next one is
    path = saved_file(name, "attributes.csv")
    saved = None if path is None else AttributeTable.load(path.parent)
    if saved is None or saved.class_names != table.class_names or (saved.seen != table.seen).any():
        return table
    if saved.attribute_names == table.attribute_names:
        table = table.replace(attribute_embeddings=saved.attribute_embeddings)
    return table.replace(roles=saved.roles)


def companions(model: str) -> list[Path]:
    """Card, record and pictures beside a model's weights, in its folder or on the Hub."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, allow_patterns=list(COMPANIONS)))
    return sorted(path for pattern in COMPANIONS for path in folder.glob(pattern))
