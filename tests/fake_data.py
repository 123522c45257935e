"""Writes tiny image folders and class tables that look like real ones."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from dedn_hf.data.benchmarks import attribute_table, image_list

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
LAYOUTS = {
    "cub": "CUB_200_2011/images",
    "sun": "SUNAttributeDB/images",
    "awa2": "Animals_with_Attributes2/JPEGImages",
}


def jpeg(seed: int) -> bytes:
    """A 24 x 16 JPEG that differs from seed to seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def classes_of(name: str, train: int = 2, val: int = 1, unseen: int = 1) -> list[str]:
    """The first few classes of each role."""
    table, wanted = attribute_table(name), {"train": train, "val": val, "unseen": unseen}
    of_role = {role: [n for n, r in zip(table.class_names, table.roles, strict=True) if r == role] for role in wanted}
    return [class_name for role, count in wanted.items() for class_name in of_role[role][:count]]


def write_benchmark(parent: Path, name: str, classes: list[str], images_per_split: int = 8) -> Path:
    """Write a few listed images of each class and split in the official layout; returns the image folder."""
    names, root, written = attribute_table(name).class_names, parent / LAYOUTS[name], {}
    for seed, image in enumerate(image_list(name)):
        key = (names[image.label], image.split)
        if key[0] in classes and written.get(key, 0) < images_per_split:
            written[key] = written.get(key, 0) + 1
            (root / image.file).parent.mkdir(parents=True, exist_ok=True)
            (root / image.file).write_bytes(jpeg(seed))
    return root


def write_folder(root: Path, counts: dict[str, int]) -> Path:
    """Write class folders with `counts` JPEGs each; returns `root`."""
    for class_name, count in counts.items():
        (root / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / class_name / f"{number}.jpg").write_bytes(jpeg(number))
    return root


def write_csv(path: Path, roles: dict[str, str]) -> Path:
    """Write a class table of three attributes in two groups; returns `path`."""
    rows = ["class,role,striped,spotted,tall", "#group,,coat,coat,size"]
    rows += [f"{name},{role},{i % 2},{(i + 1) % 2},{i}" for i, (name, role) in enumerate(roles.items())]
    path.write_text("\n".join(rows) + "\n")
    return path
