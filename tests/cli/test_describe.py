"""`dedn describe`: a class more, or another description of one, without training."""

import base64
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from dedn_hf import AttributeTable, DEDNForZeroShot, DEDNPipeline
from dedn_hf.cli import main
from dedn_hf.explain import explain
from dedn_hf.modeling import saving
from dedn_hf.modeling.handler import EndpointHandler
from dedn_hf.publish import describe_classes
from dedn_hf.traits import read_traits
from tests.tiny_runs import picture

TABLE = """species,role,bill,wingspan,mass,crest,belly
Kestrel,train,hooked,65-82 cm,204 g,no,spotted
Lapwing,val,straight,82-87 cm,229 g,yes,white
Hoopoe,train,curved,44-48 cm,68 g,yes,?
Wren,train,straight,13-17 cm,10 g,no,brown
001.Common_Buzzard,train,hooked,110-130 cm,760 g,no,spotted
Crow,unseen,straight,84-100 cm,500 g,no,black
"""
OWL = ("--set", "bill=hooked", "--set", "wingspan=126-145 cm", "--set", "mass=1.4 kg", "--set", "belly=white")


@pytest.fixture
def birds(tmp_path):
    """A folder that looks as after a training, `model`."""
    (tmp_path / "birds.csv").write_text(TABLE)
    table = read_traits(tmp_path / "birds.csv")
    torch.manual_seed(0)
    options = {"image_size": 64, "pretrained": False, "center_attributes": True}
    model = DEDNForZeroShot.from_timm("test_resnet", table, **options)
    model.config.temperature, model.config.precision_thresholds = 1.7, [[0.9, 0.6]]
    model.save_pretrained(tmp_path / "model")
    table.save(tmp_path / "model")
    (tmp_path / "model" / "run.json").write_text(json.dumps({"results": {"S": 0.5}}))
    (tmp_path / "model" / "training.png").write_bytes(picture(0, 0))
    return tmp_path


def describe(birds, *arguments: str, out: str = "model2") -> int:
    return main(["describe", str(birds / "model"), *arguments, "--out", str(birds / out)])


def loaded(birds, name: str = "model2") -> DEDNForZeroShot:
    return DEDNForZeroShot.from_pretrained(birds / name).eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_new_class_competes_and_all_else_stays(birds, capsys):
    assert describe(birds, "Snowy Owl", *OWL) == 0
    before, after = loaded(birds, "model"), loaded(birds)
    assert after.attribute_table.class_names == [*before.attribute_table.class_names, "Snowy Owl"]
    assert after.seen.tolist() == [*before.seen.tolist(), False]
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(after(images).logits[:, :6], before(images).logits)
    assert after.config.temperature == 1.7 and after.config.precision_thresholds == [[0.9, 0.6]]
    words = {"bill": "hooked", "wingspan": "126-145 cm", "mass": "1.4 kg", "belly": "white"}
    expected = before.attribute_table.describe("Snowy Owl", words)
    np.testing.assert_array_equal(after.attribute_table.class_attributes[-1], expected)
    assert f"Wrote {birds / 'model2'}" in capsys.readouterr().out


def test_the_new_folder_is_complete(birds):
    describe(birds, "Snowy Owl", *OWL)
    table = AttributeTable.load(birds / "model2")
    assert table.roles == ["train", "val", "train", "train", "train", "unseen", "unseen"]  # as the training had them
    assert json.loads((birds / "model2" / "run.json").read_text()) == {
        "results": {"S": 0.5},
        "described": [{"class": "Snowy Owl", "new": True, "photos": 0, "traits": {
            "bill": "hooked", "wingspan": "135.5 cm", "mass": "1400 g", "belly": "white"}}],
    }  # fmt: skip
    assert contents(birds / "model").keys() <= contents(birds / "model2").keys()
    card = (birds / "model2" / "README.md").read_text()
    assert "The scores above do not speak of them" in card
    assert "- **Snowy Owl**: added; bill hooked, wingspan 135.5 cm, mass 1400 g, belly white" in card


def test_the_new_class_is_known_wherever_the_model_is_used(birds):
    describe(birds, "Snowy Owl", *OWL)
    photo = birds / "photo.png"
    photo.write_bytes(picture(1, 1))
    names = {row["label"] for row in DEDNPipeline(loaded(birds), image_processor=loaded(birds).image_processor())(
        str(photo), top_k=7)}  # fmt: skip
    answers = EndpointHandler(str(birds / "model2"))({"inputs": base64.b64encode(photo.read_bytes()).decode()})
    assert "Snowy Owl" in names and "Snowy Owl" in {row["label"] for row in answers}
    assert explain(loaded(birds), photo, class_name="snowy owl").comparison.classes[0] == 6
    assert (
        main(["classify", str(birds / "model2"), str(photo), "--out", str(birds / "answers.csv"), "--top-k", "7"]) == 0
    )
    assert "Snowy Owl" in (birds / "answers.csv").read_text()


