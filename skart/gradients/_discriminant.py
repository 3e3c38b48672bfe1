"""The rule for quadratic discriminant analysis."""

import numpy as np

from skart._core._arrays import array_namespace
from skart.gradients._registry import rule

__all__ = ["quadratics"]


def quadratics(means, whitenings, offset):
    """Forward of ``offset[k] - ||(x - means[k]) @ whitenings[k]||**2 / 2``.

    Class by class, so that no array is larger than the samples themselves: one product forward and one backward for
    each, of which the forward pass keeps nothing.
    """
    xp = array_namespace(means)
    precisions = [whitening @ whitening.T for whitening in whitenings]

    def forward(X):
        scores = []
        for k, whitening in enumerate(whitenings):
            white = (X - means[k, :]) @ whitening
            white *= white
            scores.append(xp.sum(white, axis=1))
        scores = xp.stack(scores, axis=1)
        scores *= -0.5
        scores += offset

        def pullback(cotangent):
            grad = xp.zeros_like(X)
            for k, precision in enumerate(precisions):
                away = means[k, :] - X
                away *= cotangent[:, k : k + 1]
                grad += away @ precision
            return grad

        return scores, pullback

    return forward


@rule("sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis")
def quadratic_discriminant_analysis(model, backend):
    # Every solver leaves a rotation to the principal axes of each class, and the variances along them.
    whitenings = [rotation / np.sqrt(scaling) for rotation, scaling in zip(model.rotations_, model.scalings_)]
    with np.errstate(divide="ignore"):  # a prior may be zero
        offset = np.log(model.priors_) - np.array([np.log(scaling).sum() for scaling in model.scalings_]) / 2
    return quadratics(
        backend.asarray(model.means_), [backend.asarray(whitening) for whitening in whitenings], backend.asarray(offset)
    )
