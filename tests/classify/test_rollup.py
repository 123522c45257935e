"""Where no class is sure enough, but a group of classes is, the answer is the group."""

import csv

import pytest
import torch

from dedn_hf.classify import classify, read_groups
from dedn_hf.classify.rollup import Rollup
from dedn_hf.cli import main
from tests.tiny_runs import image_model, picture

NAMES = ["001.Ring_billed_Gull", "Herring Gull", "Common Tern", "Wren"]
TABLE = """\
Species;Genus;Family;Order;Mass;Diet
Ring-billed Gull;Larus;Gulls;Waders;500 g;fish
Herring Gull;Larus;Gulls;Waders;1 kg;all
Common Tern;Sterna;Terns;Waders;120 g;fish
Wren;Troglodytes;;Songbirds;9 g;insects
Ostrich;Struthio;Ostriches;Ratites;100 kg;plants
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "birds.csv").write_text(TABLE)
    return tmp_path / "birds.csv"


def test_groups_are_read_from_the_table_of_traits_the_finest_first(table):
    groups = read_groups(table, NAMES)
    assert list(groups) == ["Genus", "Family", "Order"]
    assert groups["Family"] == {NAMES[0]: "Gulls", NAMES[1]: "Gulls", NAMES[2]: "Terns"}
    assert groups["Order"][NAMES[3]] == "Songbirds"
    assert list(read_groups(table, NAMES, ["Diet"])) == ["Diet"]


def test_the_only_other_column_needs_no_special_name(tmp_path):
    (tmp_path / "groups.csv").write_text("class,look\nHerring Gull,white\nWren,brown\n")
    assert read_groups(tmp_path / "groups.csv", NAMES) == {"look": {"Herring Gull": "white", "Wren": "brown"}}


@pytest.mark.parametrize(
    ("content", "levels", "message"),
    [
        (TABLE, ["Familie"], "no column 'Familie'. Did you mean 'Family'"),
        ("class,mass,diet\nWren,9,insects\n", None, "no column of groups, such as 'family'"),
        ("class,family\nOstrich,Ostriches\nEmu,Emus\n", None, "none of the model's classes has a group in 'family'"),
    ],
)
def test_a_table_without_groups_is_refused(content, levels, message, tmp_path):
    (tmp_path / "birds.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_groups(tmp_path / "birds.csv", NAMES, levels)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.5, 0.45, 0.03, 0.02], ("Larus", "Genus", 0.95)),
        ([0.4, 0.3, 0.25, 0.05], ("Waders", "Order", 0.95)),
        ([0.3, 0.2, 0.2, 0.3], None),
    ],
)
def test_the_finest_group_that_is_sure_enough_is_the_answer(probabilities, expected, table):
    rollup = Rollup(read_groups(table, NAMES), NAMES, threshold=0.9)
    found = rollup.answer(torch.tensor(probabilities))
    assert found == (expected if expected is None else (*expected[:2], pytest.approx(expected[2])))


def test_a_group_of_all_candidates_is_no_answer(table):
    rollup = Rollup(read_groups(table, NAMES), NAMES[:3], threshold=0.9)
    assert rollup.answer(torch.tensor([0.4, 0.3, 0.3])) is None


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return image_model(initializer_range=0.1).eval()


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number, 0))
    return tmp_path / "photos"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_an_answer_is_a_class_a_group_or_unknown(model, photos, tmp_path):
    names = model.attribute_table.class_names
    groups = {"family": {name: "few" if name == names[3] else "many" for name in names if name != names[4]}}
    classify(model, photos, tmp_path / "plain.csv")
    plain = rows_of(tmp_path / "plain.csv")
    best = sorted(float(row["confidence"]) for row in plain)
    summary = classify(model, photos, tmp_path / "grouped.csv", min_confidence=best[-1] - 1e-6, groups=groups)
    rows = rows_of(tmp_path / "grouped.csv")
    assert {(row["answer"], row["level"]) for row in rows if row["level"] != "class"} == {("many", "family")}
    assert summary.groups == len(rows) - 1 and summary.unknown == 0
    for row, before in zip(rows, plain, strict=True):
        assert before["level"] == "class"
        if row["answer"] == "many":
            assert row["guess"] == before["answer"] and float(row["confidence"]) > float(before["confidence"])
        else:
            assert row["answer"] == before["answer"] and not row["guess"]
        assert [row[name] for name in ("second", "margin", "attributes")] == [
            before[name] for name in ("second", "margin", "attributes")
        ]


def test_groups_need_a_confidence_and_one_row_a_photo(model, photos, tmp_path):
    groups = {"family": {"bird a": "x", "bird b": "y"}}
    with pytest.raises(ValueError, match="Give precision or min_confidence"):
        classify(model, photos, tmp_path / "answers.csv", groups=groups)
    with pytest.raises(ValueError, match="Leave out one"):
        classify(model, photos, tmp_path / "answers.csv", groups=groups, min_confidence=0.5, top_k=2)


def test_the_command_rolls_up(model, photos, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    names = model.attribute_table.class_names
    (tmp_path / "groups.csv").write_text(
        "class,family,order\n" + "".join(f"{name},few,{'all' if name != names[6] else 'one'}\n" for name in names)
    )
    out = str(tmp_path / "answers.csv")
    given = ["classify", str(tmp_path / "model"), str(photos), "--out", out]
    rollup = ["--rollup", str(tmp_path / "groups.csv")]
    assert main([*given, *rollup, "--min-confidence", "0.6", "--levels", "order"]) == 0
    assert "answered by a group" in capsys.readouterr().out
    assert {"all", "order"} <= {row[name] for row in rows_of(out) for name in ("answer", "level")}
    assert main([*given, "--levels", "order", "--overwrite"]) == 2
    assert "give that file, too" in capsys.readouterr().err