def test_the_nearest_classes_are_named_with_what_sets_them_apart(birds, capsys):
    describe(birds, "Snowy Owl", *OWL)
    screen = capsys.readouterr().out
    assert "Snowy Owl, a new class:\n  bill: hooked\n" in screen and "not described, so average: crest" in screen
    lines = [line for line in screen.splitlines() if "known from" in line]
    model = loaded(birds)
    similarities = model.normalized_class_attributes() @ model.normalized_class_attributes()[6]
    best = similarities[:6].argmax()
    assert len(lines) == 3 and lines[0].split()[0] == f"{similarities[best]:.2f}"
    assert "Common Buzzard (known from photos)" in lines[0] and "belly (white, not spotted)" in lines[0]
    assert "!" not in screen


def test_a_few_words_leave_a_class_near_the_average_and_further_ones_are_named(birds, capsys):
    describe(birds, "Snowy Owl", "--set", "crest=no")
    screen = capsys.readouterr().out
    assert "near to the average class" in screen
    advice = screen[screen.index("Say more of it, best:") :]
    assert "bill (" in advice and "Kestrel: hooked" in advice and "crest" not in advice


def test_a_class_that_nothing_sets_apart_is_said_to_be_so(birds, capsys):
    describe(birds, "Twin", "--like", "Crow", "--set", "crest=no")
    screen = capsys.readouterr().out
    assert "Nothing sets it apart from Crow: all photos of both get one answer." in screen
    assert "Only another column, or photos to train on, would set it apart." in screen


def test_a_class_like_another_differs_in_what_is_said(birds):
    describe(birds, "Booted Eagle", "--like", "common buzzard", "--set", "belly=white")
    table = loaded(birds).attribute_table
    expected = table.class_attributes[4].copy()
    belly = [table.attribute_names.index(f"belly={name}") for name in ("black", "brown", "spotted", "white")]
    expected[belly] = [0, 0, 0, 1]
    np.testing.assert_array_equal(table.class_attributes[6], expected)


def test_a_known_class_is_changed_in_what_is_said_only(birds, capsys):
    assert describe(birds, "common buzzard", "--set", "crest=yes") == 0
    before, after = loaded(birds, "model").attribute_table, loaded(birds).attribute_table
    changed = np.argwhere(before.class_attributes != after.class_attributes).tolist()
    assert changed == [[4, after.attribute_names.index("crest")]] and after.class_names == before.class_names
    assert after.roles == before.roles and "001.Common_Buzzard, changed:" in capsys.readouterr().out


def test_a_trait_may_be_called_as_the_answers_call_it(birds, capsys):
    (birds / "birds.csv").write_text(TABLE.replace("crest", "has_crest::pointed"))
    read_traits(birds / "birds.csv").save(birds / "model")
    DEDNForZeroShot.from_timm(
        "test_resnet", read_traits(birds / "birds.csv"), image_size=64, pretrained=False
    ).save_pretrained(birds / "model")
    assert describe(birds, "Owl", *OWL, "--set", "crest: pointed=yes") == 0
    assert describe(birds, "Owl", *OWL, "--set", "has_crest::pointed=yes", out="model3") == 0
    rows = [loaded(birds, name).attribute_table for name in ("model2", "model3")]
    assert np.array_equal(rows[0].class_attributes, rows[1].class_attributes)
    capsys.readouterr()
    both = ("--set", "crest: pointed=yes", "--set", "has_crest::pointed=no")
    assert describe(birds, "Owl", *OWL, *both, out="model4") == 2
    assert "'has_crest::pointed' is given twice" in capsys.readouterr().err


def test_rows_of_a_table_describe_classes(birds):
    (birds / "more.csv").write_text("bird;bill;mass (kg);belly\nSnowy Owl;hooked;1,4;white\nwren;curved;0,02;\n")
    assert describe(birds, "--traits", str(birds / "more.csv")) == 0
    table, old = loaded(birds).attribute_table, loaded(birds, "model").attribute_table
    assert table.class_names == [*old.class_names, "Snowy Owl"]
    np.testing.assert_array_equal(
        table.class_attributes[-1], old.describe("x", {"bill": "hooked", "mass": "1.4 kg", "belly": "white"})
    )
    np.testing.assert_array_equal(table.class_attributes[3], old.describe("x", {"bill": "curved", "mass": "0.02 kg"}))


