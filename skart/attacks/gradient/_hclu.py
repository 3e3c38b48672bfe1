"""High confidence, low uncertainty: adversarial samples for Gaussian processes (section 6.18)."""

import copy
import math
from numbers import Integral, Real

from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF

from skart._core._arrays import array_namespace, device, flatten, one_hot, scatter
from skart._core._hclu import LARGEST_WEIGHT, nearest_feasible
from skart._core._objectives import log_softmax
from skart.attacks._base import GradientAttack
from skart.exceptions import GradientUnavailableError
from skart.utils._sklearn_compat import Interval

__all__ = ["HighConfidenceLowUncertainty"]


class HighConfidenceLowUncertainty(GradientAttack):
    """Find the nearest sample of which a Gaussian process is sure that it belongs to another class.

    Minimises the Euclidean length of the perturbation such that the probability of another class is at least
    ``confidence`` and the variance of the latent function is no larger than at the clean sample [1]_, or than the
    bound given: neither the probability nor the uncertainty of the model gives the sample away.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack: a :class:`~sklearn.gaussian_process.GaussianProcessClassifier` or a
        :class:`~skart.estimators.GPyClassifier`, or a Pipeline that ends in one. Wrap a fitted one in
        :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform`` without ``fit``. ``None`` attacks a
        :class:`~sklearn.gaussian_process.GaussianProcessClassifier` surrogate, or the model that a scorer or trainer
        has at hand.
    confidence : float, default=0.95
        Least probability of the class that is reached, between one half and one.
    max_variance : float, default=None
        Largest variance of the latent function. ``None``: that of the clean sample, times ``variance_ratio``.
    variance_ratio : float, default=1.0
        Largest variance as a multiple of the clean sample's. Without effect where ``max_variance`` is given.
    max_iter : int, default=100
        Largest number of steps of a search; a sample for which the first one finds nothing has two more.
    tol : float, default=1e-4
        A search ends where a step changes the perturbation by less than this share.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: the most probable class but the label, at the clean sample. ``"given"``: ``y`` holds
        the target of each sample. A label that is also a reserved word is given as a list of one element.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    batch_size : int, default=256
        Samples that are attacked together.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result.
    random_state : int, RandomState instance or None, default=None
        Source of random targets; the attack itself draws nothing.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    n_iter_ : int
        Largest number of steps that ``transform`` takes.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    Notes
    -----
    With three classes or more there is a latent function for each class against the rest. None of them may be more
    uncertain than these bounds allow.

    A sample for which nothing was found that keeps both bounds comes back as it was. That happens: where no point at
    all has the confidence, which a model with a variance everywhere may never reach, or where the search, which is
    local, ends between regions of small variance. What comes back changed keeps both bounds, in its dtype. A sample
    that the model had wrong before counts as a success by its label even where it comes back as it was.

    The article hands the problem to a solver with a constraint for each sample by itself. Here sequential quadratic
    programs of a whole batch go side by side: few constraints make small dual problems, and the gradients are exact.

    References
    ----------
    .. [1] "The Limitations of Model Uncertainty in Adversarial Settings", arXiv:1812.02606

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.gaussian_process import GaussianProcessClassifier
    >>> from sklearn.gaussian_process.kernels import RBF
    >>> from skart.attacks import HighConfidenceLowUncertainty
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = GaussianProcessClassifier(1.0 * RBF(1.0)).fit(X[:100], y[:100])
    >>> result = HighConfidenceLowUncertainty(clf, confidence=0.8).run(X[:100:5])
    >>> bool(result.success.all())
    True
    >>> bool(clf.predict_proba(result.X_adv).max(axis=1).min() >= 0.8)
    True
    """

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "confidence": [Interval(Real, 0.5, 1, closed="neither")],
        "max_variance": [Interval(Real, 0, None, closed="neither"), None],
        "variance_ratio": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        confidence=0.95,
        max_variance=None,
        variance_ratio=1.0,
        max_iter=100,
        tol=1e-4,
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
        self.max_variance = max_variance
        self.variance_ratio = variance_ratio
        self.max_iter = max_iter
        self.tol = tol
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _surrogate(self):
        return GaussianProcessClassifier(1.0 * RBF(1.0))

    def _check_oracle(self, oracle):
        super()._check_oracle(oracle)
        if not oracle.knows_uncertainty:
            raise GradientUnavailableError(
                f"{type(self).__name__} needs the variance of a latent function, and {type(oracle.estimator).__name__} "
                "has none. It attacks Gaussian processes: scikit-learn's GaussianProcessClassifier, "
                "skart.estimators.GPyClassifier, and Pipelines that end in one. For high confidence alone, use "
                "CarliniL2Method with a `confidence`."
            )

    def _search(self, x, *, ask, labels, targets, ball, draw):
        xp = array_namespace(x)
        largest = {"max_variance": self.max_variance, "variance_ratio": self.variance_ratio}
        bounds = _Bounds(x, ask, labels, targets, confidence=self.confidence, **largest)
        wide = flatten(xp.astype(x, xp.float64))
        lower, upper = xp.full_like(wide, -xp.inf), xp.full_like(wide, xp.inf)
        if ball.lower is not None:
            lower, upper = (
                flatten(xp.astype(xp.broadcast_to(bound, x.shape), xp.float64)) for bound in (ball.lower, ball.upper)
            )
        box = {"lower": lower, "upper": upper}
        limits = {"max_iter": self.max_iter, "tol": self.tol}
        found = nearest_feasible(wide, bounds, **box, **limits)
        x_adv, failed = found.x, ~xp.isfinite(found.size)
        if bool(xp.any(failed)):
            # Between the sample and the other class the variance is larger. So go on to where the model is as sure as
            # it gets, whatever the distance, and come back from there.
            wide, bounds = wide[failed], bounds[failed]
            box = {name: bound[failed] for name, bound in box.items()}
            sure = nearest_feasible(wide, bounds.certainty(), **box, **limits, weight=LARGEST_WEIGHT).last
            scatter(x_adv, failed, nearest_feasible(wide, bounds, **box, **limits, start=sure).x)
        return xp.astype(xp.reshape(x_adv, x.shape), x.dtype)


