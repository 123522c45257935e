"""`dedn classify`: one row a photo, in order, whatever is broken, stopped, or shared between processes."""

import csv
import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from pyarrow import parquet

from dedn_hf import DEDNPipeline
from dedn_hf.classify import COLUMNS, classify
from dedn_hf.classify import classifier as module
from dedn_hf.cli import main
from dedn_hf.modeling.attribute_table import AttributeTable
from tests.tiny_runs import image_model, picture, tiny_table


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return image_model().eval()


@pytest.fixture
def photos(tmp_path):
    """Ten photos in folders, one of them broken, beside a text."""
    root = tmp_path / "photos"
    for number in range(9):
        path = root / f"day {number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number % 7, number))
    (root / "day 1" / "broken.png").write_bytes(picture(0, 0)[:-400])
    (root / "notes.txt").write_text("no photo")
    return root


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_every_photo_has_a_row_in_order_and_the_broken_one_says_why(model, photos, tmp_path):
    found = classify(model, photos, tmp_path / "answers.csv", batch_size=3)
    rows = rows_of(tmp_path / "answers.csv")
    files = [Path(row["file"]).relative_to(photos).as_posix() for row in rows]
    assert files == sorted(files) and len(files) == 10 and list(rows[0]) == list(COLUMNS)
    (broken,) = [row for row in rows if row["error"]]
    assert broken["file"].endswith("broken.png") and not broken["answer"] and not broken["confidence"]
    assert (found.photos, found.unreadable, found.unknown) == (10, 1, 0)
    assert found.skipped == ["1 no pictures: notes.txt"]


def test_answers_are_those_of_the_pipeline(model, photos, tmp_path):
    classify(model, photos, tmp_path / "answers.jsonl")
    pipeline = DEDNPipeline(model, image_processor=model.image_processor())
    for row in map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines()):
        if not row["error"]:
            best, second = pipeline(row["file"], top_k=2)
            assert (row["answer"], row["second"]) == (best["label"], second["label"])
            assert row["confidence"] == pytest.approx(best["score"], abs=1e-5)
            assert row["margin"] == pytest.approx(best["score"] - second["score"], abs=1e-5)
            label = model.config.label2id[row["answer"]]
            assert row["learned_from"] == ("photos" if model.seen[label] else "description")


def test_attributes_speak_for_the_answer_and_against_the_second(model, photos, tmp_path):
    classify(model, photos / "day 0" / "0.png", tmp_path / "answers.csv")
    (row,) = rows_of(tmp_path / "answers.csv")
    pixels = model.image_processor()(images=Image.open(photos / "day 0" / "0.png").convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        scores = model.score_attributes(**pixels)[0]
        best, second = (model.config.label2id[row[column]] for column in ("answer", "second"))
        adds = scores * (model.normalized_class_attributes()[best] - model.normalized_class_attributes()[second])
    expected = [model.config.attribute_names[a] for a in adds.argsort(descending=True)[:3] if adds[a] > 0]
    assert row["attributes"] == "; ".join(expected)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_holds_the_same(suffix, model, photos, tmp_path):
    classify(model, photos, tmp_path / f"answers{suffix}")
    classify(model, photos, tmp_path / "expected.jsonl")
    expected = [json.loads(line) for line in (tmp_path / "expected.jsonl").read_text().splitlines()]
    if suffix == ".parquet":
        assert parquet.read_table(tmp_path / "answers.parquet").to_pylist() == expected
    elif suffix == ".csv":
        as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in expected]
        assert rows_of(tmp_path / "answers.csv") == as_text


def test_excel_gets_its_mark(model, photos, tmp_path):
    classify(model, photos, tmp_path / "answers.csv", excel=True)
    assert (tmp_path / "answers.csv").read_bytes().startswith(b"\xef\xbb\xbffile,")


def test_an_answer_below_the_confidence_is_unknown(model, photos, tmp_path):
    found = classify(model, photos, tmp_path / "answers.csv", min_confidence=1.0)
    sure = [row for row in rows_of(tmp_path / "answers.csv") if not row["error"]]
    assert {row["answer"] for row in sure} == {"unknown"} and all(row["guess"] for row in sure)
    assert {row["reason"] for row in sure} == {"not sure"}
    assert (found.unknown, found.none_of_these) == (9, 0)


