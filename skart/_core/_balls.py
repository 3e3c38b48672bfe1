"""The set an attack may move in: norm x radius x box x mask.

A ball around each clean sample is cut with a box (the range of valid data); a feature that may not change is a box
of width zero. With one radius for each feature the norm is that of the perturbation divided by those radii. All
methods are exact on the intersection of ball and box, not on the ball alone: clipping after a projection would stay
inside, but it gives away radius that another feature could use.

Both one-dimensional problems below are "water filling": every feature takes a share that grows with one multiplier
until its room to the box is full, and the multiplier is chosen so that the shares use up the radius.
"""

import copy

import numpy as np

from skart._core._arrays import array_namespace, device, flatten, per_sample, to_numpy

__all__ = ["NORMS", "Ball", "make_ball", "norm_of"]

NORMS = (1, 2, np.inf)


def norm_of(x, norm):
    """Norm of each sample of ``x``: (n_samples,)."""
    xp = array_namespace(x)
    rows = xp.abs(flatten(x))
    if norm == 1:
        return xp.sum(rows, axis=1)
    if norm == 2:
        return xp.sqrt(xp.sum(rows * rows, axis=1))
    return xp.max(rows, axis=1)


def make_ball(centre, *, norm, eps, clip_values=None, mask=None):
    """Ball of radius ``eps`` around each sample of ``centre``, cut with a box and a mask.

    Parameters
    ----------
    centre : array of shape (n_samples, ...)
        Clean samples.
    norm : {1, 2, np.inf}
        Norm of the perturbation.
    eps : float or array of shape (...)
        Radius; an array gives one radius for each feature.
    clip_values : (low, high) or None
        Box, as numbers or as arrays of shape (...).
    mask : boolean array of shape (...) or None
        Features that may change.

    Returns
    -------
    Ball
    """
    xp = array_namespace(centre)
    where = {"dtype": centre.dtype, "device": device(centre)}
    free = None if mask is None else np.asarray(mask, dtype=bool)
    scale = None
    radius = eps
    if np.ndim(eps) > 0:
        eps = np.asarray(eps, dtype=np.float64)
        # A radius of zero fixes its feature, which is what a mask does; so scales are positive everywhere.
        free = eps > 0 if free is None else free & (eps > 0)
        scale = xp.asarray(np.where(eps > 0, eps, 1.0), **where)[None, ...]
        radius = 1.0
    lower = upper = None
    if clip_values is not None:
        lower, upper = (xp.asarray(bound, **where) for bound in clip_values)
    if norm == np.inf:
        below, above = _interval(centre, eps if scale is None else np.where(eps > 0, eps, 0.0))
        lower = below if lower is None else xp.maximum(below, lower)
        upper = above if upper is None else xp.minimum(above, upper)
    elif lower is not None:
        lower, upper = xp.broadcast_to(lower, centre.shape), xp.broadcast_to(upper, centre.shape)
    if free is not None:
        free = xp.asarray(free, device=device(centre))[None, ...]
        lower = xp.where(free, -xp.inf if lower is None else lower, centre)
        upper = xp.where(free, xp.inf if upper is None else upper, centre)
    return Ball(centre, norm, float(radius), lower, upper, scale)


def _interval(centre, eps):
    """Largest interval of representable numbers within ``eps`` of ``centre``.

    ``centre + eps`` is rounded to nearest, so it may lie outside; such ends are moved one number inwards.
    """
    xp = array_namespace(centre)
    eps = xp.asarray(eps, dtype=xp.float64, device=device(centre))
    wide = xp.astype(centre, xp.float64)
    ends = []
    for sign in (-1.0, 1.0):
        end = xp.astype(wide + sign * eps, centre.dtype)
        outside = xp.abs(xp.astype(end, xp.float64) - wide) > eps
        # Stepping every end and choosing afterwards costs a pass that most radii and data do not need.
        ends.append(xp.where(outside, xp.nextafter(end, centre), end) if bool(xp.any(outside)) else end)
    return ends


