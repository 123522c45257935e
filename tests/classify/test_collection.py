"""What `dedn classify` looks at: folders, files, lists and data sets, each photo once, in the order given."""

import csv
import json
import tracemalloc

import datasets
import pytest
import torch
from pyarrow import Table, parquet

from dedn_hf.classify import classify, collect, collection
from dedn_hf.cli import main
from dedn_hf.data import prepare
from tests.fake_data import write_csv, write_folder
from tests.tiny_runs import image_data, image_model, picture


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return image_model().eval()


@pytest.fixture
def photos(tmp_path):
    """Three photos in two folders."""
    for number, name in enumerate(("a/0.png", "a/1.png", "b.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(picture(number, 0))
    return tmp_path / "photos"


def names(found) -> list[str]:
    return [name for name, _ in found]


def test_photos_are_sorted_by_path_and_each_is_there_once(photos):
    everything = sorted(map(str, (photos / "a/0.png", photos / "a/1.png", photos / "b.png")))
    assert names(collect([photos])) == everything
    assert names(collect([photos / "b.png", photos, photos / "a"])) == [everything[2], *everything[:2]]


def test_the_path_decides_on_the_order_and_not_the_folder(tmp_path):
    for name in ("a.png", "a-1/x.png", "a/x.png", "a0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(0, 0))
    found = names(collect([tmp_path]))
    assert found == sorted(found) and len(found) == 4


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["file_name", "Path", "image"])
def test_a_list_names_photos_below_its_own_folder(suffix, column, photos):
    listed = ["b.png", "a/0.png", "b.png", "", "gone.png"]
    path = photos / f"list{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join(listed))
    elif suffix == ".parquet":
        parquet.write_table(Table.from_pydict({"site": list("vwxyz"), column: listed}), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"site": 1, column: name}) + "\n" for name in listed))
    else:
        sign, cells = {".csv": ";", ".tsv": "\t"}[suffix], [column, *listed]
        path.write_text("\n".join(f"{site}{sign}{name}" for site, name in zip("svwxyz", cells, strict=True)))
    found = collect([path])
    assert names(found) == ["b.png", "a/0.png", "gone.png"]
    assert [source for _, source in found] == [str(photos / name) for name in names(found)]


def test_a_photo_of_a_list_that_is_not_there_has_a_row_that_says_so(model, photos, tmp_path):
    (photos / "list.csv").write_text("where,what\nb.png,x\ngone.png,y\n")
    summary = classify(model, photos / "list.csv", tmp_path / "answers.csv", file_column="where")
    with open(tmp_path / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["b.png", "gone.png"]
    assert rows[0]["answer"] and "No such file" in rows[1]["error"] and summary.unreadable == 1


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("place,what\nb.png,x\n", None, "no column of files: call it 'file_name'. It has place, what."),
        ("place,what\nb.png,x\n", "plaice", "no column 'plaice'. Did you mean 'place'?"),
        ("file\nelsewhere/b.png\n", None, "names 1 files, and none is there.*relative to"),
    ],
)
def test_a_list_that_says_nothing_of_photos_is_refused(content, column, message, photos):
    (photos / "list.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        collect([photos / "list.csv"], column)


def test_broken_lists_are_refused(photos):
    for name in ("list.jsonl", "list.parquet"):
        (photos / name).write_text("{broken")
        with pytest.raises(ValueError, match="no list of photos that can be read"):
            collect([photos / name])


# Data sets -----------------------------------------------------------------------------------------------------------


def answers(model, source, out, **options) -> dict[str, str]:
    classify(model, source, out, **options)
    return {row["file"]: row["answer"] for row in map(json.loads, out.read_text().splitlines())}


def test_a_saved_data_set_gives_the_answers_of_its_files(model, photos, tmp_path):
    rows = [(0, 0), (1, 0), (2, 0)]
    expected = list(answers(model, photos, tmp_path / "expected.jsonl").values())
    data = image_data(rows)
    datasets.DatasetDict(test=data, more=data.select([1])).save_to_disk(tmp_path / "saved")
    found = answers(model, tmp_path / "saved", tmp_path / "answers.jsonl")
    assert list(found) == [*(f"test/{name}" for name in data["file"]), f"more/{data['file'][1]}"]
    assert list(found.values()) == [*expected, expected[1]]
    data.remove_columns("file").rename_column("image", "pixels").to_parquet(tmp_path / "some.parquet")
    found = answers(model, tmp_path / "some.parquet", tmp_path / "more.jsonl", num_workers=2, batch_size=2)
    assert found == {f"some/{number}": answer for number, answer in enumerate(expected)}


def test_what_prepare_wrote_is_classified(model, tmp_path):
    counts = {"Crow": 3, "Owl": 2, "Tit": 2}
    write_folder(tmp_path / "zoo", counts)
    table = write_csv(tmp_path / "zoo.csv", {"Crow": "train", "Owl": "train", "Tit": "unseen"})
    prepare("folder", tmp_path / "prepared", tmp_path / "zoo", csv=table)
    assert len(answers(model, tmp_path / "prepared", tmp_path / "answers.jsonl")) == sum(counts.values())


def test_a_row_without_an_image_says_so(model, tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    data = datasets.Dataset.from_dict({"image": [{"bytes": picture(0, 0), "path": None}, None]}, features)
    data.save_to_disk(tmp_path / "saved")
    summary = classify(model, tmp_path / "saved", tmp_path / "answers.csv")
    assert (summary.photos, summary.unreadable) == (2, 1)


def test_another_column_of_images_can_be_named_and_an_unknown_one_is_refused(tmp_path):
    images = [{"bytes": picture(0, 0), "path": None}]
    features = datasets.Features({"image": datasets.Image(), "thumb": datasets.Image()})
    datasets.Dataset.from_dict({"image": images, "thumb": images}, features).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="2 columns of images"):
        collect([tmp_path / "saved"])
    assert len(collect([tmp_path / "saved"], "thumb")) == 1
    with pytest.raises(ValueError, match="no column 'thump'. Did you mean 'thumb'"):
        collect([tmp_path / "saved"], "thump")


@pytest.mark.parametrize("source", ["nowhere", "no/where", "a/b/c", "/no/where", "./nowhere"])
def test_a_source_that_is_nothing_is_named(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no file or folder .*{source.removeprefix('./')}"):
        collect([source])


# Very many -----------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_paths_take_little_more_than_their_letters(tmp_path):
    def listing():
        return (f"/photos/of/the/summer/day-{number // 1000}/IMG_{number:06d}.JPG" for number in range(100_000))

    letters = sum(map(len, listing()))
    tracemalloc.start()
    files = collection.Files(listing())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1.15 * letters + 8.5 * len(files)
    assert files[99_999] == ("/photos/of/the/summer/day-99/IMG_099999.JPG",) * 2
    assert len(collection.without_repeats([files, files])[1]) == 0


def test_the_command_takes_a_list(model, photos, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    (photos / "list.csv").write_text("where,what\nb.png,x\n")
    given = ["classify", str(tmp_path / "model"), str(photos / "list.csv"), "--out", str(tmp_path / "answers.csv")]
    assert main(given) == 2
    assert "no column of files" in capsys.readouterr().err
    assert main([*given, "--file-column", "where"]) == 0
