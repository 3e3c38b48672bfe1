"""The virtual adversarial method against the eigenvectors that its power iteration looks for."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.tree import DecisionTreeClassifier

from skart.attacks import VirtualAdversarialMethod
from skart.attacks._base import bind_attack
from skart.attacks.gradient._virtual import _divergence_slope
from skart.estimators import BlackBoxClassifier
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from tests.common._models import as_net, blobs, fitted_mlp

VAM = VirtualAdversarialMethod


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=1000).fit(X, y), X, y


def divergence(clf, X, X_adv):
    p, q = clf.predict_proba(X), clf.predict_proba(X_adv)
    return (p * np.log(p / q)).sum(axis=1)


def test_direction_is_the_leading_eigenvector(iris):
    clf, X, _ = iris
    # Near the sample the divergence is a quadratic form, with the Fisher information as its matrix.
    p = clf.predict_proba(X)
    fisher = np.einsum(
        "ki,nkl,lj->nij", clf.coef_, np.einsum("nk,kl->nkl", p, np.eye(3)) - p[:, :, None] * p[:, None], clf.coef_
    )
    value, vector = np.linalg.eigh(fisher)
    clear = value[:, -1] > 3 * value[:, -2]
    X_adv = VAM(clf, eps=0.1, probe=1e-3, max_iter=30, random_state=0).transform(X)
    d = (X_adv - X) / 0.1
    assert clear.sum() > 50
    assert_allclose(np.linalg.norm(d, axis=1), 1, rtol=1e-6)
    assert np.abs((d * vector[:, :, -1]).sum(axis=1))[clear].min() > 0.999
    # One iteration is not there yet.
    d = VAM(clf, eps=0.1, probe=1e-3, max_iter=1, random_state=0).transform(X) - X
    assert np.abs((d / 0.1 * vector[:, :, -1]).sum(axis=1))[clear].min() < 0.99


def test_raises_the_divergence_above_random_directions():
    X, y = blobs()
    mlp = fitted_mlp(X, y)
    X_adv = VAM(mlp, eps=0.3, probe=0.3, random_state=0).transform(X)

    def either_way(delta):
        # It grows faster one way than the other along one line, and which way is taken is left to chance.
        return np.maximum(divergence(mlp, X, X + delta), divergence(mlp, X, X - delta))

    rng = np.random.default_rng(0)
    rivals = []
    for _ in range(20):
        d = rng.normal(size=X.shape)
        rivals.append(either_way(0.3 * d / np.linalg.norm(d, axis=1, keepdims=True)))
    assert np.mean(either_way(X_adv - X) >= np.max(rivals, axis=0)) > 0.85


def test_scores_alone_do_as_well(iris):
    clf, X, _ = iris
    X = X[::5]
    box = BlackBoxClassifier(clf.predict_proba, classes=[0, 1, 2])
    params = {
        "eps": 0.5,
        "max_iter": 4,
        "random_state": 0,
        "clip_values": (X.min(axis=0), X.max(axis=0)),
        "mask": [0, 2, 3],
    }
    white = VAM(clf, **params).run(X)
    black = VAM(box, finite_diff=1e-4, **params).run(X)
    assert_allclose(black.X_adv, white.X_adv, rtol=0, atol=2e-3)
    assert_array_equal(black.X_adv[:, 1], X[:, 1])
    # Clean scores; in each iteration scores at the point and beside it in each of three features; labels and verdict.
    assert_array_equal(black.n_queries[8:], 1 + 4 * (1 + 3) + 2)
    assert_array_equal(black.n_gradients, 0)
    assert_array_equal(white.n_queries[8:], 1 + 4 + 2)
    assert_array_equal(white.n_gradients, 4)


def test_counts_of_queries_are_those_of_the_function(iris):
    clf, X, _ = iris
    seen = []

    def answer(X):
        seen.append(len(X))
        return clf.predict_proba(X)

    result = VAM(BlackBoxClassifier(answer, classes=[0, 1, 2]), max_iter=2, batch_size=64, random_state=0).run(X)
    assert result.n_queries.sum() == sum(seen)
    assert max(seen) <= 64 * 4  # all features of a batch in one call


def test_differences_stay_in_the_box(iris):
    clf, X, _ = iris
    low, high = X.min(axis=0), X.max(axis=0)

    def answer(X):
        assert np.all((X >= low) & (X <= high))
        return clf.predict_proba(X)

    box = BlackBoxClassifier(answer, classes=[0, 1, 2])
    X_adv = VAM(box, finite_diff=0.05, clip_values=(low, high), max_iter=2, random_state=0).transform(X)
    assert np.all((X_adv >= low) & (X_adv <= high))


def test_the_default_difference_survives_float32():
    X, y = blobs()
    mlp = fitted_mlp(X, y)
    net = as_net(mlp)
    module = net.module_.float()

    def answer(X):
        with torch.no_grad():
            return torch.softmax(module(torch.as_tensor(X, dtype=torch.float32)), dim=1).numpy()

    box = BlackBoxClassifier(answer, classes=[0, 1, 2])
    black = VAM(box, eps=0.5, random_state=0).transform(X.astype(np.float32))
    white = VAM(mlp, eps=0.5, random_state=0).transform(X)
    cosine = ((black - X) * (white - X)).sum(axis=1) / 0.25
    assert np.median(cosine) > 0.99
    assert np.mean(cosine > 0.9) > 0.9


def test_slope_keeps_its_precision_where_the_model_is_sure():
    clean = np.array([[0.0, -20.0, -25.0], [0.3, 0.1, 0.2]])
    there = clean + np.array([[0.0, 0.01, -0.02], [1e-4, 0.0, 2e-4]])

    def log_softmax(z):
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    exact = np.exp(log_softmax(there.astype(np.longdouble))) - np.exp(log_softmax(clean.astype(np.longdouble)))
    exact = (exact / np.abs(exact).max(axis=1, keepdims=True)).astype(float)
    slope = _divergence_slope(*(log_softmax(z.astype(np.float32)) for z in (clean, there)))
    assert slope.dtype == np.float32
    assert_allclose(slope, exact, atol=5e-3)


def test_recipe_for_the_estimator_at_hand(iris):
    clf, X, y = iris
    recipe = VAM(eps=0.5, random_state=0)
    assert_array_equal(bind_attack(recipe, clf).transform(X), VAM(clf, eps=0.5, random_state=0).transform(X))
    # Labels are not needed, nor do they matter.
    assert_array_equal(VAM(clf, random_state=0).transform(X), VAM(clf, random_state=0).transform(X, y))


def test_box_takes_nothing_from_the_length(iris):
    clf, X, _ = iris
    low, high = X.min(axis=0), X.max(axis=0)
    X_adv = VAM(clf, eps=0.2, clip_values=(low, high), random_state=0).transform(X)
    assert np.all((X_adv >= low) & (X_adv <= high))
    assert_allclose(np.linalg.norm(X_adv - X, axis=1), 0.2, rtol=1e-6)


def test_flat_scores_are_told(iris):
    _, X, y = iris
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, y)
    with pytest.warns(AttackFailureWarning, match="zero"):
        result = VAM(tree, eps=0.01, finite_diff=1e-6, random_state=0, max_iter=2).run(X)
    assert_allclose(result.distance, 0.01, rtol=1e-6)  # the first direction


def test_labels_are_not_enough(iris):
    clf, X, y = iris
    with pytest.raises(GradientUnavailableError, match="needs gradients or scores"):
        VAM(BlackBoxClassifier(clf.predict, classes=[0, 1, 2], output="labels")).transform(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAM(Perceptron().fit(X, y), random_state=0, probe=0.1).transform(X)