def test_one_row_of_a_table_may_be_overruled_and_filled_from_another_class(birds):
    (birds / "more.csv").write_text("bird,bill,mass\nSnowy Owl,hooked,1.4 kg\nStork,straight,0.7 kg\n")
    more = ["--traits", str(birds / "more.csv"), "--like", "Wren", "--set", "bill=curved"]
    assert describe(birds, "snowy owl", *more) == 0
    table = loaded(birds).attribute_table
    words = {"bill": "curved", "mass": "1.4 kg", "wingspan": "15 cm", "crest": "no", "belly": "brown"}
    np.testing.assert_allclose(table.class_attributes[-1], table.describe("x", words), rtol=1e-6)
    assert table.class_names[-1] == "snowy owl"


def test_nothing_but_the_answer_is_said_where_the_model_is_in_a_folder(birds, capfd):
    assert main(["describe", str(birds / "model"), "Owl", *OWL, "--out", str(birds / "more")]) == 0
    assert capfd.readouterr().err == ""  # no bars for reading and writing weights


def test_to_print_writes_nothing(birds, capsys):
    before = sorted(path.name for path in birds.rglob("*"))
    assert main(["describe", str(birds / "model"), "Snowy Owl", *OWL, "--print"]) == 0
    assert "bill: hooked" in capsys.readouterr().out
    assert sorted(path.name for path in birds.rglob("*")) == before


def test_a_model_is_replaced_only_if_that_is_said(birds, capsys):
    (birds / "model" / "notes.txt").write_text("mine")
    before = contents(birds / "model")
    assert describe(birds, "Snowy Owl", *OWL, out="model") == 2
    assert "--overwrite" in capsys.readouterr().err and contents(birds / "model") == before
    assert describe(birds, "Snowy Owl", *OWL, "--overwrite", out="model") == 0
    assert "Snowy Owl" in loaded(birds, "model").attribute_table.class_names
    assert (birds / "model" / "notes.txt").read_text() == "mine"
    assert describe(birds, "Snowy Owl", "--set", "crest=yes", "--overwrite", out="model") == 0
    assert (birds / "model" / "README.md").read_text().count("**Snowy Owl**") == 1
    assert len(json.loads((birds / "model" / "run.json").read_text())["described"]) == 2


def test_a_folder_that_holds_something_else_is_never_replaced(birds, capsys):
    (birds / "photos").mkdir()
    (birds / "photos" / "owl.jpg").write_bytes(b"x")
    assert describe(birds, "Snowy Owl", *OWL, "--overwrite", out="photos") == 2
    assert "holds no model" in capsys.readouterr().err and (birds / "photos" / "owl.jpg").read_bytes() == b"x"


def test_a_full_disk_leaves_the_model_of_before(birds, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = contents(birds / "model")
    monkeypatch.setattr(saving, "replace_model", full)
    assert describe(birds, "Snowy Owl", *OWL, "--overwrite", out="model") == 2
    assert "No space left" in capsys.readouterr().err and contents(birds / "model") == before


def test_python_describes_several_at_once(birds):
    words = {"Snowy Owl": {"bill": "hooked", "mass": "1.4 kg"}, "Stork": {"bill": "straight", "mass": "700 g"}}
    owl, stork = describe_classes(birds / "model", words, birds / "model2")
    assert owl.is_new and owl.traits["bill"] == "hooked" and stork.left_out == ["wingspan", "crest", "belly"]
    assert loaded(birds).attribute_table.class_names[-2:] == ["Snowy Owl", "Stork"]
    assert [each.name for each in owl.nearest] != [each.name for each in stork.nearest]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["Owl", "--set", "crest=no"], "Give --out, the folder of the new model, or --print"),
        (["Owl", "--print"], "Say what the class is like"),
        (["--set", "crest=no", "--print"], "Give the NAME of the class"),
        (["Owl", "--set", "bil=hooked", "--print"], "no attribute or column 'bil'. Did you mean 'bill'"),
        (["Owl", "--set", "mass=90 kg", "--print"], "90000 is far outside the column"),
        (["Owl", "--set", "crest=no", "--set", "crest=yes", "--print"], "gives a trait twice"),
        (["Owl", "--like", "Kestrl", "--set", "crest=no", "--print"], "no class 'Kestrl'. Did you mean 'Kestrel'?"),
        (["Owl", "--like", "Kestrel", "--print"], "would be the same as 'Kestrel'"),
        (["Owl", "--traits", "absent.csv", "--print"], "absent.csv"),
    ],
)
def test_what_cannot_be_described_is_said(arguments, message, birds, capsys):
    assert main(["describe", str(birds / "model"), *arguments]) == 2
    assert message in capsys.readouterr().err


