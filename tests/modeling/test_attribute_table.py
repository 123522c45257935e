"""The table of classes and attributes: a spreadsheet in, no surprises, and errors that say what to mend."""

import numpy as np
import pytest
import torch

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.modeling.attribute_table import group_attributes
from dedn_hf.traits import read_traits
from tests.tables import small_table

HEADER = "class,role,striped,spotted,tall\n"


def write(tmp_path, text, name="zoo.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def equal(first: AttributeTable, second: AttributeTable) -> bool:
    names = ("class_names", "attribute_names", "attribute_groups", "roles")
    same_bits = first.class_attributes.tobytes() == second.class_attributes.tobytes()
    return same_bits and all(getattr(first, name) == getattr(second, name) for name in names)


# CSV in and out ---------------------------------------------------------------------------------------------------


def test_values_survive_the_round_trip_bit_by_bit(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 6000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], np.float32([0.1, 1 / 3, -0.0, 1e-45, 3.4028235e38])])
    table = AttributeTable(
        [f"class {i}" for i in range(len(values))], ["one"], np.where(values == 0, 1, values)[:, None]
    )
    table.to_csv(tmp_path / "table.csv")
    assert equal(AttributeTable.from_csv(tmp_path / "table.csv"), table)


def test_names_with_commas_quotes_and_accents_roles_and_groups_survive_the_round_trip(tmp_path):
    table = AttributeTable(
        ["Große Ente", 'a "b", c', "三"], ["é,1", "x\ny"], np.eye(3, 2) + 1, ["g,1", ""], ["train", "val", "unseen"]
    )
    table.to_csv(tmp_path / "table.csv")
    assert equal(AttributeTable.from_csv(tmp_path / "table.csv"), table)


def test_save_and_load_keep_the_embeddings_and_a_table_without_them_has_none(tmp_path):
    table = small_table()
    table.save(tmp_path)
    loaded = AttributeTable.load(tmp_path)
    assert equal(loaded, table)
    assert loaded.attribute_embeddings.tobytes() == table.attribute_embeddings.tobytes()
    (tmp_path / "bare").mkdir()
    table.replace(attribute_embeddings=None).save(tmp_path / "bare")
    assert AttributeTable.load(tmp_path / "bare").attribute_embeddings is None


def test_without_a_role_or_seen_column_every_class_is_seen(tmp_path):
    table = AttributeTable.from_csv(write(tmp_path, "class,striped\nlynx,1\nzebra,2\n"))
    assert table.roles == ["train", "train"]
    assert table.seen.all()


def test_the_role_column_says_which_classes_are_seen(tmp_path):
    text = "class,Role,striped\na,train,1\nb, VAL ,1\nc,unseen,1\nd,seen,1\ne,,1\n"
    table = AttributeTable.from_csv(write(tmp_path, text))
    assert table.roles == ["train", "val", "unseen", "train", "train"]
    assert table.attribute_names == ["striped"]


def test_the_seen_column_takes_the_usual_words_and_may_stand_anywhere(tmp_path):
    words = {"1": True, "yes": True, "TRUE": True, "seen": True, "0": False, "no": False, "false": False}
    rows = "".join(f"class {i},1,{word}\n" for i, word in enumerate(words))
    table = AttributeTable.from_csv(write(tmp_path, "class,striped,seen\n" + rows))
    assert table.seen.tolist() == list(words.values())


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path):
    table = AttributeTable.from_csv(write(tmp_path, b"\xef\xbb\xbfclass,striped\n\nlynx,1\n,\nzebra,2\n"))
    assert table.class_names == ["lynx", "zebra"]


def test_groups_come_from_the_group_row_a_file_or_a_dict(tmp_path):
    groups = {"striped": "coat", "spotted": "coat", "tall": "size", "unused": "x"}
    in_row = write(tmp_path, HEADER + "#Group,,coat,coat,size\nlynx,train,1,0,2\n")
    plain = write(tmp_path, HEADER + "lynx,train,1,0,2\n", "plain.csv")
    file = write(tmp_path, "".join(f"{name},{group}\n" for name, group in groups.items()), "groups.csv")
    expected = ["coat", "coat", "size"]
    assert AttributeTable.from_csv(in_row).attribute_groups == expected
    assert AttributeTable.from_csv(plain, groups).attribute_groups == expected
    assert AttributeTable.from_csv(plain, file).attribute_groups == expected
    assert AttributeTable.from_csv(plain).attribute_groups is None
    assert AttributeTable.from_csv(in_row, dict.fromkeys(groups, "all")).attribute_groups == ["all"] * 3


