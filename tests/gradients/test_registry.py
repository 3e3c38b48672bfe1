"""Who gets which rule, what is refused, and how a user's own rule joins."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skart import register_rule
from skart.exceptions import GradientUnavailableError
from skart.gradients import _registry
from skart.gradients._registry import numpy_backend, rule, user_rules
from skart.oracles import as_oracle
from skart.utils import check_rule


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(_registry, "_rules", dict(_registry._rules))
    monkeypatch.setattr(_registry, "_user_rules", dict(_registry._user_rules))


class Cube(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X**3


class Centroids(ClassifierMixin, BaseEstimator):
    """Scores are minus the squared distances to the means of the classes."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(axis=0) for label in self.classes_])
        return self

    def decision_function(self, X):
        return -((X[:, None, :] - self.means_) ** 2).sum(axis=2)

    def predict(self, X):
        return self.classes_[self.decision_function(X).argmax(axis=1)]


def cubed(cube, backend):
    return lambda X: (X**3, lambda cotangent: 3 * X**2 * cotangent)


def centroids(model, backend, factor=2.0):
    means = backend.asarray(model.means_)

    def forward(X):
        away = X[:, None, :] - means
        return -backend.xp.sum(away**2, axis=2), lambda c: -factor * backend.xp.sum(away * c[:, :, None], axis=1)

    return forward


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        (DecisionTreeClassifier(), "tree is a step function"),
        (RandomForestClassifier(3), "trees are step functions"),
        (ExtraTreesClassifier(3), "trees are step functions"),
        (GradientBoostingClassifier(n_estimators=2), "trees are step functions"),
        (HistGradientBoostingClassifier(max_iter=2), "trees are step functions"),
        (KNeighborsClassifier(), "nearest neighbours"),
        (DummyClassifier(), "does not depend on the input"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_families_without_gradient(estimator, why, iris):
    X, y = iris
    model = Pipeline([("scale", StandardScaler()), ("clf", estimator)]).fit(X, y)
    oracle = as_oracle(model, X)
    assert oracle.access == "scores"
    name = type(estimator).__name__
    with pytest.raises(GradientUnavailableError, match=f"^step 'clf': {name} has no gradient: .*{why}.*What applies"):
        oracle.vjp(X)
    assert_allclose(oracle.proba(X), model.predict_proba(X))


def test_boosting_libraries_are_refused_without_being_imported():
    assert {"xgboost.XGBClassifier", "lightgbm.LGBMClassifier", "catboost.CatBoostClassifier"} <= set(_registry._rules)


def test_unknown_steps_are_named(iris):
    X, y = iris
    model = Pipeline([("outer", Pipeline([("means", KMeans(3, n_init=1))])), ("clf", LogisticRegression())]).fit(X, y)
    with pytest.raises(
        GradientUnavailableError, match="^step 'outer': step 'means': no gradient rule is known for KMeans"
    ):
        as_oracle(model, X).vjp(X)


def test_a_classifier_without_transform_rule_inside_a_pipeline(iris):
    class Both(LogisticRegression):
        def transform(self, X):
            return X

    register_rule(Both, lambda model, backend: lambda X: (X, lambda cotangent: cotangent))
    X, y = iris
    model = Pipeline([("both", Both()), ("clf", LogisticRegression())]).fit(X, y)
    with pytest.raises(GradientUnavailableError, match="step 'both': Both is a classifier used as a transformer"):
        as_oracle(model, X).vjp(X)


@pytest.mark.parametrize("method", ["decision_function", "predict", "predict_proba"])
def test_a_subclass_that_overrides(method, iris):
    X, y = iris
    Mine = type("Mine", (SVC,), {method: lambda self, X: None})
    with pytest.raises(
        GradientUnavailableError, match=f"Mine overrides `{method}` of SVC.*skart.register_rule\\(Mine, rule\\)"
    ):
        numpy_backend("float64").bind(Mine().fit(X, y))


def test_an_instance_that_overrides(iris):
    X, y = iris
    model = SVC().fit(X, y)
    model.decision_function = lambda X: X
    with pytest.raises(GradientUnavailableError, match="overrides `decision_function`"):
        numpy_backend("float64").bind(model)


def test_a_subclass_that_does_not_override(iris):
    class Mine(SVC):
        def fit(self, X, y):
            return super().fit(X, y)

    X, y = iris
    check_rule(Mine().fit(X, y), X)


def test_a_class_of_the_same_name_is_another(iris):
    X, y = iris
    Impostor = type("SVC", (Centroids,), {})
    with pytest.raises(GradientUnavailableError, match="no gradient rule is known for SVC"):
        numpy_backend("float64").bind(Impostor().fit(X, y))


def test_names_that_a_release_has_dropped(iris):
    X, y = iris
    rule("sklearn.svm.VerySVC", "sklearn.nowhere.SVC", "nowhere.SVC")(lambda model, backend: 1 / 0)
    check_rule(SVC().fit(X, y), X)


@pytest.mark.parametrize("how", ["class", "path", "decorator"])
def test_register_rule(how, iris, monkeypatch):
    X, y = iris
    model = make_pipeline(Cube(), LogisticRegression()).fit(X, y)
    with pytest.raises(GradientUnavailableError, match="step 'cube': no gradient rule is known for Cube"):
        as_oracle(model, X).vjp(X)
    if how == "class":
        assert register_rule(Cube, cubed) is cubed
    elif how == "path":
        module = type(sys)("some_package")
        module.Cube = Cube
        monkeypatch.setitem(sys.modules, "some_package", module)
        register_rule("some_package.Cube", cubed)
    else:
        assert register_rule(Cube)(cubed) is cubed
    check_rule(model, X)
    assert_allclose(as_oracle(model, X).proba(X), model.predict_proba(X))
    assert cubed in user_rules().values()  # worker processes are told


def test_a_path_does_not_import_its_package():
    register_rule("antigravity.Cube", cubed)
    numpy_backend("float64").bind(StandardScaler().fit([[0.0], [1.0]]))
    with pytest.raises(GradientUnavailableError):
        numpy_backend("float64").bind(Cube().fit(np.ones((2, 2))))
    assert "antigravity" not in sys.modules


def test_register_rule_for_a_subclass_that_overrides(iris):
    class Shifted(SVC):
        def decision_function(self, X):
            return super().decision_function(X) + 1

    @register_rule(Shifted)
    def shifted(model, backend):
        inner = backend.bind(SVC(gamma=model._gamma).fit(*iris))

        def forward(X):
            output, pullback = inner.forward(X)
            return output + 1, pullback

        return forward

    X, y = iris
    model = Shifted().fit(X, y)
    assert_allclose(as_oracle(model, X).logits(X), model.decision_function(X), atol=1e-8)


def test_register_rule_for_a_function(iris):
    def cube(X, *, factor=1.0):
        return factor * X**3

    X, y = iris
    step = FunctionTransformer(cube, kw_args={"factor": 2.0})
    model = Pipeline([("cube", step), ("clf", LogisticRegression())]).fit(X, y)
    with pytest.raises(
        GradientUnavailableError, match=r"step 'cube': the derivative of cube.*skart.register_rule\(cube, rule\)"
    ):
        as_oracle(model, X).vjp(X)

    @register_rule(cube)
    def cube_rule(step, backend):
        factor = step.kw_args["factor"]
        return lambda X: (factor * X**3, lambda cotangent: factor * 3 * X**2 * cotangent)

    check_rule(model, X)
    assert user_rules()[cube] is cube_rule


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Cube, 3), TypeError, "rule must be a function of"),
        ((3, cubed), TypeError, "must be a class, its import path, or a function"),
        (("Cube", cubed), ValueError, "package.module.Class"),
    ],
)
def test_register_rule_says_what_it_wants(arguments, error, message):
    with pytest.raises(error, match=message):
        register_rule(*arguments)


