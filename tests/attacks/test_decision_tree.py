"""The attack on a single tree, against a search through everything that a tree can tell apart."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from skart.attacks import DecisionTreeAttack
from skart.exceptions import AttackFailureWarning
from skart.metrics import make_robustness_scorer
from skart.oracles import get_trees

NORMS = (1, 2, np.inf)


def xgb(**params):
    params = {"n_estimators": 1, "max_depth": 3, "n_jobs": 1, "learning_rate": 1.0, "min_child_weight": 0, **params}
    return pytest.importorskip("xgboost").XGBClassifier(**params)


def lgbm(**params):
    params = {"n_estimators": 1, "num_leaves": 7, "min_child_samples": 3, "n_jobs": 1, "verbose": -1, **params}
    return pytest.importorskip("lightgbm").LGBMClassifier(learning_rate=1.0, min_data_in_bin=1, **params)


def catboost(**params):
    params = {"n_estimators": 1, "depth": 3, "thread_count": 1, "verbose": 0, "allow_writing_files": False, **params}
    return pytest.importorskip("catboost").CatBoostClassifier(**params)


BINARY = {
    "tree": lambda: DecisionTreeClassifier(max_depth=4, random_state=0),
    "extra tree": lambda: ExtraTreeClassifier(max_depth=4, random_state=1),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=1, learning_rate=1.0, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(
        max_iter=1, learning_rate=1.0, max_leaf_nodes=7, min_samples_leaf=3
    ),
    "XGBoost": xgb,
    "XGBoost, missing=0": lambda: xgb(missing=0.0),
    "LightGBM": lgbm,
    "LightGBM, zero as missing": lambda: lgbm(zero_as_missing=True),
    "CatBoost": catboost,
}
OF_CLASSES = {
    "tree": lambda: DecisionTreeClassifier(max_depth=4, random_state=0),
    "extra tree": lambda: ExtraTreeClassifier(max_depth=4, random_state=0),
    "CatBoost": catboost,
}
each_norm = pytest.mark.parametrize("norm", NORMS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_method = pytest.mark.parametrize("method", ["exact", "path"])


def samples(n_classes, dtype="float64", n_samples=80):
    """Three features on a grid of tenths: XGBoost puts its thresholds on samples. Labels are partly noise."""
    rng = np.random.default_rng(n_classes)
    X = rng.integers(-6, 7, size=(n_samples, 3)) / 10
    score = np.floor((X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.random(n_samples)) * 3).astype(int)
    return X.astype(dtype), score % n_classes


def fitted(make, n_classes=2, dtype="float64"):
    X, y = samples(n_classes, dtype)
    return make().fit(X, y), X


def predicted(model, X):
    return np.reshape(model.predict(X), -1)


def candidates(model, dtype):
    """For each feature the thresholds, and the numbers next to them in all ways of counting."""
    trees = get_trees(model)
    values = []
    for feature in range(trees.n_features):
        t = np.unique(trees.threshold[trees.feature == feature])
        t = t[np.abs(t) < 1e6]
        near = []
        for kind in {np.dtype(dtype), trees.dtype}:
            for start in (t.astype(kind), t.astype(trees.dtype).astype(kind)):
                near += [np.nextafter(start, kind.type(-np.inf)), start, np.nextafter(start, kind.type(np.inf))]
        values.append(np.unique(np.concatenate(near).astype(dtype)))
    return values


def brute_force(model, X, good, *, low=-np.inf, high=np.inf, free=(True, True, True)):
    """Least distances to points for which ``good(labels, sample)`` holds, in each norm.

    All is tried that the model can tell apart: a nearest point differs from the sample only to lie next to thresholds.
    """
    values = candidates(model, X.dtype)
    answers = {}  # by which features are the sample's own
    best = {norm: np.full(len(X), np.inf) for norm in NORMS}
    for n, x in enumerate(X):
        own = []
        for f in range(3):
            kept = values[f][(values[f] >= low) & (values[f] <= high)] if free[f] else values[f][:0]
            own.append(np.append(kept, x[f]))
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*own, indexing="ij")], axis=1)
        key = x.tobytes()
        if key not in answers:
            answers[key] = predicted(model, grid)
        delta = (grid.astype(np.float64) - x)[good(answers[key], n)]
        if len(delta):
            for norm in NORMS:
                best[norm][n] = np.linalg.norm(delta, ord=norm, axis=1).min()
    return best


def check_exact(model, X, best, labels, targets=None, **params):
    """The attack ends where brute force does, as the model itself says; features stay where they need not move."""
    for norm in NORMS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AttackFailureWarning)
            attack = DecisionTreeAttack(model, norm=norm, target=None if targets is None else "given", **params)
            result = attack.run(X, labels if targets is None else targets)
        assert result.X_adv.dtype == X.dtype
        verdict = predicted(model, result.X_adv)
        assert_array_equal(result.success, verdict != labels if targets is None else verdict == targets)
        reachable = np.isfinite(best[norm])
        assert_array_equal(result.success, reachable)
        assert_array_equal(result.X_adv[~reachable], X[~reachable])
        # Where float64 samples are rounded to float32, brute force knows some of the numbers beside a threshold only.
        slack = 2e-7 * max(1, np.abs(X).max()) if X.dtype != get_trees(model).dtype == np.float32 else 1e-12
        assert_allclose(result.distance[reachable], best[norm][reachable], rtol=slack, atol=slack)


# ---- the minimum --------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_binary_minimum_is_that_of_brute_force(name, dtype):
    model, X = fitted(BINARY[name], dtype=dtype)
    X = X[:25]
    labels = predicted(model, X)
    assert set(predicted(model, samples(2, dtype)[0])) == {0, 1}
    best = brute_force(model, X, lambda answers, n: answers != labels[n])
    check_exact(model, X, best, labels)


@each_dtype
@pytest.mark.parametrize("name", OF_CLASSES)
def test_minimum_of_three_classes(name, dtype):
    model, X = fitted(OF_CLASSES[name], n_classes=3, dtype=dtype)
    X = X[:25]
    labels = predicted(model, X)
    check_exact(model, X, brute_force(model, X, lambda answers, n: answers != labels[n]), labels)
    targets = np.random.default_rng(0).integers(3, size=len(X))
    best = brute_force(model, X, lambda answers, n: answers == targets[n])
    check_exact(model, X, best, labels, targets)
    if name == "tree":
        assert all(np.isfinite(best[2]))


@each_dtype
@pytest.mark.parametrize("name", ["tree", "XGBoost", "LightGBM", "CatBoost"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_minimum_in_box_and_mask(name, dtype):
    model, X = fitted(BINARY[name], dtype=dtype)
    X = np.clip(X[:25], -0.25, 0.3)
    labels = predicted(model, X)
    low, high = X.dtype.type(-0.25), X.dtype.type(0.3)
    felt = stuck = 0
    for free in [(True, True, True), (True, False, True), (False, True, False), (False, False, True)]:
        best = brute_force(model, X, lambda answers, n: answers != labels[n], low=low, high=high, free=free)
        check_exact(model, X, best, labels, clip_values=(-0.25, 0.3), mask=np.array(free))
        only = brute_force(model, X, lambda answers, n: answers != labels[n], free=free)
        check_exact(model, X, only, labels, mask=np.array(free))
        felt += np.count_nonzero(best[2] > only[2])
        stuck += np.count_nonzero(np.isinf(best[2]))
    assert stuck
    assert felt or name == "CatBoost"  # whose borders lie within


@each_dtype
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_samples_on_thresholds(name, dtype):
    model, _ = fitted(BINARY[name], dtype=dtype)
    rng = np.random.default_rng(0)
    values = candidates(model, dtype)
    X = np.stack([rng.choice(axis, 25) if len(axis) else np.zeros(25, dtype) for axis in values], axis=1)
    labels = predicted(model, X)
    best = brute_force(model, X, lambda answers, n: answers != labels[n])
    check_exact(model, X, best, labels)


@pytest.mark.parametrize("name", ["XGBoost", "tree", "CatBoost"])
def test_points_lie_beyond_the_threshold_rounded_and_unrounded(name):
    model, X = fitted(BINARY[name])
    X_adv = DecisionTreeAttack(model).transform(X)
    labels = predicted(model, X)
    assert np.all(predicted(model, X_adv) != labels)
    # The same tree with nothing rounded; what the attack has not moved may lie next to a threshold on its own account.
    moved = X_adv != X
    unrounded = np.where(moved, X_adv, X.astype(np.float32))
    trees = get_trees(model)
    node = np.repeat(trees.roots, len(X_adv))
    while np.any(node >= 0):
        at = np.maximum(node, 0)
        x = unrounded[np.arange(len(X)), trees.feature[at]]
        left = x < trees.threshold[at] if trees.comparison == "<" else x <= trees.threshold[at]
        node = np.where(node < 0, node, np.where(left, trees.left[at], trees.right[at]))
    assert_array_equal(~node, trees.apply(X_adv)[:, 0])
    # Each number that changed has crossed its threshold by no more than the spacing of float32.
    gap = np.abs(X_adv[moved][:, None] - trees.threshold).min(axis=1)
    assert gap.max() <= np.spacing(np.float32(1))


@pytest.mark.parametrize("seed", range(3))
def test_deep_trees_by_their_leaves(seed):
    """In more features than a grid can hold: distances to the boxes of scikit-learn's own arrays."""
    X, y = load_digits(return_X_y=True)
    model = DecisionTreeClassifier(random_state=seed).fit(X[:600], y[:600])
    tree, X = model.tree_, X[600:640]
    labels = model.predict(X)
    best = {norm: np.full(len(X), np.inf) for norm in NORMS}

    def visit(node, low, high):
        if tree.children_left[node] < 0:
            delta = X - np.clip(X, low, high)
            other = model.classes_[tree.value[node, 0].argmax()] != labels
            for norm in NORMS:
                length = np.where(other, np.linalg.norm(delta, ord=norm, axis=1), np.inf)
                best[norm] = np.minimum(best[norm], length)
            return
        f, t = tree.feature[node], tree.threshold[node]
        cut = high.copy()
        cut[f] = min(t, cut[f])
        visit(tree.children_left[node], low, cut)
        cut = low.copy()
        cut[f] = max(t, cut[f])
        visit(tree.children_right[node], cut, high)

    visit(0, np.full(64, -np.inf), np.full(64, np.inf))
    check_exact(model, X, best, labels)