# Errors of a user's CSV -------------------------------------------------------------------------------------------

FAULTY = {
    "missing cell": ("lynx,train,1,0,2\nzebra,train,1,,2\n", ["line 3", "'spotted'", "empty", "Put a number"]),
    "no number": ("lynx,train,1,0,many\n", ["line 2", "'tall'", "'many'", "Put a number"]),
    "NaN": ("lynx,train,1,0,2\nzebra,train,nan,0,2\n", ["line 3", "'striped'", "'nan'", "Put a number"]),
    "infinity": ("lynx,train,1,-inf,2\n", ["line 2", "'spotted'", "'-inf'", "Put a number"]),
    "beyond float32": ("lynx,train,1,1e39,2\n", ["line 2", "'spotted'", "'1e39'", "Put a number"]),
    "only zeros": ("lynx,train,1,0,2\nzebra,unseen,0,0,0\n", ["line 3", "'zebra'", "only zeros", "drop the row"]),
    "class twice": (
        "lynx,train,1,0,2\nzebra,train,1,1,1\nlynx,train,2,2,2\n",
        ["line 4", "'lynx'", "twice", "Rename"],
    ),
    "class without a name": ("lynx,train,1,0,2\n ,train,1,1,1\n", ["line 3", "empty class name", "needs a name"]),
    "too many cells": ("lynx,train,1,0,2,5\n", ["line 2", "6 cells", "header has 5"]),
    "too few cells": ("lynx,train,1,0,2\n\nzebra,train,1\n", ["line 4", "3 cells", "header has 5"]),
    "unknown role": ("lynx,test,1,0,2\n", ["line 2", "'role'", "'test'", "train, val or unseen"]),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_line_is_named_with_its_file_its_place_and_the_remedy(tmp_path, fault):
    rows, expected = FAULTY[fault]
    path = write(tmp_path, HEADER + rows)
    with pytest.raises(ValueError) as error:
        AttributeTable.from_csv(path)
    for part in [str(path), *expected]:
        assert part in str(error.value)


def test_an_unknown_word_in_the_seen_column_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"zoo.csv, line 2, column 'seen': 'perhaps'. Use 1 .* or 0"):
        AttributeTable.from_csv(write(tmp_path, "class,seen,striped\nlynx,perhaps,1\n"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("class,a,a\n", "header, column 3: .*attribute name 'a' stands twice.*Rename"),
        ("class,a,\n", "header, column 3: .*empty attribute name"),
    ],
)
def test_a_faulty_header_is_named(tmp_path, header, expected):
    with pytest.raises(ValueError, match=f"zoo.csv, {expected}"):
        AttributeTable.from_csv(write(tmp_path, header + "lynx,1,2\n"))


@pytest.mark.parametrize("text", ["", "class,striped\n", "class\nlynx\n", "class,role\nlynx,train\n"])
def test_a_file_without_a_class_or_an_attribute_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"zoo.csv: .*(at least one class)"):
        AttributeTable.from_csv(write(tmp_path, text))


def test_a_missing_file_is_named_with_what_it_should_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv.*one row a class, one column an attribute"):
        AttributeTable.from_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("content", ["class,größe\nlynx,1\n".encode("latin-1"), b'class,a\n"lynx,1\n'])
def test_a_file_that_is_no_csv_in_utf8_is_named_with_how_to_save_it(tmp_path, content):
    with pytest.raises(ValueError, match="zoo.csv: not a readable CSV file in UTF-8.*'CSV UTF-8'"):
        AttributeTable.from_csv(write(tmp_path, content))


def test_faulty_group_files_are_named(tmp_path):
    path = write(tmp_path, HEADER + "lynx,train,1,0,2\n")
    with pytest.raises(FileNotFoundError, match="groups.csv.*attribute,group"):
        AttributeTable.from_csv(path, tmp_path / "groups.csv")
    for content, expected in (
        ("striped,coat\nspotted\n", "line 2.*no group.*attribute,group"),
        ("striped,coat\ntall,size\n", "1 attribute.*'spotted'.*Add"),
        ("stripéd,coat\n".encode("latin-1"), "UTF-8"),
    ):
        with pytest.raises(ValueError, match=f"groups.csv.*{expected}"):
            AttributeTable.from_csv(path, write(tmp_path, content, "groups.csv"))
    with pytest.raises(ValueError, match="2 attribute.*'spotted'.*Add"):
        AttributeTable.from_csv(path, {"striped": "coat"})


