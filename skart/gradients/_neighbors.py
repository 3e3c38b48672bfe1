"""Rules for classifiers by distance.

Neighbours themselves have none: see ``_refusals.py``. Their nearest kin that does is the classifier by centroids.
"""

import numpy as np

from skart._core._arrays import array_namespace
from skart.gradients._linear import affine
from skart.gradients._registry import Bound, no_gradient, rule

__all__ = ["manhattan_distances"]

# With weights="distance" probabilities are smooth between changes of the set of neighbours, and yet: where all
# neighbours are of one class, as for 80 to 90 % of the test samples of scikit-learn's data sets with five of them,
# they are constant; and where a neighbour leaves, they jump.
no_gradient(
    "sklearn.neighbors.KNeighborsClassifier",
    "sklearn.neighbors.RadiusNeighborsClassifier",
    why=(
        "its votes of nearest neighbours are constant wherever these agree, and jump where one leaves (uniform votes "
        "are step functions everywhere)"
    ),
)


def negative_squares(centroids, offset):
    """Forward of ``offset[k] - ||x - centroids[k]||**2``, but for the ``||x||**2`` of all classes."""
    xp = array_namespace(centroids)
    return affine(2 * centroids.T, offset - xp.sum(centroids * centroids, axis=1))


def manhattan_distances(centroids):
    """Forward of the sums of absolute differences to each of the centroids, centroid by centroid."""
    xp = array_namespace(centroids)
    rows = range(centroids.shape[0])

    def forward(X):
        distances = xp.stack([xp.sum(xp.abs(X - centroids[k, :]), axis=1) for k in rows], axis=1)

        def pullback(cotangent):
            grad = xp.zeros_like(X)
            for k in rows:
                side = xp.astype(X > centroids[k, :], X.dtype) - xp.astype(X < centroids[k, :], X.dtype)
                side *= cotangent[:, k : k + 1]
                grad += side
            return grad

        return distances, pullback

    return forward


@rule("sklearn.neighbors.NearestCentroid")
def nearest_centroid(model, backend):
    """What ``predict`` compares: distances for uniform priors, else discriminant scores.

    With uniform priors scikit-learn's ``predict`` compares distances in the units of the features, while its
    ``predict_proba`` and ``decision_function`` measure each feature by its deviation within the classes.
    """
    centroids, prior = model.centroids_, model.class_prior_
    deviation = np.where(model.within_class_std_dev_ > 0, model.within_class_std_dev_, 1.0)
    with np.errstate(divide="ignore"):  # a prior may be zero
        offset = 2 * np.log(prior)
    uniform = np.allclose(prior, 1 / len(prior))
    factor, offset = backend.asarray(1 / deviation), backend.asarray(offset)
    if model.metric == "euclidean":
        if uniform:
            raw = negative_squares(backend.asarray(centroids), backend.xp.zeros_like(offset))
            return Bound(raw, follows_predict=True)
        return _of_scaled(negative_squares(backend.asarray(centroids / deviation), offset), factor)
    # With this metric the model has no public scores.
    if uniform:
        distances = manhattan_distances(backend.asarray(centroids))

        def forward(X):
            output, pull = distances(X)
            return -output, lambda cotangent: pull(-cotangent)

        return forward
    distances = _of_scaled(manhattan_distances(backend.asarray(centroids / deviation)), factor)

    def forward(X):
        output, pull = distances(X)
        return offset - output * output, lambda cotangent: pull(-2 * output * cotangent)

    return forward


def _of_scaled(forward, factor):
    """Forward of another forward at ``X * factor``."""

    def scaled(X):
        output, pull = forward(X * factor)
        return output, lambda cotangent: pull(cotangent) * factor

    return scaled
