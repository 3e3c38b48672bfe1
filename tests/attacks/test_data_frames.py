"""Attacks on models that take data frames: what changes, what is held, and what the caller gets back."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.exceptions import GradientUnavailableError
from skart.metrics import empirical_robustness, make_robustness_scorer
from tests.common._tabular import people

X, Y = people()
FREE = ["age", "income"]
HELD = ["city", "grade", "own", "level"]


def pipeline():
    # Dense codes: scikit-learn 1.6 stacks no frame of polars beside sparse ones.
    codes = OneHotEncoder(handle_unknown="error", sparse_output=False)
    columns = ColumnTransformer([("n", StandardScaler(), FREE), ("c", codes, HELD)], remainder="passthrough")
    return make_pipeline(columns, LogisticRegression(max_iter=2000))


CLF = pipeline().fit(X, Y)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_pgd_returns_a_frame_that_the_pipeline_takes(norm):
    before = X.copy(deep=True)
    result = ProjectedGradientDescent(CLF, norm=norm, eps=8.0, random_state=0, n_jobs=2, batch_size=100).run(X, Y)
    assert X.equals(before)
    assert_array_equal(CLF.predict(result.X_adv), result.y_adv)
    assert np.mean(result.y_adv == Y) < 0.4 < 0.8 < CLF.score(X, Y)
    kept = X.drop(columns=[*FREE, "rooms"])
    assert result.X_adv[kept.columns].equals(kept)
    assert (result.X_adv[kept.columns].dtypes == kept.dtypes).all()
    moved = (result.X_adv[FREE] - X[FREE]).to_numpy()
    assert (np.linalg.norm(moved, ord=norm, axis=1) <= 8.0 * (1 + 1e-9)).all()
    assert np.abs(moved).max() > 1


def test_fitting_on_a_frame():
    attack = FastGradientMethod(pipeline(), eps=20.0, clip_values="fit").fit(X, Y)
    assert_array_equal(attack.feature_names_in_, X.columns)
    X_adv = attack.transform(X, Y)
    assert (X_adv[FREE] >= X[FREE].min()).all(axis=None)
    assert (X_adv[FREE] <= X[FREE].max()).all(axis=None)
    assert attack.estimator_.score(X_adv, Y) < 0.5
    other = X.rename(columns={"age": "years"})
    with pytest.raises(ValueError, match="feature names"):
        attack.transform(other)


def test_values_that_fit_has_not_seen():
    """The table of values is that of the frame at hand, whatever the order in which values come."""
    attack = FastGradientMethod(pipeline(), eps=1.0).fit(X[X.city != "bern"], Y[X.city != "bern"])
    part = X[X.city != "bern"][::-1]
    assert attack.transform(part)["city"].equals(part["city"])
    with pytest.raises(ValueError, match="bern"):
        attack.transform(X)


def test_eps_by_column():
    X_adv = FastGradientMethod(CLF, eps={"age": 2.0, "income": 0.5}).transform(X)
    moved = (X_adv[["age", "income", "rooms"]] - X[["age", "income", "rooms"]]).abs().max()
    assert moved["age"] == pytest.approx(2.0)
    assert moved["income"] == pytest.approx(0.5)
    assert moved["rooms"] == 0
    result = ProjectedGradientDescent(CLF, eps={"age": 2.0}, max_iter=5, random_state=0).run(X)
    assert_array_equal(result.X_adv["income"], X["income"])
    assert result.X_adv["rooms"].dtype == X["rooms"].dtype


def test_clip_values_bind_the_columns_that_may_change():
    low = [0.0, np.nan, 0, np.nan, 0, np.nan, np.nan]
    high = [100.0, np.nan, 6, np.nan, 200, np.nan, np.nan]
    X_adv = FastGradientMethod(CLF, eps=30.0, clip_values=(low, high)).transform(X)
    assert X_adv["age"].between(0, 100).all()
    assert X_adv["rooms"].between(0, 6).all()
    assert X_adv["rooms"].nunique() < X["rooms"].nunique() or X_adv["rooms"].max() == 6
    with pytest.raises(ValueError, match="outside clip_values"):
        FastGradientMethod(CLF, clip_values=(0, 1)).transform(X)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"mask": ["age", "city"]}, "mask names column 'city', whose values stand for categories"),
        ({"mask": ["level"]}, "mask names column 'level'"),
        ({"mask": [0, 5]}, "mask names column 'own'"),
        ({"mask": np.ones(7, dtype=bool)}, "mask names column 'city'"),
        ({"eps": {"weight": 1.0}}, r"eps names 'weight', which is no column of X; columns are \['age', "),
        ({"eps": {}}, None),
        ({"eps": {"age": -1.0}}, "eps must be finite and not negative"),
    ],
)
def test_wrong_parameters(params, match):
    if match is None:
        assert FastGradientMethod(CLF, **params).transform(X).equals(X)
        return
    with pytest.raises(ValueError, match=match):
        FastGradientMethod(CLF, **params).transform(X)


def test_eps_by_name_without_names():
    clf = LogisticRegression().fit(X[FREE].to_numpy(), Y)
    with pytest.raises(ValueError, match="eps is given by column name, but neither X nor the fitted model has names"):
        FastGradientMethod(clf, eps={"age": 1.0}).transform(X[FREE].to_numpy())


def test_nothing_left_to_change():
    clf = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(X[HELD], Y)
    with pytest.raises(ValueError, match="all 4 features stand for categories"):
        FastGradientMethod(clf).transform(X[HELD])


def test_a_forest_says_that_it_has_no_gradient_and_nothing_of_text():
    forest = make_pipeline(CLF[0], RandomForestClassifier(5, random_state=0)).fit(X, Y)
    with pytest.raises(GradientUnavailableError, match="RandomForestClassifier has no gradient"):
        FastGradientMethod(forest).transform(X)


def test_scorers_and_metrics_take_frames():
    scorer = make_robustness_scorer(ProjectedGradientDescent(eps=2.0, max_iter=5, random_state=0))
    scores = cross_val_score(pipeline(), X, Y, scoring=scorer, cv=3)
    assert ((0.1 < scores) & (scores < 0.9)).all()
    attack = FastGradientMethod(norm=2, minimal=True, eps_step=0.5, eps_max=30.0)
    relative = empirical_robustness(CLF, X, attack=attack, per_sample=True)
    result = FastGradientMethod(CLF, norm=2, minimal=True, eps_step=0.5, eps_max=30.0).run(X)
    size = np.linalg.norm(X[["age", "rooms", "income", "level"]], axis=1)
    assert_array_equal(relative, np.where(result.success, result.distance / size, np.nan))


def test_polars_frames():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({name: X[name].to_list() for name in X.columns})
    clf = pipeline().fit(table, Y)
    result = ProjectedGradientDescent(clf, eps=5.0, max_iter=5, random_state=0).run(table, Y)
    assert isinstance(result.X_adv, polars.DataFrame)
    assert_array_equal(clf.predict(result.X_adv), result.y_adv)
    assert result.X_adv.select(HELD).equals(table.select(HELD))
    assert result.success.mean() > 0.3
