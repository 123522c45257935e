"""The pipeline: every kind of image, candidates by name or by description, and errors that name the fix."""

import base64
import http.server
import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from dedn_hf import DEDNForZeroShot, DEDNPipeline
from tests.tiny_runs import image_model, picture, tiny_table

TASK = "zero-shot-image-classification"


@pytest.fixture(scope="module")
def model() -> DEDNForZeroShot:
    torch.manual_seed(0)
    return image_model(initializer_range=0.1).eval()


@pytest.fixture(scope="module")
def classify(model) -> DEDNPipeline:
    return DEDNPipeline(model=model, image_processor=model.image_processor(), task=TASK)


def pil_image(label: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(picture(label, 0))).convert("RGB")


@torch.no_grad()
def expected(model, label: int = 0) -> dict[str, float]:
    pixels = model.image_processor()(images=[pil_image(label)], return_tensors="pt")["pixel_values"]
    return dict(zip(model.attribute_table.class_names, model(pixels).logits[0].softmax(0).tolist(), strict=True))


def as_dict(answer: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer}


@pytest.fixture
def url(tmp_path):
    """The address of a picture on a server on this machine."""
    (tmp_path / "bird.png").write_bytes(picture(0, 0))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/bird.png"
    server.shutdown()


@pytest.mark.parametrize("kind", ["pil", "bytes", "path", "base64", "data uri"])
def test_every_kind_of_image_gives_the_scores_of_the_model(model, classify, kind, tmp_path):
    content = picture(0, 0)
    (tmp_path / "bird.png").write_bytes(content)
    text = base64.b64encode(content).decode()
    image = {
        "pil": pil_image(),
        "bytes": content,
        "path": str(tmp_path / "bird.png"),
        "base64": text,
        "data uri": f"data:image/png;base64,{text}",
    }[kind]
    assert as_dict(classify(image)) == pytest.approx(expected(model), abs=1e-6)


def test_a_url_is_fetched(model, classify, url):
    assert as_dict(classify(url)) == pytest.approx(expected(model), abs=1e-6)


def test_answers_are_sorted_and_sum_to_one(classify):
    scores = [entry["score"] for entry in classify(pil_image())]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-6)
    assert list(classify(pil_image())[0]) == ["label", "score"]


def test_a_tuple_is_a_list(classify):
    assert classify((pil_image(), pil_image(1))) == classify([pil_image(), pil_image(1)])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_several_images_give_a_list_each_whatever_the_batch(model, classify, batch_size):
    answers = classify([pil_image(0), picture(1, 0), pil_image(2)], batch_size=batch_size)
    assert [as_dict(answer) for answer in answers] == [
        pytest.approx(expected(model, label), abs=1e-5) for label in range(3)
    ]


def test_no_images_give_no_answers(classify):
    assert classify([]) == []


def test_a_generator_is_answered_one_by_one(model, classify):
    answers = iter(classify(pil_image(label) for label in range(2)))
    assert as_dict(next(answers)) == pytest.approx(expected(model, 0), abs=1e-6)
    assert as_dict(next(answers)) == pytest.approx(expected(model, 1), abs=1e-6)


@pytest.fixture
def column():
    """The images of a data set, decoded when they are looked at."""
    import datasets

    rows = {"image": [pil_image(label) for label in range(3)]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))["image"]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_column_of_a_data_set_is_a_list(classify, column, batch_size):
    answers = classify(column, batch_size=batch_size, candidate_labels=["bird c", "bird f"])
    assert isinstance(answers, list) and len(answers) == 3
    expected = classify([pil_image(label) for label in range(3)], candidate_labels=["bird c", "bird f"])
    assert [as_dict(answer) for answer in answers] == [pytest.approx(as_dict(each), abs=1e-5) for each in expected]


def test_paths_are_read(model, classify, tmp_path):
    (tmp_path / "bird.png").write_bytes(picture(0, 0))
    path = tmp_path / "bird.png"
    assert as_dict(classify(path)) == pytest.approx(expected(model), abs=1e-6)
    assert classify([path, path]) == [classify(path)] * 2


def test_top_k_keeps_the_scores_of_all_classes(classify):
    assert classify(pil_image(), top_k=2) == classify(pil_image())[:2]


def test_with_very_many_classes_the_best_have_the_same_scores(classify, monkeypatch):
    expected = classify(pil_image())[:3]
    monkeypatch.setattr("dedn_hf.modeling.pipeline_dedn.MANY_CLASSES", 3)
    monkeypatch.setattr(type(classify.model), "score_classes", None)  # no score for every class
    answer = classify(pil_image(), top_k=3)
    assert [entry["label"] for entry in answer] == [entry["label"] for entry in expected]
    assert as_dict(answer) == pytest.approx(as_dict(expected), abs=1e-6)


