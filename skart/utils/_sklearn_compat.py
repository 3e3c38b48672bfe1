"""The one module that imports private names of scikit-learn, and bridges its releases."""

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions
from sklearn.utils.multiclass import _ovr_decision_function

__all__ = ["HasMethods", "Interval", "Options", "StrOptions", "fit_context", "ovr_from_ovo"]


def ovr_from_ovo(decision, n_classes):
    """One column a class from the values of all pairs: votes, and bounded confidences to break ties."""
    return _ovr_decision_function(np.asarray(decision) < 0, -np.asarray(decision), n_classes)
