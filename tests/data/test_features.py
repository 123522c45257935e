"""The feature cache: kept by image, whatever the images are called and wherever they belong; killed at any moment."""

import json
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import datasets
import pytest
import torch
from filelock import FileLock

from dedn_hf import DEDNForZeroShot
from dedn_hf.data import features as feature_caches
from dedn_hf.data.cached import CachedFeatures
from dedn_hf.data.extraction import batches_of, described
from dedn_hf.data.features import FeatureCache, View, open_views
from dedn_hf.data.transforms import evaluation_transform
from tests.tiny_runs import image_data, image_model, picture

ROWS = [(0, 0), (3, 1), (2, 0), (0, 1), (5, 4)]
CROP = {"augmentation": "crop", "crop_scale": 0.4, "jitter": 0.3}


def seeded_model(seed: int = 0, **config) -> DEDNForZeroShot:
    torch.manual_seed(seed)
    return image_model(**config)


@pytest.fixture
def images():
    return image_data(ROWS)


@pytest.fixture
def ran(monkeypatch):
    """How many pictures went through the backbone, a number for each batch."""
    counts, extract_features = [], DEDNForZeroShot.extract_features
    monkeypatch.setattr(
        DEDNForZeroShot,
        "extract_features",
        lambda self, pixels: counts.append(len(pixels)) or extract_features(self, pixels),
    )
    return counts


def renamed(images: datasets.Dataset, names: list[str]) -> datasets.Dataset:
    return images.remove_columns("file").add_column("file", names)


def open_cache(folder: Path, images: datasets.Dataset, model: DEDNForZeroShot | None = None, **options):
    return FeatureCache.open_or_build(folder, model or seeded_model(), images, progress=False, **options)


def maps(cache: FeatureCache, images: datasets.Dataset) -> torch.Tensor:
    """Of all images, in their order."""
    return cache.read(cache.rows(images["file"]))


def extracted(images: datasets.Dataset, model: DEDNForZeroShot | None = None) -> torch.Tensor:
    model = (model or seeded_model()).eval()
    pixels = torch.stack([evaluation_transform(model)(image) for image in images["image"]])
    with torch.no_grad():
        return model.extract_features(pixels)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=1e-3)


# What is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_cached_features_are_the_backbones_rounded_to_16_bits(images, tmp_path, name, dtype):
    cache = open_cache(tmp_path / "cache", images, dtype=name, batch_size=2)
    assert len(cache) == 5
    torch.testing.assert_close(cache.read(range(5)), extracted(images).to(dtype))
    assert cache.read([0]).dtype == dtype


def test_features_are_found_by_the_name_of_the_file(images, tmp_path):
    cache = open_cache(tmp_path / "cache", images)
    batch = CachedFeatures([cache], ["bird f/4.png", "bird a/0.png"], [5, 0]).__getitems__([1, 0])
    assert batch["labels"].tolist() == [0, 5]
    assert_close(batch["features"], extracted(images)[[0, 4]])
    with pytest.raises(ValueError, match="no features of 1 files, first 'bird z/1.png'"):
        cache.rows(["bird a/0.png", "bird z/1.png"])


def test_a_cache_is_opened_again_without_the_backbone(images, tmp_path, ran):
    built = open_cache(tmp_path / "cache", images)
    ran.clear()
    opened = open_cache(tmp_path / "cache", images)
    assert torch.equal(maps(opened, images), maps(built, images)) and not ran


def test_photos_may_be_renamed_regrouped_and_left_out(images, tmp_path, ran):
    before = maps(open_cache(tmp_path / "cache", images), images)
    ran.clear()
    moved = renamed(images, [f"elsewhere/{number}.png" for number in range(5)]).select([4, 2, 1])
    moved = moved.remove_columns("label").add_column("label", [1, 1, 6])
    assert torch.equal(maps(open_cache(tmp_path / "cache", moved), moved), before[[4, 2, 1]])
    assert not ran


def test_of_new_photos_only_these_are_computed(images, tmp_path, ran):
    before = maps(open_cache(tmp_path / "cache", images), images)
    ran.clear()
    more = image_data([(6, 2), *ROWS, (6, 3)])
    cache = open_cache(tmp_path / "cache", more)
    assert ran == [2] and len(cache) == 7
    found = maps(cache, more)
    assert torch.equal(found[1:6], before)
    assert_close(found, extracted(more))


