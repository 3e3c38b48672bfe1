"""The attack on ensembles of trees, against brute force and the exact minimum."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import minmax_scale

from skart.attacks import TreeEnsembleAttack
from skart.attacks.tree import _tree_ensemble as module
from skart.exceptions import AttackFailureWarning
from skart.metrics import make_robustness_scorer
from skart.oracles import get_trees
from skart.verification import exact_tree_robustness
from tests.verification._brute_force import MODELS, NORMS, brute_force, predicted, samples

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")
each_norm = pytest.mark.parametrize("norm", NORMS)


def attack(model, X, y=None, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackFailureWarning)
        return TreeEnsembleAttack(model, **params).run(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_reaches_what_can_be_reached_and_mostly_the_minimum(name, n_classes):
    X, y = samples(n_classes)
    model = MODELS[name]().fit(X, y)
    x = X[:20].astype(get_trees(model).dtype)
    labels = predicted(model, x)
    best = brute_force(model, x, lambda answers, n: answers != labels[n])
    for norm in NORMS:
        result = attack(model, x, norm=norm)
        assert_array_equal(result.success, np.isfinite(best[norm]))
        assert_array_equal(predicted(model, result.X_adv) != labels, result.success)
        found = result.success
        assert np.all(result.distance[found] >= best[norm][found] * (1 - 1e-6) - 1e-12)
        near = result.distance[found] <= best[norm][found] * (1 + 1e-5) + 1e-7
        assert near.mean() >= 0.9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_targets_box_and_mask(name, dtype):
    X, y = samples(3)
    model = MODELS[name]().fit(X, y)
    x = np.clip(X[:20], -0.45, 0.5).astype(dtype)
    targets = np.arange(20) % 3
    free = np.array([True, True, False])
    low, high = x.dtype.type(-0.45), x.dtype.type(0.5)
    result = attack(model, x, targets, target="given", clip_values=(-0.45, 0.5), mask=free, norm=1)
    assert result.X_adv.dtype == x.dtype
    assert_array_equal(result.X_adv[:, 2], x[:, 2])
    assert np.all((result.X_adv >= low) & (result.X_adv <= high))
    assert_array_equal(result.success, predicted(model, result.X_adv) == targets)
    kind = get_trees(model).dtype
    if kind == x.dtype:
        best = brute_force(model, x, lambda answers, n: answers == targets[n], low=low, high=high, free=free)[1]
        assert_array_equal(np.isfinite(best), result.success)


@each_norm
def test_near_the_exact_minimum_of_a_boosting_model(norm):
    X, y = load_breast_cancer(return_X_y=True)
    X = minmax_scale(X).astype(np.float32)
    model = GradientBoostingClassifier(n_estimators=20, max_depth=4, random_state=0).fit(X[::2], y[::2])
    x = X[1::8]
    exact = exact_tree_robustness(model, x, norm=norm)
    assert exact.exact.all()
    distance = attack(model, x, norm=norm).distance
    assert np.all(distance >= exact.lower * (1 - 1e-6))
    assert np.mean(distance / exact.lower) < 1.05


def test_a_sample_beside_no_single_move_is_reached_from_elsewhere():
    # Both features must cross: a move of one gains nothing.
    X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] * 5)
    y = (X.sum(axis=1) == 2).astype(int)
    model = RandomForestClassifier(1, bootstrap=False, max_features=None, random_state=0).fit(X, y)
    for norm in NORMS:
        result = attack(model, np.array([[0.0, 0.0]]), norm=norm)
        assert result.success.all()
        assert result.distance[0] == pytest.approx(np.linalg.norm([0.5, 0.5], ord=norm), abs=1e-6)


def test_what_the_model_refuses_is_sought_again(monkeypatch):
    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(X, y)
    # A first search that stops short of the boundary.
    monkeypatch.setattr(module, "hopeful_demand", lambda trees, ahead, behind: np.full(np.shape(behind), -0.3))
    result = attack(model, X[:40])
    assert result.success.all()
    assert np.all(model.predict(result.X_adv) != model.predict(X[:40]))


def test_samples_of_another_label_stay():
    X, y = load_iris(return_X_y=True)
    model = RandomForestClassifier(5, max_depth=2, random_state=0).fit(X, y)
    wrong = model.predict(X) != y
    assert wrong.any()
    result = attack(model, X, y)
    assert result.success.all()
    assert_array_equal(result.distance == 0, wrong)
    assert not np.shares_memory(result.X_adv, X)


def test_batches_processes_and_copies_change_nothing():
    X, y = load_digits(return_X_y=True)
    X, y = X[:400], y[:400]
    model = RandomForestClassifier(8, max_depth=5, random_state=0).fit(X, y)
    template = TreeEnsembleAttack(FrozenEstimator(model), target="random", random_state=0, max_iter=15).fit(X, y)
    expected = template.run(X)
    assert expected.success.mean() > 0.95
    assert not hasattr(template, "_read")
    for n_jobs, batch_size in [(1, 90), (2, 150)]:
        result = clone(template).set_params(n_jobs=n_jobs, batch_size=batch_size).fit(X, y).run(X)
        for name in ("X_adv", "y", "y_adv", "success", "distance", "n_queries"):
            assert_array_equal(getattr(result, name), getattr(expected, name))
    assert_array_equal(pickle.loads(pickle.dumps(template)).transform(X), expected.X_adv)


def test_frames_and_scorers():
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = RandomForestClassifier(5, random_state=0).fit(frame, y)
    result = attack(model, frame, mask=["c", "d"])
    assert list(result.X_adv.columns) == list("abcd")
    assert_array_equal(result.X_adv[["a", "b"]], frame[["a", "b"]])
    assert_array_equal(model.predict(result.X_adv) != model.predict(frame), result.success)
    scorer = make_robustness_scorer(TreeEnsembleAttack(), metric="median_distance", max_distance=10)
    assert np.all(cross_val_score(RandomForestClassifier(5, random_state=0), X, y, scoring=scorer, cv=3) > 0)


def test_other_models_are_refused_by_name():
    X, y = load_iris(return_X_y=True)
    for fit in (True, False):
        model = LogisticRegression(max_iter=500)
        with pytest.raises(TypeError, match=r"(?s)got LogisticRegression.*HopSkipJump"):
            TreeEnsembleAttack(model).fit(X, y) if fit else TreeEnsembleAttack(model.fit(X, y)).transform(X)
    with pytest.raises(ValueError, match="max_iter"):
        TreeEnsembleAttack(RandomForestClassifier(2).fit(X, y), max_iter=0).transform(X)
