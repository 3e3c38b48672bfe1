"""Boxes against loops over them, one sample and one box at a time."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skart._core import _leaves
from skart._core._leaves import BoxTable, climb_order, widened

NORMS = (1, 2, np.inf)


def random_boxes(rng, n_boxes=40, n_features=5, dtype=np.float64):
    """Boxes of 0 to 4 bounds, many of which they share."""
    counts = rng.integers(0, n_features, size=n_boxes)
    feature = np.concatenate([np.sort(rng.choice(n_features, count, replace=False)) for count in counts])
    least = rng.choice([-np.inf, 0.0, 0.25, 0.5], len(feature))
    most = rng.choice([np.inf, 0.75, 1.0, 0.5], len(feature))
    return np.concatenate([[0], np.cumsum(counts)]), feature, least.astype(dtype), most.astype(dtype)


def expected_costs(x, offsets, feature, least, most, norm, lower, upper):
    costs = np.zeros((len(offsets) - 1, len(x)))
    for b in range(len(costs)):
        for n in range(len(x)):
            moves = [0.0]
            for i in range(offsets[b], offsets[b + 1]):
                value = float(x[n, feature[i]])
                goal = min(max(value, float(least[i])), float(most[i]))
                if not lower[n, feature[i]] <= goal <= upper[n, feature[i]]:
                    goal = np.inf
                moves.append(abs(goal - value))
            costs[b, n] = np.linalg.norm(moves, ord=norm)
    return costs


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 1.5, size=(17, 5))
    lower = np.where(rng.random(x.shape) < 0.3, x, x - rng.random(x.shape))
    upper = np.where(rng.random(x.shape) < 0.3, x, x + rng.random(x.shape))
    return x, random_boxes(rng), lower, upper


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_costs_are_distances_to_the_boxes(norm, dtype, case):
    x, boxes, lower, upper = case
    x, lower, upper = x.astype(dtype), lower.astype(dtype), upper.astype(dtype)
    boxes = (*boxes[:2], boxes[2].astype(dtype), boxes[3].astype(dtype))
    table = BoxTable(*boxes)
    everywhere = np.full(x.shape, np.inf)
    for bounds, given in [((-everywhere, everywhere), ()), ((lower, upper), (lower, upper))]:
        costs = table.costs(x, norm, *given)
        expected = expected_costs(x, *boxes, norm, *bounds)[table.order]
        assert costs.dtype == np.float64
        assert_allclose(np.sqrt(costs) if norm == 2 else costs, expected, rtol=1e-12)
        assert np.isinf(expected).any() == bool(given)


def test_the_order_is_one_of_all_boxes(case):
    assert_array_equal(np.sort(BoxTable(*case[1]).order), np.arange(40))


@pytest.mark.parametrize("entries", [1, 170, 2**20])
def test_nearest_is_the_least_of_those_wanted(entries, case, monkeypatch):
    monkeypatch.setattr(_leaves, "_ENTRIES", entries)
    x, boxes, lower, upper = case
    table = BoxTable(*boxes)
    rng = np.random.default_rng(1)
    ok = rng.random((40, len(x))) < 0.1
    ok[:, :2] = False
    ranks = rng.permuted(np.arange(40)[:, None].repeat(len(x), axis=1), axis=0)
    costs = table.costs(x, 2, lower, upper)
    for rank in (None, ranks):
        found = table.nearest(
            x,
            lambda rows: ok[:, rows],
            norm=2,
            lower=lower,
            upper=upper,
            rank=None if rank is None else lambda rows: ranks[:, rows],
        )
        for n in range(len(x)):
            fits = np.flatnonzero(ok[:, n] & np.isfinite(costs[:, n]))
            if len(fits):
                score = costs[:, n] if rank is None else ranks[:, n]
                assert found[n] in fits
                assert score[found[n]] == score[fits].min()
            else:
                assert found[n] == -1
        assert 2 < np.count_nonzero(found < 0) < len(x) - 3


@pytest.mark.parametrize("offset", [0.0, 0.1, 10.0])
def test_enter_moves_what_must_and_stays_in_the_box(offset, case):
    x, (offsets, feature, least, most), lower, upper = case
    table = BoxTable(offsets, feature, least, most)
    doors = (least + 0.01, most - 0.01)
    narrow = doors[0] > doors[1]
    doors = (np.where(narrow, least, doors[0]), np.where(narrow, most, doors[1]))
    costs = table.costs(x, 1, lower, upper)
    box = np.array([np.flatnonzero(np.isfinite(column))[-1] for column in costs.T])
    for bounds in ({}, {"lower": lower, "upper": upper}):
        moved = table.enter(x, box, doors=doors, offset=offset, **bounds)
        assert np.any(moved != x)
        for n, b in enumerate(table.order[box]):
            goal = x[n].copy()
            for i in range(offsets[b], offsets[b + 1]):
                f = feature[i]
                if goal[f] < least[i]:
                    goal[f] = min(max(doors[0][i], least[i] + offset), most[i], upper[n, f] if bounds else np.inf)
                elif goal[f] > most[i]:
                    goal[f] = max(min(doors[1][i], most[i] - offset), least[i], lower[n, f] if bounds else -np.inf)
            assert_array_equal(moved[n], goal)


def test_enter_with_boxes_of_no_bounds():
    table = BoxTable(np.array([0, 0]), np.empty(0, dtype=np.int32), np.empty(0), np.empty(0))
    x = np.ones((3, 2))
    assert_array_equal(table.costs(x, 2), np.zeros((1, 3)))
    empty = (np.empty(0), np.empty(0))
    assert_array_equal(table.enter(x, np.zeros(3, dtype=int), doors=empty), x)
    assert table.enter(x[:0], np.empty(0, dtype=int), doors=empty).shape == (0, 2)


def test_climb_order_goes_up_before_it_goes_deep():
    # Splits:      0
    #          1       2       leaves a, b under 1; c under 3; d, e under 3 -> 4; f under 2
    #        a   b   3   f
    #               c 4
    #                d e
    steps = np.array(
        [
            [0, 1, -1, -1],  # a
            [0, 1, -1, -1],  # b
            [0, 2, 3, -1],  # c
            [0, 2, 3, 4],  # d
            [0, 2, 3, 4],  # e
            [0, 2, -1, -1],  # f
        ]
    )
    names = "abcdef"

    def ranked(own):
        order = climb_order(steps, steps[[names.index(own)]])[:, 0]
        groups = [[names[k] for k in np.flatnonzero(order == value)] for value in np.unique(order)]
        return ["".join(group) for group in groups]

    assert ranked("a") == ["ab", "f", "c", "de"]
    assert ranked("d") == ["de", "c", "f", "ab"]
    # f's own depth is no part of what lies below the split that it shares with c, d and e.
    assert ranked("f") == ["f", "c", "de", "ab"]
    both = climb_order(steps, steps[[0, 3]])
    assert_array_equal(both[:, :1], climb_order(steps, steps[[0]]))
    assert_array_equal(both[:, 1:], climb_order(steps, steps[[3]]))


def numbers(dtype, n=2000):
    """Numbers of all sizes, the ends of the range and of zero among them."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    some = rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, size=n)
    ends = [0.0, 1.0, 0.5, info.max, info.tiny, info.smallest_subnormal, np.inf]
    some = np.concatenate([some, np.arange(50), ends]).astype(dtype)
    return np.concatenate([some, -some])


