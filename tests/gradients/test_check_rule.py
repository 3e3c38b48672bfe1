"""The checker finds what is wrong with a rule."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from skart import register_rule
from skart.exceptions import GradientUnavailableError
from skart.gradients import Bound, _registry
from skart.utils import check_rule

X = np.random.default_rng(0).normal(size=(30, 4))
y = np.random.default_rng(1).integers(0, 3, size=30)


class Step(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X**3


class Linear(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.model_ = LogisticRegression().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def decision_function(self, X):
        return self.model_.decision_function(X)

    def predict(self, X):
        return self.classes_[self.decision_function(X).argmax(axis=1)]


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(_registry, "_user_rules", dict(_registry._user_rules))


def _overwrites(array, value):
    array *= 0
    return value


def _only_once(X):
    calls = []

    def pullback(cotangent):
        calls.append(1)
        return 3 * X**2 * cotangent * len(calls)

    return X**3, pullback


def _shares_memory():
    kept = {}

    def forward(X):
        kept["X"] = X
        return X**3, lambda cotangent: 3 * kept["X"] ** 2 * cotangent

    return forward


WRONG_STEPS = {
    "derivative": (lambda X: (X**3, lambda c: 3.0001 * X**2 * c), "differs from central differences by 0.000|3.*e-05"),
    "sign": (lambda X: (X**3, lambda c: -3 * X**2 * c), "differs from central differences"),
    "zero": (lambda X: (X**3, lambda c: 0 * c), "differs from central differences"),
    "nan": (lambda X: (X**3, lambda c: float("nan") * c), "its pullback is not finite"),
    "output": (lambda X: (X**3 + 1e-3, lambda c: 3 * X**2 * c), "differs from that of `transform`"),
    "output's shape": (lambda X: (X[:, :2] ** 3, lambda c: 3 * X[:, :2] ** 2 * c), "returns the shape"),
    "pullback's shape": (lambda X: (X**3, lambda c: (3 * X**2 * c)[:, 0]), "returns the shape"),
    "one feature": (
        lambda X: (X**3, lambda c: 3 * X**2 * c * (X[:1] * 0 + (X[:1] != X[:1, 2:3]))),
        "differs from central differences",
    ),
    "changes X": (lambda X: _overwrites(X, (X**3, lambda c: 3 * X**2 * c)), "changes its input"),
    "changes cotangent": (lambda X: (X**3, lambda c: _overwrites(c, 3 * X**2 * c)), "changes the cotangent|twice"),
    "one call only": (_only_once, "does not return the same when it is called twice"),
    "memory shared": (_shares_memory(), "differs|twice"),
    "raises": (lambda X: (X**3, lambda c: X.no_such_method()), "raised AttributeError"),
}


@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_wrong_transformer(wrong):
    forward, message = WRONG_STEPS[wrong]
    register_rule(Step, lambda step, backend: forward)
    with pytest.raises(AssertionError, match=message):
        check_rule(Step().fit(X), X)


def test_right_transformer():
    register_rule(Step, lambda step, backend: lambda X: (X**3, lambda c: 3 * X**2 * c))
    assert check_rule(Step().fit(X), X) is None
    assert check_rule(Step().fit(X), X.astype(np.float32)) is None


def test_wrong_namespace():
    # What only NumPy's arrays have does not serve a model that holds a net.
    pytest.importorskip("torch")

    def numpy_only(step, backend):
        return lambda X: (X**3, lambda c: 3 * X.astype(c.dtype) ** 2 * c)

    register_rule(Step, numpy_only)
    with pytest.raises(AssertionError, match="torch"):
        check_rule(Step().fit(X), X)


def _scores(model, backend, change):
    weights, bias = backend.asarray(model.model_.coef_.T), backend.asarray(model.model_.intercept_)

    def forward(X):
        return change(X @ weights + bias), lambda c: change(c) @ weights.T

    return forward


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: -s, "does not compute what the model's own decision_function says"),
        (lambda s: 2 * s, "does not compute"),
        (lambda s: s[:, [1, 0, 2]], "does not compute|differs from central"),
    ],
)
def test_wrong_classifier(change, message):
    model = Linear().fit(X, y)
    register_rule(Linear, lambda model, backend: _scores(model, backend, lambda s: s))
    check_rule(model, X)
    register_rule(Linear, lambda model, backend: _scores(model, backend, change))
    with pytest.raises(AssertionError, match=message):
        check_rule(model, X)


def test_scores_that_do_not_follow_predict():
    class Contrary(Linear):
        def predict(self, X):
            return self.classes_[self.decision_function(X).argmin(axis=1)]

    register_rule(Contrary, lambda model, backend: _scores(model, backend, lambda s: s))
    with pytest.raises(AssertionError, match="the largest of its logits is the predicted class for only"):
        check_rule(Contrary().fit(X, y), X)


def test_wrong_margins(monkeypatch):
    from skart.gradients import _kernel

    model = SVC().fit(X, y)
    check_rule(model, X)
    right = _kernel.smallest_margins

    def wrong(*arguments):
        forward = right(*arguments)

        def wrong_forward(X):
            margins, pullback = forward(X)
            return margins, lambda cotangent: 1.01 * pullback(cotangent)

        return wrong_forward

    monkeypatch.setattr(_kernel, "smallest_margins", wrong)
    with pytest.raises(AssertionError, match="differs from central differences by 0.01"):
        check_rule(model, X)


def test_steps_go_straight_through():
    class Rounded(Step):
        def transform(self, X):
            return np.round(X)

    def rounded(step, backend):
        return lambda X: (backend.xp.round(X), lambda cotangent: cotangent)

    model = Rounded().fit(X)
    register_rule(Rounded, rounded)
    with pytest.raises(AssertionError, match="differs from central differences"):
        check_rule(model, X)
    register_rule(Rounded, lambda step, backend: Bound(rounded(step, backend), continuous=False))
    check_rule(model, X)


def test_noise_does_not_settle():
    # A model in float32 cannot be checked to 1e-6.
    class Single(Step):
        def transform(self, X):
            return X.astype(np.float32).astype(np.float64) ** 3

    def single(step, backend):
        xp = backend.xp

        def forward(X):
            rounded = xp.astype(xp.astype(X, xp.float32), X.dtype)
            return rounded**3, lambda c: 3 * X**2 * c

        return forward

    register_rule(Single, single)
    with pytest.raises(AssertionError, match="central differences"):
        check_rule(Single().fit(X), X)
    check_rule(Single().fit(X), X, rtol=1e-2)


def test_what_cannot_be_checked():
    with pytest.raises(NotFittedError):
        check_rule(SVC(), X)
    with pytest.raises(GradientUnavailableError, match="no gradient rule is known for Step"):
        check_rule(Step().fit(X), X)


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    check_rule(SVC().fit(frame, y), frame)
    check_rule(LogisticRegression().fit(frame, y), frame)
