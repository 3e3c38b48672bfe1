"""The fast gradient method against closed forms."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from skart.attacks import FastGradientMethod
from skart.exceptions import AttackFailureWarning
from tests.common._discovery import distance

DUAL = {1: np.inf, 2: 2, np.inf: 1}


@pytest.fixture(scope="module")
def linear():
    X, y = make_classification(100, 6, n_informative=6, n_redundant=0, random_state=1)
    return LogisticRegression().fit(X, y), X, y


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return SVC().fit(X, y), X, y


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("step", [0.05, 0.3])
def test_minimal_is_the_distance_to_the_hyperplane(norm, step, linear):
    clf, X, _ = linear
    # The distance of a point from a hyperplane is its score over the dual norm of the weights.
    exact = np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0], ord=DUAL[norm])
    n_steps = int(np.median(exact) / step) + 1
    attack = FastGradientMethod(clf, norm=norm, minimal=True, eps_step=step, eps_max=n_steps * step)
    result = attack.run(X)
    assert_array_equal(result.success, exact < n_steps * step)
    assert 0.2 < result.success.mean() < 0.8
    found = distance(X, result.X_adv, norm)
    assert np.all(found[result.success] >= exact[result.success])
    assert np.all(found[result.success] <= exact[result.success] + step * (1 + 1e-9))
    assert_allclose(result.distance, found, rtol=1e-12)
    assert_allclose(found[~result.success], n_steps * step)  # the step of the largest radius


def test_minimal_leaves_alone_what_is_wrong_already(iris):
    clf, X, y = iris
    result = FastGradientMethod(clf, minimal=True).run(X, y)
    wrong = clf.predict(X) != y
    assert wrong.any()
    assert_array_equal(result.X_adv[wrong], X[wrong])
    assert result.success[wrong].all()
    # One gradient for each sample, whatever the number of radii.
    assert_array_equal(result.n_gradients, 1)


def test_minimal_needs_a_step_within_the_largest_radius(linear):
    clf, X, _ = linear
    with pytest.raises(ValueError, match="eps_step=0.5 is larger than eps_max=0.1"):
        FastGradientMethod(clf, minimal=True, eps_step=0.5, eps_max=0.1).transform(X)


def test_maximum_norm_is_the_sign_of_the_gradient(linear):
    clf, X, y = linear
    towards = np.where(y == 1, -1.0, 1.0)[:, None] * np.sign(clf.coef_)
    assert_allclose(FastGradientMethod(clf, eps=0.2).transform(X, y), X + 0.2 * towards, rtol=0, atol=1e-15)
    target = FastGradientMethod(clf, eps=0.2, target=1).transform(X)
    assert_allclose(target, X + 0.2 * np.sign(clf.coef_), rtol=0, atol=1e-15)


def test_restarts_are_never_worse(iris):
    clf, X, y = iris
    one = FastGradientMethod(clf, eps=1.0, random_state=0).run(X, y)
    ten = FastGradientMethod(clf, eps=1.0, n_restarts=10, random_state=0).run(X, y)
    assert np.all(ten.success >= one.success)
    assert ten.success.sum() > one.success.sum()
    smallest = FastGradientMethod(clf, minimal=True, eps_max=2.0, n_restarts=5, random_state=0).run(X, y)
    single = FastGradientMethod(clf, minimal=True, eps_max=2.0).run(X, y)
    assert np.all(smallest.success >= single.success)


def test_kl_needs_restarts(iris):
    clf, X, y = iris
    with pytest.warns(AttackFailureWarning, match="gradient is zero at the start"):
        blind = FastGradientMethod(clf, eps=1.0, loss="kl").run(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seeing = FastGradientMethod(clf, eps=1.0, loss="kl", n_restarts=2, random_state=0).run(X, y)
    assert seeing.success.sum() > blind.success.sum()
