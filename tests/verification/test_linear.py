"""Exact robustness of linear models, against linear and quadratic programs and against what the model says."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog, minimize
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from skart.attacks import DeepFool
from skart.metrics import minimal_distances
from skart.verification import exact_linear_robustness

NORMS = (1, 2, np.inf)
each_norm = pytest.mark.parametrize("norm", NORMS)


def program(x, a, gain, norm, low, high):
    """Least norm of a step with ``a @ step >= gain`` that stays between bounds, by SciPy's solvers."""
    n = len(x)
    bounds = list(zip(low - x, high - x))
    if norm == 2:
        reach = np.where(a > 0, high - x, x - low)
        if a @ (np.sign(a) * np.where(np.isfinite(reach), reach, 1e6)) < gain:
            return np.inf
        start = np.clip(gain * a / (a @ a), low - x, high - x)
        constraint = {"type": "ineq", "fun": lambda d: a @ d - gain, "jac": lambda d: a}
        options = {"ftol": 1e-14, "maxiter": 500}
        found = minimize(
            lambda d: d @ d, start, jac=lambda d: 2 * d, bounds=bounds, constraints=constraint, options=options
        )
        return np.sqrt(found.fun)
    # Variables: the step, and its size (a size of each feature for the 1-norm).
    sizes = n if norm == 1 else 1
    spread = np.eye(n) if norm == 1 else np.ones((n, 1))
    rows = [np.hstack([np.eye(n), -spread]), np.hstack([-np.eye(n), -spread]), np.hstack([-a, np.zeros(sizes)])[None]]
    answer = linprog(
        np.concatenate([np.zeros(n), np.ones(sizes)]),
        A_ub=np.vstack(rows),
        b_ub=np.concatenate([np.zeros(2 * n), [-gain]]),
        bounds=bounds + [(0, None)] * sizes,
    )
    return answer.fun if answer.status == 0 else np.inf


def reference(weights, bias, X, labels, norm, low, high):
    best = []
    for x, label in zip(X, labels):
        scores = weights @ x + bias
        best.append(
            min(
                program(x, weights[k] - weights[label], scores[label] - scores[k], norm, low, high)
                for k in range(len(weights))
                if k != label
            )
        )
    return np.array(best)


@each_norm
def test_three_classes_with_box_and_mask_equal_programs(norm):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X, y)
    x = X[::6]
    labels = model.predict(x)
    free = [True, False, True, True]
    infinite = 0
    cases = [(None, None), ((0.05, 8.0), None), ((X.min(axis=0), X.max(axis=0)), free), (None, free)]
    # A box so tight that few samples have a way out.
    for clip_values, mask in [*cases, ((x.min(axis=0), x.max(axis=0)), [True, True, False, False])]:
        low, high = np.full(4, -np.inf), np.full(4, np.inf)
        if clip_values is not None:
            low, high = (np.broadcast_to(bound, 4) for bound in clip_values)
        expected = []
        for sample, label in zip(x, labels):
            held = np.array([False] * 4 if mask is None else [not one for one in mask])
            bounds = np.where(held, sample, low), np.where(held, sample, high)
            expected.extend(reference(model.coef_, model.intercept_, sample[None], [label], norm, *bounds))
        found = exact_linear_robustness(model, x, norm=norm, clip_values=clip_values, mask=mask)
        assert_array_equal(np.isinf(found), np.isinf(expected))
        real = np.isfinite(found)
        assert_allclose(found[real], np.array(expected)[real], rtol=2e-5)
        infinite += np.count_nonzero(~real)
    assert infinite


BINARY = {
    "logistic": LogisticRegression(max_iter=5000),
    "linear svm": LinearSVC(max_iter=50000),
    "svc": SVC(kernel="linear"),
    "ridge": RidgeClassifier(),
    "sgd": SGDClassifier(random_state=0),
    "perceptron": Perceptron(random_state=0),
    "lda": LinearDiscriminantAnalysis(),
}


@pytest.mark.parametrize("name", BINARY)
@each_norm
def test_binary_models_by_the_dual_norm(name, norm):
    X, y = load_breast_cancer(return_X_y=True)
    X = MinMaxScaler().fit_transform(X)
    model = BINARY[name].fit(X, np.where(y == 1, "benign", "malignant"))
    margin = np.abs(model.decision_function(X))
    dual = {1: np.inf, 2: 2, np.inf: 1}[norm]
    found = exact_linear_robustness(model, X, norm=norm)
    assert_allclose(found, margin / np.linalg.norm(model.coef_.ravel(), ord=dual), rtol=1e-9, atol=1e-12)