def test_a_photo_that_was_changed_is_a_new_one_and_one_that_was_copied_is_not(tmp_path, ran):
    path = tmp_path / "bird.png"
    path.write_bytes(picture(0, 0))
    features = datasets.Features({"image": datasets.Image(), "file": datasets.Value("string")})
    images = datasets.Dataset.from_dict({"image": [str(path)], "file": ["bird.png"]}, features)
    open_cache(tmp_path / "cache", images)
    os.utime(path, ns=(1, 1))  # the same photo, copied anew
    open_cache(tmp_path / "cache", images)
    assert ran == [1]
    path.write_bytes(picture(1, 0))
    assert_close(maps(open_cache(tmp_path / "cache", images), images), extracted(images))
    assert len(FeatureCache(tmp_path / "cache")) == 2


def test_files_with_the_same_bytes_share_a_row(images, tmp_path, ran):
    twins = renamed(image_data([(0, 0), (3, 1), (0, 0)]), ["a.png", "b.png", "copy of a.png"])
    cache = open_cache(tmp_path / "cache", twins)
    assert ran == [2] and cache.rows(["copy of a.png", "a.png", "b.png"]).tolist() == [0, 0, 1]
    open_cache(tmp_path / "cache", image_data(ROWS + ROWS[:1]))  # the same file, listed twice
    assert ran == [2, 3]


def test_a_cache_can_be_sent_to_another_process_with_its_names(images, tmp_path):
    cache = open_cache(tmp_path / "cache", images)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(multiprocessing.reduction.ForkingPickler.dumps, cache).result()
    assert torch.equal(maps(multiprocessing.reduction.ForkingPickler.loads(sent), images), maps(cache, images))


# Views ---------------------------------------------------------------------------------------------------------------


def views(folder: Path, count: int = 2, only=None) -> list[View]:
    augmented = [View(folder / f"view-{n}", {"view": n, **CROP}, only) for n in range(1, count + 1)]
    return [View(folder), View(folder / "mirrored", {"mirrored": True}), *augmented]


class Counting:
    """A progress bar that notes what it was asked to show, and what it has shown."""

    def __init__(self) -> None:
        self.shown, self.asked = 0, []

    def __call__(self, batches, **about):
        self.asked.append(about)
        for batch in batches:
            self.shown += 1
            yield batch


def test_all_views_are_made_in_one_pass_that_decodes_each_photo_once(images, tmp_path, ran, monkeypatch):
    read, bar = [], Counting()
    read_image = feature_caches.FixedViews.__getitems__.__globals__["read_image"]
    monkeypatch.setattr("dedn_hf.data.transforms.read_image", lambda source: read.append(1) or read_image(source))
    caches = open_views(views(tmp_path / "cache"), seeded_model(), images, batch_size=8, bar=bar)
    assert len(read) == 5 and ran == [8, 8, 4]
    assert bar.asked == [
        {"desc": "computing features: 4 views of 5 photos", "total": 3, "initial": 0, "disable": False}
    ]
    assert bar.shown == 3
    plain, mirrored, first, second = (maps(cache, images) for cache in caches)
    assert_close(plain, extracted(images))
    assert_close(mirrored, extracted(images.map(flipped)))
    assert not torch.equal(first, second) and not torch.equal(first, plain)


def flipped(row: dict) -> dict:
    return {**row, "image": row["image"].convert("RGB").transpose(0)}


def test_one_pass_gives_what_a_pass_for_each_view_gives(images, tmp_path):
    together = open_views(views(tmp_path / "a"), seeded_model(), images, batch_size=8, progress=False)
    for cache, view in zip(together, views(tmp_path / "b"), strict=True):
        alone = open_cache(view.folder, images, view=view.options)
        assert_close(maps(cache, images), maps(alone, images).float())


def test_a_view_depends_on_the_photo_and_not_on_its_neighbours(images, tmp_path):
    all_of_them = open_views(views(tmp_path / "a"), seeded_model(), images, progress=False)[-1]
    few = renamed(images.select([4, 1]), ["x", "y"])
    alone = open_views(views(tmp_path / "b"), seeded_model(), few, progress=False)[-1]
    assert_close(maps(alone, few), maps(all_of_them, images)[[4, 1]].float())


def test_only_the_views_that_are_missing_are_computed(images, tmp_path, ran):
    open_views(views(tmp_path / "cache", only=[0, 1]), seeded_model(), images, progress=False)
    assert sum(ran) == 5 + 5 + 2 + 2
    ran.clear()
    bar = Counting()
    caches = open_views(views(tmp_path / "cache", 3, only=[1, 2]), seeded_model(), images, bar=bar)
    assert sum(ran) == 1 + 1 + 2  # of photo 2 all augmented views, of photo 1 the third one
    assert bar.asked[0]["desc"] == "computing features: 3 views of 2 photos"
    assert [len(cache) for cache in caches] == [5, 5, 3, 3, 2]
    open_views(views(tmp_path / "cache", 3, only=[1, 2]), seeded_model(), images, bar=bar)
    assert len(bar.asked) == 1


