"""Excel files as people keep them: merged cells, several sheets, formulas; and files that only look like Excel."""

import zipfile

import pytest

from dedn_hf.traits import read_traits

openpyxl = pytest.importorskip("openpyxl")


def write(path, rows, merged=(), sheets=None):
    book = openpyxl.Workbook()
    sheet = book.active
    for row in rows:
        sheet.append(row)
    for area in merged:
        sheet.merge_cells(area)
    for name, other in (sheets or {}).items():
        added = book.create_sheet(name)
        for row in other:
            added.append(row)
    book.save(path)
    return path


BODY = [["Wren", 9, 5, "yes", "cone"], ["Kite", 1000, 50, "no", "hooked"], ["Swan", 11000, 60, "no", "flat"]]
NAMES = ["mass (g)", "wing", "crest", "bill"]


@pytest.mark.parametrize(
    ("rows", "merged"),
    [
        (
            [["Birds"], ["species", "Size", None, "Head", None], [None, *NAMES], *BODY],
            ["A1:E1", "B2:C2", "D2:E2", "A2:A3"],
        ),
        ([["species", "Size", None, "Head", None], [None, *NAMES], *BODY], ["B1:C1", "D1:E1"]),
        ([[None, "Size", None, "Head", None], ["species", *NAMES], *BODY], ["B1:C1", "D1:E1"]),
    ],
)
def test_headers_that_span_several_columns_leave_each_its_own_name(tmp_path, rows, merged):
    table = read_traits(write(tmp_path / "t.xlsx", rows, merged))
    assert table.class_names == ["Wren", "Kite", "Swan"]
    assert list(dict.fromkeys(trait["column"] for trait in table.traits)) == NAMES


def test_the_same_two_rows_of_names_are_understood_as_csv(tmp_path):
    (tmp_path / "t.csv").write_text(
        "species;Beak;;Wing;\n;length;depth;length;tip\nWren;1,5;2;3;x\nKite;2;3;9;\nOwl;4;1;2;x\n"
    )
    table = read_traits(tmp_path / "t.csv")
    assert table.attribute_names == ["Beak length", "depth", "Wing length", "tip"]


def test_a_name_that_was_merged_over_several_rows_is_the_class_of_all_of_them(tmp_path):
    rows = [["species", "sex", "mass", "wing"]]
    rows += [["Mallard", "m", 1200, 28], [None, "f", 1000, 26], ["Teal", "m", 350, 19], [None, "f", 300, 18]]
    table = read_traits(write(tmp_path / "t.xlsx", rows, ["A2:A3", "A4:A5"]))
    assert table.report.several_rows == {"Mallard": 2, "Teal": 2}
    assert {trait["column"]: trait["range"] for trait in table.traits} == {"mass": [325, 1100], "wing": [18.5, 27]}


def test_a_row_of_means_is_no_class(tmp_path):
    rows = [["species", "mass", "wing"], ["Mallard", 1200, 28], ["Teal", 350, 19], [], ["Mean", 775, 23.5]]
    table = read_traits(write(tmp_path / "t.xlsx", rows))
    assert table.class_names == ["Mallard", "Teal"]
    assert "no class: 'Mean'" in str(table.report)


def test_numbers_may_be_names_of_columns(tmp_path):
    rows = [["species", 1, 2, 3], ["a", 5, 1, 2], ["b", 3, 2, 9], ["c", 14, 3, 1]]
    assert read_traits(write(tmp_path / "t.xlsx", rows)).attribute_names == ["1", "2", "3"]


def test_an_error_of_the_spreadsheet_is_a_gap(tmp_path):
    rows = [["species", "mass", "wing"], ["a", "#DIV/0!", 1], ["b", 7, 2], ["c", 9, 3]]
    table = read_traits(write(tmp_path / "t.xlsx", rows))
    assert table.class_attributes[:, 0].tolist() == [8, 7, 9]


def test_a_formula_without_its_result_is_refused_and_not_a_gap(tmp_path):
    path = write(tmp_path / "t.xlsx", [["species", "mass", "wing"], ["a", 1, 5], ["b", "=B2*2", 6], ["c", 4, 9]])
    with pytest.raises(ValueError, match="cell B3: the file lacks the result of the formula =B2.2.*save it again"):
        read_traits(path)


@pytest.mark.parametrize("sheet", ["Data", "data", "2", 2])
def test_a_sheet_is_named_in_any_case_or_numbered(tmp_path, sheet):
    other = [["species", "legs", "wings"], ["Wren", 2, 2], ["Otter", 4, 0]]
    path = write(tmp_path / "t.xlsx", [["species", *NAMES], *BODY], sheets={"Data": other})
    assert read_traits(path, sheet=sheet).attribute_names == ["legs", "wings"]


def test_an_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a header line"):
        read_traits(write(tmp_path / "t.xlsx", []))


def test_other_archives_are_not_called_excel(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    with pytest.raises(ValueError, match="OpenDocument table. Save it as .xlsx"):
        read_traits(tmp_path / "t.ods")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.csv", "class,a\nx,1\n")
    with pytest.raises(ValueError, match="zip archive. Unpack it"):
        read_traits(tmp_path / "t.zip")