# ---- the article's search -----------------------------------------------------------------------------------


def article(model, x, good):
    """Leaves in which Algorithm 2 may end: the shallowest good ones beside the lowest ancestor that has any."""
    tree = model.tree_
    parent = {
        child: node
        for node in range(tree.node_count)
        for child in (tree.children_left[node], tree.children_right[node])
    }
    ancestor = model.apply(x[None])[0]
    if good[tree.value[ancestor, 0].argmax()]:
        return {ancestor}
    while ancestor != 0:
        up = parent[ancestor]
        level = [tree.children_right[up] if tree.children_left[up] == ancestor else tree.children_left[up]]
        while level:
            leaves = {node for node in level if tree.children_left[node] < 0}
            found = {node for node in leaves if good[tree.value[node, 0].argmax()]}
            if found:
                return found
            level = [
                child
                for node in level
                if node not in leaves
                for child in (tree.children_left[node], tree.children_right[node])
            ]
        ancestor = up
    return set()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_path_ends_where_the_article_does(targeted, offset):
    X, y = load_digits(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X[:900], y[:900])
    X = X[900:1000]
    labels, targets = model.predict(X), np.random.default_rng(0).integers(10, size=len(X))
    attack = DecisionTreeAttack(model, method="path", offset=offset, target="given" if targeted else None)
    X_adv = attack.transform(X, targets if targeted else None)
    leaf = model.apply(X_adv)
    for n, x in enumerate(X):
        good = model.classes_ == targets[n] if targeted else model.classes_ != labels[n]
        ends = article(model, x, good)
        assert leaf[n] in ends
        # What the leaf asks for is changed, and nothing else: to the threshold and the offset beyond.
        path = model.decision_path(X_adv[[n]]).indices[:-1]
        features, thresholds = model.tree_.feature[path], model.tree_.threshold[path]
        violated = (x[features] <= thresholds) != (X_adv[n, features] <= thresholds)
        assert_array_equal(np.unique(features[violated]), np.flatnonzero(X_adv[n] != x))
        for f in np.unique(features[violated]):
            gap = np.abs(thresholds[violated & (features == f)] - X_adv[n, f]).min()
            assert_allclose(gap, offset, atol=2e-6)