class Ball:
    """Points within ``radius`` of ``centre`` that lie between ``lower`` and ``upper``; made by :func:`make_ball`.

    Parameters
    ----------
    centre : array of shape (n_samples, ...)
    norm : {1, 2, np.inf}
    radius : float
        Radius of the ball in the norm of ``(x - centre) / scale``.
    lower, upper : arrays that broadcast to ``centre``, or None
        Box; it holds ``centre``. For the maximum norm the ball is part of the box.
    scale : array of shape (1, ...) or None
        Positive unit of each feature.
    """

    def __init__(self, centre, norm, radius, lower, upper, scale):
        self.centre = centre
        self.norm = norm
        self.radius = radius
        self.lower = lower
        self.upper = upper
        self.scale = scale

    def __getitem__(self, rows):
        """The ball of the samples that ``rows`` (boolean) marks."""
        part = copy.copy(self)
        part.centre = self.centre[rows]
        if self.lower is not None:
            part.lower, part.upper = self.lower[rows], self.upper[rows]
        return part

    def project(self, x):
        """Nearest point, in the Euclidean norm of ``(x - centre) / scale``."""
        xp = array_namespace(x)
        if self.norm == np.inf:
            return xp.clip(x, self.lower, self.upper)
        delta = self._unit(x - self.centre)
        size = flatten(xp.abs(delta))
        room = self._room(delta)
        radius = xp.full((x.shape[0],), self.radius, dtype=x.dtype, device=device(x))
        if self.norm == 2:
            share = _fill_proportionally(size, room, radius, limit=1.0)
        else:
            share = _fill_above_threshold(size, room, radius)
        return self._within(self.centre + self._back(xp.sign(delta) * xp.reshape(share, x.shape)))

    def steepest(self, grad, x, step):
        """Step of length ``step`` from ``x`` that raises a function with gradient ``grad`` the most.

        ``step`` is a number or one number for each feature. In the 1-norm a step moves the feature of the
        largest derivative, and on to the next where that one meets the box.
        """
        xp = array_namespace(grad)
        if self.norm == np.inf:
            return step * xp.sign(grad)
        if np.ndim(step) > 0:
            step = xp.asarray(step, dtype=grad.dtype, device=device(grad))[None, ...]
        if self.norm == 2:
            weighted = grad * step
            if self.lower is not None:
                # A feature at its bound cannot follow; the others get its part of the step.
                stuck = ((grad > 0) & (x >= self.upper)) | ((grad < 0) & (x <= self.lower))
                weighted = xp.where(stuck, 0.0, weighted)
            length = norm_of(weighted, 2)
            return step * weighted / per_sample(xp.where(length > 0, length, 1.0), like=grad)
        direction = xp.sign(grad)
        room = None
        if self.lower is not None:
            room = flatten(xp.where(grad > 0, self.upper - x, x - self.lower) / step)
        budget = xp.ones((x.shape[0],), dtype=x.dtype, device=device(x))
        share = _fill_largest_first(flatten(xp.abs(grad * step)), room, budget)
        return step * direction * xp.reshape(share, x.shape)

    def farthest(self, grad, radius=None):
        """Point of the ball where the linear function with gradient ``grad`` is largest.

        ``radius`` overrides that of the ball (for the maximum norm it must not be larger).
        """
        xp = array_namespace(grad)
        direction = xp.sign(grad)
        if self.norm == np.inf:
            end = xp.where(grad > 0, self.upper, xp.where(grad < 0, self.lower, self.centre))
            if radius is None:
                return end
            inner = Ball(self.centre, np.inf, radius, *_interval(self.centre, self._back(radius)), self.scale)
            return xp.clip(end, inner.lower, inner.upper)
        weighted = self._back(grad)
        room = self._room(direction)
        budget = xp.full(
            (grad.shape[0],), self.radius if radius is None else radius, dtype=grad.dtype, device=device(grad)
        )
        fill = _fill_proportionally if self.norm == 2 else _fill_largest_first
        share = fill(flatten(xp.abs(weighted)), room, budget)
        return self._within(self.centre + self._back(direction * xp.reshape(share, grad.shape)))

    def sample(self, generator):
        """One random point for each sample; uniform in the ball, then clipped to the box.

        For the maximum norm it is uniform in the intersection. Numbers are drawn by NumPy, so that they are the
        same in every namespace.
        """
        xp = array_namespace(self.centre)
        n_samples = self.centre.shape[0]
        shape = (n_samples, int(np.prod(self.centre.shape[1:])))

        def convert(values):
            return xp.asarray(values, dtype=self.centre.dtype, device=device(self.centre))

        if self.norm == np.inf:
            share = xp.reshape(convert(generator.random(shape)), self.centre.shape)
            return self._within(self.lower + share * (self.upper - self.lower))
        if self.norm == 2:
            delta = generator.standard_normal(shape)
        else:
            delta = generator.standard_exponential(shape) * generator.choice([-1.0, 1.0], size=shape)
        n_free = np.full((n_samples, 1), shape[1])
        if self.lower is not None:
            free = to_numpy(flatten(xp.broadcast_to(self.upper > self.lower, self.centre.shape)))
            delta = delta * free
            n_free = free.sum(axis=1, keepdims=True)
        length = np.linalg.norm(delta, ord=self.norm, axis=1, keepdims=True)
        depth = generator.random((n_samples, 1)) ** (1.0 / np.maximum(n_free, 1))
        delta *= self.radius * depth / np.where(length > 0, length, 1.0)
        return self._within(self.centre + self._back(xp.reshape(convert(delta), self.centre.shape)))

    def distance(self, x):
        """Norm of ``x - centre`` in the units of the data, in float64: (n_samples,), a NumPy array."""
        return norm_of(to_numpy(x).astype(np.float64) - to_numpy(self.centre).astype(np.float64), self.norm)

    def enforce(self, x):
        """``x``, with samples that rounding has carried out of the set brought back in.

        The perturbation is measured in float64 and shortened to the radius; each feature is then rounded towards
        the clean sample, which cannot lengthen it.
        """
        xp = array_namespace(x)
        x = self._within(x)
        if self.norm == np.inf:
            return x
        wide = xp.astype(self.centre, xp.float64)
        delta = self._unit(xp.astype(x, xp.float64) - wide)
        length = norm_of(delta, self.norm)
        outside = length > self.radius
        if not bool(xp.any(outside)):
            return x
        delta = delta * per_sample(self.radius / xp.where(outside, length, self.radius), like=x)
        target = wide + self._back(delta)
        rounded = xp.astype(target, x.dtype)
        too_far = xp.abs(xp.astype(rounded, xp.float64) - wide) > xp.abs(target - wide)
        rounded = xp.where(too_far, xp.nextafter(rounded, self.centre), rounded)
        return xp.where(per_sample(outside, like=x), rounded, x)

    def contains(self, x):
        """Samples of ``x`` that keep the radius (to one part in a million, in float64), the box and the mask."""
        xp = array_namespace(x)
        inside = xp.ones((x.shape[0],), dtype=xp.bool, device=device(x))
        if self.lower is not None:
            inside = xp.all(flatten((x >= self.lower) & (x <= self.upper)), axis=1)
        if self.norm == np.inf:  # the box is the ball, to the last bit
            return inside
        delta = self._unit(xp.astype(x, xp.float64) - xp.astype(self.centre, xp.float64))
        return inside & (norm_of(delta, self.norm) <= self.radius * (1 + 1e-6))

    def _unit(self, delta):
        return delta if self.scale is None else delta / self.scale

    def _back(self, delta):
        return delta if self.scale is None else delta * self.scale

    def _within(self, x):
        return x if self.lower is None else array_namespace(x).clip(x, self.lower, self.upper)

    def _room(self, direction):
        """Distance from the centre to the box along the signs of ``direction``, as rows in units of scale."""
        if self.lower is None:
            return None
        xp = array_namespace(direction)
        room = xp.where(direction > 0, self.upper - self.centre, self.centre - self.lower)
        return flatten(self._unit(room))


