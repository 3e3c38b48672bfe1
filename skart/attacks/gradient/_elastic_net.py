"""The elastic-net attack (section 6.13)."""

from functools import partial
from numbers import Integral, Real

from skart._core._fista import SIZES, by_fista
from skart._core._penalty import Penalty, by_penalty
from skart.attacks._base import GradientAttack
from skart.utils._sklearn_compat import Interval, StrOptions

__all__ = ["ElasticNetAttack"]


class ElasticNetAttack(GradientAttack):
    """Find a near adversarial sample that changes few features.

    Minimises the squared length of the perturbation, plus ``c`` times what the lead of another class lacks, by
    accelerated steps each of which is followed by shrinkage: changes of less than ``beta`` are taken back, and the
    others lessened by it [1]_. The weight ``c`` is sought for each sample as in
    :class:`~skart.attacks.CarliniL2Method`, and the best adversarial point of all searches comes back; where there is
    none, the point that came closest to the goal.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    decision_rule : {"EN", "L1", "L2"}, default="EN"
        Which of the adversarial points is best: that of the least squared length plus ``beta`` times the 1-norm, of
        the least 1-norm, or of the least length. ``run`` reports the Euclidean distance with ``"L2"``, the 1-norm else.
    beta : float, default=0.01
        Shrinkage of each step, in the units of ``X``. Larger values change fewer features by more: it weighs on the
        1-norm as a coefficient of ``beta / learning_rate`` would, and more as the steps shorten.
    confidence : float, default=0.0
        Lead of the best other class over the label, or of the target over all other classes, in the model's scores,
        that counts as success. A sample with that lead comes back unchanged.
    learning_rate : float, default=0.01
        Length of the first step, in units of the gradient; less than 0.5. Steps shorten with the root of what is left
        of them.
    binary_search_steps : int, default=9
        Number of weights ``c`` that are tried for each sample.
    max_iter : int, default=100
        Largest number of steps for each weight.
    initial_const : float, default=None
        First weight. ``None`` means what a linear model with the scores and gradients of the clean sample would need,
        with room for shrinkage by shortened steps.
    const_factor : float, default=2.0
        By how much the weight grows as long as none was large enough; the original takes 10.
    abort_early : bool, default=False
        Leave a search where a tenth of its steps brought less than a part in ten thousand. It saves most of the
        passes for a 1-norm that is some percent larger.
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
    .. [1] "EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples", arXiv:1709.04114

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import CarliniL2Method, ElasticNetAttack
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> sparse = ElasticNetAttack(clf, decision_rule="L1", beta=0.1).run(X, y)
    >>> bool(sparse.success.all())
    True
    >>> dense = CarliniL2Method(clf).transform(X, y)
    >>> bool(sparse.distance.mean() < np.abs(dense - X).sum(axis=1).mean())
    True
    """

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "decision_rule": [StrOptions(set(SIZES))],
        "beta": [Interval(Real, 0, None, closed="left")],
        "confidence": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, 0.5, closed="neither")],
        "binary_search_steps": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "initial_const": [Interval(Real, 0, None, closed="neither"), None],
        "const_factor": [Interval(Real, 1, None, closed="neither")],
        "abort_early": ["boolean"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        decision_rule="EN",
        beta=0.01,
        confidence=0.0,
        learning_rate=0.01,
        binary_search_steps=9,
        max_iter=100,
        initial_const=None,
        const_factor=2.0,
        abort_early=False,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.decision_rule = decision_rule
        self.beta = beta
        self.confidence = confidence
        self.learning_rate = learning_rate
        self.binary_search_steps = binary_search_steps
        self.max_iter = max_iter
        self.initial_const = initial_const
        self.const_factor = const_factor
        self.abort_early = abort_early
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    def norm(self):
        """Norm in which ``run`` reports distances."""
        return 2 if self.decision_rule == "L2" else 1

    def _search(self, x, *, ask, labels, targets, ball, draw):
        return by_penalty(
            x,
            Penalty(ask, labels, targets, self.confidence),
            ball=ball,
            search=partial(
                by_fista,
                beta=self.beta,
                rule=self.decision_rule,
                learning_rate=self.learning_rate,
                max_iter=self.max_iter,
                abort_early=self.abort_early,
            ),
            initial_const=self.initial_const,
            const_factor=self.const_factor,
            n_searches=self.binary_search_steps,
            abort_early=False,  # a larger weight of its 1-norm later in a search is often the better one
            # The last steps are a tenth as long as the first, and shrinkage is ten times as strong beside them.
            threshold=10 * self.beta / self.learning_rate,
        )
