"""The boundary attack (section 6.15): a random walk along the boundary, towards the clean sample."""

from numbers import Integral, Real

import numpy as np

from skart._core._arrays import array_namespace, device, scatter, to_numpy
from skart._core._balls import norm_of
from skart._core._decision import starting_points, to_boundary
from skart.attacks.decision._base import DecisionAttack
from skart.utils._sklearn_compat import Interval

__all__ = ["BoundaryAttack"]

# Where the share of successful trials lies outside these, steps become shorter or longer.
RATES = (0.2, 0.5)
# Share of the distance to which the start is brought to the boundary.
TOLERANCE = 1e-2
# Beyond this, a step around the clean sample is hardly distinguished from a random point of the sphere.
LARGEST_DELTA = 1.0


class BoundaryAttack(DecisionAttack):
    """Find a near adversarial sample from the model's labels alone, by a random walk along its boundary.

    Starts from an adversarial point and repeats two steps [1]_: a random one along the sphere around the clean sample,
    and a short one towards it. The lengths of both follow the share of trials that stay adversarial, for each sample.
    All samples of a batch walk together, in the Euclidean norm.
    :class:`HopSkipJump` comes nearer with the same number of queries.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    delta : float, default=0.1
        Length of the first steps along the sphere, as a share of the distance.
    epsilon : float, default=0.1
        Length of the first steps towards the clean sample, as a share of the distance.
    step_adapt : float, default=0.667
        Factor by which steps become shorter if fewer than a fifth of their trials are adversarial, and by whose inverse
        they become longer if more than a half are.
    max_iter : int, default=1000
        Number of pairs of steps.
    sample_size : int, default=10
        Trials of each step along the sphere; those that are adversarial are tried again nearer to the clean sample.
    min_epsilon : float, default=1e-7
        A sample is done when its steps towards the clean sample are shorter than this.
    init_size : int, default=100
        Most points that are tried for each sample, of each kind, until one is adversarial: those of ``init``, then the
        samples of the batch that the model puts into another class (with a target: into that class), nearest first,
        then random ones. These lie in ``clip_values``; without a range, in a cube around the sample that grows, in
        units of the range of each feature in the batch. A sample for which none is adversarial comes back as it is.
    init : array-like of shape (n_init, ...), default=None
        Samples to start from, such as training data of the target class. Each sample that is attacked takes the nearest
        that the model finds adversarial.
    scale : float or array-like of shape (n_features,), default=None
        Unit of each feature: the Euclidean norm of ``(X_adv - X) / scale`` becomes small, and random steps are alike in
        these units. Zero holds a feature fixed. ``None`` measures in the units of ``X``, for which features of small
        numbers are the cheap ones; the standard deviations of the training data make all features count alike.
        ``AttackResult.distance`` is in the units of ``X`` in any case, ``trace`` in these.
    max_queries : int, default=None
        Most times that each sample, in any version, is sent through the model in one call of ``run`` or ``transform``,
        checks and verdict included; at least 10. ``None`` sets no limit but that of the steps.
    trace : bool, default=False
        Whether ``run`` records the distance of the best sample against the queries.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: any but the label. ``"given"``: ``y`` holds the target of each sample. A label
        that is also a reserved word is given as a list of one element. ``"least_likely"`` and ``"runner_up"`` ask the
        model for scores.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    batch_size : int, default=1024
        Samples that are attacked together, and most candidates that are made and sent through the model at once.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of random directions, points and targets.
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

    References
    ----------
    .. [1] "Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning Models",
       arXiv:1712.04248
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skart.attacks import BoundaryAttack
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = RandomForestClassifier(10, random_state=0).fit(X, y)
    >>> result = BoundaryAttack(clf, max_queries=500, random_state=0).run(X[::5])
    >>> bool(result.success.all())
    True
    >>> bool(np.median(result.distance) < 1.0)
    True
    """

    norm = 2

    _parameter_constraints: dict = {
        **DecisionAttack._parameter_constraints,
        "delta": [Interval(Real, 0, LARGEST_DELTA, closed="right")],
        "epsilon": [Interval(Real, 0, 1, closed="neither")],
        "step_adapt": [Interval(Real, 0, 1, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "sample_size": [Interval(Integral, 1, None, closed="left")],
        "min_epsilon": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        delta=0.1,
        epsilon=0.1,
        step_adapt=0.667,
        max_iter=1000,
        sample_size=10,
        min_epsilon=1e-7,
        init_size=100,
        init=None,
        scale=None,
        max_queries=None,
        trace=False,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=1024,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.delta = delta
        self.epsilon = epsilon
        self.step_adapt = step_adapt
        self.max_iter = max_iter
        self.sample_size = sample_size
        self.min_epsilon = min_epsilon
        self.init_size = init_size
        self.init = init
        self.scale = scale
        self.max_queries = max_queries
        self.trace = trace
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _search(self, x, *, judge, ball, draw):
        region, generator = self._region(x, judge, ball), draw(0)
        start, found = starting_points(region, init=self._starts(x), init_size=self.init_size, generator=generator)
        # As many samples walk together as have all their trials in one batch.
        n_together = max(self.batch_size // self.sample_size, 1)
        where = np.flatnonzero(found)
        for first in range(0, len(where), n_together):
            rows = np.isin(np.arange(len(found)), where[first : first + n_together])
            boundary_walk(
                start[region.mask(rows)],
                region[rows],
                delta=self.delta,
                epsilon=self.epsilon,
                step_adapt=self.step_adapt,
                max_iter=self.max_iter,
                sample_size=self.sample_size,
                min_epsilon=self.min_epsilon,
                generator=generator,
            )


def boundary_walk(x, region, *, delta, epsilon, step_adapt, max_iter, sample_size, min_epsilon, generator):
    """Walk from adversarial points ``x``, (n_samples, n_features), towards the clean ones; the judge keeps the best.

    ``delta`` and ``epsilon`` are the lengths of the first steps around and inwards, as shares of the distance.
    """
    xp = array_namespace(x)
    x = to_boundary(x, region, tolerance=TOLERANCE)
    delta, epsilon = np.full(x.shape[0], float(delta)), np.full(x.shape[0], float(epsilon))
    for _ in range(max_iter):
        walking = (region.left > 0) & (epsilon >= min_epsilon)
        if not walking.any():
            break
        if not walking.all():
            x, region = x[region.mask(walking)], region[walking]
            delta, epsilon = delta[walking], epsilon[walking]
        around = _around(x, region, delta, sample_size, generator)
        # Half of what is left at most: every trial along the sphere may call for one inwards.
        asked = np.arange(sample_size)[None, :] < np.maximum(region.left // 2, 1)[:, None]
        along = region.ask_each(around, asked, keep=False)
        delta = np.minimum(_adapted(delta, along.sum(axis=1), asked.sum(axis=1), step_adapt), LARGEST_DELTA)
        asked = along & (np.cumsum(along, axis=1) <= region.left[:, None])
        inner = around + region.column(epsilon)[:, :, None] * (region.x[:, None, :] - around)
        inner = region.clip(inner)
        inwards = region.ask_each(inner, asked)
        epsilon = np.minimum(_adapted(epsilon, inwards.sum(axis=1), asked.sum(axis=1), step_adapt), 0.5)
        x = _first_of(inner, inwards, _first_of(around, along, x, region), region)
    return xp.asarray(x)


def _around(x, region, delta, n_each, generator):
    """Points at random around ``x`` on the sphere about the clean samples, (n_samples, n_each, n_features)."""
    xp = array_namespace(x)
    out = region.in_units(x - region.x)
    length = norm_of(out, 2)[:, None]
    out = (out / xp.where(length > 0, length, 1.0))[:, None, :]
    shape = (x.shape[0], n_each, x.shape[1])
    steps = xp.asarray(generator.standard_normal(shape, dtype=to_numpy(x[:0, ...]).dtype), device=device(x))
    steps *= xp.astype(region.units > 0, x.dtype)[:, None, :]
    steps -= xp.vecdot(steps, out)[:, :, None] * out
    size = xp.sqrt(xp.vecdot(steps, steps))
    # The sum of a unit vector and one of length delta at a right angle to it, put back on the sphere.
    lengthened = region.column(1 / np.sqrt(1 + delta**2))
    steps *= (region.column(delta) * lengthened / xp.where(size > 0, size, 1.0))[:, :, None]
    steps += lengthened[:, :, None] * out
    steps *= length[:, :, None] * region.units[:, None, :]
    steps += region.x[:, None, :]
    return region.clip(steps)


def _adapted(size, n_met, n_tried, factor):
    """Steps that become shorter where they fail too often, and longer where they succeed too often."""
    rate = n_met / np.maximum(n_tried, 1)
    change = np.where(rate < RATES[0], factor, np.where(rate > RATES[1], 1 / factor, 1.0))
    return size * np.where(n_tried > 0, change, 1.0)


def _first_of(points, met, x, region):
    """``x``, or the first of the points that is adversarial; the trials of a sample are as good as equal."""
    rows = met.any(axis=1)
    if not rows.any():
        return x
    first = np.zeros(met.shape, dtype=bool)
    first[rows, met[rows].argmax(axis=1)] = True
    return scatter(array_namespace(x).asarray(x, copy=True), region.mask(rows), points[region.mask(first)])
