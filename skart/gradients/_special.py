"""Special functions, which the array API standard does not have."""

import scipy.special
from array_api_compat import is_torch_array

__all__ = ["special"]


def special(name, x):
    """A function that ``scipy.special`` and ``torch.special`` both have by this name, at ``x``."""
    if is_torch_array(x):
        import torch

        return getattr(torch.special, name)(x)
    return getattr(scipy.special, name)(x)
