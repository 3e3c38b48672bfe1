"""Steps to where a linear model of the scores crosses zero: for DeepFool and NewtonFool."""

from typing import NamedTuple

from skart._core._arrays import array_namespace, flatten, one_hot, per_sample, scatter, sign
from skart._core._balls import _fill_largest_first, _normalised, norm_of
from skart._core._objectives import cross_entropy, margin
from skart._core._walk import noise_of, walk

__all__ = ["followable", "nearest_boundary", "newton_descent", "smallest_step"]

# The norm of a gradient that tells how fast a linear function grows with the norm of the step.
DUAL = {1: float("inf"), 2: 2, float("inf"): 1}

# Part of the whole way that is left when DeepFool takes it in one step. With half steps on a CNN for MNIST, a tenth
# costs 15 % more and comes 0.1 % nearer.
NEAR = 0.2


def followable(grad, x, ball):
    """``grad`` with zeros in the features that the box does not let follow it."""
    if ball.lower is None:
        return grad
    xp = array_namespace(grad)
    can_follow = ((grad > 0) & (x < ball.upper)) | ((grad < 0) & (x > ball.lower))
    return grad * xp.astype(can_follow, grad.dtype)


def smallest_step(grad, x, gain, ball):
    """The step of least norm, inside the box, that raises a linear function by ``gain``.

    Parameters
    ----------
    grad : array of shape (n_samples, ...)
        Gradient of the function.
    x : array of shape (n_samples, ...)
        Where the steps begin.
    gain : array of shape (n_samples,)
        Positive.
    ball : Ball
        Norm, box and mask; its radius does not count.

    Returns
    -------
    step : array of shape (n_samples, ...)
        Where the box holds too little, the step that gains the most.
    length : array of shape (n_samples,)
        Norm of the step, and in proportion more where it falls short of ``gain``; infinite where it gains nothing.
    """
    xp = array_namespace(grad)
    slope = followable(grad, x, ball)
    size = xp.abs(flatten(slope))
    top = norm_of(size, float("inf"))
    # Steps so long that their squares overflow lead nowhere.
    moves = (top > 0) & xp.isfinite(gain) & (gain < top * float(xp.finfo(x.dtype).max) ** 0.25)
    # Sizes of at most one: squares of gradients as small as 1e-30 underflow.
    scale = xp.where(moves, top, 1.0)
    size, goal = size / scale[:, None], xp.where(moves, gain / scale, 0.0)
    room = None
    if ball.lower is not None:
        room = flatten(xp.where(slope > 0, ball.upper - x, x - ball.lower))
        room = xp.where(size > 0, room, 0.0)
    if ball.norm == 1:
        # Each unit of length gains the most in the feature of the largest derivative.
        gained = None if room is None else room * size
        share = _fill_largest_first(size, gained, goal) / xp.where(size > 0, size, 1.0)
    else:
        share = _fill_to_gain(size, size if ball.norm == 2 else xp.astype(size > 0, size.dtype), room, goal)
    reached = xp.sum(share * size, axis=1)
    length = norm_of(share, ball.norm) * xp.maximum(goal / xp.where(reached > 0, reached, 1.0), xp.ones_like(goal))
    length = xp.where(moves & (reached > 0), length, xp.inf)
    return sign(slope) * xp.reshape(share, x.shape), length


def _fill_to_gain(size, pace, room, goal):
    """Shares ``min(t * pace, room)`` with the least ``t`` for which ``sum(size * share)`` is ``goal``.

    The sum is piecewise linear and concave in ``t``, so Newton's method ends on the right piece, from below.
    """
    xp = array_namespace(size)
    slope = xp.sum(size * pace, axis=1)
    level = goal / xp.where(slope > 0, slope, 1.0)
    share = level[:, None] * pace
    if room is None:
        return share
    slack = 16 * xp.finfo(size.dtype).eps * goal
    for _ in range(size.shape[1]):  # every pass fills a feature at least; few are needed
        lack = goal - xp.sum(size * xp.minimum(share, room), axis=1)
        slope = xp.sum(size * pace * xp.astype(share < room, size.dtype), axis=1)
        open_ = (lack > slack) & (slope > 0)
        if not bool(xp.any(open_)):
            break
        level = level + xp.where(open_, lack, 0.0) / xp.where(open_, slope, 1.0)
        share = level[:, None] * pace
    return xp.minimum(share, room)


