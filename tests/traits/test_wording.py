"""Class attributes back in the words of the table."""

import numpy as np
import pytest

from dedn_hf.modeling.inputs import scaled
from dedn_hf.traits import read_traits
from dedn_hf.traits.wording import described_columns, in_words, unscaled

BIRDS = """class,role,bill,mass,length,crest
Wren,train,cone,12 g,10 cm,yes
Kite,train,hooked,1200 g,60 cm,no
Finch,train,cone; flat,120 g,14 cm,yes
"""


@pytest.fixture
def birds(tmp_path):
    (tmp_path / "birds.csv").write_text(BIRDS)
    return read_traits(tmp_path / "birds.csv")


def test_a_row_reads_as_it_was_written(birds):
    words = [{column: in_words(birds, row, column) for column in ("bill", "mass", "length", "crest")}
             for row in birds.class_attributes]  # fmt: skip
    assert words[0] == {"bill": "cone", "mass": "12 g", "length": "10 cm", "crest": "yes"}
    assert words[1] == {"bill": "hooked", "mass": "1200 g", "length": "60 cm", "crest": "no"}
    assert words[2]["bill"] == "cone, flat"


@pytest.mark.parametrize("column, number", [("mass", 500.0), ("length", 33.0)])
def test_a_number_comes_back_through_its_scale(birds, column, number):
    trait = next(each for each in birds.traits if each["column"] == column)
    assert unscaled(trait, float(scaled(trait, number))) == pytest.approx(number)


def test_what_is_not_described_is_told_from_what_is(birds):
    row = birds.describe("mine", {"mass": "90 g", "bill": "hooked"})
    assert described_columns(birds, row) == ["bill", "mass"]
    assert described_columns(birds, np.array([trait["fill"] for trait in birds.traits])) == []
