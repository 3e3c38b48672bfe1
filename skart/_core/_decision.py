"""What searches by decisions share: what may be asked about a batch, points to start from, the way to the boundary.

All samples of a batch go in lock-step: one call of the model answers for all that still need an answer. No loop goes on
until it finds something; each has a number of rounds that is known beforehand, whatever the model says.
"""

import copy
import math

import numpy as np

from skart._core._arrays import array_namespace, device, flatten, scatter, to_numpy
from skart._core._balls import norm_of

__all__ = ["Region", "starting_points", "to_boundary"]


class Region:
    """The samples of a batch as rows, with the box, the units in which they move, and the judge who is asked.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
        Clean samples.
    judge : Judge
    ball : Ball
        The box and the mask.
    norm : {2, np.inf}
        Norm that is to become small.
    scale : array of shape (...), default=None
        Unit of each feature, positive, or zero for one that stays. The norm is that of the perturbation in these units.
    batch_size : int
        Most candidates that are made at once.

    Attributes
    ----------
    x : array of shape (n_samples, n_features)
    units : array of shape (n_samples, n_features)
        Zero for features that may not change.
    n_free : int
        Number of features that may change.
    """

    def __init__(self, x, judge, ball, *, norm, scale=None, batch_size):
        xp = array_namespace(x)
        self._shape, self.norm, self.batch_size = x.shape[1:], norm, batch_size
        self.x = flatten(x)
        self.units = xp.ones_like(self.x)
        self._judge = judge
        if scale is not None:
            self._judge = judge.measured_in(xp.where(scale > 0, scale, xp.ones_like(scale)))
            self.units = self.units * xp.reshape(scale, (1, -1))
        self._lower = self._upper = None
        if ball.lower is not None:
            self._lower, self._upper = (flatten(xp.broadcast_to(end, x.shape)) for end in (ball.lower, ball.upper))
            self.units = xp.where(self._upper > self._lower, self.units, xp.zeros_like(self.units))
        if scale is not None:  # the box may leave room to what has no unit
            stays = self.units == 0
            self._lower = xp.where(stays, self.x, -xp.inf if self._lower is None else self._lower)
            self._upper = xp.where(stays, self.x, xp.inf if self._upper is None else self._upper)
        self.n_free = max(int(xp.max(xp.sum(xp.astype(self.units > 0, xp.int64), axis=1))), 1)

    def __getitem__(self, rows):
        """The region of the samples that ``rows`` (boolean ndarray) marks."""
        if rows.all():
            return self
        part, where = copy.copy(self), self.mask(rows)
        part._judge = self._judge[rows]
        for name in ("x", "units", "_lower", "_upper"):
            values = getattr(self, name)
            setattr(part, name, None if values is None else values[where])
        return part

    def mask(self, rows):
        """A boolean ndarray as a mask in the samples' own namespace."""
        return array_namespace(self.x).asarray(rows, device=device(self.x))

    def column(self, values):
        """An ndarray of shape (n_samples,) as (n_samples, 1), in the samples' own namespace and dtype."""
        xp = array_namespace(self.x)
        return xp.asarray(values[:, None], dtype=self.x.dtype, device=device(self.x))

    @property
    def left(self):
        """Queries that may still be spent on each sample."""
        return self._judge.left

    def clip(self, points):
        """Points of shape (n_samples, n_features) or (n_samples, n_each, n_features), within the box and the mask."""
        if self._lower is None:
            return points
        xp = array_namespace(points)
        lower, upper = self._lower, self._upper
        if points.ndim == 3:
            lower, upper = lower[:, None, :], upper[:, None, :]
        return xp.minimum(xp.maximum(points, lower), upper)

    def ask(self, points):
        """Whether the model says that the points, one for each sample, are adversarial: ndarray of bool."""
        return self._judge.adversarial(array_namespace(points).reshape(points, (-1, *self._shape)))

    def ask_each(self, points, asked, *, keep=True):
        """The same of several points for each sample, (n_samples, n_each, n_features), of which only some are asked.

        Those are marked by ``asked``, an ndarray (n_samples, n_each); the answer is False for the others.
        """
        xp = array_namespace(points)
        answer = np.zeros(asked.shape, dtype=bool)
        if asked.any():
            points = xp.reshape(points, (-1, *self._shape))
            points = points if asked.all() else points[self.mask(asked.reshape(-1))]
            answer[asked] = self._judge.adversarial(points, np.nonzero(asked)[0], keep=keep)
        return answer

    def in_units(self, delta):
        """A change of the samples, (n_samples, n_features), in the units of the features."""
        return delta / array_namespace(delta).where(self.units > 0, self.units, 1.0)

    def length(self, points):
        """Distance of points, (n_samples, n_features), from the clean samples in those units: ndarray of float64."""
        return to_numpy(norm_of(self.in_units(points - self.x), self.norm)).astype(np.float64)

    def toward(self, end, share):
        """The points that are a ``share`` (ndarray, one for each sample) of the way from the clean samples to ``end``.

        They lie on the straight line. For the maximum norm, they are ``end`` clipped to a cube around the clean sample
        whose size is that share of the distance: no point of the cube is nearer to ``end``.
        """
        share, delta = self.column(share), end - self.x
        if self.norm == 2:
            return self.clip(self.x + share * delta)
        xp = array_namespace(end)
        reach = share * xp.max(xp.abs(self.in_units(delta)), axis=1, keepdims=True) * self.units
        return self.clip(xp.minimum(xp.maximum(end, self.x - reach), self.x + reach))

    def nearest_of(self, data, fits, n_nearest):
        """Positions in ``data`` of those that are nearest to each sample, (n_samples, n_nearest), nearest first.

        ``fits`` (n_samples, n_data) tells which of them come into question; which of the chosen do comes second.
        """
        xp = array_namespace(self.x)
        per_unit = xp.where(self.units > 0, 1.0 / xp.where(self.units > 0, self.units, 1.0), 0.0)
        # |b|**2 - 2 ab, in units: what is the same for all of the data is left out.
        weighted, square = 2 * self.x * per_unit * per_unit, per_unit * per_unit
        n_samples = self.x.shape[0]
        order, nearness = np.zeros((n_samples, 0), dtype=np.intp), np.zeros((n_samples, 0))
        for start in range(0, data.shape[0], self.batch_size):
            part = data[start : start + self.batch_size, ...]
            here = to_numpy(square @ (part * part).T - weighted @ part.T).astype(np.float64)
            here[~fits[:, start : start + self.batch_size]] = np.inf
            order = np.concatenate([order, np.broadcast_to(start + np.arange(here.shape[1]), here.shape)], axis=1)
            nearness = np.concatenate([nearness, here], axis=1)
            best = np.argsort(nearness, axis=1, kind="stable")[:, :n_nearest]
            order, nearness = np.take_along_axis(order, best, axis=1), np.take_along_axis(nearness, best, axis=1)
        return order, np.isfinite(nearness)

    def random_points(self, n_each, generator, reach):
        """Points drawn in the box, (n_samples, n_each, n_features).

        Where it has no bounds: in a cube around the sample, of ``reach`` times the range of the batch in each feature.
        """
        xp = array_namespace(self.x)
        data = flatten(self._judge.others[0])
        spread = xp.max(data, axis=0) - xp.min(data, axis=0)
        if len(self._shape) > 1:  # pixels are alike
            spread = xp.max(spread) * xp.ones_like(spread)
        # Batches of one sample, and features that are the same in all samples, tell by their size.
        size = xp.max(xp.abs(data), axis=0)
        spread = xp.where(spread > 0, spread, xp.where(size > 0, size, 1.0))
        low, high = self.x - reach * spread, self.x + reach * spread
        if self._lower is not None:
            low = xp.where(xp.isfinite(self._lower), self._lower, low)
            high = xp.where(xp.isfinite(self._upper), self._upper, high)
        share = generator.random((self.x.shape[0], n_each, self.x.shape[1]))
        share = xp.asarray(share, dtype=self.x.dtype, device=device(self.x))
        return self.clip(low[:, None, :] + share * (high - low)[:, None, :])


