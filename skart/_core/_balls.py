"""The set an attack may move in: norm x radius x box x mask.

A ball around each clean sample is cut with a box (the range of valid data); a feature that may not change is a box
of width zero. With one radius for each feature the norm is that of the perturbation divided by those radii. All
methods are exact on the intersection of ball and box, not on the ball alone: clipping after a projection would stay
inside, but it gives away radius that another feature could use.

The one-dimensional problems below are "water filling": every feature takes a share that grows with one level until
its room to the box is full, and the level is chosen so that the shares use up the radius.
"""

import copy

import numpy as np

from skart._core._arrays import array_namespace, device, flatten, per_sample, scatter, sign, to_numpy

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
        Box that holds ``centre``, as numbers or as arrays that broadcast to it; rounded to its dtype.
    mask : boolean array of shape (...) or None
        Features that may change.

    Returns
    -------
    Ball
    """
    xp = array_namespace(centre)
    where = {"dtype": centre.dtype, "device": device(centre)}
    free = None if mask is None else xp.asarray(np.asarray(mask, dtype=bool), device=device(centre))
    scale = None
    radius = eps
    if np.ndim(eps) > 0:
        radius = 1.0
        eps = xp.asarray(np.asarray(eps, dtype=np.float64), device=device(centre))
        scale = xp.astype(eps, centre.dtype)
        # Rounded down: a norm in units of the scale is never less than in units of eps.
        scale = xp.where(xp.astype(scale, xp.float64) > eps, xp.nextafter(scale, xp.zeros_like(scale)), scale)
        # A radius of zero fixes its feature, which is what a mask does; so scales are positive everywhere.
        free = scale > 0 if free is None else free & (scale > 0)
        scale = xp.where(scale > 0, scale, 1.0)[None, ...]
    lower = upper = None
    if clip_values is not None:
        lower, upper = (xp.asarray(bound, **where) for bound in clip_values)
    if norm == np.inf:
        below, above = _interval(centre, eps)
        lower = below if lower is None else xp.maximum(below, lower)
        upper = above if upper is None else xp.minimum(above, upper)
    elif lower is not None:
        lower, upper = xp.broadcast_to(lower, centre.shape), xp.broadcast_to(upper, centre.shape)
    if free is not None:
        free = free[None, ...]
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
    for away in (-1.0, 1.0):
        end = xp.astype(wide + away * eps, centre.dtype)
        reach = xp.astype(end, xp.float64, copy=True)
        reach -= wide
        outside = reach > eps if away > 0 else reach < -eps
        inner = xp.nextafter(end, centre)
        step = inner - end
        if bool(xp.isfinite(xp.sum(step))):
            # Ends lie outside at random, and there `where` takes five times as long as this sum, which is exact.
            step *= xp.astype(outside, centre.dtype)
            end = end + step
        else:  # an infinite radius, or an end past the largest number
            end = xp.where(outside, inner, end)
        ends.append(end)
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

    def repeat(self, n_each):
        """The ball of ``n_each`` copies of each sample, which stand side by side."""
        part, xp = copy.copy(self), array_namespace(self.centre)
        part.centre = xp.repeat(self.centre, n_each, axis=0)
        if self.lower is not None:
            lower, upper = (xp.broadcast_to(bound, self.centre.shape) for bound in (self.lower, self.upper))
            part.lower, part.upper = xp.repeat(lower, n_each, axis=0), xp.repeat(upper, n_each, axis=0)
        return part

    @property
    def eps(self):
        """Radius, as a float, or as an array of one for each feature (one where that is zero)."""
        return self.radius if self.scale is None else self.radius * to_numpy(self.scale)[0, ...]

    def project(self, x):
        """Nearest point, in the Euclidean norm of ``(x - centre) / scale``; points of the set stay as they are."""
        inside = self._within(x)
        if self.norm == np.inf:
            return inside
        xp = array_namespace(x)
        size = xp.abs(flatten(self._unit(inside - self.centre)))
        outside = norm_of(size, self.norm) > self.radius
        if not bool(xp.any(outside)):
            return inside
        delta = self._unit(x - self.centre)
        # A feature comes no nearer to the box than `inside` is, so that is all the room that it needs.
        room = None if self.lower is None else size
        fill = _fill_proportionally if self.norm == 2 else _fill_above_threshold
        share = fill(xp.abs(flatten(delta)), room, _budget(x, self.radius))
        nearest = self._within(self.centre + self._back(sign(delta) * xp.reshape(share, x.shape)))
        return xp.where(per_sample(outside, like=x), nearest, inside)

    def steepest(self, grad, x, step):
        """Step from ``x`` that raises a function with gradient ``grad`` the most; to be followed by ``project``.

        ``step`` is the length, a number or one number for each feature. What the box holds back does not count
        towards the length, so that the other features get its part of the step. In the 1-norm a step moves the
        feature of the largest derivative, and on to the next where that one meets the box.
        """
        xp = array_namespace(grad)
        unit, length = 1.0, step
        if np.ndim(step) > 0:
            unit = xp.asarray(np.asarray(step), dtype=grad.dtype, device=device(grad))[None, ...]
            length = 1.0
        length = float(length)  # a NumPy scalar would turn float32 into float64
        if self.norm == np.inf:
            return (length * unit) * sign(grad)
        weighted = grad * unit
        follows = None
        if self.lower is not None:
            can_follow = ((grad > 0) & (x < self.upper)) | ((grad < 0) & (x > self.lower))
            follows = weighted * xp.astype(can_follow, x.dtype)  # `where` takes several times as long
        # Features at the box push against it all the same. `project` would else take from them what the next step
        # must give back, and the search would come to rest short of the optimum.
        if self.norm == 2:
            if follows is None:
                return (length * unit) * _normalised(weighted)
            # A push of one step makes up for all that `project` can take.
            return (length * unit) * xp.clip(_normalised(weighted, by=follows), -1.0, 1.0)
        # Equal moves of the best 1 % of the features do as well on nets (success within one point on a CNN for MNIST),
        # those of the best 5 % and moves in proportion to the gradient far worse (52 and 19 % for 63 %). Only this
        # one, which goes to a vertex of the ball of length `step`, ends at the optimum of a linear model.
        size = xp.abs(flatten(weighted))
        budget = _budget(x, length)
        if follows is None:
            share = _fill_largest_first(size, None, budget)
        else:
            room = xp.where(grad > 0, self.upper - x, x - self.lower)
            room = flatten(room if np.ndim(step) == 0 else room / xp.where(unit > 0, unit, 1.0))
            share = _fill_largest_first(xp.abs(flatten(follows)), room, budget)
            # The larger the derivative, the harder the push: so what `project` takes it takes from the others first.
            last = xp.min(xp.where(share > 0, size, xp.inf), axis=1, keepdims=True)
            top = xp.max(size, axis=1, keepdims=True)
            push = length * (1 + size / xp.where(top > 0, top, 1.0))
            share = xp.where((size >= last) & (share >= room), push, share)
        return unit * (sign(weighted) * xp.reshape(share, x.shape))

    def farthest(self, grad, radius=None):
        """Point of the ball where the linear function with gradient ``grad`` is largest.

        ``radius`` overrides that of the ball (for the maximum norm it must not be larger).
        """
        xp = array_namespace(grad)
        direction = sign(grad)
        if self.norm == np.inf:
            # Twice the radius is past the end of every interval, so that the box decides; an infinite radius, whose
            # product with a zero would be no number, stays finite.
            beyond = self._back(min(2 * self.radius, float(xp.finfo(grad.dtype).max) / 4))
            end = self._within(self.centre + direction * beyond)
            return end if radius is None else _clip(end, *_interval(self.centre, self._back(radius)))
        room = None
        if self.lower is not None:
            room = flatten(self._unit(xp.where(grad > 0, self.upper - self.centre, self.centre - self.lower)))
        budget = _budget(grad, self.radius if radius is None else radius)
        fill = _fill_proportionally if self.norm == 2 else _fill_largest_first
        share = fill(xp.abs(flatten(self._back(grad))), room, budget)
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
            delta = generator.laplace(size=shape)
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
        # A hair less than the radius: for float64 data the products and the sum round as well.
        delta = self._back(delta * per_sample(self.radius * (1 - 1e-14) / xp.where(outside, length, 1.0), like=x))
        rounded = xp.astype(wide + delta, x.dtype)
        too_far = xp.abs(xp.astype(rounded, xp.float64) - wide) > xp.abs(delta)
        rounded = xp.where(too_far, xp.nextafter(rounded, self.centre), rounded)
        return xp.where(per_sample(outside, like=x), rounded, x)

    def contains(self, x):
        """Samples of ``x`` that keep the radius (to one part in a million, in float64), the box and the mask."""
        xp = array_namespace(x)
        inside = xp.ones((x.shape[0],), dtype=xp.bool, device=device(x))
        if self.lower is not None:
            # The least room to either bound; torch takes twice as long for the comparisons themselves.
            inside = xp.min(flatten(xp.minimum(x - self.lower, self.upper - x)), axis=1) >= 0
        if self.norm == np.inf:  # the box is the ball, to the last bit
            return inside
        delta = self._unit(xp.astype(x, xp.float64) - xp.astype(self.centre, xp.float64))
        return inside & (norm_of(delta, self.norm) <= self.radius * (1 + 1e-6))

    def _unit(self, delta):
        return delta if self.scale is None else delta / self.scale

    def _back(self, delta):
        return delta if self.scale is None else delta * self.scale

    def _within(self, x):
        return x if self.lower is None else _clip(x, self.lower, self.upper)


def _clip(x, lower, upper):
    # Four times as fast as array-api-compat's `clip` for NumPy, which handles what is not needed here.
    xp = array_namespace(x)
    return xp.minimum(xp.maximum(x, lower), upper)


def _budget(x, radius):
    """``radius`` for each sample of ``x``: (n_samples,)."""
    return array_namespace(x).full((x.shape[0],), float(radius), dtype=x.dtype, device=device(x))


def _normalised(x, by=None):
    """``x`` with each sample divided by the Euclidean norm of ``by``, itself by default, where that is not zero."""
    xp = array_namespace(x)
    # By the largest entry first: the squares of gradients as small as 1e-30 underflow.
    for norm in (np.inf, 2):
        length = norm_of(x if by is None else by, norm)
        length = per_sample(xp.where(length > 0, length, 1.0), like=x)
        x, by = x / length, None if by is None else by / length
    return x


def _fill_proportionally(size, room, radius):
    """Shares ``min(t * size, room)`` of Euclidean length ``radius``, or all of ``room`` where that is shorter.

    The squared length is piecewise linear and concave in ``t**2``. Newton's method therefore ends on the right piece,
    and from the ``t`` that no bound disturbs it comes from below.
    """
    xp = array_namespace(size)
    if room is None:
        return radius[:, None] * _normalised(size)
    # A feature without room must not set the scale that keeps the others' squares from underflow.
    size = size * xp.astype(room > 0, size.dtype)
    top = norm_of(size, np.inf)
    size = size / xp.where(top > 0, top, 1.0)[:, None]
    square, bound, goal = size * size, room * room, radius * radius
    energy = xp.sum(square, axis=1)
    largest = float(xp.finfo(size.dtype).max)  # an infinite t, times a zero, would be no number
    t2 = xp.clip(goal / xp.where(energy > 0, energy, 1.0), None, largest)
    slack = 16 * xp.finfo(size.dtype).eps * goal
    for _ in range(size.shape[1]):  # every pass fills a feature at least; few are needed
        reach = t2[:, None] * square
        lack = goal - xp.sum(xp.minimum(reach, bound), axis=1)
        energy = xp.sum(square * xp.astype(reach < bound, size.dtype), axis=1)
        open_ = (lack > slack) & (energy > 0)
        if not bool(xp.any(open_)):
            break
        t2 = t2 + xp.where(open_, lack, 0.0) / xp.where(open_, energy, 1.0)
        t2 = xp.clip(t2, None, largest)
    return xp.minimum(xp.sqrt(t2)[:, None] * size, room)


def _fill_above_threshold(size, room, radius):
    """Shares ``min(max(size - threshold, 0), room)`` that sum to at most ``radius``, with the least threshold >= 0.

    Newton's method, from a threshold of zero; bisection takes over where full features make a step leave the bracket.
    """
    xp = array_namespace(size)
    # The level is how far the threshold lies below the largest: so a radius that is small beside the sizes keeps its
    # precision, since differences of near numbers are exact.
    level = norm_of(size, np.inf)
    depth = level[:, None] - size
    low, high = xp.zeros_like(level), level
    # At the root the excess is zero in exact arithmetic only; what rounding leaves, `Ball.enforce` takes away.
    slack = 64 * xp.finfo(size.dtype).eps * radius
    open_ = None
    for _ in range(100):
        share = xp.maximum(level[:, None] - depth, xp.zeros_like(size))
        growing = share > 0
        if room is not None:
            growing = growing & (share < room)
            share = xp.minimum(share, room)
        excess = xp.sum(share, axis=1) - radius
        open_ = excess > slack if open_ is None else open_ & (xp.abs(excess) > slack)
        if not bool(xp.any(open_)):
            break
        low, high = xp.where(excess < 0, level, low), xp.where(excess > 0, level, high)
        slope = xp.sum(xp.astype(growing, size.dtype), axis=1)
        newton = level - excess / xp.where(slope > 0, slope, 1.0)
        sane = (slope > 0) & (newton > low) & (newton < high)
        level = xp.where(open_, xp.where(sane, newton, (low + high) / 2), level)
    return share


def _fill_largest_first(size, room, radius, n_picks=3):
    """Shares that give all of ``radius`` to the largest ``size``, and on to the next where ``room`` is used up."""
    xp = array_namespace(size)
    if room is not None:
        # A feature without room must not be the largest, nor one without derivative take a share.
        size = size * xp.astype(room > 0, size.dtype)
        if n_picks == 0:
            return _fill_in_order(size, room, radius)
    top = xp.argmax(size, axis=1, keepdims=True)
    part = radius[:, None] if room is None else xp.minimum(radius[:, None], xp.take_along_axis(room, top, axis=1))
    part = xp.where(xp.take_along_axis(size, top, axis=1) > 0, part, 0.0)
    first = xp.arange(size.shape[1], device=device(size))[None, :] == top
    share = xp.where(first, part, 0.0)
    left = radius - part[:, 0]
    rows = (left > 0) & (part[:, 0] > 0)
    if not bool(xp.any(rows)):
        return share
    # A sort costs as much as dozens of picks, and in most samples a step is used up by the first.
    rest = _fill_largest_first(xp.where(first, 0.0, size)[rows], room[rows], left[rows], n_picks - 1)
    return scatter(share, rows, share[rows] + rest)


def _fill_in_order(size, room, radius):
    xp = array_namespace(size)
    # No room is larger than what is left: infinite room would spoil the running sum.
    room = xp.minimum(room, radius[:, None]) * xp.astype(size > 0, size.dtype)
    order = xp.argsort(size, axis=1, descending=True, stable=False)
    ranked = xp.take_along_axis(room, order, axis=1)
    before = xp.cumulative_sum(ranked, axis=1) - ranked
    # Features before the last one that gets a part are full; those that tie with it share what is left.
    last = xp.sum(xp.astype(before < radius[:, None], order.dtype), axis=1, keepdims=True) - 1
    threshold = xp.take_along_axis(size, xp.take_along_axis(order, last, axis=1), axis=1)
    share = room * xp.astype(size > threshold, size.dtype)
    tied = room * xp.astype(size == threshold, size.dtype)
    left = xp.clip(radius - xp.sum(share, axis=1), 0.0, None)
    total = xp.sum(tied, axis=1)
    fraction = xp.minimum(left / xp.where(total > 0, total, 1.0), xp.ones_like(left))
    return share + fraction[:, None] * tied
