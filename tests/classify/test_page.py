"""The page to look through: the least sure photos first, every name escaped, nothing from elsewhere."""

import base64
import io
import json
import re
import shutil

import pytest
import torch
from PIL import Image

from dedn_hf.classify import classifier, classify, page
from dedn_hf.cli import main
from tests.tiny_runs import image_model, picture

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return image_model(initializer_range=0.1).eval()


@pytest.fixture
def photos(tmp_path):
    """Six photos, and one that is broken."""
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number, 0))
    (tmp_path / "photos" / "broken.png").write_bytes(picture(0, 0)[:-400])
    return tmp_path / "photos"


def row(number: int, **changes) -> dict:
    """A row of answers with a thumbnail."""
    about = {"file": f"IMG_{number}.jpg", "answer": "Gull", "level": "class", "confidence": 0.9, "guess": None}
    about["reason"] = None
    more = {"second": "Tern", "second_confidence": 0.05, "attributes": "bill: hooked; wing: grey; belly: white"}
    return {**about, **more, "error": None, "thumbnail": page.thumbnail(Image.new("RGB", (60, 40))), **changes}


def written(tmp_path, rows: list[dict]) -> str:
    page.write_page(tmp_path / "page.html", rows, "answers.csv", "3 photos")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_least_sure_come_first_and_only_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST", 3)
    text = written(tmp_path, [row(i, confidence=share) for i, share in enumerate((0.9, 0.2, 0.5, 0.7))])
    assert re.findall(r">(IMG_\d)\.jpg<", text) == ["IMG_1", "IMG_2", "IMG_3"]
    assert "<p>3 photos. The least sure come first." in text and "<nav" not in text  # there is one section
    monkeypatch.setattr(page, "SECTION", 2)
    assert written(tmp_path, [row(i) for i in range(4)]).count('<a href="#s') == 2


def test_a_photo_shows_its_answer_second_and_two_attributes(tmp_path):
    text = written(tmp_path, [row(0), row(1, answer="unknown", level=None, guess="001.Herring_Gull", confidence=0.31)])
    assert all(said in text for said in ("<b>Gull</b>", "90.0%", "or Tern, 5.0%", "bill: hooked · wing: grey</span>"))
    assert "<b>unknown</b>" in text and "perhaps Herring Gull" in text and "31.0%" in text
    text = written(tmp_path, [row(0, answer="unknown", guess="001.Herring_Gull", reason="none of these")])
    assert "shows none of these classes; most like Herring Gull" in text


def test_names_cannot_bring_html_into_the_page_and_it_runs_no_script(tmp_path):
    evil = "<script>alert(1)</script>"
    names = dict.fromkeys(("answer", "guess", "second", "attributes", "level"), evil)
    text = written(tmp_path, [row(0, file=evil, **names), row(1, file=evil, error=evil)])
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in text and not re.search(r"(src|href)=\"(?!data:image/jpeg;base64,|#)", text)


def test_a_thumbnail_is_small_and_keeps_its_shape():
    small = Image.open(io.BytesIO(base64.b64decode(page.thumbnail(Image.new("RGB", (3000, 2000))))))
    assert small.format == "JPEG" and small.size == (160, 107)


def test_the_page_goes_with_the_answers_and_changes_none(model, photos, tmp_path):
    classify(model, photos, tmp_path / "expected.csv")
    classify(model, photos, tmp_path / "answers.csv", html=tmp_path / "page.html")
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img ") == 6 and "7 photos; 1 could not be read" in text and "broken.png" in text
    classify(model, photos, tmp_path / "answers.jsonl", html=tmp_path / "more.html", top_k=2)
    assert (tmp_path / "more.html").read_text().count("<img ") == 6
    assert all("thumbnail" not in json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines())


def test_a_run_that_stopped_after_its_page_goes_on(model, photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "write_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            classify(model, photos, tmp_path / "answers.csv", html=tmp_path / "page.html")
    assert (tmp_path / "page.html").exists() and not (tmp_path / "answers.csv").exists()
    with pytest.raises(ValueError, match="begun with other html"):
        classify(model, photos, tmp_path / "answers.csv")
    classify(model, photos, tmp_path / "answers.csv", html=tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "page.html", "photos"]


def test_a_page_that_is_there_is_not_replaced_unless_asked(model, photos, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "page.html").write_text("mine")
    given = ["classify", str(tmp_path / "model"), str(photos), "--out", str(tmp_path / "answers.csv"), "--html"]
    assert main([*given, str(tmp_path / "page.html")]) == 2
    assert (tmp_path / "page.html").read_text() == "mine" and not (tmp_path / "answers.csv").exists()
    assert main([*given, str(tmp_path / "page.png")]) == 2
    assert main([*given, str(tmp_path / "page.html"), "--overwrite"]) == 3
    assert "<title>answers.csv</title>" in (tmp_path / "page.html").read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_in_a_browser_ten_thousand_photos_are_laid_out_as_they_come_near(width, scheme, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    written(tmp_path, [row(i, confidence=i / 10_000, answer=f"a_rather_long_name_{i:05d}") for i in range(10_000)])
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        problems = []
        shown.on("console", lambda message: problems.append(message.text))
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.goto((tmp_path / "page.html").as_uri(), timeout=120_000)
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        laid_out = "each => each.checkVisibility({contentVisibilityAuto: true})"
        assert 0 < shown.evaluate(f"[...document.querySelectorAll('li')].filter({laid_out}).length") < 1000
        shown.get_by_role("link").last.click()
        assert shown.get_by_text("a rather long name 09").first.is_visible()
        assert not problems
        browser.close()