def starting_points(region, *, init, init_size, generator):
    """Adversarial points to start from: ``init``, then clean samples of the batch, nearest first; then random points.

    Parameters
    ----------
    region : Region
    init : array of shape (n_init, n_features) or None
        Points that may be adversarial.
    init_size : int
        Most points that are tried for each sample, of each kind.
    generator : numpy.random.Generator

    Returns
    -------
    start : array of shape (n_samples, n_features)
        The clean sample where nothing was found.
    found : ndarray of bool, shape (n_samples,)
    """
    xp = array_namespace(region.x)
    n_samples = region.x.shape[0]
    sources = []
    if init is not None:
        sources.append((init, np.ones((n_samples, init.shape[0]), dtype=bool)))
    judge = region._judge
    others, said = judge.others
    fits = said != judge.labels[:, None] if judge.targets is None else said == judge.targets[:, None]
    if fits.any():
        sources.append((flatten(others), fits))
    start, found = region.x, np.zeros(n_samples, dtype=bool)
    for data, fits in sources:
        order, fits = region.nearest_of(data, fits, init_size)

        def nearest(part, rows, tried, n_each, data=data, order=order, fits=fits):
            picks = order[rows, tried : tried + n_each]
            points = xp.take(data, xp.asarray(picks.reshape(-1), device=device(data)), axis=0)
            points = xp.reshape(points, (*picks.shape, -1))
            return part.clip(points), fits[rows, tried : tried + n_each]

        start, found = _first_hits(region, nearest, order.shape[1], start, found)

    def drawn(part, rows, tried, n_each):
        # Where there is no box, the cube grows: a boundary may be far away from all of the data.
        reach = 2.0 ** min(tried.bit_length(), 20)
        return part.random_points(n_each, generator, reach), np.ones((int(rows.sum()), n_each), dtype=bool)

    return _first_hits(region, drawn, init_size, start, found)


