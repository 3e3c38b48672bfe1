"""Steps from the clean samples until each of them has met its goal: the loop of DeepFool, NewtonFool and JSMA."""

from skart._core._arrays import array_namespace, per_sample, scatter
from skart._core._balls import norm_of
from skart._core._objectives import margin

__all__ = ["noise_of", "walk"]


def noise_of(scores, grad=None, x=None):
    """Differences of scores up to which they may be rounding: (n_samples,).

    Scores may be small sums of large terms, as those of a linear model near its boundary; with the gradient of such a
    difference, their size is known too.
    """
    xp = array_namespace(scores)
    info = xp.finfo(scores.dtype)
    size = norm_of(scores, float("inf"))
    if grad is not None:
        size = size + norm_of(grad * x, 1)
    return 16 * info.eps * size + info.smallest_normal


def walk(x, ask, state, *, step, max_iter, scores="margins", n_pulls=1):
    """Take steps from ``x`` until the goal is met; a sample stays where it first is adversarial by more than rounding.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
    ask : Asker
    state : NamedTuple
        What the steps need to know of each sample; all of it can be indexed by boolean rows, or is None. ``labels``
        are the classes to leave, ``targets``, or None, those to reach, and ``noise`` is the lead, in scores, that the
        last step found to be rounding.
    step : callable
        ``step(x, scores, pull, state)`` returns the next points, the state there, and which samples are at an end.
    max_iter : int
        Number of steps; each costs a forward pass and what ``step`` pulls back.
    scores : {"margins", "logits"}
        Which scores to ask for.
    n_pulls : int
        How often ``step`` pulls back at most.

    Returns
    -------
    x_adv : array of shape (n_samples, ...)
    """
    xp = array_namespace(x)
    result = rows = None  # all samples, and which of them are in the batch
    done = xp.zeros_like(state.labels) > 0
    for _ in range(max_iter):
        values, pull = ask(x, scores=scores)
        noise = xp.maximum(noise_of(values), state.noise)
        done = done | (margin(values, state.labels, state.targets).value > noise)
        n_samples, n_done = x.shape[0], int(xp.sum(xp.astype(done, state.labels.dtype)))
        # A pullback works on all samples that went forward. Where it would be wasted on many, it is cheaper to send
        # the others forward once more.
        if n_done * min(n_pulls, values.shape[1] - 1) >= n_samples - n_done:
            result = xp.asarray(x, copy=True) if result is None else scatter(result, rows, x)
            left = ~done
            rows = left if rows is None else scatter(xp.asarray(rows, copy=True), rows, left)
            if n_done == n_samples:
                return result
            x, ask, done = x[left], ask[left], done[left]
            state = type(state)(*(None if part is None else part[left] for part in state))
            values, pull = ask(x, scores=scores)
        moved, state, ended = step(x, values, pull, state)
        x = xp.where(per_sample(done, like=x), x, moved)
        done = done | ended
    return x if result is None else scatter(result, rows, x)
