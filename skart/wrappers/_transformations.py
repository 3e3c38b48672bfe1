"""Random rotations, translations and scalings of images, to take expectations over."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import array_namespace, to_numpy
from skart._core._draws import draws_for
from skart._core._resampling import resampling
from skart.gradients._registry import Bound, rule
from skart.utils._images import CHANNELS, image_layout
from skart.utils._sklearn_compat import Interval, StrOptions, fit_context

__all__ = ["RandomAffine"]

FLOAT_DTYPES = (np.float64, np.float32)


class RandomAffine(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Turn, move and scale each image by random amounts.

    What happens to an image is linear in its pixels (bilinear interpolation), so that attacks have an exact gradient
    through it.

    Parameters
    ----------
    rotation : float, default=15
        Largest rotation around the centre to either side, in degrees.
    translation : float, default=10
        Largest translation to either side and along both axes, in percent of the image's height or width.
    scaling : float, default=0.1
        Largest part by which an image becomes larger or smaller.
    fill : float, default=0
        Value of what comes in from outside the image, in the units of ``X``.
    image_shape : tuple of int, default=None
        How a row of ``X`` makes an image: (height, width), or three numbers with the channels; one of them may be -1,
        for as many as there are. ``None`` takes samples of two or three dimensions as they are.
    channels : {"first", "last"} or None, default=None
        Where the channels stand. ``None`` looks for the end of the shape that is 1, 3 or 4.
    random_state : int, RandomState instance or None, default=None
        Source of the amounts, which are uniform. With an integer every call draws the same ones for the first image,
        the second, and so on. An attack through this step draws its own.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen by ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skart.wrappers import RandomAffine
    >>> X, y = load_digits(return_X_y=True)
    >>> RandomAffine(rotation=30, image_shape=(8, 8), random_state=0).fit_transform(X).shape
    (1797, 64)
    """

    _parameter_constraints: dict = {
        "rotation": [Interval(Real, 0, 180, closed="both")],
        "translation": [Interval(Real, 0, 100, closed="both")],
        "scaling": [Interval(Real, 0, 1, closed="left")],
        "fill": [Interval(Real, None, None, closed="neither")],
        "image_shape": [tuple, list, None],
        "channels": [StrOptions(set(CHANNELS)), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        rotation=15.0,
        *,
        translation=10.0,
        scaling=0.1,
        fill=0.0,
        image_shape=None,
        channels=None,
        random_state=None,
    ):
        self.rotation = rotation
        self.translation = translation
        self.scaling = scaling
        self.fill = fill
        self.image_shape = image_shape
        self.channels = channels
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check that samples make images; nothing else is learnt.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training data.
        y : Ignored

        Returns
        -------
        self : object
        """
        X = validate_data(self, X, dtype=FLOAT_DTYPES, allow_nd=True)
        self._layout(X)
        return self

    def transform(self, X):
        """Images, each of them turned, moved and scaled.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Images.

        Returns
        -------
        X_transformed : ndarray of the shape of ``X``
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=FLOAT_DTYPES, allow_nd=True)
        return self._moved(X)[0]

    def _layout(self, X):
        return image_layout(X.shape[1:], self.image_shape, self.channels, owner=type(self).__name__)

    def _moved(self, X):
        """Transformed images, and the pullback."""
        layout, n_samples = self._layout(X), X.shape[0]
        shape = (layout.height, layout.width)
        amounts = 2 * draws_for(self.random_state, X).uniform((4,)) - 1
        shift = [amounts[:, k] * self.translation / 100 * length for k, length in zip((1, 2), shape)]
        move = resampling(
            shape,
            shape,
            angle=amounts[:, 0] * self.rotation,
            shift=shift,
            scale=1 + amounts[:, 3] * self.scaling,
            dtype=to_numpy(X[:1]).dtype,
            paired=True,
        )

        def through(x, linear):
            xp = array_namespace(x)
            pixels = xp.permute_dims(layout.planes(x), (0, 2, 3, 1))
            pixels = linear(xp.reshape(pixels, (n_samples * shape[0] * shape[1], layout.n_channels)))
            planes = xp.reshape(pixels, (n_samples, *shape, layout.n_channels))
            return layout.samples(xp.permute_dims(planes, (0, 3, 1, 2)))

        return through(X - self.fill, move) + self.fill, lambda cotangent: through(cotangent, move.pullback)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.non_deterministic = True
        return tags


@rule("skart.wrappers.RandomAffine")
def moved(step, backend):
    return Bound(step._moved, random=True)
