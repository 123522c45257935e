"""Labels that a person gave: which rows count, which are left out and why, and which are errors."""

import csv
from pathlib import Path

import pytest

from dedn_hf.data import load
from dedn_hf.data.labelled import read_labelled
from dedn_hf.data.photos import Photos
from tests.fake_data import jpeg, write_folder

TABLE = """species;bill;crest
001.Red_kite;hooked;no
wren;thin;no
tern;straight;no
jay;strong;yes
"""


@pytest.fixture
def birds(tmp_path):
    """Ten photos in one folder, and a table of four birds."""
    (tmp_path / "photos").mkdir()
    for number in range(10):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(100 + number))
    (tmp_path / "birds.csv").write_text(TABLE)
    return tmp_path


def write(birds: Path, rows: list[dict], name: str = "answers.csv") -> Path:
    """A list as `dedn classify --label-column` writes it, with absolute paths."""
    with open(birds / name, "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "answer", "label", "error"])
        writer.writeheader()
        writer.writerows({"file": birds / "photos" / row.pop("file"), **row} for row in rows)
    return birds / name


def read(birds: Path, labels: Path, **options):
    return read_labelled(labels, birds / "photos", birds / "birds.csv", **options)


def said(found: Photos) -> dict[str, str]:
    return {Path(photo.path).name: photo.label for photo in found.photos}


def test_a_class_or_a_yes_is_a_label_and_an_answer_alone_is_none(birds):
    rows = [
        {"file": "0.jpg", "answer": "wren", "label": "yes"},
        {"file": "1.jpg", "answer": "wren", "label": "Jay"},
        {"file": "2.jpg", "answer": "wren", "label": ""},
        {"file": "3.jpg", "answer": "unknown", "label": "red kite"},
        {"file": "4.jpg", "answer": "tern", "label": "OK"},
    ]
    every = read(birds, write(birds, rows))
    assert said(every.photos) == {"0.jpg": "wren", "1.jpg": "Jay", "3.jpg": "red kite", "4.jpg": "tern"}
    assert every.table.class_names == ["red kite", "wren", "tern", "Jay"]  # as with folders: called as people do
    assert every.photos.describe_skipped() == ["1 rows without a label: 2.jpg"]


def test_what_is_left_out_is_counted_by_reason(birds):
    rows = [
        {"file": "0.jpg", "answer": "wren", "label": "yes"},
        {"file": "1.jpg", "answer": "wren", "label": "no"},
        {"file": "2.jpg", "answer": "unknown", "label": "yes"},
        {"file": "3.jpg", "answer": "wren", "label": "unknown"},
        {"file": "4.jpg", "answer": "", "label": "wren", "error": "truncated"},
        {"file": "5.jpg", "answer": "wren", "label": ""},
        {"file": "6.jpg", "answer": "wren", "label": ""},
    ]
    lines = read(birds, write(birds, rows)).photos.describe_skipped()
    assert [line.partition(":")[0] for line in lines] == [
        "2 photos of an unknown class",
        "2 rows without a label",
        "1 answers marked as wrong, without the class",
        "1 photos that could not be read",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("0.jpg", "", "wren"), ("1.jpg", "", "wrenn")],
            "row 3: the table has no class 'wrenn'. Did you mean 'wren'",
        ),
        ([("0.jpg", "", "wren"), ("1.jpg", "gulls", "yes")], "row 3: the table has no class 'gulls'"),
        ([("0.jpg", "gulls", "yes")], "the first in row 2: 'gulls'"),
        ([("0.jpg", "wren", "yes"), ("11.jpg", "wren", "yes")], "row 3: there is no photo '.*11.jpg'; 1 such in all"),
        ([("0.jpg", "", "wren"), ("0.jpg", "", "jay")], "row 3: .*0.jpg is 'jay' here, and 'wren' in row 2"),
        ([("0.jpg", "wren", ""), ("1.jpg", "jay", "no")], "labels no photo. 1 rows without a label"),
    ],
)
def test_what_cannot_be_a_label_is_named_with_its_row(rows, message, birds):
    labels = write(birds, [dict(zip(("file", "answer", "label"), row, strict=True)) for row in rows])
    with pytest.raises(ValueError, match=message):
        read(birds, labels)


