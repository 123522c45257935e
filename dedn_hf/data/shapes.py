"""Shapes: made-up creatures with coloured parts, drawn on the fly. No download; for tests, examples and quick studies.

Attributes belong to parts: a red body with a blue head is another class than a blue body with a red head. Classes come
in such pairs. So a model has to look at the right place; the colours in the picture alone do not give the class.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image

from dedn_hf.data.base import ZeroShotBuilder
from dedn_hf.data.catalog import Catalog, Image, assign_portions, hold_out
from dedn_hf.data.creatures import COLOURS, Creature, draw
from dedn_hf.modeling.attribute_table import AttributeTable

VALUES = {
    "body_shape": ("ellipse", "box", "wedge"),
    "body_colour": tuple(COLOURS),
    "body_pattern": ("plain", "stripes", "spots"),
    "head_shape": ("ellipse", "box", "wedge"),
    "head_colour": tuple(COLOURS),
    "tail_form": ("stick", "ball", "fork"),
    "tail_colour": tuple(COLOURS),
    "leg_count": ("two", "four"),
}
ROLE_COUNTS = {"train": 24, "val": 8, "unseen": 8}
TEST_FRACTION = 0.2
CLASS_SEED = 3  # the classes are always the same; a data set's own seed only changes the pictures


class Shapes(ZeroShotBuilder):
    """40 classes (24 train, 8 val, 8 unseen), 26 attributes in 4 groups, with the boxes of the parts.

    Besides image, label and file, each row has `parts`, a list of {name, box}. The names are 'tail', 'legs', 'body',
    'head'; the boxes are [x0, y0, x1, y1] in pixels. The same arguments give the same pictures.

    Args:
        image_size: width and height in pixels, 16 or more.
        images_per_class: 5 or more; a fifth of a seen class's images is test_seen.
        seed: another seed gives other pictures of the same classes.
        options: `validation`, `strict`, `cache_dir` and `config_name`, as in `ZeroShotBuilder`.

    Raises:
        ValueError: `image_size` or `images_per_class` is too small.
    """

    TITLE = "Shapes"
    DESCRIPTION = "Made-up creatures whose parts have colours, shapes and patterns."
    TERMS = "drawn by `dedn_hf`, Apache-2.0"
    LICENSE = "apache-2.0"

    def __init__(self, image_size: int = 64, images_per_class: int = 50, seed: int = 0, **options: Any) -> None:
        if image_size < 16 or images_per_class < 5:
            raise ValueError(
                f"Shapes needs image_size >= 16 and images_per_class >= 5, got {image_size} and {images_per_class}."
            )
        self.image_size, self.seed = image_size, seed
        super().__init__(shapes_catalog(image_size, images_per_class, seed), **options)

    def problems(self, images: list[Image]) -> dict[str, str]:
        """Always empty: the pictures are drawn, not read."""
        return {}

    def example(self, image: Image) -> dict[str, Any]:
        """One row: the picture as PNG bytes, with the boxes of its parts."""
        number = int(Path(image.file).stem)
        picture, boxes = render(image.label, (self.seed, number), self.image_size)
        parts = [{"name": name, "box": box} for name, box in boxes.items()]
        content = {"path": image.file.replace("/", "_"), "bytes": png(picture)}
        return {"image": content, "label": image.label, "file": image.file, "parts": parts}

    def features(self) -> datasets.Features:
        """Types of the columns, including `parts`."""
        box = datasets.List(datasets.Value("float32"), length=4)
        parts = datasets.List({"name": datasets.Value("string"), "box": box})
        return datasets.Features({**super().features(), "parts": parts})


def render(
    class_index: int, seed: int | tuple[int, ...] = 0, size: int = 64
) -> tuple[PIL.Image.Image, dict[str, list[float]]]:
    """One picture (`size` x `size`, RGB) of a class, and part name -> [x0, y0, x1, y1] in pixels.

    The same class, seed (one number or several) and size give the same picture.
    Raises ValueError for a class index that does not exist.
    """
    if not 0 <= class_index < len(creatures()):
        raise ValueError(f"No class {class_index}: Shapes has classes 0 to {len(creatures()) - 1}.")
    seeds = seed if isinstance(seed, tuple) else (seed,)
    return draw(creatures()[class_index], np.random.default_rng([class_index, *seeds]), size)


def shapes_table() -> AttributeTable:
    """The 40 x 26 table of 0 and 1, grouped by part. Embeddings (26 x 24) mark the words of each attribute's name."""
    names = [(key, value) for key, values in VALUES.items() for value in values]
    return AttributeTable(
        class_names=[f"creature_{index:02d}" for index in range(len(creatures()))],
        attribute_names=[f"{key.replace('_', ' ')}: {value}" for key, value in names],
        class_attributes=np.array(
            [[getattr(creature, key) == value for key, value in names] for creature in creatures()]
        ),
        attribute_groups=[key.split("_")[0] for key, _ in names],
        roles=roles(),
        attribute_embeddings=one_hot_words([(*key.split("_"), value) for key, value in names]),
    )


@cache
def creatures() -> tuple[Creature, ...]:
    """The 40 classes: 20 pairs that differ only in swapped colours of body and head.

    Creatures of different pairs differ in at least three properties. The two of a pair have the same role.
    """
    rng = np.random.default_rng(CLASS_SEED)
    found: list[Creature] = []
    while len(found) < sum(ROLE_COUNTS.values()):
        one = Creature(*(str(rng.choice(values)) for values in VALUES.values()))
        other = one._replace(body_colour=one.head_colour, head_colour=one.body_colour)
        far = all(sum(a != b for a, b in zip(new, old, strict=True)) >= 3 for new in (one, other) for old in found)
        if one.body_colour != one.head_colour and far:
            found += [one, other]
    return tuple(found)


def roles() -> list[str]:
    """The role of each class. Roles are mixed as in real data sets, where the unseen classes do not come last."""
    of_pair = [role for role, count in ROLE_COUNTS.items() for _ in range(count // 2)]
    order = np.random.default_rng(CLASS_SEED).permutation(len(of_pair))
    return [of_pair[position] for position in order for _ in range(2)]


def one_hot_words(names: list[tuple[str, ...]]) -> np.ndarray:
    """A x D of 0 and 1, with one column for each word. So attributes that share a word are similar."""
    words = sorted({word for name in names for word in name})
    return np.array([[word in name for word in words] for name in names], dtype=np.float32)


def shapes_catalog(image_size: int, images_per_class: int, seed: int) -> Catalog:
    """Class table and pictures to draw. Their stamps hold size and seed, because the pictures depend on both."""
    table = shapes_table()
    listed = []
    for label, (name, role) in enumerate(zip(table.class_names, table.roles, strict=True)):
        files = [f"{name}/{number:04d}.png" for number in range(images_per_class)]
        test = set(files) if role == "unseen" else hold_out(files, TEST_FRACTION, "test")
        test_split = "test_unseen" if role == "unseen" else "test_seen"
        listed += [(file, label, test_split if file in test else "trainval") for file in files]
    images = assign_portions(listed, table.roles)
    return Catalog(table, [image._replace(stamp=f"{image_size}:{seed}") for image in images])


def png(picture: PIL.Image.Image) -> bytes:
    """The picture as an uncompressed PNG file: compression takes time and hardly shrinks noise."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
