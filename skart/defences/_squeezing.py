"""Feature squeezing: fewer bits for each feature (section 7.3)."""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import array_namespace
from skart.gradients._registry import Bound, rule
from skart.utils._sklearn_compat import Interval, StrOptions, fit_context
from skart.utils._validation import check_clip_values, check_range

__all__ = ["FeatureSqueezing"]

FLOAT_DTYPES = (np.float64, np.float32)


class FeatureSqueezing(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Encode each feature on fewer bits.

    A feature of range [low, high] takes one of ``2 ** bit_depth`` evenly spaced values [1]_. Small perturbations
    disappear in the rounding, unless the attacker looks through it: skart's attacks pass the gradient straight through
    the rounding.

    Parameters
    ----------
    bit_depth : int, default=8
        Bits for each feature, from 1 to 64.
    clip_values : (low, high) or "fit", default=(0, 1)
        Range that the values divide, as numbers or as one number for each feature. ``"fit"`` takes the range of
        each feature in the training data; later data outside it is clipped to it. Data outside an explicit range
        is an error.
    rounding : {"floor", "nearest"}, default="floor"
        ``"floor"`` is the formula of [2]_, section 7.3; ``"nearest"`` that of [1]_.
    apply_fit, apply_predict : bool, default=True
        Whether to squeeze in training (``fit_transform``) and in prediction (``transform``).

    Attributes
    ----------
    clip_values_ : tuple of arrays
        The range in use.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", arXiv:1704.01155
    .. [2] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> import numpy as np
    >>> from skart.defences import FeatureSqueezing
    >>> FeatureSqueezing(bit_depth=1).fit_transform(np.array([[0.2, 0.7, 1.0]]))
    array([[0., 0., 1.]])
    >>> FeatureSqueezing(bit_depth=1, rounding="nearest").fit_transform(np.array([[0.2, 0.7, 1.0]]))
    array([[0., 1., 1.]])
    """

    _parameter_constraints: dict = {
        "bit_depth": [Interval(Integral, 1, 64, closed="both")],
        "clip_values": ["array-like", StrOptions({"fit"})],
        "rounding": [StrOptions({"floor", "nearest"})],
        "apply_fit": ["boolean"],
        "apply_predict": ["boolean"],
    }

    def __init__(self, bit_depth=8, *, clip_values=(0, 1), rounding="floor", apply_fit=True, apply_predict=True):
        self.bit_depth = bit_depth
        self.clip_values = clip_values
        self.rounding = rounding
        self.apply_fit = apply_fit
        self.apply_predict = apply_predict

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Take the range of the data, or check that the data is in the range given.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training data.
        y : Ignored

        Returns
        -------
        self : object
        """
        self._fit(X)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Fit, and squeeze the training data if ``apply_fit``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training data.
        y : Ignored

        Returns
        -------
        X_squeezed : ndarray of the shape of ``X``
        """
        X = self._fit(X)
        return self._squeeze(X) if self.apply_fit else X

    def transform(self, X):
        """Squeeze ``X`` if ``apply_predict``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        X_squeezed : ndarray of the shape of ``X``
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=FLOAT_DTYPES, allow_nd=True)
        if not isinstance(self.clip_values, str):
            hint = " An attack on a model with this step needs the same clip_values."
            check_range(X, *self.clip_values_, owner=type(self).__name__, hint=hint)
        return self._squeeze(X) if self.apply_predict else X

    def _fit(self, X):
        X = validate_data(self, X, dtype=FLOAT_DTYPES, allow_nd=True)
        if isinstance(self.clip_values, str):
            self.clip_values_ = (X.min(axis=0), X.max(axis=0))
        else:
            low, high = check_clip_values(self.clip_values, X.shape[1:])
            check_range(X, low, high, owner=type(self).__name__)
            self.clip_values_ = (low, high)
        return X

    def _squeeze(self, X):
        low, high = (np.asarray(bound).astype(X.dtype) for bound in self.clip_values_)
        return squeeze(X, low, high, bit_depth=self.bit_depth, nearest=self.rounding == "nearest")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def squeeze(X, low, high, *, bit_depth, nearest):
    """The grid point of ``2 ** bit_depth`` in [low, high] at or below each value, or nearest to it."""
    xp = array_namespace(X)
    n_steps = 2.0**bit_depth - 1
    width = high - low
    width = xp.where(width > 0, width, xp.ones_like(width))
    position = (X - low) / width * n_steps

    def point(step):
        return xp.clip(low + step / n_steps * width, low, high)

    if nearest:
        return point(xp.round(position))
    step = xp.floor(position)
    # A value on the grid can come out a rounding below its step: without a second look, squeezing twice would move it.
    above = point(step + 1)
    return xp.where(above <= X, above, point(step))


@rule("skart.defences.FeatureSqueezing", gradient="straight-through")
def squeezed(defence, backend):
    if not defence.apply_predict:
        return lambda X: (X, lambda cotangent: cotangent)
    low, high = (backend.asarray(bound) for bound in defence.clip_values_)
    nearest = defence.rounding == "nearest"

    def forward(X):
        # Rounding is flat almost everywhere: go back through it as if it were the identity (straight-through).
        return squeeze(X, low, high, bit_depth=defence.bit_depth, nearest=nearest), lambda cotangent: cotangent

    return Bound(forward, continuous=False)
