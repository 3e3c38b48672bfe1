import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skart._core._random import RandomStream


def draws(stream, *key):
    return stream.generator(*key).random(4)


@pytest.mark.parametrize("random_state", [0, 42, np.random.RandomState(3)])
def test_the_same_key_gives_the_same_numbers(random_state):
    streams = RandomStream(random_state), RandomStream(random_state)
    for key in [(), (0,), (0, 0), (1, 2, 3)]:
        assert_array_equal(draws(streams[0], *key), draws(streams[1], *key))
        assert_array_equal(draws(streams[0], *key), draws(streams[0], *key))


def test_other_keys_and_other_seeds_give_other_numbers():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**40,)]
    numbers = [draws(RandomStream(seed), *key) for seed in (0, 1, np.random.RandomState(2), None, None) for key in keys]
    assert len(np.unique(np.concatenate(numbers))) == 4 * len(numbers)


def test_an_instance_is_not_advanced_but_its_state_counts():
    random_state = np.random.RandomState(7)
    expected = np.random.RandomState(7).random_sample(3)
    before = draws(RandomStream(random_state), 1)
    assert_array_equal(random_state.random_sample(3), expected)
    assert not np.array_equal(draws(RandomStream(random_state), 1), before)


@pytest.mark.parametrize("random_state", [None, 0, np.random.mtrand._rand])
def test_the_global_generator_is_left_alone(random_state):
    before = np.random.get_state()  # noqa: NPY002
    draws(RandomStream(random_state), 1)
    after = np.random.get_state()  # noqa: NPY002
    assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_streams_without_a_seed_differ():
    assert not np.array_equal(draws(RandomStream(None), 0), draws(RandomStream(None), 0))
