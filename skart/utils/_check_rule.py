"""The checker of gradient rules."""

import contextlib
import importlib.util
import warnings

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits  # scikit-learn requires it

from skart._core._arrays import to_numpy

__all__ = ["check_rule"]

# Central differences begin with steps of this part of a feature's spread, halved this often.
_FIRST_STEP, _N_HALVINGS = 0.02, 14
_N_SAMPLES, _N_DIRECTIONS = 8, 4
# Rows on which outputs are compared.
_N_COMPARED = 256


def check_rule(estimator, X, *, rtol=1e-6, random_state=0):
    """Check the gradient rule of a fitted estimator.

    The rule's output is compared with the estimator's own, and its pullback, in float64 and in every namespace at
    hand (NumPy, and torch where it is installed), with central differences along random directions.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier or transformer whose class has a rule.
    X : array of shape (n_samples, ...) or data frame
        Samples. Differences are taken at eight of them, moved a little, since data like to lie on kinks (the blank
        pixels of images on the border of a clipped range).
    rtol : float, default=1e-6
        Largest relative error of a directional derivative. A net in float32 needs about 1e-2.
    random_state : int, RandomState instance or None, default=0
        Draws directions and cotangents.

    Raises
    ------
    AssertionError
        The rule is wrong; the message says in which respect.
    GradientUnavailableError
        There is no rule.

    See Also
    --------
    skart.register_rule : Make a model family differentiable.

    Notes
    -----
    A rule that declares its output not to be continuous goes back through it as the literature does (straight-through);
    its pullback is checked for shape only. Points too near to a kink for differences to settle are left out, as long
    as they are the fewer.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> from skart.utils import check_rule
    >>> X, y = load_iris(return_X_y=True)
    >>> check_rule(SVC().fit(X, y), X)
    """
    check_is_fitted(estimator)
    # Eight samples are no work for several threads, which wait for each other on a busy machine.
    with threadpool_limits(1):
        _check_rule(estimator, X, rtol, random_state)


def _check_rule(estimator, X, rtol, random_state):
    # What lies above this package is imported when it is needed.
    from skart.gradients._registry import NeedsTorch, numpy_backend, torch_backend
    from skart.utils._containers import Container

    container = Container(X)
    numbers = container.numbers(X)
    values = np.asarray(numbers.to_numpy() if container.is_frame else to_numpy(numbers), dtype=np.float64)
    container = container.of_frame
    backends = [numpy_backend("float64", container)]
    try:
        backends[0].bind(estimator)
        if importlib.util.find_spec("torch") is not None:
            backends.append(torch_backend("float64", "cpu", container))
    except NeedsTorch as need:
        backends = [torch_backend("float64", need.device, container)]
    outputs = []
    for backend in backends:
        bound = backend.bind(estimator)
        fail = _failure(estimator, backend)
        with contextlib.ExitStack() as stack:
            for context in bound.contexts:
                stack.enter_context(context())
            outputs.append(_check_bound(bound, backend, values, rtol, check_random_state(random_state), fail))
    if not all(np.allclose(output, outputs[0], rtol=1e-8, atol=1e-10) for output in outputs):
        fail("it does not compute the same with NumPy and with torch.")
    if _classifies(estimator):
        _check_scores(estimator, X if hasattr(X, "columns") else values, fail)
    elif bound.transform is None:
        _check_transform(estimator, X if hasattr(X, "columns") else values, outputs[0], bound, fail)


def _failure(estimator, backend):
    def fail(message):
        namespace = "torch" if backend.is_torch else "NumPy"
        raise AssertionError(f"the gradient rule of {type(estimator).__name__}, with {namespace}: {message}")

    return fail


def _classifies(estimator):
    # A classifier may transform too, and what clusters and transforms predicts too.
    return hasattr(estimator, "predict") and (hasattr(estimator, "classes_") or not hasattr(estimator, "transform"))


