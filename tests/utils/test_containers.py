"""Frames go in as numbers and come out as they were."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skart.utils._containers import Container

pandas = pytest.importorskip("pandas")


def mixed():
    """A pandas frame of every kind of column."""
    return pandas.DataFrame(
        {
            "length": [1.0, 2.0, 3.0],
            "text": ["u", "v", None],
            "ordered": pandas.Categorical(["hi", None, "lo"], categories=["lo", "mid", "hi"], ordered=True),
            "count": [1, 2, 3],
            "flag": [True, False, True],
            "code": pandas.Categorical([3, 5, 3]),
            "day": pandas.to_datetime(["2020-01-01", "2021-01-01", "2020-01-01"]),
        },
        index=[7, 5, 6],
    )


def numbers_of(container, X):
    return np.asarray(container.numbers(X).to_numpy(), dtype=np.float64)


def test_a_frame_survives_the_round_trip():
    X = mixed()
    before = X.copy(deep=True)
    container = Container(X)
    numbers = numbers_of(container, X)
    pandas.testing.assert_frame_equal(X, before)
    assert_array_equal(container.held, [False, True, True, False, True, True, True])
    assert container.coded == ["text", "ordered", "day"]
    assert_array_equal(numbers[:, [0, 3, 4, 5]], [[1, 1, 1, 3], [2, 2, 0, 5], [3, 3, 1, 3]])
    pandas.testing.assert_frame_equal(container.wrap(numbers, numbers), X)


def test_what_changed_becomes_float_and_the_rest_stays():
    X = mixed()
    container = Container(X)
    numbers = numbers_of(container, X)
    moved = numbers.copy()
    moved[:, 3] += 0.5
    wrapped = container.wrap(moved, numbers)
    assert_array_equal(wrapped["count"], [1.5, 2.5, 3.5])
    pandas.testing.assert_frame_equal(wrapped.drop(columns="count"), X.drop(columns="count"))


def test_values_seen_later_join_the_table_that_parts_share():
    X = mixed()
    container = Container(X)
    numbers_of(container, X)
    part = container.select(np.array([3, 1]))
    later = X.assign(text=["w", "v", "u"])
    numbers = numbers_of(container, later)
    assert_array_equal(numbers[1:, 1], [1, 0])  # where the first frame put them
    pandas.testing.assert_frame_equal(
        container.wrap(numbers, numbers).reset_index(drop=True), later.reset_index(drop=True)
    )
    assert part.columns == ["count", "text"]
    assert list(part.data_frame(numbers[:, [3, 1]])["text"]) == ["w", "v", "u"]


def test_single_precision_stays():
    X = pandas.DataFrame({"a": np.ones(3, dtype=np.float32), "text": ["u", "v", "u"]})
    assert set(Container(X).numbers(X).dtypes) == {np.dtype(np.float32)}


def test_a_frame_of_numbers_is_handed_on_as_it_is():
    X = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.0]})
    assert Container(X).numbers(X) is X


def test_polars():
    polars = pytest.importorskip("polars")
    X = polars.DataFrame(
        {
            "length": [1.0, 2.0, 3.0],
            "text": ["u", "v", None],
            "kind": polars.Series(["x", None, "y"], dtype=polars.Categorical),
            "count": [1, 2, 3],
            "flag": [True, False, True],
            "maybe": [True, None, False],
        }
    )
    container = Container(X)
    numbers = numbers_of(container, X)
    assert_array_equal(container.held, [False, True, True, False, True, True])
    assert container.coded == ["text", "kind", "maybe"]
    assert container.wrap(numbers, numbers).equals(X)
    assert container.wrap(numbers, numbers).schema == X.schema
    moved = numbers.copy()
    moved[:, 3] += 0.5
    assert container.wrap(moved, numbers)["count"].to_list() == [1.5, 2.5, 3.5]
