"""Images that do not decode, and the cache of built data sets."""

import os

import datasets
import numpy as np
import pytest
from PIL import Image

from dedn_hf.data import AWA2, load
from dedn_hf.data.catalog import decode_problem, hold_out
from dedn_hf.data.transforms import decoded, encoded
from tests.fake_data import classes_of, jpeg, write_benchmark


@pytest.fixture
def animals(tmp_path):
    return write_benchmark(tmp_path / "animals", "awa2", classes_of("awa2"))


def first_image(root):
    return sorted(root.rglob("*.jpg"))[0]


def files_of(splits: datasets.DatasetDict) -> list[str]:
    return [file for dataset in splits.values() for file in dataset["file"]]


@pytest.mark.parametrize("damage", [b"", b"not an image", jpeg(0)[:-200]], ids=["empty", "text", "truncated"])
def test_damaged_images_are_left_out_with_a_warning(damage, animals, tmp_path, caplog):
    whole = files_of(load("awa2", animals, cache_dir=tmp_path)[0])
    first_image(animals).write_bytes(damage)
    rest = files_of(load("awa2", animals, cache_dir=tmp_path)[0])
    damaged = first_image(animals).relative_to(animals).as_posix()
    assert sorted([*rest, damaged]) == sorted(whole)
    assert f"1 of {len(whole)} images do not decode and are left out: {damaged}" in caplog.text


def test_left_out_images_are_reported_again_from_the_cache(animals, tmp_path, caplog):
    first_image(animals).write_bytes(b"")
    load("awa2", animals, cache_dir=tmp_path)
    caplog.clear()
    load("awa2", animals, cache_dir=tmp_path)
    assert "do not decode" in caplog.text


def test_strict_names_the_damaged_file(animals, tmp_path):
    first_image(animals).write_bytes(b"not an image")
    load("awa2", animals, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=f"{first_image(animals).name} does not decode .*strict=False"):
        load("awa2", animals, strict=True, cache_dir=tmp_path)


def test_decoding_is_really_tried(tmp_path):
    (tmp_path / "half.jpg").write_bytes(jpeg(0)[:-200])
    (tmp_path / "whole.jpg").write_bytes(jpeg(0))
    assert "truncated" in decode_problem(str(tmp_path / "half.jpg"))
    assert decode_problem(str(tmp_path / "whole.jpg")) is None


def test_the_cache_is_used_again_while_nothing_changes(animals, tmp_path, monkeypatch):
    load("awa2", animals, cache_dir=tmp_path)
    monkeypatch.setattr(AWA2, "_generate_examples", lambda self, images: pytest.fail("built again"))
    load("awa2", animals, cache_dir=tmp_path)


@pytest.mark.parametrize("change", ["touch", "remove", "options"])
def test_the_cache_is_rebuilt_after_a_change(change, animals, tmp_path, monkeypatch):
    load("awa2", animals, cache_dir=tmp_path)
    built, generate = [], AWA2._generate_examples
    monkeypatch.setattr(AWA2, "_generate_examples", lambda self, images: built.append(1) or generate(self, images))
    if change == "touch":
        os.utime(first_image(animals), (1, 1))
    if change == "remove":
        first_image(animals).unlink()
    load("awa2", animals, cache_dir=tmp_path, validation=change == "options")
    assert built


def test_held_out_names_are_stable_and_never_all():
    names = [f"{number}.jpg" for number in range(10)]
    assert hold_out(names, 0.2, "test") == hold_out(names[::-1], 0.2, "test")
    assert len(hold_out(names, 0.2, "test")) == 2
    assert len(hold_out(names[:2], 0.2, "test")) == 1
    assert hold_out(names[:1], 0.9, "test") == set()
    assert hold_out([], 0.2, "test") == set()


def test_a_grey_image_of_16_bits_keeps_its_greys():
    greys = np.linspace(0, 255, 16).astype(np.uint8).reshape(4, 4)
    deep = Image.fromarray(greys.astype(np.uint16) * 257)
    images = datasets.Dataset.from_dict({"image": [deep]}, datasets.Features({"image": datasets.Image()}))
    assert (np.asarray(decoded(encoded(images), [0])[0]) == greys[..., None]).all()
