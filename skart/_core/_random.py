"""Random streams: every draw is addressed by a key, so neither batching over processes nor order changes it."""

import copy

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["RandomStream"]


class RandomStream:
    """A family of independent generators, one for each key.

    Draws are made by NumPy on the host and converted by the caller: the same key gives the same numbers in every
    array namespace and on every device.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        An instance is read, not advanced: the caller's generator stays as it was. ``None`` takes fresh entropy
        from the operating system and leaves NumPy's global generator alone.
    """

    def __init__(self, random_state=None):
        if random_state is None:
            self._entropy = np.random.SeedSequence().entropy
        else:
            twin = copy.deepcopy(check_random_state(random_state))
            self._entropy = [int(word) for word in twin.randint(0, 2**31 - 1, size=4)]

    def generator(self, *key):
        """The :class:`numpy.random.Generator` at ``key``, a sequence of non-negative integers."""
        return np.random.default_rng(np.random.SeedSequence(self._entropy, spawn_key=key))
