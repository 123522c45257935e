"""`dedn prepare`: Parquet folders that anyone opens, whole or not at all."""

import json
import os
import re
import signal
import subprocess
import sys

import datasets
import pytest
from huggingface_hub import DatasetCard

from dedn_hf.cli import main
from dedn_hf.data import load, prepare
from dedn_hf.data import preparing as preparing_module
from dedn_hf.data.dataset_card import size_category
from dedn_hf.modeling.attribute_table import AttributeTable
from tests.fake_data import classes_of, jpeg, write_benchmark, write_csv, write_folder


@pytest.fixture
def birds(tmp_path):
    return write_benchmark(tmp_path / "birds", "cub", classes_of("cub"))


def contents(splits: datasets.DatasetDict) -> dict[str, list[tuple[str, int]]]:
    return {split: list(zip(ds["file"], ds["label"], strict=True)) for split, ds in splits.items()}


@pytest.mark.parametrize("validation", [False, True])
def test_a_prepared_folder_reads_back_as_the_data_set_itself(validation, birds, tmp_path):
    direct, table = load("cub", birds, validation=validation, cache_dir=tmp_path / "cache")
    prepared, prepared_table = load(
        prepare("cub", tmp_path / "out", birds), validation=validation, cache_dir=tmp_path / "cache"
    )
    assert contents(prepared) == contents(direct)
    assert prepared["train"].features == direct["train"].features
    assert (prepared_table.class_names, prepared_table.roles) == (table.class_names, table.roles)
    assert (prepared_table.class_attributes == table.class_attributes).all()
    assert (prepared_table.attribute_embeddings == table.attribute_embeddings).all()


def test_images_keep_their_original_bytes_and_are_stored_once(birds, tmp_path):
    out = prepare("cub", tmp_path / "out", birds)
    splits = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    splits = splits.cast_column("image", datasets.Image(decode=False))
    rows = [row for dataset in splits.values() for row in dataset]
    assert all(row["image"]["bytes"] == (birds / row["file"]).read_bytes() for row in rows)
    stored = sum(
        datasets.Dataset.from_parquet(str(p), cache_dir=str(tmp_path)).num_rows for p in out.rglob("*.parquet")
    )
    assert stored == len(rows) == sum(1 for _ in birds.rglob("*.jpg"))


def test_the_folder_opens_where_this_package_cannot_be_imported(birds, tmp_path):
    out = prepare("cub", tmp_path / "out", birds)
    code = (
        "import sys; sys.modules['dedn_hf'] = None\n"
        "import datasets\n"
        f"for config in (None, 'validation'):\n"
        f"    splits = datasets.load_dataset({str(out)!r}, config, cache_dir={str(tmp_path / 'cache')!r})\n"
        "    print(*splits, splits['train'][0]['image'].size, splits['train'].features['label'].num_classes)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.splitlines() == [
        "train test_seen test_unseen (24, 16) 4",
        "train val_seen val_unseen (24, 16) 4",
    ]


def test_small_shards_hold_the_same_images(birds, tmp_path):
    many = load(prepare("cub", tmp_path / "many", birds, max_shard_size="1KB"), cache_dir=tmp_path / "cache")[0]
    one = load(prepare("cub", tmp_path / "one", birds), cache_dir=tmp_path / "cache")[0]
    assert contents(many) == contents(one)


def test_an_interruption_leaves_nothing_and_the_next_run_starts_cleanly(birds, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparing_module, "write_dataset_card", interrupt)
        prepare("cub", tmp_path / "out", birds)
    assert not (tmp_path / "out").exists()
    assert len(load(prepare("cub", tmp_path / "out", birds), cache_dir=tmp_path / "cache")[0]["train"]) == 24


