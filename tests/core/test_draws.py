"""Keyed draws: their distribution, and what they depend on."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skart._core._draws import Chance, Draws, Question, asking, count_queries, draws_for, handing
from skart._core._random import RandomStream

KEYS = np.arange(200, dtype=np.uint64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distribution(dtype):
    normal, uniform = Draws(KEYS).normal((501,), dtype), Draws(KEYS).uniform((501,), dtype)
    assert normal.dtype == uniform.dtype == dtype
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(normal.ravel().astype(float), "norm").pvalue > 0.01
    assert stats.kstest(uniform.ravel().astype(float), "uniform").pvalue > 0.01
    for values in (normal, uniform):
        # Neither samples nor places know of each other: correlations of 501 and of 200 numbers, the largest of 20 000.
        for rows in (values, values.T[:200]):
            correlation = np.corrcoef(rows) - np.eye(len(rows))
            assert np.abs(correlation).max() < 5.5 / np.sqrt(rows.shape[1])
    assert_allclose(Draws(KEYS).normal((501,), dtype, scale=3.0), 3 * normal, rtol=1e-5, atol=1e-6)


def test_a_sample_s_numbers_depend_on_its_key_alone():
    whole = Draws(KEYS).normal((3, 700))
    for rows in (slice(5, 9), slice(199, None), np.asarray([17, 3, 100])):
        assert_array_equal(Draws(KEYS[rows]).normal((3, 700)), whole[rows])
    draws = Draws(KEYS)
    assert not np.any(draws.uniform((3,)) == draws.uniform((3,)))  # each request gives new ones
    assert not np.any(draws.child().uniform((3,)) == draws.child().uniform((3,)))


def test_parts_are_the_same_however_they_are_cut():
    whole = Draws(KEYS).part(slice(0, 6), 0, 4).normal((5,)).reshape(4, 6, 5)
    piece = Draws(KEYS).part(slice(2, 4), 1, 3).normal((5,)).reshape(2, 2, 5)
    assert_array_equal(piece, whole[1:3, 2:4])
    assert len(np.unique(whole)) == whole.size


def test_an_attack_s_numbers_are_those_of_pass_and_sample():
    stream = RandomStream(0)
    # Samples 10 to 13 of a batch that starts at 0, and of one that starts at 10.
    early, late = Chance(stream), Chance(stream, 10)
    early.announce([10, 11, 12], [4, 4, 5])
    late.announce([0, 2], [4, 5])
    first, second = early.draws(3).keys, late.draws(2).keys
    assert_array_equal(second, first[[0, 2]])
    early.announce([10, 11, 12], [5, 4, 4])
    again = early.draws(3).keys
    assert_array_equal(again == first, [False, True, False])
    # Nobody said who is asked: other numbers in each pass, and other ones than where somebody did.
    unannounced = [
        early.draws(3).keys,
        early.draws(3).keys,
        Chance(stream, verdict=True).draws(3).keys,
        first,
        again[:1],
    ]
    assert len(np.unique(np.concatenate(unannounced))) == 13


def test_steps_draw_from_their_own_state_or_from_what_is_handed_over():
    X = np.random.default_rng(0).normal(size=(6, 4))
    own = draws_for(3, X).uniform((2,))
    assert_array_equal(draws_for(3, X[:2] + 1).uniform((2,)), own[:2])  # a function of the place
    assert not np.any(draws_for(4, X).uniform((2,)) == own)
    assert not np.any(draws_for(None, X).uniform((2,)) == draws_for(None, X).uniform((2,)))
    state = np.random.RandomState(0)
    before = state.get_state()[1].copy()
    draws_for(state, X)
    assert_array_equal(state.get_state()[1], before)
    with asking(Question(Draws(KEYS[:6]))):
        handed = draws_for(3, X).uniform((2,))
        assert not np.any(handed == draws_for(3, X).uniform((2,)))  # another step of the same model
    assert not np.any(handed == own)
    with asking(Question(Draws(KEYS[:6]))):
        assert_array_equal(draws_for(5, X).uniform((2,)), handed)  # whatever its own state
        with handing(Draws(KEYS[:6])):
            assert_array_equal(draws_for(3, X).uniform((2,)), handed)
        assert len(draws_for(3, X[:4])) == 4  # of other samples, who knows which
        with asking(Question()):
            assert_array_equal(draws_for(3, X).uniform((2,)), own)
    assert_array_equal(draws_for(3, X).uniform((2,)), own)


def test_queries_within_are_counted_for_the_question():
    question = Question(Draws(KEYS[:2]))
    with asking(question):
        count_queries(3)
        with handing(None):
            count_queries(4)
    assert question.take() == 7
    assert question.take() == 0
    count_queries(1)  # nobody asks
