"""Saving and publishing a model as a whole repository: weights, configuration, code, image processor, card."""

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from safetensors import SafetensorError
from torch import nn

from .configuration_dedn import CUSTOM_PIPELINES
from .temporary import temporary_folder
from .writing import sync

REQUIREMENTS = ("torch", "torchvision", "transformers", "timm", "safetensors", "huggingface-hub", "filelock", "pillow")
HUB_ARGUMENTS = ("repo_id", "private", "token", "revision", "tags", "commit_message", "create_pr")
CONFIG_FILE, UNFINISHED = "config.json", ".unfinished-model"
ALIGNMENT = 64  # bytes: what PyTorch's own allocator gives, and the width of the widest vector instructions
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")


class SavingMixin:
    """`save_pretrained` and `push_to_hub` of `DEDNForZeroShot`."""

    def save_pretrained(self, save_directory, is_main_process: bool = True, **kwargs):
        """As in transformers, but a whole model repository: also the code, the image processor, a card if absent.

        Everything is written to a folder inside and moved when it is whole. Whenever it is interrupted, the folder
        holds the model of before, or the new one, or none that loads: config.json goes first and comes last.

        Raises:
            OSError: the disk is full, or nothing can be written there. The folder is as it was.
        """
        # transformers copies these files along, because this one imports them.
        from .handler import EndpointHandler  # noqa: F401
        from .model_card import basic_card
        from .pipeline_dedn import DEDNPipeline  # noqa: F401

        folder, hub = Path(save_directory), None
        if kwargs.pop("push_to_hub", False):  # later: transformers would upload before the folder is complete
            hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        self.config.custom_pipelines = CUSTOM_PIPELINES
        if not is_main_process or kwargs.get("distributed_checkpoint"):  # of which every process writes its part
            super().save_pretrained(folder, is_main_process=is_main_process, **kwargs)
            return
        unfinished = empty_folder(folder / UNFINISHED)
        try:
            super().save_pretrained(unfinished, **kwargs)
            if self.backbone is not None:
                self.image_processor().save_pretrained(unfinished)
            floors = [f"{name}>={version(name).split('+')[0]}\n" for name in REQUIREMENTS]
            (unfinished / "requirements.txt").write_text("".join(floors))
            if not (folder / "README.md").exists():
                basic_card(self.config, self.attribute_table).save(unfinished / "README.md")
            replace_model(folder, unfinished, superseded=() if kwargs.get("variant") else WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise OSError(f"The model could not be saved in {folder}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if hub is not None:
            self.push_to_hub(**{"repo_id": folder.name, **hub})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **commit,
    ):
        """As in transformers, all in one commit; a card that is already on the Hub stays as it is.

        Args:
            repo_id: 'user/name'. private: of a new repository. revision: branch, made if absent. tags: added to the
                card. commit: `commit_message`, `commit_description`, `create_pr`.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with temporary_folder("dedn-push-") as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
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


def align_memory(model: nn.Module) -> None:
    """Move tensors on the CPU that do not start at a multiple of 64 bytes, one at a time.

    A tensor of a safetensors file starts anywhere, where some kernels add up in another order than for a tensor that
    PyTorch has allocated: a loaded model would differ from the saved one in the last bits of its logits.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone(memory_format=torch.preserve_format)


def require_config(model: str | os.PathLike | None, config: object = None, subfolder: str = "", **_) -> None:
    """Raise OSError for a folder without config.json, which transformers would take for one of the default model."""
    if model is not None and config is None and os.path.isdir(model):
        folder = Path(model, subfolder)
        if not (folder / CONFIG_FILE).is_file():
            raise OSError(
                f"{folder} holds no model: it has no {CONFIG_FILE}. If saving was interrupted, save or train again."
            )


def empty_folder(folder: Path) -> Path:
    """Make the folder, without what an interrupted run has left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


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
