"""No column outweighs the others, and what already shares a scale is left alone."""

import numpy as np
import pytest
import torch

from dedn_hf import AttributeTable, DEDNForZeroShot
from dedn_hf.traits import classes_alike, read_traits


def shares(classes=8, attributes=6):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2, (classes, attributes)).astype(np.float32)
    values[:, 0] = 1 - values[:, 1]  # no class without anything
    roles = ["train"] * (classes - 2) + ["unseen"] * 2
    return AttributeTable([f"c{i}" for i in range(classes)], [f"a{i}" for i in range(attributes)], values, None, roles)


def with_mass(table, factor):
    masses = np.array([12, 25, 80, 300, 900, 3500, 40, 2000.0])[:, None] * factor
    return table.replace(
        attribute_names=[*table.attribute_names, "body mass"],
        class_attributes=np.concatenate([table.class_attributes, masses], axis=1),
    )


@pytest.mark.parametrize("factor", [1, 0.001, 1000], ids=["grams", "kilograms", "milligrams"])
def test_a_body_mass_weighs_as_much_as_any_other_column_in_whatever_unit(tmp_path, factor):
    plain = shares()
    with_mass(plain, factor).to_csv(tmp_path / "table.csv")
    table = read_traits(tmp_path / "table.csv")
    assert table.class_attributes[:, :-1].tobytes() == np.ascontiguousarray(plain.class_attributes).tobytes()
    mass = table.class_attributes[:, -1]
    expected = np.log([12, 25, 80, 300, 900, 3500, 40, 2000]) - np.log(12)
    np.testing.assert_allclose(mass, expected / np.log(3500 / 12), rtol=1e-4, atol=1e-6)


def test_the_scale_is_that_of_the_training_classes(tmp_path):
    (tmp_path / "t.csv").write_text("class,role,a,tail\nx,train,1,20\ny,train,0,60\nz,unseen,1,80\n")
    assert read_traits(tmp_path / "t.csv").class_attributes[:, 1].tolist() == [0, 1, 1.5]


def test_an_unseen_class_far_outside_is_held_at_one_more_width(tmp_path):
    (tmp_path / "t.csv").write_text("class,role,a,depth\nx,train,1,-20\ny,train,0,60\nz,unseen,1,9000\n")
    assert read_traits(tmp_path / "t.csv").class_attributes[:, 1].tolist() == [0, 1, 2]


def test_a_class_that_is_the_lowest_in_everything_still_has_a_direction(tmp_path):
    (tmp_path / "t.csv").write_text("class,wing,mass\nx,20 mm,9 g\ny,60 mm,90 g\nz,80 mm,20 kg\n")
    table = read_traits(tmp_path / "t.csv")
    assert table.class_attributes.min() == pytest.approx(0.05, abs=0.01)
    assert table.class_attributes.max() == 1
    assert "the lowest in all of them" in table.report.scale


def test_gaps_of_a_table_on_one_scale_are_filled_and_the_rest_is_left(tmp_path):
    (tmp_path / "t.csv").write_text(
        "class,role,a,b\nx,train,80,5\ny,train,-1,90\nz,unseen,0,NA\nw,train,20,0\nv,train,100,1\n"
    )
    values = read_traits(tmp_path / "t.csv").class_attributes
    np.testing.assert_allclose(values[:, 0], [80, 200 / 3, 0, 20, 100], rtol=1e-6)
    np.testing.assert_allclose(values[:, 1], [5, 90, 24, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("alike", [[1, 0, 0.5], [0.5, 0, 0.25]], ids=["identical", "proportional"])
def test_classes_that_nothing_tells_apart_are_named_with_their_roles(tmp_path, alike):
    values = [[1, 0, 0.5], alike, [0, 1, 0.5], [0, 0.5, 1]]
    AttributeTable(["x", "y", "z", "w"], ["a", "b", "c"], values, None, ["train", "unseen", "train", "val"]).to_csv(
        tmp_path / "t.csv"
    )
    table = read_traits(tmp_path / "t.csv")
    assert classes_alike(table) == table.report.alike == [["x", "y"]]
    assert "nothing tells apart: 'x' (seen), 'y' (unseen)" in str(table.report)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("class,role,size\nx,train,1\ny,train,5\nz,unseen,9\n", "only 1 attribute"),
        ("class,role,a,b,c\nx,train,1,0,1\ny,unseen,0,1,1\n", "1 seen class"),
        ("class,role,a,b,c\nx,unseen,1,0,1\ny,unseen,0,1,1\n", "no seen class"),
        ("class,a,b\nx,1,3 g\ny,NA,90 g\nz,NA,700 g\nw,NA,8 g\nv,0,5 g\n", "'a' is a gap in 60%"),
        ("class,a,b,c\nx,1,NA,NA\ny,0,3 g,4\nz,1,9 g,70\n", "class 'x': 67% of the columns are gaps"),
        ("class,a,b\nx,1,3 g\ny,0,90 g\nz,NA,?\n", "classes with nothing but gaps left out: 'z'"),
    ],
)
def test_what_will_spoil_the_answers_is_said(tmp_path, text, warning):
    (tmp_path / "t.csv").write_text(text)
    assert warning in str(read_traits(tmp_path / "t.csv").report)


