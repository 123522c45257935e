"""Folders and rows named by different people are brought together, or listed; never by chance."""

import unicodedata

import pytest

from dedn_hf.traits import read_traits


def read(tmp_path, classes, **arguments):
    rows = "".join(f'"{name}",{i + 1},{(i + 1) ** 2 * 50},yes\n' for i, name in enumerate(classes))
    (tmp_path / "birds.csv").write_text("class,size,mass,crest\n" + rows, encoding="utf-8")
    return read_traits(tmp_path / "birds.csv", **arguments)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("wren", "Wren"),
        ("House_Wren", "house wren"),
        ("Black-footed-Albatross", "Black_footed Albatross"),
        ("012.House_Wren", "House Wren"),
        ("House\u00a0Wren", "House Wren"),
        ("Coopers Hawk", "Cooper’s Hawk"),
        ("Cooper's Hawk", "Cooper`s Hawk"),
        ("009.Brewer_Blackbird", "Brewer's Blackbird"),
        (unicodedata.normalize("NFD", "Grünspecht"), "Grünspecht"),
        ("Grunspecht", "Grünspecht"),
        ("House Wren", "House Wren (Troglodytes aedon)"),
        ("Troglodytes_aedon", "House Wren [Troglodytes aedon]"),
        ("House Wren (Troglodytes aedon)", "House wren"),
        ("Gull_Tern", "Gull/Tern"),
        ("grizzly+bear", "Grizzly bear"),
        ("Parus_major", "Parus major Linnaeus, 1758"),
        ("Parus major", "Parus major (L.)"),
        ("Bellis perennis", "Bellis perennis L."),
        ("Parus major Linnaeus 1758", "Parus major"),
        ("Parus major", "Parus major*"),
        ("Parus", "Parus sp."),
        ("Parus major", "Great Tit / Parus major"),
        ("Great Tit", "Great Tit - Parus major"),
        ("Great Tit", "Great Tit, Parus major"),
        ("Great Tit", "Tit, Great"),
        ("GreatTit", "Great Tit"),
        ("great_tit", "GreatTit"),
        ("Black and white Warbler", "Black & White Warbler"),
        ("Gruenspecht", "Grünspecht"),
        ("001", "1"),
    ],
)
def test_a_folder_is_found_however_it_is_written(tmp_path, folder, name):
    table = read(tmp_path, [name, "Kite", "Swan"], photos=[folder, "Kite"])
    assert table.class_names == [folder, "Kite", "Swan"]
    assert table.roles == ["train", "train", "unseen"]


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["Tit, Great", "Great Tit / Parus major", "Kite"], "Great Tit"),
        (["Parus major Linnaeus", "Parus major Smith", "Kite"], "Parus major"),
        (["Parus major minor", "Parus minor", "Kite"], "Parus major"),
    ],
)
def test_loose_likeness_of_several_names_matches_none_of_them(tmp_path, names, folder):
    report = read(tmp_path, names, photos=[folder, "Kite"]).report
    assert list(report.photos_without_row) == [folder]


def test_the_name_itself_goes_before_the_same_with_an_author(tmp_path):
    table = read(tmp_path, ["Parus major Linnaeus", "Parus major", "Kite"], photos=["Parus_major", "Kite"])
    assert table.class_names == ["Parus major Linnaeus", "Parus_major", "Kite"]


@pytest.mark.parametrize("photos", [None, ["Parus major", "Poecile major"]])
def test_genus_and_species_in_two_columns_are_one_name(tmp_path, photos):
    rows = "Genus,Species,size,mass\nParus,major,14,20\nPoecile,major,12,400\nCygnus,olor,150,9000\n"
    (tmp_path / "birds.csv").write_text(rows)
    table = read_traits(tmp_path / "birds.csv", photos=photos)
    assert table.class_names == ["Parus major", "Poecile major", "Cygnus olor"]
    assert "names put together from 'Genus' and 'Species'" in str(table.report)


def test_the_same_spelling_goes_first(tmp_path):
    assert read(tmp_path, ["Wren", "wren", "Kite"], photos=["wren", "Wren"]).class_names == ["Wren", "wren", "Kite"]