def test_a_killed_run_leaves_no_folder_that_looks_finished(tmp_path):
    out = tmp_path / "out"
    code = (
        "import os, signal\n"
        "from dedn_hf.data import preparing\n"
        "preparing.write_dataset_card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"  # all images are written
        f"preparing.prepare('shapes', {str(out)!r}, images_per_class=5, image_size=16)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists() and (tmp_path / "out.dedn-unfinished").exists()
    prepare("shapes", out, images_per_class=5, image_size=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_foreign_folder_is_refused_unless_overwritten(birds, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="did not write it"):
        prepare("cub", tmp_path / "out", birds)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"
    prepare("cub", tmp_path / "out", birds, overwrite=True)
    assert not (tmp_path / "out" / "thesis.txt").exists()


def test_a_file_is_never_overwritten(birds, tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(FileExistsError, match="is a file"):
        prepare("cub", tmp_path / "out", birds, overwrite=True)


def test_a_finished_folder_is_replaced(birds, tmp_path):
    prepare("cub", tmp_path / "out", birds)
    prepare("shapes", tmp_path / "out", images_per_class=5, image_size=16)
    assert json.loads((tmp_path / "out" / "dedn.json").read_text())["name"] == "shapes"


def test_left_out_images_are_on_record(birds, tmp_path):
    damaged = sorted(birds.rglob("*.jpg"))[0]
    damaged.write_bytes(jpeg(0)[:-200])
    record = json.loads((prepare("cub", tmp_path / "out", birds) / "dedn.json").read_text())
    assert list(record["left_out"]) == [damaged.relative_to(birds).as_posix()]
    with pytest.raises(ValueError, match="does not decode"):
        prepare("cub", tmp_path / "strict", birds, strict=True)
    assert not list(tmp_path.glob("strict*"))


def test_part_boxes_survive(tmp_path):
    out = prepare("shapes", tmp_path / "out", images_per_class=5, image_size=16)
    direct, _ = load("shapes", images_per_class=5, image_size=16, cache_dir=tmp_path / "cache")
    prepared, _ = load(out, cache_dir=tmp_path / "cache")
    assert prepared["test_seen"]["parts"][:] == direct["test_seen"]["parts"][:]


def test_a_folder_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no prepared data set"):
        load(tmp_path)


def test_the_command_prepares_a_folder(tmp_path, capsys):
    root = write_folder(tmp_path / "zoo", {"lynx": 5, "okapi": 5, "zebra": 5})
    csv = write_csv(tmp_path / "a.csv", {"lynx": "train", "okapi": "train", "zebra": "unseen"})
    command = ["prepare", "folder", "--data-dir", str(root), "--csv", str(csv), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert AttributeTable.load(tmp_path / "out").class_names == ["lynx", "okapi", "zebra"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cbu"], "Did you mean 'cub'"),
        (["cub"], "needs --data-dir"),
        (["shapes", "--csv", "a.csv"], "shapes takes no --csv"),
        (["awa2", "--data-dir", "nowhere"], "nowhere holds no image folder of awa2"),
    ],
)
def test_the_command_says_what_to_mend(arguments, message, tmp_path, capsys):
    assert main(["prepare", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_card_says_what_is_in_the_folder_and_on_which_terms(birds, tmp_path):
    out = prepare("cub", tmp_path / "out", birds)
    card = DatasetCard.load(out / "README.md")
    assert card.data.pretty_name == "CUB-200-2011" and card.data.license == "unknown"
    assert card.data.task_categories == ["zero-shot-image-classification"]
    assert card.data.size_categories == ["n<1K"]
    missing = json.loads((out / "dedn.json").read_text())["missing_classes"]
    assert f"Not in it: {len(missing)} classes" in card.text and missing[0] in card.text
    assert "non-commercial research" in card.text


def test_the_code_in_the_card_runs(tmp_path):
    out = prepare("shapes", tmp_path / "out", images_per_class=5, image_size=32)
    card = DatasetCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for line in "\n".join(blocks).replace("path/to/data", str(out)).splitlines():
        if "snapshot_download" not in line:  # that part needs the Hub: tests/test_hub.py
            exec(line, names)
    assert set(names["splits"]) == {"train", "val_seen", "val_unseen"}
    assert names["table"].class_names == names["splits"]["train"].features["label"].names


SIZES = [(999, "n<1K"), (1000, "1K<n<10K"), (11_788, "10K<n<100K"), (10**7, "n>1M")]


@pytest.mark.parametrize(("images", "category"), SIZES)
def test_size_categories_are_the_words_of_the_hub(images, category):
    assert size_category(images) == category
