"""A class described later in the words of the table, and a new table in the words of a model."""

import json

import numpy as np
import pandas as pd
import pytest

from dedn_hf import AttributeTable
from dedn_hf.modeling.inputs import describe_class, in_unit, quantity
from dedn_hf.traits import read_traits

BIRDS = """class,role,bill,mass,crest,colour
Wren,train,cone,12 g,yes,brown; white
Kite,train,hooked,1200 g,no,red
Swan,unseen,flat,45 g,no,white
Finch,train,cone,120 g,yes,red
"""
NAMES = ["bill=cone", "bill=flat", "bill=hooked", "mass", "crest", "colour=brown", "colour=red", "colour=white"]


@pytest.fixture
def birds(tmp_path):
    (tmp_path / "birds.csv").write_text(BIRDS)
    return read_traits(tmp_path / "birds.csv")


@pytest.fixture
def percent():
    return AttributeTable(["a", "b"], ["furry", "striped"], [[80, 5], [0, 90]], roles=["train", "train"])


def test_a_class_is_described_in_the_words_and_units_of_the_table(birds):
    assert birds.attribute_names == NAMES
    row = birds.describe("mine", {"bill": "hooked", "mass": "120 g", "crest": True, "colour": ["red", "white"]})
    assert row.tolist() == [0, 0, 1, 0.5, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("description", "attribute", "value"),
    [
        ({"mass": "0.12 kg"}, "mass", 0.5),
        ({"mass": "0,12 kg"}, "mass", 0.5),
        ({"mass": 120}, "mass", 0.5),
        ({"Mass": np.float32(120)}, "mass", 0.5),
        ({"mass": "100-140 g"}, "mass", 0.5),
        ({"crest": "ja"}, "crest", 1),
        ({"crest": np.bool_(False)}, "crest", 0),
        ({"crest": 0.5}, "crest", 0.5),
        ({"colour=red": True}, "colour=red", 1),
        ({"colour": "Brown; red"}, "colour=white", 0),
        ({"bill": "CONE"}, "bill=cone", 1),
    ],
)
def test_every_way_to_say_it_is_understood(birds, description, attribute, value):
    assert birds.describe("mine", description)[NAMES.index(attribute)] == pytest.approx(value)


