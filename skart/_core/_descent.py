"""Minimise the squared length of the perturbation plus the weighted penalty, in variables without constraints.

Both methods start at the clean samples, note in ``closest`` every point that they see, and return the samples for
which they saw one that reaches the goal.
"""

from skart._core._arrays import array_namespace, flatten, per_sample, scatter
from skart._core._penalty import squared
from skart._core._spaces import Free, Tanh

__all__ = ["Adam", "by_adam", "by_line_search", "variables"]


class Adam:
    """Steps along the mean of past gradients over the root of the mean of their squares (Kingma and Ba, 2015).

    Parameters
    ----------
    w : array
        What is moved, in place.
    learning_rate : float or array that broadcasts to ``w`` with all of its axes
        Length of the first step in each entry. Lengths fall linearly, towards zero after ``max_iter`` steps.
    max_iter : int
        Number of steps.
    """

    def __init__(self, w, learning_rate, max_iter):
        xp = array_namespace(w)
        self.w = w
        self._mean, self._square = xp.zeros_like(w), xp.zeros_like(w)
        self._learning_rate, self._max_iter = learning_rate, max_iter
        self._k = 0

    def take(self, rows):
        """Go on with the samples that ``rows`` (boolean) marks."""
        self.w, self._mean, self._square = self.w[rows], self._mean[rows], self._square[rows]
        if not isinstance(self._learning_rate, float):
            self._learning_rate = self._learning_rate[rows]

    def step(self, grad):
        """One step against ``grad``, of about unit size, which is spent."""
        xp = array_namespace(grad)
        self._k += 1
        # Weighted sums in place of means: what that leaves out is one factor for all entries.
        self._mean *= 0.9
        self._mean += grad
        self._square *= 0.999
        grad *= grad
        self._square += grad
        length = xp.sqrt(self._square)
        length *= (0.001 / (1 - 0.999**self._k)) ** 0.5
        length += 1e-8
        step = self._mean / length
        step *= self._learning_rate * ((1 - (self._k - 1) / self._max_iter) * 0.1 / (1 - 0.9**self._k))
        self.w -= step


def variables(clean):
    """Variables between the bounds, or without them where some are infinite."""
    xp = array_namespace(clean.x)
    lower, upper = clean.ball.lower, clean.ball.upper
    if lower is not None and bool(xp.all(xp.isfinite(lower) & xp.isfinite(upper))):
        return Tanh(lower, upper)
    return Free(clean.x, lower, upper, _largest(clean.linear_step()))


def by_adam(clean, constant, closest, *, learning_rate, max_iter, abort_early):
    """Descent by :class:`Adam`: ``max_iter`` forward passes, and backward passes for all but the last.

    ``learning_rate=None`` takes a length for each sample by what a linear penalty would need. With ``abort_early`` a
    sample leaves where a tenth of the steps brought it less than one part in ten thousand; not in the first half if it
    has reached the goal, since long steps only go to and fro then.
    """
    xp = array_namespace(clean.x)
    x, penalty, rows = clean.x, clean.penalty, None
    space = variables(clean)
    w = space.start(x)
    grad = space.pull(clean.grad * per_sample(constant, like=x), space.point(w)[1])
    # The whole objective in units of its first gradient, so that nothing hangs on the scale of the model's scores.
    peak = _largest(grad)
    unit = 1 / xp.where(peak > 0, peak, xp.ones_like(peak))
    grad = grad * per_sample(unit, like=x)
    if learning_rate is None:
        # Ten steps of the first length reach everywhere; no longer ones than a sample near the boundary has use for.
        share = _largest(space.share(clean.linear_step()))
        learning_rate = per_sample(10 / max_iter * xp.clip(4 * share, None, 1.0), like=x)
    adam = Adam(w, learning_rate, max_iter)
    found = xp.zeros_like(constant, dtype=xp.bool)
    best = earlier = xp.full_like(constant, xp.inf)
    for k in range(1, max_iter + 1):
        adam.step(grad)
        point, slope = space.point(adam.w)
        delta = point - x
        size = squared(delta)
        missing, pull = penalty(point)
        closest.keep(point, size, missing, rows)
        reached = missing <= 0
        found = found | reached if rows is None else scatter(found, rows, found[rows] | reached)
        if k == max_iter:
            break
        weight = constant * unit
        grad = pull(weight)
        delta *= per_sample(2 * unit, like=x)
        delta += grad
        grad = space.pull(delta, slope)
        if abort_early:
            best = xp.minimum(best, size + constant * xp.clip(missing, 0.0, None))
            if k % max(max_iter // 10, 1) == 0:
                going = (best < 0.9999 * earlier) | ((found if rows is None else found[rows]) & (2 * k < max_iter))
                earlier = best
                if not bool(xp.any(going)):
                    break
                if not bool(xp.all(going)):
                    rows = going if rows is None else scatter(xp.asarray(rows, copy=True), rows, going)
                    adam.take(going)
                    x, penalty, space, grad = x[going], penalty[going], space[going], grad[going]
                    constant, unit, best, earlier = constant[going], unit[going], best[going], earlier[going]
    return found


def by_line_search(clean, constant, closest, *, learning_rate, max_iter, max_halving, max_doubling):
    """Gradient descent with steps that are halved until they lead down, and doubled as long as they lead farther.

    The first step is tried at a length of ``learning_rate`` in its largest entry, later ones at the length of the one
    before. A sample leaves where no step leads down.
    """
    xp = array_namespace(clean.x)
    space = variables(clean)
    w = space.start(clean.x)
    grad = space.pull(clean.grad * per_sample(constant, like=clean.x), space.point(w)[1])
    value = constant * clean.missing
    peak = _largest(grad)
    step = learning_rate / xp.where(peak > 0, peak, xp.ones_like(peak))
    found = xp.zeros_like(constant, dtype=xp.bool)

    def attempt(base, where):
        """Step from ``base``, and stay there where that is better; says where it is, of those ``where`` marks."""
        there = base[where] - per_sample(step[where], like=base) * grad[where]
        point, _ = space[where].point(there)
        size = squared(point - clean.x[where])
        missing, _ = clean.penalty[where](point)
        closest.keep(point, size, missing, where)
        scatter(found, where, found[where] | (missing <= 0))
        reached = size + constant[where] * xp.clip(missing, 0.0, None)
        better = reached < value[where]
        taken = scatter(xp.zeros_like(where), where, better)
        scatter(w, taken, there[better])
        scatter(value, taken, reached[better])
        return taken

    rows = xp.ones_like(found)
    for k in range(max_iter):
        if k > 0:
            point, slope = space[rows].point(w[rows])
            _, pull = clean.penalty[rows](point)
            down = 2 * (point - clean.x[rows]) + pull(constant[rows])
            scatter(grad, rows, space[rows].pull(down, slope))
        base = xp.asarray(w, copy=True)
        moved = growing = attempt(base, rows)
        for _ in range(max_doubling):
            if not bool(xp.any(growing)):
                break
            step = xp.where(growing, 2 * step, step)
            better = attempt(base, growing)
            step = xp.where(growing & ~better, step / 2, step)
            growing = better
        waiting = rows & ~moved
        for _ in range(max_halving):
            if not bool(xp.any(waiting)):
                break
            step = xp.where(waiting, step / 2, step)
            better = attempt(base, waiting)
            moved = moved | better
            waiting = waiting & ~better
        rows = moved
        if not bool(xp.any(rows)):
            break
    return found


def _largest(grad):
    """Largest entry of each sample: (n_samples,)."""
    xp = array_namespace(grad)
    return xp.max(xp.abs(flatten(grad)), axis=1)