def test_offset_ends_where_the_leaf_does():
    X = np.array([[0.0], [1.0], [2.0]])
    model = DecisionTreeClassifier().fit(X, [0, 1, 0])  # thresholds at 0.5 and 1.5
    clean = np.array([[0.2], [1.9]])
    for method in ("exact", "path"):
        for offset, first, second in [(0.1, 0.6, 1.4), (5.0, 1.5, 0.5)]:
            X_adv = DecisionTreeAttack(model, method=method, offset=offset).transform(clean)
            assert_allclose(X_adv, [[first], [second]], atol=1e-6)
            assert_array_equal(model.predict(X_adv), 1)
    clean = np.array([[1.1], [0.9]])
    for offset, ends in [(0.3, [[1.8], [0.2]]), (5.0, [[1.95], [0.1]])]:
        X_adv = DecisionTreeAttack(model, offset=offset, clip_values=(0.1, 1.95)).transform(clean)
        assert_allclose(X_adv, ends, atol=1e-6)


@each_norm
def test_path_is_never_nearer_than_the_minimum(norm):
    X, y = load_breast_cancer(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X[:300], y[:300])
    exact, path = (DecisionTreeAttack(model, method=method, norm=norm).run(X[300:]) for method in ("exact", "path"))
    assert exact.success.all()
    assert path.success.all()
    assert np.all(exact.distance <= path.distance * (1 + 1e-12))
    assert exact.distance.mean() < 0.5 * path.distance.mean()


