"""HopSkipJump: how near it comes, what it asks, and that it always ends."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skart._core._arrays import to_numpy
from skart._core._balls import make_ball
from skart._core._decision import Region, starting_points, to_boundary
from skart._core._judge import Judge
from skart.attacks import BoundaryAttack, HopSkipJump
from skart.attacks.decision._hop_skip_jump import _jump, boundary_normal
from skart.estimators import BlackBoxClassifier
from skart.exceptions import AttackFailureWarning, QueryBudgetExceeded
from skart.oracles import get_trees

DUAL = {2: 2, np.inf: 1}
BOTH = [
    pytest.param(HopSkipJump, {"max_iter": 10_000}, id="hop"),
    pytest.param(BoundaryAttack, {"max_iter": 10_000}, id="boundary"),
]


@pytest.fixture(scope="module")
def linear():
    X, y = make_classification(200, 12, n_informative=6, random_state=1)
    clf = LogisticRegression(C=1.0).fit(X, y)
    return clf, X[:40]


def exact(clf, X, norm):
    """Distance of samples from the hyperplane of a binary linear model."""
    return np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0], ord=DUAL[norm])


def black_box(function, classes=(0, 1), **params):
    return BlackBoxClassifier(function, list(classes), output="labels", **params)


# ---- how near it comes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [2, np.inf])
def test_ends_near_the_hyperplane(linear, norm):
    clf, X = linear
    result = HopSkipJump(clf, norm=norm, max_iter=20, random_state=0).run(X)
    ratio = result.distance / exact(clf, X, norm)
    assert result.success.all()
    assert ratio.min() >= 1 - 1e-9
    assert np.median(ratio) < 1.02
    assert ratio.max() < 1.1


@pytest.mark.parametrize("norm", [2, np.inf])
def test_more_steps_come_nearer(linear, norm):
    clf, X = linear
    few, many = (HopSkipJump(clf, norm=norm, max_iter=max_iter, random_state=0).run(X).distance for max_iter in (1, 8))
    assert np.all(many <= few)  # the first step is the same
    assert np.median(few / many) > 1.05


def test_probes_leave_enough_for_the_jump_that_they_are_made_for(linear):
    clf, X = linear
    result = HopSkipJump(clf, max_queries=100, trace=True, random_state=0).run(X)
    queries, distances = result.trace
    before = distances[np.argmax(queries >= 30, axis=0), np.arange(len(X))]  # on the boundary, with no probe as yet
    assert np.median(result.distance / before) < 0.9


@pytest.mark.parametrize("norm", [2, np.inf])
def test_features_of_unlike_scale(linear, norm):
    clf, X = linear
    scale = np.geomspace(1e-3, 1e3, X.shape[1])
    wide = black_box(lambda X: clf.predict(X / scale))
    result = HopSkipJump(wide, norm=norm, scale=scale, max_iter=20, trace=True, random_state=0).run(X * scale)
    in_units = np.linalg.norm((result.X_adv - X * scale) / scale, ord=norm, axis=1)
    ratio = in_units / exact(clf, X, norm)
    assert np.median(ratio) < 1.02
    assert ratio.max() < 1.1
    assert_allclose(result.distance, np.linalg.norm(result.X_adv - X * scale, ord=norm, axis=1))
    assert_allclose(result.trace[1][-1], in_units)


def test_a_scale_of_zero_holds_a_feature(linear):
    clf, X = linear
    scale = np.ones(12)
    scale[[0, 5]] = 0
    X_adv = HopSkipJump(clf, scale=scale, max_iter=3, random_state=0).transform(X)
    changed = (X_adv != X).any(axis=0)
    assert_array_equal(changed, scale > 0)


@pytest.mark.parametrize("norm", [2, np.inf])
def test_targets_on_a_linear_model(norm):
    X, y = load_iris(return_X_y=True)
    clf = LogisticRegression(max_iter=500).fit(X, y)
    X = X[y != 2]
    result = HopSkipJump(clf, norm=norm, target=2, max_iter=20, random_state=0).run(X)
    assert_array_equal(clf.predict(result.X_adv), 2)
    # Class 2 is met where two linear functions are positive: the distance is at least that to either plane, and all of
    # these samples lie where the one to class 1 decides or the corner is near.
    lead = [X @ (clf.coef_[2] - clf.coef_[k]).T + clf.intercept_[2] - clf.intercept_[k] for k in (0, 1)]
    planes = np.stack([-v / np.linalg.norm(clf.coef_[2] - clf.coef_[k], ord=DUAL[norm]) for k, v in zip((0, 1), lead)])
    assert np.all(result.distance >= planes.max(axis=0) * (1 - 1e-9))
    assert np.median(result.distance / planes.max(axis=0)) < 1.05


def boxes_distance(model, X, labels, norm):
    """Distance to the nearest leaf of another class, by the boxes of a single tree."""
    tree = model.tree_
    best = np.full(len(X), np.inf)

    def visit(node, low, high):
        if tree.children_left[node] < 0:
            label = model.classes_[tree.value[node, 0].argmax()]
            gap = np.maximum(np.maximum(low - X, X - high), 0)
            distance = np.linalg.norm(gap, ord=norm, axis=1)
            best[labels != label] = np.minimum(best, distance)[labels != label]
            return
        k, t = tree.feature[node], tree.threshold[node]
        left_high, right_low = high.copy(), low.copy()
        left_high[k], right_low[k] = min(high[k], t), max(low[k], t)
        visit(tree.children_left[node], low, left_high)
        visit(tree.children_right[node], right_low, high)

    visit(0, np.full(X.shape[1], -np.inf), np.full(X.shape[1], np.inf))
    return best


@pytest.mark.parametrize("norm", [2, np.inf])
def test_is_not_far_from_the_optimum_on_a_tree(norm):
    X, y = load_iris(return_X_y=True)
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y)
    result = HopSkipJump(tree, norm=norm, max_iter=20, random_state=0).run(X)
    best = boxes_distance(tree, X, tree.predict(X), norm)
    assert result.success.all()
    assert np.all(result.distance >= best * (1 - 1e-5))  # trees compare in single precision
    # Where it starts decides in which leaf it ends: a few samples have a nearer one.
    assert np.quantile(result.distance / best, 0.7) < 1.01
    assert np.quantile(result.distance / best, 0.9) < 2.5


def test_is_not_far_from_the_optimum_on_a_small_forest():
    X, y = load_iris(return_X_y=True)
    X = X[:, [2, 3]]
    forest = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, y)
    trees = get_trees(forest)
    # The plane is a grid of cells between the thresholds; each cell has one label.
    cuts = [np.unique(trees.threshold[(trees.feature == k) & np.isfinite(trees.threshold)]) for k in range(2)]
    edges = [np.r_[-np.inf, cut, np.inf] for cut in cuts]
    middles = [np.r_[cut[0] - 1, (cut[1:] + cut[:-1]) / 2, cut[-1] + 1] for cut in cuts]
    grid = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1)
    label = forest.predict(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    gaps = [np.maximum(np.maximum(edge[:-1] - X[:, [k]], X[:, [k]] - edge[1:]), 0) for k, edge in enumerate(edges)]
    distance = np.hypot(gaps[0][:, :, None], gaps[1][:, None, :])
    distance[label[None] == forest.predict(X)[:, None, None]] = np.inf
    best = distance.min(axis=(1, 2))
    result = HopSkipJump(forest, max_iter=20, random_state=0).run(X)
    assert np.all(result.distance >= best * (1 - 1e-5) - 1e-7)
    assert np.median(result.distance - best) < 0.05
    assert np.median(best) > 0.1


# ---- what is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "params"), BOTH)
@pytest.mark.parametrize("max_queries", [10, 17, 60, 333])
@pytest.mark.parametrize("target", [None, 0])
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")
def test_the_budget_of_a_sample_is_kept(cls, params, max_queries, target, linear):
    clf, X = linear
    service = black_box(clf.predict)
    result = cls(service, max_queries=max_queries, target=target, random_state=0, **params).run(X)
    assert result.n_queries.sum() == service.n_queries_
    assert result.n_queries.max() <= max_queries
    if max_queries > 100:
        assert np.median(result.n_queries[result.distance > 0]) > 0.9 * max_queries  # and made use of
        assert result.success.all()


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_what_was_found_when_the_model_refuses(cls, params, linear):
    clf, X = linear
    service = black_box(clf.predict, max_queries=20 * len(X))
    with pytest.raises(QueryBudgetExceeded) as caught:
        cls(service, random_state=0, **params).run(X)
    result = caught.value.result
    assert result.success.mean() > 0.9
    assert_array_equal(clf.predict(result.X_adv) != clf.predict(X), result.success)
    assert_allclose(result.distance, np.linalg.norm(result.X_adv - X, axis=1))
    assert 0.5 * service.max_queries < result.n_queries.sum() <= service.n_queries_ <= service.max_queries


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_trace(cls, params, linear):
    clf, X = linear
    result = cls(clf, max_queries=300, trace=True, random_state=0, **params).run(X)
    queries, distances = result.trace
    assert queries.shape == distances.shape == (len(queries), len(X))
    assert np.all(np.diff(queries, axis=0) >= 0)
    assert np.all(distances[1:] <= distances[:-1])
    assert_array_equal(queries[-1], result.n_queries - 1)  # all but the verdict
    assert_allclose(distances[-1], result.distance)
    assert np.isinf(distances[0]).all()
    assert cls(clf, max_queries=300, random_state=0, **params).run(X).trace is None


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_probes_never_touch_what_is_masked_and_stay_in_the_box(cls, params, linear):
    clf, X = linear
    X = np.clip(X, -1.5, 1.5)
    seen = []

    def ask(rows):
        seen.append(rows.copy())
        return clf.predict(rows)

    mask = np.ones(12, dtype=bool)
    mask[[1, 7]] = False
    attack = cls(black_box(ask), mask=mask, clip_values=(-1.5, 1.5), max_queries=200, random_state=0, **params)
    result = attack.run(X)
    seen = np.concatenate(seen)
    assert seen.min() >= -1.5
    assert seen.max() <= 1.5
    held = {tuple(row) for row in X[:, ~mask]}
    assert {tuple(row) for row in seen[:, ~mask]} <= held
    assert_array_equal(result.X_adv[:, ~mask], X[:, ~mask])
    assert result.success.mean() > 0.9


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_frames_with_categories(cls, params):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "kind": rng.choice(["a", "b", "c"], 80),
            "size": rng.normal(0, 1, 80),
            "weight": rng.normal(50, 10, 80),
            "old": rng.random(80) < 0.5,
        }
    )
    y = np.where(frame["size"] + (frame["weight"] - 50) / 10 + (frame["kind"] == "a") > 0, "yes", "no")
    columns = ColumnTransformer(
        [("n", StandardScaler(), ["size", "weight"]), ("c", OneHotEncoder(drop="if_binary"), ["kind", "old"])]
    )
    clf = make_pipeline(columns, RandomForestClassifier(10, random_state=0)).fit(frame, y)
    given = {"scale": [1, 1, 10, 1], "init": frame.iloc[:30], "max_queries": 300}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = cls(clf, random_state=0, **given, **params).run(frame)
    assert_array_equal(result.X_adv[["kind", "old"]], frame[["kind", "old"]])
    assert_array_equal(result.X_adv.dtypes, frame.dtypes)
    assert_array_equal(clf.predict(result.X_adv) != clf.predict(frame), result.success)
    assert result.success.mean() > 0.9


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_no_call_is_larger_than_a_batch_and_memory_is_bounded_by_it(cls, params):
    n_features = 2000
    X = np.random.default_rng(0).standard_normal((10, n_features))
    calls = []

    def ask(rows):
        calls.append(len(rows))
        return (rows[:, :5].sum(axis=1) > 0).astype(int)

    peaks = {}
    for batch_size in (10, 400):
        calls.clear()
        attack = cls(black_box(ask), max_queries=400, batch_size=batch_size, random_state=0, **params)
        tracemalloc.start()
        try:
            attack.transform(X)
            peaks[batch_size] = tracemalloc.get_traced_memory()[1] / (n_features * X.itemsize)
        finally:
            tracemalloc.stop()
        assert max(calls) <= batch_size
    # In rows: a dozen arrays of a batch, where the probes of a step are ten times as many.
    assert peaks[10] < 200 < 400 < peaks[400]


# ---- where it starts ----------------------------------------------------------------------------------------

ISLAND = np.array([0.7, 0.2, 0.4, 0.9])


def on_the_island(X):
    return (np.linalg.norm(X - ISLAND, axis=1) < 0.02).astype(int)


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_init_is_where_it_starts(cls, params):
    X = np.random.default_rng(0).random((5, 4))
    given = {"clip_values": (0, 1), "init_size": 20, "max_queries": 600, "random_state": 0, **params}
    with pytest.warns(AttackFailureWarning, match="5 of 5 samples came back unchanged"):
        lost = cls(black_box(on_the_island), **given).run(X)
    assert_array_equal(lost.X_adv, X)
    assert lost.n_queries.max() <= 30  # the tries, and no more
    found = cls(black_box(on_the_island), init=np.stack([X[0], ISLAND]), **given).run(X)
    assert found.success.all()
    assert_allclose(found.distance, np.linalg.norm(X - ISLAND, axis=1) - 0.02, atol=3e-3)


def test_it_starts_at_the_nearest_sample_of_the_batch_that_will_do():
    X = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    judge = judge_of(np, X, lambda rows: (rows[:, 1] > 0.5).astype(int), targets=np.ones(4, dtype=int))
    rows = judge.searching()
    assert_array_equal(rows, [True, True, False, False])
    region = Region(X[rows], judge[rows], make_ball(X[rows], norm=2, eps=np.inf), norm=2, batch_size=10)
    start, found = starting_points(region, init=None, init_size=10, generator=np.random.default_rng(0))
    assert found.all()
    assert_array_equal(start, [[0.0, 1.0], [0.0, 1.0]])
    assert_array_equal(judge.ledger.n_queries, [2, 2, 1, 1])


@pytest.mark.parametrize("clip_values", [None, (-50, 50)])
def test_it_finds_what_is_far_from_all_of_the_data(clip_values):
    X = np.random.default_rng(0).random((1, 3))
    result = HopSkipJump(
        black_box(lambda rows: (rows[:, 0] > 20).astype(int)), clip_values=clip_values, max_iter=15, random_state=0
    ).run(X)
    assert_allclose(result.distance, 20 - X[:, 0], rtol=0.02)


@pytest.mark.parametrize("cls", [HopSkipJump, BoundaryAttack])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"init": np.zeros((3, 5))}, r"init has shape \(3, 5\); samples are of shape \(12,\)"),
        ({"init": np.zeros((0, 12))}, "init has shape"),
        ({"init": np.full((3, 12), np.nan)}, "init holds NaN"),
        ({"scale": np.ones(5)}, r"scale has shape \(5,\) where a sample has shape \(12,\)"),
        ({"scale": -1.0 * np.ones(12)}, "scale must be finite and not negative"),
        ({"scale": np.zeros(12)}, "scale is zero for all features"),
    ],
)
def test_errors(cls, params, message, linear):
    clf, X = linear
    with pytest.raises(ValueError, match=message):
        cls(clf, **params).transform(X)


def test_it_has_no_norm_1(linear):
    clf, X = linear
    with pytest.raises(ValueError, match="'norm' parameter of HopSkipJump"):
        HopSkipJump(clf, norm=1).transform(X)


# ---- it always ends -----------------------------------------------------------------------------------------


def checkers(X):
    return (np.floor(X * 1e3).sum(axis=1) % 2).astype(int)


def by_chance(X):
    return np.random.default_rng(len(X)).integers(0, 2, len(X))


HARD = {
    "constant": lambda X: np.zeros(len(X), dtype=int),
    "checkers": checkers,
    "chance": by_chance,
    "one point": lambda X: (X == 0.5).all(axis=1).astype(int),
    "all but one point": lambda X: (~(X == 0.25).all(axis=1)).astype(int),
    "last digit": lambda X: (X[:, 0] > 0.25).astype(int),
}


@pytest.mark.parametrize(("cls", "params"), BOTH)
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", [2, np.inf])
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")
def test_it_ends_on_whatever_model(cls, params, name, dtype, norm):
    if cls is BoundaryAttack and norm != 2:
        pytest.skip("one norm only")
    chosen = {"norm": norm} if cls is HopSkipJump else {}
    X = np.full((6, 3), 0.25, dtype=dtype)  # duplicates, some of them on the boundary
    X[3:] += np.random.default_rng(0).random((3, 3), dtype=dtype)
    asked = []

    def ask(rows):
        asked.append(len(rows))
        assert sum(asked) < 30_000, "no end"
        return HARD[name](rows)

    result = cls(black_box(ask), max_iter=5, random_state=0, **chosen).run(X)
    assert np.all(np.isfinite(result.X_adv))
    assert np.all(np.isfinite(result.distance))


@pytest.mark.parametrize(("cls", "params"), BOTH)
def test_it_ends_where_float32_does(cls, params):
    X = np.array([[1e6, 1e6]], dtype=np.float32)
    border = np.nextafter(X[0, 0], np.float32(np.inf))  # the boundary is next to the sample
    asked = []

    def ask(rows):
        asked.append(len(rows))
        assert sum(asked) < 30_000, "no end"
        return (rows[:, 0] >= border).astype(int)

    result = cls(black_box(ask), max_iter=10, random_state=0).run(X)
    assert result.success.all()
    assert result.X_adv.dtype == np.float32
    assert np.all(result.distance < 10)


def test_it_ends_on_boosted_trees():
    xgboost = pytest.importorskip("xgboost")
    X, y = load_breast_cancer(return_X_y=True)
    clf = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=20)).fit(X[:400], y[:400])
    scale = X.std(axis=0)
    result = HopSkipJump(clf, scale=scale, max_queries=1000, random_state=0).run(X[400:430])
    assert result.success.all()
    assert np.median(np.linalg.norm((result.X_adv - X[400:430]) / scale, axis=1)) < 2.5


# ---- the parts ----------------------------------------------------------------------------------------------


def judge_of(xp, X, predict, **params):
    params = {"targets": None, **params}
    return Judge(xp.asarray(X), np.zeros(len(X), dtype=int), ask_labels=lambda rows: predict(to_numpy(rows)), **params)


def region_of(xp, X, predict, *, norm=2, batch_size=50, **box):
    x = xp.asarray(X)
    judge = judge_of(xp, X, predict, norm=norm)
    judge.searching()
    return Region(x, judge, make_ball(x, norm=norm, eps=np.inf, **box), norm=norm, batch_size=batch_size)


@pytest.mark.parametrize("norm", [2, np.inf])
@pytest.mark.parametrize("offset", [0.0, 0.001])
def test_the_normal_of_a_plane(xp, norm, offset):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(20)
    # Off the boundary by a part of the radius, most labels are alike; the baseline takes that off.
    x = np.zeros((3, 20)) + offset * np.array([[1.0], [-1.0], [0.0]]) * w / np.linalg.norm(w)
    region = region_of(xp, np.full((3, 20), -5.0) * np.sign(w), lambda rows: (rows @ w > 0).astype(int), norm=norm)
    direction = to_numpy(
        boundary_normal(
            xp.asarray(x), region, radius=np.full(3, 0.005), n_probes=np.array([4000, 4000, 3000]), generator=rng
        )
    )
    assert_array_equal(region._judge.ledger.n_queries, [4001, 4001, 3001])
    if norm == 2:
        assert_allclose(np.linalg.norm(direction, axis=1), 1)
        assert np.all(direction @ w / np.linalg.norm(w) > 0.97)
    else:
        large = np.abs(w) > 0.3
        assert np.mean(direction[:, large] == np.sign(w[large])) > 0.97


def test_the_normal_where_all_labels_are_alike():
    region = region_of(np, np.zeros((2, 3)), lambda rows: (rows[:, 0] > 0.5).astype(int))
    rng = np.random.default_rng(0)
    x = np.array([[10.0, 0.0, 0.0], [-10.0, 0.0, 0.0]])
    direction = boundary_normal(x, region, radius=np.ones(2), n_probes=np.array([1, 1]), generator=rng)
    rng = np.random.default_rng(0)
    probes = rng.standard_normal((2, 1, 3))[:, 0]
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    # Towards the probes where all are adversarial, and away from them where none is.
    assert_allclose(direction, probes * [[1], [-1]])


@pytest.mark.parametrize("norm", [2, np.inf])
def test_bisection(xp, norm):
    X, w = np.zeros((4, 3)), np.array([1.0, 2.0, -1.0])
    end = np.array([[3.0, 1.0, 0.0], [0.6, 0.3, 0.0], [100.0, 100.0, 50.0], [0.0, 2.0, 1.0]])
    region = region_of(xp, X, lambda rows: (rows @ w >= 1).astype(int), norm=norm)
    x = to_numpy(to_boundary(xp.asarray(end), region, tolerance=1e-3))
    assert np.all(x @ w >= 1)
    if norm == 2:
        assert_allclose(x, end / (end @ w)[:, None], rtol=1e-3)
    else:
        size = np.abs(x).max(axis=1)
        assert_allclose(x, np.clip(end, -size[:, None], size[:, None]))
        shorter = size[:, None] * (1 - 1.1e-3)
        assert np.all(np.clip(end, -shorter, shorter) @ w < 1)


def test_bisection_keeps_to_what_is_left():
    judge = judge_of(np, np.zeros((2, 2)), lambda rows: (rows[:, 0] > 0.3).astype(int), max_queries=6)
    judge.searching()
    region = Region(np.zeros((2, 2)), judge, make_ball(np.zeros((2, 2)), norm=2, eps=np.inf), norm=2, batch_size=9)
    x = to_boundary(np.ones((2, 2)), region, tolerance=1e-6)
    assert_array_equal(judge.ledger.n_queries, 6)
    assert_allclose(x[:, 0], 0.3, atol=2**-4)
    assert np.all(x[:, 0] > 0.3)


def test_points_between_in_the_maximum_norm_and_in_units():
    x = np.zeros((1, 3))
    judge = judge_of(np, x, lambda rows: np.zeros(len(rows), dtype=int))
    ball = make_ball(x, norm=np.inf, eps=np.inf, mask=[True, True, False])
    region = Region(x, judge, ball, norm=np.inf, scale=np.array([1.0, 10.0, 1.0]), batch_size=9)
    assert region.n_free == 2
    # The end is 4 units away: half of it leaves 2 units for each feature.
    assert_allclose(region.toward(np.array([[4.0, 10.0, 0.0]]), np.array([0.5])), [[2.0, 10.0, 0.0]])


def test_a_jump_is_halved_until_it_ends_in_the_other_class(xp):
    # Adversarial between 1 and 2; the second sample has no direction, and the third one's leads away.
    region = region_of(xp, np.zeros((3, 2)), lambda rows: ((rows[:, 0] > 1) & (rows[:, 0] < 2)).astype(int))
    start = xp.asarray(np.array([[1.01, 0.0]] * 3))
    direction = xp.asarray(np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    x, jumped = _jump(start, direction, region, step=np.array([8.0, 8.0, 8.0]))
    assert_array_equal(jumped, [True, False, True])
    assert_allclose(to_numpy(x), [[1.51, 0.0], [1.01, 0.0], [1.01 - 2.0**-7, 0.0]])
    assert_array_equal(region._judge.ledger.n_queries, [1 + 5, 1, 1 + 11])


def test_a_jump_keeps_to_what_is_left():
    judge = judge_of(np, np.zeros((1, 2)), lambda rows: np.zeros(len(rows), dtype=int), max_queries=5)
    judge.searching()
    region = Region(np.zeros((1, 2)), judge, make_ball(np.zeros((1, 2)), norm=2, eps=np.inf), norm=2, batch_size=9)
    x, jumped = _jump(np.ones((1, 2)), np.ones((1, 2)), region, step=np.ones(1))
    assert not jumped.any()
    assert_array_equal(x, 1)
    assert_array_equal(judge.ledger.n_queries, 5)