def _check_scores(estimator, X, fail):
    """Compare logits with the classifier's own answers."""
    from skart.oracles import as_oracle

    X = X[:_N_COMPARED]
    try:
        oracle = as_oracle(estimator, X)
    except ValueError as error:
        fail(str(error))
    if oracle.varies:
        return
    for scores in ("logits", "margins"):
        given = oracle.vjp(oracle.asarray(X), scores=scores)[0]
        agree = np.mean(to_numpy(given).argmax(axis=1) == oracle.positions(oracle.asarray(X)))
        # Votes may tie, and have no winner: that is rare.
        if agree < 0.9:
            fail(f"the largest of its {scores} is the predicted class for only {agree:.0%} of the samples.")


def _check_transform(estimator, X, output, bound, fail):
    """Compare the output with the transformer's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        own = estimator.transform(X[:_N_COMPARED])
    own = np.asarray(own.toarray() if issparse(own) else own, dtype=np.float64)
    if own.shape != output.shape:
        fail(f"its output has the shape {output.shape}, that of `transform` {own.shape}.")
    error = np.abs(own - output) / (1 + np.abs(own))
    # A point on the edge of a step may fall to either side of it.
    worst = error.max() if bound.continuous else np.median(error)
    if not worst <= 1e-6:
        fail(f"its output differs from that of `transform` by {worst:.2g}.")


def _check_bound(bound, backend, values, rtol, rng, fail):
    """Check each forward of a bound rule; returns the first one's output."""
    from skart.gradients._registry import united

    spread = values.std(axis=0)
    spread = np.where(spread > 0, spread, spread[spread > 0].mean() if (spread > 0).any() else 1.0)
    fixed = united(bound.fixed, None if backend.container is None else backend.container.held)
    if fixed is not None:
        spread = np.where(fixed, 0.0, spread)  # codes of categories, between which there is nothing
    compared = values[:_N_COMPARED]
    values = values[np.linspace(0, len(values) - 1, _N_SAMPLES).astype(int)]
    nudged = values + 0.01 * spread * rng.standard_normal(values.shape)
    for forward in (bound.forward, bound.margins, bound.transform, bound.decision):
        if forward is None:
            continue
        if bound.random:
            forward = _with_equal_draws(forward)
        try:
            _check_contract(forward, values, backend, rng, fail)
            if bound.continuous:
                _check_derivative(forward, nudged, spread, backend, rtol, rng, fail)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise AssertionError(
                f"the gradient rule, with {'torch' if backend.is_torch else 'NumPy'} arrays, raised "
                f"{type(error).__name__}: {error}. A rule computes with operators and functions of `backend.xp`."
            ) from error
    return to_numpy(bound.forward(backend.asarray(compared))[0])


def _with_equal_draws(forward):
    """``forward`` with the same random numbers at every call, wherever the samples are moved."""
    from skart._core._draws import Draws, Question, asking

    def drawn(X):
        with asking(Question(Draws(np.arange(X.shape[0], dtype=np.uint64)))):
            return forward(X)

    return drawn


def _check_contract(forward, values, backend, rng, fail):
    """Shapes and dtypes, and that nothing that was handed over is changed."""
    X, other = backend.asarray(values.copy()), backend.asarray(values[::-1].copy())
    output, pullback = forward(X)
    before = to_numpy(output).copy()
    if output.shape[0] != len(values):
        fail(f"its output has the shape {tuple(output.shape)} for {len(values)} samples.")
    cotangent = rng.standard_normal(tuple(output.shape))
    given = backend.asarray(cotangent.copy())
    first = pullback(given)
    kept = to_numpy(first).copy()
    forward(other)  # must leave the first pullback what it has kept
    second = pullback(given)
    if tuple(first.shape) != tuple(X.shape):
        fail(f"its pullback returns the shape {tuple(first.shape)}; it must be that of X, {tuple(X.shape)}.")
    for name, array in (("output", output), ("pullback", first)):
        if array.dtype != X.dtype:
            fail(f"its {name} has the dtype {array.dtype}; it must be that of X, {X.dtype}.")
    if not np.allclose(kept, to_numpy(second), rtol=1e-10, atol=0, equal_nan=True):
        fail("its pullback does not return the same when it is called twice.")
    if not (np.array_equal(to_numpy(X), values) and np.array_equal(to_numpy(output), before, equal_nan=True)):
        fail("it changes its input or its output in place.")
    if not np.array_equal(to_numpy(given), cotangent):
        fail("its pullback changes the cotangent in place.")


