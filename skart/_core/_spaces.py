"""Variables that descent may move without constraints, and the samples that they stand for."""

import copy

from skart._core._arrays import array_namespace, per_sample

__all__ = ["Free", "Tanh"]

# Bounds lie at a finite place: farther out, where the tanh is flat, features on a bound hardly move.
SMOOTHER = 0.9


class Tanh:
    """Samples between two bounds, as ``middle + reach * tanh(w)``.

    The bounds themselves are at finite ``w`` (the constant of Algorithm 3 of the paper that keeps the inverse
    finite); what lies beyond is clipped, and pulled back as if it were not.

    Parameters
    ----------
    lower, upper : arrays of shape (n_samples, ...)
        Finite bounds; features for which they are equal stay.
    """

    def __init__(self, lower, upper):
        self._lower, self._upper = lower, upper
        self._middle = lower / 2 + upper / 2
        self._reach = (upper / 2 - lower / 2) / SMOOTHER

    def __getitem__(self, rows):
        """The variables of the samples that ``rows`` (boolean) marks."""
        return _taken(self, rows)

    def share(self, delta):
        """Changes in units of half the range, where there is one."""
        return _quotient(delta, self._reach)

    def start(self, x):
        """The variables of the samples ``x``, a fresh array."""
        xp = array_namespace(x)
        return xp.atanh(xp.clip(self.share(x - self._middle), -SMOOTHER, SMOOTHER))

    def point(self, w):
        """The samples at ``w``, and what :meth:`pull` wants to know of them."""
        xp = array_namespace(w)
        t = xp.tanh(w)
        x = t * self._reach
        x += self._middle
        return xp.minimum(xp.maximum(x, self._lower), self._upper), t

    def pull(self, grad, t):
        """Gradient by the variables where that by the samples is ``grad``, a fresh array; spends ``t``."""
        t *= t
        t -= 1.0
        t *= grad
        t *= -self._reach
        return t


class Free:
    """Samples without bounds, or with infinite ones, as ``centre + unit * w``; clipped to what bounds there are.

    Parameters
    ----------
    centre : array of shape (n_samples, ...)
        Clean samples.
    lower, upper : arrays of that shape, or None
        Bounds; features for which they are equal stay.
    unit : array of shape (n_samples,)
        Change of a feature that counts as one.
    """

    def __init__(self, centre, lower, upper, unit):
        self._centre, self._lower, self._upper = centre, lower, upper
        self._unit = per_sample(unit, like=centre)
        if lower is not None:
            self._unit = self._unit * array_namespace(centre).astype(upper > lower, centre.dtype)

    def __getitem__(self, rows):
        """The variables of the samples that ``rows`` (boolean) marks."""
        return _taken(self, rows)

    def share(self, delta):
        """Changes in units of ``unit``, where they are possible."""
        return _quotient(delta, self._unit)

    def start(self, x):
        """The variables of the samples ``x``, a fresh array."""
        return self.share(x - self._centre)

    def point(self, w):
        """The samples at ``w``, and what :meth:`pull` wants to know of them."""
        xp = array_namespace(w)
        x = self._centre + self._unit * w
        return (x if self._lower is None else xp.minimum(xp.maximum(x, self._lower), self._upper)), None

    def pull(self, grad, t):
        """Gradient by the variables where that by the samples is ``grad``."""
        return grad * self._unit


def _quotient(delta, unit):
    xp = array_namespace(delta)
    return delta / xp.where(unit > 0, unit, xp.ones_like(unit))


def _taken(space, rows):
    part = copy.copy(space)
    vars(part).update({name: None if value is None else value[rows] for name, value in vars(space).items()})
    return part
