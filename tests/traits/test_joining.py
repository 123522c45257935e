"""Several tables of the same classes: the first says which classes there are, the others add columns."""

from pathlib import Path

import numpy as np
import pytest

from dedn_hf.cli.parser import build_parser
from dedn_hf.traits import read_traits

TABLES = Path(__file__).parents[1] / "fixtures" / "traits"
LOOKS = "species;wing;beak\nHouse Wren;12,5 cm;hooked\nKite;50 cm;hooked\nMute Swan;60 cm;flat\nRook;30 cm;cone\n"
LIFE = "Name\tdiet\tnight\tmass (g)\nROOK\tseeds\tyes\t500\nhouse_wren\tinsects\tno\t9.5\nkite\tmeat\tno\t1000\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "looks.csv").write_bytes(LOOKS.encode("cp1252"))
    (tmp_path / "life.txt").write_text(LIFE)
    return [tmp_path / "looks.csv", tmp_path / "life.txt"]


def value(table, class_name, attribute):
    return table.class_attributes[table.class_names.index(class_name), table.attribute_names.index(attribute)]


def test_columns_of_a_second_table_stand_beside_those_of_the_first(files):
    table = read_traits(files, photos=["House_Wren", "Kite", "Rook"])
    assert table.class_names == ["House_Wren", "Kite", "Mute Swan", "Rook"]
    assert table.roles == ["train", "train", "unseen", "train"]
    assert list(dict.fromkeys(trait["column"] for trait in table.traits)) == [
        "wing", "beak", "diet", "night", "mass (g)",
    ]  # fmt: skip
    assert value(table, "Rook", "diet=seeds") == 1
    assert value(table, "Rook", "night") == 1
    assert value(table, "House_Wren", "mass (g)") == 0
    row = table.describe("mine", {"wing": "200 mm", "diet": "meat", "mass (g)": "0.7 kg"})
    assert row[table.attribute_names.index("diet=meat")] == 1


def test_a_class_that_a_further_table_lacks_has_gaps_there_and_is_named(files):
    table = read_traits(files)
    diet = [i for i, trait in enumerate(table.traits) if trait["column"] in ("diet", "night", "mass (g)")]
    fills = np.array([table.traits[i]["fill"] for i in diet], np.float32)
    np.testing.assert_array_equal(table.class_attributes[table.class_names.index("Mute Swan"), diet], fills)
    assert "life.txt says nothing of 'Mute Swan': gaps there" in str(table.report)


