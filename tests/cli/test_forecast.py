"""`dedn check --backbone` looks at the photos; `dedn baselines` says what simple classifiers reach on them."""

import re
from dataclasses import replace

import datasets
import pytest
import timm
import torch
from safetensors.torch import save_file

import dedn_hf.data.features
from dedn_hf.cli import main
from dedn_hf.data.shapes import render, shapes_table
from dedn_hf.training.automatic import EFFORTS

SEEN, PER_CLASS = 12, 6


@pytest.fixture(scope="module")
def creatures(tmp_path_factory):
    """Photos of twelve drawn creatures, a table of fourteen, and random weights of a small network."""
    root = tmp_path_factory.mktemp("creatures")
    table = shapes_table()
    table = table.select(table.class_names[: SEEN + 2]).replace(roles=None)
    for index, name in enumerate(table.class_names[:SEEN]):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            render(index, number)[0].save(root / "photos" / name / f"{number}.png")
    rows = [",".join(["creature", *(name.replace(",", "") for name in table.attribute_names)])]
    rows += [
        ",".join([name, *map(str, row)]) for name, row in zip(table.class_names, table.class_attributes, strict=True)
    ]
    (root / "table.csv").write_text("\n".join(rows))
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), root / "weights.safetensors")
    return root


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def command(creatures, name, *options):
    own = [str(creatures / "photos"), "--traits", str(creatures / "table.csv")]
    network = ["--backbone", "test_resnet", "--weights", str(creatures / "weights.safetensors"), "--image-size", "64"]
    return main([name, *own, *network, *options])


def test_the_screen_ends_with_what_to_expect(creatures, capsys):
    assert command(creatures, "check") == 0
    screen = capsys.readouterr().out
    assert screen.index("72 photos of 12 classes") < screen.index("what to expect of 2 classes without photos")
    for part in ("T1 ", "guessing: 50.0", "photos show", "likely confused: creature_"):
        assert part in screen, screen


def test_the_page_shows_what_to_expect_too(creatures, tmp_path, capsys):
    assert command(creatures, "check", "--out", str(tmp_path / "check.html")) == 0
    page, screen = (tmp_path / "check.html").read_text(encoding="utf-8"), capsys.readouterr().out
    assert "What to expect of 2 classes without photos" in page and f"Wrote {tmp_path / 'check.html'}" in screen
    (t1,) = re.findall(r"T1 +([\d.]+) ± ([\d.]+)", screen)
    assert f'<td class="number">{t1[0]}</td><td class="number">± {t1[1]}</td>' in page
    assert "Which traits photos show" in page and "Classes that will be confused" in page
    assert "default-src 'none'" in page and "<script" not in page


def test_short_trainings_stand_beside_the_probe_where_they_are_asked_for(creatures, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EFFORTS, "quick", replace(EFFORTS["quick"], epochs=2, steps=4))
    page = tmp_path / "check.html"
    assert command(creatures, "check", "--thorough", "--out", str(page)) == 0
    screen = capsys.readouterr().out
    said = screen[screen.index("the same by ") :]
    t1 = re.search(r"T1 +([\d.]+)  accuracy of unseen", said)[1]
    of_each = [float(share) for share in re.search(r"T1 of each: (.+)", said)[1].split(", ")]
    assert len(of_each) > 1 and float(t1) == pytest.approx(sum(of_each) / len(of_each), abs=0.1)
    assert f"were only described: T1 {t1}, U" in page.read_text(encoding="utf-8")


def test_the_features_are_kept_for_the_training(creatures, tmp_path, monkeypatch, capsys):
    assert command(creatures, "check", "--features", str(tmp_path / "features")) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(dedn_hf.data.features, "extract", None)
    assert command(creatures, "check", "--features", str(tmp_path / "features")) == 0
    assert capsys.readouterr().out == first
    changes = ["model.image_size=64", "model.flip_test=false", "training.epochs=1", "training.evaluate_every=1"]
    changes += [
        "training.feature_views=1",
        "training.augmentation=none",
        "training.select_on=last",
        "training.calibrate=false",
    ]
    given = ["train", str(creatures / "photos"), "--traits", str(creatures / "table.csv"), "--cpu"]
    given += ["--backbone", "test_resnet", "--weights", str(creatures / "weights.safetensors")]
    given += ["--features", str(tmp_path / "features"), "--out", str(tmp_path / "model"), "--set", *changes]
    assert main(given) == 0


def test_peers_are_printed_beside_guessing(creatures, capsys):
    assert command(creatures, "baselines") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["T1", "U", "S", "H", "AUSUC"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "guessing",
        "ESZSL",
        "ridge regression on attributes",
        "attribute prediction (DAP)",
        "nearest class by cosine",
    ]
    assert all("not tested" in line for line in lines[2:])  # there is no photo of the two described creatures


def test_peers_of_a_prepared_data_set(creatures, tmp_path, capsys):
    header, *rows = (creatures / "table.csv").read_text().splitlines()
    roles = ["train"] * 9 + ["unseen"] * 5
    lines = [f"{header},role", *(f"{row},{role}" for row, role in zip(rows, roles, strict=True))]
    (tmp_path / "roles.csv").write_text("\n".join(lines))
    given = ["prepare", "folder", "--data-dir", str(creatures / "photos"), "--csv", str(tmp_path / "roles.csv")]
    assert main([*given, "--out", str(tmp_path / "prepared")]) == 0
    capsys.readouterr()
    given = ["baselines", "--data", str(tmp_path / "prepared"), "--backbone", "test_resnet", "--image-size", "64"]
    assert main([*given, "--weights", str(creatures / "weights.safetensors")]) == 0
    scores = {line.split("  ")[0]: line.split()[-5:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert scores.pop("guessing") == ["20.0", "7.1", "7.1", "7.1", "1.1"]
    assert all(0 <= float(score) <= 100 for of in scores.values() for score in of)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["check", "photos", "--traits", "t.csv", "--weights", "w"], "--weights is of a network that looks"),
        (["check", "photos", "--traits", "t.csv", "--thorough"], "give --backbone NAME"),
        (["baselines", "--backbone", "test_resnet"], "Give PHOTOS with --traits FILE, or --data NAME"),
        (["baselines", "photos", "--backbone", "test_resnet"], "Give PHOTOS with --traits FILE"),
        (["baselines", "photos", "--traits", "t", "--data", "cub", "--backbone", "b"], "Give PHOTOS with"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(given, message, capsys):
    assert main(given) == 2
    assert message in capsys.readouterr().err