# A table made in Python -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"class_names": ["a"] * 6}, "'a' stands twice"),
        ({"attribute_names": [""] * 8}, "empty attribute name"),
        ({"class_attributes": np.ones((6, 7))}, r"shape \(6, 7\).*6 class names and 8 attribute names"),
        ({"class_attributes": np.full((6, 8), np.nan)}, "'class 0', attribute 'attribute 0'.*nan.*48 such"),
        ({"class_attributes": np.zeros((6, 8))}, "'class 0' has only zeros"),
        ({"roles": ["train"]}, "roles has 1 entries; give 6"),
        ({"roles": ["test"] * 6}, "'class 0' has role 'test'; use one of train, val, unseen"),
        ({"attribute_groups": ["g"]}, "attribute_groups has 1 entries; give 8"),
        ({"attribute_embeddings": np.ones((7, 3))}, r"attribute_embeddings has shape \(7, 3\)"),
        ({"attribute_embeddings": np.full((8, 3), np.inf)}, "attribute_embeddings.*not finite"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(change, expected):
    with pytest.raises(ValueError, match=expected):
        small_table().replace(**change)


@pytest.mark.parametrize("name", ["role", "Seen"])
def test_an_attribute_named_like_a_column_of_the_csv_is_refused(name):
    with pytest.raises(ValueError, match=f"attribute.*'{name}'.*[Rr]ename"):
        small_table(attributes=2).replace(attribute_names=[name, "b"])


def test_the_table_counts_its_classes_attributes_and_groups():
    table = small_table()
    assert (len(table), table.num_attributes, table.seen.sum()) == (6, 8, 4)
    assert repr(table) == "AttributeTable(6 classes (4 seen), 8 attributes, 2 groups)"


def test_select_gives_the_named_classes_in_that_order():
    table = small_table().select(["class 5", "class 0"])
    assert table.class_names == ["class 5", "class 0"]
    assert table.roles == ["unseen", "train"]
    np.testing.assert_array_equal(table.class_attributes, small_table().class_attributes[[5, 0]])


def test_select_attributes_reorders_columns_groups_and_embeddings():
    table, names = small_table(), ["attribute 3", "attribute 1"]
    chosen = table.select_attributes(names)
    assert chosen.attribute_names == names
    assert chosen.attribute_groups == ["wing", "head"]
    np.testing.assert_array_equal(chosen.class_attributes, table.class_attributes[:, [3, 1]])
    np.testing.assert_array_equal(chosen.attribute_embeddings, table.attribute_embeddings[[3, 1]])


def test_unknown_classes_and_attributes_are_answered_with_near_names():
    with pytest.raises(ValueError, match="No class 'Clas 3'.*Did you mean 'class 3'"):
        small_table().select(["class 1", "Clas 3"])
    with pytest.raises(ValueError, match="1 attribute.*'atribute 2'.*Did you mean 'attribute 2'.*has 8; 2 are needed"):
        small_table().select_attributes(["attribute 1", "atribute 2"])


@pytest.mark.parametrize(("role", "missing"), [("train", "unseen"), ("unseen", "seen")])
def test_training_needs_a_seen_and_an_unseen_class(role, missing):
    small_table().require_seen_and_unseen()
    with pytest.raises(ValueError, match=f"no {missing} class.*'role'"):
        small_table().replace(roles=[role] * 6).require_seen_and_unseen()


# Groups of attributes ---------------------------------------------------------------------------------------------


def two_clusters() -> AttributeTable:
    """Attributes 0, 2, 4 are alike, and so are 1, 3, 5: in the embeddings; among seen classes 0, 1, 2 and 3, 4, 5."""
    embeddings = np.array([[1, i / 10] if i % 2 else [i / 10, 1] for i in range(6)])
    attributes = np.array([[9, 9, 9, 0, 0, 0], [8, 9, 8, 0, 1, 0], [0, 0, 0, 9, 9, 9], [1, 0, 0, 9, 8, 9], [9, 0] * 3])
    roles = ["train"] * 4 + ["unseen"]
    return AttributeTable(list("vwxyz"), list("abcdef"), attributes, None, roles, embeddings)


def partition(groups: list[str]) -> set[tuple[int, ...]]:
    return {tuple(i for i, group in enumerate(groups) if group == name) for name in groups}


def test_given_groups_are_the_tables_own_or_one():
    assert group_attributes(small_table()) == small_table().attribute_groups
    assert group_attributes(small_table().replace(attribute_groups=None)) == ["all"] * 8
    assert group_attributes(small_table(), "single") == ["all"] * 8


def test_k_means_groups_attributes_with_like_embeddings_or_that_occur_together_in_seen_classes():
    assert partition(group_attributes(two_clusters(), "embeddings", 2)) == {(0, 2, 4), (1, 3, 5)}
    assert partition(group_attributes(two_clusters(), "co-occurrence", 2)) == {(0, 1, 2), (3, 4, 5)}


def test_unseen_classes_have_no_part_in_co_occurrence():
    table = two_clusters()
    changed = table.class_attributes.copy()
    changed[-1] = [0, 900, 0, 900, 0, 900]
    assert group_attributes(table.replace(class_attributes=changed), "co-occurrence", 3) == group_attributes(
        table, "co-occurrence", 3
    )


@pytest.mark.parametrize("method", ["embeddings", "co-occurrence"])
def test_k_means_groups_are_the_same_every_time_and_as_many_as_asked_for(method):
    table = small_table(attributes=20)
    groups = group_attributes(table, method, 5)
    assert len(set(groups)) == 5
    assert groups == group_attributes(table, method, 5)


def test_without_a_number_k_means_makes_as_many_groups_as_the_table_has():
    assert len(set(group_attributes(small_table(), "embeddings"))) == 2


def test_groups_that_cannot_be_made_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="'kmeans'; use one of given, single, embeddings, co-occurrence"):
        group_attributes(small_table(), "kmeans")
    with pytest.raises(ValueError, match="needs attribute embeddings"):
        group_attributes(small_table().replace(attribute_embeddings=None), "embeddings")
    for number in (1, 9):
        with pytest.raises(ValueError, match=f"num_groups is {number}; use 2 to 8"):
            group_attributes(small_table(), "co-occurrence", number)


