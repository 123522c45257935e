"""What a model repository and a data repository on the Hub may hold and must hold, and whether a folder fits.

A folder fits when every required file is there, all of it loads again, and no file holds what looks like a token.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dedn_hf import modeling

if TYPE_CHECKING:
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

MODEL_CODE = tuple(path.name for path in Path(modeling.__file__).parent.glob("[!_]*.py"))
TEXT = (".csv", ".json", ".md", ".py", ".svg", ".txt")

# Each starts with letters that are seldom met otherwise: a search for them is fast in any number of bytes.
TOKENS = {
    "a Hugging Face token": rb"hf_(?:oauth_|jwt_)?[A-Za-z0-9]{30,}",
    "an old Hugging Face token": rb"api_org_[A-Za-z]{30,}",
    "a GitHub token": rb"gh[pousr]_[A-Za-z0-9]{36}",
    "a GitHub token of fine grain": rb"github_pat_[A-Za-z0-9_]{50,}",
    "a GitLab token": rb"glpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": rb"A(?:KIA|SIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a Google key": rb"AIza[A-Za-z0-9_-]{35}",
    "an OpenAI or Anthropic key": rb"sk-[A-Za-z0-9-]{0,20}[A-Za-z0-9_]{32,}",
    "a Slack token": rb"xox[abeprs]-[A-Za-z0-9-]{10,}",
    "a private key": rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY",
}


@dataclass(frozen=True)
class Kind:
    """A kind of repository: which files it may and must have, and how to see that they are whole.

    Args:
        repo_type: 'model' or 'dataset'.
        allowed: patterns of everything that is published.
        required: pattern -> what to say where no file matches it.
        superseded: patterns of files that are removed there when the folder has them no longer, because they would
            be read in place of the new ones, or together with them.
        check: raises where a folder of such files cannot be loaded.
        mend: what to do then.
    """

    repo_type: str
    allowed: tuple[str, ...]
    required: dict[str, str]
    superseded: tuple[str, ...]
    check: Callable[[Path], None]
    mend: str


def require_complete(folder: Path, kind: Kind) -> None:
    """Raise ValueError where the folder lacks something that its kind of repository must have."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    for pattern, complaint in kind.required.items():
        if not any(folder.glob(pattern)):
            raise ValueError(f"{folder} {complaint}")
    if (folder / "checkpoints").is_dir() and not (folder / "run.json").is_file():
        raise ValueError(f"The training in {folder} has not finished. Give its command again, then push.")


def require_no_token(copy: Path, folder: Path, files: list[str], own: str) -> None:
    """Raise ValueError where the copy of a file holds a token: one of the usual forms, or `own`, used to push."""
    patterns = {**TOKENS, "the token that you push with": re.escape(own.encode())}
    for name in files:
        if (copy / name).stat().st_size == 0:
            continue
        with open(copy / name, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for what, pattern in patterns.items():
                if found := re.search(pattern, content):
                    line = content[: found.start()].count(b"\n") + 1
                    place = f"line {line}" if name.endswith(TEXT) else f"byte {found.start()}"
                    raise ValueError(
                        f"{folder / name}, {place}, holds what looks like {what}. Nothing was uploaded. "
                        "Take it out, and revoke it if others may have read it."
                    )


def require_loads(copy: Path, folder: Path, kind: Kind) -> None:
    """Raise ValueError, with the reason, where the copy of `folder` does not load."""
    try:
        kind.check(copy)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".replace(str(copy), str(folder))
        raise ValueError(f"{folder} does not load again. Nothing was uploaded. {kind.mend}\n{reason}") from error


def check_model(folder: Path) -> None:
    """Load a model, see that its code is there and that it gives numbers. Raises whatever goes wrong."""
    import torch
    from transformers import AutoImageProcessor

    from dedn_hf.modeling.attribute_table import AttributeTable
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

    require_code(folder)
    model = DEDNForZeroShot.from_pretrained(folder, local_files_only=True).eval()
    if model.backbone is not None:
        AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if (folder / "attributes.csv").exists():
        AttributeTable.load(folder)
    with torch.no_grad():
        logits = model(**random_input(model)).logits
    if not torch.isfinite(logits).all():
        raise ValueError("The logits are not finite numbers.")


def random_input(model: DEDNForZeroShot) -> dict:
    """What the model takes, of one image: B x 3 x image_size x image_size, or B x C x H x W without a backbone."""
    import torch

    if model.backbone is None:
        return {"features": torch.randn(1, *model.config.feature_shape)}
    return {"pixel_values": torch.randn(1, 3, model.config.image_size, model.config.image_size)}


def require_code(folder: Path) -> None:
    """Raise where code that config.json names, or what that imports beside it, is missing from the folder.

    Without it `trust_remote_code=True` fails, which cannot be seen where this package is installed.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map")
    if not named:
        raise ValueError("config.json names no code (auto_map), so it loads only where dedn_hf is installed.")
    for place in named.values():
        get_relative_import_files(folder / f"{place.split('--')[-1].split('.')[0]}.py")  # opens each of them


def check_data(folder: Path) -> None:
    """Read every row of every split, and the attribute table. Raises whatever goes wrong."""
    import datasets

    from dedn_hf.data.catalog import SPLITS
    from dedn_hf.data.loading import RECORD_FILE
    from dedn_hf.modeling.attribute_table import AttributeTable

    table = AttributeTable.load(folder)
    images = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["images"]
    for config_name in ("default", "validation") if "val" in table.roles else ("default",):
        # Streamed, because a data set that is loaded fills the cache with a second copy of all images.
        for split, rows in datasets.load_dataset(str(folder), config_name, streaming=True).items():
            if rows.features["label"].names != table.class_names:
                raise ValueError(f"Split {split!r} has other classes than attributes.csv.")
            next(iter(rows))["image"].load()
            count = sum(1 for _ in rows.cast_column("image", datasets.Image(decode=False)))
            expected = sum(images[portion] for portion in SPLITS[config_name][split])
            if count != expected:
                raise ValueError(f"Split {split!r} has {count} images in place of {expected}.")


# Kinds ---------------------------------------------------------------------------------------------------------------

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
TABLE = ("attributes.csv", "attributes.npz")
MODEL = Kind(
    repo_type="model",
    allowed=(
        *("README.md", "config.json", "requirements.txt", "run.json", "*.png", "*.svg"),
        *("preprocessor_config.json", "processor_config.json", "class_table.safetensors"),
        *(*WEIGHTS, *TABLE, *MODEL_CODE),
    ),
    required={
        "config.json": "holds no model: it has no config.json. model.save_pretrained(folder) writes one.",
        "model*.safetensors": "holds no weights. model.save_pretrained(folder) writes them.",
        "README.md": "has no model card (README.md). model.save_pretrained(folder) writes one.",
    },
    superseded=(*WEIGHTS, *TABLE),
    check=check_model,
    mend="Save it again with model.save_pretrained(folder), or train it again.",
)
DATA = Kind(
    repo_type="dataset",
    allowed=("README.md", "dedn.json", *TABLE, "data/*.parquet"),
    required={
        "dedn.json": "holds no prepared data set. Write one by: dedn prepare NAME --out FOLDER",
        "README.md": "has no data set card (README.md). Write the folder again with dedn prepare.",
        "data/*.parquet": "holds no images (data/*.parquet). Write it again with dedn prepare.",
    },
    superseded=("data/*.parquet", *TABLE),
    check=check_data,
    mend="Write it again with dedn prepare.",
)