def test_what_is_left_out_or_missing_has_the_mean_of_the_training_classes(birds):
    mean = birds.class_attributes[birds.seen].mean(axis=0)
    row = birds.describe("mine", {"crest": True, "mass": None, "bill": float("nan"), "colour": "NA"})
    np.testing.assert_allclose(np.delete(row, 4), np.delete(mean, 4), rtol=1e-6)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"mass": "120 kg"}, r"'mine', 'mass': 120000 is far outside the column, a number from 12 to 1200 g"),
        ({"mass": -3}, "far outside"),
        ({"mass": True}, "True does not fit a number from 12 to 1200 g"),
        ({"mass": "3 mm"}, "it is in mm, and the column in g"),
        ({"mass": "heavy"}, "'heavy' is not a number"),
        ({"mass": "12. Sep"}, "is not a number"),
        ({"crest": 3}, "far outside the column, a number from 0 to 1"),
        ({"bill": "hoked"}, r"'hoked' is not one of cone, flat, hooked. Did you mean 'hooked'\?"),
        ({"bil": "hooked"}, r"no attribute or column 'bil'. Did you mean 'bill'"),
        ({}, "nothing but gaps"),
        ([1, 2, 3], "described by 3 values; give all 8"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_range(birds, description, message):
    with pytest.raises(ValueError, match=message):
        birds.describe("mine", description)


def test_true_is_100_on_a_table_of_percentages_and_1_for_has_it_is_refused(percent):
    assert percent.describe("mine", {"furry": True})[0] == 100
    assert percent.describe("mine", {"furry": "yes"})[0] == 100
    assert percent.describe("mine", {"furry": "80 %"})[0] == 80
    with pytest.raises(ValueError, match="scale is 0 to 100. Write 100 or True"):
        percent.describe("mine", {"furry": 1})
    with pytest.raises(ValueError, match="500 is far outside the column, a number from 0 to 100"):
        percent.describe("mine", {"furry": 500})


def test_true_is_1_on_a_table_of_0_to_1_where_100_is_refused(percent):
    table = percent.replace(class_attributes=percent.class_attributes / 100)
    assert table.describe("mine", {"furry": True})[0] == 1
    with pytest.raises(ValueError, match="a number from 0 to 1"):
        table.describe("mine", {"furry": 100})


def test_a_pandas_row_is_matched_by_its_labels_and_never_by_position(percent):
    row = pd.Series({"striped": 90.0, "furry": 7.0})
    assert percent.describe("mine", row).tolist() == [7, 90]
    with pytest.raises(ValueError, match="no attribute or column 0"):
        percent.describe("mine", pd.Series([90.0, 7.0]))


def test_all_values_in_order_are_taken_as_they_are(birds):
    assert birds.describe("mine", birds.class_attributes[2]).tolist() == birds.class_attributes[2].tolist()


def test_traits_are_data_for_json_and_survive_files_and_selections(birds, tmp_path):
    birds.save(tmp_path)
    loaded = AttributeTable.load(tmp_path)
    assert loaded.traits == birds.traits == json.loads(json.dumps(birds.traits))
    assert loaded.class_attributes.tobytes() == birds.class_attributes.tobytes()
    assert loaded.select(["Swan"]).traits == birds.traits
    assert loaded.select_attributes(NAMES[::-1]).traits == birds.traits[::-1]
    assert loaded.replace(roles=None).traits == birds.traits
    description = {"bill": "hooked", "mass": "120 g"}
    assert describe_class(loaded.traits, description).tolist() == birds.describe("mine", description).tolist()


def test_a_row_of_traits_that_was_edited_by_hand_is_refused_with_its_line(birds, tmp_path):
    birds.to_csv(tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_text().splitlines()
    text[1] = "#traits,," + ",".join("x" * len(NAMES))
    (tmp_path / "table.csv").write_text("\n".join(text) + "\n")
    with pytest.raises(ValueError, match="line 2, column 'bill=cone': 'x' is not a trait. Delete the whole row"):
        AttributeTable.from_csv(tmp_path / "table.csv")


# A new table for an old model -------------------------------------------------------------------------------------


def read_like(tmp_path, text, birds):
    (tmp_path / "new.csv").write_text(text)
    return read_traits(tmp_path / "new.csv", like=birds)


def test_a_new_table_is_read_in_the_words_and_scales_of_the_old(birds, tmp_path):
    table = read_like(tmp_path, "Species;Mass;bill;age\nOwl;0,12 kg;hooked;3\nWren;1200 g;cone;5\n", birds)
    assert table.class_names == ["Owl", "Wren"]
    assert table.attribute_names == NAMES
    assert table.roles == ["unseen", "train"]
    mean = birds.class_attributes[birds.seen].mean(axis=0)
    np.testing.assert_allclose(table.class_attributes[0], [0, 0, 1, 0.5, *mean[4:]], rtol=1e-6)
    assert table.class_attributes[1, 3] == 1
    assert table.report.ignored == {"age": "the model knows no such column"}
    assert "'crest', 'colour'" in str(table.report)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,bill\nOwl,long\n", r"new.csv, line 2, column 'bill': 'long' is not one of cone, flat, hooked"),
        ("class,mass\nOwl,45 g\nMoa,200 kg\n", r"new.csv, line 3, column 'mass': 200000 is far outside the column"),
        ("class,mass\nOwl,3 mm\n", "line 2, column 'mass': '3 mm'"),
        ("class,age\nOwl,3\n", "none of the columns that the model knows: bill, mass, crest, colour"),
    ],
)
def test_a_new_table_that_does_not_fit_is_refused_with_its_place(birds, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_like(tmp_path, text, birds)


def test_a_table_written_by_to_csv_is_read_back_for_the_same_columns(birds, tmp_path):
    birds.to_csv(tmp_path / "same.csv")
    table = read_traits(tmp_path / "same.csv", like=birds)
    assert table.class_attributes.tobytes() == birds.class_attributes.tobytes()


def test_percentages_for_a_model_of_0_to_1_are_refused(percent, tmp_path):
    small = percent.replace(class_attributes=percent.class_attributes / 100)
    percent.to_csv(tmp_path / "percent.csv")
    small.to_csv(tmp_path / "small.csv")
    with pytest.raises(ValueError, match="far outside the column, a number from 0 to 1"):
        read_traits(tmp_path / "percent.csv", like=small)
    with pytest.raises(ValueError, match="scale is 0 to 100"):
        read_traits(tmp_path / "small.csv", like=percent)


@pytest.fixture
def two_traits():
    rows = {"class": ["Wren", "Kite", "Swan"], "bill": ["hooked", "flat", "flat"], "mass (g)": [9.5, 1000, 500.0]}
    return read_traits(pd.DataFrame(rows)).traits


def test_one_trait_given_under_two_names_is_refused(two_traits):
    with pytest.raises(ValueError, match=r"'mass \(g\)' and 'mass' are the same trait"):
        describe_class(two_traits, {"mass (g)": 10, "mass": 20})


@pytest.mark.parametrize("gap", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "unknown"])
def test_every_kind_of_gap_is_neutral(two_traits, gap):
    described = describe_class(two_traits, {"bill": gap, "mass": 20})
    assert described.tolist() == describe_class(two_traits, {"mass": 20}).tolist()


@pytest.mark.parametrize("description", [5, "hooked", b"hooked"])
def test_what_is_no_description_is_refused_with_the_form(two_traits, description):
    with pytest.raises(ValueError, match="give {trait: value}"):
        describe_class(two_traits, description)


@pytest.mark.parametrize("value", [np.array([100.0, 3.0]), [100, 200], {"a": 1}])
def test_several_numbers_for_one_trait_are_refused_with_its_range(two_traits, value):
    with pytest.raises(ValueError, match="does not fit a number from 9.5 to 1000 g"):
        describe_class(two_traits, {"mass": value})


def test_a_category_that_is_nearly_right_is_not_parted_at_its_and(tmp_path):
    (tmp_path / "t.csv").write_text(
        "class,told,coat\na,1,salt and pepper\nb,2,brown\nc,4,brown\nd,5,salt and pepper\n"
    )
    table = read_traits(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="'salt and peper' is not one of .* Did you mean 'salt and pepper'"):
        table.encode("coat", "salt and peper")


def test_a_unit_in_the_plural_of_an_older_model_is_the_same_unit():
    assert in_unit(*quantity("5 eggs"), "eggs") == in_unit(*quantity("5 eggs"), "egg") == 5