# From photos -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictured(birds, monkeypatch):
    """The photos of the training, and three of a class that is new."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", birds / "datasets")
    for folder, label in (("Kestrel", 0), ("Lapwing", 1), ("Hoopoe", 2), ("Wren", 3), ("Common Buzzard", 4)):
        (birds / "photos" / folder).mkdir(parents=True)
        for number in range(5):
            (birds / "photos" / folder / f"{number}.png").write_bytes(picture(label, number))
    (birds / "owls").mkdir()
    for number in range(3):
        (birds / "owls" / f"{number}.png").write_bytes(picture(6, number))
    return birds


def row(birds, name: str = "model2") -> np.ndarray:
    return loaded(birds, name).attribute_table.class_attributes[-1]


def test_photos_alone_describe_a_class(pictured, capsys):
    reference = ["--reference", str(pictured / "photos")]
    assert describe(pictured, "Owl", "--photos", str(pictured / "owls"), *reference) == 0
    table = loaded(pictured).attribute_table
    assert table.class_names[-1] == "Owl" and not table.seen[-1]
    assert "Owl, a new class, from 3 photos too:" in capsys.readouterr().out
    described = json.loads((pictured / "model2" / "run.json").read_text())["described"]
    assert described[0]["photos"] == 3 and "added with 3 photos" in (pictured / "model2" / "README.md").read_text()


def test_words_and_photos_describe_together(pictured):
    photos = ["--photos", str(pictured / "owls"), "--reference", str(pictured / "photos")]
    describe(pictured, "Owl", *photos, out="photos only")
    describe(pictured, "Owl", *photos, "--set", "crest=yes", out="both")
    describe(pictured, "Owl", "--set", "crest=yes", out="words only")
    photos_only, both, words = (row(pictured, name) for name in ("photos only", "both", "words only"))
    crest = loaded(pictured, "both").config.attribute_names.index("crest")
    others = np.arange(len(both)) != crest
    np.testing.assert_array_equal(both[others], photos_only[others])
    assert photos_only[crest] < both[crest] < words[crest]


def test_the_photos_of_the_training_are_needed_once(pictured, capsys):
    photos = ["--photos", str(pictured / "owls")]
    assert describe(pictured, "Owl", *photos) == 2
    assert "--reference PHOTOS" in capsys.readouterr().err and not (pictured / "model2").exists()
    describe(pictured, "Owl", *photos, "--reference", str(pictured / "photos"))
    assert main(["describe", str(pictured / "model2"), "Owl2", *photos, "--out", str(pictured / "model3")]) == 0
    np.testing.assert_allclose(row(pictured, "model3"), row(pictured), rtol=1e-5)
    assert (pictured / "model3" / "photo-scores.csv").is_file()


def test_what_photos_show_is_printed_for_those_who_fill_tables(pictured, capsys):
    arguments = ["--photos", str(pictured / "owls"), "--reference", str(pictured / "photos"), "--print"]
    assert main(["describe", str(pictured / "model"), *arguments]) == 0
    screen = capsys.readouterr().out
    assert screen.startswith("3 photos show, the most special first:\n") and "correlation" in screen
    assert not (pictured / "model" / "photo-scores.csv").exists()


def test_photos_that_cannot_be_read_are_named(pictured, capsys):
    (pictured / "owls" / "broken.png").write_bytes(picture(0, 0)[:-400])
    reference = ["--reference", str(pictured / "photos")]
    assert describe(pictured, "Owl", "--photos", str(pictured / "owls"), *reference) == 0
    screen = capsys.readouterr().out
    assert "from 3 photos" in screen and f"Not a photo that can be read: {pictured / 'owls' / 'broken.png'}" in screen
    assert describe(pictured, "Owl", "--photos", str(pictured / "owls" / "broken.png"), *reference, out="model3") == 2
    assert "None of the 1 photos can be read" in capsys.readouterr().err


def test_python_takes_photos_too(pictured):
    photos = {"Owl": pictured / "owls"}
    (owl,) = describe_classes(pictured / "model", {}, pictured / "model2", photos, reference=pictured / "photos")
    assert owl.is_new and owl.photos == 3 and owl.nearest
