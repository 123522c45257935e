"""Images to tensors: the model's own preprocessing for evaluation, random crops and flips for training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import PIL.Image
import torch
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from transformers import BaseImageProcessor

from dedn_hf.modeling.inputs import read_image

if TYPE_CHECKING:
    import datasets

    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

Transform = Callable[[PIL.Image.Image], torch.Tensor]
AUGMENTATIONS = ("none", "flip", "crop")


def evaluation_transform(model: DEDNForZeroShot) -> Transform:
    """The image processor that is saved with the model: PIL image to 3 x image_size x image_size."""
    return _Processed(model.image_processor())


class _Processed:
    """A class and not a lambda, so that worker processes can be sent one."""

    def __init__(self, processor: BaseImageProcessor) -> None:
        self.processor = processor

    def __call__(self, image: PIL.Image.Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def training_transform(
    model: DEDNForZeroShot, augmentation: str = "crop", crop_scale: float = 0.4, jitter: float = 0.0
) -> Transform:
    """Random views of an image: PIL image to 3 x image_size x image_size.

    Args:
        augmentation: 'none'; 'flip', left-right at random; 'crop', a random crop resized to the input, with flips.
        crop_scale: smallest share of the image's area that a random crop keeps, 0..1.
        jitter: with 'crop', largest relative change of brightness and of contrast, 0..1.

    Raises:
        ValueError: unknown augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"Unknown augmentation {augmentation!r}; use one of {', '.join(AUGMENTATIONS)}.")
    evaluate = evaluation_transform(model)
    if augmentation == "none":
        return evaluate
    flip = v2.RandomHorizontalFlip()
    if augmentation == "flip":
        return v2.Compose([evaluate, flip])
    c = model.config
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(c.image_size, (crop_scale, 1.0), interpolation=InterpolationMode(c.interpolation)),
            flip,
            v2.ColorJitter(jitter, jitter),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(c.image_mean), list(c.image_std)),
        ]
    )


class ImageBatches(Dataset):
    """The images of one split as batches: `pixel_values` B x 3 x H x W and, if given, `labels` B.

    Args:
        images: a data set with a column `image`. transform: PIL image to 3 x H x W. labels: one per image.
    """

    def __init__(self, images: datasets.Dataset, transform: Transform, labels: list[int] | None = None) -> None:
        columns = [name for name in ("image", "file") if name in images.column_names]
        self.images = encoded(images.select_columns(columns))
        self.transform = transform
        self.labels = None if labels is None else torch.as_tensor(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch, decoded and transformed; with `SeededIndices`, each image by its own seed."""
        pictures = decoded(self.images, indices)
        seeds = getattr(indices, "seeds", [None] * len(indices))
        views = [seeded(self.transform, image, seed) for image, seed in zip(pictures, seeds, strict=True)]
        batch = {"pixel_values": torch.stack(views)}
        if self.labels is not None:
            batch["labels"] = self.labels[indices]
        return batch


class FixedViews(Dataset):
    """Views of images that are the same every time, in any process: each depends on the image's bytes and its number.

    Args:
        images: a data set with columns `image` and `file`. contents: of each image, SHA-256 of its bytes.
        views: of each kind of view, None (as the model sees an image), {'mirrored': True} (its mirror image), or
            arguments of `training_transform` and a number 'view' (an augmented view).
    """

    def __init__(
        self, images: datasets.Dataset, contents: Sequence[str], model: DEDNForZeroShot, views: Sequence[dict | None]
    ) -> None:
        self.images, self.contents, self.views = encoded(images.select_columns(["image", "file"])), contents, views
        self.plain = evaluation_transform(model)
        self.augmented = {}
        for kind, view in enumerate(views):
            if view is not None and "view" in view:
                options = {name: value for name, value in view.items() if name != "view"}
                self.augmented[kind] = training_transform(model, **options)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, wanted: list[tuple[int, Sequence[int]]]) -> torch.Tensor:
        """Pixels of all views of a batch, each image decoded once.

        wanted: images, each with the kinds of view that are wanted of it, by their place in `views`.
        """
        pictures = decoded(self.images, [image for image, _ in wanted])
        return torch.stack(
            [
                view
                for picture, (image, kinds) in zip(pictures, wanted, strict=True)
                for view in self._views_of(picture, self.contents[image], kinds)
            ]
        )

    def _views_of(self, picture: PIL.Image.Image, content: str, kinds: Sequence[int]) -> Iterator[torch.Tensor]:
        plain = self.plain(picture) if set(kinds) - set(self.augmented) else None
        for kind in kinds:
            options = self.views[kind]
            if options is None:
                yield plain
            elif kind in self.augmented:
                yield seeded(self.augmented[kind], picture, seed_of(content, options["view"]))
            else:
                yield v2.functional.horizontal_flip(plain)


def seed_of(content: str, view: int) -> int:
    """The seed of augmented view number `view` of an image, of whose bytes `content` is the SHA-256."""
    return int(hashlib.sha256(f"{content} {view}".encode()).hexdigest()[:15], 16)


def encoded(images: datasets.Dataset) -> datasets.Dataset:
    """The same images, left to our own reader: `datasets` would make grey pictures of 16 bits white."""
    import datasets  # slow to import; classifying files does without

    return images.cast_column("image", datasets.Image(decode=False))


def decoded(images: datasets.Dataset, indices: list[int]) -> list[PIL.Image.Image]:
    """Some of the `encoded` images, upright and in RGB. Raises ValueError that names one that cannot be read."""

    def read(indices: list[int]) -> list[PIL.Image.Image]:
        return [read_image(image["bytes"] or image["path"]) for image in images[indices]["image"]]

    try:
        return read(list(indices))
    except Exception:
        for index in indices:
            try:
                read([index])
            except Exception as error:
                names = images.remove_columns("image")[index]
                raise ValueError(
                    f"{names.get('file', f'Image number {index}')} cannot be read ({type(error).__name__}: {error}). "
                    "Replace that image, or take it out of the data set, and give the same command again."
                ) from error
        raise


def seeded(transform: Transform, image: PIL.Image.Image, seed: int | None) -> torch.Tensor:
    """The view that the seed decides on (None: a random one); torch's generator stays as it is."""
    if seed is None:
        return transform(image)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPU too
        return transform(image)


def already_batched(batch: dict) -> dict:
    """A `collate_fn` that does nothing, for data sets whose `__getitems__` gives whole batches."""
    return batch
