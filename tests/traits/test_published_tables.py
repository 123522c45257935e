"""Tables as they were published, and those of the benchmarks, which must not change by a bit."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dedn_hf import AttributeTable
from dedn_hf.data import attribute_table
from dedn_hf.traits import read_traits

TABLES = Path(__file__).parents[1] / "fixtures" / "traits"
NAMES = TABLES / "cub50-names.csv"


@pytest.fixture(scope="module")
def folders():
    with open(NAMES, newline="", encoding="utf-8") as file:
        return [row["folder"] for row in csv.DictReader(file)]


def columns_of(table, kind):
    return [column["name"] for column in table.report.columns if column["kind"] == kind]


def test_avonet_loads_as_it_was_published(folders):
    table = read_traits(TABLES / "avonet-cub50.csv", photos=folders, names=NAMES)
    assert sorted(table.class_names) == folders
    assert table.seen.all()
    assert columns_of(table, "category") == ["Habitat", "Trophic.Level", "Trophic.Niche", "Primary.Lifestyle"]
    numbers = columns_of(table, "number")
    assert {"Beak.Length_Culmen", "Hand-Wing.Index", "Mass", "Migration", "Range.Size"} <= set(numbers)
    unused = table.report.ignored
    assert unused["Sequence"] == "a running number"
    assert unused["Avibase.ID1"] == "an identifier"
    assert unused["Mass.Source"] == "a source or reference"
    assert unused["Female"] == unused["Total.individuals"] == "a number of measurements"
    assert unused["Centroid.Latitude"] == "a place on the map"
    assert unused["Reference.species"] == "it has no value"
    assert "name of a taxon" in unused["Genus"]
    mass = next(trait for trait in table.traits if trait["column"] == "Mass")
    assert mass["range"] == [8.1, 3188.4]
    assert mass["offset"] == 0  # over decades, so by its logarithm
    assert table.class_attributes.min() == 0
    assert table.class_attributes.max() == 1
    row = table.describe("mine", {"Habitat": "Wetland", "Mass": 900})
    assert row[table.attribute_names.index("Habitat=Wetland")] == 1


def test_eltontraits_loads_as_it_was_published(folders):
    table = read_traits(TABLES / "eltontraits-cub50.txt", photos=folders, names=NAMES)
    assert sorted(table.class_names) == folders
    assert "2 rows without a name" in str(table.report)
    assert columns_of(table, "category") == ["PassNonPass", "Diet-5Cat"]
    assert columns_of(table, "yes/no") == ["PelagicSpecialist", "Nocturnal"]
    assert "BodyMass-Value" in columns_of(table, "number")
    unused = table.report.ignored
    assert unused["Taxo"] == "all say 'BL3'"
    assert unused["Diet-Certainty"] == "a mark of certainty or spread"
    assert unused["Diet-EnteredBy"] == "who made the entry"
    assert unused["English"] == "another name of the classes"


def test_without_the_names_eltontraits_matches_by_the_english_ones(folders):
    table = read_traits(TABLES / "eltontraits-cub50.txt", photos=folders)
    assert table.seen.sum() == 45
    assert table.report.photos_without_row["017.Cardinal"] == ["Northern Cardinal"]
    assert table.roles[table.class_names.index("Grey Catbird")] == "unseen"


def test_without_photos_a_column_of_names_is_found():
    assert "Mareca strepera" in read_traits(TABLES / "avonet-cub50.csv").class_names
    assert "Anas strepera" in read_traits(TABLES / "eltontraits-cub50.txt").class_names


def test_without_the_names_avonet_says_that_no_class_is_a_folder(folders):
    with pytest.raises(ValueError, match="no class is a photo folder.*--names FILE"):
        read_traits(TABLES / "avonet-cub50.csv", photos=folders)


def test_a_report_fits_on_a_screen(folders):
    for name in ("avonet-cub50.csv", "eltontraits-cub50.txt"):
        report = read_traits(TABLES / name, photos=folders, names=NAMES).report
        assert len(str(report).splitlines()) <= 40
        assert set(report.to_dict()["ignored"]) == set(report.ignored)


@pytest.mark.parametrize("name", ["cub", "sun", "awa2"])
def test_the_benchmarks_and_any_six_of_their_classes_stay_bit_by_bit(name, tmp_path):
    table = attribute_table(name)
    rng = np.random.default_rng(0)
    some = [table.select(list(rng.choice(table.class_names, 6, replace=False))) for _ in range(10)]
    for each in (table, *some):
        each.to_csv(tmp_path / "table.csv")
        read = read_traits(tmp_path / "table.csv")
        assert read.class_attributes.tobytes() == each.class_attributes.tobytes()
        for field in ("class_names", "attribute_names", "attribute_groups", "roles"):
            assert getattr(read, field) == getattr(each, field)
    assert {trait["has_it"] for trait in read.traits} == {1.0 if name == "sun" else 100.0}
    frame = pd.DataFrame(table.class_attributes, index=table.class_names, columns=table.attribute_names)
    assert read_traits(frame).class_attributes.tobytes() == table.class_attributes.tobytes()


def test_our_own_format_keeps_its_bits_when_classes_get_the_names_of_folders(tmp_path):
    table = attribute_table("awa2")
    table.to_csv(tmp_path / "table.csv")
    folders = [name.replace("+", "_").upper() for name in table.class_names]
    read = read_traits(tmp_path / "table.csv", photos=folders)
    assert read.class_names == folders
    assert read.class_attributes.tobytes() == table.class_attributes.tobytes()
    assert read.roles == table.roles


def test_a_table_that_was_read_before_is_not_scaled_again(tmp_path):
    table = read_traits(TABLES / "avonet-cub50.csv")
    table.to_csv(tmp_path / "table.csv")
    again = read_traits(tmp_path / "table.csv")
    assert again.class_attributes.tobytes() == table.class_attributes.tobytes()
    assert again.traits == AttributeTable.from_csv(tmp_path / "table.csv").traits == table.traits