STEPS = {
    "standard": [StandardScaler()],
    "minmax": [MinMaxScaler((-1, 3))],
    "robust, maxabs": [RobustScaler(), "passthrough", MaxAbsScaler()],
    "pca": [StandardScaler(), PCA(5, whiten=True)],
    "selection": [FrozenEstimator(StandardScaler()), SelectKBest(k=7)],
}


@pytest.mark.parametrize("name", STEPS)
@each_norm
def test_through_steps(name, norm):
    X, y = load_breast_cancer(return_X_y=True)
    steps = STEPS[name]
    for step in steps:
        if isinstance(step, FrozenEstimator):
            step.estimator.fit(X)
    model = make_pipeline(*steps, LogisticRegression(max_iter=5000)).fit(X, y)
    # The weights of the whole, by differences of a function that is affine.
    base = model.decision_function(np.zeros((1, 30)))
    weights = np.array([(model.decision_function(e[None] * s) - base)[0] / s for e, s in zip(np.eye(30), X.std(0))])
    dual = {1: np.inf, 2: 2, np.inf: 1}[norm]
    expected = np.abs(model.decision_function(X)) / np.linalg.norm(weights, ord=dual)
    assert_allclose(exact_linear_robustness(model, X, norm=norm), expected, rtol=1e-7)
    assert_array_equal(exact_linear_robustness(FrozenEstimator(model), X, y, norm=norm) == 0, model.predict(X) != y)


@each_norm
def test_no_attack_comes_nearer_and_one_comes_as_near(norm):
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    exact = exact_linear_robustness(model, X, y, norm=norm, clip_values=(0, 8))
    attacked = minimal_distances(model, X, y, attack=DeepFool(norm=norm, clip_values=(0, 8), overshoot=1e-6))
    assert np.all(exact <= attacked + 1e-12)
    assert_allclose(attacked, exact, rtol=1e-5)


def test_a_tie_has_distance_zero():
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    model = LinearSVC(fit_intercept=False, random_state=0).fit(X, [0, 0, 1, 1])
    assert_array_equal(exact_linear_robustness(model, [[0.0], [1.0]]), [0.0, 1.0])


@pytest.mark.parametrize("kind", ["float32", "frame", "search"])
def test_containers_and_searches(kind):
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    expected = exact_linear_robustness(model, X, mask=[0, 2])
    if kind == "float32":
        found = exact_linear_robustness(model, X.astype(np.float32), mask=[0, 2])
        assert found.dtype == np.float64
        assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    elif kind == "frame":
        frame = pd.DataFrame(X, columns=list("abcd"))
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, y)
        assert_allclose(exact_linear_robustness(model, frame, mask=["a", "c"]), expected)
    else:
        search = GridSearchCV(model, {"logisticregression__C": [1.0]}, cv=2).fit(X, y)
        assert_allclose(exact_linear_robustness(search, X, mask=[0, 2]), expected)


def test_what_is_not_linear_is_refused_by_name():
    X, y = load_iris(return_X_y=True)
    for model, message in [
        (RandomForestClassifier(3), "got RandomForestClassifier"),
        (SVC(kernel="linear"), "two classes"),
        (make_pipeline(Normalizer(), LogisticRegression()), "step 'normalizer', Normalizer"),
        (make_pipeline(MinMaxScaler(clip=True), LogisticRegression()), "MinMaxScaler with clip=True"),
    ]:
        with pytest.raises(TypeError, match=message):
            exact_linear_robustness(model.fit(X, y), X)
    model = LogisticRegression(max_iter=500).fit(X, y)
    for params, message in [({"norm": 3}, "norm"), ({"clip_values": (0, 1)}, "outside"), ({"mask": [9]}, "feature 9")]:
        with pytest.raises(ValueError, match=message):
            exact_linear_robustness(model, X, **params)
    with pytest.raises(ValueError, match="unknown to the model"):
        exact_linear_robustness(model, X, y + 7)


def test_a_model_that_does_not_follow_its_weights_is_told():
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X, y)
    model.decision_function = lambda X: -(X @ model.coef_.T + model.intercept_)
    with pytest.raises(ValueError, match="not those of its weights"):
        exact_linear_robustness(model, X)