def test_path_takes_a_longer_way_round_the_mask():
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackFailureWarning)
        result = DecisionTreeAttack(model, method="path", mask=[3]).run(X)
        exact = DecisionTreeAttack(model, mask=[3]).run(X)
    assert_array_equal(result.X_adv[:, :3], X[:, :3])
    assert_array_equal(result.success, exact.success)
    assert_array_equal(result.success, model.predict(result.X_adv) != model.predict(X))
    assert 0.5 < result.success.mean()


# ---- leaves, labels and ties --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [xgb, lgbm, catboost, None], ids=["XGBoost", "LightGBM", "CatBoost", "scikit-learn"])
@each_method
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_leaf_without_preference(make, method):
    """One leaf of each model gives a margin of zero, whose label is the library's own affair."""
    X = np.repeat([[0.0], [1.0], [2.0]], 20, axis=0)
    y = np.repeat([0, 0, 1], 20)
    y[20:40:2] = 1
    if make is None:
        model = GradientBoostingClassifier(n_estimators=1, init="zero", learning_rate=1.0)
    elif make is lgbm:
        model = make(boost_from_average=False)
    else:
        model = make(**{xgb: {"base_score": 0.5}, catboost: {"boost_from_average": False}}[make])
    model.fit(X, y)
    margins = get_trees(model).decision_function([[0.0], [1.0], [2.0]])
    assert abs(margins[1]) < 1e-9
    assert margins[0] < -0.1
    assert margins[2] > 0.1
    clean = np.array([[0.2], [1.1], [1.8]])
    labels = predicted(model, clean)
    result = DecisionTreeAttack(model, method=method).run(clean)
    assert result.success.all()
    assert np.all(predicted(model, result.X_adv) != labels)
    if method == "path":
        return
    # The leaf in the middle is across the nearer threshold from the one that it disagrees with.
    disagrees = 0 if labels[1] == 1 else 2
    assert result.distance[disagrees] < 0.6
    assert result.distance[2 - disagrees] > 1


