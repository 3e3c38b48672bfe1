"""The Square attack: random search with scores alone."""

from numbers import Integral, Real

import numpy as np

from skart._core._arrays import array_namespace, per_sample
from skart._core._squares import moves_in, random_search
from skart.attacks._base import BlackBoxAttack
from skart.utils._images import CHANNELS, image_layout
from skart.utils._sklearn_compat import Interval, Options, StrOptions

__all__ = ["SquareAttack"]


class SquareAttack(BlackBoxAttack):
    """Look for adversarial samples in a ball by random changes of squares, from scores alone.

    A step changes one random square of each image, and keeps the change where the loss rises [1]_. All samples take
    their steps together, one query each, and leave once the scores say that they are adversarial. Squares get
    smaller on the way; ``p_init`` and ``max_iter`` set how.

    In the maximum norm a square goes to one end of what its features may be, each channel to its own. In the
    Euclidean norm it takes over the length of another square, and what the perturbation has left of its radius.

    The features of a row stand in no order, so that there a random subset of them changes instead of a square: each
    goes to an end of its own, or, in the Euclidean norm, the part of the perturbation that lies in the subset is
    turned by a random angle. With ``image_shape`` rows are read as images.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    norm : {2, np.inf}, default=np.inf
        Norm that measures the perturbation.
    eps : float, array-like of shape (n_features,) or dict, default=0.3
        Radius of the ball in the units of ``X``; an array gives one radius for each feature, a dictionary one for
        each column that it names, where the others stay as they are.
    max_iter : int, default=1000
        Number of steps of a run, which are as many queries.
    max_queries : int, default=None
        Queries that may be spent on each sample, all told. ``None`` sets no bound but ``max_iter``.
    n_restarts : int, default=1
        Number of runs. Samples that one run has broken are left out of the next.
    p_init : float, default=0.8
        Share of the features that a step changes at first. It is halved nine times, as the original does: after
        0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 percent of the steps.
    loss : {"margin", "cross_entropy"}, default="margin"
        Loss to raise.
    image_shape : (height, width), a triple with the channels, or None, default=None
        How the values of a row make an image; one entry may be -1. ``None`` reads samples that have two or three
        axes as images, and rows as rows.
    channels : {"first", "last"} or None, default=None
        Where the channels stand in a shape of three entries. ``None`` looks for the end of it that is 1, 3 or 4.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: any but the label. ``"given"``: ``y`` holds the target of each sample. A label
        that is also a reserved word is given as a list of one element.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    trace : bool, default=False
        Record the distance found against the queries made, in the result's ``trace``.
    batch_size : int, default=1024
        Samples that are attacked together.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of the random changes and targets.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    n_iter_ : int
        Number of steps that ``transform`` takes at most in each run.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    Notes
    -----
    Samples that the attack does not break come back as the point of the ball with the highest loss.

    References
    ----------
    .. [1] "Square Attack: a query-efficient black-box adversarial attack via random search", arXiv:1912.00049

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skart.attacks import SquareAttack
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = RandomForestClassifier(random_state=0).fit(X, y)
    >>> result = SquareAttack(clf, eps=1.2, max_iter=100, random_state=0).run(X, y)
    >>> bool(result.success.mean() > 0.9)
    True
    """

    _needs_scores = True

    _parameter_constraints: dict = {
        **BlackBoxAttack._parameter_constraints,
        "norm": [Options(Real, {2, np.inf})],
        "eps": [Interval(Real, 0, None, closed="left"), "array-like"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "n_restarts": [Interval(Integral, 1, None, closed="left")],
        "p_init": [Interval(Real, 0, 1, closed="right")],
        "loss": [StrOptions({"margin", "cross_entropy"})],
        "image_shape": ["array-like", None],
        "channels": [StrOptions(set(CHANNELS)), None],
    }

    def __init__(
        self,
        estimator=None,
        *,
        norm=np.inf,
        eps=0.3,
        max_iter=1000,
        max_queries=None,
        n_restarts=1,
        p_init=0.8,
        loss="margin",
        image_shape=None,
        channels=None,
        target=None,
        clip_values=None,
        mask=None,
        trace=False,
        batch_size=1024,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.norm = norm
        self.eps = eps
        self.max_iter = max_iter
        self.max_queries = max_queries
        self.n_restarts = n_restarts
        self.p_init = p_init
        self.loss = loss
        self.image_shape = image_shape
        self.channels = channels
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.trace = trace
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _radius(self):
        return self.eps

    def _search(self, x, *, judge, ball, draw):
        shape = tuple(x.shape[1:])
        layout = None
        if self.image_shape is not None or len(shape) in (2, 3):
            layout = image_layout(shape, self.image_shape, self.channels, owner=type(self).__name__)
        moves = moves_in(ball, layout)
        if not moves.any:
            return None
        # A budget that ends a run early should see small squares, too.
        n_steps = min(self.max_iter, max(int(judge.left.max()) - 1, 1))
        xp = array_namespace(x)
        x_best, best = x, np.full(x.shape[0], -np.inf)
        for k in range(self.n_restarts):
            found, value = random_search(
                x, judge, moves, loss=self.loss, p_init=self.p_init, n_steps=n_steps, generator=draw(k)
            )
            better = value > best
            x_best = xp.where(per_sample(xp.asarray(better, device=getattr(x, "device", None)), like=x), found, x_best)
            best = np.where(better, value, best)
        return x_best
