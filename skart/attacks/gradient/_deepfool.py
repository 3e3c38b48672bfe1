"""DeepFool (section 6.8, Algorithm 4)."""

from numbers import Integral, Real

from skart._core._balls import NORMS
from skart._core._linearised import nearest_boundary
from skart.attacks._base import GradientAttack
from skart.utils._sklearn_compat import Interval, Options

__all__ = ["DeepFool"]


class DeepFool(GradientAttack):
    """Step across the nearest decision boundary of the model's linear approximation, until the label changes.

    The perturbation is small, with no radius to choose [1]_. In each step the scores are linearised, and the sample
    goes the shortest way, or a part of it, across the boundary to one of the candidate classes, in the chosen norm and
    inside the range of valid data. On a linear model this leads to the nearest adversarial sample. A step costs a
    forward pass and one backward pass for each candidate; samples leave the batch when they are adversarial.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    norm : {1, 2, np.inf}, default=2
        Norm of the perturbation that is to be small.
    n_candidates : int, default=10
        Number of classes whose boundaries are considered in each step, the highest scores after the label's first.
        With a target it is the only candidate.
    step_size : float, default=0.5
        Part of the way to the boundary that a step goes; what is left is gone in one step once it is a fifth of the
        whole. Whole steps, 1.0, are those of the article: half of the passes, and a perturbation that is longer by a
        tenth on a CNN for MNIST, since the gradient changes on the way. A linear model takes any.
    overshoot : float, default=0.02
        What the way leads beyond the boundary, as a part of its length.
    max_iter : int, default=50
        Largest number of steps.
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
    The overshoot is part of every step, as in the article's own code, and not added at the end. The label is the one
    given as ``y``; without one it is the model's prediction, as in the paper. With a target, a step crosses the
    boundary to the class that is ahead of the target; where several classes are, the perturbation may be longer than
    it need be. A last forward pass sees whether the perturbation can be shortened along its own line.

    The method follows the gradient wherever that leads: from the plateaus of a narrow kernel it may run away from all
    other classes, and fail where attacks in a ball do not.

    References
    ----------
    .. [1] "DeepFool: a simple and accurate method to fool deep neural networks", arXiv:1511.04599

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> from skart.attacks import DeepFool
    >>> X, y = load_iris(return_X_y=True)
    >>> result = DeepFool(SVC().fit(X, y)).run(X)
    >>> bool(result.success.all())
    True
    >>> bool(result.distance.max() < 3)
    True
    """

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "norm": [Options(Real, set(NORMS))],
        "n_candidates": [Interval(Integral, 1, None, closed="left")],
        "step_size": [Interval(Real, 0, 1, closed="right")],
        "overshoot": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        norm=2,
        n_candidates=10,
        step_size=0.5,
        overshoot=0.02,
        max_iter=50,
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
        self.n_candidates = n_candidates
        self.step_size = step_size
        self.overshoot = overshoot
        self.max_iter = max_iter
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _search(self, x, *, ask, labels, targets, ball, draw):
        return nearest_boundary(
            x,
            ask,
            labels,
            targets,
            ball=ball,
            n_candidates=self.n_candidates,
            step_size=float(self.step_size),
            overshoot=float(self.overshoot),
            max_iter=self.max_iter,
        )