def test_a_photo_may_stand_twice_with_the_same_label(birds):
    rows = [{"file": "0.jpg", "label": "wren"}, {"file": "0.jpg", "label": "Wren"}, {"file": "1.jpg", "label": "jay"}]
    assert said(read(birds, write(birds, rows)).photos) == {"0.jpg": "wren", "1.jpg": "jay"}


def test_answers_without_a_column_for_labels_are_refused(birds):
    (birds / "answers.csv").write_text(f"file,answer\n{birds / 'photos' / '0.jpg'},wren\n")
    with pytest.raises(ValueError, match="has no column 'label'. Answers of a model are not taken for labels"):
        read(birds, birds / "answers.csv")
    (birds / "labels.csv").write_text(f"file,label\n{birds / 'photos' / '0.jpg'},yes\n")
    with pytest.raises(ValueError, match="row 2: the label is 'yes', and there is no column 'answer'"):
        read(birds, birds / "labels.csv")


def test_paths_may_be_relative_to_the_photos_or_to_the_list(birds):
    (birds / "labels.csv").write_text("file;species\n0.jpg;wren\nphotos/1.jpg;jay\n")
    assert said(read(birds, birds / "labels.csv").photos) == {"0.jpg": "wren", "1.jpg": "jay"}


def test_paths_may_be_those_of_windows(birds):
    (birds / "list.csv").write_text("file,label\n.\\0.jpg,wren\nphotos\\1.jpg,tern\n")
    assert said(read(birds, birds / "list.csv").photos) == {"0.jpg": "wren", "1.jpg": "tern"}


def test_two_columns_of_labels_are_refused(birds):
    (birds / "list.csv").write_text("file,label,Label\n0.jpg,wren,\n")
    with pytest.raises(ValueError, match="2 columns are called 'label'; rename all but one"):
        read(birds, birds / "list.csv")


def test_labels_go_with_groups_of_attributes(birds):
    table = read(birds, write(birds, [{"file": "0.jpg", "label": "jay"}])).table
    groups = dict.fromkeys(table.attribute_names, "looks")
    every = read(birds, birds / "answers.csv", groups=groups)
    assert set(every.table.attribute_groups) == {"looks"} and every.report.seen == 1


def test_folders_mean_nothing_where_there_are_labels(birds):
    write_folder(birds / "photos", {"tern": 3})
    every = read(birds, write(birds, [{"file": "tern/0.jpg", "label": "wren"}, {"file": "1.jpg", "label": "jay"}]))
    assert said(every.photos) == {"0.jpg": "wren", "1.jpg": "jay"}
    seen = dict(zip(every.table.class_names, every.table.seen.tolist(), strict=True))
    assert seen == {"001.Red_kite": False, "wren": True, "tern": False, "jay": True}


def test_old_photos_keep_their_division_and_take_the_labelled_ones_in(birds):
    write_folder(birds / "old", {"Red kite": 10, "wren": 10})
    before, _ = load("folder", birds / "old", csv=birds / "birds.csv", cache_dir=birds / "cache")
    rows = [{"file": f"{number}.jpg", "label": ("jay", "red kite")[number % 2]} for number in range(10)]
    options = {"csv": birds / "birds.csv", "labels": write(birds, rows), "old_photos": birds / "old"}
    after, table = load("folder", birds / "photos", cache_dir=birds / "cache", **options)
    assert [table.class_names[label] for label in sorted(set(after["train"]["label"]))] == ["Red kite", "wren", "jay"]
    for split in ("train", "test_seen"):
        assert set(before[split]["file"]) == {file for file in after[split]["file"] if not file.startswith("..")}
    assert len(after["train"]) + len(after["test_seen"]) == 30


def test_a_label_that_contradicts_the_folder_of_an_old_photo_is_an_error(birds):
    write_folder(birds / "photos", {"wren": 2, "tern": 2})
    labels = write(birds, [{"file": "wren/0.jpg", "label": "tern"}])
    with pytest.raises(ValueError, match="row 2: .*is 'tern' here, and 'wren' in its folder"):
        read(birds, labels, old_photos=birds / "photos")
    labels = write(birds, [{"file": "wren/0.jpg", "label": "wren"}])
    assert len(read(birds, labels, old_photos=birds / "photos").photos.photos) == 0
