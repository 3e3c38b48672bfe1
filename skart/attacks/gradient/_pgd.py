"""Projected gradient descent and the basic iterative method (sections 6.3 and 6.4)."""

from functools import partial
from numbers import Integral, Real

import numpy as np

from skart._core._search import best_of, projected_ascent
from skart.attacks._base import AscentAttack
from skart.utils._sklearn_compat import Interval
from skart.utils._validation import check_eps

__all__ = ["BasicIterativeMethod", "ProjectedGradientDescent"]


class _IterativeAttack(AscentAttack):
    """Repeated projected steps; the two attacks below differ in where they start."""

    _parameter_constraints: dict = {
        **AscentAttack._parameter_constraints,
        "eps_step": [Interval(Real, 0, None, closed="neither"), "array-like", None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stop": ["boolean"],
    }

    def _steps(self, ball):
        if self.eps_step is None:
            # 2.5 radii in all let an iterate cross the ball and settle on its far side.
            eps_step = 2.5 / self.max_iter * ball.eps
        else:
            eps_step = check_eps(self.eps_step, tuple(ball.centre.shape[1:]), name="eps_step", positive=True)
        return partial(projected_ascent, eps_step=eps_step, max_iter=self.max_iter, early_stop=self.early_stop)


class ProjectedGradientDescent(_IterativeAttack):
    """Maximise the loss in a ball around each sample by projected gradient steps.

    Each run starts at a random point of the ball [1]_. The best iterate is kept: an adversarial one before one that
    is not, then by the loss. ``max_iter`` steps cost as many forward-backward passes and one forward pass.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    norm : {1, 2, np.inf}, default=np.inf
        Norm that measures the perturbation.
    eps : float, array-like of shape (n_features,) or dict, default=0.3
        Radius of the ball in the units of ``X``; an array gives one radius for each feature, a dictionary one for
        each column that it names, where the others stay as they are.
    eps_step : float or array-like of shape (n_features,), default=None
        Length of one step in that norm. ``None`` means ``2.5 * eps / max_iter``.
    max_iter : int, default=40
        Number of steps.
    random_start : bool, default=True
        Start at random points of the ball. ``False`` starts the first run at the clean sample.
    n_restarts : int, default=1
        Number of runs. Samples that one run has broken are left out of the next.
    early_stop : bool, default=False
        Stop working on a sample once it is adversarial, as the scores say: the same success for fewer passes, at a
        lower loss.
    loss : {"cross_entropy", "margin", "dlr", "kl"}, default="cross_entropy"
        Loss to maximise.
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
    n_iter_ : int
        Number of steps that ``transform`` takes in each run.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv:1706.06083

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import ProjectedGradientDescent
    >>> X, y = load_iris(return_X_y=True)
    >>> attack = ProjectedGradientDescent(LogisticRegression(max_iter=200), eps=0.8, random_state=0).fit(X, y)
    >>> X_adv = attack.transform(X, y)
    >>> bool(attack.estimator_.score(X, y) > 0.9 > 0.3 > attack.estimator_.score(X_adv, y))
    True
    """

    _parameter_constraints: dict = {
        **_IterativeAttack._parameter_constraints,
        "random_start": ["boolean"],
        "n_restarts": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        norm=np.inf,
        eps=0.3,
        eps_step=None,
        max_iter=40,
        random_start=True,
        n_restarts=1,
        early_stop=False,
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
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.random_start = random_start
        self.n_restarts = n_restarts
        self.early_stop = early_stop
        self.loss = loss
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _perturb(self, x, *, objective, ball, draw):
        starts = (x if k == 0 and not self.random_start else ball.sample(draw(k)) for k in range(self.n_restarts))
        return best_of(starts, objective, self._steps(ball), ball=ball).x


class BasicIterativeMethod(_IterativeAttack):
    """Repeat fast gradient steps from the clean sample, projected on the ball.

    This is projected gradient descent without a random start [1]_. The original aims at the least likely class:
    ``target="least_likely"``.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    norm : {1, 2, np.inf}, default=np.inf
        Norm that measures the perturbation.
    eps : float, array-like of shape (n_features,) or dict, default=0.3
        Radius of the ball in the units of ``X``; an array gives one radius for each feature, a dictionary one for
        each column that it names, where the others stay as they are.
    eps_step : float or array-like of shape (n_features,), default=None
        Length of one step in that norm. ``None`` means ``2.5 * eps / max_iter``.
    max_iter : int, default=40
        Number of steps.
    early_stop : bool, default=False
        Stop working on a sample once it is adversarial, as the scores say.
    loss : {"cross_entropy", "margin", "dlr", "kl"}, default="cross_entropy"
        Loss to maximise. ``"kl"`` has no gradient at the clean sample: use
        :class:`~skart.attacks.ProjectedGradientDescent` for it.
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
        Source of random targets.
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
    .. [1] "Adversarial examples in the physical world", arXiv:1607.02533

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> from skart.attacks import BasicIterativeMethod
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = SVC().fit(X, y)
    >>> result = BasicIterativeMethod(clf, eps=1.2).run(X)
    >>> bool(result.success.mean() > 0.9)
    True
    """

    def __init__(
        self,
        estimator=None,
        *,
        norm=np.inf,
        eps=0.3,
        eps_step=None,
        max_iter=40,
        early_stop=False,
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
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.early_stop = early_stop
        self.loss = loss
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _perturb(self, x, *, objective, ball, draw):
        return self._steps(ball)(x, objective, ball=ball).x