def _check_derivative(forward, values, spread, backend, rtol, rng, fail):
    """Compare the pullback with central differences along random directions."""
    worst, n_settled = 0.0, 0
    for _ in range(_N_DIRECTIONS):
        output, pullback = forward(backend.asarray(values))
        output = to_numpy(output)
        reach = np.abs(output - output.mean(axis=0)).max(axis=0)
        # A column that is constant but for rounding would drown the others in it.
        reach = np.where(reach > 1e-9 * reach.max(), reach, max(reach.max(), 1e-12))
        cotangent = rng.standard_normal(output.shape) / reach
        direction = rng.standard_normal(values.shape) * spread

        def along(step, cotangent=cotangent, direction=direction):
            there = to_numpy(forward(backend.asarray(values + step * direction))[0])
            return _per_sample_sum(there * cotangent)

        with np.errstate(all="ignore"):
            size = _per_sample_sum(np.abs(output * cotangent))
            expected, uncertainty = _derivative_at_zero(along, 1e-15 * size)
            slope = to_numpy(pullback(backend.asarray(cotangent))) * direction
            if np.isfinite(expected).all() and not np.isfinite(slope).all():
                fail("its pullback is not finite where the function is smooth.")
            got = _per_sample_sum(slope)
            # The size that sums of such terms have: a sum may cancel by chance.
            scale = np.maximum(np.sqrt(_per_sample_sum(slope**2)), np.abs(expected))
            floor = 1e-12 * size
            settled = uncertainty <= 0.1 * rtol * scale + floor
            error = np.abs(got - expected) / (scale + floor / rtol)
        n_settled += settled.sum()
        if settled.any():
            worst = max(worst, error[settled].max())
    if not worst <= rtol:
        fail(f"its pullback differs from central differences by {worst:.2g} (relative; allowed is rtol={rtol:g}).")
    if n_settled < 0.5 * _N_DIRECTIONS * len(values):
        fail(
            f"central differences settle to rtol={rtol:g} in {n_settled} of {_N_DIRECTIONS * len(values)} directions "
            "only. If the model computes in float32, allow a larger rtol; if it is a step function, bind the rule as "
            "`skart.gradients.Bound(forward, continuous=False)`."
        )


def _derivative_at_zero(function, rounding):
    """Derivative of a function of one number, sample by sample, and its uncertainty (Ridders' extrapolation).

    Values may differ by ``rounding`` and mean the same.
    """
    steps = _FIRST_STEP / 2.0 ** np.arange(_N_HALVINGS + 1)
    after, before = (np.stack([function(sign * step) for step in steps]) for sign in (1, -1))
    # Over the smallest steps a smooth function is a parabola: what is left is rounding, or a kink at hand.
    bend = after + before - 2 * function(0.0)
    rounding = np.maximum(rounding, np.abs(bend[:-1] - 4 * bend[1:])[-4:].max(axis=0))
    best = uncertainty = None
    previous = []
    for step, difference in zip(steps, after - before):
        row = [difference / (2 * step)]
        for order, coarser in enumerate(previous[:4], start=1):
            row.append(row[-1] + (row[-1] - coarser) / (4**order - 1))
        for order in range(1, len(row)):
            # At small steps rounded values agree by chance.
            spread = np.maximum(np.abs(row[order] - row[order - 1]), np.abs(row[order] - previous[order - 1]))
            spread = np.maximum(spread, rounding / step)
            if best is None:
                best, uncertainty = row[order], spread
            better = spread < uncertainty
            best, uncertainty = np.where(better, row[order], best), np.where(better, spread, uncertainty)
        previous = row
    return best, uncertainty


def _per_sample_sum(values):
    return values.reshape(len(values), -1).sum(axis=1)