def _fill_proportionally(size, room, radius, limit=None):
    """Shares ``min(t * size, room)`` of Euclidean length ``radius``; ``t`` is at most ``limit``.

    Features fill up one after another as ``t`` grows. Starting from the ``t`` that no bound disturbs, every pass
    takes out the features that are full and solves for ``t`` again; ``t`` only grows, so the passes end.
    """
    xp = array_namespace(size)
    # Sizes relative to the largest: gradients as small as 1e-30 must not underflow when they are squared.
    largest = xp.max(size, axis=1)
    largest = xp.where(largest > 0, largest, 1.0)
    size = size / largest[:, None]
    ceiling = xp.inf if limit is None else limit * largest
    square = size * size
    if room is None:
        length = xp.sqrt(xp.sum(square, axis=1))
        t = xp.minimum(radius / xp.where(length > 0, length, 1.0), ceiling * xp.ones_like(radius))
        return t[:, None] * size
    n_full = -1
    full = xp.zeros_like(size, dtype=xp.bool)
    while True:
        free_energy = xp.sum(xp.where(full, 0.0, square), axis=1)
        used = xp.where(full, room, 0.0)
        left = radius * radius - xp.sum(used * used, axis=1)
        t = xp.sqrt(xp.where(left > 0, left, 0.0) / xp.where(free_energy > 0, free_energy, 1.0))
        t = xp.minimum(t, ceiling * xp.ones_like(t))
        full = full | (t[:, None] * size >= room)
        count = int(xp.sum(xp.astype(full, xp.int64)))
        if count == n_full:
            return xp.where(full, room, t[:, None] * size)
        n_full = count


