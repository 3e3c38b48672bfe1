"""Rules for data frames with columns of several kinds: encoders of categories, and ColumnTransformer.

A category has no gradient: attacks hold it fixed. What such a column turns into is therefore looked up, not computed:
the encoder's own ``transform`` is asked once for each distinct row.
"""

from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array
from scipy.sparse import issparse

from skart._core._arrays import to_numpy
from skart.gradients._composition import _transformer, refuse_coded
from skart.gradients._preprocessing import identity
from skart.gradients._registry import Bound, TakesNoTextError, elementwise, rule, united
from skart.utils._containers import frame

__all__ = ["held"]

# Distinct rows whose encoding is kept; more than this many are looked up batch by batch.
N_KEPT = 8192


@rule(
    "sklearn.preprocessing.OneHotEncoder",
    "sklearn.preprocessing.OrdinalEncoder",
    "sklearn.preprocessing.TargetEncoder",
    frames=True,
    gradient="none, held fixed",
)
def encoder(step, backend):
    return held(step, backend)


def held(step, backend, *, flat=False):
    """Bound rule of a transformer whose features stay as they are: its own output, and no gradient.

    ``flat`` hands it a single column as a vector, as vectorizers of text want it.
    """
    encoded = {}  # by the bytes of a row

    def ask(rows):
        if backend.container is not None:
            given = backend.container.data_frame(rows)
            given = (given.iloc[:, 0] if hasattr(given, "iloc") else given.to_series(0)) if flat else given
        elif hasattr(step, "feature_names_in_"):
            given = frame(rows, list(step.feature_names_in_))
        else:
            given = rows[:, 0] if flat else rows
        output = step.transform(given)
        output = output.to_numpy() if hasattr(output, "to_numpy") else output
        return np.asarray(output.toarray() if issparse(output) else output)

    def forward(X):
        rows = np.ascontiguousarray(to_numpy(X))
        keys = [row.tobytes() for row in rows]
        missing = {key: n for n, key in enumerate(keys) if key not in encoded}
        if missing:
            if len(encoded) + len(missing) > N_KEPT:
                encoded.clear()
                missing = {key: n for n, key in enumerate(keys)}
            encoded.update(zip(missing, ask(rows[list(missing.values())])))
        output = backend.asarray(np.stack([encoded[key] for key in keys]))
        return output, lambda cotangent: backend.xp.zeros_like(X)

    return Bound(forward, fixed=True)


@rule("sklearn.compose.ColumnTransformer", frames=True, gradient="of its parts")
def column_transformer(model, backend):
    """Transformers side by side, each with its own columns."""
    weights = model.transformer_weights or {}
    branches = []
    for name, step, columns in model.transformers_:
        positions = _positions(columns, model)
        if (isinstance(step, str) and step == "drop") or not len(positions):
            continue
        flat = isinstance(columns, str | Integral)  # scikit-learn hands over a vector
        branches.append(_Branch(name, step, positions, flat, weights.get(name), backend))
    if not branches:
        return lambda X: (X[:, :0], lambda cotangent: backend.xp.zeros_like(X))

    def forward(X):
        outputs, pulls = zip(*(branch(X) for branch in branches))

        def pullback(cotangent):
            grad, start = backend.xp.zeros_like(X), 0
            for branch, output, pull in zip(branches, outputs, pulls):
                stop = start + output.shape[1]
                if branch.bound.fixed is not True:
                    branch.add(grad, pull(cotangent[:, start:stop]))
                start = stop
            return grad

        return backend.xp.concat(outputs, axis=1), pullback

    def sources(flags):
        depend = np.zeros(model.n_features_in_, dtype=bool)
        for branch in branches:
            part = flags if flags is True else flags[model.output_indices_[branch.name]]
            if part is True or part.any():
                depend[branch.positions] |= True if branch.bound.sources is None else branch.bound.sources(part)
        return depend

    fixed = None
    for branch in branches:
        if branch.bound.fixed is not None:
            flags = np.zeros(model.n_features_in_, dtype=bool)
            flags[branch.positions] |= branch.bound.fixed
            fixed = united(fixed, flags)
    return Bound(
        forward,
        continuous=all(branch.bound.continuous for branch in branches),
        contexts=tuple(context for branch in branches for context in branch.bound.contexts),
        fixed=fixed,
        sources=sources,
        in_process=any(branch.bound.in_process for branch in branches),
    )


class _Branch:
    """One transformer of a ColumnTransformer, bound, with the positions of its columns."""

    def __init__(self, name, step, positions, flat, weight, backend):
        self.name, self.positions, self._weight = name, positions, weight
        container = None if backend.container is None else backend.container.select(positions)
        self.bound = self._bind(step, backend.on(container), flat)
        # A slice is read without a copy, and each of its features once.
        first, last = positions[0], positions[-1] + 1
        self._index = slice(first, last)
        self._repeated = len(set(positions.tolist())) < len(positions)
        if not np.array_equal(positions, np.arange(first, last)):
            self._index = backend.xp.asarray(positions, device=backend.device)

    def _bind(self, step, backend, flat):
        if isinstance(step, str) or getattr(step, "func", step) is None:  # "passthrough", as releases have it
            refuse_coded(backend, "ColumnTransformer")
            return elementwise(identity)
        coded = [] if backend.container is None else backend.container.coded
        if flat or (coded and len(coded) == len(backend.container.columns)):
            return held(step, backend, flat=flat)
        try:
            bound = backend.bind(step, where=f"transformer {self.name!r}")
        except TakesNoTextError:
            # Numbers that are imputed or encoded together with text are categories as well.
            return held(step, backend)
        return _transformer(self.name, step, bound)

    def __call__(self, X):
        output, pull = self.bound.forward(X[:, self._index])
        if self._weight is None:
            return output, pull
        return output * self._weight, lambda cotangent: pull(cotangent * self._weight)

    def add(self, grad, part):
        """Add the gradient by this branch's columns to that by all, in place."""
        if not self._repeated:
            grad[:, self._index] += part
        elif is_torch_array(grad):
            grad.index_add_(1, self._index, part)
        else:
            np.add.at(grad, (slice(None), self._index), part)


def _positions(columns, model):
    """Positions of the columns that a transformer is given: names, positions, slices or a mask."""
    n_features = model.n_features_in_
    if isinstance(columns, slice):
        start, stop = columns.start, columns.stop
        if isinstance(start, str) or isinstance(stop, str):
            names = list(model.feature_names_in_)
            start = None if start is None else names.index(start)
            stop = None if stop is None else names.index(stop) + 1  # the last name is one of them
        return np.arange(n_features)[slice(start, stop, columns.step)]
    columns = np.atleast_1d(np.asarray(columns))
    if columns.dtype == bool:
        return np.flatnonzero(columns)
    if columns.dtype.kind in "iu":
        return np.arange(n_features)[columns]
    names = list(getattr(model, "feature_names_in_", ()))
    return np.asarray([names.index(name) for name in columns], dtype=int)
