"""The Gradio app in examples/space: what it computes, and what a visitor sees in a browser."""

import csv
import importlib
import inspect
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.modeling.pipeline_dedn import candidate_table
from dedn_hf.traits import read_traits
from tests.tiny_runs import image_model

SPACE = Path(__file__).parents[1] / "examples" / "space"
sys.path.insert(0, str(SPACE))
scoring, views = importlib.import_module("scoring"), importlib.import_module("views")

needs_gradio = pytest.mark.skipif(
    find_spec("gradio") is None, reason="gradio is not installed: pip install -e .[space]"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What every page of gradio before 6.17 asks for, to fit into a frame.
FRAME_SCRIPT = "https://cdnjs.cloudflare.com/ajax/libs/iframe-resizer/"
BROKEN = {
    "not a picture": b"GIF89a, or so it says",
    "empty": b"",
    "cut off": (SPACE / "examples" / "griffle.png").read_bytes()[:5000],
}


def photo(size: tuple[int, int] = (90, 70), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def two_class_table() -> AttributeTable:
    return AttributeTable(["Crow", "Swan"], ["wing::black", "neck"], [[80, 20], [0, 60]], roles=["train", "unseen"])


@pytest.fixture(scope="module")
def model() -> DEDNForZeroShot:
    torch.manual_seed(0)
    return image_model(calibration_bias=0.7).eval()


@pytest.fixture(scope="module")
def photo_scores(model):
    return scoring.score_photo(model, photo())


# What it computes ----------------------------------------------------------------------------------------------------


def test_the_logits_are_the_models_own(model, photo_scores):
    pixel_values = model.image_processor()(images=photo(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values).logits[0]
    np.testing.assert_allclose(scoring.class_logits(model, photo_scores, model.attribute_table), expected, rtol=1e-5)


def test_probabilities_are_those_that_the_model_was_calibrated_to(model, photo_scores, monkeypatch):
    logits = scoring.class_logits(model, photo_scores, model.attribute_table)
    before = scoring.probabilities(model, logits)
    monkeypatch.setattr(model.config, "temperature", 4.0)
    expected = torch.from_numpy(logits / 4).softmax(0).numpy()
    np.testing.assert_allclose(scoring.probabilities(model, logits), expected, rtol=1e-5)
    assert expected.max() < before.max()


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (1, 5), (2, 4)])  # seen and unseen, both unseen, both seen
def test_contributions_and_bias_sum_to_the_difference_of_the_logits(model, photo_scores, pair):
    table = model.attribute_table
    logits = scoring.class_logits(model, photo_scores, table)
    parts, bias = scoring.contributions(model, photo_scores, table, *pair)
    assert parts.shape == (table.num_attributes,)
    assert parts.sum() + bias == pytest.approx(logits[pair[0]] - logits[pair[1]], abs=1e-4)
    assert bias == pytest.approx({(0, 1): -2.7, (1, 0): 2.7}.get(pair, 0))  # twice the seen bias of 1, and 0.7


def test_a_class_described_as_an_unseen_one_has_its_logit(model, photo_scores):
    table = model.attribute_table
    unseen = table.roles.index("unseen")
    more = scoring.with_class(table, "twin", scoring.describe(table, unseen, {}))
    logits = scoring.class_logits(model, photo_scores, more)
    assert len(logits) == len(table) + 1 and logits[-1] == pytest.approx(logits[unseen], abs=1e-5)


def test_a_description_starts_from_the_average_from_nothing_or_from_a_class():
    table = two_class_table()
    assert scoring.describe(table, scoring.AVERAGE, {"neck": 7}).tolist() == [40, 7]
    assert scoring.describe(table, scoring.NOTHING, {"neck": 7}).tolist() == [0, 7]
    assert scoring.describe(table, 0, {"neck": 7}).tolist() == [80, 7]
    assert table.class_attributes.tolist() == [[80, 20], [0, 60]]  # as before


@pytest.mark.parametrize(
    "name, values, message",
    [("  ", [1, 1], "no name"), ("crow ", [1, 1], "class crow already"), ("Rook", [0, 0], "Every attribute is 0")],
)
def test_a_class_that_does_not_do_is_refused_with_a_reason(name, values, message):
    with pytest.raises(ValueError, match=message):
        scoring.with_class(two_class_table(), name, np.array(values, np.float32))


def test_the_pipeline_takes_the_description_that_the_page_offers_to_copy(model):
    table = model.attribute_table
    mine = scoring.with_class(table, "mine", scoring.describe(table, scoring.AVERAGE, {"attribute 3": 0.25}))
    taken = candidate_table(table, json.loads(scoring.candidate_labels(mine)))
    assert taken.class_names == ["mine"] and taken.roles == ["unseen"]
    np.testing.assert_allclose(taken.class_attributes[0], mine.class_attributes[-1], atol=1e-4)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0, 1], (0, 1, 0.01)),
        ([0, 100], (0, 100, 1)),
        ([0, 35.616], (0, 35.7, 0.1)),
        ([0.1, 1.1], (0.1, 1.1, 0.01)),
        ([0, 0.002], (0, 0.002, 0.00001)),
        ([5, 5], (3, 9, 0.01)),  # the range of all attributes
    ],
)
def test_a_slider_goes_from_the_lowest_to_the_highest_value_in_whole_steps(values, expected):
    table = AttributeTable(["a", "b"], ["this", "other"], np.transpose([values, [3, 9]]))
    assert scoring.slider_range(table, 0) == pytest.approx(expected)