def test_below_the_confidence_the_answer_is_unknown_and_says_its_guess(classify):
    usual = classify(pil_image(), top_k=3)
    best = usual[0]["score"]
    unknown = {"label": "unknown", "score": best, "guess": usual[0]["label"], "reason": "not sure"}
    assert classify(pil_image(), top_k=3, min_confidence=best + 1e-6) == [unknown, *usual[1:]]
    assert classify(pil_image(), top_k=3, min_confidence=best) == usual


def test_a_picture_of_none_of_the_classes_is_unknown_where_unknown_is_asked_for(classify, monkeypatch):
    usual, config = classify(pil_image()), classify.model.config
    monkeypatch.setattr(config, "none_of_these", [1.0, 1e9])
    assert classify(pil_image()) == usual
    assert classify(pil_image(), min_confidence=0)[0] == {
        "label": "unknown",
        "score": usual[0]["score"],
        "guess": usual[0]["label"],
        "reason": "none of these",
    }
    monkeypatch.setattr("dedn_hf.modeling.pipeline_dedn.MANY_CLASSES", 3)
    assert classify(pil_image(), min_confidence=0, top_k=2)[0]["reason"] == "none of these"
    monkeypatch.setattr(config, "none_of_these", [1.0, -1e9])
    assert classify(pil_image(), min_confidence=0, top_k=2)[0]["label"] == usual[0]["label"]


def test_what_shows_none_depends_on_the_candidates(classify, monkeypatch):
    usual = classify(pil_image())
    logits = classify.model(**classify.preprocess(pil_image())).logits[0]
    least = (logits.max() + logits.min()).item() / 2  # only the best classes fit the picture that well
    monkeypatch.setattr(classify.model.config, "none_of_these", [0.0, least])
    worst = [usual[-1]["label"], usual[-2]["label"]]
    assert classify(pil_image(), worst, min_confidence=0)[0]["label"] == "unknown"
    assert classify(pil_image(), [worst[0], usual[0]["label"]], min_confidence=0)[0]["label"] == usual[0]["label"]


def test_a_precision_stands_for_the_confidence_that_was_chosen_for_it(classify, monkeypatch):
    usual = classify(pil_image())
    with pytest.raises(ValueError, match="trained without thresholds"):
        classify(pil_image(), precision=0.9)
    monkeypatch.setattr(classify.model.config, "precision_thresholds", [[0.5, 0.0], [0.9, 1.0]])
    assert classify(pil_image(), precision=0.5) == usual
    assert classify(pil_image(), precision=0.9)[0]["label"] == "unknown"
    with pytest.raises(ValueError, match="highest on held-out classes is 0.9"):
        classify(pil_image(), precision=0.99)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_confidence": 0.5, "precision": 0.9}, "not both"),
        ({"min_confidence": 1.5}, "min_confidence is 1.5; it lies between 0 and 1"),
        ({"precision": -1}, "precision is -1; it lies between 0 and 1"),
        ({"precision": 95}, "precision is 95; it lies between 0 and 1. Did you mean 0.95?"),
    ],
)
def test_a_confidence_that_makes_no_sense_is_refused(parameters, message, classify):
    with pytest.raises(ValueError, match=message):
        classify(pil_image(), **parameters)


def test_candidates_by_name_share_all_of_the_probability(model, classify):
    names = ["bird c", "bird f"]  # one seen, one unseen
    answer = as_dict(classify(pil_image(), candidate_labels=names))
    scores = expected(model)
    total = sum(scores[name] for name in names)
    assert answer == pytest.approx({name: scores[name] / total for name in names}, abs=1e-5)


def test_all_classes_as_candidates_is_no_restriction(model, classify):
    names = model.attribute_table.class_names
    assert as_dict(classify(pil_image(), candidate_labels=names)) == pytest.approx(expected(model), abs=1e-5)


def test_a_described_class_scores_as_if_the_model_had_it(model, classify):
    table = tiny_table()
    row = np.arange(1, 9) / 8
    description = dict(zip(table.attribute_names, row.tolist(), strict=True))
    candidates = {"bird a": None, "bird b": None, "my bird": description}
    answer = as_dict(classify(pil_image(), candidate_labels=candidates))
    other = image_model(table, initializer_range=0.1)
    other.load_state_dict(model.state_dict())
    other.set_classes(
        table.replace(
            class_names=["bird a", "bird b", "my bird"],
            class_attributes=np.vstack([table.class_attributes[:2], row]),
            roles=["train", "unseen", "unseen"],
        )
    )
    assert answer == pytest.approx(expected(other.eval()), abs=1e-5)


def test_a_description_may_be_all_values_and_leaves_the_model_as_it_was(model, classify):
    before = model.attribute_table
    by_name = {name: (i + 1) / 8 for i, name in enumerate(before.attribute_names)}
    in_order = list(by_name.values())
    answers = [
        as_dict(classify(pil_image(), candidate_labels={"bird a": None, "my bird": description}))
        for description in (by_name, in_order, np.array(in_order))
    ]
    assert answers[0] == answers[1] == answers[2]
    assert model.attribute_table.class_names == before.class_names
    np.testing.assert_array_equal(model.attribute_table.class_attributes, before.class_attributes)


