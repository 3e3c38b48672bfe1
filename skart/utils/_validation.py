"""Checks of what the caller hands over; each error says what came, what fits and what to try."""

from collections.abc import Mapping

import numpy as np
from array_api_compat import is_torch_array
from sklearn.utils.validation import check_array

from skart._core._arrays import to_numpy

__all__ = [
    "check_clip_values",
    "check_eps",
    "check_labels",
    "check_mask",
    "check_numeric",
    "check_range",
    "check_samples",
    "eps_of_columns",
]


def check_samples(X, *, owner, n_features=None):
    """Finite floating-point samples of at least two dimensions, as a NumPy array or a torch tensor.

    Parameters
    ----------
    X : array-like, tensor or data frame of shape (n_samples, ...)
    owner : str
        Who asks, for error messages.
    n_features : int, default=None
        Number of features that flat rows must have.
    """
    if is_torch_array(X):
        if X.ndim < 2:
            raise ValueError(
                f"{owner} expects samples of shape (n_samples, n_features) or (n_samples, ...); got a tensor of shape "
                f"{tuple(X.shape)}. Reshape your data with X.reshape(-1, 1) for one feature, X.reshape(1, -1) for one "
                "sample."
            )
        if X.shape[0] == 0:
            raise ValueError(f"{owner} got 0 samples; at least one is needed.")
        X = X.detach()
        if not X.is_floating_point():
            X = X.double()
        elif str(X.dtype) not in ("torch.float32", "torch.float64"):
            X = X.float()
        if not bool(X.isfinite().all()):
            raise ValueError(f"{owner}: input X contains NaN or infinity. Impute or drop such samples first.")
    else:
        check_numeric(X, owner=owner)
        X = check_array(
            X, accept_sparse=False, dtype=(np.float64, np.float32), allow_nd=True, estimator=owner, input_name="X"
        )
    if n_features is not None and X.ndim == 2 and X.shape[1] != n_features:
        raise ValueError(f"X has {X.shape[1]} features, but {owner} is expecting {n_features} features as input.")
    return X


def check_numeric(X, *, owner):
    """Raise where a data frame has columns that are not numbers."""
    if not hasattr(X, "columns") or not hasattr(X, "dtypes"):
        return
    kinds = dict(zip(X.columns, X.dtypes, strict=True))
    other = [name for name, kind in kinds.items() if not _is_number(kind)]
    if other:
        raise ValueError(
            f"{owner}: column {other[0]!r} is of dtype {kinds[other[0]]}, and attacks change numbers. Encode the "
            f"{len(other)} columns that are not numeric first, and attack the model that takes the encoded data."
        )


def _is_number(dtype):
    """Whether a column's dtype (pandas or polars) holds numbers, booleans included."""
    if hasattr(dtype, "is_numeric"):  # polars
        return dtype.is_numeric() or str(dtype) == "Boolean"
    return getattr(dtype, "kind", "O") in "biuf"


def check_labels(y, classes, n_samples, *, find, owner, hint=""):
    """Positions in ``classes`` of the labels ``y``; ``find`` is the oracle module's ``find_labels``."""
    labels = np.asarray(to_numpy(y))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"{owner} expects labels y of shape (n_samples,), entries of classes_, not one-hot; got shape "
            f"{labels.shape}."
        )
    if len(labels) != n_samples:
        raise ValueError(f"X has {n_samples} samples and y has {len(labels)}; they must be as many.")
    position, known = find(labels, classes)
    if not known.all():
        raise ValueError(
            f"y holds {labels[~known].tolist()[0]!r}, a class unknown to the model; its classes are {classes}.{hint}"
        )
    return position


def check_eps(eps, shape, *, name="eps", positive=False):
    """Length in the units of the data as a float, or as an array of one length for each feature."""
    checked = np.asarray(to_numpy(eps), dtype=np.float64)
    if checked.ndim > 0 and checked.shape != shape:
        raise ValueError(
            f"{name} has shape {checked.shape} where a sample has shape {shape}; give one number, or one for each "
            "feature."
        )
    if not np.all(np.isfinite(checked)) or np.any(checked < 0) or (positive and not np.all(checked)):
        raise ValueError(
            f"{name} must be finite and {'positive' if positive else 'not negative'} for every feature; got {eps!r}."
        )
    return checked if checked.ndim else float(checked)