def table_of_traits() -> AttributeTable:
    frame = pandas.DataFrame(
        {
            "species": ["Crow", "Swan", "Owl"],
            "bill": ["straight", "broad", "hooked"],
            "crest": ["no", "no", "yes"],
            "mass": ["500 g", "10 kg", "2 kg"],
        }
    )
    return read_traits(frame, photos=["Crow", "Swan"])


def test_each_trait_has_a_control_that_says_what_it_can_be():
    found = scoring.controls(table_of_traits())
    assert [text for text, _ in found["bill"].choices] == ["broad", "hooked", "straight"]
    assert [text for text, _ in found["crest"].choices] == ["yes", "no"]
    mass = found["mass"]
    assert (mass.low, mass.high, mass.unit) == (0.5, 10, "kg") and not mass.choices
    assert list(scoring.controls(two_class_table())) == ["wing::black", "neck"]


def test_traits_are_described_in_the_words_of_the_table():
    table = table_of_traits()
    values = {"bill": "hooked", "crest": "yes", "mass": 2}
    np.testing.assert_allclose(scoring.describe(table, 0, values), table.describe("an owl", values), rtol=1e-5)
    for name, control in scoring.controls(table).items():
        for value in [value for _, value in control.choices] or [control.low, control.high]:
            assert np.isfinite(scoring.describe(table, 0, {name: value})).all()


def test_the_first_attribute_to_look_at_was_found_and_speaks_for_the_best_class(model, photo_scores):
    table = model.attribute_table
    order = scoring.class_logits(model, photo_scores, table).argsort()[::-1]
    parts, _ = scoring.contributions(model, photo_scores, table, order[0], order[1])
    found = [a for a in range(table.num_attributes) if photo_scores.attribute_scores[0, a] > 0]
    assert scoring.strongest_attribute(model, photo_scores, table) == max(found, key=lambda a: parts[a])


def test_a_heat_map_is_orange_where_the_region_map_is_highest_and_grey_where_it_is_not_positive():
    maps = np.full((1, 2, 3, 3), -1.0, np.float32)
    maps[0, 1, 0, 2] = 5
    white = scoring.PhotoScores(np.ones((30, 30, 3), np.float32), torch.zeros(1, 2), maps)
    hot = np.asarray(scoring.heat_map(white, 0, 1, size=90)).astype(int)
    assert np.abs(hot[5, 85] - 255 * scoring.VERMILLION).max() < 40
    assert np.ptp(hot[80, 10]) == 0 and hot[80, 10, 0] == round(255 * 0.95)
    assert np.ptp(np.asarray(scoring.heat_map(white, 0, 0)), axis=-1).max() == 0


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_picture_is_refused_in_words(content, tmp_path):
    (tmp_path / "bird.png").write_bytes(content)
    with pytest.raises(ValueError, match="does not open as a picture"):
        scoring.open_photo(DEDNForZeroShot, str(tmp_path / "bird.png"))


def test_a_photo_is_turned_upright(tmp_path):
    tags = Image.Exif()
    tags[274] = 6  # lies on its side
    photo((90, 70)).save(tmp_path / "side.jpg", exif=tags)
    assert scoring.open_photo(DEDNForZeroShot, str(tmp_path / "side.jpg")).size == (70, 90)


