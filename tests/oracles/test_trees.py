"""The trees read from a model give the model's own scores, above all where samples lie on thresholds."""

import pickle
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier
from threadpoolctl import threadpool_limits

from skart.oracles import TreeEnsemble, as_oracle, get_trees


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Threads that wait for each other take far longer over data this small than the work itself.
    with threadpool_limits(1):
        yield


def xgb(**params):
    return pytest.importorskip("xgboost").XGBClassifier(**{"n_estimators": 8, "max_depth": 4, "n_jobs": 1, **params})


def xgb_forest(**params):
    return pytest.importorskip("xgboost").XGBRFClassifier(**{"n_estimators": 8, "max_depth": 4, "n_jobs": 1, **params})


def lgbm(**params):
    defaults = {"n_estimators": 8, "num_leaves": 15, "min_child_samples": 5, "n_jobs": 1, "verbose": -1}
    return pytest.importorskip("lightgbm").LGBMClassifier(**{**defaults, **params})


def catboost(**params):
    defaults = {"n_estimators": 8, "depth": 4, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
    return pytest.importorskip("catboost").CatBoostClassifier(**{**defaults, **params})


SKLEARN = {
    "tree": lambda: DecisionTreeClassifier(random_state=0),
    "extra tree": lambda: ExtraTreeClassifier(random_state=0),
    "forest": lambda: RandomForestClassifier(7, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(7, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5, learning_rate=0.3, random_state=0),
    "boosting, zero": lambda: GradientBoostingClassifier(n_estimators=5, init="zero", random_state=0),
    "boosting, constant": lambda: GradientBoostingClassifier(
        n_estimators=5, init=DummyClassifier(strategy="prior"), random_state=0
    ),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "bagging": lambda: BaggingClassifier(n_estimators=5, max_features=0.5, random_state=0),
    "bagging, bootstrapped features": lambda: BaggingClassifier(
        DecisionTreeClassifier(max_depth=4), n_estimators=5, bootstrap_features=True, random_state=0
    ),
    "bagging of forests": lambda: BaggingClassifier(
        RandomForestClassifier(3), n_estimators=3, max_features=0.7, random_state=0
    ),
    "AdaBoost": lambda: AdaBoostClassifier(DecisionTreeClassifier(max_depth=2), n_estimators=6, random_state=0),
}
LIBRARIES = {
    "XGBoost": xgb,
    "XGBoost, base score": lambda: xgb(base_score=0.9),
    "XGBoost, missing=0": lambda: xgb(missing=0.0),
    "XGBoost, forests": lambda: xgb(num_parallel_tree=2, subsample=0.7, n_estimators=4),
    "XGBoost forest": xgb_forest,
    "LightGBM": lgbm,
    "LightGBM, zero as missing": lambda: lgbm(zero_as_missing=True),
    "LightGBM, no missing": lambda: lgbm(use_missing=False),
    "LightGBM, dart": lambda: lgbm(boosting_type="dart", drop_rate=0.5),
    "LightGBM, forest": lambda: lgbm(boosting_type="rf", subsample=0.5, subsample_freq=1),
    "CatBoost": catboost,
    "CatBoost, NaN last": lambda: catboost(nan_mode="Max"),
    "CatBoost, lossguide": lambda: catboost(grow_policy="Lossguide"),
}
FAMILIES = SKLEARN | LIBRARIES
FLOAT32_SUMS = ("XGBoost", "XGBoost, base score", "XGBoost, missing=0", "XGBoost, forests", "XGBoost forest")

family = pytest.mark.parametrize("name", FAMILIES)


def own_scores(model, X):
    """What the library itself says, by the name that it has there."""
    kind = type(model).__module__.partition(".")[0]
    if kind == "xgboost":
        return model.predict(X, output_margin=True)
    if kind == "lightgbm":
        return model.predict(X, raw_score=True)
    if kind == "catboost":
        return model.predict(X, prediction_type="RawFormulaVal")
    return model.decision_function(X) if hasattr(model, "decision_function") else model.predict_proba(X)


def data(name):
    """Samples and integer labels; each has something that one library or the other treats in a way of its own."""
    if name == "breast_cancer":
        return load_breast_cancer(return_X_y=True)
    if name == "digits":  # values are integers, and splits of some libraries are among them
        X, y = load_digits(return_X_y=True)
        return X[:400], y[:400]
    X, y = make_classification(250, 6, n_informative=4, n_classes=3, random_state=0)
    rng = np.random.default_rng(0)
    X[rng.random(X.shape) < 0.2] = {"three classes": 0.5, "zeros": 0.0, "missing": np.nan}[name]
    return X, y if name != "zeros" else (y > 0).astype(int)


def on_thresholds(trees, X, step, dtype, n_samples=150):
    """Samples with every value on a threshold, or the next number of ``dtype`` below or above it."""
    rng = np.random.default_rng(1)
    points = X[rng.integers(len(X), size=n_samples)].astype(dtype)
    for feature in range(X.shape[1]):
        thresholds = trees.threshold[(trees.feature == feature) & np.isfinite(trees.threshold)].astype(dtype)
        if len(thresholds):
            points[:, feature] = rng.choice(thresholds, n_samples)
    if step:
        # CatBoost has a border at the end of float32: stay among the numbers that scikit-learn would take.
        largest = np.finfo(dtype).max
        with np.errstate(over="ignore"):
            points = np.clip(np.nextafter(points, np.asarray(step * np.inf, dtype)), -largest, largest)
    return points


def assert_same_scores(model, trees, X):
    own, ours = own_scores(model, X), trees.decision_function(X)
    assert own.shape == ours.shape
    # XGBoost adds up in float32; the others' sums differ in their order only.
    rtol = 3e-6 if own.dtype == np.float32 else 1e-12
    assert_allclose(ours, own, rtol=rtol, atol=rtol)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("dataset", ["breast_cancer", "digits", "three classes", "zeros", "missing"])
@family
def test_scores_are_the_library_s_own(name, dataset):
    if dataset == "digits" and name in ("CatBoost, NaN last", "LightGBM, no missing", "boosting, constant"):
        pytest.skip("nothing that their siblings do not show")
    X, y = data(dataset)
    model = FAMILIES[name]()
    if dataset == "missing" and isinstance(model, (GradientBoostingClassifier, AdaBoostClassifier)):
        pytest.skip("takes no missing values")
    trees = get_trees(model.fit(X, y))
    assert_same_scores(model, trees, X)
    for dtype in (np.float32, np.float64):
        for step in (0, -1, 1):
            assert_same_scores(model, trees, on_thresholds(trees, np.nan_to_num(X), step, dtype))
    if trees.allows_nan:
        # Also where none was missing in training.
        holes = on_thresholds(trees, X, 0, np.float64)
        holes[np.random.default_rng(2).random(holes.shape) < 0.3] = np.nan
        assert_same_scores(model, trees, holes)
    else:
        with pytest.raises(ValueError, match="takes no missing values"):
            trees.decision_function(np.full((1, X.shape[1]), np.nan))


def test_points_on_thresholds_tell_the_comparisons_apart():
    # The test above would not see "<" for "<=", float64 for float32, or a lost bit of a threshold, if these were equal.
    X, y = data("three classes")
    trees = get_trees(GradientBoostingClassifier(n_estimators=5, random_state=0).fit(X, y))
    there, below = (trees.decision_function(on_thresholds(trees, X, step, np.float32)) for step in (0, -1))
    assert np.abs(there - below).max() > 0.01


@family
def test_boxes_part_the_samples(name):
    X, y = data("missing" if "oost" not in name or name in LIBRARIES else "three classes")
    model = FAMILIES[name]()
    if isinstance(model, (GradientBoostingClassifier, AdaBoostClassifier)):
        X = np.nan_to_num(X)
    trees = get_trees(model.fit(X, y))
    points = np.concatenate([X[:50], *(on_thresholds(trees, X, step, trees.dtype, 50) for step in (0, -1, 1))])
    assert_boxes_part(trees, points)


def assert_boxes_part(trees, points):
    boxes = trees.leaf_boxes()
    points = points.astype(trees.dtype)
    values = points[:, boxes.feature]
    least, most = boxes.representable()
    in_thresholds = (
        (values > boxes.lower) & (values <= boxes.upper)
        if boxes.comparison == "<="
        else (values >= boxes.lower) & (values < boxes.upper)
    )
    assert_array_equal(in_thresholds, (values >= least) & (values <= most))
    bounded = np.where(np.isnan(values), boxes.nan_inside, in_thresholds)
    box_of_bound = np.repeat(np.arange(len(boxes.leaf)), np.diff(boxes.offsets))
    inside = np.ones((len(points), len(boxes.leaf)), dtype=bool)
    np.logical_and.at(inside.T, box_of_bound, bounded.T)
    # One box in each tree, and it is that of the leaf where the sample ends.
    assert_array_equal(np.add.reduceat(inside, boxes.tree_offsets[:-1], axis=1), 1)
    assert_array_equal(boxes.leaf[np.nonzero(inside)[1]].reshape(len(points), -1), trees.apply(points))
    # Features ascend in a box, each stands once.
    assert np.all(np.diff(boxes.feature)[np.diff(box_of_bound) == 0] > 0)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", [name for name in FAMILIES if "boosting" not in name or name == "histogram boosting"])
def test_splits_that_tell_missing_values_from_all_others(name):
    X, _ = data("missing")
    model = FAMILIES[name]()
    if isinstance(model, AdaBoostClassifier):
        pytest.skip("takes no missing values")
    trees = get_trees(model.fit(X, np.isnan(X[:, 0]).astype(int)))
    points = on_thresholds(trees, np.nan_to_num(X), 0, np.float64)
    points[:, 0] = np.resize([-3e38, np.finfo(np.float32).min, 0, 3e38, np.finfo(np.float32).max, np.nan], len(points))
    assert_same_scores(model, trees, points)
    assert_boxes_part(trees, points)


def test_boxes_of_a_known_tree():
    X = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    trees = get_trees(DecisionTreeClassifier().fit(X, ["a", "b", "b", "a"]))
    boxes = trees.leaf_boxes()
    assert_array_equal(sorted(zip(boxes.lower, boxes.upper)), [(-np.inf, 0.5), (0.5, 2.5), (2.5, np.inf)])
    assert_array_equal(boxes.feature, 0)
    assert_array_equal(trees.values[boxes.leaf][np.argsort(boxes.lower)], [[1, 0], [0, 1], [1, 0]])
    least, _ = boxes.representable()
    assert_array_equal(np.sort(least), [-np.inf, *np.nextafter(np.float32([0.5, 2.5]), np.float32(9))])


def test_a_threshold_between_two_float32_numbers():
    low = np.float32(1e6)
    high = np.nextafter(low, np.float32(np.inf))
    model = DecisionTreeClassifier().fit([[low], [high]], [0, 1])
    trees = get_trees(model)
    assert low <= trees.threshold[0] < high
    # In float64 there are numbers on either side of the threshold that float32 puts on the other one.
    points = np.linspace(np.float64(low), np.float64(high), 21)[:, None]
    assert_array_equal(trees.decision_function(points), model.predict_proba(points))
    least, most = trees.leaf_boxes().representable()
    assert_array_equal([most[0], least[1]], [low, high])


def test_counts():
    X, y = data("three classes")
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    trees = get_trees(forest)
    assert trees.n_trees == 5
    assert trees.n_outputs == 3
    assert_array_equal(np.diff(trees.leaf_offsets), [tree.get_n_leaves() for tree in forest.estimators_])
    assert_array_equal(np.diff(trees.split_offsets) + 1, np.diff(trees.leaf_offsets))
    assert trees.apply(X).shape == (len(X), 5)
    assert (trees.comparison, trees.dtype, trees.outputs) == ("<=", np.float32, "probabilities")
    boosting = get_trees(GradientBoostingClassifier(n_estimators=4).fit(X, y))
    assert_array_equal(boosting.output, [0, 1, 2] * 4)
    assert boosting.outputs == "margins"


def test_leaves_are_those_of_scikit_learn():
    X, y = data("breast_cancer")
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    ours, theirs = get_trees(model).apply(X)[:, 0], model.apply(X)
    assert len(set(zip(ours, theirs))) == model.get_n_leaves() == len(set(ours))


def test_batches_change_nothing(monkeypatch):
    X, y = data("three classes")
    trees = get_trees(RandomForestClassifier(5, random_state=0).fit(X, y))
    scores, leaves = trees.decision_function(X), trees.apply(X)
    monkeypatch.setattr(sys.modules[TreeEnsemble.__module__], "_ENTRIES", 70)
    assert_array_equal(trees.decision_function(X), scores)
    assert_array_equal(trees.apply(X), leaves)
    assert trees.decision_function(X[:0]).shape == (0, 3)


def test_single_leaves():
    X = np.zeros((6, 2))
    model = RandomForestClassifier(2, bootstrap=False).fit(X, [0, 0, 1, 1, 1, 1])
    trees = get_trees(model)
    assert len(trees.feature) == 0
    assert_allclose(trees.decision_function(X), model.predict_proba(X))
    boxes = trees.leaf_boxes()
    assert_array_equal(boxes.leaf, [0, 1])
    assert len(boxes.feature) == 0


class Unweighted(DecisionTreeClassifier):
    """A bag gives it the samples drawn, rather than all with weights."""

    def fit(self, X, y):
        return super().fit(X, y)


def test_a_bag_that_missed_a_class():
    X, y = data("three classes")
    keep = np.r_[np.flatnonzero(y > 0), np.flatnonzero(y == 0)[:1]]
    model = BaggingClassifier(Unweighted(), n_estimators=5, max_samples=0.2, random_state=0).fit(
        X[keep], np.array(list("abc"))[y[keep]]
    )
    assert min(len(tree.classes_) for tree in model.estimators_) < 3
    assert_same_scores(model, get_trees(model), X)


@pytest.mark.parametrize("name", ["forest", "XGBoost", "CatBoost"])
def test_pickling(name):
    X, y = data("three classes")
    trees = get_trees(FAMILIES[name]().fit(X, y))
    again = pickle.loads(pickle.dumps(trees))
    assert_array_equal(again.decision_function(X), trees.decision_function(X))
    with pytest.raises(AttributeError):
        again.bias = 0


def test_early_stopping_ends_at_the_best_round():
    X, y = data("zeros")
    flipped = np.where(np.random.default_rng(0).random(len(y)) < 0.3, 1 - y, y)
    fit, rest = (X[:150], flipped[:150]), (X[150:], flipped[150:])
    model = xgb(n_estimators=100, early_stopping_rounds=3).fit(*fit, eval_set=[rest], verbose=False)
    assert get_trees(model).n_trees == model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    assert_same_scores(model, get_trees(model), X)
    early = pytest.importorskip("lightgbm").early_stopping(3, verbose=False)
    model = lgbm(n_estimators=100).fit(*fit, eval_set=[rest], callbacks=[early])
    assert get_trees(model).n_trees == model.best_iteration_ < 100
    assert_same_scores(model, get_trees(model), X)
    model = catboost(n_estimators=100, early_stopping_rounds=3).fit(*fit, eval_set=rest)
    assert get_trees(model).n_trees == model.tree_count_ < 100
    assert_same_scores(model, get_trees(model), X)


@pytest.mark.parametrize("missing", [-999.0, 0.5, 0.1])
def test_a_number_that_xgboost_reads_as_missing(missing):
    X, y = data("three classes")
    X[np.random.default_rng(0).random(X.shape) < 0.2] = missing
    model = xgb(missing=missing).fit(X, y)
    trees = get_trees(model)
    near = np.nextafter(np.float32(missing), np.float32([-np.inf, np.inf])).astype(float)
    for value in (missing, *near, np.nan):
        points = on_thresholds(trees, X, 0, np.float64)
        points[np.random.default_rng(2).random(points.shape) < 0.3] = value
        assert_same_scores(model, trees, points)


@pytest.mark.parametrize("params", [{}, {"zero_as_missing": True}])
def test_numbers_that_lightgbm_reads_as_zero(params):
    X, y = data("zeros")
    trees = get_trees(model := lgbm(**params).fit(X, y))
    zero = float(np.float32(1e-35))
    for value in (0.0, -0.0, 1e-36, -1e-36, zero, -zero, np.nextafter(zero, 1), np.nextafter(-zero, -1)):
        points = X.copy()
        points[np.random.default_rng(2).random(points.shape) < 0.3] = value
        assert_same_scores(model, trees, points)


def test_catboost_leaves_that_nothing_reaches_are_dropped():
    X, y = data("three classes")
    model = catboost(depth=6).fit(X[:, :2], y)
    trees = get_trees(model)
    # Six levels of two features: some feature is split twice.
    assert len(trees.values) < 8 * 2**6
    assert_array_equal(np.unique(trees.leaf_boxes().leaf), np.arange(len(trees.values)))


def test_catboost_fitted_again_on_fewer_features():
    X, y = data("three classes")
    model = catboost().fit(X, y)
    assert get_trees(model.fit(X[:, :4], y)).n_features == 4


@pytest.mark.parametrize("name", ["forest", "histogram boosting", "XGBoost", "LightGBM", "CatBoost"])
def test_data_frames(name):
    pandas = pytest.importorskip("pandas")
    X, y = data("three classes")
    frame = pandas.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
    model = FAMILIES[name]().fit(frame, y)
    trees = get_trees(model)
    own = own_scores(model, frame)
    assert_allclose(trees.decision_function(frame), own, rtol=3e-6, atol=3e-6)
    assert_allclose(trees.decision_function(X), own, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@family
def test_oracle_answers_labels_and_scores(name, n_classes):
    X, y = data("three classes")
    y = np.minimum(y, n_classes - 1)
    names = np.array(["ash", "beech", "cedar"])[:n_classes]
    # XGBoost wants positions as labels; its users encode theirs.
    model = FAMILIES[name]().fit(X, y if name.startswith("XGBoost") else names[y])
    oracle = as_oracle(model, X)
    assert oracle.access == "scores"
    labels, proba, logits = oracle.labels(X), oracle.proba(X), oracle.logits(X)
    assert_array_equal(labels, np.ravel(model.predict(X)))
    assert_allclose(proba, model.predict_proba(X))
    assert proba.shape == logits.shape == (len(X), n_classes)
    assert_array_equal(oracle.classes_[logits.argmax(axis=1)], labels)
    # The same in the trees.
    scores = get_trees(model).decision_function(X)
    position = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    assert np.mean(oracle.classes_[position] == labels) > 0.98  # ties


def test_containers_are_looked_through():
    X, y = data("three classes")
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, y)
    expected = get_trees(tree).decision_function(X)
    search = GridSearchCV(tree, {"max_depth": [3]}, cv=2).fit(X, y)
    for model in (FrozenEstimator(tree), search, FrozenEstimator(search), make_pipeline("passthrough", None, tree)):
        assert_array_equal(get_trees(model).decision_function(X), expected)


def refused(model, error, match, X=None, y=None):
    if X is not None:
        model.fit(X, y)
    with pytest.raises(error, match=match):
        get_trees(model)


def test_what_is_no_fitted_tree_classifier_is_refused():
    X, y = data("three classes")
    refused(DecisionTreeClassifier, TypeError, "got the class DecisionTreeClassifier")
    refused(DecisionTreeRegressor(), TypeError, "classifiers made of trees .* got DecisionTreeRegressor", X, y)
    refused(SVC(), TypeError, "classifiers made of trees .* got SVC", X, y)
    refused("forest", TypeError, "classifiers made of trees .* got 'forest'")
    refused(RandomForestClassifier(), NotFittedError, "not fitted yet")
    refused(GridSearchCV(DecisionTreeClassifier(), {}), NotFittedError, "not fitted yet")
    refused(GridSearchCV(DecisionTreeClassifier(), {}, cv=2, refit=False), ValueError, "refit=True", X, y)
    pipeline = make_pipeline(StandardScaler(), DecisionTreeClassifier())
    refused(pipeline, TypeError, r"'decisiontreeclassifier'.*'standardscaler'.*pipeline\[:-1\]", X, y)
    refused(DecisionTreeClassifier(), ValueError, "one class only", X, np.zeros(len(y)))


@pytest.mark.parametrize("make", [xgb, xgb_forest, lgbm, catboost])
def test_unfitted_boosters_are_refused(make):
    refused(make(), NotFittedError, "not fitted yet")


def test_scikit_learn_s_special_cases_are_refused_by_name():
    X, y = data("three classes")
    several = np.column_stack([y, y > 0])
    refused(RandomForestClassifier(2), ValueError, "several labels", X, several)
    refused(GradientBoostingClassifier(init=LogisticRegression()), ValueError, "init=LogisticRegression", X, y)
    random = DummyClassifier(strategy="uniform")
    refused(GradientBoostingClassifier(init=random), ValueError, "depends on the sample", X, y)
    codes = np.column_stack([np.arange(len(X)) % 5, X])
    refused(HistGradientBoostingClassifier(categorical_features=[0]), ValueError, "categorical_features", codes, y)
    boosted = GradientBoostingClassifier(n_estimators=2)
    refused(BaggingClassifier(boosted, n_estimators=2), ValueError, "probabilities of GradientBoosting", X, y)
    refused(BaggingClassifier(SVC(), n_estimators=2), TypeError, "got SVC", X, y)
    forest = RandomForestClassifier(2)
    refused(AdaBoostClassifier(forest, n_estimators=2), ValueError, "boosts RandomForestClassifier", X, y)


def test_xgboost_s_special_cases_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    X, y = data("three classes")
    refused(xgb(booster="dart"), ValueError, "booster='dart'", X, y)
    refused(xgb(booster="gblinear", max_depth=None), ValueError, "booster='gblinear'", X, y)
    refused(xgb(), ValueError, "several labels", X, np.column_stack([y > 0, y > 1]).astype(int))
    refused(xgb(multi_strategy="multi_output_tree"), ValueError, "multi_output_tree", X, y)
    refused(xgb(objective="binary:logitraw"), ValueError, "margin of 0.5", X, (y > 0).astype(int))
    frame = pandas.DataFrame({"kind": pandas.Categorical(np.arange(len(X)) % 4), "size": X[:, 0]})
    refused(xgb(enable_categorical=True, tree_method="hist"), ValueError, "categorical", frame, y)


def test_lightgbm_s_special_cases_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    X, y = data("three classes")
    refused(lgbm(linear_tree=True), ValueError, "linear_tree", X, y)
    frame = pandas.DataFrame({"kind": pandas.Categorical(y), "size": X[:, 0]})
    refused(lgbm(min_child_samples=2, cat_smooth=0), ValueError, "categorical", frame, y)


def test_catboost_s_special_cases_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    X, y = data("three classes")
    frame = pandas.DataFrame({"kind": (np.arange(len(X)) % 4).astype(str), "size": X[:, 0]})
    refused(catboost(cat_features=[0]), ValueError, "cat_features", frame, y)
    several = np.column_stack([y > 0, y > 1]).astype(int)
    refused(catboost(loss_function="MultiLogloss"), ValueError, "several labels", X, several)
    model = catboost().fit(X, y > 0)
    model.set_probability_threshold(0.7)
    refused(model, ValueError, "probability threshold of 0.7")


class Sharpened(RandomForestClassifier):
    """Its trees no longer tell what it answers."""

    def predict_proba(self, X):
        proba = super().predict_proba(X) ** 2
        return proba / proba.sum(axis=1, keepdims=True)


class Contrary(RandomForestClassifier):
    def predict(self, X):
        return self.classes_[super().predict_proba(X).argmin(axis=1)]


@pytest.mark.parametrize("cls", [Sharpened, Contrary])
def test_a_subclass_that_answers_otherwise_is_refused(cls):
    X, y = data("three classes")
    refused(cls(5, random_state=0), ValueError, f"{cls.__name__} do not give its own answers", X, y)


def test_wrong_samples():
    X, y = data("three classes")
    trees = get_trees(DecisionTreeClassifier().fit(X, y))
    with pytest.raises(ValueError, match="X has 5 features, but the trees .* of 6"):
        trees.apply(X[:, :5])
    with pytest.raises(ValueError, match="2D array"):
        trees.decision_function(X[0])


def test_no_library_is_imported(monkeypatch):
    libraries = ("catboost", "lightgbm", "xgboost")
    for module in [name for name in sys.modules if name.partition(".")[0] in libraries]:
        monkeypatch.delitem(sys.modules, module)
    X, y = data("three classes")
    get_trees(DecisionTreeClassifier().fit(X, y))
    with pytest.raises(TypeError):
        get_trees(SVC().fit(X, y))
    assert not any(name.partition(".")[0] in libraries for name in sys.modules)
