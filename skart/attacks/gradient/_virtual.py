"""The virtual adversarial method (section 6.11, Algorithm 7)."""

from numbers import Integral, Real

import numpy as np

from skart._core._arrays import array_namespace, device, flatten, per_sample, to_numpy
from skart._core._balls import _normalised as normalised
from skart._core._balls import norm_of
from skart._core._linearised import followable
from skart._core._objectives import Asker, Ledger, log_softmax
from skart.attacks._base import BaseAttack
from skart.exceptions import GradientUnavailableError
from skart.utils._sklearn_compat import Interval

__all__ = ["VirtualAdversarialMethod"]

# Rows that one call of a model without gradients gets: many, since a call costs more than its rows.
_ROWS_A_CALL = 4096


class VirtualAdversarialMethod(BaseAttack):
    """Perturb each sample in the direction in which the model's probabilities change the most.

    The samples are made to train with, so that the model becomes smooth around its training data [1]_, and no label is
    needed to make them. From a random direction, the gradient of the Kullback-Leibler divergence of the probabilities
    at ``x`` from those a unit step away is the next direction, ``max_iter`` times; the last one is followed for the
    length ``eps``. Where the model has gradients an iteration costs one forward-backward pass; where it has scores
    only, finite differences take a forward pass for each feature.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    eps : float, default=0.1
        Euclidean length of the perturbation, in the units of ``X``.
    probe : float, default=1.0
        Euclidean length of the step at whose end the gradient is taken, in the units of ``X``.
    finite_diff : float, default=1e-2
        Width of the finite differences for a model without gradients, in the units of ``X``. Much smaller ones drown in
        the rounding of float32.
    max_iter : int, default=10
        Number of gradients.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    batch_size : int, default=256
        Samples that are attacked together.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of the first directions.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    n_iter_ : int
        Number of steps that ``transform`` takes.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Distributional Smoothing with Virtual Adversarial Training", arXiv:1507.00677

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import VirtualAdversarialMethod
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> X_adv = VirtualAdversarialMethod(clf, eps=1.0, max_iter=3, random_state=0).transform(X)
    >>> bool(clf.score(X_adv, y) < 0.8)
    True
    """

    _parameter_constraints: dict = {
        **BaseAttack._parameter_constraints,
        "eps": [Interval(Real, 0, None, closed="left")],
        "probe": [Interval(Real, 0, None, closed="neither")],
        "finite_diff": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        eps=0.1,
        probe=1.0,
        finite_diff=1e-2,
        max_iter=10,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.eps = eps
        self.probe = probe
        self.finite_diff = finite_diff
        self.max_iter = max_iter
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _radius(self):
        return self.eps

    def _check_oracle(self, oracle):
        if oracle.access == "labels":
            raise GradientUnavailableError(
                "VirtualAdversarialMethod needs gradients or scores, and "
                f"{type(oracle.estimator).__name__} gives labels only (it has neither `predict_proba` nor "
                "`decision_function`). Decision-based attacks apply to it."
            )

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        ball = space.ball(x)
        direction = oracle.asarray(draw(0).standard_normal(tuple(x.shape)))
        if oracle.access == "gradients":
            ask = Asker(oracle.vjp, x.shape[0])
            ledger, gradient = ask.ledger, _pulled_back(ask, x)
        else:
            ledger = Ledger(x.shape[0])
            gradient = _from_differences(oracle.logits, x, ledger, ball, float(self.finite_diff))
        found = steepest_divergence(gradient, direction, ball=ball, probe=float(self.probe), max_iter=self.max_iter)
        return ball.enforce(found), ledger


def steepest_divergence(gradient, direction, *, ball, probe, max_iter):
    """The point of the ball in the direction in which the divergence grows most, by a power iteration.

    Parameters
    ----------
    gradient : callable
        A positive multiple, for each sample, of the gradient at a point.
    direction : array of shape (n_samples, ...)
        First guess.
    ball : Ball
        Its centre are the clean samples.
    probe : float
        Distance from the clean samples at which the gradient is asked for.
    max_iter : int

    Returns
    -------
    x_adv : array of shape (n_samples, ...)
    """
    xp = array_namespace(direction)
    for _ in range(max_iter):
        # Only features that can move count towards the length. To give the others' part to them as well, as at the end,
        # would cost a tenth of a pass through a small CNN, for the same success.
        point = ball.centre + probe * normalised(followable(direction, ball.centre, ball))
        if ball.lower is not None:
            point = xp.minimum(xp.maximum(point, ball.lower), ball.upper)
        grad = gradient(point)
        flat = norm_of(grad, np.inf) == 0
        direction = xp.where(per_sample(flat, like=grad), direction, grad) if bool(xp.any(flat)) else grad
    return ball.farthest(direction)


def _pulled_back(ask, x):
    """The divergence's gradient by one pullback; the clean scores are asked for once."""
    clean = log_softmax(ask(x)[0])

    def gradient(point):
        scores, pull = ask(point)
        return pull.last(_divergence_slope(clean, log_softmax(scores)))

    return gradient


def _divergence_slope(clean, there):
    """Derivative of ``KL(p || q)`` by the scores, ``q - p``, for log-probabilities; up to a positive factor a sample.

    Where the model is sure, p and q agree to more digits than their type has. The differences of the small
    probabilities keep their precision, and that of the largest is what the others sum to.
    """
    xp = array_namespace(clean)
    slope = xp.exp(clean) * xp.expm1(there - clean)
    largest = clean == xp.max(clean, axis=1, keepdims=True)
    slope = xp.where(largest, 0.0, slope)
    share = xp.astype(largest, slope.dtype) / xp.sum(xp.astype(largest, slope.dtype), axis=1, keepdims=True)
    slope = slope - share * xp.sum(slope, axis=1, keepdims=True)
    top = norm_of(slope, xp.inf)
    return slope / xp.where(top > 0, top, 1.0)[:, None]


def _from_differences(logits, x, ledger, ball, width):
    """The divergence's gradient by finite differences, a forward pass for each feature that may change."""
    xp = array_namespace(x)
    clean = log_softmax(logits(x))
    ledger.n_queries += 1
    ledger.zero_gradient[:] = True
    weights = xp.exp(clean)
    n_samples, n_features = flatten(x).shape
    moving = np.ones(n_features, dtype=bool)
    upper = None
    if ball.upper is not None:
        upper = flatten(xp.broadcast_to(ball.upper, x.shape))
        moving = to_numpy(upper > flatten(xp.broadcast_to(ball.lower, x.shape))).any(axis=0)
    columns = np.flatnonzero(moving)
    blocks = np.split(columns, range(0, len(columns), max(_ROWS_A_CALL // n_samples, 1))[1:])

    def gradient(point):
        rows = flatten(point)
        here = log_softmax(logits(point))
        # Away from a bound that is near.
        step = xp.full_like(rows, width) if upper is None else xp.where(rows + width > upper, -width, width)
        risen = np.zeros((n_features, n_samples))
        for block in blocks:
            chosen = xp.asarray(block[:, None] == np.arange(n_features), device=device(x))[:, None, :]
            moved = xp.where(chosen, (rows + step)[None, ...], rows[None, ...])
            there = log_softmax(logits(xp.reshape(moved, (-1, *x.shape[1:]))))
            # The difference of the two divergences, without the sums that they have in common.
            lost = here[None, ...] - xp.reshape(there, (len(block), *here.shape))
            risen[block] = to_numpy(xp.sum(weights[None, ...] * lost, axis=2))
        grad = xp.asarray(risen.T, dtype=x.dtype, device=device(x)) / step
        ledger.n_queries += 1 + len(columns)
        ledger.zero_gradient &= to_numpy(norm_of(grad, np.inf) == 0)
        return xp.reshape(grad, x.shape)

    return gradient
