"""NewtonFool against its formulas, taken by central differences, and closed forms on linear models."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from skart.attacks import NewtonFool
from skart.exceptions import AttackFailureWarning
from tests.common._models import blobs, fitted_mlp


@pytest.fixture(scope="module")
def binary():
    X, y = make_classification(60, 5, n_informative=5, n_redundant=0, random_state=1)
    return LogisticRegression().fit(X, y), X


@pytest.mark.parametrize("eta", [0.01, 0.05, 10.0])
def test_one_step_is_the_formula(eta):
    X, y = blobs()
    mlp = fitted_mlp(X, y)
    label = mlp.predict(X)
    rows = np.arange(len(X))

    def probability(X):
        return mlp.predict_proba(X)[rows, label]

    h = 1e-5
    slope = np.stack([(probability(X + e) - probability(X - e)) / (2 * h) for e in h * np.eye(X.shape[1])], axis=1)
    size = np.linalg.norm(slope, axis=1)
    delta = np.minimum(eta * np.linalg.norm(X, axis=1) * size, probability(X) - 1 / 3)
    X_adv = NewtonFool(mlp, eta=eta, max_iter=1).transform(X)
    assert_allclose(X_adv, X - (delta / size**2)[:, None] * slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_goes_straight_to_the_hyperplane(eta, dtype, binary):
    clf, X = binary
    X = X.astype(dtype)
    decision = clf.decision_function(X)
    exact = np.abs(decision) / np.linalg.norm(clf.coef_[0])
    result = NewtonFool(clf, eta=eta, max_iter=2000).run(X)
    assert result.success.all()
    # The last step is bounded as all are.
    assert np.all(result.distance >= exact * (1 - 1e-5) - 1e-6)
    assert np.all(result.distance <= exact + eta * np.linalg.norm(X, axis=1) + 1e-5)
    far = exact > 5 * eta * np.linalg.norm(X, axis=1)
    assert np.all(result.distance[far] <= 1.25 * exact[far])
    delta = result.X_adv - X
    across = delta - np.outer(delta @ clf.coef_[0], clf.coef_[0]) / (clf.coef_[0] @ clf.coef_[0])
    assert np.abs(across).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certainty_does_not_blind_it(dtype, binary):
    clf, X = binary
    sure = LogisticRegression().fit(X, clf.predict(X))
    # Log-odds in the thousands: probabilities are 1 and their gradients 0 to the last digit.
    sure.coef_, sure.intercept_ = 1e4 * clf.coef_, 1e4 * clf.intercept_
    result = NewtonFool(sure, max_iter=2000).run(X.astype(dtype))
    assert np.isfinite(result.X_adv).all()
    assert result.success.all()
    exact = np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0])
    assert np.all(result.distance <= exact + 0.0101 * np.linalg.norm(X, axis=1) + 1e-5)


def test_samples_stay_where_the_label_changes(binary):
    clf, X = binary
    result = NewtonFool(clf, max_iter=300).run(X)
    size = np.linalg.norm(X, axis=1)
    exact = np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0])
    # Steps that are needed; a sample may wait for half of the batch to be done.
    needed = np.ceil(exact / (0.01 * size))
    assert np.all(result.n_gradients >= np.floor(exact / (0.011 * size)))
    assert result.n_gradients.sum() < 2 * needed.sum()
    assert np.unique(result.n_gradients).size > 3


def test_box_and_mask():
    X, y = blobs()
    clf = SVC().fit(X, y)
    free = np.array([True, True, False, True, True, True])
    result = NewtonFool(clf, eta=0.02, clip_values=(0, 1), mask=free).run(X)
    assert result.X_adv.min() >= 0
    assert result.X_adv.max() <= 1
    assert_array_equal(result.X_adv[:, 2], X[:, 2])
    assert result.success.mean() > 0.8
    # Ends of the range do not count towards the length of a step: a first step of full length where one is due.
    one = NewtonFool(clf, eta=1e-4, clip_values=(0, 1), max_iter=1)
    X = X.copy()
    X[:, 0], X[:, 1] = 0.0, 1.0
    moved = one.run(X)
    share = moved.distance / (1e-4 * np.linalg.norm(X, axis=1))
    assert share.max() < 1 + 1e-9
    assert np.mean(share > 1 - 1e-9) > 0.95  # but where a step to the boundary is shorter


def test_the_origin_is_a_dead_end(binary):
    clf, X = binary
    X = np.vstack([np.zeros(5), X[:3]])
    with pytest.warns(AttackFailureWarning, match="1 of 4 samples came back unchanged"):
        result = NewtonFool(clf, max_iter=500).run(X)
    assert_array_equal(result.X_adv[0], 0)
    assert result.success[1:].all()
    assert result.n_gradients[0] <= result.n_gradients[1:].max()
