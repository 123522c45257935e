"""What `save_pretrained` writes around the weights: whole files, whole folders, and the model's first card."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, ModelCardData
from safetensors import SafetensorError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .configuration_dedn import DEDNConfig

logger = logging.getLogger(__name__)

REQUIREMENTS = ("torch", "torchvision", "transformers", "timm", "safetensors", "huggingface-hub", "filelock", "pillow")
HUB_ARGUMENTS = ("repo_id", "private", "token", "revision", "tags", "commit_message", "create_pr")
CONFIG_FILE, UNFINISHED = "config.json", ".unfinished-model"
LOCK_FILE, CONTENT = "lock", "content"
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")

# Files and folders ---------------------------------------------------------------------------------------------------


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to. It becomes `path` when all has gone well, and is removed if not.

    A device or a pipe is written to directly. An OSError that names no file, as those of a full disk, gets its name.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    unfinished = path.with_name(f".unfinished-{path.name}")  # with the suffix, which may decide on the format
    try:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def require_writable(path: str | os.PathLike, formats: Sequence[str] = ()) -> None:
    """Raise ValueError, with what to do, unless a file can be written there. To be asked before the work is done.

    formats: suffixes to choose from, as '.csv'; none: any.
    """
    path = Path(path)
    if formats and path.suffix.lower() not in formats:
        ending = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise ValueError(f"{str(path)!r} {ending}; give one of {', '.join(formats)}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file in it, such as {path / 'NAME'}.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to. Make it, or give another one.")
    is_device = path.exists() and not path.is_file()
    if not is_device and not os.access(path.parent, os.W_OK):
        raise ValueError(f"Nothing can be written to the folder {path.parent}. Give another one.")


def sync(path: Path) -> None:
    """Wait until a file is on the disk, or the names in a folder where the file system can."""
    if os.name == "nt":  # which cannot do it through a descriptor for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock in the file `path`, which the operating system releases when the process dies.

    Raises BlockingIOError with the message `busy` where another process holds it. A warning says where a file system
    knows no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(busy) from None
    except OSError as error:
        logger.warning("%s cannot be locked (%s): see that no other process uses it.", path.parent, error)
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            path.unlink()  # while it is held: FileLock does not take a lock on a file that has lost its name
        lock.release()


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that is removed at the end, or after a kill by the next call with the same prefix and parent.

    Who has one holds a lock in it, which the operating system releases when the process dies.

    Args:
        prefix: what its name starts with. parent: the folder to make it in; default, the system's for such folders.
    """
    own_folder = TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    with own_folder as own, FileLock(Path(own) / LOCK_FILE):
        remove_abandoned(Path(own), prefix)
        content = Path(own) / CONTENT  # made under the lock: where there is one without, nobody uses it any more
        content.mkdir()
        yield content


def remove_abandoned(own: Path, prefix: str) -> None:
    """Remove the folders beside `own` with this prefix that belong to the same user and that nobody has locked."""
    user = own.stat().st_uid
    for folder in own.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError, Timeout):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == user and (folder / CONTENT).exists():
                with FileLock(folder / LOCK_FILE, blocking=False):
                    shutil.rmtree(folder)


def require_config(model: str | os.PathLike | None, config: object = None, subfolder: str = "", **_) -> None:
    """Raise OSError for a folder without config.json, which transformers would take for one of the default model."""
    if model is not None and config is None and os.path.isdir(model):
        folder = Path(model, subfolder)
        if not (folder / CONFIG_FILE).is_file():
            raise OSError(
                f"{folder} holds no model: it has no {CONFIG_FILE}. If saving was interrupted, save or train again."
            )


