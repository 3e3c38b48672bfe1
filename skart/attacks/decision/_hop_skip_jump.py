"""HopSkipJump (section 6.19): the normal of the boundary, estimated from labels."""

import math
from numbers import Integral, Real

import numpy as np

from skart._core._arrays import array_namespace, device, scatter, sign, to_numpy
from skart._core._balls import norm_of
from skart._core._decision import starting_points, to_boundary
from skart.attacks.decision._base import DecisionAttack
from skart.utils._sklearn_compat import Interval, Options

__all__ = ["HopSkipJump"]

# A boundary point is this near to the other side, as a share of its distance, where the article's tolerance is larger,
# as it is in few dimensions: a bisection costs ten queries, the estimate that follows hundreds.
TOLERANCE = 1e-3
# Distance of the probes as a share of the point's own: so many times 1 / n_free, which is the article's, and no more
# than a third. The steps of a forest are wide: its adversarial samples are a tenth nearer, those of a net 2 % farther.
RADIUS, LARGEST_RADIUS = 5, 1 / 3
# The step is halved so many times at most.
N_HALVINGS = 15


class HopSkipJump(DecisionAttack):
    """Find a near adversarial sample from the model's labels alone, along estimated normals of its boundary.

    Starts from an adversarial point and repeats three steps [1]_: go to the boundary by bisection towards the clean
    sample; ask about random points around it, whose labels give the direction in which the boundary lies; jump in that
    direction, by a step that is halved until it ends in the other class. All samples of a batch take them together. The
    nearest adversarial point that the model was asked about is what comes back.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    norm : {2, np.inf}, default=2
        Norm of the perturbation that becomes small.
    max_iter : int, default=50
        Number of steps.
    init_eval : int, default=100
        Points around the boundary that are asked about in the first step; in step ``t`` there are
        ``init_eval * sqrt(t)``.
    max_eval : int, default=10000
        Most points in one step.
    init_size : int, default=100
        Most points that are tried for each sample, of each kind, until one is adversarial: those of ``init``, then the
        samples of the batch that the model puts into another class (with a target: into that class), nearest first,
        then random ones. These lie in ``clip_values``; without a range, in a cube around the sample that grows, in
        units of the range of each feature in the batch. A sample for which none is adversarial comes back as it is.
    init : array-like of shape (n_init, ...), default=None
        Samples to start from, such as training data of the target class. Each sample that is attacked takes the nearest
        that the model finds adversarial.
    scale : float or array-like of shape (n_features,), default=None
        Unit of each feature: the norm of ``(X_adv - X) / scale`` becomes small, and random steps are alike in these
        units. Zero holds a feature fixed. ``None`` measures in the units of ``X``, for which features of small numbers
        are the cheap ones; the standard deviations of the training data make all features count alike.
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
    .. [1] "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", arXiv:1904.02144
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    A random forest has no gradient, and none is needed:

    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skart.attacks import HopSkipJump
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = RandomForestClassifier(10, random_state=0).fit(X, y)
    >>> result = HopSkipJump(clf, max_queries=500, random_state=0).run(X[::5])
    >>> bool(result.success.all())
    True
    >>> bool(np.median(result.distance) < 1.0)
    True
    >>> bool(result.n_queries.max() <= 500)
    True
    """

    _parameter_constraints: dict = {
        **DecisionAttack._parameter_constraints,
        "norm": [Options(Real, {2, np.inf})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "init_eval": [Interval(Integral, 1, None, closed="left")],
        "max_eval": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        norm=2,
        max_iter=50,
        init_eval=100,
        max_eval=10000,
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
        self.norm = norm
        self.max_iter = max_iter
        self.init_eval = init_eval
        self.max_eval = max_eval
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
        if found.any():
            hop_skip_jump(
                start[region.mask(found)],
                region[found],
                max_iter=self.max_iter,
                init_eval=self.init_eval,
                max_eval=self.max_eval,
                generator=generator,
            )


def hop_skip_jump(x, region, *, max_iter, init_eval, max_eval, generator):
    """Walk along the boundary from the adversarial points ``x``, (n_samples, n_features); the judge keeps the best."""
    n_free = region.n_free
    # The article's theta: so near to the boundary, probes at 1 / n_free of the distance tell its sides apart.
    tolerance = min(n_free**-1.5 if region.norm == 2 else n_free**-2.0, TOLERANCE)
    # What remains when the probes are paid must do for a jump and a bisection.
    reserve = math.ceil(-math.log2(tolerance)) + 4
    x = to_boundary(x, region, tolerance=tolerance)
    for t in range(1, max_iter + 1):
        n_probes = np.minimum(min(int(init_eval * math.sqrt(t)), max_eval), region.left - reserve)
        if not (n_probes > 0).any():
            break
        x, region, n_probes = x[region.mask(n_probes > 0)], region[n_probes > 0], n_probes[n_probes > 0]
        length = region.length(x)
        radius = length * min(RADIUS / n_free, LARGEST_RADIUS)
        direction = boundary_normal(x, region, radius=radius, n_probes=n_probes, generator=generator)
        x, jumped = _jump(x, direction, region, step=length / math.sqrt(t))
        if jumped.any():
            where = region.mask(jumped)
            x = scatter(x, where, to_boundary(x[where], region[jumped], tolerance=tolerance))


def boundary_normal(x, region, *, radius, n_probes, generator):
    """Direction in which points become adversarial: Monte-Carlo estimate from labels, with a baseline.

    Parameters
    ----------
    x : array of shape (n_samples, n_features)
        Points near the boundary.
    region : Region
    radius : ndarray of shape (n_samples,)
        Distance of the probes, in the units of the features.
    n_probes : ndarray of int, shape (n_samples,)
    generator : numpy.random.Generator

    Returns
    -------
    direction : array of shape (n_samples, n_features)
        In the units of the features; of length 1, for the maximum norm of entries -1, 0 and 1.
    """
    xp = array_namespace(x)
    where = {"dtype": x.dtype, "device": device(x)}
    n_samples, n_features = x.shape
    # Probes closer than the spacing of numbers around x would be x itself.
    spacing = 2 * float(xp.finfo(x.dtype).eps) * to_numpy(norm_of(region.in_units(x), 2)).astype(np.float64)
    radius = region.column(np.maximum(radius, spacing))
    free, units = xp.astype(region.units > 0, x.dtype)[:, None, :], region.units[:, None, :]
    # Sums over the adversarial probes and over all: so no more than a batch of probes is ever held.
    sums, n_met = xp.zeros((n_samples, 2, n_features), **where), np.zeros(n_samples)
    n_each = max(region.batch_size // n_samples, 1)
    for first in range(0, int(n_probes.max()), n_each):
        asked = np.arange(first, min(first + n_each, int(n_probes.max())))[None, :] < n_probes[:, None]
        probes = _unit_vectors((*asked.shape, n_features), region.norm, generator, free)
        probes *= radius[:, :, None] * units
        probes += x[:, None, :]
        probes = region.clip(probes)
        met = region.ask_each(probes, asked, keep=False)
        n_met += met.sum(axis=1)
        probes = probes - x[:, None, :]  # what clipping has left of them
        sums += xp.matmul(xp.asarray(np.stack([met, asked], axis=1), **where), probes)
    rate = n_met / n_probes
    # The mean of the labels is taken off. Where all are alike that would leave nothing: then the mean of the probes is
    # taken, and away from it where none is adversarial.
    baseline = region.column(np.where(rate == 1, 0.0, np.where(rate == 0, 1.0, rate)))
    normal = region.in_units(sums[:, 0, :] - baseline * sums[:, 1, :])
    if region.norm == np.inf:
        return sign(normal)
    length = norm_of(normal, 2)[:, None]
    return normal / xp.where(length > 0, length, 1.0)


def _unit_vectors(shape, norm, generator, free):
    """Random directions, (n_samples, n_each, n_features), of Euclidean length 1 in the features that may change."""
    dtype = to_numpy(free[:0, ...]).dtype
    if norm == 2:
        vectors = generator.standard_normal(shape, dtype=dtype)
    else:
        vectors = generator.random(shape, dtype=dtype)
        vectors *= 2
        vectors -= 1
    xp = array_namespace(free)
    vectors = xp.asarray(vectors, device=device(free))
    vectors *= free
    length = xp.sqrt(xp.vecdot(vectors, vectors))
    vectors /= xp.where(length > 0, length, 1.0)[:, :, None]
    return vectors


def _jump(x, direction, region, *, step):
    """``x`` after the first of the steps ``step``, ``step / 2``, ... that ends adversarial; and who has made one."""
    x, jumped = array_namespace(x).asarray(x, copy=True), np.zeros(x.shape[0], dtype=bool)
    able = to_numpy(norm_of(direction, np.inf)) > 0
    for _ in range(N_HALVINGS):
        rows = able & ~jumped & (region.left > 0)
        if not rows.any():
            break
        part, where = region[rows], region.mask(rows)
        points = part.clip(x[where] + part.column(step[rows]) * part.units * direction[where])
        met = part.ask(points)
        jumped[rows] = met
        hit = np.zeros_like(rows)
        hit[rows] = met
        x = scatter(x, region.mask(hit), points[part.mask(met)])
        step = step / 2
    return x, jumped
