"""NewtonFool (section 6.10, Algorithm 6)."""

from numbers import Integral, Real

from skart._core._linearised import newton_descent
from skart.attacks._base import GradientAttack
from skart.utils._sklearn_compat import Interval

__all__ = ["NewtonFool"]


class NewtonFool(GradientAttack):
    """Lower the label's probability by Newton steps of bounded length, until the label changes.

    A step goes along the gradient of the label's probability, as far as would bring it down to that of a guess if the
    probability were linear, but no farther than a part ``eta`` of the sample's Euclidean norm [1]_. A step costs one
    forward-backward pass; samples leave the batch when they are adversarial.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    eta : float, default=0.01
        Longest step, as a part of the Euclidean norm of the sample. A sample at the origin therefore stays there: for
        data that are centred there, choose an attack that does not ask where the origin is.
    max_iter : int, default=100
        Largest number of steps.
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
        Not used; nothing is random here.
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
    In the paper samples stay in the batch for ``max_iter`` steps; here a sample stays where its label first changes,
    which is nearer. Features at the end of the range of valid data do not count towards the length of a step that
    would take them outside.

    References
    ----------
    .. [1] "Objective Metrics and Gradient Descent Algorithms for Adversarial Examples in Machine Learning",
       https://doi.org/10.1145/3134600.3134635

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import NewtonFool
    >>> X, y = load_iris(return_X_y=True)
    >>> result = NewtonFool(LogisticRegression(max_iter=200).fit(X, y)).run(X)
    >>> bool(result.success.all())
    True
    """

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "eta": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        eta=0.01,
        max_iter=100,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.eta = eta
        self.max_iter = max_iter
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _search(self, x, *, ask, labels, targets, ball, draw):
        return newton_descent(x, ask, labels, ball=ball, eta=float(self.eta), max_iter=self.max_iter)