def test_a_column_that_dominates_is_named(tmp_path):
    values = np.eye(6, 5) + 0.1
    values[:, 0] = [1.0, 3.0, 2.0, 1.0, 3.0, 1.5]
    AttributeTable(list("uvwxyz"), list("abcde"), values * 1.1).to_csv(tmp_path / "t.csv")
    assert "'a' makes up" in str(read_traits(tmp_path / "t.csv").report)


def accuracy_on_described_classes(table: AttributeTable, visible: np.ndarray) -> float:
    """T1 of a small model, trained on feature maps that show the first attributes of each class, K x A."""
    generator = torch.Generator().manual_seed(0)
    show = torch.randn(visible.shape[1], 24, generator=generator)

    def photos(labels):
        maps = torch.as_tensor(visible[labels] - 0.5) @ show
        return maps[..., None, None] + 0.3 * torch.randn(len(labels), 24, 2, 2, generator=generator)

    torch.manual_seed(0)
    model = DEDNForZeroShot.from_timm(
        None, table, feature_shape=[24, 2, 2], center_attributes=True, normalize_scores=True, margin=0.0
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    seen, unseen = (np.flatnonzero(table.seen == is_seen) for is_seen in (True, False))
    for _ in range(120):
        labels = torch.as_tensor(np.repeat(seen, 2))
        model(features=photos(labels), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    labels = torch.as_tensor(np.repeat(unseen, 25))
    with torch.no_grad():
        logits = model.eval()(features=photos(labels)).logits[:, unseen]
    return (torch.as_tensor(unseen)[logits.argmax(1)] == labels).float().mean().item()


def test_one_column_more_does_not_cost_the_accuracy_on_described_classes(tmp_path):
    rng = np.random.default_rng(3)
    visible = rng.permutation(2**6)[:26, None] // 2 ** np.arange(6) % 2  # different rows of 0 and 1
    visible = visible[visible.any(axis=1)].astype(np.float32)
    roles = ["train"] * (len(visible) - 5) + ["unseen"] * 5
    plain = AttributeTable([f"c{i}" for i in range(len(visible))], list("abcdef"), visible, roles=roles)
    masses = 10 ** rng.uniform(1, 4, (len(visible), 1))
    grams = plain.replace(
        attribute_names=[*plain.attribute_names, "body mass"],
        class_attributes=np.concatenate([visible, masses], axis=1),
    )
    found = {"as written, in grams": accuracy_on_described_classes(grams, visible)}
    for name, table in (("without", plain), ("grams", grams), ("kilograms", in_kilograms(grams))):
        table.to_csv(tmp_path / "table.csv")
        found[name] = accuracy_on_described_classes(read_traits(tmp_path / "table.csv"), visible)
    assert found["without"] > 0.8, found
    assert min(found["grams"], found["kilograms"]) >= found["without"] - 0.1, found
    assert found["as written, in grams"] < 0.5, found


def in_kilograms(table: AttributeTable) -> AttributeTable:
    values = table.class_attributes.copy()
    values[:, -1] /= 1000
    return table.replace(class_attributes=values)
