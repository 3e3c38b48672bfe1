"""Random draws for the samples of a batch, each of which has a key.

A number depends on the key of its sample and on its place among the numbers of that sample, and on nothing else: in
which batch a sample stands, and beside which others, changes nothing. Numbers come from a counter that is hashed by
SplitMix64's finaliser, for all samples at once, on the host.

Random steps of a model (noise, random masks) take their numbers from :func:`draws_for`. A user who calls the step gets
those of its ``random_state``; an oracle that was handed a stream puts the :class:`Draws` of its present pass in their
place, however deep in the model the step stands, and whether its rule or its own method is asked. A wrapper that asks
for several versions of a sample hands on other draws for each of them.
"""

import contextlib
import math
from contextvars import ContextVar

import numpy as np

from skart._core._random import RandomStream

__all__ = ["Chance", "Draws", "Question", "asking", "count_queries", "draws_for", "handing"]

# The golden ratio's odd neighbour in 64 bits: multiples of it are spread evenly.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    (np.uint64(31), None),
)
_BLOCK = 32768  # numbers hashed together, so that what is between stays in the cache

_question: ContextVar = ContextVar("skart_question", default=None)


class Draws:
    """Random numbers for samples; each request gives new ones.

    Parameters
    ----------
    keys : ndarray of uint64, shape (n_samples,)
        Samples with equal keys get equal numbers.
    """

    def __init__(self, keys):
        self.keys = keys
        self._n_requests = 0

    def __len__(self):
        return len(self.keys)

    def part(self, rows, start=0, stop=1):
        """Draws for replicates ``start`` to ``stop`` of the samples at ``rows``, all first replicates foremost."""
        replicates = np.arange(start, stop, dtype=np.uint64)
        return Draws(_mix(self.keys[rows] + _hashed(1, replicates)[:, None]).reshape(-1))

    def child(self):
        """Draws of their own for one of those who ask for the same samples."""
        return Draws(self._next_keys())

    def uniform(self, shape, dtype=np.float64):
        """Numbers in [0, 1), an array of shape (n_samples, *shape)."""
        single = np.dtype(dtype) == np.float32
        size = math.prod(shape)
        out = np.empty((len(self.keys), size), dtype=np.float32 if single else np.float64)
        for rows, bits in _hashes(self._next_keys(), size):
            # 24 or 53 bits: as many as the number holds.
            if single:
                out[rows] = (bits >> np.uint64(40)).astype(np.uint32).astype(np.float32) * np.float32(2.0**-24)
            else:
                out[rows] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return out.reshape(len(self.keys), *shape)

    def normal(self, shape, dtype=np.float64, scale=1.0):
        """Normal numbers with mean 0 and standard deviation ``scale``, an array of shape (n_samples, *shape)."""
        single = np.dtype(dtype) == np.float32
        real = np.float32 if single else np.float64
        size = math.prod(shape)
        half = (size + 1) // 2
        out = np.empty((len(self.keys), 2 * half), dtype=real)
        variance, turn = real(-2 * scale**2), real(2 * np.pi * 2.0 ** (-32 if single else -53))
        for rows, bits in _hashes(self._next_keys(), half if single else 2 * half):
            # In single precision one hash makes a pair.
            words = bits.view(np.uint32) if single else np.right_shift(bits, np.uint64(11), out=bits)
            block = out[rows]
            first, second = block[:, :half], block[:, half:]
            # Box and Muller's radius of a number in (0, 1], whose logarithm is finite, and its angle.
            radius = words[:, :half].astype(real)
            radius += real(0.5)
            radius *= real(2.0 ** (-32 if single else -53))
            np.log(radius, out=radius)
            radius *= variance
            np.sqrt(radius, out=radius)
            angle = words[:, half:].astype(real)
            angle *= turn
            np.cos(angle, out=first)
            first *= radius
            np.sin(angle, out=second)
            second *= radius
        return out[:, :size].reshape(len(self.keys), *shape)

    def _next_keys(self):
        self._n_requests += 1
        return _mix(self.keys + _hashed(0, np.uint64(self._n_requests)))