def test_an_empty_mark_of_the_first_table_is_no_and_a_missing_row_of_the_second_is_a_gap(tmp_path):
    (tmp_path / "a.csv").write_text("class,size\na,1\nb,2\nc,3\n")
    (tmp_path / "b.csv").write_text("class,crest,night\na,x,1\nb,,0\n")
    table = read_traits([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert table.class_attributes[:, table.attribute_names.index("crest")].tolist() == [1, 0, 0.5]


def test_several_rows_of_a_class_are_made_one_in_each_table(tmp_path):
    (tmp_path / "a.csv").write_text("class,size,wing\na,1,10\na,3,10\nb,2,20\nc,5,60\n")
    (tmp_path / "b.csv").write_text("class,mass\nb,200\na,1\na,2\na,900\nc,5\n")
    table = read_traits([tmp_path / "a.csv", tmp_path / "b.csv"])
    ranges = {trait["column"]: trait["range"] for trait in table.traits}
    assert ranges == {"size": [2, 5], "wing": [10, 60], "mass": [2, 200]}
    assert table.report.several_rows == {"a": 3}


def test_each_table_keeps_its_own_decimal_sign_and_its_own_names_in_messages(tmp_path):
    (tmp_path / "a.csv").write_text("Art;Gewicht;Länge\na;1.200;0,5\nb;2.400;1,5\nc;1.000;2,5\n")
    (tmp_path / "b.csv").write_text("class,wing,beak\na,1.200,2.5\nb,3.500,2.75\nc,9.125,3\n")
    table = read_traits([tmp_path / "a.csv", tmp_path / "b.csv"])
    ranges = {trait["column"]: trait["range"] for trait in table.traits}
    assert ranges["Gewicht"] == [1000, 2400]
    assert ranges["wing"] == [1.2, 9.125]
    (tmp_path / "b.csv").write_text("class,wing,beak\nc,9.1,3\na,1.2,2.5\nb,wide,2.75\n")
    with pytest.raises(ValueError, match=r"b\.csv, line 4, column 'wing': 'wide'"):
        read_traits([tmp_path / "a.csv", tmp_path / "b.csv"], kinds={"wing": "number"})


def test_a_table_of_0_to_100_comes_to_0_to_1_beside_one_of_another_scale(tmp_path):
    (tmp_path / "a.csv").write_text("class,red,blue\na,0,100\nb,75,0.5\nc,90,50\n")
    (tmp_path / "b.csv").write_text("class,mass\na,10\nb,2000\nc,300\n")
    table = read_traits([tmp_path / "a.csv", tmp_path / "b.csv"])
    np.testing.assert_allclose(table.class_attributes[:, :2], [[0, 1], [0.75, 0.005], [0.9, 0.5]])
    row = table.describe("mine", {"red": True, "blue": "50%", "mass": 300})
    np.testing.assert_allclose(row[:2], [1, 0.5])
    np.testing.assert_allclose(table.describe("mine", {"red": 80})[0], 0.8)
    with pytest.raises(ValueError, match="0 to 100"):
        table.describe("mine", {"red": 1, "blue": 0.5})


def test_tables_on_one_scale_stay_as_they_are(tmp_path):
    (tmp_path / "a.csv").write_text("class,red,blue\na,0,1\nb,0.75,0.5\nc,1,0\n")
    (tmp_path / "b.csv").write_text("class,green,black\na,1,0.1\nb,0.2,0\nc,0,1\n")
    table = read_traits([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert table.class_attributes.tolist() == np.float32([[0, 1, 1, 0.1], [0.75, 0.5, 0.2, 0], [1, 0, 0, 1]]).tolist()


def test_a_column_that_both_have_gets_the_number_of_its_table(tmp_path):
    (tmp_path / "a.csv").write_text("class,role,Mass (g),wing\na,train,5,2\nb,train,80,3\nc,unseen,30,9\n")
    (tmp_path / "b.csv").write_text("class,role,mass (g),leg\na,unseen,6,2\nb,train,90,3\nc,unseen,20,8\n")
    table = read_traits([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert table.roles == ["train", "train", "unseen"]
    columns = {trait["column"]: trait["unit"] for trait in table.traits}
    assert columns == {"Mass (g)": "g", "wing": "", "table 2: mass (g)": "g", "leg": ""}
    assert "'mass (g)' of" in str(table.report)


def test_a_new_class_is_described_by_tables_as_the_model_was(files, tmp_path):
    old = read_traits(files)
    (tmp_path / "new-looks.csv").write_text("species,wing,beak\nCrow,40 cm,cone\n")
    (tmp_path / "new-life.csv").write_text("species,diet,night\nCrow,seeds,no\n")
    new = read_traits([tmp_path / "new-looks.csv", tmp_path / "new-life.csv"], like=old)
    assert new.attribute_names == old.attribute_names
    assert value(new, "Crow", "diet=seeds") == value(new, "Crow", "beak=cone") == 1


def test_tables_without_a_class_in_common_are_refused_with_names_of_both(files, tmp_path):
    (tmp_path / "other.csv").write_text("class,legs\nOtter,4\nSeal,0\n")
    with pytest.raises(ValueError, match="other.csv describes none of the classes.*'Otter'.*'House Wren'.*names"):
        read_traits([files[0], tmp_path / "other.csv"])


def test_a_name_that_may_be_several_classes_is_refused(files, tmp_path):
    (tmp_path / "other.csv").write_text("class,legs\nKITE,2\nkite,2\nRook,3\n")
    with pytest.raises(ValueError, match="'Kite' may be any of 'KITE', 'kite'"):
        read_traits([files[0], tmp_path / "other.csv"])


def test_a_table_on_a_scale_of_its_own_is_not_joined(files, tmp_path):
    read_traits(files[0]).to_csv(tmp_path / "own.csv")
    with pytest.raises(ValueError, match="own.csv was written by this software"):
        read_traits([files[1], tmp_path / "own.csv"])


def test_published_tables_stand_beside_each_other_by_a_file_of_names():
    names = TABLES / "cub50-names.csv"
    folders = [line.split(",")[0] for line in names.read_text().splitlines()[1:]]
    table = read_traits(
        [TABLES / "avonet-cub50.csv", TABLES / "eltontraits-cub50.txt"], photos=folders[:40], names=names
    )
    assert (len(table), int(table.seen.sum()), table.num_attributes) == (50, 40, 62)
    assert not table.report.warnings
    alone = read_traits(TABLES / "eltontraits-cub50.txt", photos=folders[:40], names=names)
    np.testing.assert_array_equal(
        value(table, folders[7], "BodyMass-Value"), value(alone, folders[7], "BodyMass-Value")
    )


def test_the_command_line_takes_one_table_or_several():
    parser = build_parser()
    assert parser.parse_args(["check", "photos", "--traits", "a.csv"]).traits == "a.csv"
    several = ["--traits", "a.csv", "--traits", "b.txt", "--traits", "c.xlsx"]
    assert parser.parse_args(["train", "photos", "--out", "o", *several]).traits == ["a.csv", "b.txt", "c.xlsx"]
