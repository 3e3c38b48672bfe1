"""Searches for a small perturbation that weigh its size against a penalty on the model's answer.

Carlini and Wagner minimise ``size(delta) + c * max(confidence - lead, 0)``, where the lead is the margin of the best
other class over the label, or of the target over the best other class. What is shared by their attacks and by those
that build on them is here: the penalty, the book of the nearest points, and the search for the constant.
"""

import copy
from typing import NamedTuple

from skart._core._arrays import array_namespace, device, flatten, per_sample, scatter
from skart._core._objectives import margin

__all__ = ["Clean", "Closest", "Constant", "Penalty", "by_penalty", "squared", "start"]


class Penalty:
    """How far the model's answers are from the goal, ``max(confidence - lead, 0)``.

    Parameters
    ----------
    ask : Asker
        What answers for the samples.
    labels, targets : integer arrays of shape (n_samples,)
        Classes to leave and, or None, those to reach.
    confidence : float
        Lead to reach.
    """

    def __init__(self, ask, labels, targets=None, confidence=0.0):
        self._ask = ask
        self._labels = labels
        self._targets = targets
        self._confidence = confidence
        self._staircase = None  # whether the prediction follows other scores than those with a gradient

    def __getitem__(self, rows):
        """The penalty of the samples that ``rows`` (boolean) marks; it writes to the same ledger."""
        part = copy.copy(self)
        part._ask = self._ask[rows]
        part._labels = self._labels[rows]
        part._targets = None if self._targets is None else self._targets[rows]
        return part

    def __call__(self, x):
        """One forward pass.

        Returns
        -------
        missing : array of shape (n_samples,)
            What the lead lacks; the goal is reached where that is not positive. NaN where scores are.
        pullback : callable
            ``pullback(weight)`` is the gradient of ``weight * max(missing, 0)``, one backward pass.
        """
        xp = array_namespace(x)
        scores, pull = self._ask(x)
        loss = margin(scores, self._labels, self._targets)
        # A net answers in float32, and a batch of another size rounds otherwise: a lead that is to last exceeds that.
        rounding = 2e-6 * xp.max(xp.abs(scores), axis=1) + 1e-30
        missing = rounding + self._confidence - loss.value
        direction = loss.direction
        if self._staircase is None:
            self._staircase = self._predicts_otherwise(x, scores)
        if self._staircase:
            # Where no class wins all of its pairs, votes tie and the prediction is anybody's: one must win.
            winner = xp.clip(direction, 0.0, None)
            lost = rounding - xp.sum(winner * scores, axis=1)
            tied = (missing <= 0) & (lost > 0)
            missing = xp.where(tied, lost, missing)
            direction = xp.where(tied[:, None], winner, direction)

        def pullback(weight):
            weight = xp.where(missing > 0, -weight, xp.zeros_like(weight))
            return pull.last(direction * weight[:, None])

        return missing, pullback

    def _predicts_otherwise(self, x, scores):
        """Whether the public scores are others, the votes of pairs of classes; by a look at one sample."""
        xp = array_namespace(x)
        first = xp.arange(x.shape[0], device=device(x)) < 1
        logits = self._ask[first](x[first], scores="logits")[0]
        return bool(xp.any(xp.abs(logits - scores[first]) > 1e-3 * xp.max(xp.abs(logits))))


class Closest:
    """The smallest perturbation known to reach the goal; where none is, the one that lacks least.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
        Clean samples.
    missing : array of shape (n_samples,)
        What they lack.
    """

    def __init__(self, x, missing):
        xp = array_namespace(x)
        self.x = xp.asarray(x, copy=True)
        self.size = xp.where(missing <= 0, 0.0, xp.full_like(missing, xp.inf))
        self._missing = xp.where(missing == missing, missing, xp.full_like(missing, xp.inf))

    def take(self, rows):
        """A book of the samples that ``rows`` (boolean) marks, with what is known of them."""
        part = copy.copy(self)
        part.x, part.size, part._missing = self.x[rows], self.size[rows], self._missing[rows]
        return part

    @property
    def reached(self):
        """Samples for which a point that reaches the goal is known."""
        return array_namespace(self.size).isfinite(self.size)

    def keep(self, x, size, missing, rows=None):
        """Take in the points ``x`` of the samples that ``rows`` (boolean) marks, all of them by default."""
        xp = array_namespace(x)
        known, lack = (self.size, self._missing) if rows is None else (self.size[rows], self._missing[rows])
        better = xp.where(missing <= 0, size < known, (missing < lack) & (known == xp.inf))
        if not bool(xp.any(better)):
            return
        where = better if rows is None else scatter(xp.zeros_like(rows), rows, better)
        # By rows: mostly they are few, and a choice over whole arrays costs as much as all arithmetic of a step.
        scatter(self.x, where, x[better])
        scatter(self.size, where, xp.where(missing <= 0, size, xp.full_like(size, xp.inf))[better])
        scatter(self._missing, where, missing[better])


