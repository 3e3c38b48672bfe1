"""The pair of features with the largest saliency, and the steps along such pairs (Papernot et al., 2016)."""

from typing import NamedTuple

from skart._core._arrays import array_namespace, device, flatten, one_hot, per_sample, scatter
from skart._core._balls import norm_of
from skart._core._objectives import cross_entropy
from skart._core._walk import walk

__all__ = ["best_pair", "saliency_steps"]


def best_pair(gain, loss, domain):
    """The pair of features of which the product of their summed gains and their summed losses is largest.

    Both sums have to be positive. The pair is the one that a search over all pairs would find, up to ties; but memory
    is proportional to the number of features, and so is time unless gains and losses contradict each other nearly
    everywhere.

    Parameters
    ----------
    gain, loss : arrays of shape (n_samples, n_features)
        What a feature does for the class to reach, and against the others. ``loss=None``: the same.
    domain : boolean array of shape (n_samples, n_features)
        Features to choose from.

    Returns
    -------
    pair : boolean array of shape (n_samples, n_features)
        True at the two features; nowhere where there is no such pair.
    """
    xp = array_namespace(gain)
    if loss is None:
        return _two_largest(gain, domain)
    # Each to a largest size of one, which changes no comparison; and products of small derivatives do not underflow.
    gain, loss = (values / _positive(norm_of(xp.where(domain, values, 0.0), float("inf"))) for values in (gain, loss))
    bound = _bound_of_partners(gain, loss, domain)
    columns = xp.arange(gain.shape[1], device=device(gain))[None, :]
    pairs, rows = xp.zeros_like(domain), None  # all samples, and which of them are looked at still
    pair, best = pairs, xp.zeros_like(gain[:, 0])
    # Pair the most promising feature with all others, until no promise exceeds what was found.
    while True:
        first = xp.argmax(bound, axis=1)
        open_ = _at(bound, first) > best
        if not bool(xp.all(open_)):
            pairs = pair if rows is None else scatter(pairs, rows, pair)
            if not bool(xp.any(open_)):
                return pairs
            rows = open_ if rows is None else scatter(xp.asarray(rows, copy=True), rows, open_)
            gain, loss, domain, bound, pair, best, first = (
                values[open_] for values in (gain, loss, domain, bound, pair, best, first)
            )
        this = columns == first[:, None]
        bound = xp.where(this, -xp.inf, bound)
        product = xp.clip(gain + _at(gain, first)[:, None], 0.0, None)
        product = product * xp.clip(loss + _at(loss, first)[:, None], 0.0, None)
        product = xp.where(domain & ~this, product, 0.0)
        second = xp.argmax(product, axis=1)
        better = _at(product, second) > best
        best = xp.where(better, _at(product, second), best)
        pair = xp.where(better[:, None], this | (columns == second[:, None]), pair)


def _bound_of_partners(gain, loss, domain):
    """For each feature a bound on the product of its pairs; minus infinity outside of the domain.

    A pair of sums X and Y has XY <= ((wX + Y/w) / 2)**2 for every weight w, with equality at w**2 = Y/X; and of all
    partners the one with the largest ``w * gain + loss / w`` has the largest right side.
    """
    xp = array_namespace(gain)
    top_gain, top_loss = (xp.max(xp.where(domain, values, -xp.inf), axis=1)[:, None] for values in (gain, loss))
    bound = xp.clip(gain + top_gain, 0.0, None) * xp.clip(loss + top_loss, 0.0, None)
    for power in range(-4, 5):
        blend = 0.5 * (2.0**power * gain + 2.0**-power * loss)
        total = xp.clip(blend + xp.max(xp.where(domain, blend, -xp.inf), axis=1)[:, None], 0.0, None)
        bound = xp.minimum(bound, total * total)
    return xp.where(domain, bound, -xp.inf)


def _at(values, index):
    return array_namespace(values).take_along_axis(values, index[:, None], axis=1)[:, 0]


def _two_largest(gain, domain):
    """The two largest entries, if their sum is positive."""
    xp = array_namespace(gain)
    gain = xp.where(domain, gain, -xp.inf)
    first = xp.argmax(gain, axis=1)
    pair = one_hot(first, gain.shape[1])
    rest = xp.where(pair, -xp.inf, gain)
    second = xp.argmax(rest, axis=1)
    total = xp.take_along_axis(gain, first[:, None], axis=1) + xp.take_along_axis(rest, second[:, None], axis=1)
    return (total > 0) & (pair | one_hot(second, gain.shape[1]))


def _positive(values):
    return array_namespace(values).where(values > 0, values, 1.0)[:, None]


class _State(NamedTuple):
    """What a step must know of each sample."""

    ball: object
    labels: object
    targets: object
    noise: object
    changed: object  # features that were changed so far, (n_samples, n_features)


def saliency_steps(x, ask, labels, targets=None, *, ball, theta, n_changed, by_logits, max_iter):
    """Change the most salient pair of features by ``theta``, until the goal is met (Algorithms 1 and 2).

    Each step costs a forward pass and one pullback, or two by logits.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
    ask : Asker
    labels, targets : integer arrays of shape (n_samples,)
        Classes to leave; and, or None, to reach.
    ball : Ball
        Box and mask.
    theta : float
        Step of a feature.
    n_changed : int
        Number of features that may change.
    by_logits : bool
        Whether saliency is that of the logits; otherwise of the probabilities.
    max_iter : int

    Returns
    -------
    x_adv : array of shape (n_samples, ...)
    """

    def step(x, scores, pull, state):
        xp = array_namespace(x)
        gain, loss = _saliency(scores, pull, state, up=theta > 0, by_logits=by_logits)
        domain = xp.ones_like(state.changed)
        if state.ball.lower is not None:
            domain = flatten(x < state.ball.upper if theta > 0 else x > state.ball.lower)
        pair = best_pair(gain, loss, domain)
        changed = state.changed | pair
        ended = xp.sum(xp.astype(changed, state.labels.dtype), axis=1) > n_changed
        ended = ended | ~xp.any(pair, axis=1)
        moved = state.ball.project(x + theta * xp.reshape(xp.astype(pair, x.dtype), x.shape))
        return xp.where(per_sample(ended, like=x), x, moved), state._replace(changed=changed), ended

    xp = array_namespace(x)
    state = _State(ball, labels, targets, xp.zeros_like(norm_of(x, 2)), xp.zeros_like(flatten(x)) > 0)
    return walk(x, ask, state, step=step, max_iter=max_iter, n_pulls=2 if by_logits else 1)


def _saliency(scores, pull, state, *, up, by_logits):
    """Gains and losses of a step of each feature, (n_samples, n_features), up to a positive factor for each sample."""
    xp = array_namespace(scores)
    # Of two logits one may be constant (a single margin), so that nothing is to be seen in them one by one.
    if not by_logits or scores.shape[1] == 2:
        # Probabilities sum to one: what one of them gains, the others lose. Only the direction of the gradient
        # counts, which does not underflow where the model is sure.
        grad = flatten(pull.last(cross_entropy(scores, state.labels, state.targets).direction))
        return grad if up else -grad, None
    chosen = one_hot(state.labels if state.targets is None else state.targets, scores.shape[1])
    own = flatten(pull(xp.astype(chosen, scores.dtype)))
    others = flatten(pull.last(xp.astype(~chosen, scores.dtype)))
    return (own, -others) if up == (state.targets is not None) else (-own, others)