@pytest.mark.parametrize(("views", "batch_size"), [(1, 4), (3, 8), (9, 4)])
def test_as_many_batches_are_made_as_the_documentation_says(views, batch_size):
    batches = batches_of([tuple(range(views))] * 10 + [()] * 3, batch_size)
    assert len(batches) == -(-10 // max(1, batch_size // views))
    assert [image for batch in batches for image, _ in batch] == list(range(10))


def test_the_progress_says_in_words_what_is_computed():
    assert described(batches_of([(0,)] * 2889, 32)) == "computing features of 2,889 photos"
    assert described(batches_of([(0, 3)], 32)) == "computing features: 2 views of 1 photo"


# What does not fit ---------------------------------------------------------------------------------------------------

OTHERS = {
    "backbone": (
        {"backbone": "test_vit", "image_size": 160},
        "another backbone: test_resnet, not test_vit; .*image_size 64, not 160",
    ),
    "stage": ({"feature_source": "head"}, "another backbone: feature_source stage, not head"),
    "weights": ({"seed": 1}, "made with other weights of the backbone. Give"),
    "squashed": ({"crop_mode": "squash"}, "prepared in another way: crop_mode center, not squash. Give"),
    "size": ({"image_size": 96}, "prepared in another way: image_size 64, not 96; maps of another size"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_cache_of_another_model_is_refused_in_words_with_what_to_do(images, tmp_path, what):
    open_cache(tmp_path / "cache", images)
    changes, words = OTHERS[what]
    with pytest.raises(ValueError, match=f"does not fit. .*{words}") as refused:
        open_cache(tmp_path / "cache", images, seeded_model(**changes))
    assert "Give another folder for the new one, or delete this one" in str(refused.value)
    assert "another backbone" not in str(refused.value) or "weights" not in str(refused.value)


def test_a_cache_of_squashed_pictures_is_refused_for_others(images, tmp_path):
    open_cache(tmp_path / "cache", images, seeded_model(crop_mode="squash"))
    with pytest.raises(ValueError, match="crop_mode squash, not center"):
        open_cache(tmp_path / "cache", images)


def test_a_cache_from_before_pictures_could_be_squashed_is_still_read(images, tmp_path, ran):
    identity = open_cache(tmp_path / "cache", images).identity
    assert set(identity["preprocessing"]) == {"image_size", "image_mean", "image_std", "interpolation", "crop_pct"}
    ran.clear()
    open_cache(tmp_path / "cache", images)
    assert not ran


def test_a_cache_of_another_precision_or_view_is_refused(images, tmp_path):
    open_cache(tmp_path / "cache", images)
    with pytest.raises(ValueError, match="numbers kept in another precision: float16, not bfloat16"):
        open_cache(tmp_path / "cache", images, dtype="bfloat16")
    with pytest.raises(ValueError, match="another precision of computing: float32, not bfloat16"):
        open_cache(tmp_path / "cache", images, precision="bfloat16")
    with pytest.raises(ValueError, match=r"views that are drawn in another way: null, not \{mirrored: true\}"):
        open_cache(tmp_path / "cache", images, view={"mirrored": True})
    with pytest.raises(ValueError, match="precision is 'float64'; use auto, float32 or bfloat16"):
        open_cache(tmp_path / "cache", images, precision="float64")


def test_nothing_is_computed_where_one_of_several_caches_does_not_fit(images, tmp_path, ran):
    open_cache(tmp_path / "cache" / "mirrored", images, seeded_model(1), view={"mirrored": True})
    ran.clear()
    with pytest.raises(ValueError, match="mirrored does not fit"):
        open_views(views(tmp_path / "cache"), seeded_model(), images, progress=False)
    assert not ran


def test_a_cache_of_an_earlier_version_is_refused_with_one_sentence(images, tmp_path):
    (tmp_path / "cache.json").write_text(json.dumps({"dtype": "float16", "files": ["bird a/0.png"]}))
    with pytest.raises(ValueError, match="made by another version of dedn_hf.*: delete it, or give another folder"):
        open_cache(tmp_path, images)


def test_what_cannot_be_cached_is_refused(images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="float16 or bfloat16, not 'float32'"):
        open_cache(tmp_path / "cache", images, dtype="float32")
    with pytest.raises(ValueError, match="Two images are called 'a.png'"):
        open_cache(tmp_path / "cache", renamed(images.select([0, 1]), ["a.png", "a.png"]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        open_cache(tmp_path / "full", images)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    monkeypatch.setattr(DEDNForZeroShot, "extract_features", lambda self, pixels: torch.full((len(pixels), 1), 1e6))
    with pytest.raises(ValueError, match="float16's range.*bfloat16"):
        open_cache(tmp_path / "cache", images)


# Precision chosen by itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_auto_takes_what_is_faster_and_stays_with_it(faster, images, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_caches, "faster_precision", lambda _: faster)
    cache = open_cache(tmp_path / "cache", images, precision="auto")
    assert cache.identity["precision"] == faster
    monkeypatch.setattr(feature_caches, "faster_precision", lambda _: pytest.fail("measured again"))
    added = open_views(views(tmp_path / "cache"), seeded_model(), images, precision="auto", progress=False)
    assert {cache.identity["precision"] for cache in added} == {faster}


# Damage, and processes that end --------------------------------------------------------------------------------------


def test_maps_that_are_cut_off_are_refused(images, tmp_path):
    folder = tmp_path / "cache"
    open_cache(folder, images)
    os.truncate(folder / "features.bin", 100)
    with pytest.raises(ValueError, match="features.bin is damaged.*Delete"):
        FeatureCache(folder)
    (folder / "cache.json").write_text("{")
    with pytest.raises(ValueError, match="cache.json is damaged"):
        FeatureCache(folder)


DAMAGES = {"cut": b"", "letter": b"0" * 64 + b"?", "zeros": b"\0" * 65, "byte": b"\xff"}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_after_a_damaged_line_of_the_index_maps_are_computed_again(damage, images, tmp_path, ran):
    expected = maps(open_cache(tmp_path / "cache", images), images)
    index = tmp_path / "cache" / "images.txt"
    lines = index.read_bytes().splitlines(keepends=True)
    assert [len(line) for line in lines] == [65] * 5
    index.write_bytes(b"".join(lines[:2]) + damage + (b"".join(lines[3:]) if damage else lines[2][:30]))
    assert len(FeatureCache(tmp_path / "cache")) == 2
    ran.clear()
    cache = open_cache(tmp_path / "cache", images)
    assert ran == [3] and len(cache) == 5
    assert_close(maps(cache, images), expected.float())


def killed_at(batch: int, folder: Path, images: datasets.Dataset, several: bool) -> None:
    """Begin a cache, in a process that kills itself before this batch."""
    feature_caches.RECORD_EVERY = 1
    left, extract_features = [batch], DEDNForZeroShot.extract_features

    def computed(self, pixels):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return extract_features(self, pixels)

    DEDNForZeroShot.extract_features = computed
    wanted = views(folder) if several else [View(folder)]
    open_views(wanted, seeded_model(), images, batch_size=2, progress=False)


def run_and_kill(*arguments) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("several", [False, True])
def test_a_killed_extraction_goes_on_with_the_photo_it_was_at(several, images, tmp_path, ran):
    wanted = views if several else lambda folder: [View(folder)]
    whole = open_views(wanted(tmp_path / "whole"), seeded_model(), images, batch_size=2, progress=False)
    needed = list(ran)
    run_and_kill(3, tmp_path / "cache", images, several)
    assert len(FeatureCache(tmp_path / "cache")) == (2 if several else 4)
    with open(tmp_path / "cache" / "features.bin", "ab") as file:
        file.write(b"half a map that was written before the process was killed")
    ran.clear()
    caches = open_views(wanted(tmp_path / "cache"), seeded_model(), images, batch_size=2, progress=False)
    assert ran == needed[2:]
    for cache, expected in zip(caches, whole, strict=True):
        assert torch.equal(maps(cache, images), maps(expected, images))


def test_a_cache_that_another_process_is_making_is_waited_for(images, tmp_path, monkeypatch):
    waiting = Event()
    monkeypatch.setattr(
        feature_caches.logger, "warning", lambda text, _: waiting.set() if "is making" in text else None
    )
    built = open_cache(tmp_path / "cache", images)
    more = image_data([*ROWS, (6, 6)])
    with ThreadPoolExecutor(1) as pool, FileLock(tmp_path / "cache.lock"):
        found = pool.submit(open_cache, tmp_path / "cache", more)
        assert waiting.wait(60)
        assert not found.done()
    assert torch.equal(maps(found.result(), images), maps(built, images))
    assert len(found.result()) == 6


def add(folder: Path, number: int, together) -> None:
    """Wait for the other process, then open the cache for some photos of one's own and some of both."""
    torch.set_num_threads(1)
    images, model = image_data([*ROWS, *((6, number * 10 + i) for i in range(4))]), seeded_model()
    together.wait(60)
    cache = open_cache(folder, images, model, batch_size=2)
    assert_close(maps(cache, images), extracted(images))


def test_two_processes_add_to_one_cache_and_nothing_is_there_twice(tmp_path):
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)
    processes = [context.Process(target=add, args=(tmp_path / "cache", number, together)) for number in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    lines = (tmp_path / "cache" / "images.txt").read_text().split()
    assert len(lines) == len(set(lines)) == len(ROWS) + 2 * 4
