"""Excel files as people keep them: merged cells, several sheets, formulas; and files that only look like Excel."""

import datetime
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


@pytest.mark.parametrize("name", ["birds.csv", "deep/birds.txt"])
def test_the_only_file_of_an_archive_is_read(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(name, "class,size\nWren,10\nKite,60\n")
        archive.writestr("__MACOSX/._birds", b"x")
    table = read_traits(tmp_path / "t.zip")
    assert table.class_names == ["Wren", "Kite"]
    assert f"unpacked: {name}" in str(table.report)


def test_an_archive_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", "class,a\nx,1\n")
        archive.writestr("b.csv", "class,a\nx,1\n")
    with pytest.raises(ValueError, match="zip archive of 2 files. Unpack it"):
        read_traits(tmp_path / "t.zip")


SIZES = [["species", "size", "bill"], ["Wren", 10, "cone"], ["Kite", 60, "hook"], ["Swan", 150, "flat"]]


def sizes(tmp_path, *, cells=(), formats=()):
    """A small sheet with some cells changed: {cell: value}, {cell: format}."""
    book = openpyxl.Workbook()
    for row in SIZES:
        book.active.append(row)
    for cell, value in cells:
        book.active[cell] = value
    for cell, shown in formats:
        book.active[cell].number_format = shown
    book.save(tmp_path / "t.xlsx")
    return read_traits(tmp_path / "t.xlsx")


@pytest.mark.parametrize("shown", ['0 "cm"', '0.0" cm"', '#,##0 "cm";-0 "cm"', '0\\ "cm"'])
def test_a_unit_that_only_the_format_of_the_cells_shows_is_the_unit(tmp_path, shown):
    table = sizes(tmp_path, formats=[(f"B{row}", shown) for row in (2, 3, 4)])
    assert (table.traits[0]["unit"], table.traits[0]["range"]) == ("cm", [10, 150])


def test_a_share_beside_percentages_may_be_either_and_is_refused(tmp_path):
    cells = [("B2", 0.1), ("B3", 0.6), ("B4", 0.15)]
    with pytest.raises(ValueError, match="row 3, column 'size': '0.6' has no %, so it may be 0.6% or 60%"):
        sizes(tmp_path, cells=cells, formats=[("B2", "0%"), ("B4", "0%")])


@pytest.mark.parametrize(("cell", "column"), [("B3", "size"), ("C3", "bill")])
@pytest.mark.parametrize("value", [datetime.datetime(2024, 12, 9), datetime.date(2024, 12, 9)])
def test_a_date_among_numbers_or_words_is_refused(tmp_path, cell, column, value):
    with pytest.raises(ValueError, match=f"row 3, column '{column}': '2024-12-09.*turned into a date.*--ignore"):
        sizes(tmp_path, cells=[(cell, value)])


def test_a_column_of_dates_is_no_trait_but_may_have_been_ranges(tmp_path):
    days = [(f"B{row}", datetime.datetime(2024, row, 9)) for row in (2, 3, 4)]
    assert "dates; where ranges such as 9-12 were meant" in sizes(tmp_path, cells=days).report.ignored["size"]


@pytest.mark.parametrize(
    "units", [[None, "(cm)", None], ["Units", "cm", "-"], ["[unit]", "[cm]", "text"], ["", "cm", "word"]]
)
def test_units_under_the_header_in_any_form(tmp_path, units):
    table = read_traits(write(tmp_path / "t.xlsx", [SIZES[0], units, *SIZES[1:]]))
    assert table.class_names == ["Wren", "Kite", "Swan"]
    assert table.traits[0]["unit"] == "cm"


def test_lines_of_a_cell_are_values_of_their_own(tmp_path):
    rows = [["species", "size", "colours"], ["a", 1, "brown\nwhite"], ["b", 2, "brown"], ["c", 3, "white"]]
    table = read_traits(write(tmp_path / "t.xlsx", rows))
    assert table.attribute_names[1:] == ["colours=brown", "colours=white"]
    assert table.class_attributes[:, 1:].tolist() == [[1, 1], [1, 0], [0, 1]]


def test_other_office_files_and_locked_ones_are_called_what_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<a/>")
    with pytest.raises(ValueError, match="an Office file, but no Excel workbook. Save the table as .xlsx"):
        read_traits(tmp_path / "t.docx")
    (tmp_path / "t.xlsx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    with pytest.raises(ValueError, match="of the old format, or has a password"):
        read_traits(tmp_path / "t.xlsx")
