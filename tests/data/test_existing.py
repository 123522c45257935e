"""A data set that somebody has already, with a table of attributes."""

import datasets
import pytest

from dedn_hf.cli import main
from dedn_hf.data import load, prepare
from dedn_hf.data.stored import is_dataset
from dedn_hf.data.testing import photos_to_test
from tests.fake_data import jpeg, write_csv

ROLES = {"Wren": "train", "Kite": "train", "Swan": "unseen"}


def birds(labels: list[str], feature=None) -> datasets.Dataset:
    features = datasets.Features({"photo": datasets.Image(), "species": feature or datasets.Value("string")})
    images = [{"bytes": jpeg(number), "path": None} for number in range(len(labels))]
    if feature is not None:
        labels = [feature.str2int(label) for label in labels]
    return datasets.Dataset.from_dict({"photo": images, "species": labels}, features)


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "table.csv", ROLES)


def loaded(folder, table, tmp_path, **options):
    return load("existing", str(folder), csv=table, cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("feature", [None, datasets.ClassLabel(names=["Swan", "Kite", "Wren"])])
def test_a_saved_data_set_is_read_by_its_labels(feature, table, tmp_path):
    birds(["Wren"] * 5 + ["Kite"] * 5 + ["Swan"] * 3, feature).save_to_disk(tmp_path / "saved")
    splits, found = loaded(tmp_path / "saved", table, tmp_path)
    assert {split: len(images) for split, images in splits.items()} == {"train": 8, "test_seen": 2, "test_unseen": 3}
    assert {found.class_names[label] for label in splits["test_unseen"]["label"]} == {"Swan"}
    assert [image.size for image in splits["train"]["image"]] == [(24, 16)] * 8


def test_its_test_split_is_tested_on(table, tmp_path):
    both = datasets.DatasetDict(train=birds(["Wren"] * 3 + ["Kite"] * 2), test=birds(["Wren", "Kite", "Swan"]))
    both.save_to_disk(tmp_path / "saved")
    splits, _ = loaded(tmp_path / "saved", table, tmp_path)
    assert splits["test_seen"]["file"][:] == ["test/0", "test/1"] and len(splits["train"]) == 5


def test_a_folder_of_parquet_files_is_read_and_prepared(table, tmp_path):
    birds(["Wren"] * 3 + ["Kite"] * 2 + ["Swan"]).to_parquet(tmp_path / "hub" / "data" / "train.parquet")
    folder = prepare("existing", tmp_path / "prepared", tmp_path / "hub", csv=table)
    assert sum(len(images) for images in load(folder)[0].values()) == 6


def test_an_image_that_does_not_decode_is_left_out(table, tmp_path, caplog):
    rows = birds(["Wren"] * 3 + ["Kite"] * 3).cast_column("photo", datasets.Image(decode=False)).to_list()
    rows[0]["photo"]["bytes"] = b"no image"
    datasets.Dataset.from_list(rows).cast_column("photo", datasets.Image()).save_to_disk(tmp_path / "saved")
    splits, _ = loaded(tmp_path / "saved", table, tmp_path)
    assert "train/0" not in [*splits["train"]["file"], *splits["test_seen"]["file"]]
    assert "1 of 6 images do not decode" in caplog.text


def test_columns_that_cannot_be_told_have_to_be_named(table, tmp_path):
    rows = birds(["Wren"] * 3 + ["Kite"] * 3).rename_column("species", "kind of bird")
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="give label_column, one of photo, kind of bird"):
        loaded(tmp_path / "saved", table, tmp_path)
    assert len(loaded(tmp_path / "saved", table, tmp_path, label_column="kind of bird")[0]["train"]) == 4


def test_what_is_no_data_set_is_refused(table, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no data set that `datasets` opens"):
        loaded(tmp_path / "empty", table, tmp_path)


def test_a_label_without_a_row_is_named(table, tmp_path):
    birds(["Wren"] * 3 + ["Kits"] * 3).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="first 'Kits'. Did you mean 'Kite'"):
        loaded(tmp_path / "saved", table, tmp_path)


@pytest.mark.parametrize("kind", ["saved", "folder of parquet", "parquet"])
def test_a_data_set_stands_where_a_folder_of_photos_may_stand(kind, table, tmp_path, capsys):
    rows, source = birds(["Wren"] * 5 + ["Kite"] * 5 + ["Swan"] * 3), tmp_path / "source"
    if kind == "saved":
        rows.save_to_disk(source)
    elif kind == "parquet":
        source = tmp_path / "source.parquet"
        rows.to_parquet(source)
    else:
        rows.to_parquet(source / "data" / "train.parquet")
    splits, found = load("folder", source, csv=table, cache_dir=tmp_path / "cache")
    assert {split: len(images) for split, images in splits.items()} == {"train": 8, "test_seen": 2, "test_unseen": 3}
    tested, _ = photos_to_test(source, found)
    assert tested["test_seen"]["file"][:] == splits["test_seen"]["file"][:]
    assert tested["test_seen"]["image"][0].tobytes() == splits["test_seen"]["image"][0].tobytes()
    assert main(["check", str(source), "--traits", str(table)]) == 0
    assert "13 photos of 3 classes" in capsys.readouterr().out
    prepared = prepare("folder", tmp_path / "prepared", source, csv=table)
    assert sum(len(images) for images in load(prepared)[0].values()) == 13


def test_labels_of_a_data_set_and_a_table_are_matched_as_folders_are(tmp_path):
    birds(["house_wren"] * 3 + ["Kite"] * 3).save_to_disk(tmp_path / "saved")
    (tmp_path / "t.csv").write_text("species;a;b\nHouse Wren;1;2\nKite;3;1\nSwan;2;9\n")
    given = {"csv": tmp_path / "t.csv", "ignore": ["b"], "cache_dir": tmp_path / "cache"}
    _, found = load("folder", tmp_path / "saved", **given)
    assert found.class_names == ["house_wren", "Kite", "Swan"]
    assert found.attribute_names == ["a"]


def test_a_wrong_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert not is_dataset("photos/birds")
    assert not is_dataset("/nowhere/birds")
    assert not is_dataset("birds")
    assert is_dataset("somebody/birds")