@pytest.mark.parametrize(
    ("compared", "dtype"), [(np.float32, np.float64), (np.float64, np.float32), (np.float32, np.float32)]
)
def test_widened_bounds_are_the_last_that_round_inside(compared, dtype):
    bounds = numbers(compared)
    least, most = widened(bounds, bounds, dtype)
    assert least.dtype == most.dtype == dtype
    with np.errstate(over="ignore"):
        below, above = np.nextafter(least, dtype(-np.inf)), np.nextafter(most, dtype(np.inf))
        inside = least.astype(compared) >= bounds
        assert np.all(inside)
        assert np.all(most.astype(compared) <= bounds)
        # One number farther out is outside. Beyond the largest number there is none, wherever rounding would put it.
        last = np.finfo(compared).max
        assert np.all((below.astype(compared) < bounds) | (bounds == -last) | np.isinf(bounds))
        assert np.all((above.astype(compared) > bounds) | (bounds == last) | np.isinf(bounds))
    if np.finfo(dtype).max >= last:
        assert_array_equal(least[bounds == -last], -last)
        assert_array_equal(most[bounds == last], last)
    assert_array_equal(least[np.isinf(bounds)], bounds[np.isinf(bounds)])
    assert_array_equal(most[np.isinf(bounds)], bounds[np.isinf(bounds)])
