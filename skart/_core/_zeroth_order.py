"""The search of ZOO (Chen et al., 2017): Carlini and Wagner's objective, by differences along few coordinates.

Of every sample a handful of coordinates is probed a little above and below in each step, all in one batch. Where the
model's scores are smooth, the differences drive a step of Adam or Newton. Scores that are a staircase, as those of
trees, answer nothing to small differences and something else to large ones: there the probes are of random sizes, and
the point goes to the best of them, or to where all that help go together, if the objective falls.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter

from skart._core._arrays import array_namespace, device, scatter, to_numpy
from skart._core._coordinates import Adam, Newton, choose
from skart._core._penalty import Constant

__all__ = ["Plan", "zeroth_order"]

# Differences that tell a staircase, and the sizes of probes there, in units of the features.
TINY, SMALLEST, LARGEST = 1e-3, 3e-3, 0.5
# Scores that say "impossible" are taken for this much below the best: the logarithm of what a tree has never seen.
DEEPEST = 12.0


class Plan(NamedTuple):
    """Parameters of the search; those of :class:`skart.attacks.ZooAttack` but for ``units``."""

    grids: list
    units: np.ndarray  # of the features, (n_channels, height, width)
    optimizer: str
    learning_rate: float | None
    difference: float
    n_coordinates: int
    max_iter: int
    binary_search_steps: int
    initial_const: float | None
    confidence: float
    importance: bool
    abort_early: bool


class Scene:
    """Samples in search, the box they may go to, and the judge who counts their queries."""

    def __init__(self, x, judge, ball, confidence, batch_size):
        self.x, self.judge, self.ball = x, judge, ball
        self._confidence, self._batch_size = confidence, batch_size
        self.deepest = np.full(x.shape[0], np.inf)

    def __len__(self):
        return self.x.shape[0]

    def __getitem__(self, rows):
        """The samples that ``rows`` (boolean) marks."""
        where = array_namespace(self.x).asarray(rows, device=device(self.x))
        part = Scene(self.x[where], self.judge[rows], self.ball[where], self._confidence, self._batch_size)
        part.deepest = self.deepest[rows]
        return part

    def box(self, grid):
        """How far each coordinate may go down and up: two arrays that broadcast to (n_samples, n_coordinates)."""
        if self.ball.lower is None or not grid.exact:
            return -np.inf, np.inf
        ends = (self.ball.lower - self.x, self.ball.upper - self.x)
        return tuple(to_numpy(grid.layout.planes(end)).reshape(len(self), -1).astype(np.float64) for end in ends)

    def point(self, grid, delta):
        """Samples with the perturbations ``delta``."""
        return self._clipped(self.x + grid.beside(self.x, grid.planes(delta)), 1)

    def missing(self, x, n_each=1):
        """What the lead lacks at ``x``, of which each sample has ``n_each``, side by side; one query each."""
        of = np.repeat(np.arange(len(self)), n_each)
        scores = to_numpy(self.judge.scores(x, of)).astype(np.float64)
        floor = scores.max(axis=1) - self.deepest[of]
        missing = self._confidence - self.judge.lead(np.maximum(scores, floor[:, None]), of)
        # What is beside the goal by rounding alone has not reached it.
        return missing + 2e-6 * np.abs(scores.max(axis=1)) + 1e-30

    def probes(self, grid, x, index, below, above):
        """What the lead lacks ``below`` and ``above`` in each of the coordinates ``index``: (n, n_chosen, 2)."""
        xp = array_namespace(x)
        n_samples, n_chosen = index.shape
        n_each = max(self._batch_size // (2 * n_samples), 1)
        missing = []
        for start in range(0, n_chosen, n_each):
            part = slice(start, start + n_each)
            shift = np.stack([-below[:, part], above[:, part]], axis=2)
            n_now = shift.shape[1]
            directions = xp.repeat(grid.directions(index[:, part].ravel(), x), 2, axis=0)
            shift = xp.asarray(shift.reshape(-1, *(1,) * (x.ndim - 1)), dtype=x.dtype, device=device(x))
            probes = self._clipped(xp.repeat(x, 2 * n_now, axis=0) + shift * directions, 2 * n_now)
            missing.append(self.missing(probes, 2 * n_now).reshape(n_samples, n_now, 2))
        return np.concatenate(missing, axis=1)

    def _clipped(self, x, n_each):
        if self.ball.lower is None:
            return x
        xp, ball = array_namespace(x), self.ball.repeat(n_each)
        return xp.minimum(xp.maximum(x, ball.lower), ball.upper)


class Least:
    """The points that lack least, for samples whose goal is never reached."""

    def __init__(self, x, missing):
        self.x = array_namespace(x).asarray(x, copy=True)
        self._missing = missing.copy()

    def keep(self, place, x, missing):
        """Take in the points ``x`` of the samples ``place``."""
        better = missing < self._missing[place]
        if better.any():
            xp = array_namespace(x)
            marks = np.zeros(len(self._missing), dtype=bool)
            marks[place[better]] = True
            where = {"device": device(x)}
            scatter(self.x, xp.asarray(marks, **where), x[xp.asarray(better, **where)])
            self._missing[place[better]] = missing[better]


def zeroth_order(x, judge, ball, *, plan, batch_size, generator):
    """Look for near adversarial samples; what is found is in the judge's book.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
        Clean samples.
    judge : Judge
    ball : Ball
        Without a radius: the box and the mask.
    plan : Plan
    batch_size : int
        Probes that are made at once.
    generator : numpy.random.Generator

    Returns
    -------
    x_last : array of shape (n_samples, ...)
        The points that lacked least.
    """
    scene, place = Scene(x, judge, ball, plan.confidence, batch_size), np.arange(x.shape[0])
    affordable = judge.left > 0
    if not affordable.all():
        scene, place = scene[affordable], place[affordable]
    least = Least(x, np.full(x.shape[0], np.inf))
    if not len(place):
        return least.x
    missing = scene.missing(scene.x)
    least.keep(place, scene.x, missing)
    free = _free(scene, plan.grids[0])
    n_chosen = min(plan.n_coordinates, np.count_nonzero(free))
    affordable = scene.judge.left >= 2 * n_chosen
    if n_chosen == 0 or not affordable.any():
        return least.x
    scene, place, missing = scene[affordable], place[affordable], missing[affordable]
    smooth, constant = _first_look(scene, missing, free, n_chosen, plan, generator)
    scene.deepest = np.where(smooth, np.inf, DEEPEST)
    if not smooth.all():
        affordable = scene.judge.left > 0
        scene, place, smooth, constant = scene[affordable], place[affordable], smooth[affordable], constant[affordable]
        if not len(place):
            return least.x
        missing = scene.missing(scene.x)
    constant = Constant(constant, 10.0)
    for _ in range(plan.binary_search_steps):
        reached = _descend(scene, missing, constant.value, smooth, place, least, plan=plan, generator=generator)
        constant.update(reached)
        if not np.any(scene.judge.left > 2 * n_chosen):
            break
    return least.x


def _first_look(scene, missing, free, n_chosen, plan, generator):
    """Which samples meet smooth scores, and a weight of the penalty for each of them."""
    grid = plan.grids[0]
    units = _units(grid, plan.units)
    index = choose(np.broadcast_to(free.astype(float), (len(scene), len(free))), n_chosen, generator)
    low, high = scene.box(grid)
    sizes = TINY * units[index]
    below, above = _reach(sizes, np.zeros_like(sizes), low, high, index)
    shift = np.where(above >= below, above, -below)
    pair = scene.probes(grid, scene.x, index, -shift / 3, shift)  # a third of the way, and all of it
    near, far = np.moveaxis(np.abs(pair - missing[:, None, None]), 2, 0)
    telling = (far > 0) & (far >= 0.05 * far.max(axis=1, keepdims=True))
    # A third of the way brings a third of the change, but for rounding; on a staircase all of it, or nothing.
    even = telling & (far > 2 * near) & (far < 4.5 * near)
    smooth = even.sum(axis=1) > 0.5 * telling.sum(axis=1)
    slope = (pair[:, :, 1] - missing[:, None]) / np.where(shift != 0, shift, 1.0)
    steepness = np.sum(slope**2 / grid.lengths[index], axis=1) * (np.count_nonzero(free) / n_chosen)
    # Half as much again as the weight from which on the goal is worth its price, were the scores linear.
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = 3 * missing / steepness
    # On a staircase: as if all the way took a step of a tenth of the range in each of ten features.
    rough = 0.1 * np.mean(units[free] ** 2 * grid.lengths[free]) / np.minimum(np.maximum(missing, 1e-3), DEEPEST)
    value = np.where(smooth & (linear > 0) & np.isfinite(linear), linear, rough)
    return smooth, value if plan.initial_const is None else np.full_like(value, plan.initial_const)


def _descend(scene, missing, constant, smooth, place, least, *, plan, generator):
    """One descent with a weight for each sample: which of them reached the goal."""
    n_samples, reached = len(scene), missing <= 0
    rows = np.arange(n_samples)  # those still searched
    planes = None
    lowest = constant * np.maximum(missing, 0)  # value of the objective
    missing = missing.copy()
    for number, grid in enumerate(plan.grids):
        units, lengths, free = _units(grid, plan.units), grid.lengths, _free(scene, grid)
        n_chosen = min(plan.n_coordinates, np.count_nonzero(free))
        delta = np.zeros((len(scene), grid.n_coordinates)) if planes is None else grid.nearest(planes)
        n_steps = len(range(number, plan.max_iter, len(plan.grids)))
        n_visits = n_steps * n_chosen / max(np.count_nonzero(free), 1)
        if plan.optimizer == "newton":
            stepper = Newton(delta.shape, plan.learning_rate or 0.3, units)
        else:
            stepper = Adam(delta.shape, plan.learning_rate or np.clip(1 / max(n_visits, 1e-9), 0.02, 0.2), units)
        window = max(n_steps // 10, 5)
        before = np.full(len(scene), np.inf)
        low, high = scene.box(grid)
        x = scene.point(grid, delta)
        for step in range(n_steps):
            going = scene.judge.left > 2 * n_chosen
            if plan.abort_early and step and step % window == 0:
                going &= ~(lowest >= before * (1 - 1e-4))
                before = lowest.copy()
            if not going.all():
                if not going.any():
                    return reached
                scene, rows, smooth, constant, missing, lowest, before = (
                    part[going] for part in (scene, rows, smooth, constant, missing, lowest, before)
                )
                delta, x = delta[going], x[array_namespace(x).asarray(going, device=device(x))]
                stepper.take(going)
                low, high = scene.box(grid)
            index = choose(_weights(delta, units, free, grid, plan.importance), n_chosen, generator)
            here = np.take_along_axis(delta, index, axis=1)
            sizes = _sizes(here, units[index], smooth, plan.difference, generator)
            below, above = _reach(sizes, here, low, high, index)
            pair = scene.probes(grid, x, index, below, above)
            reached[rows] |= (pair <= 0).any(axis=(1, 2))
            penalty, penalties = np.maximum(missing, 0), np.maximum(pair, 0)
            pull = 2 * np.take_along_axis(grid.gather(grid.planes(delta)), index, axis=1)  # of the size
            # The size is quadratic in a coordinate, and known; only the penalty has to be asked about.
            change = np.stack([-below, above], axis=2)
            gains = constant[:, None, None] * (penalty[:, None, None] - penalties)
            gains -= pull[:, :, None] * change + lengths[index][:, :, None] * change**2
            grad, curvature = _derivatives(penalty, penalties, below, above)
            grad, curvature = constant[:, None] * grad + pull, constant[:, None] * curvature + 2 * lengths[index]
            steps = stepper.step(index, grad, curvature)
            steps = np.where(smooth[:, None], steps, _together(gains, change))
            ahead = delta.copy()
            np.put_along_axis(ahead, index, here + steps, axis=1)
            ahead = np.clip(ahead, low, high)
            x_ahead = scene.point(grid, ahead)
            missing_ahead = scene.missing(x_ahead)
            reached[rows] |= missing_ahead <= 0
            objective = _squared(grid.planes(delta)) + constant * penalty
            objective_ahead = _squared(grid.planes(ahead)) + constant * np.maximum(missing_ahead, 0)
            # On a staircase, on to the best that was seen, if anything was better.
            best = gains.reshape(len(gains), -1).argmax(axis=1)
            gain = np.take_along_axis(gains.reshape(len(gains), -1), best[:, None], axis=1)[:, 0]
            single = ~smooth & (gain > np.maximum(objective - objective_ahead, 0))
            both = smooth | (~single & (objective_ahead < objective))
            which, side = best // 2, best % 2
            alone = delta.copy()
            each = np.arange(len(alone))
            alone[each, index[each, which]] += change[each, which, side]
            moved = single | both
            delta = np.where(single[:, None], alone, np.where(both[:, None], ahead, delta))
            missing = np.where(single, pair[each, which, side], np.where(both, missing_ahead, missing))
            lowest = np.minimum(lowest, np.where(single, objective - gain, objective_ahead))
            if single.any() or not both.all():
                x_ahead = scene.point(grid, delta)
            x = x_ahead
            least.keep(place[rows[moved]], x[array_namespace(x).asarray(moved, device=device(x))], missing[moved])
        planes = grid.planes(delta)
        if number + 1 < len(plan.grids):
            following = plan.grids[number + 1]
            going = scene.judge.left > 0
            if not going.any():
                return reached
            scene, rows, smooth, constant, lowest = (part[going] for part in (scene, rows, smooth, constant, lowest))
            planes = planes[going]
            missing = scene.missing(scene.point(following, np.clip(following.nearest(planes), *scene.box(following))))
    return reached


def _derivatives(penalty, penalties, below, above):
    """First and second derivatives from values ``below`` and ``above``, which need not be as far."""
    span = below + above
    down = (penalty[:, None] - penalties[:, :, 0]) / np.where(below > 0, below, 1.0)
    up = (penalties[:, :, 1] - penalty[:, None]) / np.where(above > 0, above, 1.0)
    two_sided = (below > 0) & (above > 0)
    first = (penalties[:, :, 1] - penalties[:, :, 0]) / np.where(span > 0, span, 1.0)
    return first, np.where(two_sided, 2 * (up - down) / np.where(span > 0, span, 1.0), 0.0)


def _together(gains, change):
    """The better way of each coordinate where that is of use, and a part of them at that: not all add up."""
    way = gains.argmax(axis=2)[:, :, None]
    gain = np.take_along_axis(gains, way, axis=2)[:, :, 0]
    good = gain >= 0.5 * np.maximum(gain.max(axis=1, keepdims=True), 1e-300)
    return np.where(good, np.take_along_axis(change, way, axis=2)[:, :, 0], 0.0)


def _sizes(here, units, smooth, difference, generator):
    """Sizes of the differences (n_samples, n_chosen)."""
    random = units * np.exp(generator.uniform(np.log(SMALLEST), np.log(LARGEST), size=here.shape))
    # One of the two probes may take the coordinate back to where it was.
    random = np.where((here != 0) & (generator.random(here.shape) < 0.5), np.abs(here), random)
    return np.where(smooth[:, None], difference * units, random)


def _reach(sizes, here, low, high, index):
    """``sizes`` down and up, as far as the box lets them."""
    if np.ndim(low) == 0:
        return sizes, sizes
    low, high = np.take_along_axis(low, index, axis=1), np.take_along_axis(high, index, axis=1)
    return np.clip(here - low, 0, sizes), np.clip(high - here, 0, sizes)


def _weights(delta, units, free, grid, importance):
    """How probable coordinates are: with ``importance`` the more, the more has changed there and beside it."""
    if not importance or np.count_nonzero(free) == free.size and not delta.any():
        return np.broadcast_to(free.astype(float), delta.shape)
    size = (np.abs(delta) / units).reshape(-1, *grid.shape)
    size = maximum_filter(size, size=(1, 1, *(3 if n > 1 and grid.shape[1] > 1 else 1 for n in grid.shape[1:])))
    size = size.reshape(len(delta), -1) * free
    mean = size.sum(axis=1, keepdims=True) / np.count_nonzero(free)
    return np.where(mean > 0, size + 0.3 * mean, 1.0) * free


def _units(grid, units):
    """Units of the coordinates: the mean of those of the features that each of them moves."""
    shares = grid.gather(np.ones((1, *units.shape)))
    return (grid.gather(units[None]) / shares)[0]


def _free(scene, grid):
    """Which coordinates move a feature that may change, in any sample."""
    if scene.ball.lower is None:
        return np.ones(grid.n_coordinates, dtype=bool)
    xp = array_namespace(scene.x)
    wide = xp.broadcast_to(scene.ball.upper > scene.ball.lower, scene.x.shape)
    planes = to_numpy(grid.layout.planes(wide)).any(axis=0).astype(float)
    return grid.gather(planes[None])[0] > 0


def _squared(planes):
    return np.sum(planes**2, axis=(1, 2, 3))
