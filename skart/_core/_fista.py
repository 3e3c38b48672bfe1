"""Minimise squared length + beta * sum of absolute changes + weighted penalty (elastic-net attack, EAD)."""

from functools import partial

from skart._core._arrays import array_namespace, flatten, per_sample, scatter
from skart._core._penalty import squared

__all__ = ["SIZES", "by_fista"]


def _absolute(delta):
    rows = flatten(delta)
    return array_namespace(rows).sum(array_namespace(rows).abs(rows), axis=1)


# How small a perturbation is, by decision rule; a monotone function of the norm will do.
SIZES = {
    "EN": lambda delta, beta: squared(delta) + beta * _absolute(delta),
    "L1": lambda delta, beta: _absolute(delta),
    "L2": lambda delta, beta: squared(delta),
}


def by_fista(clean, constant, closest, *, beta, rule, learning_rate, max_iter, abort_early):
    """Steps with momentum, each followed by shrinkage of all changes by ``beta`` (Beck and Teboulle, 2009).

    A step costs a forward and a backward pass at the point that momentum leads to, and a forward pass at the shrunk
    point for those samples alone that it could bring an improvement. Steps shorten with the root of what is left of
    them. With ``abort_early`` a sample leaves where a tenth of the steps brought it less than one part in ten
    thousand; not in the first half if it has reached the goal.
    """
    xp = array_namespace(clean.x)
    size_of = partial(SIZES[rule], beta=beta)
    x, penalty, lower, upper, rows = clean.x, clean.penalty, clean.ball.lower, clean.ball.upper, None
    found = xp.zeros_like(constant, dtype=xp.bool)
    best = earlier = xp.full_like(constant, xp.inf)
    ahead = shrunk = xp.zeros_like(x)  # changes, with and without momentum
    grad = clean.grad * per_sample(constant, like=x)

    def inside(delta):
        point = x + delta
        point = point if lower is None else xp.minimum(xp.maximum(point, lower), upper)
        return point, point - x

    def note(where, point, size):
        """Judge points of the samples that ``where`` marks among those that are still here."""
        missing, pull = (penalty if where is None else penalty[where])(point)
        marked = where if rows is None or where is None else scatter(xp.zeros_like(rows), rows, where)
        marked = rows if where is None else marked
        closest.keep(point, size, missing, marked)
        reached = missing <= 0
        return missing, pull, found | reached if marked is None else scatter(found, marked, found[marked] | reached)

    for k in range(max_iter):
        if k > 0:
            point, ahead = inside(ahead)
            missing, pull, found = note(None, point, size_of(ahead))
            grad = pull(constant)
            grad = grad + 2 * ahead
            best = xp.minimum(best, size_of(ahead) + constant * xp.clip(missing, 0.0, None))
        if abort_early and k > 0 and k % max(max_iter // 10, 1) == 0:
            going = (best < 0.9999 * earlier) | ((found if rows is None else found[rows]) & (2 * k < max_iter))
            earlier = best
            if not bool(xp.any(going)):
                break
            if not bool(xp.all(going)):
                rows = going if rows is None else scatter(xp.zeros_like(rows), rows, going)
                x, penalty, grad, ahead, shrunk = x[going], penalty[going], grad[going], ahead[going], shrunk[going]
                lower, upper = (None, None) if lower is None else (lower[going], upper[going])
                constant, best, earlier = constant[going], best[going], earlier[going]
        move = ahead - (learning_rate * (1 - k / max_iter) ** 0.5) * grad
        move -= xp.clip(move, -beta, beta)
        point, move = inside(move)
        size = size_of(move)
        worth = size < (closest.size if rows is None else closest.size[rows])
        if bool(xp.any(worth)):
            found = note(worth, point[worth], size[worth])[2]
        ahead = move + (k / (k + 3)) * (move - shrunk)
        shrunk = move
    return found