def test_a_source_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no model at 'runs/none-such'"):
        scoring.load_model("runs/none-such")


@pytest.mark.slow
def test_the_computing_needs_the_model_folder_and_no_dedn_hf(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    code = f"""
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "dedn_hf":
                    raise ModuleNotFoundError("dedn_hf is not here")
        sys.meta_path.insert(0, Refuse())
        sys.path.insert(0, {str(SPACE)!r})
        import scoring
        model = scoring.load_model({str(tmp_path / "model")!r})
        photo = scoring.open_photo(model, {str(SPACE / "examples" / "griffle.png")!r})
        photo_scores = scoring.score_photo(model, photo)
        table = model.attribute_table
        table = scoring.with_class(table, "mine", scoring.describe(table, scoring.AVERAGE, {{"attribute 3": 1}}))
        assert scoring.class_logits(model, photo_scores, table).shape == (8,)
        scoring.heat_map(photo_scores, 1, 3)
        assert type(model).__module__.startswith("transformers_modules") and "dedn_hf" not in sys.modules
    """
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


# What it shows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, group, spoken",
    [
        ("has_bill_shape::curved_(up_or_down)", "head", "bill shape: curved (up or down) (head)"),
        ("body colour: red", "body", "body colour: red"),
        ("stripes", "pattern", "stripes (pattern)"),
        ("flies", "all", "flies"),
    ],
)
def test_attributes_are_named_as_people_say_them(name, group, spoken):
    assert views.spoken(name, group) == spoken


def test_names_cannot_bring_html_into_the_page():
    evil = "<img src=x onerror=alert(1)>"
    table = two_class_table().replace(class_names=[evil, "Swan"])
    shown = [
        views.heading(evil, table),
        views.ranking(table, [0, 1], np.array([0.7, 0.3]), new=2, unknown="<b>"),
        views.place(table.select(["Swan", evil]), [1, 0], np.array([0.3, 0.7])),
        views.why(table, [evil, "neck"], 0, 1, np.array([1.0, -1.0]), 0.0),
        views.alert(evil),
        views.hint(evil),
    ]
    assert not [html for html in shown if "<img" in html]


def test_the_ranking_shows_the_new_class_wherever_it_stands():
    table = two_class_table().replace(
        class_names=list("abcdefgh"), class_attributes=np.ones((8, 2)), roles=["train"] * 7 + ["unseen"]
    )
    scores = np.array([0.632, 0.2, 0.1, 0.04, 0.02, 0.005, 0.002, 0.001])
    html = views.ranking(table, list(range(8)), scores, new=7)
    assert re.findall(r'<li value="(\d)"', html) == ["1", "2", "3", "4", "5", "8"]
    assert html.count("yours") == 2 and "63.2%" in html and "Unknown" not in html
    assert "<b>Unknown</b>: an answer needs 80.0%" in views.ranking(
        table, list(range(8)), scores, new=7, unknown="an answer needs 80.0%"
    )


def test_bars_for_and_against_with_the_sum_of_everything():
    html = views.why(two_class_table(), ["wing: black", "neck"], 0, 1, np.array([1.5, -0.25]), -0.5)
    assert html.index("wing: black") < html.index("+1.50") < html.index("neck") < html.index("−0.25")
    assert "80 vs 0" in html and "20 vs 60" in html
    assert "All 2 attributes: +1.25." in html and "−0.50" in html and "differ by +0.75" in html


# The folder as a Space -----------------------------------------------------------------------------------------------


def test_the_space_names_a_gradio_that_its_requirements_and_the_packages_allow():
    front = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio" and (SPACE / front["app_file"]).is_file() and front["license"] == "apache-2.0"
    ours = (SPACE.parents[1] / "setup.py").read_text(encoding="utf-8")
    for line in (SPACE / "requirements.txt").read_text().splitlines():
        assert f'"{line}"' in ours, f"{line} is not what setup.py asks for"
        if Requirement(line).name == "gradio":
            assert Requirement(line).specifier.contains(front["sdk_version"])


def test_the_example_pictures_are_small():
    files = sorted((SPACE / "examples").iterdir())
    assert len(files) >= 4
    for file in files:
        assert file.stat().st_size < 30_000
        scoring.open_photo(DEDNForZeroShot, str(file))


