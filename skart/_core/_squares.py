"""Random search in a ball by changes of a few features at once, with scores alone (Andriushchenko et al., 2020).

A candidate differs from the best point in a square of an image, or in a random subset of the features of a row, and
takes its place where the loss is higher. What a change looks like depends on the norm: in the maximum norm a square
goes to one corner of the ball; in the Euclidean norm the length that the square has, and what is left of the radius,
is dealt out anew.
"""

import numpy as np

from skart._core._arrays import any_feature, array_namespace, device, flatten, per_sample, scatter, to_numpy
from skart._core._balls import norm_of
from skart._core._objectives import LOSSES

__all__ = ["Moves", "moves_in", "random_search", "share_of"]

# The article halves the share of the features that change after these parts of its 10 000 steps.
HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10_000
# Changes of a sample that are asked about in one call, at most; and samples with their changes.
MOST_EACH, FEW = 16, 64


def share_of(step, n_steps, p_init):
    """Share of the features that change in a step."""
    return p_init * 0.5 ** np.count_nonzero(step / n_steps > HALVINGS)


def random_search(x, judge, moves, *, loss, p_init, n_steps, generator):
    """One run from a random point of the ball. Samples leave it when they are adversarial, or out of queries.

    Where few samples are left and few changes are kept, several changes of each are asked about in one call, and the
    best of them is kept: a call costs far more than a sample in it, and hardly a query is lost.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
        Clean samples.
    judge : Judge
    moves : Moves
    loss : {"cross_entropy", "margin"}
    p_init : float
        Share of the features that change at first.
    n_steps : int
        Changes that are tried after the start; each of them, and the start, costs one query.
    generator : numpy.random.Generator

    Returns
    -------
    x_best : array of shape (n_samples, ...)
        The points of the highest loss; the clean samples where there were no queries left.
    value : ndarray of shape (n_samples,)
        Their loss.
    """
    xp = array_namespace(x)
    x_best, value = xp.asarray(x, copy=True), np.full(x.shape[0], -np.inf)
    place = np.arange(x.shape[0])  # of the samples that are still searched
    point, point_value = x, value

    def leave(gone):
        marks = np.zeros(len(value), dtype=bool)
        marks[place[gone]] = True
        scatter(x_best, _where(marks, x), point[_where(gone, x)])
        value[place[gone]] = point_value[gone]

    step, n_each, accepted = -1, 1, 1.0
    wide, repeated = moves, 1
    while step < n_steps:
        going = ~np.isfinite(judge.distance) & (judge.left > 0)
        if not going.any():
            break
        if not going.all():
            rows = _where(going, x)
            leave(~going)
            judge, moves, place = judge[going], moves[rows], place[going]
            point, point_value = point[rows], point_value[going]
            repeated = 0
        if step >= 0:
            # As many as bring one that is kept.
            n_each = max(min(int(1.0 / accepted), MOST_EACH, FEW // len(place), n_steps - step, judge.left.min()), 1)
        if n_each != repeated:
            wide, repeated = moves.repeat(n_each), n_each
        if step < 0:
            candidates = moves.start(generator)
        else:
            start = point if n_each == 1 else xp.repeat(point, n_each, axis=0)
            candidates = wide.step(start, share_of(step, n_steps, p_init), generator)
        of = np.repeat(np.arange(len(place)), n_each)
        scores = to_numpy(judge.scores(candidates, of))
        if loss == "margin":
            reached = judge.lead(scores, of)
        else:
            targets = None if judge.targets is None else judge.targets[of]
            reached = LOSSES[loss].function(scores, judge.labels[of], targets).value
        reached = np.where(np.isnan(reached), -np.inf, reached).reshape(len(place), n_each)
        highest = reached.argmax(axis=1)
        highest_value = reached[np.arange(len(place)), highest]
        better = highest_value > point_value if step >= 0 else np.ones(len(place), dtype=bool)
        accepted = 0.7 * accepted + 0.3 * max(np.mean(reached > point_value[:, None]), 1e-3)
        if better.any():
            chosen = candidates
            if n_each > 1:
                chosen = xp.take(candidates, _where(np.arange(len(place)) * n_each + highest, x), axis=0)
            where = _where(better, x)
            point = xp.where(per_sample(where, like=x), chosen, point)
            point_value = np.where(better, highest_value, point_value)
        step += n_each
    leave(np.ones(len(place), dtype=bool))
    return x_best, value


def moves_in(ball, layout=None):
    """The random changes for a ball in the maximum or the Euclidean norm.

    Parameters
    ----------
    ball : Ball
    layout : ImageLayout or None
        How samples are read as images; None for rows whose features stand in no order.
    """
    return (_Corners if ball.norm == np.inf else _Rotations)(ball, layout)


class Moves:
    """Random changes inside a ball; made by :func:`moves_in`."""

    def __init__(self, ball, layout):
        self.ball, self._layout = ball, layout
        self._free = None  # features that may change: booleans in the shape of the samples
        if ball.lower is not None:
            xp = array_namespace(ball.centre)
            self._free = xp.broadcast_to(ball.upper > ball.lower, ball.centre.shape)

    def __getitem__(self, rows):
        """The moves of the samples that ``rows`` (boolean) marks."""
        return type(self)(self.ball[rows], self._layout)

    def repeat(self, n_each):
        """Moves for ``n_each`` copies of each sample, which stand side by side."""
        return self if n_each == 1 else type(self)(self.ball.repeat(n_each), self._layout)

    @property
    def any(self):
        """Whether there is anything to change."""
        return self.ball.radius > 0 and (self._free is None or bool(array_namespace(self._free).any(self._free)))

    def _subset(self, share, generator, fewest):
        """Random features of each sample, among those that may change: boolean, (n_samples, n_features)."""
        centre = flatten(self.ball.centre)
        keys = generator.random(centre.shape)
        n_free = np.full(len(keys), keys.shape[1])
        if self._free is not None:
            free = to_numpy(flatten(self._free))
            keys[~free] = 2.0
            n_free = free.sum(axis=1)
        size = np.clip(np.rint(share * n_free).astype(int), np.minimum(fewest, n_free), n_free)
        last = np.sort(keys, axis=1)[np.arange(len(keys)), np.maximum(size, 1) - 1]
        return (keys <= last[:, None]) & (size > 0)[:, None] & (keys < 2.0)

    def _window(self, share, generator, *, odd=False):
        """A rectangle in each image, as square as the image allows: its first rows and columns, height and width.

        An ``odd`` one is at least three pixels wide and has a pixel in its middle, where the image has room for it.
        """
        layout = self._layout
        side = np.sqrt(share * layout.height * layout.width)
        # What one side of a long image has no room for, the other takes.
        shortest = min(side, layout.height, layout.width)
        longest = side * side / max(shortest, 1.0)
        height, width = (shortest, longest) if layout.height <= layout.width else (longest, shortest)
        height, width = (
            max(round(length), 3) // 2 * 2 + 1 if odd else max(round(length), 1) for length in (height, width)
        )
        height, width = min(height, layout.height), min(width, layout.width)
        n_samples = self.ball.centre.shape[0]
        top = generator.integers(0, layout.height - height + 1, size=n_samples)
        left = generator.integers(0, layout.width - width + 1, size=n_samples)
        return top, left, height, width

    def _inside(self, top, left, height, width):
        """The rectangles as booleans, (n_samples, 1, height, width) of the image."""
        rows, columns = np.arange(self._layout.height), np.arange(self._layout.width)
        rows = (rows >= top[:, None]) & (rows < top[:, None] + height)
        columns = (columns >= left[:, None]) & (columns < left[:, None] + width)
        return (rows[:, :, None] & columns[:, None, :])[:, None, :, :]

    def _planes_to_samples(self, planes):
        """(n_samples, 1 or n_channels, 1 or height, 1 or width) in the shape of the samples."""
        layout, xp = self._layout, array_namespace(planes)
        full = (planes.shape[0], layout.n_channels, layout.height, layout.width)
        return layout.samples(xp.broadcast_to(planes, full))


class _Corners(Moves):
    """Changes in the maximum norm: features go to one end or the other of what they may be."""

    def start(self, generator):
        """Random points: vertical stripes, or any corner."""
        n_samples = self.ball.centre.shape[0]
        if self._layout is None:
            up = generator.random(flatten(self.ball.centre).shape) < 0.5
            return self._ends(self._as_samples(up))
        stripes = (n_samples, self._layout.n_channels, 1, self._layout.width)
        return self._ends(self._planes_to_samples(_where(generator.random(stripes) < 0.5, self.ball.centre)))

    def step(self, x, share, generator):
        """Random changes of ``x``."""
        xp = array_namespace(x)
        if self._layout is None:
            inside = self._as_samples(self._subset(share, generator, 1))
            up = self._as_samples(generator.random(flatten(x).shape) < 0.5)
        else:
            inside = self._planes_to_samples(_where(self._inside(*self._window(share, generator)), x))
            up = generator.random((x.shape[0], self._layout.n_channels, 1, 1)) < 0.5
            up = self._planes_to_samples(_where(up, x))
        changed = xp.where(inside, self._ends(up), x)
        # What changes nothing is a query for nothing, and then the other way does.
        same = ~any_feature(changed != x)
        if bool(xp.any(same)):
            changed = xp.where(per_sample(same, like=x) & inside, self._ends(~up), changed)
        return changed

    def _ends(self, up):
        return array_namespace(up).where(up, self.ball.upper, self.ball.lower)

    def _as_samples(self, flags):
        xp = array_namespace(self.ball.centre)
        return xp.reshape(_where(flags, self.ball.centre), self.ball.centre.shape)


class _Rotations(Moves):
    """Changes in the Euclidean norm: some features get a new direction, and all of the length that there is."""

    def start(self, generator):
        """Random points: tiles, each with a hump and a dip; or any direction."""
        n_samples = self.ball.centre.shape[0]
        if self._layout is None:
            pattern = generator.standard_normal(flatten(self.ball.centre).shape)
            return self._checked(self.ball.farthest(self._reals(pattern)))
        layout = self._layout
        height, width = max(layout.height // 5, 1), max(layout.width // 5, 1)
        tiles = (-(-layout.height // height), -(-layout.width // width))
        signs = generator.choice([-1.0, 1.0], size=(n_samples, layout.n_channels, *tiles))
        transposed = bool(generator.integers(2))
        tiled = np.kron(signs, humps(height, width, transposed))[..., : layout.height, : layout.width]
        return self._checked(self.ball.farthest(self._reals(tiled)))

    def step(self, x, share, generator):
        """Random changes of ``x``."""
        # In units of the radius of each feature, where it has one of its own.
        delta = x - self.ball.centre
        delta = delta if self.ball.scale is None else delta / self.ball.scale
        change = self._turned if self._layout is None else self._moved
        changed = change(delta, share, generator)
        changed = changed if self.ball.scale is None else changed * self.ball.scale
        return self._checked(self.ball.centre + changed)

    def _turned(self, delta, share, generator):
        """Turn the part of each sample in a random subset of features, by small angles and large ones."""
        xp = array_namespace(delta)
        rows = flatten(delta)
        inside = self._subset(share, generator, 2)
        pattern = generator.standard_normal(inside.shape) * inside
        pattern /= np.maximum(np.linalg.norm(pattern, axis=1, keepdims=True), 1e-300)
        pattern *= 10 ** generator.uniform(-1.5, 0.5, size=(len(pattern), 1))
        inside = _where(inside, delta)
        part = xp.where(inside, rows, 0.0)
        length = norm_of(part, 2)
        turned = part / _positive(length)[:, None] + xp.asarray(pattern, dtype=delta.dtype, device=device(delta))
        available = xp.sqrt(length * length + self._unused(rows))
        turned *= (available / _positive(norm_of(turned, 2)))[:, None]
        return xp.reshape(xp.where(inside, turned, rows), delta.shape)

    def _moved(self, delta, share, generator):
        """Move the length that a square has into another one, where a hump and a dip are added."""
        xp, layout = array_namespace(delta), self._layout
        *first, height, width = self._window(share, generator, odd=True)
        second = self._window(share, generator, odd=True)
        pattern = self._pattern(*first, height, width, generator)
        into, out_of = (_where(self._inside(*place), delta) for place in ((*first, height, width), second))
        planes = layout.planes(delta)
        pattern = xp.asarray(pattern, dtype=delta.dtype, device=device(delta))
        if self._free is not None:
            pattern = pattern * xp.astype(layout.planes(self._free), delta.dtype)

        def length(values):  # of each channel
            return xp.sqrt(xp.sum(values * values, axis=(2, 3), keepdims=True))

        pattern = pattern / _positive(length(pattern))
        part = xp.where(into, planes, 0.0)
        moved = part / _positive(length(part)) + pattern
        either = length(xp.where(into | out_of, planes, 0.0))
        unused = per_sample(self._unused(flatten(delta)), like=planes) / layout.n_channels
        moved = moved * (xp.sqrt(either * either + unused) / _positive(length(moved)))
        return layout.samples(xp.where(into, moved, xp.where(out_of, 0.0, planes)))

    def _pattern(self, top, left, height, width, generator):
        """Humps and dips where the squares are, with a sign for each channel."""
        layout, n_samples = self._layout, len(top)
        shapes = np.zeros((2, height + 1, width + 1))  # of the last row and column is what lies outside
        shapes[0, :-1, :-1], shapes[1, :-1, :-1] = humps(height, width), humps(height, width, True)
        rows, columns = np.arange(layout.height) - top[:, None], np.arange(layout.width) - left[:, None]
        rows = np.where((rows < 0) | (rows > height), height, rows)
        columns = np.where((columns < 0) | (columns > width), width, columns)
        which = generator.integers(2, size=n_samples)
        placed = shapes[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        return placed[:, None, :, :] * generator.choice([-1.0, 1.0], size=(n_samples, layout.n_channels, 1, 1))

    def _unused(self, rows):
        xp = array_namespace(rows)
        return xp.clip(self.ball.radius**2 - xp.sum(rows * rows, axis=1), 0.0, None)

    def _reals(self, pattern):
        xp, centre = array_namespace(self.ball.centre), self.ball.centre
        pattern = xp.asarray(pattern, dtype=centre.dtype, device=device(centre))
        return xp.reshape(pattern, centre.shape) if self._layout is None else self._layout.samples(pattern)

    def _checked(self, x):
        return self.ball.enforce(x)


def humps(height, width, transposed=False):
    """A hump beside a dip, (height, width); above one another where ``transposed``."""
    if height > 1 and (transposed or width < 2):
        return humps(width, height).T
    if width < 2:
        return np.ones((height, width))
    half = width // 2
    return np.concatenate([hump(height, half), -hump(height, width - half)], axis=1)


def hump(height, width):
    """A pyramid of squares, steeper the nearer to its top: the k-th square around the middle adds ``k**-2``."""
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    out = np.maximum(rows[:, None], columns[None, :])
    steps = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** 2
    return np.cumsum(steps[::-1])[::-1][out]


def _positive(values):
    """``values``, and one where they are zero."""
    xp = array_namespace(values)
    return xp.where(values > 0, values, xp.ones_like(values))


def _where(flags, x):
    """``flags`` as an array beside ``x``."""
    return array_namespace(x).asarray(flags, device=device(x))