class _Bounds:
    """What lacks in confidence, and what is too much in variance, at points rounded to the dtype of the data.

    Both are relative, the logarithm of the probability and the share of the largest variance, so that their weights are
    of a size. The class to reach and the largest variances are those of the first call, at the clean samples.
    """

    def __init__(self, like, ask, labels, targets, *, confidence, max_variance, variance_ratio):
        self._like, self._ask = like, ask
        self._labels, self._goal = labels, targets
        self._confidence, self._largest, self._ratio = math.log(confidence), max_variance, variance_ratio
        # The search aims a little beyond the bounds, and what it finds must be beyond them, so that they hold in the
        # model's own arithmetic, too.
        self._needed = 1e3 * float(array_namespace(like).finfo(like.dtype).eps) + 1e-7
        self._aimed = 10 * self._needed
        self._certainty = False

    def __getitem__(self, rows):
        """The bounds for the samples that ``rows`` (boolean) marks, after the first call."""
        part = copy.copy(self)
        part._ask, part._goal, part._largest = self._ask[rows], self._goal[rows], self._largest[rows]
        return part

    def certainty(self):
        """The bound of a probability of one alone, which no point keeps."""
        part = copy.copy(self)
        part._certainty = True
        return part

    def __call__(self, x):
        xp = array_namespace(x)
        rounded = xp.astype(xp.reshape(x, (x.shape[0], *self._like.shape[1:])), self._like.dtype)
        output, pull = self._ask(rounded, scores="uncertainty")
        # One latent function for two classes, and else one for each class.
        n_classes = max(2, output.shape[1] // 2)
        log_proba = log_softmax(xp.astype(output[:, :n_classes], xp.float64))
        variance = xp.astype(output[:, n_classes:], xp.float64)
        if self._goal is None:
            others = xp.where(one_hot(self._labels, n_classes), -xp.inf, log_proba)
            self._goal = xp.argmax(others, axis=1)
        if self._largest is None or isinstance(self._largest, Real):
            fixed = self._largest is not None
            self._largest = xp.full_like(variance, float(self._largest)) if fixed else self._ratio * variance
        goal, largest = one_hot(self._goal, n_classes), self._largest
        lacking = -xp.sum(xp.where(goal, log_proba, 0.0), axis=1)
        n_variances = 0 if self._certainty else variance.shape[1]
        if self._certainty:
            values, feasible = lacking[:, None], lacking < -xp.inf
        else:
            values = xp.concat([self._confidence + lacking[:, None], variance / largest - 1], axis=1)
            feasible = xp.all(values <= -self._needed, axis=1)

        def slopes():
            to_logits = xp.exp(log_proba) - xp.astype(goal, xp.float64)
            cotangents = [xp.concat([to_logits, xp.zeros_like(variance)], axis=1)]
            for column in range(n_variances):
                chosen = xp.arange(output.shape[1], device=device(x)) == n_classes + column
                cotangents.append(xp.where(chosen[None, :], 1 / largest[:, column : column + 1], 0.0))
            grads = [flatten(pull(xp.astype(cotangent, output.dtype))) for cotangent in cotangents]
            return xp.stack([xp.astype(grad, xp.float64) for grad in grads], axis=1)

        return values + self._aimed, slopes, feasible
