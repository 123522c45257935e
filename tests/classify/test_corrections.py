"""`dedn explain --save` and `dedn classify --corrections`: what a person corrects is kept, found again, and used."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dedn_hf.classify import classifier as module
from dedn_hf.classify import classify
from dedn_hf.cli import main
from dedn_hf.explain import corrections as kept
from dedn_hf.explain import explain
from dedn_hf.publish import load_model
from dedn_hf.traits import read_traits
from tests.tables import SIX_BIRDS
from tests.tiny_runs import image_model, picture


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """A saved model of six birds in the words of a table."""
    root = tmp_path_factory.mktemp("birds")
    (root / "birds.csv").write_text(SIX_BIRDS)
    torch.manual_seed(0)
    image_model(read_traits(root / "birds.csv"), normalize_scores=True).eval().save_pretrained(root / "model")
    return str(root / "model")


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.png").write_bytes(picture(number, number))
    return root


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)


def rows_of(path: Path, delimiter: str = ",") -> list[dict]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def correct(model: str, photo: Path, file: Path, *settings: str) -> int:
    """`dedn explain ... --save`."""
    return main(
        ["explain", model, str(photo), *(part for each in settings for part in ("--set", each)), "--save", str(file)]
    )


def write(file: Path, *rows: str, header: str = "file,trait,value") -> Path:
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


# Keeping -------------------------------------------------------------------------------------------------------------


def test_a_row_is_kept_for_each_photo_and_trait(birds, photos, tmp_path, capsys):
    file = tmp_path / "corrections.csv"
    assert correct(birds, photos / "0.png", file, "Bill=hooked", "mass=0.2 kg") == 0
    assert "Kept in" in capsys.readouterr().out
    assert correct(birds, photos / "1.png", file, "crest=1") == 0
    rows = rows_of(file)
    assert list(rows[0]) == list(kept.COLUMNS)
    said = [(Path(row["file"]).name, row["trait"], row["value"]) for row in rows]
    assert said == [("0.png", "bill", "hooked"), ("0.png", "mass", "0.2 kg"), ("1.png", "crest", "1")]
    before = explain(load_model(birds), photos / "0.png")
    assert [row["answer_before"] for row in rows[:2]] == [before.answer] * 2
    assert rows[0]["answer_after"] == before.correct({"bill": "hooked", "mass": "0.2 kg"}).answer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrections.csv", "photos"]


def test_a_second_correction_of_a_trait_replaces_the_first_also_after_the_photo_was_moved(
    birds, photos, tmp_path, capsys
):
    file = tmp_path / "corrections.csv"
    for setting in ("bill=hooked", "crest=yes"):
        correct(birds, photos / "0.png", file, setting)
    correct(birds, photos / "1.png", file, "bill=thin")
    (photos / "0.png").rename(photos / "moved.png")
    correct(birds, photos / "moved.png", file, "Bill=curved")
    assert "holds 2 corrections of this photo" in capsys.readouterr().out
    said = [(Path(row["file"]).name, row["trait"], row["value"]) for row in rows_of(file)]
    assert said == [("0.png", "crest", "yes"), ("1.png", "bill", "thin"), ("moved.png", "bill", "curved")]


def test_a_trait_may_be_called_as_the_page_calls_it(tmp_path, photos):
    (tmp_path / "birds.csv").write_text(SIX_BIRDS.replace("crest", "has_crest::pointed"))
    model = image_model(read_traits(tmp_path / "birds.csv")).eval()
    explanation = explain(model, photos / "0.png", corrections={"Crest: pointed": "yes"})
    assert list(explanation.corrections) == ["has_crest::pointed"]
    with pytest.raises(ValueError, match="Did you mean 'has_crest::pointed'"):
        explanation.correct({"crest: pointy": "yes"})


def test_what_people_add_to_the_table_stays_as_their_spreadsheet_wrote_it(birds, photos, tmp_path):
    file = tmp_path / "corrections.csv"
    text = f"note;value;trait;file\nvery sure;thin;bill;{photos / '1.png'}\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    correct(birds, photos / "0.png", file, "bill=hooked")
    assert file.read_bytes().startswith(b"\xef\xbb\xbfnote;value;trait;file;")
    first, second = rows_of(file, ";")
    assert (first["note"], first["value"], second["value"]) == ("very sure", "thin", "hooked")


def test_a_file_that_cannot_be_written_stays_as_it_was(birds, photos, tmp_path, monkeypatch):
    file = tmp_path / "corrections.csv"
    correct(birds, photos / "0.png", file, "bill=hooked")
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.csv.DictWriter, "writerows", full)
    assert correct(birds, photos / "1.png", file, "bill=thin") == 2
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrections.csv", "photos"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "kept.csv"], "give --set NAME=VALUE, too"),
        (["--set", "bill=hooked", "--save", "kept.xlsx"], "give one of .csv"),
        (["--set", "bill=hooked", "--save", "nowhere/kept.csv"], "There is no folder nowhere"),
        (["--set", "bill=hooked", "--save", "other.csv"], "has no column of corrections: call it 'trait'"),
        (["--set", "beak=hooked", "--save", "kept.csv"], "no attribute or column 'beak'"),
        (["--set", "bill=hokked", "--save", "kept.csv"], "Did you mean 'hooked'"),
    ],
)
def test_what_cannot_be_kept_is_said_and_nothing_is_written(
    options, message, birds, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "other.csv", "a,b", header="file,label")
    assert main(["explain", birds, str(photos / "0.png"), *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "photos"]


# Using ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"bill": "hooked"}, {"mass": "9 g", "crest": "no"}, {"crest": 1.0}])
def test_a_corrected_photo_gets_the_answer_that_explain_gives_and_the_others_stay(birds, photos, tmp_path, settings):
    model, file = load_model(birds), tmp_path / "corrections.csv"
    correct(birds, photos / "3.png", file, *(f"{name}={value}" for name, value in settings.items()))
    (photos / "3.png").rename(photos / "elsewhere.png")
    classify(model, photos, tmp_path / "before.jsonl")
    found = classify(model, photos, tmp_path / "after.jsonl", corrections=file)
    before, after = (
        {Path(row["file"]).name: row for row in map(json.loads, (tmp_path / name).read_text().splitlines())}
        for name in ("before.jsonl", "after.jsonl")
    )
    row = after.pop("elsewhere.png")
    explanation = explain(model, photos / "elsewhere.png", corrections=settings)
    assert row["answer"] == explanation.answer
    assert row["confidence"] == pytest.approx(explanation.probabilities.max(), abs=2e-6)
    assert row["second"] == explanation.table.class_names[explanation.ranking[1]]
    assert row["corrected"].split(" = ")[0] in settings and found.corrected == 1
    contributions = explanation.comparison.contributions
    order = [a for a in np.argsort(-contributions, kind="stable")[:3] if contributions[a] > 0]
    assert len(row["attributes"].split("; ")) == len(order)
    assert row != before.pop("elsewhere.png") and after == before


def test_corrections_kept_by_several_commands_add_up(birds, photos, tmp_path):
    model, file = load_model(birds), tmp_path / "corrections.csv"
    for setting in ("bill=hooked", "mass=9 g"):
        correct(birds, photos / "3.png", file, setting)
    classify(model, photos / "3.png", tmp_path / "answers.csv", corrections=file)
    (row,) = rows_of(tmp_path / "answers.csv")
    explanation = explain(model, photos / "3.png", corrections={"bill": "hooked", "mass": "9 g"})
    assert (row["answer"], row["corrected"]) == (explanation.answer, "bill = hooked; mass = 9 g")
    assert float(row["confidence"]) == pytest.approx(explanation.probabilities.max(), abs=2e-6)


def test_a_correction_by_hand_needs_the_path_only(birds, photos, tmp_path, monkeypatch):
    file = write(tmp_path / "corrections.csv", "photos/2.png,bill,hooked", f"{photos / '4.png'},crest,yes")
    monkeypatch.chdir("/")
    classify(load_model(birds), photos, tmp_path / "answers.csv", corrections=file)
    found = {Path(row["file"]).name: row["corrected"] for row in rows_of(tmp_path / "answers.csv") if row["corrected"]}
    assert found == {"2.png": "bill = hooked", "4.png": "crest = yes"}


def test_corrections_count_among_other_classes_and_in_every_rank(birds, photos, tmp_path):
    model, file = load_model(birds), write(tmp_path / "corrections.csv", "photos/2.png,bill,thin")
    classify(model, photos, tmp_path / "a.csv", classes=["kite", "wren"], corrections=file, top_k=2)
    rows = [row for row in rows_of(tmp_path / "a.csv") if row["corrected"]]
    assert [(row["rank"], row["answer"]) for row in rows] == [("1", "wren"), ("2", "kite")]


def test_corrections_of_other_photos_are_named_in_one_line(birds, photos, tmp_path, caplog):
    file = tmp_path / "corrections.csv"
    for name in ("0.png", "1.png", "2.png"):
        correct(birds, photos / name, file, "bill=hooked")
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(picture(5, 99))
    classify(load_model(birds), photos, tmp_path / "answers.csv", corrections=file)
    (line,) = caplog.messages
    assert "corrections of 2 photos are not used" in line and "0.png" in line and "1.png" in line
    assert [Path(r["file"]).name for r in rows_of(tmp_path / "answers.csv") if r["corrected"]] == ["2.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["photos/0.png,bill,thin", "photos/0.png,beak,thin"], "row 3: .*no attribute or column 'beak'"),
        (["photos/0.png,bill,thinn"], "row 2: .*Did you mean 'thin'"),
        (["photos/0.png,mass,9 cm"], "row 2: .*'9 cm' does not fit"),
        (["photos/0.png,mass,"], "row 2: the column 'value' is empty"),
        (["photos/0.png,bill,thin", "photos/0.png,Bill,hooked"], "rows 2 and 3 both correct 'bill' of photos/0.png"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_before_the_work(rows, message, birds, photos, tmp_path):
    file = write(tmp_path / "corrections.csv", *rows)
    with pytest.raises(ValueError, match=message):
        classify(load_model(birds), photos, tmp_path / "answers.csv", corrections=file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrections.csv", "photos"]


def test_a_file_that_is_not_there_says_how_to_make_it(birds, photos, tmp_path, capsys):
    command = ["classify", birds, str(photos), "--out", str(tmp_path / "a.csv"), "--corrections", "nowhere.csv"]
    assert main(command) == 2
    assert "--save nowhere.csv" in capsys.readouterr().err


def test_a_broken_photo_has_no_corrected_answer(birds, photos, tmp_path):
    (photos / "0.png").write_bytes(picture(0, 0)[:-400])
    file = write(tmp_path / "corrections.csv", "photos/0.png,bill,thin")
    assert classify(load_model(birds), photos, tmp_path / "answers.csv", corrections=file).corrected == 0


def test_a_stopped_classification_goes_on_with_the_same_corrections_only(
    birds, photos, tmp_path, small_blocks, monkeypatch
):
    model, file = (
        load_model(birds),
        write(tmp_path / "corrections.csv", "photos/0.png,bill,thin", "photos/5.png,crest,yes"),
    )
    classify(model, photos, tmp_path / "expected.csv", corrections=file)
    write_block = module.Blocks.write

    def stop(self, block, rows):
        if block == 1:
            raise KeyboardInterrupt
        write_block(self, block, rows)

    with monkeypatch.context() as patch:
        patch.setattr(module.Blocks, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            classify(model, photos, tmp_path / "answers.csv", corrections=file)
    with pytest.raises(ValueError, match="begun with other corrections"):
        classify(model, photos, tmp_path / "answers.csv")
    before = file.read_text()
    file.write_text(before.replace("thin", "hooked"))
    with pytest.raises(ValueError, match="begun with other corrections"):
        classify(model, photos, tmp_path / "answers.csv", corrections=file)
    file.write_text(before)
    classify(model, photos, tmp_path / "answers.csv", corrections=file)
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_the_page_says_what_was_corrected(birds, photos, tmp_path):
    file = write(tmp_path / "corrections.csv", "photos/0.png,bill,thin")
    page = tmp_path / "answers.html"
    classify(load_model(birds), photos, tmp_path / "answers.csv", html=page, corrections=file)
    assert page.read_text(encoding="utf-8").count("corrected: bill = thin") == 1


def test_a_column_for_labels_is_empty_and_stands_after_the_answer(birds, photos, tmp_path):
    for suffix in ("csv", "jsonl"):
        classify(load_model(birds), photos, tmp_path / f"answers.{suffix}", label_column=True)
    rows = rows_of(tmp_path / "answers.csv")
    assert list(rows[0])[:3] == ["file", "answer", "label"] and {row["label"] for row in rows} == {""}
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["label"] is None
