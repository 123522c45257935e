"""What a test of a model showed, in numbers, in words and as a page."""

import json
import re

import numpy as np
import pytest
from scipy.special import softmax

from dedn_hf import AttributeTable
from dedn_hf.metrics.scores import percent
from dedn_hf.publish.evaluation import Evaluation

# Two classes with photos, two that are described. The second photo of the kite is taken for the tern.
NAMES = ["wren", "kite", "tern", "gull & <b>co</b>"]
LABELS = np.array([0, 0, 1, 1, 2, 2, 3])
ANSWERS = [0, 0, 1, 2, 2, 3, 0]


def evaluation(names=NAMES, seen=(True, True, False, False), labels=LABELS, answers=ANSWERS, **more) -> Evaluation:
    roles = ["train" if is_seen else "unseen" for is_seen in seen]
    table = AttributeTable(names, list("abcd"), np.eye(4) + 0.1, roles=roles)
    logits = (1 + np.arange(len(labels)))[:, None] * np.eye(4)[answers]  # later answers are surer
    files = [f"photo {i}.jpg" for i in range(len(labels))]
    return Evaluation(table, logits, softmax(logits, axis=1), np.asarray(labels), files, **more)


def test_guessing_is_right_as_often_as_there_are_classes_to_choose_among():
    assert evaluation().chance() == {"T1": 1 / 2, "U": 1 / 4, "S": 1 / 4, "H": 1 / 4, "AUSUC": 1 / 8}


def test_guessing_goes_with_the_harmonic_mean_and_the_area_of_many_guesses():
    found, guess = evaluation(), np.random.default_rng(0)
    labels = np.arange(4).repeat(20_000)
    logits = guess.normal(size=(80_000, 4))
    guessed = Evaluation(found.table, logits, softmax(logits, axis=1), labels, [])
    for name, chance in found.chance().items():
        assert guessed.scores[name] == pytest.approx(chance, abs=0.01), name


def test_the_bar_to_beat_stands_beside_the_scores():
    bar = {"name": "ESZSL", "photos": 1234, "T1": 0.623, "U": 0.5, "S": 0.5, "H": 0.5, "AUSUC": None}
    found = evaluation(bar=bar)
    (line,) = [line for line in found.to_text().splitlines() if line.startswith("T1")]
    assert line.split()[:4] == ["T1", percent(found.scores["T1"]), "50.0", "62.3"]
    assert "trained on the 1,234 photos here" in found.to_text()
    assert "ESZSL is the bar to beat" in found.to_html("t") and "62.3%" in found.to_html("t")
    assert "the bar to beat" not in evaluation().to_html("t") and found.to_dict()["bar"] == bar


def test_what_each_class_is_taken_for():
    rows = {row["name"]: row for row in evaluation().classes()}
    assert rows["wren"] == {"name": "wren", "learned_from": "photos", "photos": 2, "accuracy": 1.0, "taken_for": {}}
    assert rows["kite"]["taken_for"] == {"tern": 1} and rows["kite"]["accuracy"] == 0.5
    assert rows[NAMES[3]]["taken_for"] == {"wren": 1} and rows[NAMES[3]]["learned_from"] == "description"


def test_every_answer_is_in_the_confusion():
    found = evaluation()
    assert found.confusion.tolist() == [[2, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]]


def test_the_surest_mistake_comes_first():
    mistakes = evaluation().surest_mistakes()
    assert [row["file"] for row in mistakes] == ["photo 6.jpg", "photo 5.jpg", "photo 3.jpg"]
    assert mistakes[0]["label"] == NAMES[3] and mistakes[0]["answer"] == "wren"


def test_confidence_is_measured_over_all_and_over_described_classes():
    found = evaluation(thresholds={0.9: 0.8, 0.95: 1.0}).confidence()
    sure, right = softmax(np.arange(1, 8)[:, None] * np.eye(4)[0], axis=1)[:, 0], np.equal(ANSWERS, LABELS)
    # No two answers are in one bin, but the four surest: 0.94, 0.979, 0.992 and 0.997 with half of them right.
    bins = [[0], [1], [2], [3, 4, 5, 6]]
    assert found["calibration_error"] == pytest.approx(
        sum(len(each) * abs(sure[each].mean() - right[each].mean()) for each in bins) / 7
    )
    assert found["calibration_error_unseen"] == pytest.approx(abs(sure[4:].mean() - 1 / 3))
    assert found["accuracy_of_surest"] == {0.25: 0.0, 0.5: pytest.approx(1 / 4), 1.0: pytest.approx(4 / 7)}
    ninety, more = found["precision"]
    assert ninety["answered"] == pytest.approx(5 / 7) and ninety["right"] == pytest.approx(2 / 5)
    assert more["answered"] == 0 and more["right"] is None


def test_the_text_says_each_score_beside_chance_and_names_the_hardest_classes():
    text = evaluation(thresholds={0.9: 0.8, 0.95: 1.0}, notes=["A note."]).to_text()
    assert "Tested on 7 photos: 4 of 2 classes learned from photos and 3 of 2 classes only described." in text
    assert re.search(r"^S +75\.0 +25\.0 ", text, re.MULTILINE) and "A note." in text
    assert "0.0 % of 1    gull & <b>co</b> (described); taken for wren 1" in text
    assert "With --precision 0.9 (a confidence of 0.80 or more) 71.4 % of the photos get an answer" in text
    assert "With --precision 0.95 (a confidence of 1.00 or more) every answer would be 'unknown'." in text


@pytest.mark.parametrize(
    "seen, labels, tested",
    [
        ((True, True, True, True), LABELS, {"S"}),
        ((True, True, False, False), [0, 0, 1, 1, 1, 0, 0], {"S"}),
        ((True, True, False, False), [2, 2, 3, 3, 3, 2, 2], {"T1", "U"}),
    ],
)
def test_scores_without_photos_read_not_tested(seen, labels, tested):
    found = evaluation(seen=seen, labels=labels)
    for name, chance in found.chance().items():
        assert (chance is not None) == (name in tested)
        assert (f"{name} not tested" in " ".join(found.to_text().split())) == (name not in tested)
    assert found.to_html("Test").count("not tested") >= 5 - len(tested)


def test_all_of_it_goes_into_json():
    described = json.loads(json.dumps(evaluation(thresholds={0.9: 0.8}).to_dict()))
    assert described["results"]["S"] == 0.75 and described["photos"] == {"seen": 4, "unseen": 3}
    assert described["accuracy_of_class"] == {"wren": 1.0, "kite": 0.5, "tern": 0.5, NAMES[3]: 0.0}


def test_the_page_names_every_class_loads_nothing_and_runs_nothing():
    page = evaluation(notes=["<i>note</i>"]).to_html("A <title>")
    assert "gull &amp; &lt;b&gt;co&lt;/b&gt;" in page and "<b>co" not in page
    assert "<h1>A &lt;title&gt;</h1>" in page and "&lt;i&gt;note" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page and "url(" not in page
    assert page.count("<rect") == 1 + 6  # the ground, and one for each pair that occurs
    assert "kite taken for tern: 1 of 2" in page


def test_a_long_curve_is_drawn_with_few_points():
    labels = np.zeros(5000, dtype=int)
    logits = np.random.default_rng(0).normal(size=(5000, 4))
    points = Evaluation(evaluation().table, logits, softmax(logits, axis=1), labels, []).confidence()["risk_coverage"]
    assert len(points) == 200 and points[-1]["coverage"] == 1.0