@pytest.mark.parametrize(
    ("names", "photos", "message"),
    [
        (["Wren", "Kite"], ["001.wren", "002.Wren"], "'Wren' in the table may be any of the folders '001.wren', '002.Wren'"),  # noqa: E501
        (["house wren", "House_Wren"], ["House-Wren"], "'House-Wren' may be any of 'house wren', 'House_Wren'"),
        (["Wren", "Kite"], ["Wren ", "Kite"], "'Wren ' has spaces around it.*Clean it"),
        (["Wren", "Kite"], ["Wrenn", "Owl"], "no class is a photo folder.*'Wren' .nearest folder 'Wrenn'"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_unknown_is_refused(tmp_path, names, photos, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, names, photos=photos)


def test_what_is_left_on_both_sides_is_listed_with_the_nearest_names(tmp_path):
    report = read(tmp_path, ["Wren", "Grey Catbird", "Swan"], photos=["Wren", "019.Gray_Catbird", "Owl"]).report
    assert report.names_without_photos == ["Grey Catbird", "Swan"]
    assert report.photos_without_row == {"019.Gray_Catbird": ["Grey Catbird"], "Owl": []}
    assert "photos without a row in the table: '019.Gray_Catbird'; nearest: 'Grey Catbird'" in str(report)


def test_names_overrule_what_the_names_say(tmp_path):
    table = read(
        tmp_path, ["Wren", "Kite", "Swan"], photos=["Wren", "b"], names={"Wren": "Kite", "b": ["Milan", "Wren"]}
    )
    assert table.class_names == ["b", "Wren", "Swan"]


def test_names_may_be_a_file_of_several_names_for_each_folder(tmp_path):
    (tmp_path / "names.csv").write_text("english;folder;latin\nWren;01;Troglodytes\nKite;02;Milvus\n")
    table = read(tmp_path, ["Troglodytes", "kite", "Swan"], photos=["01", "02"], names=tmp_path / "names.csv")
    assert table.class_names == ["01", "02", "Swan"]
    with pytest.raises(ValueError, match="Write folder,name there"):
        (tmp_path / "names.csv").write_text("folder,name\n01,Wren\n02,\n")
        read(tmp_path, ["Wren", "Kite"], photos=["01", "02"], names=tmp_path / "names.csv")


def test_photos_may_be_a_folder_of_which_only_folders_with_files_count(tmp_path):
    for name in ("Wren", "Kite", ".cache", "Swan", "__MACOSX"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for name in ("Wren", "Kite", ".cache"):
        (tmp_path / "photos" / name / "1.jpg").write_bytes(b"x")
    table = read(tmp_path, ["Wren", "Kite", "Swan"], photos=tmp_path / "photos")
    assert table.roles == ["train", "train", "unseen"]
    with pytest.raises(FileNotFoundError, match="No folder of photos"):
        read(tmp_path, ["Wren", "Kite"], photos=tmp_path / "none")


def test_the_column_of_the_classes_is_the_one_that_names_the_photos(tmp_path):
    (tmp_path / "birds.csv").write_text(
        "id,name,latin,size,mass\n1,Wren,Troglodytes a,1,9 g\n2,Kite,Milvus m,2,1000 g\n"
    )
    table = read_traits(tmp_path / "birds.csv", photos=["milvus_m", "Troglodytes a"])
    assert table.class_names == ["Troglodytes a", "milvus_m"]
    table = read_traits(tmp_path / "birds.csv", name_column="latin")
    assert table.class_names == ["Troglodytes a", "Milvus m"]


def test_classes_may_be_called_like_missing_marks(tmp_path):
    assert read(tmp_path, ["NA", "nan", "None"], photos=["NA", "None"]).class_names == ["NA", "nan", "None"]


def test_a_role_column_overrules_the_photos(tmp_path):
    (tmp_path / "birds.csv").write_text(
        "class,role,a,b\nWren,unseen,1,9 g\nKite,,0,99 g\nSwan,val,1,8 g\nOwl,,1,7 g\n"
    )
    table = read_traits(tmp_path / "birds.csv", photos=["Wren", "Kite"])
    assert table.roles == ["unseen", "train", "val", "unseen"]
