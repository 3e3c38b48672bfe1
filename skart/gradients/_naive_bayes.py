"""Rules for naive Bayes.

Their log-likelihoods are affine in the input, or in the input and its squares.
"""

import numpy as np

from skart._core._arrays import array_namespace, to_numpy
from skart.gradients._linear import affine
from skart.gradients._registry import Bound, chain, rule

__all__ = ["step_above"]


def step_above(threshold):
    """Forward of ``X > threshold``, in numbers; backward it passes for the identity (straight-through)."""

    def forward(X):
        xp = array_namespace(X)
        return xp.astype(X > threshold, X.dtype), lambda cotangent: cotangent

    return forward


def diagonal_quadratics(means, precisions, offset):
    """Forward of ``offset[k] - sum_j precisions[k, j] * (x_j - means[k, j])**2 / 2``, by products with x and x**2."""
    xp = array_namespace(means)
    # Squares cancel less near the origin.
    origin = xp.mean(means, axis=0)
    means = means - origin
    linear, square = precisions * means, -precisions / 2
    offset = offset - xp.sum(linear * means, axis=1) / 2

    def forward(X):
        X = X - origin
        scores = X @ linear.T
        scores += (X * X) @ square.T
        scores += offset

        def pullback(cotangent):
            grad = cotangent @ precisions
            grad *= X
            return cotangent @ linear - grad

        return scores, pullback

    return forward


def diagonal_quadratics_by_class(means, precisions, offset):
    """The same, from the differences themselves: more passes, and no cancellation."""
    xp = array_namespace(means)
    classes = range(means.shape[0])

    def forward(X):
        scores = []
        for k in classes:
            squares = X - means[k, :]
            squares *= squares
            scores.append(squares @ precisions[k, :])
        scores = xp.stack(scores, axis=1)
        scores *= -0.5
        scores += offset

        def pullback(cotangent):
            grad = xp.zeros_like(X)
            for k in classes:
                away = means[k, :] - X
                away *= precisions[k, :]
                away *= cotangent[:, k : k + 1]
                grad += away
            return grad

        return scores, pullback

    return forward


@rule("sklearn.naive_bayes.GaussianNB")
def gaussian_naive_bayes(model, backend):
    means, variances, prior = (to_numpy(a) for a in (model.theta_, model.var_, model.class_prior_))
    with np.errstate(divide="ignore"):  # a prior may be zero
        offset = np.log(prior) - np.log(2 * np.pi * variances).sum(axis=1) / 2
    # A feature that is constant within a class has a variance of 1e-9 of the others', and expanded squares would then
    # cancel all digits. Half of them is what may be lost.
    lost = ((means - means.mean(axis=0)) ** 2 / variances).sum(axis=1).max()
    quadratics = diagonal_quadratics
    if not lost * float(backend.xp.finfo(backend.dtype).eps) ** 0.5 < 1:
        quadratics = diagonal_quadratics_by_class
    return quadratics(backend.asarray(means), backend.asarray(1 / variances), backend.asarray(offset))


@rule("sklearn.naive_bayes.MultinomialNB")
def multinomial_naive_bayes(model, backend):
    return affine(backend.asarray(model.feature_log_prob_.T), backend.asarray(model.class_log_prior_))


@rule("sklearn.naive_bayes.ComplementNB")
def complement_naive_bayes(model, backend):
    # The prior plays no part where there is more than one class.
    return affine(backend.asarray(model.feature_log_prob_.T), backend.asarray(np.zeros(len(model.classes_))))


@rule("sklearn.naive_bayes.BernoulliNB", gradient="straight-through")
def bernoulli_naive_bayes(model, backend):
    present = model.feature_log_prob_
    absent = np.log(-np.expm1(present))
    weights = backend.asarray((present - absent).T)
    scores = affine(weights, backend.asarray(model.class_log_prior_ + absent.sum(axis=1)))
    if model.binarize is None:
        return scores
    return chain([Bound(step_above(model.binarize), continuous=False), Bound(scores)])
