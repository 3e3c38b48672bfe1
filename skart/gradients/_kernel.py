"""Rules for kernel machines.

A kernel is a map of samples to their kernel values with the model's centres, and a model is a matrix on top of it.
"""

from collections.abc import Callable

import numpy as np
from scipy.sparse import issparse

from skart._core._arrays import array_namespace, device
from skart.exceptions import GradientUnavailableError
from skart.gradients._linear import two_columns
from skart.gradients._registry import Bound, rule

__all__ = ["KERNELS", "kernel_features", "pairwise"]


# Of features at a time. On digits, among 2**17 to 2**22: up to three times as fast as the whole in float64, and a
# seventh slower at most in float32.
_BLOCK_BYTES = 2**19


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
    xp = array_namespace(centres)
    scaled = gamma * centres

    def forward(X):
        base = X @ scaled.T
        base += coef0
        # The power below the degree serves the derivative; a general power costs more than these products.
        below = base if degree > 1 else xp.ones_like(base)
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
            slope = kernel * kernel
            slope -= 1
            cotangent *= slope
            return -(cotangent @ scaled)

        return kernel, pullback

    return forward


KERNELS: dict[str, Callable] = {"rbf": rbf_features, "poly": polynomial_features, "sigmoid": sigmoid_features}


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
            + (
                ", and a precomputed kernel does not tell how it follows from the samples. "
                if not callable(kernel)
                else ". "
            )
            + "Fit with one of these, or register a rule of your own with `skart.register_rule`."
        )
    return KERNELS[kernel](centres, **parameters), weights


def pairwise(features, weights, bias):
    """Forward of ``features(X) @ weights + bias``: the decision values of all pairs of classes (i, j), i < j."""

    def forward(X):
        values, pull = features(X)
        pairs = values @ weights
        pairs += bias
        return pairs, lambda cotangent: pull(cotangent @ weights.T)

    return forward


def votes(features, weights, bias, n_classes):
    """Forward of one score a class: the pairs that it wins, and a bounded confidence that breaks ties."""
    xp = array_namespace(weights)
    first, second = (xp.asarray(index, device=device(weights)) for index in np.triu_indices(n_classes, 1))
    classes = xp.arange(n_classes, device=device(weights))
    # A pair's value counts for its first class and against its second.
    signs = xp.astype(first[:, None] == classes, weights.dtype) - xp.astype(second[:, None] == classes, weights.dtype)
    # Class k is the second one of k pairs, and wins those that the first does not.
    votes_as_second = xp.astype(classes, weights.dtype)
    to_confidence = weights @ signs

    def forward(X):
        values, pull = features(X)
        pairs = values @ weights
        pairs += bias
        confidence = pairs @ signs
        slope = 1 / (1 + xp.abs(confidence))
        scores = xp.astype(pairs >= 0, pairs.dtype) @ signs + votes_as_second + confidence * slope / 3

        def pullback(cotangent):
            # Votes are flat almost everywhere; s / (3 (1 + |s|)) has the derivative 1 / (3 (1 + |s|)**2).
            return pull((cotangent * slope * slope / 3) @ to_confidence.T)

        return scores, pullback

    return forward


