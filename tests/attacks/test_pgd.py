"""Projected gradient descent and the basic iterative method."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skart import register_rule
from skart.attacks import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent
from tests.common._discovery import distance

PGD = ProjectedGradientDescent


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    return SVC(gamma=2.0).fit(X, y), X, y


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr", "kl"])
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_every_loss_does_its_work(loss, norm, iris):
    clf, X, y = iris
    eps = {1: 2.0, 2: 1.3, np.inf: 0.9}[norm]
    result = PGD(clf, norm=norm, eps=eps, loss=loss, n_restarts=2, random_state=0).run(X, y)
    assert clf.score(X, y) > 0.95
    assert result.success.mean() > 0.6


def test_margin_reaches_what_a_grid_finds():
    """Brute force in two dimensions: no sample that a dense grid breaks withstands the attack."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X[:, 2:])
    clf = SVC(gamma=5.0).fit(X, y)
    eps = 0.25
    steps = np.linspace(-eps, eps, 41)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    broken = np.array([np.any(clf.predict(x + grid) != label) for x, label in zip(X, y)])
    result = PGD(clf, eps=eps, loss="margin", n_restarts=5, random_state=0).run(X, y)
    assert 0.05 < broken.mean() < 0.5
    assert np.mean(result.success[broken]) == 1


def test_no_random_start_is_the_basic_iterative_method(iris):
    clf, X, y = iris
    params = {"eps": 0.4, "norm": 2, "max_iter": 7}
    assert_array_equal(
        PGD(clf, random_start=False, **params).transform(X, y), BasicIterativeMethod(clf, **params).transform(X, y)
    )


def test_one_step_of_a_radius_is_the_fast_gradient_method(iris):
    clf, X, y = iris
    one = BasicIterativeMethod(clf, eps=0.4, eps_step=0.4, max_iter=1).run(X, y)
    fast = FastGradientMethod(clf, eps=0.4).run(X, y)
    assert_array_equal(one.X_adv[one.success], fast.X_adv[one.success])


def test_every_sample_of_every_batch_starts_elsewhere(iris):
    clf, X, _ = iris
    twins = np.repeat(X[:1], 6, axis=0)
    for params in ({}, {"n_restarts": 2}):
        X_adv = PGD(clf, norm=2, max_iter=1, batch_size=2, random_state=0, **params).transform(twins)
        assert len(np.unique(X_adv, axis=0)) == 6


def test_restarts_are_never_worse(iris):
    clf, X, y = iris
    params = {"eps": 0.5, "max_iter": 5, "random_state": 0}
    one, ten = PGD(clf, **params).run(X, y), PGD(clf, n_restarts=10, **params).run(X, y)
    assert np.all(ten.success >= one.success)
    assert ten.success.sum() > one.success.sum()
    # Samples that one run has broken are left out of the next.
    assert_array_equal(ten.n_gradients[one.success], 5)
    assert np.all(ten.n_gradients[~ten.success] == 50)


@pytest.mark.parametrize("n_restarts", [1, 3])
def test_early_stop_succeeds_as_often_for_less(n_restarts, iris):
    clf, X, y = iris
    params = {"eps": 0.7, "max_iter": 20, "n_restarts": n_restarts, "random_state": 0}
    full, early = PGD(clf, **params).run(X, y), PGD(clf, early_stop=True, **params).run(X, y)
    assert_array_equal(early.success, full.success)
    assert early.n_gradients.sum() < full.n_gradients.sum() / 2
    assert_array_equal(early.n_gradients[~early.success], full.n_gradients[~early.success])


class Ring(LogisticRegression):
    """Class 1 lies in a thin ring, which a step of a tenth can jump over."""

    def fit(self, X, y):
        self.classes_, self.n_features_in_ = np.array([0, 1]), X.shape[1]
        return self

    def decision_function(self, X):
        radius = np.sqrt((X**2).sum(axis=1))
        return 0.03 - np.abs(radius - 1.0)

    def predict_proba(self, X):
        p = 1 / (1 + np.exp(-20 * self.decision_function(X)))
        return np.stack([1 - p, p], axis=1)

    def predict(self, X):
        return (self.decision_function(X) > 0).astype(int)


@register_rule(Ring)
def ring_rule(model, backend):
    def forward(X):
        radius = np.sqrt((X**2).sum(axis=1))

        def pullback(cotangent):
            slope = -np.sign(radius - 1.0) * 20 * cotangent[:, 1]
            return (slope / radius)[:, None] * X

        return np.stack([np.zeros(len(X)), 20 * (0.03 - np.abs(radius - 1.0))], axis=1), pullback

    return forward


def test_the_best_iterate_is_kept():
    angle = np.linspace(0, 6, 30)
    X = 0.85 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    model = Ring().fit(X, np.zeros(30))
    # Steps of 0.16 visit the radii 1.01 (in the ring), 0.85 (outside), 1.01, ...: the last of six lies outside.
    for max_iter in (5, 6):
        result = BasicIterativeMethod(model, norm=2, eps=0.5, eps_step=0.16, max_iter=max_iter).run(X)
        assert result.success.all()
        assert_allclose(np.linalg.norm(result.X_adv, axis=1), 1.01, rtol=1e-9)


def test_steps_of_a_length_for_each_feature(iris):
    clf, X, y = iris
    eps, step = np.array([0.1, 0.5, 0.2, 0.4]), np.array([0.05, 0.25, 0.1, 0.2])
    # Features in other units, with radii and steps in them too, change nothing.
    units = np.array([1.0, 4.0, 0.5, 2.0])
    plain = BasicIterativeMethod(clf, norm=2, eps=eps, eps_step=step, max_iter=5).transform(X, y)
    scaler = StandardScaler(with_mean=False).fit(X)
    scaler.scale_, scaler.var_ = units, units**2
    scaled = make_pipeline(scaler, clf)
    other = BasicIterativeMethod(scaled, norm=2, eps=eps * units, eps_step=step * units, max_iter=5)
    assert_allclose(other.transform(X * units, y) / units, plain, rtol=0, atol=1e-12)
    assert distance(X / eps, plain / eps, 2).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("eps_step", "message"),
    [
        ([0.1, 0.2], r"eps_step has shape \(2,\) where a sample has shape \(4,\)"),
        ([0.1, 0.2, 0.0, 0.1], "eps_step must be finite and positive"),
        (-1.0, "eps_step"),
    ],
)
def test_steps_that_do_not_fit(eps_step, message, iris):
    clf, X, _ = iris
    with pytest.raises(ValueError, match=message):
        PGD(clf, eps_step=eps_step).transform(X)
