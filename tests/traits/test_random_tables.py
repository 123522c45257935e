"""Random tables in random dialects are read back as what they mean."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedn_hf.traits import read_traits

GAPS = ("", "NA", "n/a", "-", "?", "unknown", "-999", "-9999", "not recorded", "keine Daten", "n/a (young)")
AROUND = ("{}", "~{}", "< {}", "ca. {}", "{} ± 1", "{} (n=5)", "{} [3]", "{}*")
YES_NO = (("yes", "no"), ("ja", "nein"), ("oui", "non"), ("TRUE", "FALSE"), ("WAHR", "FALSCH"), ("1", "0"), ("y", "n"))
WORDS = ("hooked", "cone", "flat", "dark brown", "weiß", "été", "Spatula")
NAMES = ("Wren", "House Sparrow", "Grünspecht", "Cooper's Hawk", "Black-footed Albatross", "Pie", "Kite", "O, Owl")


@st.composite
def tables(draw):
    """What a table means, and one way to write it."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=4, max_size=8, unique=True))
    decimal = draw(st.sampled_from(".,"))
    delimiter = draw(st.sampled_from(",;\t|"))
    thousands = draw(st.sampled_from(("", " ", "\u00a0", ".,"[decimal == "."])))
    gap = draw(st.sampled_from(GAPS))
    columns = []
    for i in range(draw(st.integers(2, 5))):
        kinds = ("number", "unit", "percent", "yes/no", "category", "several")
        kind = draw(st.sampled_from(kinds)) if i else "number"  # a class of no's only would be refused
        columns.append((f"{kind} {i}", kind, *draw(column(kind, len(names), decimal, thousands, gap, i > 0))))
    return {
        "names": names,
        "columns": columns,
        "delimiter": delimiter,
        "decimal": decimal,
        "encoding": draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "cp1252"))),
        "newline": draw(st.sampled_from(("\n", "\r\n", "\r", "\r\r\n"))),
        "title": draw(st.sampled_from(("", "# a comment", "All my birds"))),
        "quoted": draw(st.booleans()),
    }


@st.composite
def column(draw, kind, count, decimal, thousands, gap, with_gaps):
    """Values, None for a gap, and their cells. A class with nothing but gaps would be left out."""
    gaps = [with_gaps and draw(st.integers(0, 9)) == 0 for _ in range(count)]
    if kind in ("number", "unit", "percent"):
        top = 100 if kind == "percent" else 20000
        # The first two have a fraction and a size that show the dialect, as real columns do somewhere.
        values = [draw(st.integers(1, top * 10)) / 10 for _ in range(count)]
        values[0], values[1], gaps[0], gaps[1] = 0.5, top - 0.5, False, False
        around = draw(st.sampled_from(AROUND if kind == "number" else AROUND[:1]))
        unit = {"number": "", "unit": draw(st.sampled_from((" g", "mm", " cm²"))), "percent": "%"}[kind]
        cells = [
            around.format(f"{value:,.1f}".replace(",", "T").replace(".", decimal).replace("T", thousands) + unit)
            for value in values
        ]
    elif kind == "yes/no":
        yes, no = draw(st.sampled_from(YES_NO))
        values = [True, False] + [draw(st.booleans()) for _ in range(count - 2)]
        gaps[:2] = [False, False]
        cells = [yes if value else no for value in values]
    else:
        words = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=4, unique=True))
        most = 1 if kind == "category" else 3
        values = [{words[0]}, {words[1]}] + [
            draw(st.sets(st.sampled_from(words), min_size=1, max_size=most)) for _ in range(count - 2)
        ]
        gaps[:2] = [False, False]
        cells = ["; ".join(sorted(value)) for value in values]
    if kind not in ("number", "unit") and gap.startswith("-9"):
        gap = "NA"
    values = [None if missing else value for value, missing in zip(values, gaps, strict=True)]
    return values, [gap if missing else cell for cell, missing in zip(cells, gaps, strict=True)]


def written(table):
    def cell(text):
        needs = table["quoted"] or any(each in text for each in (table["delimiter"], '"'))
        return f'"{text}"' if needs else text

    rows = [["class", *(name for name, *_ in table["columns"])]]
    rows += [[name, *(cells[i] for *_, cells in table["columns"])] for i, name in enumerate(table["names"])]
    lines = [table["title"]] * bool(table["title"]) + [table["delimiter"].join(map(cell, row)) for row in rows]
    return table["newline"].join([*lines, ""]).encode(table["encoding"])


def values_of(table, name):
    """What the read table says of a column: raw numbers, booleans or sets of words; None for a gap."""
    rows = [i for i, trait in enumerate(table.traits) if trait["column"] == name]
    trait = table.traits[rows[0]]
    part = table.class_attributes[:, rows]
    if trait["category"] is not None:
        words = [table.traits[i]["category"] for i in rows]
        return [{word for word, value in zip(words, row, strict=True) if value == trait["has_it"]} for row in part]
    if trait["kind"] == "yes/no":
        return [bool(value) for value in part[:, 0]]
    if trait["scale"] is None:
        return part[:, 0].tolist()
    low, high = trait["scale"]
    if trait["offset"] is None:
        return (low + part[:, 0] * (high - low)).tolist()
    low, high = np.log10(low + trait["offset"]), np.log10(high + trait["offset"])
    return (10 ** (low + part[:, 0] * (high - low)) - trait["offset"]).tolist()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_a_random_table_in_a_random_dialect_is_read_back(tmp_path, table):
    path = tmp_path / "table.csv"
    path.write_bytes(written(table))
    read = read_traits(path)
    assert read.class_names == table["names"]
    assert list(dict.fromkeys(trait["column"] for trait in read.traits)) == [name for name, *_ in table["columns"]]
    for name, kind, values, _ in table["columns"]:
        for value, found in zip(values, values_of(read, name), strict=True):
            if value is None:
                continue
            if kind in ("number", "unit", "percent"):
                assert found == pytest.approx(value, rel=1e-3, abs=0.01), name
            else:
                assert found == value, name
