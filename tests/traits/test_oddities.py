"""Small tables, one oddity each: the value that was meant, or a message that says where and what to do."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest

from dedn_hf.cli.check import reading_of
from dedn_hf.cli.parser import build_parser
from dedn_hf.modeling.inputs import quantity
from dedn_hf.traits import read_traits
from tests.traits.test_random_tables import values_of

BASE = [
    ["class", "role", "red", "green", "mass"],
    ["Wren", "train", "1", "0", "9.5"],
    ["Kite", "train", "0", "1", "1000"],
    ["Swan", "unseen", "0.5", "0.5", "11000"],
]
SWAN = np.log10(11000 / 9.5) / np.log10(1000 / 9.5)
RIGHT = [[1, 0, 0], [0, 1, 1], [0.5, 0.5, SWAN]]


def text(rows, delimiter=","):
    return "\n".join(delimiter.join(row) for row in rows) + "\n"


def changed(change):
    return [[change(i, j, cell) for j, cell in enumerate(row)] for i, row in enumerate(BASE)]


def cell_at(row, column, cell):
    return changed(lambda i, j, old: cell if (i, j) == (row, column) else old)


def with_column(*cells, at=None):
    at = len(BASE[0]) if at is None else at
    return [[*row[:at], cell, *row[at:]] for row, cell in zip(BASE, cells, strict=True)]


COMMAS = [[cell.replace(".", ",") for cell in row] for row in BASE]
LATIN = ("latin", "Troglodytes troglodytes", "Milvus milvus", "Cygnus olor")
SAME = {
    "semicolons": text(BASE, ";"),
    "semicolons and decimal commas": text(COMMAS, ";"),
    "tabs": text(BASE, "\t"),
    "bars": text(BASE, "|"),
    "a line sep=": "sep=,\n" + text(BASE),
    "UTF-8 with a mark": text(BASE).encode("utf-8-sig"),
    "UTF-16": text(BASE, "\t").encode("utf-16"),
    "UTF-16 without a mark": text(BASE).encode("utf-16-le"),
    "empty columns": text([[*row, "", ""] for row in BASE]),
    "empty rows": text(BASE) + ",,,,\n\n,,,,\n",
    "quoted decimal commas": text([[f'"{cell}"' for cell in row] for row in COMMAS]),
    "percent": text(changed(lambda i, j, cell: cell + "%" if i and j in (2, 3) else cell)),
    "TRUE": text(changed(lambda i, j, cell: {"1": "TRUE", "0": "FALSE"}.get(cell, cell) if j < 4 else cell)),
    "WAHR": text(changed(lambda i, j, cell: {"1": "WAHR", "0": "FALSCH"}.get(cell, cell) if j < 4 else cell)),
    "yes": text(changed(lambda i, j, cell: {"1": "yes", "0": "No"}.get(cell, cell) if j < 4 else cell)),
    "ja": text(changed(lambda i, j, cell: {"1": "ja", "0": "nein"}.get(cell, cell) if j < 4 else cell)),
    "oui": text(changed(lambda i, j, cell: {"1": "oui", "0": "non"}.get(cell, cell) if j < 4 else cell)),
    "sí": text(changed(lambda i, j, cell: {"1": "sí", "0": "no"}.get(cell, cell) if j < 4 else cell)),
    "sì": text(changed(lambda i, j, cell: {"1": "sì", "0": "no"}.get(cell, cell) if j < 4 else cell)),
    "はい": text(changed(lambda i, j, cell: {"1": "はい", "0": "いいえ"}.get(cell, cell) if j < 4 else cell)),
    "x and blank": text(changed(lambda i, j, cell: {"1": "x", "0": ""}.get(cell, cell) if j < 4 else cell)),
    "a column of row numbers": text([[number, *row] for row, number in zip(BASE, ["", "0", "1", "2"], strict=True)]),
    "a Latin name second": text(with_column(*LATIN, at=1)),
    "the class not first": text(with_column(*LATIN, at=0)),
    "a unit": text(changed(lambda i, j, cell: cell + " g" if i and j == 4 else cell)),
    "several units": text(cell_at(2, 4, "1 kg")).replace("9.5", "9.5 g").replace("11000", "11000 g"),
    "a no-break space": text(changed(lambda i, j, cell: cell.replace("1000", "1\u00a0000") if i and j == 4 else cell)),
    "a thin space": text(cell_at(3, 4, "11\u202f000")),
    "an underscore": text(cell_at(2, 4, "1_000")),
    "a Swiss apostrophe": text(cell_at(3, 4, "11'000")),
    "Excel's apostrophe": text(cell_at(2, 4, "'1000")),
    "typographic quotes": text(cell_at(1, 2, "\u201c1\u201d")),
    "a range": text(cell_at(1, 4, "9-10")),
    "a range with a long dash": text(cell_at(1, 4, "9–10")),
    "about": text(cell_at(1, 4, "~9.5")),
    "plus or minus": text(cell_at(1, 4, "9.5 ± 0.3")),
    "an exponent": text(cell_at(2, 4, "1.0E+03")),
    "a split column": text([["class", "split", "red", "green", "mass"], *BASE[1:]]),
    "the role test": text(changed(lambda i, j, cell: cell.replace("unseen", "test"))),
    "a seen column": text([["class", "seen", "red", "green", "mass"]] + [
        [row[0], "no" if row[1] == "unseen" else "yes", *row[2:]] for row in BASE[1:]
    ]),
    "capitals in the header": text([["Class", "Role", "red", "green", "mass"], *BASE[1:]]),
    "CR LF": text(BASE).replace("\n", "\r\n"),
    "CR": text(BASE).replace("\n", "\r"),
    "CR CR LF": text(BASE).replace("\n", "\r\r\n"),
    "comments": '# my "table\n# of birds\n' + text(BASE),
    "a title": "My bird table,,,,\n" + text(BASE),
    "notes above": "Birds of the lake\nsee www.example.org; all of it\n\n" + text(BASE),
    "a constant column": text(with_column("planet", "1", "1", "1")),
    "an empty column": text(with_column("wing", "", "NA", "-")),
    "sources": text(with_column("mass source", "Smith", "Jones", "Smith")),
    "comments in a column": text(with_column("remarks", "see p. 3", "", "nice")),
    "coordinates": text(with_column("Latitude", "50.5", "12.2", "-3.1")),
    "ids": text(with_column("SpecID", "513", "77", "1048")),
}  # fmt: skip


def read(tmp_path, content, name="table.csv", encoding="utf-8", **arguments):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return read_traits(path, **arguments)


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_the_same_table_written_otherwise_is_the_same_table(tmp_path, content):
    table = read(tmp_path, content)
    assert table.class_names == ["Wren", "Kite", "Swan"]
    assert table.attribute_names == ["red", "green", "mass"]
    assert table.roles == ["train", "train", "unseen"]
    np.testing.assert_allclose(table.class_attributes, RIGHT, rtol=1e-6)


@pytest.mark.parametrize(
    "mark", ["NA", "", "-", "?", "n/a", "unknown", "NaN", "-999", "-9999", "-999.9", "-1", "#N/A"]
)
def test_a_missing_mark_is_a_gap_that_has_the_mean_of_the_training_classes(tmp_path, mark):
    rows = [*cell_at(2, 4, mark), ["Owl", "train", "1", "1", "400"]]
    table = read(tmp_path, text(rows))
    mass = table.class_attributes[:, 2]
    assert mass[1] == pytest.approx((mass[0] + mass[3]) / 2)
    assert next(column for column in table.report.columns if column["name"] == "mass")["gaps"] == 0.25


def test_a_gap_is_exactly_nothing_once_the_class_attributes_are_centred(tmp_path):
    table = read(tmp_path, text([*cell_at(2, 4, "NA"), ["Owl", "train", "1", "1", "400"]]))
    mass = table.class_attributes[:, 2]
    assert mass[1] - mass[table.seen].mean() == pytest.approx(0, abs=1e-7)


def test_an_impossible_negative_is_said_to_be_a_gap(tmp_path):
    assert "-1 read as a gap" in str(read(tmp_path, text(cell_at(2, 4, "-1"))).report)


@pytest.mark.parametrize("cells", [("-1", "0", "1"), ("-5", "3", "2"), ("-9", "12", "15"), ("-1000", "-999", "20")])
def test_a_negative_that_is_possible_is_a_number(tmp_path, cells):
    table = read(tmp_path, text(with_column("temperature", *cells)))
    assert next(column for column in table.report.columns if column["name"] == "temperature")["gaps"] == 0


def test_a_true_minus_is_a_minus(tmp_path):
    table = read(tmp_path, text(cell_at(1, 4, "\u22125")))
    assert table.traits[2]["range"] == [-5, 11000]


def test_a_category_becomes_an_attribute_for_each_of_its_values(tmp_path):
    table = read(tmp_path, text(with_column("habitat", "forest", "Field", "lake")))
    assert table.attribute_names[3:] == ["habitat=Field", "habitat=forest", "habitat=lake"]
    assert table.class_attributes[:, 3:].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("parted", ["brown;white", "brown; white", "brown | white", "brown/white", "brown & white"])
def test_several_values_in_a_cell_are_all_true(tmp_path, parted):
    table = read(tmp_path, text(with_column("colours", parted, "brown", "white")))
    assert table.attribute_names[3:] == ["colours=brown", "colours=white"]
    assert table.class_attributes[:, 3:].tolist() == [[1, 1], [1, 0], [0, 1]]


def test_a_name_of_one_class_with_letters_of_windows_is_read(tmp_path):
    table = read(tmp_path, text(cell_at(3, 0, "Cygne tuberculé")), encoding="cp1252")
    assert table.class_names[2] == "Cygne tuberculé"
    assert "Windows-1252" in str(table.report)


def test_a_line_break_within_a_name_is_a_space_and_lines_are_still_counted_right(tmp_path):
    content = (
        'class,role,red,green,mass\n"Wren\n(Eurasian)",train,1,0,9 g\nSwan,unseen,0,1,heavy\nKite,train,0,1,1 g\n'
    )
    with pytest.raises(ValueError, match=r"line 4, column 'mass': 'heavy' is not a number"):
        read(tmp_path, content)
    assert read(tmp_path, content.replace("heavy", "5 g")).class_names[0] == "Wren (Eurasian)"


def test_the_second_column_of_a_name_that_pandas_numbered_is_pointed_at(tmp_path):
    table = read(tmp_path, text([["class", "role", "red", "red.1", "mass"], *BASE[1:]]))
    assert table.attribute_names == ["red", "red.1", "mass"]
    assert "'red.1' looks like what pandas calls a second column 'red'" in str(table.report)


def test_a_thousands_point_and_a_decimal_comma_are_told_apart_by_the_whole_table(tmp_path):
    german = "Art;Haube;Gewicht;Flügel\nMeise;ja;18,5;1.200\nHopf;nein;60,25;950\n"
    assert read(tmp_path, german, encoding="cp1252").traits[2]["range"] == [950, 1200]
    english = 'class,crest,weight,wing\nTit,yes,18.5,"1,200"\nHoopoe,no,60.25,950\n'
    assert read(tmp_path, english).traits[2]["range"] == [950, 1200]
    assert read(tmp_path, german.replace("1.200", "1.2").replace(",", "."), decimal=".").traits[2]["range"] == [
        1.2,
        950,
    ]


REFUSED = {
    "a date that was a range": (text(cell_at(1, 4, "01.May")), r"line 2, column 'mass': '01.May' looks like .* date"),
    "12. Sep": (text(cell_at(2, 4, "12. Sep")), r"line 3, column 'mass': '12. Sep' .* as text"),
    "a word among numbers": (text(cell_at(2, 4, "heavy")), r"line 3, column 'mass': 'heavy' is not a number.*kinds="),
    "two decimal signs": (text([["class", "a", "b"], ["x", "1,5", "2"], ["y", "1.5", "3"]], ";"), r"column 'a': '1.5'"),  # noqa: E501
    "one unit among none": (text(cell_at(2, 4, "1 kg")), r"line 3, column 'mass': '1 kg'.*has no unit"),
    "a unit of something else": (text(cell_at(2, 4, "12 mm")).replace("9.5", "9.5 g"), r"line 3, column 'mass': '12 mm'"),  # noqa: E501
    "too many cells": (text([*BASE[:2], [*BASE[2], "5"], BASE[3]]), r"line 3: 6 cells, but the header has 5.*quotes"),
    "a cell too few": (text([*BASE[:2], BASE[2][:-1], BASE[3]]), r"line 3: 4 cells, but the header has 5"),
    "a header twice": (text([["class", "role", "red", "red", "mass"], *BASE[1:]]), r"'red' stands twice, as columns 3"),  # noqa: E501
    "no header": (text([["Wren", "1", "0.5"], ["Kite", "0", "1.5"]]), "Add a header row"),
    "a role": (text(cell_at(1, 1, "trian")), r"line 2, column 'role': 'trian'. Use train, val or unseen"),
    "two roles": (text([*BASE, ["Wren", "unseen", "1", "0", "9 g"]]), r"'Wren' is 'unseen' here, elsewhere 'train'"),
    "nothing": ("", "is empty"),
    "a header only": (text(BASE[:1]), "at least one class row"),
    "classes in columns": (text([list(row) for row in zip(*[[r[0], *r[2:]] for r in BASE], strict=True)]), "transposed="),  # noqa: E501
    "an old Excel file": (b"\xd0\xcf\x11\xe0" + bytes(50), "Save it as .xlsx"),
    "a web page": ("<!DOCTYPE html><table></table>", "web page"),
    "bytes": (bytes(range(256)), "not a text file"),
    "nothing but gaps": (text([["class", "a", "b"], ["x", "NA", "?"], ["y", "-", ""]]), "no column of traits.*value"),
    "a class that has nothing": (text([["class", "a", "b"], ["x", "yes", "no"], ["y", "no", "no"]]), "'y' is 0 in all"),  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place_and_what_to_do(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, content)
    assert str(tmp_path / "table.csv") in str(refused.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No trait table at"):
        read_traits(tmp_path / "none.csv")


def test_classes_in_columns_are_turned_when_photos_or_the_user_say_so(tmp_path):
    content = "trait,Wren,Kite,Swan\nred,1,0,0.5\ngreen,0,1,0.5\nmass,9.5,1000,11000\n"
    for header, arguments in (("what", {"photos": ["Wren", "Kite"]}), ("what", {"transposed": True}), ("trait", {})):
        table = read(tmp_path, content.replace("trait", header), **arguments)
        assert table.class_names == ["Wren", "Kite", "Swan"]
        assert table.attribute_names == ["red", "green", "mass"]


# Several rows, long tables, units beside --------------------------------------------------------------------------


def test_rows_of_one_class_become_one(tmp_path):
    content = "species,sex,mass\nA b,f,10 g\nA b,m,14 g\nA b,,12 g\nC d,m,3 kg\nE f,f,\n"
    table = read(tmp_path, content)
    assert table.class_names == ["A b", "C d", "E f"]
    assert table.attribute_names == ["sex=f", "sex=m", "mass"]
    assert table.class_attributes[0, :2].tolist() == [1, 1]
    assert table.traits[2]["range"] == [12, 3000]
    assert table.report.several_rows == {"A b": 3}
    assert "differ by up to 4; their median is used" in str(table.report)


def test_a_column_of_units_belongs_to_its_neighbour(tmp_path):
    table = read(tmp_path, "species,body mass,body mass - units,crest\nA b,1.5,kg,yes\nC d,200,g,no\n")
    assert table.attribute_names == ["body mass", "crest"]
    assert sorted(table.traits[0]["range"]) in ([200, 1500], [0.2, 1.5])
    assert table.traits[0]["unit"] in ("g", "kg")


def test_a_row_of_units_under_the_header_is_understood(tmp_path):
    table = read(tmp_path, "class,mass,wing\n,g,mm\nA,12,80\nB,1200,300\n")
    assert [trait["unit"] for trait in table.traits] == ["g", "mm"]


LONG = {
    "TRY": (
        "AccSpeciesName\tTraitName\tOrigValueStr\tStdValue\tUnitName\tReference\t\n"
        "Parus major\tmass\t18\t18\tg\tx\t\nParus major\tmass\t20\t20\tg\tx\t\nParus major\t\t52.1\t52.1\t\tx\t\n"
        "Parus major\tbill\tcone\t\t\tx\t\nCorvus corax\tmass\t1.2\t1200\tg\ty\t\nCorvus corax\tbill\thooked\t\t\ty\t\n"  # noqa: E501
    ),
    "Darwin Core": (
        "taxonID,scientificName,measurementType,measurementValue,measurementUnit\n1,Parus major,mass,19,g\n"
        "1,Parus major,bill,cone,\n2,Corvus corax,mass,1.2,kg\n2,Corvus corax,bill,hooked,\n"
    ),
    "EOL": (
        "page_id,scientific_name,predicate,value,units\n1,Parus major,mass,19,g\n1,Parus major,bill,cone,\n"
        "2,Corvus corax,mass,1200,g\n2,Corvus corax,bill,hooked,\n"
    ),
}


@pytest.mark.parametrize("content", LONG.values(), ids=LONG)
def test_a_table_with_one_trait_a_row_is_turned(tmp_path, content):
    table = read(tmp_path, content, encoding="latin-1")
    assert sorted(table.class_names) == ["Corvus corax", "Parus major"]
    assert table.attribute_names == ["bill=cone", "bill=hooked", "mass"]
    assert table.traits[2]["range"] in ([19, 1200], [0.019, 1.2])
    row = table.class_attributes[table.class_names.index("Corvus corax")]
    assert row.tolist() == [0, 1, 1]


def test_the_columns_of_a_long_table_can_be_named(tmp_path):
    content = "bird,was,wieviel\nTit,mass,19 g\nTit,bill,cone\nRaven,mass,1200 g\nRaven,bill,hooked\n"
    table = read(tmp_path, content, long_columns=("was", "wieviel"))
    assert table.attribute_names == ["bill=cone", "bill=hooked", "mass"]


def test_a_wrong_cell_of_a_long_table_has_its_line(tmp_path):
    content = LONG["EOL"] + "3,Pica pica,mass,heavy,\n4,Turdus merula,mass,100,g\n5,Sitta europaea,mass,20,g\n"
    with pytest.raises(ValueError, match="line 6, column 'mass': 'heavy'"):
        read(tmp_path, content)


# The user's word --------------------------------------------------------------------------------------------------


def test_guesses_are_overruled_by_name(tmp_path):
    rows = with_column("SpecID", "513", "77", "1048")
    rows = [[*row, cell] for row, cell in zip(rows, ("code", "1", "2", "3"), strict=True)]
    table = read(tmp_path, text(rows), use=["SpecID"], ignore=["green"], kinds={"code": "category"})
    assert table.attribute_names == ["red", "mass", "SpecID", "code=1", "code=2", "code=3"]
    assert table.report.ignored == {"green": "as you said"}


def test_a_unit_can_be_given_with_the_kind(tmp_path):
    table = read(tmp_path, text(BASE), kinds={"mass": "number in g"})
    assert table.traits[2]["unit"] == "g"
    assert table.describe("mine", {"mass": "1 kg"})[2] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use": ["gren"]}, "no column 'gren'. Did you mean 'green'"),
        ({"kinds": {"mass": "weight"}}, "use number, percent, yes/no, category"),
        ({"name_column": "Species"}, "no column 'Species'. It has 'class'"),
    ],
)
def test_a_wrong_word_of_the_user_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text(BASE), **arguments)


def test_delimiter_encoding_header_and_marks_can_be_given(tmp_path):
    content = "A;B\nC;D\n" + text(cell_at(2, 4, "999"), ";") + "Owl;train;1;1;10\n"
    table = read(tmp_path, content, delimiter=";", encoding="ascii", header=3, missing=[999])
    assert table.class_names == ["Wren", "Kite", "Swan", "Owl"]
    assert table.report.columns[2]["gaps"] == 0.25


# DataFrames and Excel ---------------------------------------------------------------------------------------------


def test_a_data_frame_is_read_with_its_index_as_classes():
    frame = pd.DataFrame(
        {"crest": [True, False], "mass": [9.5, 1000.0], "bill": ["cone", None]}, index=pd.Index(["Wren", "Kite"])
    )
    table = read_traits(frame)
    assert table.class_names == ["Wren", "Kite"]
    assert table.attribute_names == ["crest", "mass"]  # one bill for all that are known
    assert table.class_attributes.tolist() == [[1, 0], [0, 1]]


def test_the_sheet_with_the_table_is_found_whatever_the_file_is_called(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Read me"
    for row in (["This table"], ["column", "meaning"], ["mass", "in grams, of adults"]):
        book.active.append(row)
    sheet = book.create_sheet("birds")
    for row in (["Birds of the lake"], [], ["class", "share", "mass", "crest"]):
        sheet.append(row)
    for row in (["Wren", 0.07, 9.5, True], ["Kite", 0.5, 1000, False], ["Swan", None, 11000, True]):
        sheet.append(row)
        sheet.cell(sheet.max_row, 2).number_format = "0%"
    book.save(tmp_path / "birds.csv")
    table = read_traits(tmp_path / "birds.csv")
    assert table.class_names == ["Wren", "Kite", "Swan"]
    assert [trait["kind"] for trait in table.traits] == ["percent", "number", "yes/no"]
    assert table.traits[0]["range"] == [0, 100] or table.traits[0]["range"] == [7, 50]
    assert "Excel sheet 'birds'; not read: 'Read me'" in str(table.report)
    with pytest.raises(ValueError, match="no sheet 'bird'. It has 'Read me', 'birds'"):
        read_traits(tmp_path / "birds.csv", sheet="bird")


def test_a_damaged_excel_file_is_refused_by_its_content(tmp_path):
    pytest.importorskip("openpyxl")
    with pytest.raises(ValueError, match="table.csv is an Excel file by its content, but it does not open"):
        read(tmp_path, b"PK\x03\x04" + bytes(50))


def test_a_range_that_excel_made_a_date_is_refused_with_its_row(tmp_path):
    import datetime

    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["class", "eggs", "mass"], ["Wren", "3-4", 9], ["Kite", datetime.datetime(2026, 9, 12), 1000]):
        book.active.append(row)
    book.save(tmp_path / "birds.xlsx")
    with pytest.raises(ValueError, match="row 3, column 'eggs': '2026-09-12.*turned into a date"):
        read_traits(tmp_path / "birds.xlsx")


@pytest.mark.parametrize("content", [
    '[{"class": "a", "mass": 1.5, "colour": ["red", "blue"]}, {"class": "b", "mass": 30, "colour": ["red"]}]',
    '{"class": "a", "mass": 1.5, "colour": "red; blue"}\n{"class": "b", "mass": 30, "colour": "red"}\n',
])  # fmt: skip
def test_records_of_json_are_rows(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    table = read_traits(tmp_path / "t.json")
    assert table.class_names == ["a", "b"]
    assert table.attribute_names == ["mass", "colour=blue", "colour=red"]


@pytest.mark.parametrize("content", ['{"mass": {"a": 1, "b": 2}}', '{"a": 1', "[1, 2]"])
def test_other_json_is_refused_and_not_parted_at_its_commas(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match="JSON, but no list of records"):
        read_traits(tmp_path / "t.json")


def test_columns_parted_by_spaces_are_refused_with_the_reason(tmp_path):
    (tmp_path / "t.txt").write_text("class  size  crest\na      1     1\nb      2     0\n")
    with pytest.raises(ValueError, match="parted by spaces only"):
        read_traits(tmp_path / "t.txt")


def test_a_first_row_of_numbers_is_no_header(tmp_path):
    (tmp_path / "t.csv").write_text("Wren,12,300,4\nKite,7,1,9\nSwan,1,2,2\n")
    with pytest.raises(ValueError, match="first row holds numbers"):
        read_traits(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("class,1998,2001\nKite,7,1\nSwan,1,2\nRook,3,5\n")
    assert read_traits(tmp_path / "t.csv").attribute_names == ["1998", "2001"]


def test_two_words_that_both_could_mean_yes_are_categories(tmp_path):
    (tmp_path / "t.csv").write_text("class,form,mark\na,x,✓\nb,y,x\nc,x,✓\n")
    assert read_traits(tmp_path / "t.csv").attribute_names == ["form=x", "form=y", "mark=x", "mark=✓"]


def test_a_percent_sign_in_some_cells_is_meant_for_all(tmp_path):
    (tmp_path / "t.csv").write_text("class,forest,field\na,50%,50 %\nb,100%,0\nc,0%,100\n")
    table = read_traits(tmp_path / "t.csv")
    assert table.class_attributes.tolist() == [[50, 50], [100, 0], [0, 100]]
    assert "without a unit taken for %" in str(table.report)


def test_how_to_read_the_file_can_be_given_by_the_command_line(tmp_path):
    (tmp_path / "t.csv").write_bytes("trait:Żuraw:Orzeł:Wrona\nmasa:5,5:4:-7\nskrzydło:230:200:90\n".encode("cp1250"))
    words = ["--delimiter", ":", "--encoding", "cp1250", "--transposed", "--decimal", ",", "--missing=-7"]
    given = vars(build_parser().parse_args(["check", "photos", "--traits", "t.csv", *words, "--header", "1"]))
    table = read_traits(tmp_path / "t.csv", **reading_of(given))
    assert table.class_names == ["Żuraw", "Orzeł", "Wrona"]
    assert next(trait["range"] for trait in table.traits if trait["column"] == "masa") == [4, 5.5]
    long = ["--long", "Was", "Wert", "--delimiter", "tab"]
    given = vars(build_parser().parse_args(["train", "photos", "--out", "o", "--traits", "t.csv", *long]))
    (tmp_path / "t.csv").write_text("Art\tWas\tWert\na\tmass\t5\na\twing\t2\nb\tmass\t6\nb\twing\t9\n")
    assert read_traits(tmp_path / "t.csv", **reading_of(given)).attribute_names == ["mass", "wing"]


def column_of(tmp_path, *cells):
    """What a column of six birds becomes, beside one that tells them apart."""
    told = [f'{name},{ord(name)},"{cell}"' for name, cell in zip("abcdef", cells, strict=True)]
    (tmp_path / "birds.csv").write_text("\n".join(["species,told,asked", *told]), encoding="utf-8")
    table = read_traits(tmp_path / "birds.csv")
    return table, next(each for each in table.report.columns if each["name"] == "asked")


@pytest.mark.parametrize("half", ["1/2", "½", "0.5", "2/4", "1⁄2"])
def test_fractions_are_numbers(tmp_path, half):
    table, column = column_of(tmp_path, half, "1/4", "3/4", "1", "1 1/2", "1¾")
    lowest, highest = 0.25, 1.75
    expected = [(each - lowest) / (highest - lowest) for each in (0.5, 0.25, 0.75, 1, 1.5, 1.75)]
    np.testing.assert_allclose(table.class_attributes[:, 1], expected, atol=1e-6)
    assert column["kind"] == "number" and any("fractions read as numbers" in note for note in column["notes"])


@pytest.mark.parametrize("cells", [("2/3", "3", "2", "2/3", "1", "1/2"), ("1/2/3", "3", "2", "3", "1", "7")])
def test_a_slash_between_values_that_stand_alone_too_parts_values(tmp_path, cells):
    table, column = column_of(tmp_path, *cells)
    assert column["kind"] == "category"
    assert table.class_attributes[:, table.attribute_names.index("asked=2")].tolist() == [
        float("2" in cell.split("/")) for cell in cells
    ]


def test_prices_are_numbers_in_one_currency(tmp_path):
    table, column = column_of(tmp_path, "$3", "$ 4.50", "5 $", "$2", "$1", "$9")
    assert column["unit"] == "$" and table.class_attributes[:, 1].argmax() == 5
    with pytest.raises(ValueError, match="line 4, column 'asked': '€5': it is in €, and the column in \\$"):
        column_of(tmp_path, "$3", "$4.50", "€5", "$2", "$1", "$9")


@pytest.mark.parametrize(
    ("cells", "unit", "numbers"),
    [
        (("38°C", "40 °C", "104 °F", "41.5ºC", "98.6°F", "39 ° C"), "°C", [38, 40, 40, 41.5, 37, 39]),
        (("2 ft 6 in", "5'", "2′3″", "18 in", "1 ft", "3 ft"), "ft", [2.5, 5, 2.25, 1.5, 1, 3]),
        (("1 lb 8 oz", "2 lb", "4 oz", "3 lb 4 oz", "1 lb", "5 lb"), "lb", [1.5, 2, 0.25, 3.25, 1, 5]),
        (("11+", "20?", ">12", "~9", "10", "about 8"), "", [11, 20, 12, 9, 10, 8]),
    ],
)
def test_quantities_as_people_write_them(tmp_path, cells, unit, numbers):
    table, column = column_of(tmp_path, *cells)
    assert (column["kind"], column["unit"]) == ("number", unit)
    ranks = np.argsort(np.argsort(numbers, kind="stable"), kind="stable").tolist()
    found = table.class_attributes[:, 1]
    assert np.argsort(np.argsort(found, kind="stable"), kind="stable").tolist() == ranks
    np.testing.assert_allclose(table.traits[1]["range"], [min(numbers), max(numbers)], rtol=1e-6)


def test_guesses_are_told_of_many_columns_too(tmp_path):
    names = [f"t{number}" for number in range(30)]
    rows = [["species", *names], ["Wren", *["1/2"] * 30], ["Kite", *["3"] * 30]]
    (tmp_path / "birds.csv").write_text(text(rows))
    assert "'t0': fractions read as numbers: 1/2 is 0.5; likewise 't1', 't2'" in str(
        read_traits(tmp_path / "birds.csv").report
    )


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1/2", "1/4", "1"], [0.5, 0.25, 1]),
        (["$5", "$7.50", "$12"], [5, 7.5, 12]),
        (["5 €", "7.5 €", "12€"], [5, 7.5, 12]),
        (["1.2×10^3", "5x10^2", "7"], [1200, 500, 7]),
        (["12*", "4†", "5 [2]"], [12, 4, 5]),
        (["10+ cm", "5 cm", "7 cm"], [10, 5, 7]),
    ],
)
def test_signs_around_a_number_do_not_make_it_a_word(tmp_path, cells, numbers):
    path = tmp_path / "t.csv"
    path.write_text(text(with_column("count", *cells)), encoding="utf-8")
    table = read_traits(path)
    column = next(each for each in table.report.columns if each["name"] == "count")
    assert column["kind"] == "number"
    assert column["range"] == [min(numbers), max(numbers)]


def test_codes_parted_by_a_slash_are_no_fractions(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text(with_column("strata", "1/3", "3", "2")), encoding="utf-8")
    assert [each["kind"] for each in read_traits(path).report.columns if each["name"] == "strata"] == ["category"]


@pytest.mark.parametrize("name", ["Grand total", "TOTAL:", "Mean ± SD", "min", "Maximum"])
def test_a_row_of_totals_is_no_class_however_it_is_called(tmp_path, name):
    path = tmp_path / "t.csv"
    path.write_text(text([*BASE, [name, "", "2", "2", "12009.5"]]), encoding="utf-8")
    table = read_traits(path)
    assert table.class_names == ["Wren", "Kite", "Swan"]
    assert f"no class: {name!r}" in str(table.report)


def test_a_header_that_stands_again_is_left_out_and_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text([*BASE[:3], BASE[0], BASE[3]]), encoding="utf-8")
    table = read_traits(path)
    np.testing.assert_allclose(table.class_attributes, RIGHT, atol=1e-6)
    assert "the header stands again in line 4: left out" in str(table.report)


@pytest.mark.parametrize("photos", [None, ["Wren", "Kite"]])
def test_a_class_written_in_two_ways_is_warned_of(photos):
    rows = pd.DataFrame({"class": ["Wren", "wren", "Kite"], "red": [1, 0, 1], "mass": [5.0, 7.0, 900.0]})
    assert "'Wren' and 'wren' are nearly one name" in str(read_traits(rows, photos=photos).report)


def test_two_folders_that_differ_by_a_capital_are_two_classes_without_a_warning():
    rows = pd.DataFrame({"class": ["Wren", "wren", "Kite"], "red": [1, 0, 1], "mass": [5.0, 7.0, 900.0]})
    assert "nearly one name" not in str(read_traits(rows, photos=["Wren", "wren", "Kite"]).report)


@pytest.mark.parametrize("header", ["mass, g", "mass/g", "mass,g"])
def test_a_header_gives_the_unit_after_a_comma_or_a_slash(header):
    rows = pd.DataFrame({"class": ["Wren", "Swan", "Kite"], "red": [1, 0, 1], header: [5.0, 7.0, 900.0]})
    assert {each["name"]: each["unit"] for each in read_traits(rows).report.columns}[header] == "g"


# Cells as people write them ---------------------------------------------------------------------------------------


NO_VALUE = [
    *("not recorded", "unknown (see notes)", "Not measured", "n/a (juvenile)", "no information", "No data available"),
    *("data deficient", "unknown.", "(unknown)", "[no data]", "not applicable", "to be determined", "none recorded"),
    *("see notes", "unmeasured", "undetermined", "not yet measured", "insufficient data", "--", "---", "n/d", "#NV"),
    *("nicht bekannt", "nicht gemessen", "keine Daten", "non mesuré", "pas de données", "non renseigné", "inconnue"),
    *("sin datos", "no disponible", "non rilevato", "sem dados", "geen gegevens", "niet bekend", "не известно"),
]


@pytest.mark.parametrize("text", NO_VALUE)
def test_words_that_mean_no_value_are_gaps_in_every_kind_of_column(tmp_path, text):
    for cells in (("12", "14", "9", "20"), ("yes", "no", "no", "yes"), ("red", "blue", "red", "blue")):
        table, column = column_of(tmp_path, *cells[:3], text, cells[3], text)
        assert column["gaps"] == pytest.approx(1 / 3)
        assert column["kind"] == {"12": "number", "yes": "yes/no", "red": "category"}[cells[0]]
    if text[0].isalpha() and "/" not in text:
        assert f"'{text}' read as a gap" in str(table.report)
    with pytest.raises(ValueError, match="nothing but gaps"):
        table.describe("mine", {"asked": text})


@pytest.mark.parametrize("word", ["heavy", "no", "notable", "known", "12 or so many", "not small"])
def test_other_words_are_no_gaps(tmp_path, word):
    with pytest.raises(ValueError, match=f"line 5, column 'asked': '{word}' is not a number"):
        column_of(tmp_path, "12", "14", "9", word, "20", "31")


QUANTITIES = {
    "12.3 ± 0.4": (12.3, ""),
    "8.5 mm ± 0.3 mm": (8.5, "mm"),
    "12.3 ± 0.4 SD": (12.3, ""),
    "10–12 (15)": (11, ""),
    "(8) 9–11 (12)": (10, ""),
    "12 [10-14]": (12, ""),
    "12 (n=5)": (12, ""),
    "12 (10-14) (n=5)": (12, ""),
    "c 12": (12, ""),
    "12; n=5": (12, ""),
    "12 (mm)": (12, "mm"),
    "10 cm - 14 cm": (12, "cm"),
    "8 bis 12": (10, ""),
    "10 till 14": (12, ""),
    "between 10 and 12": (11, ""),
    "from 10 to 14 g": (12, "g"),
    "von 8 bis 10": (9, ""),
    "entre 31 et 33": (32, ""),
    "-5 – -3": (-4, ""),
    "≤ 7": (7, ""),
    "less than 5": (5, ""),
    "at least 80 g": (80, "g"),
    "approx. 12": (12, ""),
    "max. 7": (7, ""),
    "etwa 12": (12, ""),
    "mind. 80": (80, ""),
    "20!": (20, ""),
    "5 per year": (5, "/yr"),
    "5/yr": (5, "/yr"),
    "5 eggs per year": (5, "egg/yr"),
    "5 times a year": (5, "time/yr"),
    "50 km/h": (50, "km/h"),
    "5 eggs": (5, "egg"),
    "1 egg": (1, "egg"),
    "50 per cent": (50, "%"),
    "50 Prozent": (50, "%"),
    "8''": (8, "in"),
    "3·10²": (300, ""),
    "1.2 x 10³": (1200, ""),
    "2.5×10^-1": (0.25, ""),
    "1 200,5": (1200.5, ""),
    "1.200.300": (1200300, ""),
    "1\u202f200": (1200, ""),
    "++": (2, ""),
    "(+)": (0.5, ""),
}


@pytest.mark.parametrize(("text", "expected"), QUANTITIES.items(), ids=QUANTITIES)
def test_a_quantity_is_the_number_that_is_meant_and_its_unit(text, expected):
    number, unit = quantity(text)
    assert (number, unit) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(
    "text", ["3 x 4 cm", "(8)", "1 2", "m: 12, f: 10", "12 mm long", "once a year", "12 or 14", "=A1"]
)
def test_what_is_more_or_less_than_a_quantity_is_none(text):
    with pytest.raises(ValueError, match="is not a number"):
        quantity(text)


def test_what_stands_around_a_number_is_told(tmp_path):
    _, column = column_of(tmp_path, "<5", "12 (n=5)", "~9", "8", "10-20", "7")
    assert column["notes"] == ["1 range read as the middle", "'<5' read as 5, '12 (n=5)' read as 12 and 1 more such"]


LEFT_OUT = {
    "sizes": (
        ("3 x 4 cm", "5 x 6 cm", "3 x 4 cm", "7×9 cm", "1 x 2 cm", "4 x 4 cm"),
        "more than a number .* '3 x 4 cm'",
    ),
    "sizes without a unit": (("3x4", "5x6", "2x3", "7x9", "1x2", "4x4"), "more than a number .* '3x4'"),
    "measures in words": (("12 mm long", "14 mm long", "9 mm", "8 mm wide", "2 mm long", "3 mm long"), "'12 mm long'"),
    "two numbers": (("12; 14", "9; 10", "8; 9", "7; 8", "20; 22", "30; 31"), "more than a number .* '12; 14'"),
    "pictures": (("a.jpg", "b.JPG", "c.png", "d.jpeg", "e.jpg", "f.jpg"), "names of pictures"),
    "two sexes": (("m: 12, f: 10", "m: 14, f: 13", "m: 8, f: 7", "m: 2, f: 1", "m: 3, f: 2", "m: 5, f: 5"), "neither"),
    "times": (("10:30", "11:15", "9:00", "8:45", "20:10", "12:00"), "neither numbers nor words .* '10:30'"),
    "plates": (("AB-12", "AC-15", "BX-9", "QQ-1", "ZZ-77", "PQ-3"), "an identifier"),
}


@pytest.mark.parametrize(("cells", "why"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_column_that_cannot_be_read_is_left_out_with_the_reason_and_an_example(cells, why):
    rows = [
        ["species", "told", "asked"],
        *([name, str(ord(name)), cell] for name, cell in zip("abcdef", cells, strict=True)),
    ]
    table = read_traits(pd.DataFrame(rows[1:], columns=rows[0]))
    assert re.search(why, table.report.ignored["asked"])


@pytest.mark.parametrize("share", ["0.5", "1/2", "1"])
def test_a_share_beside_percentages_is_refused(tmp_path, share):
    with pytest.raises(ValueError, match=f"line 3, column 'asked': '{share}' has no %, so it may be"):
        column_of(tmp_path, "50%", share, "30%", "0", "10%", "5%")


def test_a_number_over_1_says_that_all_beside_percentages_are_percentages(tmp_path):
    table, column = column_of(tmp_path, "50%", "0.5", "30%", "0", "45", "5%")
    assert column["range"] == [0, 50] and "3 without a unit taken for %" in column["notes"]


MARKS = {
    "+ and -": (("+", "-", "+", "-", "-", "+"), "yes/no", [1, 0, 1, 0, 0, 1]),
    "+ and a long dash": (("+", "–", "+", "–", "–", "+"), "yes/no", [1, 0, 1, 0, 0, 1]),
    "- is absent and ? unknown": (("+", "-", "+", "?", "-", "+"), "yes/no", [1, 0, 1, None, 0, 1]),
    "- is absent and empty unknown": (("x", "-", "x", "", "-", "x"), "yes/no", [1, 0, 1, None, 0, 1]),
    "weak": (("+", "-", "(+)", "±", "-", "+"), "yes/no", [1, 0, 0.5, 0.5, 0, 1]),
    "+ and 0": (("+", "0", "+", "0", "0", "+"), "yes/no", [1, 0, 1, 0, 0, 1]),
    "++": (("+", "-", "++", "-", "+++", "+"), "number", [1, 0, 2, 0, 3, 1]),
    "++ and empty": (("+", "", "++", "", "+++", "+"), "number", [1, 0, 2, 0, 3, 1]),
    "++, - and unknown": (("+", "-", "++", "", "+++", "?"), "number", [1, 0, 2, None, 3, None]),
    "1 and empty": (("1", "", "1", "", "", "1"), "yes/no", [1, 0, 1, 0, 0, 1]),
    "a bullet": (("•", "", "•", "", "", "•"), "yes/no", [1, 0, 1, 0, 0, 1]),
    "1 and NA": (("1", "0", "1", "NA", "0", "1"), "yes/no", [1, 0, 1, None, 0, 1]),
}


@pytest.mark.parametrize(("cells", "kind", "expected"), MARKS.values(), ids=MARKS)
def test_marks_say_what_is_there_and_how_much(tmp_path, cells, kind, expected):
    table, column = column_of(tmp_path, *cells)
    assert column["kind"] == kind
    assert column["gaps"] == pytest.approx(expected.count(None) / 6)
    found = values_of(table, "asked") if kind == "number" else table.class_attributes[:, 1]
    for value, right in zip(found, expected, strict=True):
        assert right is None or value == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ("yes", "no"),
    [("present", "absent"), ("vorhanden", "fehlt"), ("présent", "absent"), ("presente", "ausente"), ("WAAR", "ONWAAR")]
    + [("aanwezig", "afwezig"), ("PRAWDA", "FAŁSZ"), ("ИСТИНА", "ЛОЖЬ"), ("有", "无"), ("✅", "❌"), ("●", "○")],
)
def test_yes_and_no_in_more_words(tmp_path, yes, no):
    table, column = column_of(tmp_path, yes, no, no, yes, no, yes)
    assert (column["kind"], table.class_attributes[:, 1].tolist()) == ("yes/no", [1, 0, 0, 1, 0, 1])


@pytest.mark.parametrize("mark", ["999", "9999", "99999.9"])
def test_nines_far_above_all_other_values_are_gaps_unless_the_user_says_numbers(tmp_path, mark):
    _, column = column_of(tmp_path, "12", mark, "9", "8", mark, "31")
    assert column["gaps"] == pytest.approx(1 / 3)
    assert f"{float(mark):g} read as a gap: all others are at most 31" in column["notes"]
    told = read_traits(tmp_path / "birds.csv", kinds={"asked": "number"}).report.columns[1]
    assert told["gaps"] == 0


@pytest.mark.parametrize(
    "cells", [("1200", "9999", "9000", "8000", "5600", "3100"), ("99", "9", "8", "12", "99", "31")]
)
def test_nines_among_like_values_are_numbers(tmp_path, cells):
    assert column_of(tmp_path, *cells)[1]["gaps"] == 0


SEVERAL = {
    "and": ("brown and white", "brown", "white", "black and white and brown", "black", "white"),
    "or": ("brown or white", "brown", "white", "black or white or brown", "black", "white"),
    "e": ("brown e white", "brown", "white", "black e white e brown", "black", "white"),
    "a bullet": ("brown • white", "brown", "white", "black • white • brown", "black", "white"),
    "all in one": ("brown, white", "brown", "white", "black, white and brown", "black", "white"),
    "before and a comma": ("brown, and white", "brown", "white", "black, white, and brown", "black", "white"),
    "each its own": ("brown; white", "brown", "white", "black/white & brown", "black", "white"),
    "a gap among them": ("brown; white; ?", "brown; unknown", "white", "black; white; brown", "black", "white"),
    "capitals and hyphens": ("Brown; white", "brown ", "WHITE", "black; white.; brown", "black?", "White"),
}


@pytest.mark.parametrize("cells", SEVERAL.values(), ids=SEVERAL)
def test_values_of_one_cell_are_parted_in_any_way_in_which_the_column_parts_them(tmp_path, cells):
    table, _ = column_of(tmp_path, *cells)
    assert [name.casefold() for name in table.attribute_names[1:]] == ["asked=black", "asked=brown", "asked=white"]
    expected = [[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, 0, 0], [0, 0, 1]]
    assert table.class_attributes[:, 1:].tolist() == expected


def test_one_word_in_several_ways_is_one_category_and_told(tmp_path):
    cells = ("dark-brown", "dark brown", "Dark\u00a0brown", "gr\u00fcn", "gru\u0308n", "dark_brown")
    table, column = column_of(tmp_path, *cells)
    assert table.attribute_names[1:] == ["asked=dark-brown", "asked=gr\u00fcn"]
    assert column["notes"][0].startswith("'dark brown' taken for 'dark-brown', 'Dark brown' taken for 'dark-brown'")
    assert table.encode("asked", "Dark Brown")["asked=dark-brown"] == 1


def test_numbers_among_words_are_told(tmp_path):
    _, column = column_of(tmp_path, "12", "large", "small", "large", "small", "31")
    assert "2 of 6 cells are numbers, here taken for words" in column["notes"]


HEADERS = [
    "length [mm]",
    "length (in mm)",
    "length - mm",
    "length: mm",
    "length {mm}",
    "length (mm, adults)",
    "length<mm>",
]
HEADERS += ["length (mm) ad.", "length (mm)*", "length in millimetres", "mean length (mm) ± SD", "Body.length..mm."]


@pytest.mark.parametrize("header", [*HEADERS, "length\n(mm)"])
def test_a_header_gives_its_unit_in_any_form(header):
    rows = pd.DataFrame({"class": ["Wren", "Swan", "Kite"], "red": [1, 0, 1], header: [5.0, 7.0, 900.0]})
    assert [each["unit"] for each in read_traits(rows).report.columns if each["name"] != "red"] == ["mm"]


def test_a_plural_in_brackets_is_no_unit():
    rows = pd.DataFrame({"class": ["Wren", "Swan", "Kite"], "red": [1, 0, 1], "egg(s)": [5.0, 7.0, 900.0]})
    assert [each["unit"] for each in read_traits(rows).report.columns] == ["", ""]


@pytest.mark.parametrize("header", ["wing", "mass"])
def test_measures_left_of_the_names_are_no_running_numbers(header):
    wings = [50, 57, 78, 113, 79, 142, 53, 61, 83]
    rows = pd.DataFrame({header: wings, "species": list("abcdefghi"), "bill": ["cone", "hook", "flat"] * 3})
    assert read_traits(rows).attribute_names[0] == header
    numbers = rows.assign(**{header: range(11, 20)})
    assert read_traits(numbers).report.ignored == {header: "a running number"}


def test_running_numbers_may_have_a_point(tmp_path):
    table = read(tmp_path, "no.,species,size\n1.,Wren,10\n2.,Kite,60\n3.,Swan,150\n")
    assert table.report.ignored == {"no.": "a running number"}


@pytest.mark.parametrize(
    "header", ["property,value,uom", "caractère,valeur,unité", "trait_name,trait_value,trait_unit"]
)
def test_long_tables_in_other_words(tmp_path, header):
    rows = ["Wren,mass,9,g", "Wren,bill,cone,", "Kite,mass,900,g", "Kite,bill,hook,"]
    table = read(tmp_path, "\n".join([f"species,{header}", *rows]))
    assert sorted(trait["column"] for trait in table.traits) == ["bill", "bill", "mass"]
    assert table.traits[-1]["unit"] == "g"


def test_a_long_table_that_is_not_known_as_one_is_asked_about(tmp_path):
    rows = [f"{name},{what},{ord(name)}" for name in "abc" for what in ("wing", "tail", "mass")]
    report = read(tmp_path, "\n".join(["species,kind of thing,size", *rows])).report
    assert "say long_columns=('kind of thing', 'VALUE') (--long kind of thing VALUE)" in str(report)


# Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(text(BASE).encode()),
        text(BASE).encode("utf-32"),
        "\n".join(f'"{line}"' for line in text(BASE).splitlines()),
        "\n".join(f"| {' | '.join(row)} |" for row in [BASE[0], ["---"] * 5, *BASE[1:]]),
    ],
    ids=["gzip", "UTF-32", "whole lines in quotes", "Markdown"],
)
def test_the_same_table_in_further_files(tmp_path, content):
    table = read(tmp_path, content)
    assert table.attribute_names == ["red", "green", "mass"]
    np.testing.assert_allclose(table.class_attributes, RIGHT, rtol=1e-6)


def test_a_feather_file_is_read(tmp_path):
    pd.DataFrame({"class": ["Wren", "Kite"], "mass": [9.5, 1000.0], "bill": ["cone", "hook"]}).to_feather(
        tmp_path / "t"
    )
    assert read_traits(tmp_path / "t").attribute_names == ["mass", "bill=cone", "bill=hook"]


def test_a_few_bytes_of_windows_in_utf_8_are_read_and_told(tmp_path):
    content = "class,mass,crest\nMésange,9,yes\nHéron,90,no\n".encode() + "Pélican,99,no\n".encode("cp1252")
    table = read(tmp_path, content)
    assert table.class_names == ["Mésange", "Héron", "Pélican"]
    assert "text in UTF-8, 1 bytes in Windows-1252" in str(table.report)


NO_TABLES = {
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "is a picture"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), "is a picture"),
    "pdf after a line": (b"\n%PDF-1.4\n\xe2\xe3", "is a PDF file"),
    "rtf": (b"{\\rtf1 a, b}", "is a text document"),
    "a page with a comment": (b"<!-- saved -->\n<html>", "web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "git lfs pull"),
    "commas only": (b",,,\n,,,\n", "is empty"),
    "one column": (b"species\nWren\nKite\n", "only one column is found.*--delimiter"),
    "an unknown delimiter": (b"species^mass\nWren^9\n", "only one column is found.*--delimiter"),
    "another encoding": ("class,a\nスズメ,1\nツル,2\n".encode("cp932"), "neither UTF-8 nor Windows-1252.*--encoding"),
    "numbers only": (b"1,2,3\n4,5,6\n7,8,9\n", "first row holds numbers"),
    "damaged gzip": (b"\x1f\x8b\x08" + bytes(20), "cannot be unpacked"),
    "json in columns": (b'[{"columns": ["a"], "data": [["x", 1], ["y", 2]]}]', "JSON, but no list of records"),
}


@pytest.mark.parametrize(("content", "message"), NO_TABLES.values(), ids=NO_TABLES)
def test_a_file_that_is_no_table_is_called_what_it_is(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, content)
    assert str(tmp_path / "table.csv") in str(refused.value)


def test_a_folder_in_place_of_the_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder. Give the table itself"):
        read_traits(tmp_path)


def test_the_first_class_in_place_of_the_header_is_found_out(tmp_path):
    with pytest.raises(ValueError, match="line 1: the first row holds numbers .10., not names of columns"):
        read(tmp_path, "Wren,10,cone\nKite,60,hook\nSwan,150,flat\n")
    with pytest.raises(ValueError, match="'Wren' stands where the names of columns should be, and has photos"):
        read(tmp_path, "Wren,brown,cone\nKite,red,hook\nSwan,white,flat\n", photos=["Wren", "Kite"])


def test_names_of_columns_that_stand_over_each_other_are_put_together(tmp_path):
    table = read(tmp_path, "species,bill,bill,wing\n,length,tip,cm\nWren,1,3,9\nKite,6,8,60\n")
    assert table.attribute_names == ["length", "tip", "wing (cm)"]
    assert table.traits[2]["unit"] == "cm"


def test_a_table_of_this_software_is_not_scaled_again(tmp_path):
    read(tmp_path, text(with_column("bill", "cone", "hook", "flat"))).to_csv(tmp_path / "own.csv")
    own = read_traits(tmp_path / "own.csv")
    assert [column["attributes"] for column in own.report.columns] == [1, 1, 1, 3]
    with pytest.raises(ValueError, match="own.csv was written by this software, on its own scale"):
        read_traits(tmp_path / "own.csv", ignore=["mass"])


def test_the_unit_of_the_cells_goes_before_what_only_looks_like_one_in_the_header():
    rows = pd.DataFrame({"class": ["Wren", "Swan"], "red": [1, 0], "wing (min)": ["5 mm", "7 mm"]})
    assert [each["unit"] for each in read_traits(rows).report.columns] == ["", "mm"]


def test_what_is_said_of_many_columns_alike_is_told_once(tmp_path):
    names = [f"t{number}" for number in range(30)]
    first, second = [str(number) for number in range(30)], [str(3 * number + 7) for number in range(30)]
    rows = [["species", *names], ["Wren", *first], ["Wren", *second], ["Kite", *["50"] * 30]]
    lines = [line for line in str(read(tmp_path, text(rows)).report).splitlines() if "their median is used" in line]
    assert len(lines) == 1 and "'t0': rows of one class differ by up to 7" in lines[0] and "likewise 't1'" in lines[0]


@pytest.mark.parametrize("words", ["red and green", "Red; green", "green/RED", "red, green", "green und red"])
def test_values_of_a_known_column_are_parted_in_any_way_later(tmp_path, words):
    old, _ = column_of(tmp_path, "red", "green", "blue", "red", "green", "blue")
    assert old.encode("asked", words) == {"asked=blue": 0, "asked=green": 1, "asked=red": 1}
    new = read_traits(pd.DataFrame({"class": ["mine"], "told": [99], "asked": [words]}), like=old)
    assert new.class_attributes[0, 1:].tolist() == [0, 1, 1]


def test_codes_in_a_list_are_categories_and_numbers_in_a_list_are_not(tmp_path):
    table, column = column_of(tmp_path, "1;2", "1", "2", "3", "2;3", "1;3")
    assert column["kind"] == "category" and table.attribute_names[1:] == ["asked=1", "asked=2", "asked=3"]


def test_a_comma_that_may_part_values_is_told(tmp_path):
    _, column = column_of(tmp_path, "1,2", "1", "2", "3", "2,3", "1,3")
    assert "'1,2' read as one number; where two values are meant, part them by ;" in column["notes"]
    _, column = column_of(tmp_path, "1,2", "10", "25", "3", "2,3", "1,3")
    assert column["notes"] == []


def test_an_unknown_unit_among_known_ones_is_refused_and_makes_no_category(tmp_path):
    with pytest.raises(ValueError, match="line 4, column 'asked': '9 grx': it is in grx, and the column in g"):
        column_of(tmp_path, "12 g", "14 g", "9 grx", "8 gm", "20 grams", "31 g")


@pytest.mark.parametrize("cell", ["; ;", ", ", "&", "unknown; NA"])
def test_a_cell_of_separators_and_gaps_is_a_gap(tmp_path, cell):
    assert column_of(tmp_path, "red", "blue", cell, "red", cell, "blue")[1]["gaps"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no column of traits"):
        read_traits(pd.DataFrame({"class": ["x", "y"], "a": [cell, cell]}))


def test_shares_under_a_header_of_percentages_are_pointed_at():
    rows = pd.DataFrame({"class": ["Wren", "Swan", "Kite"], "red": [1, 0, 1], "cover (%)": [0.5, 0.25, 1]})
    assert "no value is above 1, so these may be shares" in str(read_traits(rows).report)
    rows = rows.assign(**{"cover (%)": [50, 25, 0.5]})
    assert "may be shares" not in str(read_traits(rows).report)