def eps_of_columns(eps, shape, names):
    """``eps`` with one radius for each feature where it is a dictionary by column name; zero for columns not named."""
    if not isinstance(eps, Mapping):
        return eps
    if names is None or len(names) != shape[0]:
        raise ValueError(
            "eps is given by column name, but neither X nor the fitted model has names. Pass a data frame, or give one "
            "number for each feature."
        )
    unknown = [key for key in eps if key not in list(names)]
    if unknown:
        raise ValueError(f"eps names {unknown[0]!r}, which is no column of X; columns are {list(names)}.")
    return np.asarray([eps.get(key, 0.0) for key in names], dtype=np.float64)


def check_clip_values(clip_values, shape, *, ignored=None):
    """``(low, high)`` as two arrays that broadcast to a sample; without bounds where ``ignored`` is set."""
    try:
        low, high = clip_values
    except (TypeError, ValueError):
        raise ValueError(
            f"clip_values must be None, 'fit' or a pair (low, high) of numbers or of one number for each feature; got "
            f"{clip_values!r}."
        ) from None
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    for bound in (low, high):
        if bound.ndim > 0 and bound.shape != shape:
            raise ValueError(
                f"clip_values holds an array of shape {bound.shape} where a sample has shape {shape}; give numbers, or "
                "one number for each feature."
            )
    if ignored is not None:
        low, high = np.where(ignored, -np.inf, low), np.where(ignored, np.inf, high)
    if not np.all(low <= high):  # a NaN fails this, too
        raise ValueError(f"clip_values must be (low, high) with low <= high; got {clip_values!r}.")
    return low, high


def check_range(X, low, high, *, owner, hint=""):
    """Whether all samples lie in the range to the last bit; bounds are compared in the dtype of the samples.

    Data that was scaled to a range (by a :class:`~sklearn.preprocessing.MinMaxScaler`, say) ends a rounding beyond it;
    samples farther outside are an error.
    """
    values = to_numpy(X)
    low, high = (np.asarray(bound).astype(values.dtype) for bound in (low, high))
    if np.all(values >= low) and np.all(values <= high):
        return True
    beyond = np.maximum(low - values, values - high)
    if np.all(beyond <= 4 * np.spacing(np.maximum(np.abs(low), np.abs(high)))):
        return False
    raise ValueError(
        f"{owner}: X spans [{values.min():.6g}, {values.max():.6g}], outside clip_values=({low.min():.6g}, "
        f"{high.max():.6g}){' of its feature' if low.ndim else ''}, by up to {beyond.max():.2g}. Scale the data to the "
        f"range, give the data's own range, or use clip_values='fit' to take the range seen in fit.{hint}"
    )


def check_mask(mask, shape, names, *, owner):
    """Features that may change, as a boolean array of the shape of a sample.

    ``mask`` is a boolean array, a list of positions among the flattened features, or a list of column names.
    """
    given = np.asarray(mask)
    if given.dtype == bool:
        if given.shape != shape:
            raise ValueError(f"{owner}: mask has shape {given.shape} where a sample has shape {shape}.")
        free = given
    elif given.dtype.kind in "iu" and given.ndim == 1:
        n_features = int(np.prod(shape))
        outside = given[(given < -n_features) | (given >= n_features)]
        if outside.size:
            raise ValueError(f"{owner}: mask names feature {outside[0]} of {n_features}; positions start at 0.")
        free = np.zeros(n_features, dtype=bool)
        free[given] = True
        free = free.reshape(shape)
    elif given.dtype.kind in "UOT" and given.ndim == 1:
        if names is None:
            raise ValueError(
                f"{owner}: mask gives column names, but neither X nor the fitted model has any. Pass a data frame, or "
                "give positions or a boolean array."
            )
        unknown = [name for name in given.tolist() if name not in list(names)]
        if unknown:
            raise ValueError(f"{owner}: mask names {unknown[0]!r}, which is no column of X; columns are {list(names)}.")
        free = np.isin(np.asarray(names, dtype=object), given)
    else:
        raise ValueError(
            f"{owner}: mask must be a boolean array of shape {shape}, a list of feature positions, or a list of column "
            f"names; got {mask!r}."
        )
    if not free.any():
        raise ValueError(f"{owner}: mask lets no feature change.")
    return free