def test_pictures_of_none_of_the_classes_are_unknown_where_unknown_is_asked_for(model, photos, tmp_path, monkeypatch):
    classify(model, photos, tmp_path / "before.csv")
    monkeypatch.setattr(model.config, "none_of_these", [1.0, 1e9])
    assert str(classify(model, photos, tmp_path / "plain.csv")) == "10 photos; 1 could not be read"
    assert rows_of(tmp_path / "plain.csv") == rows_of(tmp_path / "before.csv")
    groups = {"family": {name: name[-1] < "c" and "few" or "many" for name in model.attribute_table.class_names}}
    found = classify(model, photos, tmp_path / "answers.csv", min_confidence=0.01, groups=groups)
    rows = [row for row in rows_of(tmp_path / "answers.csv") if not row["error"]]
    assert {(row["answer"], row["reason"], row["level"]) for row in rows} == {("unknown", "none of these", "")}
    assert "9 of them unknown (9 show none of these classes)" in str(found)
    classify(model, photos, tmp_path / "ranked.csv", min_confidence=0, top_k=2)
    ranked = [(row["answer"] == "unknown", row["reason"]) for row in rows_of(tmp_path / "ranked.csv")[:2]]
    assert ranked == [(True, "none of these"), (False, "")]


def test_a_precision_decides_on_the_confidence(model, photos, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="trained without thresholds"):
        classify(model, photos, tmp_path / "answers.csv", precision=0.9)
    with pytest.raises(ValueError, match="not both"):
        classify(model, photos, tmp_path / "answers.csv", precision=0.9, min_confidence=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    monkeypatch.setattr(model.config, "precision_thresholds", [[0.9, 0.3]])
    classify(model, photos, tmp_path / "answers.csv", precision=0.85)
    classify(model, photos, tmp_path / "expected.csv", min_confidence=0.3)
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_several_rows_a_photo_are_ranked(model, photos, tmp_path):
    classify(model, photos, tmp_path / "answers.csv", top_k=3)
    rows = rows_of(tmp_path / "answers.csv")
    assert len(rows) == 9 * 3 + 1
    first = [row for row in rows if row["file"] == rows[0]["file"]]
    assert [row["rank"] for row in first] == ["1", "2", "3"]
    assert sorted(first, key=lambda row: -float(row["confidence"])) == first
    classify(model, photos, tmp_path / "unsure.csv", top_k=3, min_confidence=1.0)
    unsure = rows_of(tmp_path / "unsure.csv")[: len(first)]
    assert [row["answer"] for row in unsure] == ["unknown", *(row["answer"] for row in first[1:])]
    assert [row["guess"] for row in unsure] == [first[0]["answer"], "", ""]


# Candidates ---------------------------------------------------------------------------------------------------------


def answers_of(model, photos, out, **options) -> set[str]:
    classify(model, photos, out, **options)
    return {row[column] for row in rows_of(out) for column in ("answer", "second") if row[column]}


def test_classes_can_be_chosen_and_left_out(model, photos, tmp_path):
    chosen = answers_of(model, photos, tmp_path / "a.csv", classes=["bird a", "Bird_B"])
    assert chosen == {"bird a", "bird b"}
    assert "bird a" not in answers_of(model, photos, tmp_path / "b.csv", exclude=["bird a"])


def test_a_described_class_takes_part(model, photos, tmp_path):
    table = tiny_table()
    one = AttributeTable(["bird z"], table.attribute_names[::-1], np.ones((1, 8)))
    found = answers_of(model, photos, tmp_path / "a.csv", classes=["bird a"], candidates=one)
    assert found == {"bird a", "bird z"}
    assert len(model.attribute_table) == 7


def test_described_classes_that_the_model_knows_stay_as_it_knows_them(model, photos, tmp_path, caplog):
    grown = AttributeTable(["Bird_B", "bird c"], tiny_table().attribute_names, np.ones((2, 8)))
    classify(model, photos, tmp_path / "known.csv", classes=["bird a", "bird b", "bird c"])
    classify(model, photos, tmp_path / "grown.csv", classes=["bird a", "bird c"], candidates=grown)
    assert rows_of(tmp_path / "grown.csv") == rows_of(tmp_path / "known.csv")
    assert "2 of the candidates are classes of the model, and stay as it knows them: bird b, bird c" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["bird a", "bird ä"]}, "bird ä"),
        ({"classes": ["bird a"]}, "1 class to choose among"),
        ({"min_confidence": 2.0}, "between 0 and 1"),
        ({"precision": -1.0}, "between 0 and 1"),
        ({"top_k": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_work(options, message, model, photos, tmp_path):
    with pytest.raises(ValueError, match=message):
        classify(model, photos, tmp_path / "answers.csv", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_another_suffix_and_a_file_that_is_there_are_refused(model, photos, tmp_path):
    with pytest.raises(ValueError, match="ends in '.xls'; give one of .csv"):
        classify(model, photos, tmp_path / "answers.xls")
    (tmp_path / "answers.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        classify(model, photos, tmp_path / "answers.csv")
    classify(model, photos, tmp_path / "answers.csv", overwrite=True)
    assert len(rows_of(tmp_path / "answers.csv")) == 10


def test_no_photos_say_what_was_there_instead(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "birds.zip").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError, match="no photos. 1 archives: unpack them: birds.zip"):
        classify(model, tmp_path / "photos", tmp_path / "answers.csv")


# Stops, processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_stopped_classification_goes_on_where_it_was(stop_at, model, photos, tmp_path, small_blocks, monkeypatch):
    classify(model, photos, tmp_path / "expected.csv")
    write, decoded = module.Blocks.write, []

    def stop(self, block, rows):
        if block == stop_at - 1:
            raise KeyboardInterrupt
        write(self, block, rows)

    monkeypatch.setattr(module.Blocks, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        classify(model, photos, tmp_path / "answers.csv")
    assert not (tmp_path / "answers.csv").exists()
    monkeypatch.setattr(module.Blocks, "write", write)
    read = module.PhotoBatches.__getitems__
    monkeypatch.setattr(
        module.PhotoBatches, "__getitems__", lambda self, batch: decoded.extend(batch) or read(self, batch)
    )
    classify(model, photos, tmp_path / "answers.csv")
    assert decoded == list(range(4 * (stop_at - 1), 10))
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "expected.csv", "photos"]


def test_an_unfinished_file_of_another_command_is_refused(model, photos, tmp_path, small_blocks, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            classify(model, photos, tmp_path / "answers.csv")
    with pytest.raises(ValueError, match="begun with other classes"):
        classify(model, photos, tmp_path / "answers.csv", exclude=["bird a"])
    (photos / "more.png").write_bytes(picture(3, 3))
    with pytest.raises(ValueError, match="begun with other photos"):
        classify(model, photos, tmp_path / "answers.csv")


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers, model, photos, tmp_path, small_blocks):
    classify(model, photos, tmp_path / "answers.csv", num_workers=workers, batch_size=3)
    classify(model, photos, tmp_path / "expected.csv", batch_size=3)
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_a_file_that_another_process_is_writing_is_refused_and_left_alone(
    model, photos, tmp_path, small_blocks, monkeypatch
):
    classify(model, photos, tmp_path / "expected.csv")
    write, refused = module.Blocks.write, []

    def interfere(self, block, rows):
        with pytest.raises(BlockingIOError, match="Another process is writing .*answers.csv") as refusal:
            classify(model, photos, tmp_path / "answers.csv", overwrite=True)
        refused.append(refusal)
        write(self, block, rows)

    monkeypatch.setattr(module.Blocks, "write", interfere)
    classify(model, photos, tmp_path / "answers.csv")
    assert len(refused) == 3
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "expected.csv", "photos"]


def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(
    model, photos, tmp_path, small_blocks, monkeypatch, capsys
):
    model.save_pretrained(tmp_path / "model")
    command = ["classify", str(tmp_path / "model"), str(photos), "--out", str(tmp_path / "answers.csv")]
    with monkeypatch.context() as patch:
        dumps = json.dumps

        def full(content, **options):
            if isinstance(content, dict) and str(content.get("file")).endswith("5.png"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return dumps(content, **options)

        patch.setattr(json, "dumps", full)
        assert main(command) == 2
    block = tmp_path / "answers.csv.unfinished" / "00000002.jsonl"
    said = f"dedn: the disk is full: {block}. Make room, and give the same command again."
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert main(command) == 3
    classify(model, photos, tmp_path / "expected.csv")
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


SMALL_BLOCKS = """
import sys
from dedn_hf.classify import classifier
from dedn_hf.cli import main

classifier.BLOCK = 4
sys.exit(main())
"""


def test_two_processes_write_the_same_file(model, photos, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "program.py").write_text(SMALL_BLOCKS)
    given = ["classify", str(tmp_path / "model"), str(photos), "--batch-size", "4", "--out"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for command, name in ((launch, "two.csv"), ([sys.executable], "one.csv")):
        done = subprocess.run(
            [*command, str(tmp_path / "program.py"), *given, str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 3 or "exitcode  : 3" in done.stderr, done.stderr[-3000:]
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


# What cameras write, the command ------------------------------------------------------------------------------------


def test_date_and_camera_are_read_and_damage_is_not_an_error(model, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Nikon", "D500"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:01 06:30:00"
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.jpg", exif=exif)
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "b.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01")
    classify(model, tmp_path / "photos", tmp_path / "answers.csv")
    first, second = rows_of(tmp_path / "answers.csv")
    assert (first["taken"], first["camera"]) == ("2026-05-01 06:30:00", "Nikon D500")
    assert not second["taken"] and not second["error"] and second["answer"]


def test_the_command_says_what_came_out(model, photos, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    out = str(tmp_path / "answers.csv")
    assert main(["classify", str(tmp_path / "model"), str(photos), "--out", out, "--min-confidence", "1"]) == 3
    printed = capsys.readouterr().out
    assert f"Wrote {out}: 10 photos, 9 of them unknown; 1 could not be read" in printed
    assert "Not looked at: 1 no pictures: notes.txt" in printed
    (photos / "day 1" / "broken.png").unlink()
    assert main(["classify", str(tmp_path / "model"), str(photos), "--out", out, "--overwrite"]) == 0
    assert main(["classify", str(tmp_path / "nowhere"), str(photos), "--out", out, "--overwrite"]) == 2


def test_more_classes_may_come_from_a_spreadsheet(model, photos, tmp_path):
    model.save_pretrained(tmp_path / "model")
    names = model.config.attribute_names
    (tmp_path / "more.csv").write_text(
        ";".join(["species", *names]) + "\n" + ";".join(["Snowy Owl", *["0,5"] * 8]) + "\n"
    )
    given = ["classify", str(tmp_path / "model"), str(photos), "--out", str(tmp_path / "answers.csv")]
    assert main([*given, "--classes", "bird a", "--candidates", str(tmp_path / "more.csv")]) == 3
    answers = {row[column] for row in rows_of(tmp_path / "answers.csv") for column in ("answer", "second")}
    assert answers - {""} == {"bird a", "Snowy Owl"}


def test_in_bfloat16_answers_stay_near_and_the_summary_says_so(model, photos, tmp_path):
    found = {
        dtype: classify(model, photos, tmp_path / f"{dtype}.csv", dtype=dtype) for dtype in ("float32", "bfloat16")
    }
    assert str(found["bfloat16"]).endswith("computed in bfloat16") and "computed" not in str(found["float32"])
    pairs = zip(*(rows_of(tmp_path / f"{dtype}.csv") for dtype in found), strict=True)
    differences = [
        abs(float(one["confidence"]) - float(other["confidence"])) for one, other in pairs if not one["error"]
    ]
    assert 0 < max(differences) < 0.02


def test_answers_in_float32_are_those_without_a_dtype(model, photos, tmp_path):
    classify(model, photos, tmp_path / "plain.csv")
    classify(model, photos, tmp_path / "float32.csv", dtype="float32")
    assert rows_of(tmp_path / "plain.csv") == rows_of(tmp_path / "float32.csv")


def test_a_stopped_run_does_not_go_on_in_another_precision(model, photos, tmp_path, small_blocks, monkeypatch):
    write = module.Blocks.write

    def stop_after_one(self, block, rows):
        write(self, block, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.Blocks, "write", stop_after_one)
        classify(model, photos, tmp_path / "answers.csv", dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype"):
        classify(model, photos, tmp_path / "answers.csv")
    assert classify(model, photos, tmp_path / "answers.csv", dtype="bfloat16").photos == 10
