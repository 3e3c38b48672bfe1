"""What may be asked of a model: the answers are the model's own, and each is counted."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from skart.exceptions import GradientUnavailableError
from skart.gradients import register_rule
from skart.oracles import Oracle, as_oracle

SPECIES = np.array(["setosa", "versicolor", "virginica"])


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, SPECIES[y]


@pytest.fixture(scope="module")
def clf(iris):
    return LogisticRegression(max_iter=500).fit(*iris)


class Own(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        return self


def own(predict, classes=(0, 1), **methods):
    """A fitted classifier whose methods are the given functions, and no others."""
    model = Own()
    vars(model).update(predict=predict, classes_=np.asarray(classes), **methods)
    return model


def halves(X):
    return (X[:, 0] > 5.8).astype(int)


def test_answers_are_the_model_s_own(iris, clf):
    X, _ = iris
    oracle = as_oracle(clf, X)
    assert isinstance(oracle, Oracle)
    assert_array_equal(oracle.classes_, SPECIES)
    assert_array_equal(oracle.labels(X), clf.predict(X))
    assert_array_equal(SPECIES[oracle.positions(X)], clf.predict(X))
    assert_array_equal(oracle.proba(X), clf.predict_proba(X))
    # The gap between two logits is the logarithm of the ratio of probabilities.
    proba = clf.predict_proba(X)
    assert_allclose(np.diff(oracle.logits(X)), np.diff(np.log(proba)), rtol=1e-8, atol=1e-8)
    assert not oracle.varies


def test_proba_of_a_model_without_any_is_the_softmax_of_its_logits(iris):
    X, y = iris
    svc = LinearSVC().fit(X, y)
    decision = svc.decision_function(X)
    expected = np.exp(decision) / np.exp(decision).sum(axis=1, keepdims=True)
    assert_allclose(as_oracle(svc, X).proba(X), expected, rtol=1e-8)


def test_one_pass_serves_value_and_gradients(iris, clf):
    X, _ = iris
    oracle = as_oracle(clf, X)
    forward, pulled = oracle.n_forward, oracle.n_pulled
    logits, pullback = oracle.vjp(X[:20])
    assert_array_equal(logits, oracle.logits(X[:20]))
    for k in range(3):
        # A linear model: the gradient of a class is its row of weights, up to what is common to all classes.
        cotangent = np.eye(3)[[k] * 20] - 1 / 3
        assert_allclose(pullback(cotangent), np.tile(clf.coef_[k] - clf.coef_.mean(axis=0), (20, 1)), atol=1e-12)
    assert oracle.n_forward == forward + 40
    assert oracle.n_pulled == pulled + 60


@pytest.mark.parametrize("method", ["labels", "positions", "proba", "logits"])
def test_each_sample_sent_forward_is_counted_once(iris, clf, method):
    X, _ = iris
    for model in (clf, make_pipeline(StandardScaler(), DecisionTreeClassifier()).fit(*iris), LinearSVC().fit(*iris)):
        oracle = as_oracle(model, X)
        before = oracle.n_forward
        getattr(oracle, method)(X[:13])
        assert oracle.n_forward == before + 13
        assert oracle.n_pulled == 0


def test_a_call_that_fails_is_not_counted(iris, clf):
    X, _ = iris
    oracle = as_oracle(clf, X)
    before = oracle.n_forward
    with pytest.raises(ValueError):
        oracle.labels(X[:, :2])
    assert oracle.n_forward == before


def test_access(iris, clf):
    X, y = iris
    assert as_oracle(clf, X).access == "gradients"
    tree = as_oracle(DecisionTreeClassifier().fit(X, y), X)
    assert tree.access == "scores"
    with pytest.raises(GradientUnavailableError, match="DecisionTreeClassifier"):
        tree.vjp(X)
    labels_only = as_oracle(own(halves), X)
    assert labels_only.access == "labels"
    assert_array_equal(labels_only.labels(X), halves(X))
    with pytest.raises(TypeError, match="labels only"):
        labels_only.logits(X)
    with pytest.raises(TypeError, match="labels only"):
        labels_only.proba(X)


def test_logits_of_a_model_without_a_rule(iris):
    X, y = iris
    neighbours = KNeighborsClassifier().fit(X, y)
    logits, proba = as_oracle(neighbours, X).logits(X), neighbours.predict_proba(X)
    assert np.isfinite(logits).all()  # also where a probability is zero
    assert_allclose(np.exp(logits), proba, atol=1e-12)
    margin = own(halves, decision_function=lambda X: X[:, 0] - 5.8)
    assert_array_equal(as_oracle(margin, X).logits(X), np.stack([np.zeros(len(X)), X[:, 0] - 5.8], axis=1))


def test_margins_are_smooth_where_votes_are_not(iris):
    X, y = iris
    oracle = as_oracle(SVC().fit(X, y), X)
    logits, _ = oracle.vjp(X)
    margins, _ = oracle.vjp(X, scores="margins")
    assert not np.allclose(logits, margins)
    assert_array_equal(margins.argmax(axis=1), oracle.positions(X))
    plain = as_oracle(LogisticRegression(max_iter=500).fit(X, y), X)
    assert_array_equal(plain.vjp(X, scores="margins")[0], plain.vjp(X)[0])


@pytest.mark.parametrize("answers", ["scores", "labels"])
def test_random_models_vary(iris, answers):
    X, _ = iris
    rng = np.random.default_rng(0)
    methods = {"predict_proba": lambda X: rng.dirichlet([1, 1], size=len(X))} if answers == "scores" else {}
    model = own(lambda X: rng.integers(2, size=len(X)), **methods)
    assert as_oracle(model, X).varies
    assert not as_oracle(model, X, check=False).varies  # not asked


def test_random_net_varies_in_eval_mode_too(iris):
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")

    class Noisy(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.5, training=True)

    net = skorch.NeuralNetClassifier(Noisy(4, 3), criterion=torch.nn.CrossEntropyLoss, verbose=0).initialize()
    X = iris[0].astype(np.float32)
    oracle = as_oracle(net, X)
    assert oracle.varies
    oracle.vjp(oracle.asarray(X))[1](torch.ones(150, 3))  # and yet has gradients


def test_context(iris, clf):
    X, _ = iris
    oracle = as_oracle(clf, X)
    with oracle as entered:
        assert entered is oracle
        inside = oracle.labels(X)
        with pytest.raises(RuntimeError, match="in use"), oracle:
            pass
    with pytest.raises(KeyError), oracle:
        raise KeyError
    with oracle:  # free again
        assert_array_equal(oracle.labels(X), inside)
    assert_array_equal(oracle.labels(X), inside)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_namespace_dtype_and_device(iris, clf, dtype):
    X = iris[0].astype(dtype)
    oracle = as_oracle(clf, X)
    assert oracle.dtype == dtype
    assert oracle.device == "cpu"
    for answer in (oracle.asarray(X), oracle.proba(X), oracle.logits(X), oracle.vjp(X)[1](np.ones((150, 3), dtype))):
        assert isinstance(answer, np.ndarray)
        assert answer.dtype == dtype
    assert oracle.asarray(X.astype(int)).dtype == dtype
    assert not oracle.runs_in_process


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_model_fitted_on_a_frame_is_asked_with_its_columns(iris, library):
    package = pytest.importorskip(library)
    X, y = iris
    data = package.DataFrame({name: X[:, k] for k, name in enumerate("abcd")})
    model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()).fit(data, y)
    expected = model.predict(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for asked in (data, X):
            oracle = as_oracle(model, asked)
            assert_array_equal(oracle.labels(oracle.asarray(asked)), expected)
            assert oracle.asarray(asked).shape == X.shape


@pytest.mark.parametrize(
    "labels",
    [[False, True], [-1, 1], [0.0, 2.0], ["no", "yes"], np.array(["no", "yes"], dtype=object)],
    ids=["bool", "int", "float", "str", "object"],
)
def test_classes_of_any_kind(iris, labels):
    X = iris[0]
    y = np.asarray(labels)[halves(X)]
    model = LogisticRegression(max_iter=500).fit(X, y)
    oracle = as_oracle(model, X)
    assert_array_equal(oracle.classes_, model.classes_)
    assert_array_equal(oracle.classes_[oracle.positions(X)], model.predict(X))


def test_classes_in_no_order(iris):
    X = iris[0]
    oracle = as_oracle(own(lambda X: np.array(["z", "a"])[halves(X)], classes=["z", "a"]), X)
    assert_array_equal(oracle.positions(X), halves(X))


def test_frozen_models_answer_alike(iris, clf):
    X, _ = iris
    oracle = as_oracle(FrozenEstimator(clf), X)
    assert oracle.access == "gradients"
    assert_array_equal(oracle.labels(X), clf.predict(X))


def test_what_cannot_be_attacked(iris):
    X, y = iris
    with pytest.raises(NotFittedError):
        as_oracle(LogisticRegression(), X)
    with pytest.raises(NotFittedError):
        as_oracle(make_pipeline(StandardScaler(), LogisticRegression()), X)
    with pytest.raises(TypeError, match="not a classifier"):
        as_oracle(StandardScaler().fit(X), X)
    with pytest.raises(TypeError, match="class, not an instance"):
        as_oracle(LogisticRegression, X)
    with pytest.raises(TypeError, match="no `classes_`"):
        as_oracle(LinearRegression().fit(X, X[:, 0]), X)
    with pytest.raises(TypeError, match="several outputs"):
        as_oracle(DecisionTreeClassifier().fit(X, np.stack([y, y], axis=1)), X)
    with pytest.raises(ValueError, match="one class only, 'setosa'"):
        as_oracle(DecisionTreeClassifier().fit(X, np.full(150, "setosa")), X)
    stray = as_oracle(own(lambda X: np.full(len(X), "tulip"), classes=SPECIES), X)
    with pytest.raises(ValueError, match="'tulip', which is not in classes_"):
        stray.positions(X)


def test_a_wrong_rule_is_found_out(iris):
    X, y = iris

    class Mine(LogisticRegression):
        pass

    @register_rule(Mine)
    def transposed_sign(model, backend):
        weights = backend.asarray(-model.coef_)
        return lambda X: (X @ weights.T, lambda cotangent: cotangent @ weights)

    model = Mine(max_iter=500).fit(X, y)
    with pytest.raises(ValueError, match="Mine does not compute what the model's own predict_proba says"):
        as_oracle(model, X)
    assert as_oracle(model, X, check=False).access == "gradients"

    @register_rule(Mine)
    def misshapen(model, backend):
        return lambda X: (X[:, :1], lambda cotangent: cotangent)

    with pytest.raises(ValueError, match=r"scores of shape \(8, 1\)"):
        as_oracle(model, X)


def test_an_oracle_sees_the_model_as_it_is_when_made(iris):
    X, y = iris
    model = LogisticRegression(max_iter=500).fit(X, y)
    before = as_oracle(model, X).logits(X)
    model.fit(X, np.roll(y, 50))
    after = as_oracle(model, X).logits(X)
    assert not np.allclose(before, after)
    assert_allclose(np.diff(after), np.diff(np.log(model.predict_proba(X))), rtol=1e-8, atol=1e-8)


def test_torch_samples_for_a_numpy_model(iris, clf):
    torch = pytest.importorskip("torch")
    X = torch.as_tensor(iris[0])
    oracle = as_oracle(clf, X)
    assert isinstance(oracle.asarray(X), np.ndarray)
    assert_array_equal(oracle.labels(oracle.asarray(X)), clf.predict(iris[0]))


def test_single_precision_frame(iris):
    X, y = iris
    data = pd.DataFrame(X.astype(np.float32), columns=list("abcd"))
    assert as_oracle(LogisticRegression(max_iter=500).fit(data, y), data).dtype == np.float32
    data["a"] = data["a"].astype(np.float64)
    assert as_oracle(LogisticRegression(max_iter=500).fit(data, y), data).dtype == np.float64
