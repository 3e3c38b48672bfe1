"""Rules for steps that make numbers discrete.

Their true derivative is zero wherever it exists, and says nothing of the model behind. Backward each of them passes for
a continuous function that goes through its steps (straight-through).
"""

import numpy as np

from skart.gradients._naive_bayes import step_above
from skart.gradients._registry import Bound, rule

__all__ = []


@rule("sklearn.preprocessing.Binarizer", gradient="straight-through")
def binarizer(step, backend):
    """Backward the identity."""
    return Bound(step_above(step.threshold), continuous=False)


def _padded(rows, fill):
    """Rows of several lengths as the columns of a matrix."""
    matrix = np.full((max(map(len, rows)), len(rows)), fill)
    for j, row in enumerate(rows):
        matrix[: len(row), j] = row
    return matrix


def _not_below(values, backend):
    """The least numbers of the backend's dtype that are not below ``values``, which keep their ties with the data."""
    dtype = np.float32 if backend.dtype == backend.xp.float32 else np.float64
    rounded = values.astype(dtype)
    return backend.asarray(np.where(rounded < values, np.nextafter(rounded, dtype(np.inf)), rounded))


@rule("sklearn.preprocessing.KBinsDiscretizer", gradient="straight-through")
def bins_discretizer(step, backend):
    """Backward the line through the centres of the bins.

    From the centre of one bin to that of the next, the code (a number, or a row of 0 and 1) goes evenly from the one's
    to the other's; the first and the last line go on outwards. Sparse codes come dense.
    """
    xp = backend.xp
    edges = [np.asarray(feature, dtype=np.float64) for feature in step.bin_edges_]
    n_bins = np.array([len(feature) - 1 for feature in edges])
    n_features, most = len(edges), int(n_bins.max())
    with np.errstate(invalid="ignore"):  # the one bin of a constant feature is the whole line
        centres = [(feature[1:] + feature[:-1]) / 2 for feature in edges]
    inner = _not_below(_padded([feature[1:-1] for feature in edges], np.inf), backend)
    # Lines meet at the inner centres. A feature of a single bin has no line: its slope is zero.
    meetings = backend.asarray(_padded([feature[1:-1] for feature in centres], np.inf))
    slopes = backend.asarray(_padded([1 / np.diff(feature) for feature in centres] + [np.zeros(1)], 0.0)[:, :-1])
    features = xp.arange(n_features, device=backend.device)
    ordinal = step.encode == "ordinal"
    bins = xp.arange(most, dtype=backend.dtype, device=backend.device)
    in_use = np.flatnonzero((np.arange(most) < n_bins[:, None]).ravel())
    in_use = None if len(in_use) == n_features * most else xp.asarray(in_use, device=backend.device)

    def passed(X, thresholds):
        count = xp.zeros_like(X)
        for threshold in thresholds:
            count += xp.astype(threshold <= X, X.dtype)
        return count

    def forward(X):
        line = xp.astype(passed(X, meetings), xp.int64)
        slope = slopes[line, features]
        output = passed(X, inner)
        if ordinal:
            return output, lambda cotangent: cotangent * slope
        n_samples = X.shape[0]
        output = xp.astype(output[:, :, None] == bins, X.dtype)
        output = xp.reshape(output, (n_samples, n_features * most))
        rows = xp.arange(n_samples, device=backend.device)[:, None]

        def pullback(cotangent):
            if most == 1:
                return xp.zeros_like(X)
            if in_use is not None:
                everywhere = xp.zeros_like(output)
                everywhere[:, in_use] = cotangent
                cotangent = everywhere
            cotangent = xp.reshape(cotangent, (n_samples, n_features, most))
            return slope * (cotangent[rows, features, line + 1] - cotangent[rows, features, line])

        return (output if in_use is None else output[:, in_use]), pullback

    return Bound(forward, continuous=False)