class _State(NamedTuple):
    """What a step must know of each sample."""

    ball: object
    labels: object
    targets: object
    noise: object
    longest: object = None  # NewtonFool's bound on a step


def nearest_boundary(x, ask, labels, targets=None, *, ball, n_candidates, step_size, overshoot, max_iter):
    """Steps across the nearest boundary of the scores' linear model, until the goal is met (DeepFool).

    Each step costs a forward pass, and for each candidate class a pullback of its lead over the label. With targets
    there is one candidate: the target's lead over the best other class.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
    ask : Asker
    labels, targets : integer arrays of shape (n_samples,)
        Classes to leave; and, or None, to reach.
    ball : Ball
        Norm, box and mask; its radius does not count.
    n_candidates : int
        Number of the label's rivals, the highest scores first.
    step_size : float
        Part of the way to the boundary that a step goes, as long as that is far.
    overshoot : float
        What the way leads beyond the boundary, as a part of its length.
    max_iter : int

    Returns
    -------
    x_adv : array of shape (n_samples, ...)
    """
    n_pulls = n_candidates if targets is None else 1

    def step(x, scores, pull, state):
        xp = array_namespace(x)
        move, length, noise = _across(x, scores, pull, state, min(n_pulls, scores.shape[1] - 1), overshoot)
        gone = norm_of(x - state.ball.centre, state.ball.norm)
        part = xp.where(length <= NEAR * (gone + length), xp.ones_like(length), step_size)
        moved = state.ball.project(x + per_sample(part, like=x) * move)
        # Nowhere to go; or so far that the sample is nothing beside it, where a model is all but flat.
        size = norm_of(state.ball.centre, state.ball.norm)
        farthest = xp.where(size > 0, size, 1.0) / xp.finfo(x.dtype).eps ** 0.5
        ended = ~xp.isfinite(length) | (gone + length > farthest)
        return xp.where(per_sample(ended, like=x), x, moved), state._replace(noise=noise), ended

    state = _State(ball, labels, targets, array_namespace(x).zeros_like(norm_of(x, 2)))
    return _shortened(x, walk(x, ask, state, step=step, max_iter=max_iter, n_pulls=n_pulls), ask, state)


def _shortened(x, x_adv, ask, state, n_halvings=7):
    """``x_adv``, or a point on the straight way there from ``x`` that is adversarial too.

    A step from a plateau goes too far, since the gradient is small there: two to three times for an rbf kernel. One
    forward pass tells which perturbations can be shorter by a sixteenth; few can on a net, and only those are bisected.
    """
    xp = array_namespace(x)
    rows = norm_of(x_adv - x, float("inf")) > 0
    if not bool(xp.any(rows)):
        return x_adv

    def lead(part):
        start = x[rows]
        points = state.ball[rows].project(start + per_sample(part, like=x) * (x_adv[rows] - start))
        scores = ask[rows](points)[0]
        targets = None if state.targets is None else state.targets[rows]
        return margin(scores, state.labels[rows], targets).value - noise_of(scores), points

    high = xp.full_like(norm_of(x, 2)[rows], 15 / 16)
    first, points = lead(high)
    shorter = first > 0
    rows = scatter(xp.asarray(rows, copy=True), rows, shorter)
    if not bool(xp.any(rows)):
        return x_adv
    first, high, points = first[shorter], high[shorter], points[shorter]
    low = xp.zeros_like(high)
    for _ in range(n_halvings):
        middle = (low + high) / 2
        there, tried = lead(middle)
        # A small part of what is known to be a lead: more than rounding.
        there = there > 1e-4 * first
        points = xp.where(per_sample(there, like=x), tried, points)
        low, high = xp.where(there, low, middle), xp.where(there, middle, high)
    return scatter(xp.asarray(x_adv, copy=True), rows, points)