# The page, without a browser -----------------------------------------------------------------------------------------


@needs_gradio
def test_a_new_class_is_placed_refused_or_waits_for_a_photo(model, photo_scores):
    page = importlib.import_module("app").Page(model, "tiny birds")

    def note(photo_scores, name="mine", start=scoring.AVERAGE, chosen=(), settings=None):
        return page.results(photo_scores, name, start, list(chosen), settings or {}, -1)[2]

    assert "Choose a trait" in note(photo_scores)
    assert "a photo shows its place" in note(None, chosen=["attribute 3"])
    assert re.search("<b>mine</b>: place [1-8] of 8", note(photo_scores, chosen=["attribute 3"]))
    assert re.search("<b>mine</b>: place [1-8] of 8", note(photo_scores, start=0))
    assert 'role="alert"' in note(photo_scores, "bird a", chosen=["attribute 3"])
    zero = note(photo_scores, start=scoring.NOTHING, chosen=["attribute 3"], settings={"attribute 3": 0})
    assert 'role="alert"' in zero and "Every attribute is 0" in zero


@needs_gradio
def test_the_best_class_is_compared_with_the_class_that_was_asked_for(model, photo_scores):
    page = importlib.import_module("app").Page(model, "tiny birds")
    logits = scoring.class_logits(model, photo_scores, model.attribute_table)
    best, second, *_, last = (model.config.id2label[k].replace("_", "_<wbr>") for k in logits.argsort()[::-1])

    def why(other):
        return page.results(photo_scores, "", scoring.AVERAGE, [], {}, other)[1]

    for other in (-1, int(logits.argmax()), 7):  # 7: the new class, which is not described
        assert f"Why {best}, and not {second}?" in why(other)
    assert f"Why {best}, and not {last}?" in why(int(logits.argmin()))


@needs_gradio
def test_several_photos_make_a_table_and_a_file(model, tmp_path):
    page = importlib.import_module("app").Page(model, "tiny birds")
    photo().save(tmp_path / "bird.png")
    (tmp_path / "broken.png").write_bytes(BROKEN["cut off"])
    paths = [str(tmp_path / "bird.png"), str(tmp_path / "broken.png")]
    rows, download, limit = page.several(paths, "", scoring.AVERAGE, [], {}, -1, 1.0)
    (bird, broken) = [dict(zip(scoring.ANSWER_COLUMNS, row, strict=True)) for row in rows]
    assert (bird["file"], bird["answer"]) == ("bird.png", "unknown") and bird["guess"] in model.config.label2id
    assert broken["file"] == "broken.png" and "does not open" in broken["error"] and not broken["answer"]
    with open(download["value"], newline="", encoding="utf-8-sig") as file:
        assert [row["guess"] for row in csv.DictReader(file)] == [bird["guess"], ""]
    assert not limit["visible"]


@needs_gradio
def test_unknown_is_offered_by_the_precisions_that_the_model_knows(model, monkeypatch):
    app = importlib.import_module("app")
    assert [share for _, share in app.confidences(model.config)] == [scoring.NEVER, 0.5, 0.8, 0.95]
    monkeypatch.setattr(model.config, "precision_thresholds", [[0.9, 0.42]])
    assert app.confidences(model.config)[1:] == [("answers are right in 90%, as estimated", 0.42)]
    monkeypatch.setattr(model.config, "none_of_these", [1.0, 2.0])
    assert app.confidences(model.config)[1] == ("the photo shows one of the classes", 0.0)


@needs_gradio
def test_a_photo_of_something_else_is_unknown_where_unknown_is_asked_for(model, photo_scores, monkeypatch, tmp_path):
    page = importlib.import_module("app").Page(model, "tiny birds")
    monkeypatch.setattr(model.config, "none_of_these", [1.0, 1e9])
    form = ["", scoring.AVERAGE, [], {}, -1]
    assert "Unknown" not in page.results(photo_scores, *form, scoring.NEVER)[0]
    assert "seems to show none of these classes" in page.results(photo_scores, *form, 0.0)[0]
    photo().save(tmp_path / "bird.png")
    row = scoring.answer_row(model, model.attribute_table, str(tmp_path / "bird.png"), 0.0)
    assert (row["answer"], row["reason"]) == ("unknown", "none of these")


