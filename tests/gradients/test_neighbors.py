"""Classifiers by distance."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid, RadiusNeighborsClassifier

from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.oracles import as_oracle
from skart.utils import check_rule
from tests.gradients._checks import CANCER, IRIS, name, standardised


@pytest.mark.parametrize("data", [standardised(CANCER, 8), standardised(IRIS)], ids=["2 classes", "3 classes"])
@pytest.mark.parametrize("shrink_threshold", [None, 0.3])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_centroids_with_priors(data, metric, shrink_threshold):
    X, y = data
    priors = [0.4, 0.6] if y.max() == 1 else [0.2, 0.5, 0.3]
    model = NearestCentroid(metric, shrink_threshold=shrink_threshold, priors=priors).fit(X, y)
    check_rule(model, X)
    oracle = as_oracle(model, X)
    assert_allclose(model.classes_[oracle.logits(X).argmax(axis=1)], model.predict(X))
    if metric == "euclidean":
        assert_allclose(np.exp(log_softmax(oracle.logits(X))), model.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("shrink_threshold", [None, 0.3])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
def test_centroids_without_priors(metric, shrink_threshold):
    # Features whose deviations within the classes differ: `predict` and `predict_proba` disagree.
    X, y = standardised(IRIS)
    X = X[:, :3] * [1.0, 1.2, 3.0]
    model = NearestCentroid(metric, shrink_threshold=shrink_threshold).fit(X, y)
    check_rule(model, X)
    oracle = as_oracle(model, X)
    margins, pullback = oracle.vjp(X, scores="margins")
    assert_allclose(model.classes_[margins.argmax(axis=1)], model.predict(X))
    away = X[:, None, :] - model.centroids_
    if metric == "manhattan":
        assert_allclose(margins, -np.abs(away).sum(axis=2))
        return
    assert (model.classes_[model.decision_function(X).argmax(axis=1)] != model.predict(X)).any()
    distance = -(away**2).sum(axis=2)
    assert_allclose(margins - margins[:, :1], distance - distance[:, :1])
    cotangent = np.random.default_rng(0).normal(size=(len(X), 3))
    cotangent -= cotangent.mean(axis=1, keepdims=True)  # what all classes share is left out
    assert_allclose(pullback(cotangent), -2 * (away * cotangent[:, :, None]).sum(axis=1))


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize(
    "estimator", [KNeighborsClassifier(), RadiusNeighborsClassifier(2.0, outlier_label="most_frequent")], ids=name
)
def test_neighbours_answer_scores_only(estimator, weights):
    X, y = standardised(IRIS)
    model = estimator.set_params(weights=weights).fit(X, y)
    oracle = as_oracle(model, X)
    assert oracle.access == "scores"
    assert_allclose(oracle.proba(X), model.predict_proba(X))
    with pytest.raises(GradientUnavailableError, match="nearest neighbours are constant wherever these agree"):
        oracle.vjp(X)
