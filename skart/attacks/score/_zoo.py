"""ZOO: zeroth-order optimisation, coordinate by coordinate (section 6.14)."""

from numbers import Integral, Real

import numpy as np

from skart._core._arrays import to_numpy
from skart._core._coordinates import Grid
from skart._core._zeroth_order import Plan, zeroth_order
from skart.attacks._base import BlackBoxAttack
from skart.utils._images import CHANNELS, ImageLayout, image_layout
from skart.utils._sklearn_compat import Interval, StrOptions

__all__ = ["ZooAttack"]


class ZooAttack(BlackBoxAttack):
    """Look for near adversarial samples with Carlini and Wagner's objective, from scores alone.

    Minimises the squared Euclidean length of the perturbation plus a constant times what the lead of another class
    (or of the target) lacks. The derivatives along a few coordinates at a time are differences of scores, two queries
    each [1]_. All samples take their steps together, and the probes of all of them go to the model in big batches. A
    search over the constant weighs length against success for each sample.

    Steps and differences are in units of each feature's range: that of ``clip_values`` where it is finite, else that
    of the samples which are attacked together. Where scores are a staircase, as those of trees, they answer nothing
    to a small change. This is noticed for each sample at the start; there the probes have random sizes, up to half
    of the range, and the search goes on to the best point that it has seen.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform``
        without ``fit``. ``None`` attacks a :class:`~sklearn.linear_model.LogisticRegression` surrogate, or the model
        that a scorer or trainer has at hand.
    confidence : float, default=0.0
        Lead over the other classes to reach, in units of the model's scores. Samples that are misclassified as they
        come are left as they are.
    optimizer : {"adam", "newton"}, default="adam"
        How the differences are followed.
    learning_rate : float, default=None
        For Adam, the length of a step in units of the features' range. ``None`` takes 0.02, and up to 0.2 where a
        coordinate is visited so seldom that it would not go through its range otherwise. For Newton, the part of the
        way to where the derivative would vanish, by default 0.3.
    difference : float, default=0.01
        Half of the span of differences, in units of the features' range.
    n_coordinates : int, default=128
        Coordinates of each sample that are probed in a step, at the price of two queries each; one more query judges
        the step.
    importance : bool, default=True
        Draw coordinates the more often, the more the perturbation has changed in them and in the pixels beside.
    resize : int, list of int or None, default=None
        Rows and columns of a smaller image that holds the perturbation and is enlarged linearly: fewer coordinates
        for large images. Of several, each gets an equal part of the steps, in their order. ``None`` takes the
        features themselves.
    max_iter : int, default=100
        Number of steps for each constant.
    binary_search_steps : int, default=4
        Number of constants that are tried.
    initial_const : float, default=None
        First constant. ``None`` takes for each sample what linear scores would need, and half as much again.
    abort_early : bool, default=True
        Leave samples whose objective has come to rest.
    max_queries : int, default=None
        Queries that may be spent on each sample, all told.
    image_shape : (height, width), a triple with the channels, or None, default=None
        How the values of a row make an image, for ``resize`` and ``importance``; one entry may be -1. ``None`` reads
        samples that have two or three axes as images.
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
        Samples that are attacked together, and probes that are sent to the model at once.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of the coordinates, of random sizes and of random targets.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    n_iter_ : int
        Number of steps that ``transform`` takes at most for each constant.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    Notes
    -----
    Samples that the attack does not break come back as the point that came nearest to the goal.

    References
    ----------
    .. [1] "ZOO: Zeroth Order Optimization Based Black-box Attacks to Deep Neural Networks without Training Substitute
       Models", arXiv:1708.03999

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skart.attacks import ZooAttack
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = RandomForestClassifier(20, random_state=0).fit(X, y)
    >>> result = ZooAttack(clf, max_iter=20, binary_search_steps=2, random_state=0).run(X[::10], y[::10])
    >>> bool(result.success.all())
    True
    """

    _needs_scores = True

    _parameter_constraints: dict = {
        **{name: kinds for name, kinds in BlackBoxAttack._parameter_constraints.items() if name != "norm"},
        "confidence": [Interval(Real, 0, None, closed="left")],
        "optimizer": [StrOptions({"adam", "newton"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "difference": [Interval(Real, 0, 1, closed="neither")],
        "n_coordinates": [Interval(Integral, 1, None, closed="left")],
        "importance": ["boolean"],
        "resize": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "binary_search_steps": [Interval(Integral, 1, None, closed="left")],
        "initial_const": [Interval(Real, 0, None, closed="neither"), None],
        "abort_early": ["boolean"],
        "image_shape": ["array-like", None],
        "channels": [StrOptions(set(CHANNELS)), None],
    }

    def __init__(
        self,
        estimator=None,
        *,
        confidence=0.0,
        optimizer="adam",
        learning_rate=None,
        difference=0.01,
        n_coordinates=128,
        importance=True,
        resize=None,
        max_iter=100,
        binary_search_steps=4,
        initial_const=None,
        abort_early=True,
        max_queries=None,
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
        self.confidence = confidence
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.difference = difference
        self.n_coordinates = n_coordinates
        self.importance = importance
        self.resize = resize
        self.max_iter = max_iter
        self.binary_search_steps = binary_search_steps
        self.initial_const = initial_const
        self.abort_early = abort_early
        self.max_queries = max_queries
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

    def _search(self, x, *, judge, ball, draw):
        layout = self._layout(tuple(x.shape[1:]))
        plan = Plan(
            grids=self._grids(layout),
            units=_ranges(judge.others[0], ball, layout),
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            difference=self.difference,
            n_coordinates=self.n_coordinates,
            max_iter=self.max_iter,
            binary_search_steps=self.binary_search_steps,
            initial_const=self.initial_const,
            confidence=self.confidence,
            importance=self.importance,
            abort_early=self.abort_early,
        )
        return zeroth_order(x, judge, ball, plan=plan, batch_size=self.batch_size, generator=draw(0))

    def _layout(self, shape):
        if self.image_shape is not None or len(shape) in (2, 3):
            return image_layout(shape, self.image_shape, self.channels, owner=type(self).__name__)
        return ImageLayout(shape, 1, int(np.prod(shape)), 1, True)

    def _grids(self, layout):
        if self.resize is None:
            return [Grid.of(layout)]
        sides = np.atleast_1d(self.resize)
        if sides.ndim != 1 or len(sides) == 0 or sides.dtype.kind not in "iu" or sides.min() < 1:
            raise ValueError(
                f"{type(self).__name__}: resize must be one positive integer or a list of them; got {self.resize!r}."
            )
        if layout.height == 1:
            raise ValueError(
                f"{type(self).__name__}: resize needs images, and a sample has shape {layout.shape}. Say how its "
                "values make an image, image_shape=(height, width), or leave resize at None: features of a row stand "
                "in no order."
            )
        return [Grid.of(layout, int(side)) for side in sides]


def _ranges(x, ball, layout):
    """Range of each feature, (n_channels, height, width): of the box where that is finite, else of the samples."""
    values = to_numpy(layout.planes(x)).astype(np.float64)
    spread = np.ptp(values, axis=0)
    # A single sample, or a feature that is the same in all of them: its size, or that of the others.
    size = np.abs(values).max(axis=0)
    mean = spread[spread > 0].mean() if (spread > 0).any() else size[size > 0].mean() if size.any() else 1.0
    spread = np.where(spread > 0, spread, np.where(size > 0, size, mean))
    if ball.lower is None:
        return spread
    with np.errstate(invalid="ignore"):
        width = to_numpy(layout.planes(ball.upper - ball.lower)).astype(np.float64).max(axis=0)
    return np.where(np.isfinite(width) & (width > 0), width, spread)
