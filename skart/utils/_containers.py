"""What the caller's data came in, and the way back to it."""

import numpy as np
from array_api_compat import is_torch_array

from skart._core._arrays import to_numpy

__all__ = ["Container", "frame"]


class Container:
    """Kind, device, columns and index of the caller's samples.

    Parameters
    ----------
    X : array, tensor or data frame
    """

    def __init__(self, X):
        self.kind = "numpy"
        self.columns = self.index = self.device = self.dtypes = None
        if is_torch_array(X):
            self.kind, self.device = "torch", X.device
        elif hasattr(X, "columns") and hasattr(X, "dtypes"):
            self.kind = "polars" if type(X).__module__.startswith("polars") else "pandas"
            self.columns = list(X.columns)
            self.index = getattr(X, "index", None)
            self.dtypes = list(X.dtypes)

    @property
    def is_frame(self):
        """Whether the data came in a data frame."""
        return self.columns is not None

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
        wrapped = frame(array, self.columns, self.kind, self.index)
        if original is not None:
            same = np.all(array == to_numpy(original), axis=0)
            kept = {name: dtype for name, dtype, stayed in zip(self.columns, self.dtypes, same, strict=True) if stayed}
            wrapped = wrapped.astype(kept) if self.kind == "pandas" else wrapped.cast(kept)
        return wrapped


def frame(array, columns, kind="pandas", index=None):
    """A data frame of ``array``."""
    if kind == "polars":
        import polars

        return polars.DataFrame(array, schema=columns, orient="row")
    import pandas

    return pandas.DataFrame(array, columns=columns, index=index)