class CountingTree(DecisionTreeClassifier):
    """A tree that counts the samples that it is asked for."""

    def predict(self, X, check_input=True):
        self.n_seen_ = getattr(self, "n_seen_", 0) + len(X)
        return super().predict(X, check_input)


def test_tied_votes_go_to_the_first_class():
    X = np.repeat([[0.0], [1.0], [2.0]], 4, axis=0)
    y = np.array([1] * 4 + [0, 0, 1, 1] + [1] * 4)
    model = CountingTree(random_state=0).fit(X, y)
    get_trees(model)
    reading, model.n_seen_ = model.n_seen_, 0
    result = DecisionTreeAttack(model).run([[0.1], [1.8]])
    assert_allclose(result.X_adv, [[0.5], [1.5]], atol=1e-6)
    assert_array_equal(result.y_adv, 0)
    assert model.n_seen_ == reading + 4  # for the labels to leave and those reached, for none of the leaves


@each_method
def test_what_is_adversarial_already_stays(method):
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, y)
    wrong = model.predict(X) != y
    assert wrong.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = DecisionTreeAttack(model, method=method, offset=0.1).run(X, y)
    assert result.success.all()
    assert_array_equal(result.distance == 0, wrong)
    # Neither of two neighbouring leaves has the label: the sample's own is the one to stay in.
    other = (model.predict(X) + 1) % 3
    X_adv = DecisionTreeAttack(model, method=method).transform(X, other)
    assert_array_equal(X_adv, X)
    assert not np.shares_memory(X_adv, X)


@each_method
def test_who_can_reach_no_leaf_stays_and_counts_as_failure(method):
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    unused = int(np.flatnonzero(model.feature_importances_ == 0)[0]) if np.any(model.feature_importances_ == 0) else 0
    with pytest.warns(AttackFailureWarning, match="150 of 150 samples came back unchanged"):
        result = DecisionTreeAttack(model, method=method, mask=[unused]).run(X)
    assert not result.success.any()
    assert_array_equal(result.X_adv, X)
    # A leaf for a class that none has.
    stump = DecisionTreeClassifier(max_depth=1).fit(X, y)
    with pytest.warns(AttackFailureWarning, match="unchanged"):
        result = DecisionTreeAttack(stump, method=method, target=2).run(X)
    assert not result.success.any()


def test_a_tree_of_one_leaf():
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(min_samples_leaf=150).fit(X, y)
    with pytest.warns(AttackFailureWarning, match="150 of 150 samples came back unchanged"):
        assert_array_equal(DecisionTreeAttack(model).transform(X), X)
    assert_array_equal(DecisionTreeAttack(model, method="path", target=0).transform(X), X)


