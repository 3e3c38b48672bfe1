"""Rotations and translations of images (section 6.12)."""

from itertools import product
from numbers import Integral, Real

import numpy as np

from skart._core._arrays import array_namespace, device, to_numpy
from skart._core._objectives import LOSSES, Ledger, goal_met
from skart._core._resampling import columns_of, resampling
from skart.attacks.universal._learning import LearntAttack, box, boxed
from skart.utils._images import CHANNELS, image_layout
from skart.utils._sklearn_compat import Interval, StrOptions

__all__ = ["SpatialTransformation"]


class SpatialTransformation(LearntAttack):
    """Turn and move images until the model misreads them.

    An image is turned around its centre and moved, with bilinear interpolation; no pixel is changed otherwise [1]_.
    ``fit`` tries every rotation and translation of a grid on all of the training data and keeps the one that deceives
    the model on most of them [2]_; between two that deceive as many, the one of the higher mean margin. ``transform``
    applies it. With ``per_sample=True`` it is ``transform`` that searches the grid, for each image: from small
    transformations to large ones, until one deceives the model. Images that resist them all come back as the model
    likes them least.

    Scores are enough, and with labels alone it counts who is deceived. There is no radius: the grid bounds what
    happens to an image, and ``run`` reports Euclidean distances.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`. ``None`` attacks a
        :class:`~sklearn.linear_model.LogisticRegression` surrogate; what was learnt on it can be applied to the model
        that a scorer or trainer has at hand.
    max_translation : float, default=10
        Largest translation, to either side and along both axes, in percent of the image's height or width.
    num_translations : int, default=5
        Translations along each axis, evenly spaced; 1 leaves images where they are.
    max_rotation : float, default=30
        Largest rotation to either side, in degrees.
    num_rotations : int, default=31
        Rotations, evenly spaced; 1 does not turn images.
    per_sample : bool, default=False
        Search for each image by itself. There is nothing to learn then.
    fill : float, default=0
        Value of what comes in from outside the image, in the units of ``X``.
    image_shape : tuple of int, default=None
        How a row of ``X`` makes an image: (height, width), or three numbers with the channels; one of them may be -1,
        for as many as there are. ``None`` takes samples of two or three dimensions as they are.
    channels : {"first", "last"} or None, default=None
        Where the channels stand. ``None`` looks for the end of the shape that is 1, 3 or 4.
    target : label or None, default=None
        Class to reach. ``None``: any but the one that the model gives. With ``per_sample=True`` also "given",
        "least_likely", "random" or "runner_up".
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    batch_size : int, default=256
        Images that go through the model together.
    n_jobs : int, default=None
        Processes over which ``transform`` spreads batches. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of random targets.
    verbose : int or bool, default=0
        Show the progress of ``transform`` over batches (needs tqdm).

    Attributes
    ----------
    rotation_ : float
        Rotation that ``transform`` applies, in degrees, counter-clockwise. Absent with ``per_sample=True``.
    translation_ : tuple of two floats
        How far ``transform`` moves an image, right and down, in percent of its width and of its height. Absent with
        ``per_sample=True``.
    fooling_rate_ : float
        Share of the training images that it deceives; with a target, of those that are taken for the target. Absent
        with ``per_sample=True``.
    estimator_ : estimator
        The fitted classifier that is attacked.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Exploring the Landscape of Spatial Robustness", arXiv:1712.02779
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.svm import SVC
    >>> from skart.attacks import SpatialTransformation
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FrozenEstimator(SVC().fit(X[:1000], y[:1000]))
    >>> attack = SpatialTransformation(clf, num_rotations=5, num_translations=3, image_shape=(8, 8)).fit(X[:200])
    >>> abs(attack.rotation_)
    30.0
    >>> bool(clf.score(X[1000:], y[1000:]) > 0.9 > 0.6 > clf.score(attack.transform(X[1000:]), y[1000:]))
    True
    """

    mask = None  # not a parameter: a transformation moves every pixel

    _parameter_constraints: dict = {
        **{name: what for name, what in LearntAttack._parameter_constraints.items() if name != "mask"},
        "max_translation": [Interval(Real, 0, 100, closed="both")],
        "num_translations": [Interval(Integral, 1, None, closed="left")],
        "max_rotation": [Interval(Real, 0, 180, closed="both")],
        "num_rotations": [Interval(Integral, 1, None, closed="left")],
        "per_sample": ["boolean"],
        "fill": [Interval(Real, None, None, closed="neither")],
        "image_shape": [tuple, list, None],
        "channels": [StrOptions(set(CHANNELS)), None],
    }

    def __init__(
        self,
        estimator=None,
        *,
        max_translation=10.0,
        num_translations=5,
        max_rotation=30.0,
        num_rotations=31,
        per_sample=False,
        fill=0.0,
        image_shape=None,
        channels=None,
        target=None,
        clip_values=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.max_translation = max_translation
        self.num_translations = num_translations
        self.max_rotation = max_rotation
        self.num_rotations = num_rotations
        self.per_sample = per_sample
        self.fill = fill
        self.image_shape = image_shape
        self.channels = channels
        self.target = target
        self.clip_values = clip_values
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _learnt(self):
        return self.per_sample or hasattr(self, "rotation_")

    def _target_kind(self, target, classes):
        # What is searched for each sample may have a target for each.
        return (super(LearntAttack, self) if self.per_sample else super())._target_kind(target, classes)

    def _grid(self):
        """Rotations and translations right and down, small ones first: (n_transformations, 3)."""

        def axis(end, number):
            return np.linspace(-end, end, number) if number > 1 else np.zeros(1)

        shifts = axis(self.max_translation, self.num_translations)
        grid = np.array(list(product(axis(self.max_rotation, self.num_rotations), shifts, shifts)))
        # In units of the largest, so that degrees and percents can be compared; equal ones as they come.
        units = [self.max_rotation or 1.0] + 2 * [self.max_translation or 1.0]
        return grid[np.argsort(np.round(np.sum((grid / units) ** 2, axis=1), 9), kind="stable")]

    def _layout(self, shape):
        return image_layout(shape, self.image_shape, self.channels, owner=type(self).__name__)

    def _learn_from(self, lesson):
        for name in ("rotation_", "translation_", "fooling_rate_"):  # of an earlier fit
            vars(self).pop(name, None)
        layout = self._layout(lesson.x.shape[1:])
        if self.per_sample:
            return None
        batches = [np.arange(k, min(k + self.batch_size, lesson.n_samples)) for k in self._starts(lesson.n_samples)]
        stacks = [_Stack(lesson.x[rows[0] : rows[-1] + 1], layout, lesson.space, self.fill) for rows in batches]
        judge = _Judge(lesson.oracle, lesson.labels, lesson.targets)
        best, best_place = (-1, -np.inf), None
        for place in self._grid():
            move = _resampling(place, layout, lesson.x.dtype)
            verdicts = [judge(stack.moved(move), rows) for stack, rows in zip(stacks, batches, strict=True)]
            met, value = (np.concatenate(parts) for parts in zip(*verdicts, strict=True))
            found = (np.count_nonzero(met), np.mean(value))
            if found > best:
                best, best_place = found, place
        angle, right, down = best_place.tolist()
        self.rotation_, self.translation_ = angle, (right, down)
        move = _resampling(best_place, layout, lesson.x.dtype)
        return lesson.oracle.xp.concat([stack.moved(move) for stack in stacks], axis=0)

    def _starts(self, n_samples):
        return range(0, n_samples, self.batch_size)

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        layout, ledger = self._layout(x.shape[1:]), Ledger(x.shape[0])
        stack = _Stack(x, layout, space, self.fill)
        if not self.per_sample:
            return stack.moved(_resampling((self.rotation_, *self.translation_), layout, x.dtype)), ledger
        grid, judge = self._grid(), _Judge(oracle, labels, targets)
        chosen = np.zeros(x.shape[0], dtype=np.int64)
        worst = np.full(x.shape[0], -np.inf)
        rows = np.arange(x.shape[0])  # images that resist so far
        rest = stack
        for k, place in enumerate(grid):
            met, value = judge(rest.moved(_resampling(place, layout, x.dtype)), rows)
            ledger.n_queries[rows] += judge.n_passes
            better = met | (value > worst[rows])
            chosen[rows[better]], worst[rows[better]] = k, value[better]
            if met.all():
                break
            if met.any():
                rows, rest = rows[~met], rest.take(~met)
        return stack.moved_apart(_resampling(grid[chosen].T, layout, x.dtype, paired=True)), ledger


def _resampling(place, layout, dtype, paired=False):
    """The map of a transformation, or of several: degrees, percents to the right, percents down."""
    angle, right, down = place
    shape = (layout.height, layout.width)
    shift = (down / 100 * layout.height, right / 100 * layout.width)
    dtype = np.float32 if str(dtype).endswith("float32") else np.float64
    return resampling(shape, shape, angle=angle, shift=shift, dtype=dtype, paired=paired)


class _Stack:
    """The images of a batch, laid out once for all of the maps that they go through."""

    def __init__(self, x, layout, space, fill):
        self._x, self._layout, self._space, self._fill = x, layout, space, fill
        self._bounds = box(x, space)
        self._planes = layout.planes(x)
        self._columns = columns_of(self._planes)  # which a sparse matrix multiplies fast

    def take(self, rows):
        """The images that the boolean ``rows`` marks."""
        xp = array_namespace(self._x)
        return _Stack(self._x[xp.asarray(rows, device=device(self._x))], self._layout, self._space, self._fill)

    def moved(self, move):
        """All images through one map."""
        xp, layout = array_namespace(self._x), self._layout
        pixels = xp.reshape(self._through(move, self._columns), (layout.height, layout.width, -1, layout.n_channels))
        return self._samples(xp.permute_dims(pixels, (2, 3, 0, 1)))

    def moved_apart(self, move):
        """Each image through a map of its own; ``move`` is paired."""
        xp, layout = array_namespace(self._x), self._layout
        pixels = xp.reshape(xp.permute_dims(self._planes, (0, 2, 3, 1)), (-1, layout.n_channels))
        pixels = xp.reshape(self._through(move, pixels), (-1, layout.height, layout.width, layout.n_channels))
        return self._samples(xp.permute_dims(pixels, (0, 3, 1, 2)))

    def _through(self, move, pixels):
        if self._fill == 0:
            return move(pixels)
        xp = array_namespace(pixels)
        outside = xp.asarray(1 - move.coverage(), dtype=pixels.dtype, device=device(pixels))
        return move(pixels) + self._fill * outside[:, None]

    def _samples(self, planes):
        return boxed(self._layout.samples(planes), *self._bounds)


class _Judge:
    """Who is deceived, and by how much: by scores where the model has some, by labels alone otherwise."""

    def __init__(self, oracle, labels, targets):
        self._oracle, self._labels, self._targets = oracle, labels, targets

    @property
    def n_passes(self):
        """Times that a version of a sample goes through the model."""
        oracle = self._oracle
        return 1 if oracle.access == "labels" or oracle.runs_in_process else 2

    def __call__(self, x, rows):
        """Whether the goal is met by the versions ``x`` of the samples at ``rows``, and a value to be maximised."""
        oracle = self._oracle
        labels, targets = (None if goal is None else goal[rows] for goal in (self._labels, self._targets))
        # A net says what its largest score says. Other models may break ties between votes in ways of their own.
        asks_labels = oracle.access == "labels" or not oracle.runs_in_process
        if asks_labels:
            positions = oracle.positions(x)
            met = positions != labels if targets is None else positions == targets
        if oracle.access == "labels":
            return met, met.astype(np.float64)
        scores = oracle.logits(x)
        goals = [None if goal is None else oracle.xp.asarray(goal, device=oracle.device) for goal in (labels, targets)]
        value = LOSSES["margin"].function(scores, *goals).value
        return met if asks_labels else to_numpy(goal_met(scores, *goals)), to_numpy(value).astype(np.float64)