def test_a_wrong_rule_is_caught_by_the_oracle(iris):
    X, y = iris
    model = Centroids().fit(X, y)
    register_rule(Centroids, lambda model, backend: lambda X: (0.5 * X[:, :3], lambda cotangent: cotangent))
    with pytest.raises(ValueError, match="gradient rule of Centroids does not compute what the model's own decision_f"):
        as_oracle(model, X)
    register_rule(Centroids, centroids)
    assert_allclose(as_oracle(model, X).logits(X), model.decision_function(X))


def test_workers_and_light_imports():
    """`skart.gradients` brings all rules, and imports neither torch nor the heavier parts of scikit-learn."""
    script = (
        "import sys, sklearn.base, scipy.sparse\n"
        "before = set(sys.modules)\n"
        "import skart.gradients\n"
        "from skart.gradients import _registry as r\n"
        "assert 'sklearn.svm.SVC' in r._rules and 'skorch.NeuralNetClassifier' in r._rules\n"
        "heavy = {'torch', 'skorch', 'pandas', 'xgboost', 'matplotlib', 'sklearn.svm', 'sklearn.ensemble',\n"
        "         'sklearn.linear_model', 'sklearn.neural_network', 'sklearn.model_selection'}\n"
        "brought = heavy & (set(sys.modules) - before)\n"
        "assert not brought, brought\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