@contextmanager
def replaced_model(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """A folder to write a model to, whose files move to `folder` when it is whole, config.json last.

    Args:
        folder: made where there is none. It holds no config.json, without which nothing loads, while files move. A
            model of before loses the weights that would be read in place of the new ones, unless there is a `variant`.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # what an interrupted run has left
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        replace_model(folder, unfinished, superseded=() if variant else WEIGHTS)
    except (OSError, SafetensorError) as error:
        why = str(error).rstrip(".")
        raise OSError(
            f"The model could not be saved in {folder}: {why}. Make room, or give another folder."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def replace_model(folder: Path, unfinished: Path, superseded: Sequence[str]) -> None:
    """Move all files of `unfinished` to `folder`, which holds no config.json in the meantime.

    Args:
        superseded: patterns of files that an earlier model may have left, to be read in place of the new one's.
    """
    names = sorted(path.name for path in unfinished.iterdir())
    for name in names:
        sync(unfinished / name)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    sync(folder)
    for old in [path for pattern in superseded for path in folder.glob(pattern) if path.name not in names]:
        old.unlink()
    for name in names:
        if name != CONFIG_FILE:
            (unfinished / name).replace(folder / name)
    sync(folder)
    (unfinished / CONFIG_FILE).replace(folder / CONFIG_FILE)


def push_model(
    model: PreTrainedModel,
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
    **commit,
) -> CommitInfo:
    """Upload what `save_pretrained` writes in one commit; a card that is already on the Hub stays as it is.

    Args:
        repo_id: 'user/name'. private: of a new repository. revision: branch, made if absent. tags: added to the card.
        commit: `commit_message`, `commit_description`, `create_pr`.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with temporary_folder("dedn-push-") as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        files = {path.name: path for path in folder.iterdir()}
        if api.file_exists(repo_id, "README.md", revision=revision):
            del files["README.md"]
        elif tags:
            card = ModelCard.load(files["README.md"])
            card.data.tags = sorted({*(card.data.tags or []), *tags})
            card.save(files["README.md"])
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        commit.setdefault("commit_message", "Upload DEDNForZeroShot")
        return api.create_commit(repo_id, operations, revision=revision, **commit)


# The card of a model: no more than the model itself knows, which is not how it was trained or what it scores ---------

TASK = "zero-shot-image-classification"
TAGS = ["dedn", "zero-shot-learning", "generalized-zero-shot-learning", "attributes", "timm"]
PAPER = "https://arxiv.org/abs/2404.16348"
MODEL_ID, PHOTO = "path/to/model", "photo.jpg"  # stand-ins in the example code
CITATION = """\
@inproceedings{rao2024dedn,
  title     = {Dual Expert Distillation Network for Generalized Zero-Shot Learning},
  author    = {Rao, Zhijie and Guo, Jingcai and Lu, Xiaocheng and Liang, Jingming and Zhang, Jie and Wang, Haozhao
               and Wei, Kang and Cao, Xiaofeng},
  booktitle = {Proceedings of the Thirty-Third International Joint Conference on Artificial Intelligence (IJCAI)},
  year      = {2024},
  url       = {https://arxiv.org/abs/2404.16348},
}"""

_TEXT = """
# {name}

A [Dual Expert Distillation Network]({paper}) (DEDN). It recognises classes by their
attributes: a class of which it has seen no picture needs nothing but a description, one number an attribute.

- Backbone: {backbone}
- Feature map: {feature_map}
- Classes: {classes}
- Attributes: {attributes}
- Experts: {experts}

This card was written when the model was saved, from the model alone. It does not know what the model was trained on
or how accurate it is: whoever publishes the model should say so here.

## Use

{usage}

## Limits

- Every picture is given to one of the candidate classes, also a picture of something else.
- Scores are shares among the candidates. They are no probabilities that were checked against anything.
- A description is only as good as its attributes, and its numbers have to be in the scale of the model's own classes.

## Licence

The code of the model is licensed under Apache-2.0. The licence of the weights depends on what they were trained on,
and is not stated here.

## Citation

```bibtex
{citation}
```
"""

_PIPELINE = """\
```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model={model_id}, trust_remote_code=True)
classify({photo}, top_k=5)  # among all classes of the model: [{{"label": ..., "score": ...}}, ...]
{chosen}```
"""

_CHOSEN = """\
labels = [{labels}]
classify({photo}, candidate_labels=labels)
# A class by a description; an attribute that is left out has the mean of the seen classes.
description = {{{description}}}
classify({photo}, candidate_labels={{labels[0]: None, "a new class": description}})
"""

_PIXELS = """\
```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification

model = AutoModelForZeroShotImageClassification.from_pretrained({model_id}, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained({model_id})
pixels = processor(images=Image.open({photo}).convert("RGB"), return_tensors="pt")["pixel_values"]
output = model(pixels, output_attentions=True)
print(model.config.id2label[int(output.logits.argmax())])
output.attribute_scores  # what the model thinks of each attribute: images x attributes
output.region_maps  # where it looked for each: images x experts x attributes x regions
```
"""

_FEATURES = """\
```python
import torch
from transformers import AutoModelForZeroShotImageClassification

model = AutoModelForZeroShotImageClassification.from_pretrained({model_id}, trust_remote_code=True).eval()
features = torch.rand(1, *model.config.feature_shape)  # in place of these: a feature map of the model's backbone
print(model.config.id2label[int(model(features=features).logits.argmax())])
```
"""

_OTHER_CLASSES = """\
Other classes from now on, without training:

```python
table = model.attribute_table
table.to_csv("classes.csv")  # a row a class, a column an attribute: add or remove rows with any spreadsheet
model.set_classes(type(table).from_csv("classes.csv"))
```"""


def write_card_and_requirements(model: PreTrainedModel, folder: Path, with_card: bool) -> None:
    """requirements.txt, with the versions of now as the lowest ones, and README.md if `with_card`."""
    floors = [f"{name}>={version(name).split('+')[0]}\n" for name in REQUIREMENTS]
    (folder / "requirements.txt").write_text("".join(floors))
    if with_card:
        basic_card(model.config, model.attribute_table).save(folder / "README.md")


def basic_card(config: DEDNConfig, table: Any, model_id: str = MODEL_ID) -> ModelCard:
    """The card of a model of which nothing is known but the model itself.

    Args:
        config, table: of the model. model_id: folder or Hub name that the example code loads.
    """
    backbone = f"`{config.backbone}` (timm), images of {config.image_size} x {config.image_size} pixels"
    images = config.backbone is not None
    labels = example_classes(table) if images else []
    seen = int(table.seen.sum())
    text = _TEXT.format(
        name=f"DEDN, {config.backbone or 'features only'}, {len(table)} classes",
        paper=PAPER,
        backbone=backbone if images else "none: the model takes feature maps that were computed before",
        feature_map="{} channels, {} x {} regions".format(*config.feature_shape),
        classes=f"{len(table)}, of which {seen} are marked as seen and {len(table) - seen} as unseen",
        attributes=describe_groups(Counter(config.attribute_groups)),
        experts=" and ".join(config.expert_names),
        usage=usage(table, model_id, images),
        citation=CITATION,
    )
    return ModelCard(f"---\n{card_data(labels).to_yaml()}\n---\n{text}")


def card_data(labels: list[str], image: str | None = None, **more) -> ModelCardData:
    """Metadata that any DEDN has: task, library, tags, and an example for the Hub's widget.

    Args:
        labels: class names for the widget to choose among; those with a comma cannot be written there.
        image: path of the example's picture in the repository, or its URL. more: further metadata.
    """
    names = ", ".join(label for label in labels if "," not in label)
    example = {"src": image, "candidate_labels": names, "example_title": "Some of its classes"}
    example = {key: value for key, value in example.items() if value is not None}
    tags = [*TAGS, *more.pop("tags", [])]
    return ModelCardData(
        pipeline_tag=TASK, library_name="transformers", tags=tags, widget=[example] if names else None, **more
    )


def example_classes(table: Any, count: int = 4) -> list[str]:
    """A few classes of the model, half of them unseen where there are as many."""
    unseen = [name for name, seen in zip(table.class_names, table.seen, strict=True) if not seen][: count // 2]
    seen = [name for name, seen in zip(table.class_names, table.seen, strict=True) if seen]
    return [*unseen, *seen[: count - len(unseen)]]


def describe_groups(groups: dict[str, int], most: int = 12) -> str:
    """'312 in 6 groups: head 87, leg 15, ...' from the number of attributes in each group."""
    named = ", ".join(f"{name} {count}" for name, count in list(groups.items())[:most])
    more = f" and {len(groups) - most} more" if len(groups) > most else ""
    return f"{sum(groups.values())} in {len(groups)} group{'s' * (len(groups) > 1)}: {named}{more}"


def usage(table: Any, model_id: str = MODEL_ID, images: bool = True) -> str:
    """Example code in Markdown: the pipeline, the model, other classes.

    Args:
        table: classes of the model, for examples that name some; None: the examples name none.
        images: False for a model without a backbone, which takes feature maps only.
    """
    model_id, photo = quoted(model_id), quoted(PHOTO)
    if not images:
        return _FEATURES.format(model_id=model_id) + "\n" + _OTHER_CLASSES
    chosen = ""
    if table is not None:
        labels = ", ".join(map(quoted, example_classes(table)))
        description = ", ".join(f"{quoted(name)}: {value}" for name, value in example_description(table).items())
        chosen = _CHOSEN.format(photo=photo, labels=labels, description=description)
    blocks = [_PIPELINE.format(model_id=model_id, photo=photo, chosen=chosen)]
    return "\n".join([*blocks, _PIXELS.format(model_id=model_id, photo=photo), _OTHER_CLASSES])


def quoted(text: str) -> str:
    """As it stands in Python code, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def example_description(table: Any, count: int = 2) -> dict[str, float]:
    """A few attributes and values that could describe a class: the strongest ones of the table's last class."""
    row = table.class_attributes[-1]
    strongest = abs(row).argsort(kind="stable")[::-1][:count]
    return {table.attribute_names[a]: round(float(row[a]), 2) or 1.0 for a in strongest}
