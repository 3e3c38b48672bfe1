"""Estimated gradients: they converge to the true ones, and every query is counted."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from skart._core._random import RandomStream
from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.estimators import BlackBoxClassifier
from skart.exceptions import GradientUnavailableError, QueryBudgetExceeded
from skart.oracles import as_oracle
from skart.wrappers import QueryEfficientGradientEstimation
from tests.wrappers._models import Decision, linear

X, Y = load_iris(return_X_y=True)


def cosine(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


class Counting:
    """A function that counts the samples that it is asked about."""

    def __init__(self, function):
        self.function, self.n_samples, self.largest = function, 0, 0

    def __call__(self, X):
        self.n_samples += len(X)
        self.largest = max(self.largest, len(X))
        return self.function(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_size", [1024, 300, 1])
def test_converges_to_the_gradient_of_a_linear_model(dtype, batch_size):
    rng = np.random.default_rng(0)
    coef, x, cotangent = rng.normal(size=(3, 10)), rng.normal(size=(4, 10)).astype(dtype), rng.normal(size=(4, 3))
    n_samples = 2000 if batch_size > 1 else 1000
    clf = QueryEfficientGradientEstimation(
        Decision(coef), n_samples=n_samples, sigma=0.3, batch_size=batch_size, random_state=0
    )
    scores, pullback = as_oracle(clf, x).vjp(x)
    assert_allclose(scores, x @ coef.T, rtol=1e-4, atol=1e-5)
    grad, true = pullback(cotangent.astype(dtype)), cotangent @ coef
    assert grad.dtype == dtype
    assert cosine(grad, true).min() > 0.99
    # The length along the true gradient: 1 with a standard deviation of sqrt(2 / n_samples).
    assert_allclose(np.sum(grad * true, axis=1) / np.sum(true**2, axis=1), 1, atol=0.15 if n_samples == 1000 else 0.1)
    assert_allclose(np.mean(np.sum(grad * true, axis=1) / np.sum(true**2, axis=1)), 1, atol=0.05)


def test_log_probabilities_and_units_of_their_own():
    rng = np.random.default_rng(1)
    model, x, cotangent = linear(5), rng.normal(size=(3, 5)), rng.normal(size=(3, 3))
    units = np.asarray([1e-4, 1e-3, 1e-3, 1e-2, 1e-3])
    clf = QueryEfficientGradientEstimation(model, n_samples=4000, sigma=units, random_state=0)
    grad = as_oracle(clf, x).vjp(x)[1](cotangent)
    logits, pullback = as_oracle(model, x).vjp(x)
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = pullback(cotangent - proba * cotangent.sum(axis=1, keepdims=True))  # that of the log-softmax
    # In units of sigma all features count alike.
    assert cosine(grad * units, true * units).min() > 0.99
    with pytest.raises(ValueError, match="sigma has shape"):
        as_oracle(clf.set_params(sigma=[1.0, 2.0]), x, check=False).vjp(x)[1](cotangent)


def test_cotangents_share_the_queries_and_a_forward_without_one_costs_one():
    function = Counting(linear(4).predict_proba)
    clf = QueryEfficientGradientEstimation(BlackBoxClassifier(function, [0, 1, 2]), n_samples=7, batch_size=10)
    oracle = as_oracle(clf, X)
    start = function.n_samples
    assert oracle.n_forward == start == 16  # eight rows: the model's own answer and the rule's
    _, pullback = oracle.vjp(X[:5])
    assert function.n_samples - start == oracle.n_forward - start == 5
    first = pullback(np.eye(3)[[0] * 5])
    assert pullback.n_queries == 14
    assert function.n_samples - start == oracle.n_forward - start == 5 + 5 * 14
    second = pullback(np.eye(3)[[1] * 5])
    assert pullback.n_queries == 0
    assert function.n_samples - start == oracle.n_forward - start == 5 + 5 * 14
    assert_allclose(pullback(np.eye(3)[[0] * 5] + 2 * np.eye(3)[[1] * 5]), first + 2 * second)
    assert function.largest <= 16


@pytest.mark.parametrize("attack", [FastGradientMethod(eps=0.3), ProjectedGradientDescent(eps=0.3, max_iter=3)])
@pytest.mark.parametrize("batch_size", [256, 11])
def test_an_attack_counts_every_query(attack, batch_size):
    function = Counting(linear(4).predict_proba)
    clf = QueryEfficientGradientEstimation(BlackBoxClassifier(function, [0, 1, 2]), n_samples=6)
    attack = clone(attack).set_params(estimator=clf, batch_size=batch_size, random_state=0)
    result = attack.run(X[:40])
    assert result.n_queries.sum() == function.n_samples
    n_gradients = result.n_gradients.max()
    assert result.n_queries.max() >= 12 * n_gradients > 0


def test_a_budget_is_kept_and_ends_the_attack_properly():
    model = linear(4)
    function = Counting(model.predict_proba)
    inner = BlackBoxClassifier(function, [0, 1, 2], max_queries=300)
    clf = QueryEfficientGradientEstimation(inner, n_samples=6, batch_size=16)
    with pytest.raises(QueryBudgetExceeded, match="of max_queries=300") as caught:
        ProjectedGradientDescent(clf, eps=0.3, max_iter=50, random_state=0, batch_size=8).run(X[:16])
    assert caught.value.result.X_adv.shape == (16, 4)
    assert not caught.value.result.success[8:].any()
    assert 200 < function.n_samples <= 300
    assert caught.value.result.n_queries.sum() <= function.n_samples
    assert caught.value.result.n_queries.sum() > 0.9 * function.n_samples


def test_every_white_box_attack_runs_on_trees():
    forest = RandomForestClassifier(20, random_state=0).fit(X, Y)
    with pytest.raises(GradientUnavailableError, match="QueryEfficientGradientEstimation|has no gradient"):
        FastGradientMethod(forest).transform(X)
    clf = QueryEfficientGradientEstimation(forest, n_samples=20, sigma=0.3)
    result = ProjectedGradientDescent(clf, eps=0.8, max_iter=5, random_state=0, clip_values=(0, 8)).run(X, Y)
    assert forest.score(X, Y) > 0.95
    assert forest.score(result.X_adv, Y) < 0.5
    assert result.success.mean() == pytest.approx(1 - forest.score(result.X_adv, Y))


def test_answers_are_those_of_the_estimator():
    model = make_pipeline(StandardScaler(), LogisticRegression())
    names = np.asarray(["setosa", "versicolor", "virginica"])
    clf = QueryEfficientGradientEstimation(model).fit(X, names[Y])
    assert_array_equal(clf.predict(X), model.fit(X, names[Y]).predict(X))
    assert_array_equal(clf.predict_proba(X), model.predict_proba(X))
    assert_array_equal(clf.classes_, names)
    assert hasattr(clf, "decision_function")
    assert not hasattr(QueryEfficientGradientEstimation(RandomForestClassifier()), "decision_function")
    frozen = FrozenEstimator(model)
    assert QueryEfficientGradientEstimation(frozen).fit(X, names[Y]).estimator_ is frozen
    assert_array_equal(QueryEfficientGradientEstimation(model).predict(X), model.predict(X))  # fitted before
    with pytest.raises(NotFittedError, match="nor|neither is what it wraps"):
        QueryEfficientGradientEstimation(LogisticRegression()).predict(X)
    assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))


def test_directions_repeat_with_an_integer_and_are_fresh_in_an_attack():
    model = QueryEfficientGradientEstimation(linear(4), n_samples=5, random_state=1)
    cotangent = np.ones((3, 3)) * [1, -1, 0]

    def gradient(oracle, rows=slice(0, 3)):
        return oracle.vjp(X[rows])[1](cotangent[rows])

    oracle = as_oracle(model, X)
    assert_array_equal(gradient(oracle), gradient(oracle))
    assert_allclose(gradient(oracle, slice(0, 2)), gradient(oracle)[:2])
    fresh = as_oracle(clone(model).set_params(estimator=FrozenEstimator(linear(4)), random_state=None).fit(X, Y), X)
    assert not np.any(gradient(fresh) == gradient(fresh))
    oracle.draw_from(RandomStream(0))
    handed = [gradient(oracle), gradient(oracle)]
    assert not np.any(handed[0] == handed[1])
    results = [
        ProjectedGradientDescent(model, eps=0.3, max_iter=3, random_state=0, **params).transform(X[:20])
        for params in ({}, {"batch_size": 7, "random_start": False}, {"random_start": False}, {})
    ]
    assert_array_equal(results[0], results[3])
    assert_allclose(results[1], results[2])  # independent of batching


def test_columns_that_hold_no_numbers_stay():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    frame["kind"] = pandas.Categorical(np.where(X[:, 0] > 5.8, "long", "short"))
    seen = []

    model = make_pipeline(
        make_column_transformer((OrdinalEncoder(), ["kind"]), remainder="passthrough"), LogisticRegression(max_iter=500)
    ).fit(frame, Y)

    def ask(X):
        seen.append(X)
        return model.predict_proba(X)

    clf = QueryEfficientGradientEstimation(BlackBoxClassifier(ask, [0, 1, 2]), n_samples=5, sigma=0.2)
    result = FastGradientMethod(clf, eps=0.5, random_state=0).run(frame[::10])
    assert_array_equal(result.X_adv["kind"], frame["kind"][::10])
    assert result.success.any()
    for asked in seen:
        assert list(asked.columns) == list(frame.columns)
        assert set(asked["kind"]) <= {"long", "short"}


def test_models_without_scores_say_what_applies():
    clf = QueryEfficientGradientEstimation(BlackBoxClassifier(linear(4).predict, [0, 1, 2], output="labels"))
    with pytest.raises(GradientUnavailableError, match="answers labels only.*HopSkipJump"):
        FastGradientMethod(clf).transform(X)


def test_nets_are_asked_where_they_are():
    torch = pytest.importorskip("torch")
    from skart.estimators import TorchClassifier

    module = torch.nn.Linear(4, 3)
    clf = QueryEfficientGradientEstimation(TorchClassifier(module, [0, 1, 2]), n_samples=4000, sigma=0.1)
    x = torch.as_tensor(X[:2], dtype=torch.float32)
    oracle = as_oracle(clf, x)
    assert oracle.runs_in_process
    cotangent = torch.as_tensor([[1.0, -1.0, 0.0]] * 2)
    grad = oracle.vjp(x)[1](cotangent)
    true = (module.weight[0] - module.weight[1]).detach()
    assert torch.nn.functional.cosine_similarity(grad, true[None]).min() > 0.99
