"""The attacks of Carlini and Wagner in the Euclidean and in the maximum norm (sections 6.6 and 6.7)."""

from functools import partial
from numbers import Integral, Real

import numpy as np

from skart._core._bound import within_bound, within_shrinking_bound
from skart._core._descent import by_adam, by_line_search
from skart._core._penalty import Penalty, by_penalty
from skart.attacks._base import GradientAttack
from skart.utils._sklearn_compat import Interval, StrOptions

__all__ = ["CarliniL2Method", "CarliniLInfMethod"]


class CarliniL2Method(GradientAttack):
    """Find the adversarial sample that is nearest in the Euclidean norm.

    Minimises the squared length of the perturbation plus ``c`` times what the lead of another class lacks [1]_, by
    gradient descent in the space of the inverse hyperbolic tangent, where every point lies in the box ([2]_,
    Algorithm 3). The weight ``c`` is sought for each sample: it grows until the attack succeeds, and then goes to the
    middle of the interval of what was too small and what was large enough. The nearest adversarial point of all
    searches is what comes back; where there is none, the point that came closest to the goal.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    confidence : float, default=0.0
        Lead of the best other class over the label, or of the target over all other classes, in the model's scores,
        that counts as success. A sample with that lead comes back unchanged.
    optimizer : {"adam", "line_search"}, default="adam"
        ``"adam"`` as in [1]_. ``"line_search"`` is the gradient descent of [2]_ with steps that are halved and doubled;
        it needs few steps, and comes less near.
    learning_rate : float, default=None
        Length of the first step, in the variables that the searches move: those of the hyperbolic tangent, of which
        about 3 lead from one end of the range to the other; without a range, multiples of the largest change that the
        first gradient predicts. Adam's steps shorten linearly to zero. ``None`` means ``10 / max_iter`` for Adam, and
        less for samples that are near the boundary; 0.1 for the line search, which changes it as it goes.
    binary_search_steps : int, default=5
        Number of weights ``c`` that are tried for each sample.
    max_iter : int, default=100
        Largest number of steps for each weight.
    initial_const : float, default=None
        First weight. ``None`` means one and a half times what a linear model with the scores and gradients of the
        clean sample would need.
    const_factor : float, default=2.0
        By how much the weight grows as long as none was large enough: 2 as in [2]_; the original takes 10.
    max_halving, max_doubling : int, default=5
        Halvings and doublings of a step at most, for the line search.
    abort_early : bool, default=True
        With Adam, leave a search where a tenth of its steps brought less than a part in ten thousand. With both, leave
        out further weights for a sample where the last one brought less than a thousandth, and the right one lies
        between two that were tried.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: any but the label. ``"given"``: ``y`` holds the target of each sample. A label
        that is also a reserved word is given as a list of one element.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
        Without a range, or where a bound is infinite, descent moves the features themselves, in steps that suit the
        distance that the first gradient predicts; it then clips to the bounds that there are.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    batch_size : int, default=256
        Samples that are attacked together.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of random targets; the attack itself draws nothing.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    n_iter_ : int
        Largest number of steps that ``transform`` takes in each search.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Towards Evaluating the Robustness of Neural Networks", arXiv:1608.04644
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import CarliniL2Method
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> result = CarliniL2Method(clf).run(X, y)
    >>> bool(result.success.all())
    True
    >>> bool(np.median(result.distance) < 1.3)
    True
    """

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "confidence": [Interval(Real, 0, None, closed="left")],
        "optimizer": [StrOptions({"adam", "line_search"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "binary_search_steps": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "initial_const": [Interval(Real, 0, None, closed="neither"), None],
        "const_factor": [Interval(Real, 1, None, closed="neither")],
        "max_halving": [Interval(Integral, 0, None, closed="left")],
        "max_doubling": [Interval(Integral, 0, None, closed="left")],
        "abort_early": ["boolean"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        confidence=0.0,
        optimizer="adam",
        learning_rate=None,
        binary_search_steps=5,
        max_iter=100,
        initial_const=None,
        const_factor=2.0,
        max_halving=5,
        max_doubling=5,
        abort_early=True,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.confidence = confidence
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.binary_search_steps = binary_search_steps
        self.max_iter = max_iter
        self.initial_const = initial_const
        self.const_factor = const_factor
        self.max_halving = max_halving
        self.max_doubling = max_doubling
        self.abort_early = abort_early
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _search(self, x, *, ask, labels, targets, ball, draw):
        if self.optimizer == "adam":
            search = partial(
                by_adam, learning_rate=self.learning_rate, max_iter=self.max_iter, abort_early=self.abort_early
            )
        else:
            search = partial(
                by_line_search,
                learning_rate=0.1 if self.learning_rate is None else self.learning_rate,
                max_iter=self.max_iter,
                max_halving=self.max_halving,
                max_doubling=self.max_doubling,
            )
        return by_penalty(
            x,
            Penalty(ask, labels, targets, self.confidence),
            ball=ball,
            search=search,
            initial_const=self.initial_const,
            const_factor=self.const_factor,
            n_searches=self.binary_search_steps,
            abort_early=self.abort_early,
        )


class CarliniLInfMethod(GradientAttack):
    """Find an adversarial sample within ``eps`` in the maximum norm, or the nearest one.

    Each feature is the hyperbolic tangent of a variable, scaled to the interval that ``eps`` and the range of the data
    leave it; descent on what the lead of another class lacks then needs no constraints ([2]_, section 6.7). With
    ``eps=None`` this is repeated for bounds that shrink wherever it succeeds, which takes the place of the penalty for
    large changes in [1]_.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    eps : float or array-like of shape (n_features,), default=None
        Largest change of a feature, in the units of ``X``; an array gives one for each feature. ``None`` looks for the
        smallest one that succeeds. Where nothing succeeds within ``eps``, the point of the largest lead comes back.
    confidence : float, default=0.0
        Lead of the best other class over the label, or of the target over all other classes, in the model's scores,
        that counts as success. A sample with that lead comes back unchanged.
    learning_rate : float, default=None
        Length of the first step, in variables of which about 3 lead from one end of the interval to the other. Steps
        shorten linearly to zero. ``None`` means ``10 / max_iter``.
    binary_search_steps : int, default=10
        Number of bounds that are tried for each sample with ``eps=None``: the first is one and a half times what a
        linear model with the scores and gradients of the clean sample would need; it doubles until one succeeds, and
        then goes to the middle of the interval of the largest one that failed and the smallest change that succeeded.
    max_iter : int, default=100
        Largest number of steps for each bound; a sample leaves as soon as it succeeds.
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
        Source of random targets; the attack itself draws nothing.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    n_iter_ : int
        Largest number of steps that ``transform`` takes in each search.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Towards Evaluating the Robustness of Neural Networks", arXiv:1608.04644
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import CarliniLInfMethod
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> result = CarliniLInfMethod(clf).run(X, y)
    >>> bool(result.success.all())
    True

    What is needed for most of the samples does not suffice for the others:

    >>> eps = np.median(result.distance)
    >>> bool(0.4 < CarliniLInfMethod(clf, eps=eps).run(X, y).success.mean() < 0.6)
    True
    """

    norm = np.inf

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "eps": [Interval(Real, 0, None, closed="left"), "array-like", None],
        "confidence": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "binary_search_steps": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        eps=None,
        confidence=0.0,
        learning_rate=None,
        binary_search_steps=10,
        max_iter=100,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.eps = eps
        self.confidence = confidence
        self.learning_rate = learning_rate
        self.binary_search_steps = binary_search_steps
        self.max_iter = max_iter
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _radius(self):
        return self.eps

    def _search(self, x, *, ask, labels, targets, ball, draw):
        search = within_bound
        if self.eps is None:
            search = partial(within_shrinking_bound, n_searches=self.binary_search_steps)
        return search(
            x,
            Penalty(ask, labels, targets, self.confidence),
            ball=ball,
            learning_rate=10 / self.max_iter if self.learning_rate is None else float(self.learning_rate),
            max_iter=self.max_iter,
        )
