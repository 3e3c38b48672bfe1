"""The Jacobian saliency map attack, JSMA (section 6.5, Algorithms 1 and 2)."""

import math
from numbers import Integral, Real

from skart._core._saliency import saliency_steps
from skart.attacks._base import GradientAttack
from skart.utils._sklearn_compat import Interval, StrOptions

__all__ = ["SaliencyMapMethod"]


class SaliencyMapMethod(GradientAttack):
    """Change few features, two at a time: those that do most for the target and most against the other classes.

    Each step moves a pair of features by ``theta``, the pair for which the sum of the target's derivatives times that
    of the other classes' is of the right sign and largest [1]_. A feature at the end of its range is out of the search.
    A step costs a forward pass and one backward pass (two for logits), and memory for a few numbers a feature;
    samples leave the batch when they are adversarial, have spent their budget of features, or find no pair.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    theta : float, default=0.1
        Change of a feature in one step, in the units of ``X``; negative to lower the features.
    gamma : float, default=1.0
        Largest part of the features that may change.
    scores : {"probabilities", "logits"}, default="probabilities"
        What saliency is taken of. With two classes both give the same pairs.
    max_iter : int, default=1000
        Largest number of steps. Without ``clip_values`` nothing else keeps a feature from moving on and on.
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
        Number of steps that ``transform`` takes at most.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    Notes
    -----
    The method is a targeted one. Without a target it works against the label: a pair is salient that lowers the label
    and raises the sum of the others [2]_.

    References
    ----------
    .. [1] "The Limitations of Deep Learning in Adversarial Settings", arXiv:1511.07528
    .. [2] "Maximal Jacobian-based Saliency Map Attack", arXiv:1808.07945

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.svm import SVC
    >>> from skart.attacks import SaliencyMapMethod
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = SVC().fit(X, y)
    >>> X_adv = SaliencyMapMethod(clf, theta=4, gamma=0.2, clip_values=(0, 16)).transform(X[:50])
    >>> bool((clf.predict(X_adv) != y[:50]).mean() > 0.9)
    True
    >>> int((X_adv != X[:50]).sum(axis=1).max()) <= 12
    True
    """

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "theta": [Interval(Real, None, 0, closed="neither"), Interval(Real, 0, None, closed="neither")],
        "gamma": [Interval(Real, 0, 1, closed="right")],
        "scores": [StrOptions({"probabilities", "logits"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        theta=0.1,
        gamma=1.0,
        scores="probabilities",
        max_iter=1000,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.theta = theta
        self.gamma = gamma
        self.scores = scores
        self.max_iter = max_iter
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _search(self, x, *, ask, labels, targets, ball, draw):
        return saliency_steps(
            x,
            ask,
            labels,
            targets,
            ball=ball,
            theta=float(self.theta),
            n_changed=self._budget(x.shape),
            by_logits=self.scores == "logits",
            max_iter=self.max_iter,
        )

    def _budget(self, shape):
        """Number of features that may change."""
        # A product that rounding has brought below a whole number still means that number.
        return math.floor(self.gamma * math.prod(shape[1:]) * (1 + 1e-12))
