"""Publishing on the Hugging Face Hub: `push_model` for a saved model, `push_data` for a prepared data set.

What is published is chosen by a list of what belongs in such a repository; everything else stays here. Before
anything is sent, a copy of exactly these files must load again, and none of them may hold what looks like a token. All
of it goes into one commit, so that nobody ever downloads one half (`HfApi.upload_folder` would make several of a large
folder). After a broken connection the same call goes on where it stopped: what the Hub has received is not sent twice.
"""

from __future__ import annotations

import json
import logging
import mmap
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import dedn_hf.modeling as modeling
from dedn_hf import __version__
from dedn_hf.modeling.saving import temporary_folder
from dedn_hf.publish.saved import COMPANIONS

T = TypeVar("T")
logger = logging.getLogger(__name__)

WAITS = (1, 3, 9)  # seconds before another try; the client has tried uploads several times itself by then
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that another try may get past
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
TABLE = ("attributes.csv", "attributes.npz")
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


class Published(NamedTuple):
    """What a push did.

    Args:
        url: address of the repository.
        commit: 40 hexadecimal digits that pin this state: `from_pretrained(repo_id, revision=commit)`.
        changed: False where the repository had it all before, and no commit was made.
        private: whether only its owners see the repository.
        files: what was published, as paths in the repository.
        left_out: what the folder holds besides; folders end in '/'.
        removed: weights, tables and data of an earlier push that would now be read in place of the new ones.
    """

    url: str
    commit: str
    changed: bool
    private: bool
    files: list[str]
    left_out: list[str]
    removed: list[str]

    def summary(self) -> str:
        """A few lines for people."""
        sight = "private" if self.private else "public"
        lines = [
            f"Published {len(self.files)} files at {self.url} ({sight}), commit {self.commit}"
            if self.changed
            else f"Nothing has changed since commit {self.commit} at {self.url} ({sight}), so there is no new one"
        ]
        for title, names in (("Left out", self.left_out), ("Removed there", self.removed)):
            if names:
                lines.append(f"{title}: {', '.join(names)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Kind:
    """A kind of repository: which files it may and must have, and how to see that they are whole.

    Args:
        repo_type: 'model' or 'dataset'.
        allowed: patterns of everything that is published.
        required: pattern -> what to say where no file matches it.
        superseded: patterns of files that are removed there when the folder no longer has them, because they would
            be read in place of the new ones, or together with them.
        check: raises where a folder of such files cannot be loaded.
        remedy: what to do then.
    """

    repo_type: str
    allowed: tuple[str, ...]
    required: dict[str, str]
    superseded: tuple[str, ...]
    check: Callable[[Path], None]
    remedy: str


@dataclass(frozen=True)
class Destination:
    """Where to publish; arguments as of `push_model`."""

    repo_id: str
    private: bool
    token: str | None
    revision: str | None


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Published:
    """Publish a folder that `save_pretrained` or a training run wrote.

    Args:
        folder: the model's folder. Subfolders, such as checkpoints, are never published.
        repo_id: 'user/name'; made if it is not there.
        private: False makes a new repository public, and is needed to publish in a public one.
        token: default, the one of HF_TOKEN or `hf auth login`.
        revision: branch, made if it is not there; default 'main'.
        message: of the commit.

    Raises:
        ValueError: a folder that is incomplete, does not load again or holds a token; a name that cannot be.
        PermissionError: not logged in, or no permission to write there.
        ConnectionError: offline mode, or the Hub cannot be reached.
        OSError: anything else that the Hub or the file system refuses.
    """
    return publish(Path(folder), MODEL, Destination(repo_id, private, token, revision), message or "Upload model")


def push_data(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Published:
    """Publish a folder that `dedn prepare` wrote, for `datasets.load_dataset(repo_id)`.

    Args and errors as `push_model`.
    """
    return publish(Path(folder), DATA, Destination(repo_id, private, token, revision), message or "Upload data set")


def publish(folder: Path, kind: Kind, to: Destination, message: str) -> Published:
    """See `push_model`."""
    require_complete(folder, kind)
    token = require_ready(to)
    files = sorted({path.relative_to(folder).as_posix() for each in kind.allowed for path in folder.glob(each)})
    with temporary_folder("dedn-push-") as copy:
        copy_files(folder, files, copy)
        require_no_token(copy, folder, files, token)
        require_loads(copy, folder, kind)
        return send(copy, files, kind, to, message)._replace(left_out=left_out(folder, files))


# Before anything is sent ---------------------------------------------------------------------------------------------


def require_ready(to: Destination) -> str:
    """The token to push with. Raises where no request can succeed: a bad name, offline mode, no login."""
    from huggingface_hub import get_token, is_offline_mode
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(to.repo_id)
    if "/" not in to.repo_id:
        raise ValueError(f"{to.repo_id!r} names no owner. Write user/{to.repo_id}, with your name on the Hub.")
    if is_offline_mode():
        raise ConnectionError("Offline mode is on. Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to push.")
    token = to.token or get_token()
    if not token:
        raise PermissionError("Not logged in. Run `hf auth login`, or set HF_TOKEN to a token that may write.")
    return token


def require_complete(folder: Path, kind: Kind) -> None:
    """Raise ValueError where the folder lacks something that its kind of repository must have."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Give what a training or `dedn prepare` wrote.")
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
        raise ValueError(f"{folder} does not load again. Nothing was uploaded. {kind.remedy}\n{reason}") from error


def copy_files(folder: Path, files: list[str], copy: Path) -> None:
    """Copy `files` to the empty folder `copy`. Parquet files, which may fill the disk, are linked where that works."""
    for name in files:
        source, target = (folder / name).resolve(), copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            with suppress(OSError):
                target.symlink_to(source)
        if not target.exists():
            shutil.copyfile(source, target)


def left_out(folder: Path, files: list[str]) -> list[str]:
    """What stands beside `files` in the same folders; the names of folders end in '/'."""
    kept = {folder / name for name in files}
    opened = {path.parent for path in kept} | {folder}
    others = [path for parent in opened for path in parent.iterdir() if path not in kept | opened]
    return sorted(path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in others)


# Whether it loads again ----------------------------------------------------------------------------------------------


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
    size = model.config.image_size
    if model.backbone is None:
        image = {"features": torch.randn(1, *model.config.feature_shape)}
    else:
        image = {"pixel_values": torch.randn(1, 3, size, size)}
    with torch.no_grad():
        logits = model(**image).logits
    if not torch.isfinite(logits).all():
        raise ValueError("The logits are not finite numbers.")


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


MODEL = Kind(
    repo_type="model",
    allowed=(
        *(*COMPANIONS, "config.json", "requirements.txt"),
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
    remedy="Save it again with model.save_pretrained(folder), or train it again.",
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
    remedy="Write it again with dedn prepare.",
)


# Sending -------------------------------------------------------------------------------------------------------------


def send(copy: Path, files: list[str], kind: Kind, to: Destination, message: str) -> Published:
    """Make the repository and the branch where they are not there, and commit all files at once.

    Raises ValueError where the repository is public and `to` is not; else as `with_retries`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=to.token, library_name="dedn_hf", library_version=__version__)
    place, ask = {"repo_id": to.repo_id, "repo_type": kind.repo_type}, partial(with_retries, to.repo_id)
    url = ask(lambda: api.create_repo(**place, private=to.private, exist_ok=True))
    before = ask(lambda: api.repo_info(**place))
    if to.private and not before.private:
        raise ValueError(
            f"{to.repo_id} is public. Say that you want it so (--public, private=False), or make it private first: "
            f"{url}/settings"
        )
    if to.revision is not None:
        ask(lambda: api.create_branch(**place, branch=to.revision, exist_ok=True))
        before = ask(lambda: api.repo_info(**place, revision=to.revision))
    there = [sibling.rfilename for sibling in before.siblings or ()]
    removed = [name for name in there if name not in files and any(fnmatch(name, each) for each in kind.superseded)]

    def commit() -> str:
        # New operations in every try, which ask what is there: after an answer that was lost nothing is left to do.
        operations = [CommitOperationAdd(name, copy / name) for name in files]
        left = api.list_repo_files(**place, revision=to.revision) if removed else ()
        operations += [CommitOperationDelete(name, is_folder=False) for name in removed if name in left]
        return api.create_commit(**place, operations=operations, commit_message=message, revision=to.revision).oid

    sha = ask(commit)
    return Published(str(url), sha, sha != before.sha, bool(before.private), files, [], removed)


def with_retries(repo_id: str, request: Callable[[], T]) -> T:
    """The answer; asks again after a moment where the connection broke or the server had trouble.

    Raises as `explained`, or what the client raises that has nothing to do with the connection.
    """
    from huggingface_hub.errors import HTTPError  # of whatever library the client sends its requests with

    for wait in (*WAITS, None):
        try:
            return request()
        # RuntimeError: an upload that the client has tried several times. JSONDecodeError: an error page as an answer.
        except (HTTPError, RuntimeError, json.JSONDecodeError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            if wait is None or cause is not error or not may_pass(error):
                raise explained(cause, repo_id) from error
            logger.warning("%s. Trying again in %d s.", str(error).splitlines()[0], wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client, or None where no answer came."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def may_pass(error: BaseException) -> bool:
    """Whether the connection broke or the server had trouble, so that the same request may succeed later."""
    return status_of(error) in (None, *PASSING)


def explained(error: BaseException, repo_id: str) -> Exception:
    """The error to show in place of one of the client's: what happened and what to do about it."""
    from huggingface_hub import constants

    status, reason = status_of(error), getattr(error, "server_message", None) or str(error)
    if status == 401:
        return PermissionError(
            "The Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    if status == 403:
        return PermissionError(
            f"This token may not write to {repo_id} ({reason}). Name a repository of your own, and use a token that "
            "may write: https://huggingface.co/settings/tokens."
        )
    if may_pass(error):
        return ConnectionError(
            f"The connection to {constants.ENDPOINT} failed ({reason}). Give the same command again later: what has "
            "arrived is not sent twice, and nothing of it shows before all has arrived."
        )
    return OSError(f"{constants.ENDPOINT} refuses to publish {repo_id} ({status}): {reason}")