@needs_gradio
def test_the_page_shows_what_the_training_measured_of_the_confidence(model, tmp_path):
    app = importlib.import_module("app")
    assert scoring.confidence_of("tiny birds") is None and scoring.confidence_of(str(tmp_path)) is None
    (tmp_path / "run.json").write_text(json.dumps({"confidence": {"sentences": ["Of <all>, 9 % are right."]}}))
    photo().save(tmp_path / "confidence.png")
    found = scoring.confidence_of(str(tmp_path))
    assert found["picture"] == str(tmp_path / "confidence.png")
    assert "Of &lt;all&gt;, 9 % are right." in views.confidence(found["sentences"])
    for source, is_shown in ((str(tmp_path), True), ("tiny birds", False)):
        blocks = app.Page(model, source).build().blocks.values()
        assert ("Confidence" in [getattr(block, "label", None) for block in blocks]) == is_shown


@needs_gradio
def test_the_examples_are_those_of_the_model_or_of_the_user(tmp_path):
    app = importlib.import_module("app")
    birds, creatures = ["Crow"], ["creature_01"]
    assert app.examples_folder(str(tmp_path), None, birds) is None
    assert app.examples_folder(str(tmp_path), None, creatures) == SPACE / "examples"
    for name in ("examples", "mine"):
        (tmp_path / name).mkdir()
    assert app.examples_folder(str(tmp_path), None, creatures) == tmp_path / "examples"
    assert app.examples_folder(str(tmp_path), str(tmp_path / "mine"), creatures) == tmp_path / "mine"
    with pytest.raises(SystemExit, match="no folder nowhere"):
        app.examples_folder(str(tmp_path), "nowhere", birds)
    (tmp_path / "mine" / "notes.txt").write_text("no picture")
    photo().save(tmp_path / "mine" / "b.JPG")
    assert [path.name for path in app.example_pictures(tmp_path / "mine")] == ["b.JPG"]
    assert app.example_pictures(None) == []


# In a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(model):
    """Address of the running app, and the hosts that its server asked for."""
    app = importlib.import_module("app")
    asked, look_up = [], socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or look_up(host, *rest, **more)
        )
        page = app.Page(model, "tiny birds").build()
        _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **app.LAUNCH)
        yield address, asked
        page.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e .[test]"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as engine:
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", offline])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, served):
    """A fresh visit; afterwards, nothing may have been asked of another host, and no script have failed."""
    address, asked = served
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)  # on a busy machine, all of this is slow
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="griffle").wait_for()
    yield page
    page.close()
    before_6_17 = Version(importlib.import_module("gradio").__version__) < Version("6.17")
    own = (address, "data:", "blob:", *[FRAME_SCRIPT] * before_6_17)
    assert not [url for url in requests if not url.startswith(own)]
    assert set(asked) <= {"127.0.0.1", "localhost", None}
    assert not errors


def upload(page, content: bytes, name: str = "bird.png") -> None:
    kind = {"name": name, "mimeType": "image/png", "buffer": content}
    page.locator("#photo input[type=file]").set_input_files(kind)


def choose(page, field: str, text: str) -> None:
    """Search in a dropdown and take what it finds."""
    box = page.locator(f"{field} input")
    box.click()
    box.fill(text)
    page.get_by_role("option", name=text).first.click()
    box.blur()


def in_browser(test):
    return pytest.mark.slow(needs_gradio(test))


@in_browser
def test_an_uploaded_photo_gets_a_ranking_reasons_and_heat_maps_of_both_experts(page):
    if "alt_text" not in inspect.signature(importlib.import_module("gradio").Image).parameters:
        pytest.skip("the maps are found by their descriptions, and this gradio describes no pictures")
    upload(page, (SPACE / "examples" / "creature_01.png").read_bytes())
    page.locator("#ranking li").nth(4).wait_for()
    page.get_by_text(re.compile(r"Why bird ., and not bird .\?")).wait_for()
    assert page.locator("#reasons .bar").count() >= 2
    maps = {expert: page.get_by_alt_text(re.compile(f"the {expert} expert found")) for expert in ("coarse", "fine")}
    before = [maps[expert].get_attribute("src") for expert in ("coarse", "fine")]
    assert len(set(before)) == 2
    choose(page, "#attribute", "attribute 3")  # the first one shown is another
    page.get_by_alt_text("The photo in grey, orange where the fine expert found attribute 3").wait_for()
    page.wait_for_function("src => ![...document.images].some(image => image.src == src)", arg=before[0])


