"""The nearest point that meets several constraints: sequential quadratic programs, the whole batch in lock-step.

Each step projects the clean sample onto what the constraints look like from where the search stands: half-spaces, cut
with the box. Few constraints make a small dual problem, whatever the number of features. Bounds on the multipliers are
the weights of an exact penalty, so that half-spaces that do not meet need no care of their own (Fletcher, "Practical
Methods of Optimization", 1987, section 12.3); a pull towards where the search stands takes the place of a trust region.
"""

from typing import NamedTuple

from skart._core._arrays import array_namespace, scatter

__all__ = ["LARGEST_WEIGHT", "Nearest", "nearest_feasible"]

_ACCEPTED = 0.1  # share of the predicted decrease that a step must bring
_EASED = 0.5  # share from where the pull gets weaker
_PULLS = (1e-3, 1e10)  # weakest pull; the strongest, beyond which a search has come to rest
LARGEST_WEIGHT = 1e8  # where a search gives up: the distance hardly counts any more
_DUAL_ROUNDS = 12


class _State(NamedTuple):
    """Where the searches of a batch stand."""

    clean: object  # (n_samples, n_features)
    lower: object
    upper: object
    x: object
    excess: object  # (n_samples, n_constraints), met where not positive
    slopes: object  # (n_samples, n_constraints, n_features)
    pull: object  # (n_samples,)
    weights: object  # of the penalty, (n_samples, n_constraints)

    def take(self, rows):
        return _State(*(part[rows] for part in self))


class Nearest(NamedTuple):
    """What a search came to."""

    x: object  # (n_samples, n_features), the nearest feasible points that were met; the clean ones where none was
    size: object  # (n_samples,), their squared distances; infinite where none was
    last: object  # (n_samples, n_features), where the searches ended


def nearest_feasible(x, constraints, *, lower, upper, max_iter, tol, start=None, weight=None):
    """Points near ``x``, in the Euclidean norm, where no constraint is positive.

    Parameters
    ----------
    x : array of shape (n_samples, n_features)
        Clean samples, in float64.
    constraints : callable
        ``constraints(x)`` returns their values, (n_samples, n_constraints), a call for their slopes, (n_samples,
        n_constraints, n_features), and which points count as feasible, (n_samples,) boolean. ``constraints[rows]`` are
        those of the samples that the boolean ``rows`` marks.
    lower, upper : arrays of the shape of ``x``
        Box that holds ``x``.
    max_iter : int
        Most steps.
    tol : float
        A search ends where a step changes the point by less than this share of its distance to the clean sample.
    start : array of the shape of ``x``, default=None
        Where the searches begin; at the clean samples without.
    weight : float, default=None
        First weight of what is missing against half the squared distance. None takes ten times the multipliers that
        each constraint alone would have, were it linear.

    Returns
    -------
    found : Nearest
    """
    xp = array_namespace(x)
    rows = xp.ones_like(x[:, 0]) > 0
    last = xp.asarray(x if start is None else start, copy=True)
    excess, slopes, feasible = constraints(last)
    # A feasible start is no reason to stay there, unless it is the clean sample itself.
    size = _squared(last - x)
    best, best_size = xp.where(feasible[:, None], last, x), xp.where(feasible, size, xp.full_like(size, xp.inf))
    slopes = slopes()
    weights = _first_weights(excess, slopes) if weight is None else xp.full_like(excess, weight)
    state = _State(x, lower, upper, xp.asarray(last, copy=True), excess, slopes, xp.ones_like(size), weights)
    going = ~(best_size <= 0)
    for _ in range(max_iter):
        if not bool(xp.any(going)):
            break
        if not bool(xp.all(going)):
            state, constraints = state.take(going), constraints[going]
            rows = scatter(xp.zeros_like(rows), rows, going)
        z, predicted, bent = _step(state)
        excess, slopes, feasible = constraints(z)
        size = _squared(z - state.clean)
        nearer = feasible & (size < best_size[rows])
        if bool(xp.any(nearer)):
            where = scatter(xp.zeros_like(rows), rows, nearer)
            scatter(best, where, z[nearer])
            scatter(best_size, where, size[nearer])
        gained = _merit(state, state.x, state.excess) - _merit(state, z, excess)
        accepted = gained >= _ACCEPTED * predicted
        moved = _squared(z - state.x)
        at_rest = moved <= tol**2 * xp.clip(_squared(state.x - state.clean), 1e-12, None)
        hopeless = xp.any((bent > 0) & (state.weights >= LARGEST_WEIGHT), axis=1)
        pull = xp.where(accepted, state.pull, 4 * state.pull)
        pull = xp.where(accepted & (gained >= _EASED * predicted), state.pull / 4, pull)
        state = state._replace(
            x=xp.where(accepted[:, None], z, state.x),
            excess=xp.where(accepted[:, None], excess, state.excess),
            slopes=xp.where(accepted[:, None, None], slopes(), state.slopes)
            if bool(xp.any(accepted))
            else state.slopes,
            pull=xp.clip(pull, _PULLS[0], None),
            # A constraint whose weight is used up in a point at rest needs a larger one.
            weights=xp.where(at_rest[:, None] & (bent > 0), 10 * state.weights, state.weights),
        )
        scatter(last, rows, state.x)
        going = ~(at_rest & accepted & (feasible | hopeless)) & (state.pull < _PULLS[1])
    return Nearest(best, best_size, last)