@pytest.mark.parametrize("name", [" bird", "bird\t", "bi\rrd", "bi\0rd", "\ud800", "#group", "#GROUP"])
@pytest.mark.parametrize("kind", ["class_names", "attribute_names", "attribute_groups"])
def test_names_that_a_csv_would_change_are_refused(kind, name):
    names = {"class_names": ["a"], "attribute_names": ["b"], "attribute_groups": ["c"], kind: [name]}
    with pytest.raises(ValueError, match="Clean it|Rename it"):
        AttributeTable(**names, class_attributes=np.ones((1, 1)))


def trait(name, fill):
    nothing = {"unit": "", "category": None, "scale": None, "offset": None, "has_it": 1.0}
    return {"column": name, "attribute": name, "kind": "number", "fill": fill, "range": [0.0, 1.0], **nothing}


def test_what_a_description_leaves_out_neither_helps_nor_hurts_a_class_of_raised_attributes():
    values = np.array([[0.0, 1.0], [1.0, 0.49], [0.5, 0.25], [0.5, 0.58]])
    table = AttributeTable(
        list("abcd"), ["x", "y"], values, ["all"] * 2, ["train", "train", "train", "unseen"], traits=None
    ).replace(traits=[trait("x", 0.5), trait("y", 0.58)])
    model = DEDNForZeroShot.from_timm(
        None, table, feature_shape=[4, 2, 2], attribute_power=0.5, center_attributes=True
    ).eval()
    np.testing.assert_array_equal(model.attribute_table.class_attributes, table.class_attributes)
    means = [((0 + 1 + 0.5**0.5) / 3) ** 2, (2.2 / 3) ** 2]  # of the roots, over the seen classes
    np.testing.assert_allclose([each["fill"] for each in model.attribute_table.traits], means, rtol=1e-5)
    described = model.attribute_table.describe("new", {"x": 1.0})
    row = model.normalized_class_attributes(torch.from_numpy(described)[None])[0]
    assert row[0] > 0.99 and row[1].abs() < 1e-3
    model.set_classes(table)  # read anew, with the means
    np.testing.assert_array_equal(model.attribute_table.describe("new", {"x": 1.0}), described)


def test_a_correction_that_fits_no_category_names_the_column_once(tmp_path):
    (tmp_path / "birds.csv").write_text("species,bill\nKestrel,hooked\nWren,straight\n")
    with pytest.raises(ValueError, match="^'bill': 'hoked' is not one of hooked, straight. Did you mean 'hooked'?"):
        read_traits(tmp_path / "birds.csv").encode("bill", "hoked")