def smallest_margins(features, weights, bias, n_classes):
    """Forward of the least of the pairwise margins of each class: the largest belongs to the class that wins all."""
    xp = array_namespace(weights)
    first, second = np.triu_indices(n_classes, 1)
    n_pairs = len(first)
    # Rows of (d, -d), pairs leading: entry (k, r) is the margin of class k over its r-th rival.
    table = np.zeros((n_classes, n_classes), dtype=np.int64)
    table[first, second] = np.arange(n_pairs)
    table[second, first] = np.arange(n_pairs, 2 * n_pairs)
    table = table[~np.eye(n_classes, dtype=bool)].reshape(n_classes, n_classes - 1)
    rows = xp.asarray(table, device=device(weights))
    rows_back = xp.asarray(np.argsort(table, axis=None), device=device(weights))
    bias = bias[:, None]

    def forward(X):
        values, pull = features(X)
        # Samples stand last, since reductions over short last axes are slow.
        pairs = weights.T @ values.T
        pairs += bias
        margins = xp.concat([pairs, -pairs])[rows]  # (n_classes, n_rivals, n_samples)
        least = xp.min(margins, axis=1)

        def pullback(cotangent):
            pulled = xp.astype(margins == least[:, None, :], weights.dtype)
            pulled *= (cotangent.T / xp.sum(pulled, axis=1))[:, None, :]  # rivals at a tie share it
            pulled = xp.reshape(pulled, (2 * n_pairs, -1))[rows_back]
            return pull((pulled[:n_pairs] - pulled[n_pairs:]).T @ weights.T)

        return least.T, pullback

    return forward


def in_blocks(forward, weights, backend):
    """A forward that takes few samples at a time, for features that ``weights`` contracts."""
    if backend.is_torch:
        return forward  # which keeps freed memory for the next pass, and may be on a GPU that wants large products
    # Features that fit the cache stay in memory that need not be fetched from the system in every pass.
    n_rows = max(_BLOCK_BYTES // (weights.shape[0] * weights.itemsize), 16)

    def block_forward(X):
        n_samples = X.shape[0]
        if n_samples <= n_rows:
            return forward(X)
        xp = array_namespace(X)
        blocks = [slice(start, start + n_rows) for start in range(0, n_samples, n_rows)]
        outputs, pullbacks = zip(*(forward(X[block, ...]) for block in blocks))

        def pullback(cotangent):
            return xp.concat([pull(cotangent[block, ...]) for block, pull in zip(blocks, pullbacks)])

        return xp.concat(outputs), pullback

    return block_forward


def libsvm_weights(model):
    """Weights of the support vectors for each pair of classes, and the intercepts, with scikit-learn's signs."""
    dual = model.dual_coef_.toarray() if issparse(model.dual_coef_) else model.dual_coef_
    n_classes = len(model.classes_)
    if n_classes == 2:
        return dual.T, model.intercept_
    # libsvm keeps for a support vector of class k one coefficient for each of the other classes, in their order.
    owner = np.repeat(np.arange(n_classes), model.n_support_)[:, None]
    first, second = np.triu_indices(n_classes, 1)
    weights = np.where(owner == first, dual[second - 1].T, 0.0) + np.where(owner == second, dual[first].T, 0.0)
    return weights, model.intercept_


def libsvm_pairs(model, backend):
    """Features, weights and bias of a fitted libsvm classifier."""
    weights, bias = libsvm_weights(model)
    centres = model.support_vectors_
    features, weights = kernel_features(
        model.kernel,
        backend.asarray(centres.toarray() if issparse(centres) else centres),
        backend.asarray(weights),
        # "scale" or "auto" resolved at fit time; no public attribute holds it.
        gamma=float(model._gamma),
        coef0=float(model.coef0),
        degree=int(model.degree),
    )
    return features, weights, backend.asarray(bias)


@rule("sklearn.svm.NuSVC", "sklearn.svm.SVC")
def support_vector_classifier(model, backend):
    """Decision values, whatever ``probability`` says: Platt's probabilities disagree with ``predict``."""
    features, weights, bias = libsvm_pairs(model, backend)
    n_classes = len(model.classes_)
    if n_classes == 2:
        forward = in_blocks(pairwise(features, *two_columns(weights, bias)), weights, backend)
        return Bound(forward, probabilistic=False)
    ovo = model.decision_function_shape == "ovo"
    return Bound(
        in_blocks(votes(features, weights, bias, n_classes), weights, backend),
        margins=in_blocks(smallest_margins(features, weights, bias, n_classes), weights, backend),
        decision=in_blocks(pairwise(features, weights, bias), weights, backend) if ovo else None,
        probabilistic=False,
    )
