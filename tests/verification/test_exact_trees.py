"""Exact robustness of tree ensembles, against a search through everything that small ensembles can tell apart."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import minmax_scale
from sklearn.tree import DecisionTreeClassifier

from skart.attacks import DecisionTreeAttack
from skart.oracles import get_trees
from skart.verification import _exact_trees as module
from skart.verification import exact_tree_robustness
from tests.verification._brute_force import MODELS, NORMS, brute_force, predicted, samples

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")
each_norm = pytest.mark.parametrize("norm", NORMS)


def check(model, x, labels, best, norm, **params):
    result = exact_tree_robustness(model, x, norm=norm, **params)
    assert result.exact.all()
    found = np.isfinite(best)
    assert_array_equal(np.isfinite(result.lower), found)
    assert_allclose(result.lower[found], best[found], rtol=5e-6)
    assert_allclose(result.upper[found], best[found], rtol=5e-6)
    assert result.X_adv.dtype == get_trees(model).dtype
    assert_array_equal(predicted(model, result.X_adv) != labels, found)
    assert_array_equal(result.X_adv[~found], x[~found])
    delta = result.X_adv[found].astype(float) - x[found]
    assert_allclose(np.linalg.norm(delta, ord=norm, axis=1), result.upper[found])
    return result


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("max_iter", [0, 50])
@pytest.mark.parametrize("name", MODELS)
def test_equals_brute_force(name, max_iter, n_classes):
    X, y = samples(n_classes)
    model = MODELS[name]().fit(X, y)
    x = X[:12].astype(get_trees(model).dtype)
    labels = predicted(model, x)
    best = brute_force(model, x, lambda answers, n: answers != labels[n])
    for norm in NORMS:
        check(model, x, labels, best[norm], norm, max_iter=max_iter)


@pytest.mark.parametrize("name", ["forest", "XGBoost", "LightGBM"])
@each_norm
def test_box_and_mask_equal_brute_force(name, norm):
    X, y = samples(2)
    model = MODELS[name]().fit(X, y)
    x = np.clip(X[:15], -0.25, 0.3).astype(get_trees(model).dtype)
    labels = predicted(model, x)
    low, high = x.dtype.type(-0.25), x.dtype.type(0.3)
    stuck = 0
    for free in [(True, True, True), (True, False, True), (False, True, False)]:
        best = brute_force(model, x, lambda answers, n: answers != labels[n], low=low, high=high, free=free)
        check(model, x, labels, best[norm], norm, clip_values=(-0.25, 0.3), mask=np.array(free))
        stuck += np.count_nonzero(np.isinf(best[norm]))
    assert stuck


@each_norm
def test_single_tree_equals_the_nearest_leaf(norm):
    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    result = exact_tree_robustness(model, X, norm=norm)
    assert_allclose(result.lower, DecisionTreeAttack(model, norm=norm).run(X).distance, rtol=5e-6)


def test_misclassified_samples_have_distance_zero():
    X, y = samples(2)
    model = MODELS["boosting"]().fit(X, y)
    wrong = model.predict(X) != y
    assert wrong.any()
    result = exact_tree_robustness(model, X, y)
    assert_array_equal(result.upper == 0, wrong)
    assert_array_equal(result.lower == 0, wrong)
    assert_array_equal(result.X_adv[wrong], X[wrong].astype(np.float32))


def test_an_interval_where_time_runs_out():
    X, y = load_breast_cancer(return_X_y=True)
    X = minmax_scale(X).astype(np.float32)
    model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(X, y)
    exact = exact_tree_robustness(model, X[:20], norm=2)
    assert exact.exact.all()
    hasty = exact_tree_robustness(model, X[:20], norm=2, time_limit=1e-9)
    assert not hasty.exact.any()
    assert np.all(hasty.lower <= exact.lower)
    assert np.all(hasty.upper >= exact.upper)
    assert_array_equal(model.predict(hasty.X_adv) != model.predict(X[:20]), np.isfinite(hasty.upper))


def test_what_the_model_refuses_is_no_answer(monkeypatch):
    X, y = samples(2)
    model = MODELS["boosting"]().fit(X, y)
    x = X[:10].astype(np.float32)
    labels = model.predict(x)
    best = brute_force(model, x, lambda answers, n: answers != labels[n])[np.inf]
    # A program that demands too little proposes leaves that keep the label.
    monkeypatch.setattr(module, "rounding_of", lambda trees: (0.05, 1e-9))
    monkeypatch.setattr(module, "_MAX_REFUSALS", 2000)
    check(model, x, labels, best, np.inf, max_iter=0)
    # And where it is asked no more, the two ends hold the answer between them.
    monkeypatch.setattr(module, "_MAX_REFUSALS", 1)
    monkeypatch.setattr(module, "rounding_of", lambda trees: (0.5, 1e-9))
    result = exact_tree_robustness(model, x, max_iter=0)
    assert not result.exact.all()
    assert np.all(result.lower <= best * (1 + 1e-6))
    assert np.all(result.upper >= best * (1 - 1e-6))
    assert np.all(np.isfinite(result.upper))
    assert_array_equal(result.exact, result.lower == result.upper)
    assert np.all(model.predict(result.X_adv) != labels)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_frames_labels_and_processes(n_jobs):
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = RandomForestClassifier(3, max_depth=3, random_state=0).fit(frame, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = exact_tree_robustness(model, frame[::10], names[::10], mask=["c", "d"], n_jobs=n_jobs)
    same = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, y)
    expected = exact_tree_robustness(same, X[::10], y[::10], mask=[2, 3])
    assert_array_equal(result.lower, expected.lower)
    assert_array_equal(result.X_adv, expected.X_adv)
    assert_array_equal(result.X_adv[:, :2], X[::10, :2].astype(np.float32))


def test_wrong_arguments_raise():
    X, y = load_iris(return_X_y=True)
    model = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, y)
    for params, message in [
        ({"norm": 3}, "norm"),
        ({"time_limit": 0}, "time_limit"),
        ({"clip_values": (0, 1)}, "outside"),
        ({"mask": [7]}, "feature 7"),
    ]:
        with pytest.raises(ValueError, match=message):
            exact_tree_robustness(model, X, **params)
    with pytest.raises(ValueError, match="NaN"):
        exact_tree_robustness(model, np.full((2, 4), np.nan))
    with pytest.raises(TypeError, match="LogisticRegression"):
        exact_tree_robustness(LogisticRegression(max_iter=500).fit(X, y), X)
