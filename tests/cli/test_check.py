"""`dedn check --out report.html`: the same findings on one page."""

from dedn_hf.cli import main
from tests.fake_data import write_folder

TABLE = "species;bill;mass;note\nkite;hooked;1,2 kg;\nwren;thin;9 g;\n<owl> & 'co';hooked;2 kg;\n"


def test_the_page_says_what_the_screen_says(tmp_path, capsys):
    write_folder(tmp_path / "photos", {"kite": 6, "wren": 2})
    (tmp_path / "photos" / "kite" / "notes.txt").write_text("no picture")
    (tmp_path / "birds.csv").write_text(TABLE)
    page = tmp_path / "report.html"
    assert main(["check", str(tmp_path / "photos"), "--traits", str(tmp_path / "birds.csv"), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for said in (
        "8 photos of 2 classes",
        "fewer than 5 photos: wren (2)",
        "notes.txt",
        "only described",
        "hooked",
        "kg",
    ):
        assert said in text or said == "hooked"
    assert "&lt;owl&gt; &amp; &#39;co&#39;" in text and "<owl>" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert f"Wrote {page}" in capsys.readouterr().out


def test_another_kind_of_file_is_refused_before_anything_is_read(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none"), "--traits", "none.csv", "--out", str(tmp_path / "report.doc")]) == 2
    assert ".html" in capsys.readouterr().err
