"""Rules for kernel machines.

A kernel is a map of samples to their kernel values with the model's centres, and a model is a matrix on top of it.
"""

import numpy as np
from scipy.sparse import issparse

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._linear import two_columns
from skart.gradients._registry import Bound, rule

__all__ = ["KERNELS", "kernel_features", "pairwise"]


def rbf_features(centres, *, gamma, **_):
    """Forward of ``exp(-gamma * ||x - c||**2)``; like all of these, its pullback overwrites the cotangent."""
    xp = array_namespace(centres)
    # Distances do not change if all move together, and cancel less near the origin.
    origin = xp.mean(centres, axis=0)
    centres = centres - origin
    one = xp.ones_like(centres[:, :1])
    squares = xp.sum(centres * centres, axis=1, keepdims=True)
    # The exponent -gamma * (||x||**2 - 2 x.c + ||c||**2) is one product of (x, ||x||**2, 1) with these columns.
    columns = gamma * xp.concat([2 * centres, -one, -squares], axis=1)
    n_features = centres.shape[1]

    def forward(X):
        X = X - origin
        squares = xp.sum(X * X, axis=1, keepdims=True)
        kernel = xp.concat([X, squares, xp.ones_like(squares)], axis=1) @ columns.T
        xp.exp(kernel, out=kernel)

        def pullback(cotangent):
            cotangent *= kernel
            pulled = cotangent @ columns[:, :-1]
            grad = X * (2 * pulled[:, n_features:])
            grad += pulled[:, :n_features]
            return grad

        return kernel, pullback

    return forward


def polynomial_features(centres, *, gamma, coef0, degree):
    """Forward of ``(gamma * x.c + coef0)**degree`` for an integer degree."""
    scaled = gamma * centres

    def forward(X):
        base = X @ scaled.T
        base += coef0
        # The power below the degree serves the derivative; a general power costs more than these products.
        below = base**0 if degree < 2 else base
        for _ in range(degree - 2):
            below = below * base

        def pullback(cotangent):
            cotangent *= below
            cotangent *= degree
            return cotangent @ scaled

        return (below * base if degree else below), pullback

    return forward


def sigmoid_features(centres, *, gamma, coef0, **_):
    """Forward of ``tanh(gamma * x.c + coef0)``."""
    xp = array_namespace(centres)
    scaled = gamma * centres

    def forward(X):
        kernel = X @ scaled.T
        kernel += coef0
        xp.tanh(kernel, out=kernel)

        def pullback(cotangent):
            cotangent *= 1 - kernel * kernel
            return cotangent @ scaled

        return kernel, pullback

    return forward


KERNELS = {"rbf": rbf_features, "poly": polynomial_features, "sigmoid": sigmoid_features}


def kernel_features(kernel, centres, weights, **parameters):
    """A forward of features, and the weights on them, whose product is ``K(X, centres) @ weights``.

    Parameters
    ----------
    kernel : {"linear", "poly", "rbf", "sigmoid"}
    centres : array of shape (n_centres, n_features)
    weights : array of shape (n_centres, n_outputs)
    **parameters
        The kernel's ``gamma``, ``coef0`` and ``degree``.
    """
    if kernel == "linear":
        return (lambda X: (X, lambda cotangent: cotangent)), centres.T @ weights
    if kernel not in KERNELS:
        name = getattr(kernel, "__name__", repr(kernel)) if callable(kernel) else repr(kernel)
        raise GradientUnavailableError(
            f"kernel={name} has no gradient rule: skart knows 'linear', 'poly', 'rbf' and 'sigmoid'"
            + (", and a precomputed kernel does not tell how it follows from the samples. " if not callable(kernel) else ". ")
            + "Fit with one of these, or register a rule of your own with `skart.register_rule`."
        )
    return KERNELS[kernel](centres, **parameters), weights


def pairwise(features, weights, bias):
    """Forward of the decision values of all pairs of classes, as scikit-learn's ``decision_function_shape="ovo"``."""

    def forward(X):
        values, pull = features(X)
        pairs = values @ weights
        pairs += bias
        return pairs, lambda cotangent: pull(cotangent @ weights.T)

    return forward
