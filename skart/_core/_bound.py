"""Carlini and Wagner's attack for the maximum norm: descent of the penalty alone, within a bound that shrinks.

Section 6.7 of the paper keeps each feature within a bound around the clean one by the choice of the variables; so
does every search here, for a bound of its own for each sample.
"""

from skart._core._arrays import array_namespace, flatten, per_sample, scatter
from skart._core._balls import norm_of
from skart._core._descent import Adam
from skart._core._penalty import Closest, start
from skart._core._spaces import Tanh

__all__ = ["within_bound", "within_shrinking_bound"]


def within_bound(x, penalty, *, ball, learning_rate, max_iter):
    """Points of the ball, one of the maximum norm with a finite radius, that reach the goal.

    A sample leaves as soon as it does; where none did, the points that came nearest to it.
    """
    clean, x_adv, rows = start(x, penalty, ball)
    if clean is None:
        return x_adv
    closest = Closest(clean.x, clean.missing)
    space = Tanh(clean.ball.lower, clean.ball.upper)
    _descend(clean, space, closest, learning_rate=learning_rate, max_iter=max_iter)
    return scatter(x_adv, rows, closest.x)


def within_shrinking_bound(x, penalty, *, ball, learning_rate, max_iter, n_searches):
    """The nearest points that reach the goal over ``n_searches`` bounds, found by doubling and halving.

    The first bound is what a linear penalty would need, and half as much again. Where the goal was reached before,
    a search goes on from that point, drawn into the smaller bound.
    """
    xp = array_namespace(x)
    clean, x_adv, rows = start(x, penalty, ball)
    if clean is None:
        return x_adv
    closest = Closest(clean.x, clean.missing)
    low, bound = xp.zeros_like(clean.missing), 1.5 * clean.linear_bound()
    for k in range(n_searches):
        lower, upper = (clean.x + sign * per_sample(bound, like=x) for sign in (-1, 1))
        if clean.ball.lower is not None:
            lower, upper = xp.maximum(lower, clean.ball.lower), xp.minimum(upper, clean.ball.upper)
        begin = None
        if k > 0:
            begin = xp.where(per_sample(closest.reached, like=x), closest.x, clean.x)
            begin = xp.minimum(xp.maximum(begin, lower), upper)
        reached = _descend(
            clean, Tanh(lower, upper), closest, begin=begin, learning_rate=learning_rate, max_iter=max_iter
        )
        low = xp.where(reached, low, bound)
        high = xp.where(closest.reached, closest.size, 3 * bound)
        bound = (low + high) / 2
    return scatter(x_adv, rows, closest.x)


def _descend(clean, space, closest, *, learning_rate, max_iter, begin=None):
    """Descend from ``begin``, the clean samples by default, until the goal is reached; returns where it was."""
    xp = array_namespace(clean.x)
    x, penalty, rows = clean.x, clean.penalty, None
    adam = Adam(space.start(x if begin is None else begin), learning_rate, max_iter)
    found = xp.zeros_like(clean.missing, dtype=xp.bool)
    for k in range(max_iter + 1):
        point, slope = space.point(adam.w)
        if k == 0 and begin is None:
            grad = clean.grad  # what is known need not be asked
        else:
            missing, pull = penalty(point)
            closest.keep(point, norm_of(point - x, float("inf")), missing, rows)
            reached = missing <= 0
            found = found | reached if rows is None else scatter(found, rows, found[rows] | reached)
            if k == max_iter or bool(xp.all(reached)):
                break
            grad = pull(xp.ones_like(missing))
            if bool(xp.any(reached)):
                going = ~reached
                rows = going if rows is None else scatter(xp.zeros_like(rows), rows, going)
                adam.take(going)
                x, penalty, space, grad, slope = x[going], penalty[going], space[going], grad[going], slope[going]
        grad = space.pull(grad, slope)
        peak = xp.max(xp.abs(flatten(grad)), axis=1)
        adam.step(grad / per_sample(xp.where(peak > 0, peak, xp.ones_like(peak)), like=x))
    return found