# ---- models that are not one tree ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomForestClassifier(5), ValueError, r"has 5 trees\. DecisionTreeAttack attacks a single"),
        (lambda: GradientBoostingClassifier(n_estimators=2), ValueError, r"has 6 trees \(3 classes have one each\)"),
        (lambda: xgb(), ValueError, r"has 3 trees \(3 classes have one each\).*HopSkipJump"),
        (lambda: LogisticRegression(max_iter=500), TypeError, r"got LogisticRegression.*ZooAttack.*HopSkipJump"),
        (
            lambda: make_pipeline(StandardScaler(), DecisionTreeClassifier()),
            TypeError,
            r"named_steps\['decisiontreeclassifier'\].*DecisionTreeAttack attacks a single",
        ),
    ],
)
def test_other_models_are_refused_by_name(make, error, message):
    X, y = load_iris(return_X_y=True)
    model = make().fit(X, y)
    with pytest.raises(error, match=f"(?s){message}"):
        DecisionTreeAttack(model).transform(X)
    attack = DecisionTreeAttack(make())
    with pytest.raises(error, match=f"(?s){message}"):
        attack.fit(X, y)
    assert not hasattr(attack, "estimator_")


def test_models_around_one_tree_are_looked_through():
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    expected = DecisionTreeAttack(model).transform(X)
    search = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [None]}, cv=2).fit(X, y)
    for around in (FrozenEstimator(model), make_pipeline(None, model), search):
        assert_array_equal(DecisionTreeAttack(around).transform(X), expected)
    forest = RandomForestClassifier(1, bootstrap=False, max_features=None, random_state=0).fit(X, y)
    assert DecisionTreeAttack(forest).run(X).success.all()


def test_the_surrogate_is_a_tree():
    X, y = load_iris(return_X_y=True)
    attack = DecisionTreeAttack()
    with pytest.raises(NotFittedError, match="no estimator to attack"):
        attack.transform(X)
    assert isinstance(attack.fit(X, y).estimator_, DecisionTreeClassifier)
    assert attack.run(X).success.all()


def test_as_a_recipe_in_a_scorer():
    X, y = load_iris(return_X_y=True)
    scorer = make_robustness_scorer(DecisionTreeAttack(norm=np.inf))
    scores = cross_val_score(DecisionTreeClassifier(random_state=0), X, y, scoring=scorer, cv=3, error_score="raise")
    assert np.all(np.isfinite(scores))


# ---- what all attacks promise -------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("batch_size", [256, 40])
def test_only_labels_are_asked(method, batch_size):
    X, y = load_iris(return_X_y=True)
    model = CountingTree(random_state=0).fit(X, y)
    model.n_seen_ = 0
    get_trees(model)
    reading, model.n_seen_ = model.n_seen_, 0
    result = DecisionTreeAttack(model, method=method, batch_size=batch_size).run(X, y)
    assert model.n_seen_ - reading == len(X)  # once each, to judge what is returned
    # The oracle has asked the first eight for their probabilities, twice.
    assert_array_equal(result.n_queries, np.where(np.arange(150) < 8, 3, 1))
    model.n_seen_ = 0
    assert_array_equal(DecisionTreeAttack(model, method=method).run(X).n_queries, result.n_queries + 1)
    assert model.n_seen_ - reading == 2 * len(X)
    assert not result.n_gradients.any()


