"""Seen classes are divided into folds that play the unseen classes in turn."""

import itertools
from collections import Counter

import pytest

from dedn_hf.data.catalog import class_folds


def classes(total):
    return [f"class {number}" for number in range(total)]


@pytest.mark.parametrize("total", [4, 6, 7, 10, 23, 40, 150])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_class_is_in_one_fold_and_folds_are_of_equal_size(total, count):
    folds = class_folds(classes(total), count)
    assert sorted(itertools.chain.from_iterable(folds)) == sorted(classes(total))
    sizes = {len(fold) for fold in folds}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert len(folds) == min(count, total // 2)


@pytest.mark.parametrize(("total", "at_least"), [(3, 1), (3, 2), (5, 2), (7, 3), (9, 4), (10, 6), (12, 11)])
def test_with_few_classes_each_is_held_out_all_the_same(total, at_least):
    folds = class_folds(classes(total), count=5, at_least=at_least)
    assert set(itertools.chain.from_iterable(folds)) == set(classes(total))
    assert all(len(set(fold)) == len(fold) >= at_least for fold in folds)
    assert len({tuple(fold) for fold in folds}) == len(folds)


@pytest.mark.parametrize("total", range(4, 41))
@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("at_least", [1, 2])
def test_half_of_the_classes_remain_to_train_on(total, count, at_least):
    assert all(2 * len(fold) <= total for fold in class_folds(classes(total), count, at_least))


def test_no_class_is_in_more_than_two_folds():
    for total, at_least in itertools.product(range(3, 30), range(1, 12)):
        if at_least < total:
            folds = class_folds(classes(total), 5, at_least)
            assert max(Counter(itertools.chain.from_iterable(folds)).values()) <= 2


def test_the_same_names_give_the_same_folds_in_whatever_order_they_come():
    names = classes(17)
    folds = class_folds(names, 4)
    assert folds == class_folds(names, 4)
    backwards = class_folds(names[::-1], 4)
    assert [set(fold) for fold in backwards] == [set(fold) for fold in folds]
    assert all(fold == sorted(fold, key=names.index) for fold in folds)


def test_folds_do_not_follow_the_alphabet():
    assert class_folds(classes(10), 2)[0] != classes(5)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a", "b"], {"count": 2}, "2 seen classes are too few"),
        ([], {"count": 2}, "too few"),
        (["a", "b", "c", "d"], {"count": 2, "at_least": 4}, "hold out 4 at a time: 5 are needed"),
        (["a", "b", "a"], {"count": 2}, "stands twice"),
        (["a", "b", "c"], {"count": 1}, "count of 2 or more"),
        (["a", "b", "c"], {"count": 2, "at_least": 0}, "1 class or more"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_reason(names, options, message):
    with pytest.raises(ValueError, match=message):
        class_folds(names, **options)
