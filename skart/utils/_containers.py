"""What the caller's data came in, and the way back to it.

Attacks compute with numbers. A column of a data frame that holds none (text, categories, dates) goes through them as
the positions of its values in a table, and comes back as the values themselves, in the column's own dtype.
"""

import copy

import numpy as np
from array_api_compat import is_torch_array

from skart._core._arrays import to_numpy

__all__ = ["Container", "frame", "is_frame", "is_numeric"]


class Container:
    """Kind, device, columns and index of the caller's samples.

    Parameters
    ----------
    X : array, tensor or data frame

    Attributes
    ----------
    kind : {"numpy", "torch", "pandas", "polars"}
    columns, dtypes : list, or None
        Names and dtypes of a frame's columns.
    index : pandas.Index or None
    held : ndarray of bool, shape (n_columns,), or None
        Columns of a frame that attacks hold fixed: those that are not numeric, categorical or boolean.
    """

    def __init__(self, X):
        self.kind = "numpy"
        self.columns = self.index = self.device = self.dtypes = self.held = None
        self._tables = {}  # by position, for columns that hold no numbers
        if is_torch_array(X):
            self.kind, self.device = "torch", X.device
        elif is_frame(X):
            self.kind = "polars" if type(X).__module__.startswith("polars") else "pandas"
            self.columns = list(X.columns)
            self.index = getattr(X, "index", None)
            self.dtypes = list(X.dtypes)
            self.held = np.asarray([not is_numeric(dtype) for dtype in self.dtypes])
            for k in np.flatnonzero(self.held):
                column = _column(X, k)
                if not _has_numbers(column):
                    self._tables[int(k)] = _Table(column[:0])

    @property
    def is_frame(self):
        """Whether the data came in a data frame."""
        return self.columns is not None

    @property
    def of_frame(self):
        """The container itself if the data came in a data frame, else None."""
        return self if self.is_frame else None

    @property
    def coded(self):
        """Names of the columns that hold no numbers."""
        return [self.columns[k] for k in self._tables]

    def numbers(self, X):
        """``X`` with numbers for the values of columns that hold none; a frame stays a frame, all else as it is."""
        if self.held is None or not self.held.any() or not is_frame(X) or list(X.columns) != self.columns:
            return X
        # Single precision if all else is; positions in a table are small enough for it.
        free = {str(dtype).lower() for dtype, held in zip(self.dtypes, self.held) if not held}
        codes = {}
        for k in np.flatnonzero(self.held):
            values = _column(X, k)
            values = self._tables[k].positions(values) if k in self._tables else values
            codes[k] = np.asarray(values, dtype=np.float32 if free == {"float32"} else np.float64)
        if self.kind == "polars":
            import polars

            return X.with_columns([polars.Series(self.columns[k], values) for k, values in codes.items()])
        X = X.copy(deep=False)
        for k, values in codes.items():
            X.isetitem(k, values)
        return X

    def data_frame(self, array, index=None):
        """The frame whose numbers are ``array``; held columns have their values and dtypes again."""
        array = to_numpy(array)
        if not self.held.any():
            return frame(array, self.columns, self.kind, index)
        if self.kind == "polars":
            import polars

            columns = [polars.Series(name, values) for name, values in zip(self.columns, array.T, strict=True)]
            for k in np.flatnonzero(self.held):
                table = self._tables.get(int(k))
                columns[k] = columns[k].cast(self.dtypes[k]) if table is None else table.at(array[:, k])
            return polars.DataFrame(columns)
        whole = frame(array, self.columns, self.kind, index)
        for k in np.flatnonzero(self.held):
            table = self._tables.get(int(k))
            if table is None:
                whole.isetitem(k, whole.iloc[:, k].astype(self.dtypes[k]))
            else:
                whole.isetitem(k, table.at(array[:, k]))
        return whole

    def select(self, positions):
        """The container of the columns at ``positions``, which may name one several times."""
        part = copy.copy(self)
        part.columns = [self.columns[k] for k in positions]
        part.dtypes = [self.dtypes[k] for k in positions]
        part.held = self.held[positions]
        part._tables = {n: self._tables[k] for n, k in enumerate(positions) if k in self._tables}
        return part

    def wrap(self, array, original=None):
        """``array`` (of any namespace) as the caller's kind.

        Columns of a frame that are equal to those of ``original`` keep their dtype: integers stay integers.
        """
        if self.kind == "torch":
            import torch

            tensor = array if is_torch_array(array) else torch.from_numpy(np.ascontiguousarray(array))
            return tensor.detach().to(self.device)
        array = to_numpy(array)
        if not self.is_frame:
            return array
        wrapped = self.data_frame(array, self.index)
        if original is not None:
            same = np.all(array == to_numpy(original), axis=0) & ~self.held
            kept = {name: dtype for name, dtype, stayed in zip(self.columns, self.dtypes, same, strict=True) if stayed}
            wrapped = wrapped.astype(kept) if self.kind == "pandas" else wrapped.cast(kept)
        return wrapped


class _Table:
    """The distinct values of a column, which grow with what is looked up; parts of a container share it."""

    def __init__(self, empty):
        self._values = empty

    def positions(self, column):
        """Positions of a column's values."""
        if hasattr(column, "isna"):
            import pandas

            known = len(self._values)
            both = pandas.concat([self._values, column], ignore_index=True) if known else column
            # The values that are known stand first and are all different: their positions are 0, 1, 2 ...
            codes, distinct = pandas.factorize(both, use_na_sentinel=False)
            self._values = pandas.Series(distinct, dtype=column.dtype)
            return codes[known:]
        import polars

        self._values = polars.concat([self._values, column]).unique(maintain_order=True)
        place = {value: position for position, value in enumerate(self._values.to_list())}
        return [place[value] for value in column.to_list()]

    def at(self, positions):
        """The values at these positions, in the column's dtype."""
        positions = positions.astype(np.int64)
        if hasattr(self._values, "isna"):
            return self._values.take(positions).array
        return self._values.gather(positions)


def is_frame(X):
    """Whether ``X`` is a data frame of pandas or polars."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def frame(array, columns, kind="pandas", index=None):
    """A data frame of ``array``."""
    if kind == "polars":
        import polars

        return polars.DataFrame(array, schema=columns, orient="row")
    import pandas

    return pandas.DataFrame(array, columns=columns, index=index)


def _column(X, k):
    return X.iloc[:, k] if hasattr(X, "iloc") else X.to_series(k)


def is_numeric(dtype):
    """Whether a column's dtype (pandas or polars) is one of numbers that may change."""
    if hasattr(dtype, "is_numeric"):  # polars
        return dtype.is_numeric()
    return getattr(dtype, "kind", "O") in "iuf"


def _has_numbers(column):
    """Whether the values of a held column are numbers all the same: booleans, categories named by numbers."""
    if getattr(column.dtype, "kind", None) == "b" or str(column.dtype) == "Boolean":
        missing = column.isna().any() if hasattr(column, "isna") else column.null_count()
        return not missing
    categories = getattr(column.dtype, "categories", None)
    is_pandas = hasattr(column, "isna")
    return is_pandas and categories is not None and categories.dtype.kind in "iufb" and not column.isna().any()