@each_method
def test_batches_processes_and_copies_change_nothing(method):
    X, y = load_digits(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    attack = DecisionTreeAttack(FrozenEstimator(model), method=method, target="random", random_state=0).fit(X, y)
    expected = attack.run(X)
    assert expected.success.all()
    assert not hasattr(attack, "_tree")
    for n_jobs, batch_size in [(1, 100), (2, 700)]:
        result = clone(attack).set_params(n_jobs=n_jobs, batch_size=batch_size).fit(X, y).run(X)
        for name in ("X_adv", "y", "y_adv", "success", "distance", "n_queries"):
            assert_array_equal(getattr(result, name), getattr(expected, name))
    assert_array_equal(pickle.loads(pickle.dumps(attack)).transform(X), expected.X_adv)


@each_dtype
def test_tensors_come_back_as_tensors(dtype):
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    tensor = torch.as_tensor(X.astype(dtype))
    X_adv = DecisionTreeAttack(model, clip_values=(0, 10)).transform(tensor, torch.as_tensor(y))
    assert isinstance(X_adv, torch.Tensor)
    assert str(X_adv.dtype) == f"torch.{dtype}"
    assert_array_equal(X_adv.numpy(), DecisionTreeAttack(model, clip_values=(0, 10)).transform(X.astype(dtype), y))


@pytest.mark.parametrize("name", ["tree", "XGBoost", "LightGBM", "CatBoost"])
@each_dtype
def test_data_frames_go_round(name, dtype):
    X, y = samples(2, dtype)
    frame = pd.DataFrame(X, columns=list("abc"), index=np.arange(len(X)) * 10)
    model = BINARY[name]().fit(frame, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = DecisionTreeAttack(model).run(frame)
        assert_array_equal(predicted(model, result.X_adv) != predicted(model, frame), result.success)
        array = DecisionTreeAttack(model).transform(X)
    assert result.success.all()
    assert_array_equal(result.X_adv.columns, frame.columns)
    assert_array_equal(result.X_adv.index, frame.index)
    assert set(result.X_adv.dtypes) == {np.dtype(dtype)}
    assert_array_equal(result.X_adv, array)


def test_frames_of_integers_and_names_in_the_mask():
    X, y = load_digits(return_X_y=True, as_frame=True)
    X = X.astype(int)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    used = [X.columns[k] for k in np.argsort(model.feature_importances_)[-12:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackFailureWarning)
        X_adv = DecisionTreeAttack(model, mask=used).transform(X)
    rest = X.columns.difference(used)
    assert_frame_equal(X_adv[rest], X[rest])
    assert (model.predict(X_adv) != model.predict(X)).mean() > 0.9
    polars = pl.DataFrame(X.to_numpy(), schema=list(X.columns), orient="row")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackFailureWarning)
        assert_array_equal(DecisionTreeAttack(model, mask=used).transform(polars).to_numpy(), X_adv.to_numpy())


def test_range_seen_in_fit_is_kept():
    X, y = load_breast_cancer(return_X_y=True)
    attack = DecisionTreeAttack(DecisionTreeClassifier(random_state=0), clip_values="fit", offset=1e3).fit(X, y)
    X_adv = attack.transform(X)
    assert np.all(X_adv >= X.min(axis=0))
    assert np.all(X_adv <= X.max(axis=0))
    assert np.any((X_adv == X.max(axis=0)) & (X_adv != X))
    assert np.all(attack.estimator_.predict(X_adv) != attack.estimator_.predict(X))


def test_leaves_the_caller_alone():
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    before = X.copy()
    attack = DecisionTreeAttack(model, clip_values=(0, 10), mask=[1, 2, 3])
    state = pickle.dumps(attack)
    X.flags.writeable = False
    result = attack.run(X)
    assert pickle.dumps(attack) == state
    result.X_adv[:] = 7.0
    assert_array_equal(X, before)


@pytest.mark.parametrize(
    ("params", "message"),
    [({"method": "fast"}, "method"), ({"norm": 3}, "norm"), ({"offset": -0.1}, "offset")],
)
def test_wrong_parameters_raise(params, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        DecisionTreeAttack(DecisionTreeClassifier().fit(X, y), **params).transform(X)


@each_method
@pytest.mark.parametrize("clip_values", [None, (-10, 10)])
def test_memory_is_not_samples_by_leaves_by_features(method, clip_values):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 300))
    model = DecisionTreeClassifier(random_state=0).fit(X, rng.integers(2, size=2000))
    n_leaves = model.get_n_leaves()
    assert n_leaves > 200
    attack = DecisionTreeAttack(model, method=method, clip_values=clip_values, batch_size=2000)
    attack.transform(X[:10])
    tracemalloc.start()
    attack.transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A number for each sample, leaf and feature would be 1 GB and more; the samples themselves are 5 MB.
    assert peak < 100e6 < 8 * 2000 * n_leaves * 300 / 9
