"""Adversarial patches (section 6.16)."""

from numbers import Integral, Real

import numpy as np

from skart._core._arrays import array_namespace, device, to_numpy
from skart._core._objectives import LOSSES, Ledger
from skart._core._random import RandomStream
from skart._core._resampling import resampling
from skart.attacks._base import _Draw, _Space
from skart.attacks.universal._learning import LearntAttack, box, boxed, weighted
from skart.exceptions import GradientUnavailableError
from skart.oracles._oracle import Oracle
from skart.utils._containers import Container
from skart.utils._images import CHANNELS, image_layout
from skart.utils._sklearn_compat import Interval, StrOptions

__all__ = ["AdversarialPatch"]


class AdversarialPatch(LearntAttack):
    """Learn a patch that makes the model misread any image that it is stuck on.

    ``fit`` maximises the expectation, over images and over random sizes, rotations and places of the patch, of the
    log-probability of the target [1]_. Each of its ``max_iter`` steps sticks the patch on a random batch of images,
    each time in another way, pulls the gradient of the loss back through the resampling, and takes a step of Adam
    [2]_. ``transform`` sticks it on images at random; :meth:`apply_patch` does so without asking a model.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`. ``None`` attacks a
        :class:`~sklearn.linear_model.LogisticRegression` surrogate; what was learnt on it can be applied to the model
        that a scorer or trainer has at hand.
    target : label or None, default=None
        Class that the patch is to be taken for. ``None``: any but the one that the model gives without it.
    patch_type : {"circle", "square"}, default="circle"
        Shape of the patch.
    location : (down, right) or None, default=None
        Where the centre of the patch lies, as shares of the height and of the width: (0.5, 0.5) is the middle of the
        image. ``None`` places it anywhere, so that all of it lies on the image.
    rotation_max : float, default=22.5
        Largest rotation to either side, in degrees.
    scale_min, scale_max : float, default=0.3, 0.7
        Range of the patch's width, as a share of the shorter side of the image.
    learning_rate : float, default=0.1
        Step of a pixel of the patch, as a share of the range of values, at the start; it falls to zero.
    max_iter : int, default=200
        Number of steps.
    image_shape : tuple of int, default=None
        How a row of ``X`` makes an image: (height, width), or three numbers with the channels; one of them may be -1,
        for as many as there are. ``None`` takes samples of two or three dimensions as they are.
    channels : {"first", "last"} or None, default=None
        Where the channels stand. ``None`` looks for the end of the shape that is 1, 3 or 4.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside. The patch stays within the widest of these
        ranges, and with ``None`` between the smallest and the largest value in the training data.
    mask : array-like, default=None
        Features that may change, where the patch is to be seen: a boolean array, positions, or column names.
    batch_size : int, default=256
        Images of a step, and images that go through the model together in ``transform``.
    n_jobs : int, default=None
        Processes over which ``transform`` spreads batches. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of the order of images and of sizes, rotations and places.
    verbose : int or bool, default=0
        Show the progress of ``transform`` over batches (needs tqdm).

    Attributes
    ----------
    patch_ : ndarray of shape (side, side), (side, side, n_channels) or (n_channels, side, side)
        The patch, as wide as the shorter side of the image; what lies outside the circle is never seen.
    fooling_rate_ : float
        Share of the training images, with the patch at random, that are misread; with a target, that are taken for
        the target.
    n_iter_ : int
        Number of steps that were taken.
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
    .. [1] "Adversarial Patch", arXiv:1712.09665
    .. [2] "Adam: A Method for Stochastic Optimization", arXiv:1412.6980

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import AdversarialPatch
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FrozenEstimator(LogisticRegression(max_iter=500).fit(X[:1000] / 16, y[:1000]))
    >>> attack = AdversarialPatch(clf, target=3, location=(0.5, 0.5), image_shape=(8, 8), clip_values=(0, 1))
    >>> attack = attack.set_params(random_state=0).fit(X[:1000] / 16)
    >>> attack.patch_.shape
    (8, 8)
    >>> X_patched = attack.apply_patch(X[1000:] / 16, scale=0.6)
    >>> bool((clf.predict(X_patched) == 3).mean() > 0.9)
    True
    """

    _parameter_constraints: dict = {
        **LearntAttack._parameter_constraints,
        "patch_type": [StrOptions({"circle", "square"})],
        "location": [tuple, list, None],
        "rotation_max": [Interval(Real, 0, 180, closed="both")],
        "scale_min": [Interval(Real, 0, 1, closed="right")],
        "scale_max": [Interval(Real, 0, 1, closed="right")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "image_shape": [tuple, list, None],
        "channels": [StrOptions(set(CHANNELS)), None],
    }

    def __init__(
        self,
        estimator=None,
        *,
        target=None,
        patch_type="circle",
        location=None,
        rotation_max=22.5,
        scale_min=0.3,
        scale_max=0.7,
        learning_rate=0.1,
        max_iter=200,
        image_shape=None,
        channels=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.target = target
        self.patch_type = patch_type
        self.location = location
        self.rotation_max = rotation_max
        self.scale_min = scale_min
        self.scale_max = scale_max
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.image_shape = image_shape
        self.channels = channels
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def apply_patch(self, X, scale=None):
        """Stick the patch on images, each time turned and placed at random; no model is asked.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Images.
        scale : float, default=None
            Width of the patch as a share of the shorter side of the image. ``None`` draws it between ``scale_min`` and
            ``scale_max``.

        Returns
        -------
        X_patched : array, tensor or data frame of the kind, dtype and shape of ``X``
        """
        self._validate_params()
        estimator = self._fitted_estimator()
        if scale is not None and not 0 < scale <= 1:
            raise ValueError(f"{type(self).__name__}: scale must lie in (0, 1]; got {scale!r}.")
        container = Container(X)
        X = self._check_samples(container.numbers(X), estimator)
        oracle = Oracle(estimator, X, check=False, container=container)
        space = _Space(self, X, container, oracle)
        x = oracle.asarray(X)
        draw = _Draw(RandomStream(self.random_state), 0, 0)
        parts = []
        for start in range(0, x.shape[0], self.batch_size):
            part = x[start : start + self.batch_size]
            parts.append(self._stuck(part, space, draw._replace(first=start), scale))
        return container.wrap(oracle.xp.concat(parts, axis=0), x)

    def _learnt(self):
        return hasattr(self, "patch_")

    def _learn_from(self, lesson):
        oracle, x = lesson.oracle, lesson.x
        if oracle.access != "gradients":
            raise GradientUnavailableError(f"{type(self).__name__} needs gradients to learn. {oracle._no_gradient}")
        self._check_placement()
        xp, layout = oracle.xp, self._layout(x)
        side = min(layout.height, layout.width)
        low, high = _range(lesson)
        shape = _disc(side, x) if self.patch_type == "circle" else xp.ones_like(_disc(side, x))
        patch = xp.full((side * side, layout.n_channels), (low + high) / 2, dtype=x.dtype, device=oracle.device)
        loss = LOSSES["cross_entropy"]
        order = _cycled(lesson.n_samples, min(self.batch_size, lesson.n_samples), lesson.stream)
        mean, square = xp.zeros_like(patch), xp.zeros_like(patch)
        for step in range(self.max_iter):
            index = next(order)
            clean, labels, targets = lesson.batch(index)
            move = self._placed(lesson.stream.generator(5, step).random((len(index), 4)), layout, side, x.dtype)
            stuck, pullback = _stick(clean, patch, shape, move, layout)
            seen = boxed(stuck, *box(clean, lesson.space))
            # Smooth ones: where the public scores count votes, their slope says little.
            scores, pull = lesson.ask[index](seen, scores="margins")
            goals = lesson.array(labels), None if targets is None else lesson.array(targets)
            grad = pull.last(weighted(loss.function(scores, *goals)))
            grad = pullback(xp.where(seen == stuck, grad, 0.0))
            # Of unit size, so that squares neither overflow nor underflow.
            grad = grad / max(float(xp.max(xp.abs(grad))), float(xp.finfo(grad.dtype).smallest_normal))
            mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
            size = xp.sqrt(square / (1 - 0.999 ** (step + 1)))
            ascent = mean / (1 - 0.9 ** (step + 1)) / xp.where(size > 0, size, 1.0)
            length = self.learning_rate * (high - low) * (1 - step / self.max_iter)
            patch = xp.clip(patch + length * ascent, low, high)
        planes = xp.permute_dims(xp.reshape(patch, (1, side, side, layout.n_channels)), (0, 3, 1, 2))
        kept = layout._replace(shape=_patch_shape(layout, side), height=side, width=side).samples(planes)
        self.patch_ = to_numpy(kept)[0, ...].copy()
        draw = _Draw(lesson.stream, 0, 0)
        return xp.concat(
            [
                self._stuck(x[k : k + self.batch_size], lesson.space, draw._replace(first=k))
                for k in range(0, lesson.n_samples, self.batch_size)
            ],
            axis=0,
        )

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        return self._stuck(x, space, draw), Ledger(x.shape[0])

    def _stuck(self, x, space, draw, scale=None):
        """Images with the patch, each time in another place."""
        self._check_placement()
        xp, layout = array_namespace(x), self._layout(x)
        side = max(self.patch_.shape)
        shape = _patch_shape(layout, side)
        if self.patch_.shape != shape:
            raise ValueError(
                f"{type(self).__name__}: the patch has shape {self.patch_.shape}, where these images want {shape}."
            )
        patch = xp.asarray(self.patch_, dtype=x.dtype, device=device(x))[None, ...]
        planes = layout._replace(shape=shape, height=side, width=side).planes(patch)
        columns = xp.reshape(xp.permute_dims(planes, (0, 2, 3, 1)), (side * side, layout.n_channels))
        disc = _disc(side, x) if self.patch_type == "circle" else xp.ones_like(_disc(side, x))
        move = self._placed(draw.of_samples(x.shape[0], 4), layout, side, x.dtype, scale)
        return boxed(_stick(x, columns, disc, move, layout)[0], *box(x, space))

    def _placed(self, numbers, layout, side, dtype, scale=None):
        """The maps from the patch to images, one for each row of four uniform random numbers."""
        size, turn, down, right = numbers.T
        if scale is None:
            scale = self.scale_min + (self.scale_max - self.scale_min) * size
        width = scale * min(layout.height, layout.width)
        angle = (2 * turn - 1) * self.rotation_max
        half = width / 2
        if self.patch_type == "square":
            half = half * (np.abs(np.cos(np.deg2rad(angle))) + np.abs(np.sin(np.deg2rad(angle))))
        lengths = (layout.height, layout.width)
        if self.location is None:
            # Anywhere, but all of it on the image.
            room = [np.maximum(length / 2 - half, 0) for length in lengths]
            shift = [(2 * number - 1) * most for number, most in zip((down, right), room, strict=True)]
        else:
            shift = [(place - 0.5) * length for place, length in zip(self.location, lengths, strict=True)]
        dtype = np.float32 if str(dtype).endswith("float32") else np.float64
        return resampling((side, side), lengths, angle=angle, shift=shift, scale=width / side, dtype=dtype)

    def _layout(self, x):
        return image_layout(x.shape[1:], self.image_shape, self.channels, owner=type(self).__name__)

    def _check_placement(self):
        if self.location is not None and not _is_place(self.location):
            raise ValueError(
                f"{type(self).__name__}: location must be None or two shares of the height and of the width, each in "
                f"[0, 1]; got {self.location!r}."
            )
        if self.scale_min > self.scale_max:
            raise ValueError(
                f"{type(self).__name__}: scale_min={self.scale_min} is larger than scale_max={self.scale_max}."
            )


def _is_place(location):
    return len(location) == 2 and all(isinstance(share, Real) and 0 <= share <= 1 for share in location)


def _range(lesson):
    """The smallest and the largest value that the patch may take, as floats."""
    low, high = (lesson.space.low, lesson.space.high) if lesson.space.low is not None else (-np.inf, np.inf)
    low, high = float(np.min(low)), float(np.max(high))
    values = to_numpy(lesson.x)
    return low if np.isfinite(low) else float(values.min()), high if np.isfinite(high) else float(values.max())


def _disc(side, x):
    """1 inside the largest circle of a square of pixels, 0 outside, and a share on its edge: (side ** 2,)."""
    xp = array_namespace(x)
    place = np.arange(side) - (side - 1) / 2
    inside = np.clip(side / 2 - np.hypot(place[:, None], place) + 0.5, 0, 1)
    return xp.asarray(inside.ravel(), dtype=x.dtype, device=device(x))


def _patch_shape(layout, side):
    if layout.n_channels == 1:
        return side, side
    return (layout.n_channels, side, side) if layout.first else (side, side, layout.n_channels)


def _stick(x, patch, shape, move, layout):
    """Images with the patch on them, and the function that pulls a gradient by them back to the patch.

    ``patch`` holds the colours of its pixels, (n_pixels, n_channels), and ``shape`` how opaque each of them is.
    """
    xp = array_namespace(x)
    n_samples = x.shape[0]

    def planes(pixels):
        return xp.permute_dims(xp.reshape(pixels, (n_samples, layout.height, layout.width, -1)), (0, 3, 1, 2))

    paint, cover = move(shape[:, None] * patch), move(shape)
    stuck = layout.samples(layout.planes(x) * (1 - planes(cover)) + planes(paint))

    def pullback(grad):
        pixels = xp.permute_dims(layout.planes(grad), (0, 2, 3, 1))
        return shape[:, None] * move.pullback(xp.reshape(pixels, (-1, layout.n_channels)))

    return stuck, pullback


def _cycled(n_samples, size, stream):
    """Batches of positions without end; each round goes through all of the samples in another order."""
    left, n_rounds = np.empty(0, dtype=np.int64), 0
    while True:
        if len(left) < size:
            left = np.concatenate([left, stream.generator(3, n_rounds).permutation(n_samples)])
            n_rounds += 1
        index, left = left[:size], left[size:]
        yield index