@in_browser
def test_a_described_class_joins_the_ranking_and_follows_its_slider(page):
    page.get_by_role("button", name="griffle").click()
    page.locator("#ranking li").first.wait_for()
    assert page.locator("#ranking .yours").count() == 0
    page.get_by_label("Its name").fill("griffle")
    choose(page, "#chosen", "attribute 3")
    page.locator("#ranking .yours", has_text="griffle").wait_for()
    note = page.locator("#note", has_text=re.compile(r"griffle: place \d of 8, \d"))
    slider = page.get_by_label("range slider for attribute 3")
    before = note.inner_text()
    slider.focus()
    slider.press("Home")
    page.wait_for_function("before => document.querySelector('#note').innerText != before", arg=before)
    page.get_by_role("button", name="For the pipeline").click()
    copied = page.locator("#copied .cm-content", has_text=re.compile(r'"attribute 3": 0\.1\b'))
    assert len(json.loads(copied.inner_text())["griffle"]) == 8
    page.get_by_role("button", name="Start again").click()
    page.get_by_text("Choose a trait").wait_for()
    slider.wait_for(state="hidden")
    page.locator("#ranking .yours").wait_for(state="hidden")


@in_browser
def test_a_name_that_exists_and_a_description_of_zeros_are_answered_in_the_page(page):
    page.get_by_role("button", name="griffle").click()
    page.locator("#ranking li").first.wait_for()
    page.get_by_label("Its name").fill("Bird A")
    choose(page, "#chosen", "attribute 3")
    alert = page.locator("#note [role=alert]")
    alert.get_by_text("a class Bird A already").wait_for()
    page.get_by_label("Its name").fill("no bird")
    page.locator("#ranking .yours").wait_for()
    page.get_by_title("Clear").click()
    choose(page, "#start", "nothing")
    alert.get_by_text("Every attribute is 0").wait_for()
    choose(page, "#chosen", "attribute 3")
    page.locator("#ranking .yours", has_text="no bird").wait_for()


@in_browser
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_after_a_broken_file_the_page_says_so_and_goes_on(page, content):
    upload(page, content)
    page.locator("#problem [role=alert]", has_text="does not open as a picture").wait_for()
    assert page.locator("#ranking li").count() == 0
    assert "Traceback" not in page.locator("body").inner_text()
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#problem").wait_for(state="hidden")
    page.locator("#ranking").get_by_text("Drop a photo").wait_for()
    page.get_by_role("button", name="griffle").click()
    page.locator("#ranking li").first.wait_for()


@in_browser
def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="griffle").click()
    page.locator("#ranking li").first.wait_for()
    for attribute in ("attribute 1", "attribute 2", "attribute 3"):
        choose(page, "#chosen", attribute)
    page.get_by_label("range slider for attribute 3").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 391).length"
    assert page.evaluate(wide) == 0


@in_browser
def test_several_photos_become_a_table_to_download(page):
    page.get_by_role("tab", name="Several photos").click()
    creature = (SPACE / "examples" / "creature_01.png").read_bytes()
    files = [
        {"name": name, "mimeType": "image/png", "buffer": content}
        for name, content in (("first.png", creature), ("second.png", BROKEN["cut off"]))
    ]
    page.locator("#photos input[type=file]").set_input_files(files)
    answers = page.locator("#answers")
    answers.get_by_text("first.png").first.wait_for()
    answers.get_by_text(re.compile("does not open as a picture")).first.wait_for(state="attached")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["first.png", "second.png"]
    assert rows[0]["answer"].startswith("bird ") and rows[1]["error"]
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@in_browser
def test_below_the_confidence_the_page_says_unknown(page, model, monkeypatch):
    page.get_by_role("button", name="griffle").click()
    page.locator("#ranking li").first.wait_for()
    assert page.locator("#ranking .unknown").count() == 0
    monkeypatch.setattr(model.config, "temperature", 1e6)  # every class is as probable as any other
    choose(page, "#least", "95%")
    page.locator("#ranking .unknown", has_text="an answer needs 95.0%").wait_for()