class Constant:
    """The weight of the penalty for each sample, by doubling and then halving of the interval.

    Parameters
    ----------
    value : array of shape (n_samples,)
        Where to begin.
    factor : float
        By how much it grows as long as none was large enough.
    """

    def __init__(self, value, factor):
        xp = array_namespace(value)
        self.value = value
        self._factor = factor
        self._low = xp.zeros_like(value)
        self._high = xp.full_like(value, xp.inf)

    def take(self, rows):
        """Go on with the samples that ``rows`` (boolean) marks."""
        self.value, self._low, self._high = self.value[rows], self._low[rows], self._high[rows]

    @property
    def bracketed(self):
        """Samples for which one weight was too small and another large enough."""
        xp = array_namespace(self.value)
        return (self._low > 0) & (self._high < xp.inf)

    def update(self, reached):
        """Go down where the goal was ``reached``, and up elsewhere."""
        xp = array_namespace(reached)
        self._low = xp.where(reached, self._low, self.value)
        self._high = xp.where(reached, self.value, self._high)
        bounded = self._high < xp.inf
        middle = (self._low + xp.where(bounded, self._high, xp.zeros_like(self._high))) / 2
        self.value = xp.where(bounded, middle, self._factor * self.value)


class Clean(NamedTuple):
    """Clean samples with what the model says of them, from where searches start."""

    x: object  # (n_samples, ...)
    penalty: Penalty
    ball: object
    missing: object  # (n_samples,)
    grad: object  # of the penalty, shape of x; zero where the box lets a feature not follow

    def take(self, rows):
        """The samples that ``rows`` (boolean) marks."""
        return Clean(*(part[rows] for part in self))

    def linear_step(self):
        """The shortest way to the goal, were the penalty linear, but for its sign."""
        return self.grad * per_sample(_positive(self.missing / _positive(squared(self.grad))), like=self.grad)

    def linear_bound(self):
        """Largest change of a feature in the point of the least such change that reaches the goal, were it linear."""
        xp = array_namespace(self.x)
        return _positive(self.missing / _positive(xp.sum(xp.abs(flatten(self.grad)), axis=1)))

    def linear_constant(self, threshold=0.0):
        """The weight beyond which the squared length plus the penalty is least on the boundary, were it linear.

        Changes smaller than some threshold are taken back where steps are; ``threshold`` is it in units of the step.
        """
        xp = array_namespace(self.x)
        steepest = _positive(xp.max(xp.abs(flatten(self.grad)), axis=1))
        return _positive(2 * self.missing / _positive(squared(self.grad)) + threshold / steepest)


def by_penalty(x, penalty, *, ball, search, initial_const, const_factor, n_searches, abort_early, threshold=0.0):
    """The nearest points that ``search`` finds over ``n_searches`` weights of the penalty.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
        Clean samples; those that reach the goal as they come stay as they are.
    penalty : Penalty
    ball : Ball
    search : callable
        ``search(clean, constant, closest)`` notes what it finds in ``closest``, and returns the samples that reached
        the goal.
    initial_const : float or None
        First weight. None takes for each sample what a linear penalty would need, and half as much again.
    const_factor : float
        By how much the weight grows where it was too small.
    n_searches : int
    abort_early : bool
        Leave out of further searches the samples for which one weight was too small, another large enough, and the
        last search brought less than a thousandth.
    threshold : float
        See :meth:`Clean.linear_constant`.

    Returns
    -------
    x_adv : array of shape (n_samples, ...)
        Where the goal was not reached, the points that came nearest to it.
    """
    xp = array_namespace(x)
    clean, x_adv, rows = start(x, penalty, ball)
    if clean is None:
        return x_adv
    closest = Closest(clean.x, clean.missing)
    first = (
        1.5 * clean.linear_constant(threshold) if initial_const is None else xp.full_like(clean.missing, initial_const)
    )
    constant = Constant(first, const_factor)
    for _ in range(n_searches):
        before = xp.asarray(closest.size, copy=True)
        constant.update(search(clean, constant.value, closest))
        done = constant.bracketed & (before < xp.inf) & (closest.size >= 0.999 * before)
        if abort_early and bool(xp.any(done)):
            scatter(x_adv, rows, closest.x)
            going = ~done
            rows = scatter(xp.zeros_like(rows), rows, going)
            if not bool(xp.any(going)):
                return x_adv
            clean, closest = clean.take(going), closest.take(going)
            constant.take(going)
    return scatter(x_adv, rows, closest.x)


def start(x, penalty, ball):
    """One forward and one backward pass at ``x``.

    Returns
    -------
    clean : Clean or None
        The samples that do not reach the goal as they come.
    x_adv : array
        A copy of ``x``, for the results.
    rows : boolean array of shape (n_samples,)
        Which samples those of ``clean`` are.
    """
    xp = array_namespace(x)
    missing, pull = penalty(x)
    rows = ~(missing <= 0)  # what is not a number is not there yet
    x_adv = xp.asarray(x, copy=True)
    if not bool(xp.any(rows)):
        return None, x_adv, rows
    grad = pull(xp.ones_like(missing))
    if not bool(xp.all(rows)):
        x, penalty, ball, missing, grad = (part[rows] for part in (x, penalty, ball, missing, grad))
    if ball.lower is not None:
        grad = grad * xp.astype(((grad < 0) & (x < ball.upper)) | ((grad > 0) & (x > ball.lower)), grad.dtype)
    return Clean(x, penalty, ball, missing, grad), x_adv, rows


def squared(delta):
    """Squared Euclidean norm of each sample: (n_samples,)."""
    rows = flatten(delta)
    return array_namespace(rows).sum(rows * rows, axis=1)


def _positive(values):
    """``values`` where they are positive and finite, and one elsewhere."""
    xp = array_namespace(values)
    return xp.where((values > 0) & xp.isfinite(values), values, xp.ones_like(values))
