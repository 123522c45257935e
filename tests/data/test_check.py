"""`dedn check`: one screen on photos and table, before anything is trained."""

import pytest

from dedn_hf.cli import main
from dedn_hf.data import load
from tests.fake_data import jpeg, write_folder

TABLE = (
    "id;species;bill;mass g;crest\n1;Wren;fine;9;no\n2;Kite;hooked;950;no\n3;Hoopoe;fine;65;ja\n4;Finch;fine;9;no\n"
)


@pytest.fixture
def birds(tmp_path):
    root = write_folder(tmp_path / "photos", {"001.wren": 6, "Kite": 2, "Owl": 3})
    (root / "Kite" / "notes.txt").write_text("no photo")
    (root / "Kite" / "same.jpg").write_bytes(jpeg(77))
    (root / "Owl" / "same.jpg").write_bytes(jpeg(77))
    (tmp_path / "traits.csv").write_text(TABLE)
    return root


def test_the_screen_tells_what_is_used_what_is_odd_and_why(birds, tmp_path, capsys):
    assert main(["check", str(birds), "--traits", str(tmp_path / "traits.csv")]) == 0
    screen = capsys.readouterr().out
    for part in (
        "13 photos of 3 classes",
        "fewer than 5 photos: Kite (3), Owl (4)",
        "not used: 1 no pictures: Kite/notes.txt",
        "the same photo under several classes: Kite/same.jpg, Owl/same.jpg",
        "Wren = 001.wren",
        "photos without a row in the table: 'Owl'",
        "nothing tells apart: '001.wren' (seen), 'Finch' (unseen)",
    ):
        assert part in screen, screen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "traits.csv"]


def test_a_guess_can_be_overruled(birds, tmp_path, capsys):
    given = [
        "check",
        str(birds),
        "--traits",
        str(tmp_path / "traits.csv"),
        "--ignore",
        "bill",
        "--kind",
        "crest=category",
    ]
    assert main(given) == 0
    screen = capsys.readouterr().out
    assert "not used, as you said: 'bill'" in screen and "crest: category" in screen


def test_a_column_that_is_not_there_is_named_with_a_near_one(birds, tmp_path, capsys):
    assert main(["check", str(birds), "--traits", str(tmp_path / "traits.csv"), "--ignore", "bil"]) == 2
    assert "no column 'bil'. Did you mean 'bill'" in capsys.readouterr().err


def test_the_same_words_prepare_the_data(birds, tmp_path):
    (birds / "Owl").rename(tmp_path / "Owl")
    given = ["prepare", "folder", "--data-dir", str(birds), "--csv", str(tmp_path / "traits.csv")]
    assert main([*given, "--out", str(tmp_path / "parquet"), "--kind", "crest=category"]) == 0
    table = load(tmp_path / "parquet")[1]
    assert {"crest=no", "crest=ja"} <= set(table.attribute_names)
    assert table.traits[table.attribute_names.index("mass g")]["unit"] == "g"


def test_a_kind_of_another_form_is_refused(birds, tmp_path, capsys):
    assert main(["check", str(birds), "--traits", str(tmp_path / "traits.csv"), "--kind", "crest"]) == 2
    assert "is not COLUMN=KIND" in capsys.readouterr().err
