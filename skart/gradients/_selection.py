"""Rules for the selection of features."""

from dataclasses import replace

import numpy as np

from skart.exceptions import GradientUnavailableError
from skart.gradients._preprocessing import identity
from skart.gradients._registry import Bound, chain, rule

__all__ = ["selected"]


def selected(mask, backend):
    """Forward of the features where ``mask`` is true."""
    if mask.all():
        return identity
    index = backend.xp.asarray(np.flatnonzero(mask), device=backend.device)

    def forward(X):
        def pullback(cotangent):
            grad = backend.xp.zeros_like(X)
            grad[:, index] = cotangent
            return grad

        return X[:, index], pullback

    return forward


@rule(
    "sklearn.feature_selection.GenericUnivariateSelect",
    "sklearn.feature_selection.SelectFdr",
    "sklearn.feature_selection.SelectFpr",
    "sklearn.feature_selection.SelectFromModel",
    "sklearn.feature_selection.SelectFwe",
    "sklearn.feature_selection.SelectKBest",
    "sklearn.feature_selection.SelectPercentile",
    "sklearn.feature_selection.SequentialFeatureSelector",
    "sklearn.feature_selection.VarianceThreshold",
)
def selector(step, backend):
    return selected(step.get_support(), backend)


@rule("sklearn.feature_selection.RFE", "sklearn.feature_selection.RFECV", gradient="of its parts")
def recursive_elimination(step, backend):
    """A selector, and at the end of a Pipeline the classifier that is fitted on what it selects."""
    select = selected(step.get_support(), backend)
    try:
        forward = chain([Bound(select), backend.bind(step.estimator_, where="estimator_")])
    except GradientUnavailableError as error:
        reason = str(error)

        # Features chosen by a tree are chosen still: only the tree itself cannot be asked.
        def forward(X):
            raise GradientUnavailableError(reason)

        return Bound(forward, transform=select)
    return replace(forward, transform=select)