def _first_hits(region, propose, n_tries, start, found):
    """``start`` with the first adversarial one of the points that are proposed, for samples that have none yet."""
    tried = 0
    while tried < n_tries and not found.all():
        part = region[~found]
        # One at first, which often suffices; then as many as were tried before, so that rounds are few.
        n_each = min(max(tried, 1), n_tries - tried, max(region.batch_size // int((~found).sum()), 1))
        points, fits = propose(part, ~found, tried, n_each)
        asked = fits & (np.cumsum(fits, axis=1) <= part.left[:, None])
        met = part.ask_each(points, asked)
        first = np.zeros(met.shape, dtype=bool)
        first[np.arange(len(met)), met.argmax(axis=1)] = True
        start = array_namespace(start).asarray(start, copy=True)
        new = np.zeros_like(found)
        new[~found] = met.any(axis=1)
        start = scatter(start, region.mask(new), points[part.mask(met & first)])
        found = found | new
        tried += n_each
    return start, found


def to_boundary(end, region, *, tolerance):
    """Adversarial points near the boundary, on the way from the clean samples to ``end``, by bisection.

    Parameters
    ----------
    end : array of shape (n_samples, n_features)
        Adversarial points.
    region : Region
    tolerance : float
        Largest distance of the result from a point that is not adversarial, as a share of its own distance from the
        clean sample.

    Returns
    -------
    x : array of shape (n_samples, n_features)
    """
    xp = array_namespace(end)
    tolerance = max(tolerance, 4 * float(xp.finfo(end.dtype).eps))  # nearer points cannot be told apart
    x = xp.asarray(end, copy=True)
    low, high = np.zeros(x.shape[0]), np.ones(x.shape[0])
    # As many halvings as the tolerance takes if the boundary is at the far end, and some more if it is nearer.
    for _ in range(math.ceil(-math.log2(tolerance)) + 12):
        rows = (high - low > tolerance * high) & (region.left > 0)
        if not rows.any():
            break
        part = region[rows]
        middle = (low[rows] + high[rows]) / 2
        points = part.toward(end[region.mask(rows)], middle)
        met = part.ask(points)
        hit = np.zeros_like(rows)
        hit[rows] = met
        high[hit], low[rows & ~hit] = middle[met], middle[~met]
        x = scatter(x, region.mask(hit), points[part.mask(met)])
    return x
