"""What holds for every input, tried on inputs that hypothesis makes up."""

import string
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import balanced_accuracy_score

from dedn_hf import AttributeTable
from dedn_hf.metrics.scores import calibrate, gzsl_scores, harmonic_mean, seen_unseen_curve

# Files are written for every example: the folder of the test serves them all.
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FINITE = st.floats(-1e6, 1e6, width=32)
NAMES = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def tables(draw) -> AttributeTable:
    """Any table that the class accepts."""
    classes = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    attributes = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    values = draw(hnp.arrays(np.float32, (len(classes), len(attributes)), elements=FINITE))
    groups = draw(st.none() | st.lists(NAMES, min_size=len(attributes), max_size=len(attributes)))
    roles = draw(st.lists(st.sampled_from(["train", "val", "unseen"]), min_size=len(classes), max_size=len(classes)))
    try:
        return AttributeTable(classes, attributes, values, groups, roles)
    except ValueError:
        assume(False)


@st.composite
def predictions(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and the seen mask of a task in which both kinds of classes have images."""
    count = draw(st.integers(2, 6))
    seen = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    assume(seen.any() and not seen.all())
    extra = draw(st.lists(st.integers(0, count - 1), max_size=20))
    labels = np.array([seen.argmax(), (~seen).argmax(), *extra])
    # Halves and quarters: sums are exact, and ties are common.
    elements = st.integers(-20, 20).map(lambda value: value / 4)
    return draw(hnp.arrays(np.float32, (len(labels), count), elements=elements)), labels, seen


def assert_equal(table: AttributeTable, other: AttributeTable) -> None:
    assert (table.class_names, table.attribute_names, table.roles) == (
        other.class_names,
        other.attribute_names,
        other.roles,
    )
    assert table.attribute_groups == other.attribute_groups
    np.testing.assert_array_equal(table.class_attributes, other.class_attributes)


@quickly
@given(table=tables())
def test_a_table_survives_its_csv_bit_by_bit(table, tmp_path):
    table.to_csv(tmp_path / "table.csv")
    assert_equal(AttributeTable.from_csv(tmp_path / "table.csv"), table)


@quickly
@given(table=tables(), data=st.data())
def test_selecting_in_any_order_and_back_changes_nothing(table, data):
    classes = data.draw(st.permutations(table.class_names))
    attributes = data.draw(st.permutations(table.attribute_names))
    mixed = table.select(classes).select_attributes(attributes)
    for name in classes:
        row = table.class_attributes[table.class_names.index(name)]
        mixed_row = mixed.class_attributes[mixed.class_names.index(name)]
        assert dict(zip(attributes, mixed_row, strict=True)) == dict(zip(table.attribute_names, row, strict=True))
    assert_equal(mixed.select(table.class_names).select_attributes(table.attribute_names), table)


@quickly
@given(content=st.binary(max_size=300) | st.text(alphabet=string.printable, max_size=300).map(str.encode))
def test_any_bytes_as_a_csv_file_give_a_table_or_a_message(content, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    try:
        table = AttributeTable.from_csv(path)
    except ValueError as error:
        assert "table.csv" in str(error), "the message names the file"
    else:
        assert np.isfinite(table.class_attributes).all()


@quickly
@given(
    cells=st.lists(
        st.lists(st.sampled_from(["a", "b", "1", "-2.5", "", "nan", "1e99", "role", "seen", "#group", "unseen", " "]),
                 min_size=1, max_size=4),
        max_size=5,
    )
)  # fmt: skip
def test_csv_files_that_are_nearly_right_give_a_table_or_a_message(cells, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(",".join(row) for row in cells), encoding="utf-8")
    try:
        table = AttributeTable.from_csv(path)
    except ValueError as error:
        assert "table.csv" in str(error)
    else:
        table.to_csv(path)
        assert_equal(AttributeTable.from_csv(path), table)


@quickly
@given(predictions())
def test_scores_lie_between_zero_and_one_and_agree_with_scikit_learn(task):
    logits, labels, seen = task
    scores = gzsl_scores(logits, labels, seen)
    for name in ("T1", "U", "S", "H", "AUSUC"):
        assert 0 <= scores[name] <= 1, name
    assert scores["H"] == pytest.approx(harmonic_mean(scores["U"], scores["S"]))
    assert min(scores["U"], scores["S"]) <= scores["H"] + 1e-12 <= max(scores["U"], scores["S"]) + 2e-12
    for name, wanted in (("U", ~seen), ("S", seen)):
        images = wanted[labels]
        predicted = np.where(logits[images].argmax(1) == labels[images], labels[images], -1)  # -1: any wrong class
        with warnings.catch_warnings():  # that -1 is no label is what scikit-learn warns of
            warnings.simplefilter("ignore", UserWarning)
            assert scores[name] == pytest.approx(balanced_accuracy_score(labels[images], predicted))


@quickly
@given(predictions(), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_images(task, random):
    logits, labels, seen = task
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled, scores = gzsl_scores(logits[order], labels[order], seen), gzsl_scores(logits, labels, seen)
    assert shuffled.pop("per_class_accuracy") == scores.pop("per_class_accuracy")
    assert shuffled == pytest.approx(scores)


@quickly
@given(predictions(), st.integers(-40, 40).map(lambda value: value / 4))
def test_no_constant_beats_the_calibrated_one_or_lies_off_the_curve(task, bias):
    logits, labels, seen = task
    best = gzsl_scores(logits + np.float32(calibrate(*task)) * ~seen, labels, seen)["H"]
    scores = gzsl_scores(logits + np.float32(bias) * ~seen, labels, seen)
    # A tie goes to the class with the lower index, which a constant just beside it decides otherwise.
    assert scores["H"] <= best + 1e-9 or _has_ties(logits + np.float32(bias) * ~seen)
    unseen, seen_accuracy, _ = seen_unseen_curve(*task)
    assert ((unseen >= scores["U"] - 1e-9) & (seen_accuracy >= scores["S"] - 1e-9)).any() or _has_ties(
        logits + np.float32(bias) * ~seen
    )


def _has_ties(logits: np.ndarray) -> bool:
    return bool((np.sort(logits, axis=1)[:, -1] == np.sort(logits, axis=1)[:, -2]).any())