def test_an_attribute_that_is_not_described_has_the_mean_value_of_the_seen_classes(classify):
    table = tiny_table()
    whole = table.class_attributes[table.seen].mean(axis=0)
    whole[3] = 0.9
    answers = [
        as_dict(classify(pil_image(), candidate_labels={"bird a": None, "my bird": description}))
        for description in ({"attribute 3": 0.9}, whole)
    ]
    assert answers[0] == pytest.approx(answers[1], abs=1e-6)


def test_cosine_logits_of_described_classes_agree_with_the_model():
    torch.manual_seed(0)
    model = image_model(normalize_scores=True, center_attributes=True, calibration_bias=0.7).eval()
    classify = DEDNPipeline(model=model, image_processor=model.image_processor(), task=TASK)
    table = model.attribute_table
    described = {  # described exactly as the model has them, all unseen here
        name: row
        for name, row, seen in zip(table.class_names, table.class_attributes, table.seen, strict=True)
        if not seen
    }
    candidates = {name: described.get(name) for name in table.class_names}
    assert as_dict(classify(pil_image(), candidate_labels=candidates)) == pytest.approx(expected(model), abs=1e-5)


def test_candidates_may_be_named_as_people_say_them():
    names = ["001.Snowy_Owl", "002.Great_Tit", "Great_Tit", *(f"bird {letter}" for letter in "cdef")]
    model = image_model().eval()
    model.set_classes(model.attribute_table.replace(class_names=names))
    classify = DEDNPipeline(model=model, image_processor=model.image_processor(), task=TASK)
    spoken = classify(pil_image(), candidate_labels=["snowy owl", "Bird C"])
    as_known = classify(pil_image(), candidate_labels=["001.Snowy_Owl", "bird c"])
    assert [each["score"] for each in spoken] == [each["score"] for each in as_known]
    assert {each["label"] for each in spoken} == {"snowy owl", "Bird C"}
    with pytest.raises(ValueError, match="names '001.Snowy_Owl' twice"):
        classify(pil_image(), candidate_labels=["001.Snowy_Owl", "Snowy Owl"])
    with pytest.raises(ValueError, match="knows no class 'great tit'"):  # it may be either
        classify(pil_image(), candidate_labels=["great tit", "bird c"])


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (["bird x"], "knows no class 'bird x'.*bird"),
        (["bird a", "bird a"], "names a class twice"),
        ([], "candidate_labels is empty"),
        ("bird a", "pass a list of class names"),
        (5, "pass a list of class names"),
        ({"new": {"atribute 3": 1}}, "no attribute or column 'atribute 3'.*'attribute 3'"),
        ({"new": {}}, "at least one trait"),
        ({"new": [1, 2, 3]}, "described by 3 values; give all 8"),
        ({"new": {"attribute 3": "hooked"}}, "'hooked' is not a number"),
        ({"new": {"attribute 3": float("nan")}}, "nothing but gaps"),
        ({"new": [0] * 8}, "nothing but gaps and zeros"),
    ],
)
def test_bad_candidates_say_what_to_do(classify, candidates, message):
    with pytest.raises(ValueError, match=message):
        classify(pil_image(), candidate_labels=candidates)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.jpg", "^'nowhere.jpg' is neither a file, a URL nor a base64 image.$"),
        (b"no image", "The image is not an image. Give a JPEG"),
        (picture(0, 0)[:200], "does not decode"),
        ("http://127.0.0.1:9/bird.jpg", "cannot be fetched"),
        (3, "a path, a URL, bytes or a PIL image, not int"),
    ],
)
def test_bad_images_say_what_to_do(classify, image, message):
    with pytest.raises(ValueError, match=message):
        classify(image, timeout=2)


def test_other_parameters_are_refused(classify):
    for parameters in ({"top_k": 0}, {"top_k": "3"}, {"topk": 3}):
        with pytest.raises(ValueError, match="top_k"):
            classify(pil_image(), **parameters)
    with pytest.raises(ValueError, match="Pass an image"):
        classify(None)


def test_it_opens_a_saved_folder_and_saves_it_again(model, tmp_path):
    model.save_pretrained(tmp_path / "first")
    classify = pipeline(TASK, model=str(tmp_path / "first"), pipeline_class=DEDNPipeline)
    assert as_dict(classify(pil_image())) == pytest.approx(expected(model), abs=1e-6)
    classify.save_pretrained(tmp_path / "second")
    again = pipeline(TASK, model=str(tmp_path / "second"), trust_remote_code=True)
    assert type(again).__module__.startswith("transformers_modules.")
    assert as_dict(again(pil_image(), candidate_labels=["bird a", "bird b"])) == as_dict(
        classify(pil_image(), candidate_labels=["bird a", "bird b"])
    )