def _fill_above_threshold(size, room, radius):
    """Shares ``min(max(size - threshold, 0), room)`` that sum to at most ``radius``, with the least threshold >= 0.

    The sum falls piecewise linearly with the threshold: Newton steps end on the right piece, and bisection takes
    over where full features make a step leave the bracket.
    """
    xp = array_namespace(size)
    room = xp.full_like(size, xp.inf) if room is None else room

    def shares(threshold):
        return xp.minimum(xp.clip(size - threshold[:, None], 0.0, None), room)

    threshold = xp.zeros_like(radius)
    low, high = threshold, xp.max(size, axis=1)
    share = shares(threshold)
    excess = xp.sum(share, axis=1) - radius
    # At the root the excess is zero in exact arithmetic only; what rounding leaves, `Ball.enforce` takes away.
    slack = 64 * xp.finfo(size.dtype).eps * radius
    needed = excess > slack
    for _ in range(100):
        open_ = needed & (xp.abs(excess) > slack)
        if not bool(xp.any(open_)):
            break
        low = xp.where(excess > 0, threshold, low)
        high = xp.where(excess < 0, threshold, high)
        slope = xp.sum(xp.astype((share > 0) & (share < room), size.dtype), axis=1)
        newton = threshold + excess / xp.where(slope > 0, slope, 1.0)
        sane = (slope > 0) & (newton > low) & (newton < high)
        threshold = xp.where(open_, xp.where(sane, newton, (low + high) / 2), threshold)
        share = shares(threshold)
        excess = xp.sum(share, axis=1) - radius
    return share


def _fill_largest_first(size, room, radius):
    """Shares that give all of ``radius`` to the largest ``size``, and on to the next where ``room`` is used up."""
    xp = array_namespace(size)
    if room is not None:
        # A feature without room must not be the largest, nor one without derivative take a share.
        size = xp.where(room > 0, size, 0.0)
    top = xp.argmax(size, axis=1)
    first = xp.arange(size.shape[1], device=device(size))[None, :] == top[:, None]
    first = first & (size > 0)
    if room is None:
        return xp.where(first, radius[:, None], 0.0)
    alone = xp.where(first, xp.minimum(room, radius[:, None]), 0.0)
    if not bool(xp.any(radius - xp.sum(alone, axis=1) > 0)):
        return alone
    order = xp.argsort(size, axis=1, descending=True)
    room = xp.where(size > 0, room, 0.0)
    room = xp.minimum(room, radius[:, None])  # infinite room would spoil the running sum
    ranked = xp.take_along_axis(room, order, axis=1)
    before = xp.cumulative_sum(ranked, axis=1) - ranked
    ranked = xp.clip(xp.minimum(ranked, radius[:, None] - before), 0.0, None)
    return xp.take_along_axis(ranked, xp.argsort(order, axis=1), axis=1)
