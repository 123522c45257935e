"""Opens a saved model, a folder or a Hub id, for the commands that use one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot


def load_model(name: str) -> DEDNForZeroShot:
    """A saved model in evaluation mode, with the code installed here: none of the model's own is run.

    Raises:
        ValueError: there is no such model, it is not a model of this package, or it lacks weights.
    """
    from transformers import PreTrainedConfig

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

    try:
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        raise ValueError(f"{name} is neither the folder of a model nor the id of one on the Hub. {error}") from error
    if kind != DEDNForZeroShot.config_class.model_type:
        raise ValueError(
            f"{name} holds no DEDN model: its config.json {f'is of type {kind!r}' if kind else 'is missing'}."
        )
    return DEDNForZeroShot.from_pretrained(name).eval()


def saved_file(model: str, name: str) -> Path | None:
    """A file beside a model's weights, in its folder or on the Hub; None where there is none."""
    from transformers.utils import cached_file

    found = cached_file(
        model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)