def _across(x, scores, pull, state, n_pulls, overshoot):
    """The shortest of the steps across the boundaries to the candidates, its length, and the scores' noise."""
    xp = array_namespace(x)
    ball, n_classes = state.ball, scores.shape[1]
    own = one_hot(state.labels if state.targets is None else state.targets, n_classes)
    rivals = xp.argsort(xp.where(own, -xp.inf, scores), axis=1, descending=True)
    own = xp.astype(own, x.dtype)
    move = length = noise = None
    for k in range(n_pulls):
        towards = xp.astype(one_hot(rivals[:, k], n_classes), x.dtype) - own
        towards = towards if state.targets is None else -towards
        lag = xp.clip(-xp.sum(towards * scores, axis=1), 0.0, None)
        grad = (pull if k + 1 < n_pulls else pull.last)(towards)
        rough = noise_of(scores, grad, x)
        gain = (1 + overshoot) * lag + 2 * rough
        noise = rough if noise is None else xp.maximum(noise, rough)
        if move is None:
            move, length = smallest_step(grad, x, gain, ball)
            continue
        # No step is shorter than it would be without the box, so few candidates need a closer look.
        speed = norm_of(followable(grad, x, ball), DUAL[ball.norm])
        nearer = (speed > 0) & (gain / xp.where(speed > 0, speed, 1.0) < length)
        if bool(xp.any(nearer)):
            other, reach = smallest_step(grad[nearer], x[nearer], gain[nearer], ball[nearer])
            shorter = reach < length[nearer]
            move = scatter(move, nearer, xp.where(per_sample(shorter, like=other), other, move[nearer]))
            length = scatter(length, nearer, xp.where(shorter, reach, length[nearer]))
    return xp.where(per_sample(xp.isfinite(length), like=x), move, 0.0), length, noise


def newton_descent(x, ask, labels, *, ball, eta, max_iter):
    """Newton steps that lower the label's probability to that of a guess, each bounded in length (NewtonFool).

    Each step costs one forward-backward pass.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
    ask : Asker
    labels : integer array of shape (n_samples,)
    ball : Ball
        Box and mask.
    eta : float
        Longest step, as a part of the Euclidean norm of the sample.
    max_iter : int

    Returns
    -------
    x_adv : array of shape (n_samples, ...)
    """

    def step(x, scores, pull, state):
        xp = array_namespace(x)
        loss = cross_entropy(scores, state.labels)
        # The probability P has the gradient -P * scale * grad, of which only `grad` keeps its size when P is near 1.
        grad = followable(pull.last(loss.direction), x, state.ball)
        unit = _normalised(grad)
        speed = xp.sum(flatten(unit * grad), axis=1)
        # Values above the logarithm of K are those of samples that are done.
        excess = 1 - xp.exp(xp.clip(loss.value, None, 20.0)) / scores.shape[1]  # (P - 1/K) / P
        slope = loss.scale * speed
        steep = slope > xp.finfo(slope.dtype).smallest_normal
        length = xp.where(steep, excess / xp.where(steep, slope, 1.0), xp.inf)
        # Newton steps come to rest on the boundary of two classes, and would not cross it.
        ended = ~(speed > 0) | (state.longest <= 0)
        noise = noise_of(scores, grad, x)
        length = xp.maximum(length, 4 * noise / xp.where(ended, 1.0, speed))
        length = xp.where(ended, 0.0, xp.minimum(length, state.longest))
        moved = state.ball.project(x + per_sample(length, like=x) * unit)
        return moved, state._replace(noise=noise), ended

    longest = eta * norm_of(x, 2)
    state = _State(ball, labels, None, array_namespace(x).zeros_like(longest), longest)
    return walk(x, ask, state, step=step, max_iter=max_iter)
