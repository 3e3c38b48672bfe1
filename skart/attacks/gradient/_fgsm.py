"""The fast gradient method: one gradient, one step to the edge of the ball (section 6.2)."""

from functools import partial
from numbers import Integral, Real

import numpy as np

from skart._core._search import Found, best_of, minimal_step, single_step
from skart.attacks._base import AscentAttack
from skart.utils._sklearn_compat import Interval

__all__ = ["FastGradientMethod"]


class FastGradientMethod(AscentAttack):
    """Step once to the point of the ball where the linearised loss is largest.

    For the maximum norm this is the sign of the gradient times ``eps``, and for the Euclidean norm the gradient scaled
    to ``eps``, as in [1]_ and [2]_, section 6.2. With ``clip_values`` the step is the maximiser over ball and box
    together: a feature that meets its bound leaves its part of ``eps`` to the others.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    norm : {1, 2, np.inf}, default=np.inf
        Norm that measures the perturbation. For ``1`` the maximiser spends ``eps`` on the features of the largest
        derivatives; it is stronger than the gradient scaled to unit 1-norm that [2]_ writes.
    eps : float, array-like of shape (n_features,) or dict, default=0.3
        Radius of the ball in the units of ``X``; an array gives one radius for each feature, a dictionary one for
        each column that it names, where the others stay as they are.
    minimal : bool, default=False
        Look for the smallest perturbation: try the radii ``eps_step``, ``2 * eps_step``, ... up to ``eps_max`` and
        keep the first that succeeds. ``eps`` is not used then.
    eps_step : float, default=0.01
        Increment of the radius with ``minimal=True``.
    eps_max : float, default=1.0
        Largest radius with ``minimal=True``.
    n_restarts : int, default=1
        Number of points at which the gradient is taken: the clean sample and, from the second on, random points of
        the ball. The best result is kept.
    loss : {"cross_entropy", "margin", "dlr", "kl"}, default="cross_entropy"
        Loss to maximise. ``"kl"`` has no gradient at the clean sample, so it needs restarts.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: any but the label. ``"given"``: ``y`` holds the target of each sample. A label
        that is also a reserved word is given as a list of one element.
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
        Source of the random starts and targets.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Explaining and Harnessing Adversarial Examples", arXiv:1412.6572
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import FastGradientMethod
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> X_adv = FastGradientMethod(clf, eps=0.8).transform(X, y)
    >>> bool(clf.score(X, y) > 0.9 > 0.5 > clf.score(X_adv, y))
    True
    """

    _parameter_constraints: dict = {
        **AscentAttack._parameter_constraints,
        "minimal": ["boolean"],
        "eps_step": [Interval(Real, 0, None, closed="neither")],
        "eps_max": [Interval(Real, 0, None, closed="neither")],
        "n_restarts": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        norm=np.inf,
        eps=0.3,
        minimal=False,
        eps_step=0.01,
        eps_max=1.0,
        n_restarts=1,
        loss="cross_entropy",
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.norm = norm
        self.eps = eps
        self.minimal = minimal
        self.eps_step = eps_step
        self.eps_max = eps_max
        self.n_restarts = n_restarts
        self.loss = loss
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _radius(self):
        return self.eps_max if self.minimal else self.eps

    def _perturb(self, x, *, objective, ball, draw):
        if self.minimal:
            if self.eps_step > self.eps_max:
                raise ValueError(
                    f"eps_step={self.eps_step} is larger than eps_max={self.eps_max}; no radius would be tried."
                )
            search = partial(minimal_step, eps_step=self.eps_step, eps_max=self.eps_max)
        elif self.n_restarts == 1:
            return single_step(x, objective, ball=ball)
        else:
            search = _judged_step
        starts = (x if k == 0 else ball.sample(draw(k)) for k in range(self.n_restarts))
        return best_of(starts, objective, search, ball=ball).x


def _judged_step(x, objective, *, ball):
    """A single step with its evaluation, so that steps from several starts can be compared."""
    moved = single_step(x, objective, ball=ball)
    there = objective.value(moved)
    return Found(moved, there.value, there.adversarial)
