"""The judge counts every question, keeps the nearest answer, and shares its books among its parts."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skart._core._arrays import to_numpy
from skart._core._judge import Judge

X = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])


def judge_of(xp, calls=None, **params):
    """A model that says 1 where the first feature leads the second by more than a half."""

    def ask_labels(x):
        if calls is not None:
            calls.append(x.shape[0])
        values = to_numpy(x)
        return (values[:, 0] - values[:, 1] > 0.5).astype(int)

    def ask_scores(x):
        return xp.stack([xp.zeros_like(x[:, 0]), x[:, 0] - x[:, 1] - 0.5], axis=1)

    return Judge(xp.asarray(X), np.zeros(4, dtype=int), None, ask_labels=ask_labels, ask_scores=ask_scores, **params)


@pytest.mark.parametrize("ask", ["adversarial", "scores"])
def test_the_nearest_adversarial_candidate_is_kept(xp, ask):
    judge = judge_of(xp, batch_size=3)
    shifts = np.array([[1.0, 0.0], [0.2, 0.0], [0.8, -0.1], [0.3, -0.4], [5.0, 0.0]])
    candidates = np.concatenate([X[[0]] + shifts[[0]], X[[2, 2, 2, 2]] + shifts[1:]])
    answer = getattr(judge, ask)(xp.asarray(candidates), np.array([0, 2, 2, 2, 2]))
    if ask == "adversarial":
        assert_array_equal(answer, [True, False, True, True, True])
    else:
        assert_allclose(to_numpy(answer)[:, 1], [0.5, -0.3, 0.4, 0.2, 4.5])
    assert_array_equal(judge.ledger.n_queries, [1, 0, 4, 0])
    assert_allclose(judge.distance, [1.0, np.inf, 0.5, np.inf])
    assert_allclose(to_numpy(judge.best), [[1, 0], [1, 1], [2.3, 1.6], [3, 3]])
    assert_array_equal(judge.positions, [1, 0, 1, 0])


def test_a_later_candidate_replaces_only_a_farther_one(xp):
    judge = judge_of(xp, norm=np.inf)
    judge.adversarial(xp.asarray(X + [1.0, 0.0]))
    judge.adversarial(xp.asarray(X + np.array([[0.6, 0.0], [2.0, 0.0], [0.4, -0.4], [0.1, 0.0]])))
    assert_allclose(judge.distance, [0.6, 1.0, 0.4, 1.0])
    assert_allclose(to_numpy(judge.best) - X, [[0.6, 0.0], [1.0, 0.0], [0.4, -0.4], [1.0, 0.0]])


def test_parts_share_the_books(xp):
    judge = judge_of(xp, max_queries=5, trace=True)
    part = judge[np.array([False, True, False, True])]
    assert_array_equal(part.adversarial(xp.asarray(X[[1, 3]] + [0.7, 0.0])), [True, True])
    inner = part[np.array([False, True])]
    inner.adversarial(xp.asarray(X[[3, 3]] + [[0.6, 0.0], [0.1, 0.0]]), np.array([0, 0]))
    assert_array_equal(judge.ledger.n_queries, [0, 1, 0, 3])
    assert_array_equal(judge.left, [5, 4, 5, 2])
    assert_array_equal(inner.left, [2])
    assert_allclose(judge.distance, [np.inf, 0.7, np.inf, 0.6])
    assert_allclose(inner.distance, [0.6])
    queries, distances = judge.trace
    assert_array_equal(queries, [[0, 1, 0, 1], [0, 1, 0, 3]])
    assert_allclose(distances[:, [1, 3]], [[0.7, 0.7], [0.7, 0.6]])


def test_probes_are_counted_and_not_kept(xp):
    judge = judge_of(xp)
    assert judge.adversarial(xp.asarray(X + [1.0, 0.0]), keep=False).all()
    assert_array_equal(judge.ledger.n_queries, 1)
    assert not np.isfinite(judge.distance).any()


def test_targets(xp):
    judge = judge_of(xp)
    judge.targets = np.array([1, 0, 1, 0])
    assert_array_equal(judge.adversarial(xp.asarray(X + [1.0, 0.0])), [True, False, True, False])


def test_no_call_is_larger_than_a_batch(xp):
    calls = []
    judge = judge_of(xp, calls, batch_size=3)
    judge.adversarial(xp.asarray(np.repeat(X, 2, axis=0)), np.repeat(np.arange(4), 2))
    assert calls == [3, 3, 2]


def test_scores_that_are_not_finite_are_noted(xp):
    judge = judge_of(xp)
    judge._ask_scores = lambda x: xp.stack([xp.zeros_like(x[:, 0]), xp.where(x[:, 0] > 2, xp.nan, x[:, 0])], axis=1)
    judge.scores(xp.asarray(X))
    assert_array_equal(judge.ledger.bad_scores, [False, False, False, True])


def test_what_was_kept_before_is_not_changed_in_place(xp):
    judge = judge_of(xp)
    judge.adversarial(xp.asarray(X + [1.0, 0.0]))
    before = judge.best
    kept = to_numpy(before).copy()
    judge.adversarial(xp.asarray(X + [0.6, 0.0]))
    assert_array_equal(to_numpy(before), kept)