def _first_weights(excess, slopes):
    xp = array_namespace(excess)
    steepness = _positive(xp.sum(slopes * slopes, axis=2))
    return 10 * _positive(xp.abs(excess) / steepness)


def _step(state):
    """Minimum of the penalty function with linear constraints and the pull.

    Returns
    -------
    z : array of shape (n_samples, n_features)
    predicted : array of shape (n_samples,)
        Decrease of the penalty function, were the constraints linear.
    bent : array of shape (n_samples, n_constraints)
        What is missing in those constraints whose weight is used up.
    """
    xp = array_namespace(state.x)
    # Half the squared distance plus half the pull's make one square around a point between.
    stiffness = 1 + state.pull
    middle = (state.clean + state.pull[:, None] * state.x) / stiffness[:, None]
    slopes, weights = state.slopes, state.weights
    n_constraints = slopes.shape[1]
    eye = xp.eye(n_constraints, dtype=slopes.dtype)

    def point(multipliers):
        free = middle - xp.sum(multipliers[:, :, None] * slopes, axis=1) / stiffness[:, None]
        return xp.clip(free, state.lower, state.upper), (free > state.lower) & (free < state.upper)

    def missing(z):
        return state.excess + xp.sum(slopes * (z - state.x)[:, None, :], axis=2)

    multipliers = xp.zeros_like(weights)
    best_value = best = None
    for _ in range(_DUAL_ROUNDS):
        z, inside = point(multipliers)
        lack = missing(z)
        value = (
            0.5 * _squared(z - state.clean)
            + 0.5 * state.pull * _squared(z - state.x)
            + xp.sum(weights * xp.clip(lack, 0.0, None), axis=1)
        )
        better = value < best_value if best is not None else value == value
        best = z if best is None else xp.where(better[:, None], z, best)
        best_value = value if best_value is None else xp.where(better, value, best_value)
        # Newton's step for the multipliers that may move, in the features that do not lie on the box.
        bare = slopes * xp.astype(inside, slopes.dtype)[:, None, :]
        curvature = xp.matmul(bare, xp.matrix_transpose(bare)) / stiffness[:, None, None]
        movable = xp.astype(~((multipliers <= 0) & (lack <= 0)) & ~((multipliers >= weights) & (lack >= 0)), lack.dtype)
        if not bool(xp.any(movable > 0)):
            break
        both = movable[:, :, None] * movable[:, None, :]
        ridge = 1e-10 * xp.sum(xp.sum(curvature * eye, axis=2), axis=1) + 1e-300
        system = curvature * both + eye * (1 - movable + ridge[:, None])[:, :, None]
        step = xp.linalg.solve(system, (movable * lack)[:, :, None])[:, :, 0]
        before, multipliers = multipliers, xp.minimum(xp.clip(multipliers + step, 0.0, None), weights)
        if bool(xp.all(xp.abs(multipliers - before) <= 1e-12 * multipliers)):
            break
    lack = missing(best)
    predicted = _merit(state, state.x, state.excess) - _merit(state, best, lack)
    used_up = xp.where(lack > 1e-9 * xp.clip(xp.abs(state.excess), 1e-6, None), lack, xp.zeros_like(lack))
    return best, predicted, used_up


def _merit(state, x, excess):
    """The penalty function: half the squared distance, and what is missing by its weight."""
    xp = array_namespace(x)
    return 0.5 * _squared(x - state.clean) + xp.sum(state.weights * xp.clip(excess, 0.0, None), axis=1)


def _squared(delta):
    return array_namespace(delta).sum(delta * delta, axis=1)


def _positive(values):
    xp = array_namespace(values)
    return xp.where((values > 0) & xp.isfinite(values), values, xp.ones_like(values))
