"""Small helpers on arrays of any namespace (NumPy, torch, array-api-strict)."""

import math

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array

__all__ = [
    "any_feature",
    "array_namespace",
    "device",
    "flatten",
    "one_hot",
    "per_sample",
    "scatter",
    "sign",
    "to_numpy",
]


def per_sample(values, *, like):
    """Reshape ``values`` of shape (n_samples,) so that they broadcast over the samples of ``like``."""
    xp = array_namespace(values)
    return xp.reshape(values, (-1,) + (1,) * (like.ndim - 1))


def flatten(x):
    """View ``x`` as rows: (n_samples, n_features)."""
    # Not -1 for the number of features, which cannot be told from an empty batch.
    return x if x.ndim == 2 else array_namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def any_feature(flags):
    """Samples for which any feature of ``flags`` is set: (n_samples,)."""
    return array_namespace(flags).any(flatten(flags), axis=1)


def one_hot(index, n_classes):
    """Boolean (n_samples, n_classes), true at ``index``."""
    xp = array_namespace(index)
    columns = xp.arange(n_classes, dtype=index.dtype, device=device(index))
    return columns[None, :] == index[:, None]


def scatter(out, where, values):
    """``out`` with ``values`` in the samples that the boolean ``where`` marks, in place where ``out`` allows it."""
    out[where] = values
    return out


def sign(x):
    """-1, 0 or 1 for each entry."""
    # array-api-compat's `sign` for torch takes care of NaN, in twenty times the time; NaN never comes this far.
    return x.sign() if is_torch_array(x) else array_namespace(x).sign(x)


def to_numpy(x):
    """``x`` as a NumPy array; no copy where the memory can be shared."""
    if is_torch_array(x):
        x = x.detach()
        return x.cpu().numpy() if x.device.type != "cpu" else x.numpy()
    return np.asarray(x)