class Chance:
    """The random numbers that the random steps of one model draw while it is attacked.

    Parameters
    ----------
    stream : RandomStream
        The attack's.
    first : int
        Place of the batch's first sample among all samples.
    verdict : bool
        Whether it is the verdict on the result that is drawn for, which shares no numbers with the attack.
    """

    def __init__(self, stream, first=0, verdict=False):
        self._seed = stream.generator(4 if verdict else 3).integers(2**64, dtype=np.uint64)
        self._first = first
        self._announced = None
        self._n_passes = 0

    def announce(self, rows, passes):
        """Say of the next pass which samples of the batch it asks, and how often each was asked before."""
        self._announced = self._keys(0, np.asarray(passes), self._first + np.asarray(rows))

    def draws(self, n_samples):
        """Draws for the next pass; unannounced, for the first ``n_samples`` of the batch."""
        keys, self._announced = self._announced, None
        if keys is None or len(keys) != n_samples:
            self._n_passes += 1
            keys = self._keys(1, np.asarray([self._n_passes]), self._first + np.arange(n_samples))
        return Draws(keys)

    def _keys(self, kind, passes, samples):
        with np.errstate(over="ignore"):
            seed = _mix(self._seed + _hashed(2, np.uint64(kind)))
            return _mix(_mix(seed + passes.astype(np.uint64) * _STEP) + _hashed(3, samples.astype(np.uint64)))


class Question:
    """What goes with a question of an oracle to all parts of the model.

    Parameters
    ----------
    draws : Draws or None
        Random numbers for the samples of the question; None leaves random steps to their own ``random_state``.

    Attributes
    ----------
    n_queries : int
        Samples that parts of the model sent forward to answer, besides the pass itself.
    """

    def __init__(self, draws=None):
        self.draws = draws
        self.n_queries = 0

    def take(self):
        """How many queries were made since this was asked last."""
        taken, self.n_queries = self.n_queries, 0
        return taken

    @staticmethod
    def present():
        """The question that is being asked, or None."""
        return _question.get()


@contextlib.contextmanager
def asking(question):
    """Within, the parts of the model are asked as part of ``question``."""
    token = _question.set(question)
    try:
        yield question
    finally:
        _question.reset(token)


def count_queries(n_samples):
    """Tell the oracle that asks, if there is one, that ``n_samples`` more samples went through the model."""
    question = _question.get()
    if question is not None:
        question.n_queries += n_samples


def draws_for(random_state, X):
    """Draws for the samples ``X`` of a random step.

    Those that an oracle, or a wrapper, hands to the model while it asks; else those of the step's ``random_state``,
    keyed by the places of the samples.
    """
    question = _question.get()
    places = np.arange(X.shape[0], dtype=np.uint64)
    if question is not None and question.draws is not None:
        draws = question.draws.child()
        if len(draws) == len(places):
            return draws
        # Something between changed the number of samples: there is no telling which is whose.
        return Draws(_mix(draws.keys[:1] + _hashed(4, places)))
    seed = RandomStream(random_state).generator(3).integers(2**64, dtype=np.uint64)
    return Draws(_mix(seed + _hashed(4, places)))


@contextlib.contextmanager
def handing(draws):
    """Within, the model is asked as part of the present question, and its random steps draw from ``draws``."""
    question, part = _question.get(), Question(draws)
    try:
        with asking(part):
            yield
    finally:
        if question is not None:
            question.n_queries += part.n_queries


def _mix(z):
    """SplitMix64's finaliser: a permutation of 64 bits that leaves no pattern."""
    with np.errstate(over="ignore"):
        for shift, factor in _ROUNDS:
            z = z ^ (z >> shift)
            z = z if factor is None else z * factor
    return z


def _hashed(kind, values):
    """Hashes of non-negative integers, other ones for each kind."""
    with np.errstate(over="ignore"):
        return _mix((values + np.uint64(1)) * _STEP + _mix(np.uint64(kind)))


def _hashes(keys, size):
    """Blocks of (rows, hashes of shape (n_rows, size)), which hold until the next one."""
    counters = np.arange(1, size + 1, dtype=np.uint64) * _STEP
    step = min(max(1, _BLOCK // max(size, 1)), max(len(keys), 1))
    bits, spare = np.empty((2, step, size), dtype=np.uint64)
    for start in range(0, len(keys), step):
        rows = slice(start, min(start + step, len(keys)))
        z, other = bits[: rows.stop - start], spare[: rows.stop - start]
        np.add(keys[rows, None], counters, out=z)
        for shift, factor in _ROUNDS:
            np.right_shift(z, shift, out=other)
            np.bitwise_xor(z, other, out=z)
            if factor is not None:
                np.multiply(z, factor, out=z)
        yield rows, z
