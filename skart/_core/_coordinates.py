"""Descent along a few coordinates at a time, with differences of scores for derivatives (ZOO, Chen et al., 2017).

The coordinates are those of the perturbation: its features, or the pixels of a smaller image that is enlarged to it.
What belongs to coordinates (the perturbation, moments, scales of differences) is small and stays in NumPy; only the
samples themselves are arrays of the model's namespace.
"""

from typing import NamedTuple

import numpy as np

from skart._core._arrays import array_namespace, device

__all__ = ["Adam", "Grid", "Newton", "choose", "interpolation"]


def interpolation(n_fine, n_coarse):
    """Linear interpolation of ``n_coarse`` equal cells at the centres of ``n_fine``: (n_fine, n_coarse)."""
    place = np.clip((np.arange(n_fine) + 0.5) * (n_coarse / n_fine) - 0.5, 0, n_coarse - 1)
    below = np.minimum(place.astype(int), max(n_coarse - 2, 0))
    weight = place - below
    matrix = np.zeros((n_fine, n_coarse))
    rows = np.arange(n_fine)
    matrix[rows, below] = 1 - weight
    matrix[rows, np.minimum(below + 1, n_coarse - 1)] += weight
    return matrix


class Grid(NamedTuple):
    """The coordinates of perturbations: pixels of an image, which is enlarged to the samples.

    Attributes
    ----------
    layout : ImageLayout
        How samples hold their images; a row is an image of one line.
    rows, columns : ndarray of shape (height, n_rows) and (width, n_columns), or None
        What a row, and a column, of the small image adds to those of the large one; None where it is no smaller.
    """

    layout: object
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    @classmethod
    def of(cls, layout, side=None):
        """The grid of ``side`` rows and columns; that of the features themselves without it."""
        if side is None:
            return cls(layout)
        return cls(
            layout,
            interpolation(layout.height, side) if side < layout.height else None,
            interpolation(layout.width, side) if side < layout.width else None,
        )

    @property
    def exact(self):
        """Whether the coordinates are the features."""
        return self.rows is None and self.columns is None

    @property
    def shape(self):
        """Channels, rows and columns."""
        n_rows = self.layout.height if self.rows is None else self.rows.shape[1]
        n_columns = self.layout.width if self.columns is None else self.columns.shape[1]
        return self.layout.n_channels, n_rows, n_columns

    @property
    def n_coordinates(self):
        """Number of coordinates."""
        return int(np.prod(self.shape))

    def planes(self, delta):
        """Perturbations (n, n_channels, height, width), from coordinates (n, n_coordinates)."""
        planes = delta.reshape(-1, *self.shape)
        planes = planes if self.rows is None else self.rows @ planes
        return planes if self.columns is None else planes @ self.columns.T

    def gather(self, planes):
        """Transpose of :meth:`planes`."""
        planes = planes if self.rows is None else self.rows.T @ planes
        planes = planes if self.columns is None else planes @ self.columns
        return planes.reshape(len(planes), -1)

    def nearest(self, planes):
        """Coordinates of what comes nearest to ``planes``."""
        planes = planes if self.rows is None else np.linalg.pinv(self.rows) @ planes
        planes = planes if self.columns is None else planes @ np.linalg.pinv(self.columns).T
        return planes.reshape(len(planes), -1)

    def directions(self, index, like):
        """What single coordinates add, for their numbers ``index`` of shape (n,): (n, ...) beside ``like``."""
        channel, row, column = np.unravel_index(index, self.shape)
        lines = _lines(self.rows, row, self.layout.height)[:, None, :, None]
        columns = _lines(self.columns, column, self.layout.width)[:, None, None, :]
        chosen = np.arange(self.layout.n_channels) == channel[:, None]
        return self.beside(like, lines * columns * chosen[:, :, None, None])

    def beside(self, like, planes):
        """``planes`` as samples of the namespace and dtype of ``like``."""
        xp = array_namespace(like)
        return self.layout.samples(xp.asarray(planes, dtype=like.dtype, device=device(like)))

    @property
    def lengths(self):
        """Squared length of what each coordinate adds: (n_coordinates,)."""
        n_channels, n_rows, n_columns = self.shape
        rows = np.ones(n_rows) if self.rows is None else np.sum(self.rows**2, axis=0)
        columns = np.ones(n_columns) if self.columns is None else np.sum(self.columns**2, axis=0)
        return np.tile(np.outer(rows, columns).ravel(), n_channels)


def _lines(matrix, chosen, length):
    if matrix is None:
        return (np.arange(length) == chosen[:, None]).astype(np.float64)
    return matrix.T[chosen]


def choose(weights, n_chosen, generator):
    """Coordinates drawn without replacement, each as probable as its weight says: (n_samples, n_chosen)."""
    n_samples, n_coordinates = weights.shape
    if n_chosen >= n_coordinates:
        return np.broadcast_to(np.arange(n_coordinates), weights.shape)
    # The first of independent exponential clocks to ring.
    with np.errstate(divide="ignore"):
        keys = generator.standard_exponential(weights.shape) / weights
    return np.argpartition(keys, n_chosen - 1, axis=1)[:, :n_chosen]


class Adam:
    """Steps of Adam, each coordinate with a clock of its own, since each is visited when its turn comes.

    Parameters
    ----------
    shape : (n_samples, n_coordinates)
    learning_rate : float
        Length of a step in units of ``units``.
    units : ndarray of shape (n_coordinates,)
    """

    def __init__(self, shape, learning_rate, units, beta_1=0.9, beta_2=0.999):
        self._rate, self._units, self._beta_1, self._beta_2 = learning_rate, units, beta_1, beta_2
        self._state = np.zeros((3, *shape))

    def take(self, rows):
        """Go on with the samples that ``rows`` marks."""
        self._state = self._state[:, rows]

    def step(self, index, grad, curvature):
        """Steps of the coordinates ``index`` (n_samples, n_chosen), to be added."""
        old = [np.take_along_axis(part, index, axis=1) for part in self._state]
        mean = self._beta_1 * old[0] + (1 - self._beta_1) * grad
        square = self._beta_2 * old[1] + (1 - self._beta_2) * grad**2
        visits = old[2] + 1
        for part, values in zip(self._state, (mean, square, visits)):
            np.put_along_axis(part, index, values, axis=1)
        mean, square = mean / (1 - self._beta_1**visits), square / (1 - self._beta_2**visits)
        root = np.sqrt(square)
        return -self._rate * self._units[index] * mean / np.where(root > 0, root, 1.0)


class Newton:
    """Newton's steps along single coordinates, where the curvature is positive; else those of the gradient.

    A step is ``learning_rate`` of the way to where the derivative would vanish, and at most ``longest`` units.
    """

    longest = 0.1

    def __init__(self, shape, learning_rate, units):
        self._rate, self._units = learning_rate, units

    def take(self, rows):
        """Go on with the samples that ``rows`` marks: nothing is remembered of any."""

    def step(self, index, grad, curvature):
        """Steps of the coordinates ``index`` (n_samples, n_chosen), to be added."""
        bound = self.longest * self._units[index]
        return np.clip(-self._rate * grad / np.where(curvature > 0, curvature, 1.0), -bound, bound)
