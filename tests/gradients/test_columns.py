"""ColumnTransformer and encoders: what each branch computes, what is held fixed, and what has no place."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC

from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle, loss_gradient
from skart.utils import check_rule
from skart.utils._containers import Container
from tests.common._tabular import people

X, Y = people()
NUMERIC = ["age", "income"]
ENCODE = OneHotEncoder(handle_unknown="ignore")
REST = ["city", "grade", "own", "level"]


def columns(*branches, **params):
    return ColumnTransformer(list(branches), **params)


def held(model, frame=X):
    flags = as_oracle(model, frame).held(frame.shape[1])
    return [] if flags is None else list(frame.columns[flags])


@pytest.mark.parametrize(
    "step",
    [
        columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, REST)),
        columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, ["city"])),  # the rest is dropped
        columns(("c", ENCODE, ["city", "grade"]), remainder="passthrough"),
        columns(("c", ENCODE, ["city", "grade"]), remainder=StandardScaler()),
        columns(("n", StandardScaler(), [0, 4, 2]), ("c", OrdinalEncoder(), slice(3, 4))),
        columns(("n", MinMaxScaler(), slice("age", "age")), ("c", ENCODE, slice("city", "city"))),
        columns(("n", PolynomialFeatures(), ["income", "age"]), ("same", "passthrough", ["age"])),
        columns(("n", StandardScaler(), ["age", "income"]), ("m", MinMaxScaler(), ["age"])),
        columns(("n", StandardScaler(), np.array([True, False, False, False, True, False, False]))),
        columns(("n", StandardScaler(), [-3]), ("none", StandardScaler(), []), ("out", "drop", ["city"])),
        columns(("n", StandardScaler(), make_column_selector(dtype_include=np.floating)), ("c", ENCODE, REST)),
        columns(("t", TargetEncoder(), ["city"]), ("n", StandardScaler(), NUMERIC)),
        columns(("t", CountVectorizer(), "city"), ("n", StandardScaler(), NUMERIC)),
        columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, REST), transformer_weights={"n": 2.5, "c": 0.5}),
        columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, REST), sparse_threshold=1.0),
        columns(("n", FunctionTransformer(np.log), ["income"]), ("id", FunctionTransformer(), ["age"])),
        columns(
            ("n", make_pipeline(SimpleImputer(), StandardScaler()), NUMERIC),
            ("c", make_pipeline(SimpleImputer(strategy="most_frequent"), ENCODE), ["city", "level"]),
        ),
        columns(("inner", columns(("n", StandardScaler(), ["age"]), ("c", ENCODE, ["city"])), ["city", "age"])),
        columns(("u", FeatureUnion([("a", StandardScaler()), ("b", "passthrough")]), NUMERIC), ("c", ENCODE, ["city"])),
    ],
    ids=lambda step: "-".join(name for name, _, _ in step.transformers),
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_column_transformer(step):
    step = step.fit(X, Y == "yes")
    check_rule(step, X)
    model = make_pipeline(step, LogisticRegression(max_iter=2000)).fit(X, Y)
    check_rule(model, X)


def test_gradient_of_a_logistic_regression_in_closed_form():
    """With respect to a scaled column the gradient is the coefficient over the scale; elsewhere it is zero."""
    step = columns(("n", StandardScaler(), ["income", "age"]), ("c", ENCODE, ["city"]))
    model = make_pipeline(step, LogisticRegression()).fit(X, Y == "yes")
    grad = loss_gradient(model, X, Y == "yes")
    proba = model.predict_proba(X)[:, 1] - (Y == "yes")
    coef = model[-1].coef_[0, :2] / model[0].named_transformers_["n"].scale_
    assert_allclose(grad[:, [4, 0]], proba[:, None] * coef, rtol=1e-8)
    assert_array_equal(grad[:, [1, 2, 3, 5, 6]], 0)


def test_the_pipeline_of_the_front_page():
    """ColumnTransformer, a vote of a linear model, an SVC and a net, a frame and string labels."""
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    from skart.estimators import SkorchClassifier

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    net = skorch.NeuralNetClassifier(
        module, criterion=torch.nn.CrossEntropyLoss, max_epochs=3, lr=0.1, verbose=0, train_split=None
    )
    vote = VotingClassifier(
        [
            ("linear", LogisticRegression()),
            ("svc", CalibratedClassifierCV(SVC(), ensemble=False)),
            ("net", make_pipeline(StandardScaler(), SkorchClassifier(net, random_state=0))),
        ],
        voting="soft",
    )
    step = columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, REST), sparse_threshold=0)
    model = Pipeline([("columns", step), ("vote", vote)]).fit(X, Y)
    check_rule(model, X)  # central differences, relative error 1e-6
    assert held(model) == REST


def test_columns_are_held_where_they_are_codes():
    codes = columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, ["level"]))
    assert held(make_pipeline(codes, LogisticRegression()).fit(X, Y)) == ["city", "grade", "own", "level"]
    plain = columns(("n", StandardScaler(), ["age", "income", "level"]))
    assert held(make_pipeline(plain, LogisticRegression()).fit(X, Y)) == ["city", "grade", "own"]
    # A forest has no gradient, and its Pipeline's columns are codes all the same.
    assert held(FrozenEstimator(make_pipeline(codes, RandomForestClassifier(5)).fit(X, Y))) == REST
    members = [("a", make_pipeline(codes, LogisticRegression())), ("b", make_pipeline(plain, LogisticRegression()))]
    assert held(VotingClassifier(members, voting="soft").fit(X, Y)) == REST


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_codes_are_followed_back_through_scalers_and_columns():
    table = X[["age", "level", "income"]]

    def levels(step):
        encode = ColumnTransformer([("c", ENCODE, [1])], remainder="passthrough")
        return held(make_pipeline(step, encode, LogisticRegression(max_iter=500)).fit(table, Y), table)

    assert levels(MinMaxScaler()) == ["level"]
    assert levels(columns(("a", StandardScaler(), ["income"]), ("b", "passthrough", ["level", "age"]))) == ["level"]
    # Who mixes the features: then all of them are held.
    assert levels(PolynomialFeatures(interaction_only=True, include_bias=False)) == ["age", "level", "income"]


@pytest.mark.parametrize(
    "meta",
    [
        lambda clf: VotingClassifier([("one", clf), ("two", clf)], voting="soft"),
        lambda clf: StackingClassifier([("one", clf), ("two", clf)], cv=2),
        lambda clf: CalibratedClassifierCV(clf, ensemble=False, cv=2),
        lambda clf: FrozenEstimator(clf.fit(X, Y)),
    ],
    ids=["voting", "stacking", "calibrated", "frozen"],
)
def test_ensembles_of_pipelines_that_take_frames(meta):
    step = columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, REST))
    check_rule(meta(make_pipeline(step, LogisticRegression())).fit(X, Y), X)


def test_arrays_serve_as_well():
    table = X[["age", "level", "income"]].to_numpy()
    step = columns(("n", StandardScaler(), [0, 2]), ("c", ENCODE, [1]))
    model = make_pipeline(step, LogisticRegression()).fit(table, Y)
    check_rule(model, table)
    assert_array_equal(as_oracle(model, table).held(3), [False, True, False])
    check_rule(columns(("n", StandardScaler(), [2, 0, 2])).fit(table), table)  # a column may be taken twice


def test_polars():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({name: X[name].to_list() for name in X.columns})
    step = columns(("n", StandardScaler(), NUMERIC), ("c", ENCODE, REST))
    check_rule(make_pipeline(step, LogisticRegression()).fit(table, Y), table)


def test_encodings_are_asked_for_once_for_each_distinct_row():
    class Counting(TransformerMixin, BaseEstimator):
        n_asked = 0

        def fit(self, X, y=None):
            return self

        def transform(self, X):
            type(self).n_asked += len(X)
            return np.asarray(X) == "rome"

    step = columns(("c", Counting(), ["city"]), ("n", StandardScaler(), NUMERIC)).fit(X)
    container = Container(X)
    numbers = np.asarray(container.numbers(X).to_numpy(), dtype=np.float64)
    forward = numpy_backend("float64", container).bind(step).forward
    Counting.n_asked = 0
    for _ in range(3):
        output, _ = forward(numbers)
    assert Counting.n_asked == 3
    assert_array_equal(output[:, 0], X["city"] == "rome")


def test_more_rows_than_are_kept(monkeypatch):
    monkeypatch.setattr("skart.gradients._columns.N_KEPT", 5)
    step = columns(("c", ENCODE, ["city", "level"]), ("n", StandardScaler(), NUMERIC)).fit(X)
    check_rule(step, X)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (columns(("c", "passthrough", ["city"])), "column 'city' holds no numbers and passes through the ColumnTran"),
        (FeatureUnion([("same", "passthrough")]), "column 'city' holds no numbers and passes through the FeatureUnion"),
        (StandardScaler(), "StandardScaler takes the column 'city', which holds no numbers. Encode it"),
        (
            columns(("x", TransformerMixin(), ["age"])),
            "transformer 'x': no gradient rule is known for TransformerMixin",
        ),
    ],
    ids=["passthrough", "union", "scaler", "no rule"],
)
def test_what_has_no_gradient_is_named(model, match):
    if isinstance(model, StandardScaler | FeatureUnion):
        backend = numpy_backend("float64", Container(X))
    else:
        model.n_features_in_, model.feature_names_in_ = X.shape[1], X.columns
        model.transformers_, backend = model.transformers, numpy_backend("float64", Container(X))
    with pytest.raises(GradientUnavailableError, match=match):
        backend.bind(model)


def test_text_that_a_stack_passes_on():
    inner = make_pipeline(columns(("n", StandardScaler(), NUMERIC)), LogisticRegression())
    model = StackingClassifier(
        [("one", inner)],
        make_pipeline(columns(("n", StandardScaler(), [0, 1])), LogisticRegression()),
        passthrough=True,
        cv=2,
    )
    model.fit(X[NUMERIC], Y)
    with pytest.raises(GradientUnavailableError, match="column 'city' holds no numbers and passes through the Stack"):
        numpy_backend("float64", Container(X)).bind(model)
