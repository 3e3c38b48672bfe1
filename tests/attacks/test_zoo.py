"""ZooAttack: how near it comes to known optima, its parts against other libraries, and what it asks."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from skart._core._coordinates import Adam, Grid, Newton, choose, interpolation
from skart._core._zeroth_order import _derivatives
from skart.attacks import ZooAttack
from skart.estimators import BlackBoxClassifier
from skart.utils._images import image_layout
from tests.attacks.test_hop_skip_jump import boxes_distance, exact

NOT_FOUND = pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")


@pytest.fixture(scope="module")
def linear():
    X, y = make_classification(200, 12, n_informative=6, random_state=1)
    return LogisticRegression().fit(X, y), X[:40]


def black_box(function, n_classes=2):
    return BlackBoxClassifier(function, list(range(n_classes)), output="probabilities")


# ---- strength -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "newton"])
def test_ends_near_the_hyperplane(linear, optimizer):
    clf, X = linear
    result = ZooAttack(clf, optimizer=optimizer, max_iter=200, random_state=0).run(X)
    ratio = result.distance / exact(clf, X, 2)
    assert result.success.all()
    assert ratio.min() >= 1 - 1e-9
    assert np.median(ratio) < 1.02
    # Samples that all but lie on the hyperplane are nearer to it than a step is long.
    assert np.quantile(ratio, 0.9) < 1.1
    assert np.max(result.distance - exact(clf, X, 2)) < 0.02


def test_few_coordinates_at_a_time(linear):
    clf, X = linear
    result = ZooAttack(clf, n_coordinates=2, max_iter=400, random_state=0).run(X)
    assert np.median(result.distance / exact(clf, X, 2)) < 1.1


@pytest.mark.parametrize("optimizer", ["adam", "newton"])
def test_features_of_unlike_scale(linear, optimizer):
    clf, X = linear
    scale = np.geomspace(1e-3, 1e3, X.shape[1])
    # In these units the feature of the smallest scale is all but free, and the others cost too much.
    wide = black_box(lambda rows: clf.predict_proba(rows / scale))
    result = ZooAttack(wide, optimizer=optimizer, max_iter=200, random_state=0).run(X * scale)
    best = np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0] / scale)
    assert result.success.all()
    assert result.distance.min() > 0
    assert np.all(result.distance >= best * (1 - 1e-9))


def test_targets():
    X, y = load_iris(return_X_y=True)
    clf = LogisticRegression(max_iter=500).fit(X, y)
    result = ZooAttack(clf, target=2, max_iter=100, random_state=0).run(X)
    assert_array_equal(clf.predict(result.X_adv), 2)
    assert_allclose(result.distance[clf.predict(X) == 2], 0)
    lead = X @ (clf.coef_[1] - clf.coef_[2]) + clf.intercept_[1] - clf.intercept_[2]
    near = clf.predict(X) == 1
    ratio = (result.distance * np.linalg.norm(clf.coef_[1] - clf.coef_[2]) / lead)[near]
    assert ratio.min() >= 1 - 1e-9
    assert np.median(ratio) < 1.05


def test_on_a_tree_it_is_not_far_from_the_exact_minimum():
    X, y = load_iris(return_X_y=True)
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y)
    best = boxes_distance(tree, X, tree.predict(X), 2)
    result = ZooAttack(tree, max_iter=100, random_state=0).run(X)
    assert result.success.all()
    assert np.all(result.distance >= best * (1 - 1e-5))  # trees compare in single precision
    assert np.median(result.distance / best) < 1.05


def test_a_forest_is_broken():
    X, y = load_iris(return_X_y=True)
    clf = RandomForestClassifier(20, random_state=0).fit(X, y)
    X = X[clf.predict(X) == y]
    result = ZooAttack(clf, max_iter=60, random_state=0).run(X)
    assert result.success.mean() > 0.98
    assert np.median(result.distance) < 1.5


def test_confidence_is_a_lead_of_the_scores(linear):
    clf, X = linear
    result = ZooAttack(clf, confidence=1.0, max_iter=200, random_state=0).run(X)
    lead = -np.where(clf.predict(X) == 1, 1, -1) * clf.decision_function(result.X_adv)
    assert np.quantile(lead, 0.1) > 0.99
    assert np.median(lead) < 1.1


# ---- images -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    """A linear model of 8 x 8 images whose weights are smooth, and images."""
    rng = np.random.default_rng(0)
    X = rng.random((30, 64))
    row, column = np.indices((8, 8))
    weights = (np.cos(row / 3) * np.sin(column / 4 + 0.3)).ravel()
    offset = np.median(X @ weights)

    def scores(rows):
        positive = 1 / (1 + np.exp(-4 * (rows @ weights - offset)))
        return np.stack([1 - positive, positive], axis=1)

    return black_box(scores), X, np.abs(X @ weights - offset) / np.linalg.norm(weights)


def test_a_smaller_image_holds_the_perturbation(pictures):
    model, X, best = pictures
    attack = ZooAttack(model, resize=3, image_shape=(8, 8), max_iter=100, random_state=0)
    result = attack.run(X)
    assert result.success.all()
    assert np.all(result.distance >= best * (1 - 1e-9))
    assert np.median(result.distance / best) < 1.1
    enlarge = np.kron(interpolation(8, 3), interpolation(8, 3))
    delta = (result.X_adv - X).T
    assert_allclose(enlarge @ np.linalg.lstsq(enlarge, delta)[0], delta, atol=1e-9)


def test_growing_images_and_importance(pictures):
    model, X, best = pictures
    result = ZooAttack(model, resize=[2, 4, 8], image_shape=(8, 8), max_iter=150, random_state=0).run(X)
    assert result.success.all()
    assert np.median(result.distance / best) < 1.1


@pytest.mark.parametrize(("n_fine", "n_coarse"), [(8, 3), (28, 8), (7, 7), (5, 1), (32, 31)])
def test_interpolation_is_that_of_torch(n_fine, n_coarse):
    torch = pytest.importorskip("torch")
    lines = np.random.default_rng(0).standard_normal((4, n_coarse))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(lines)[:, None], size=n_fine, mode="linear", align_corners=False
    )
    assert_allclose(lines @ interpolation(n_fine, n_coarse).T, expected[:, 0].numpy(), atol=1e-7)


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_grid_is_linear(xp, first):
    rng = np.random.default_rng(0)
    layout = image_layout((2, 7, 5) if first else (7, 5, 2), None, "first" if first else "last", owner="test")
    grid = Grid.of(layout, 3)
    assert grid.shape == (2, 3, 3)
    delta = rng.standard_normal((4, grid.n_coordinates))
    planes = rng.standard_normal((4, 2, 7, 5))
    assert_allclose(np.sum(grid.planes(delta) * planes), np.sum(delta * grid.gather(planes)))
    assert_allclose(grid.nearest(grid.planes(delta)), delta)
    like = xp.asarray(np.zeros((1, *layout.shape)))
    each = grid.directions(np.arange(grid.n_coordinates), like)
    assert each.shape == (grid.n_coordinates, *layout.shape)
    flat = np.reshape(np.asarray(each), (grid.n_coordinates, -1))
    assert_allclose(delta @ flat, np.reshape(np.asarray(grid.beside(like, grid.planes(delta))), (4, -1)))
    assert_allclose(np.sum(flat**2, axis=1), grid.lengths)


# ---- what it asks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_queries", [10, 24, 25, 60, 333])
@NOT_FOUND
def test_queries_are_counted_and_bounded(linear, max_queries):
    clf, X = linear
    calls = []

    def scores(rows):
        calls.append(len(rows))
        return clf.predict_proba(rows)

    result = ZooAttack(black_box(scores), max_queries=max_queries, random_state=0).run(X)
    assert result.n_queries.max() <= max_queries
    assert result.n_queries.sum() == sum(calls)


def test_no_call_is_larger_than_a_batch(linear):
    clf, X = linear
    sizes = []

    def scores(rows):
        sizes.append(len(rows))
        return clf.predict_proba(rows)

    ZooAttack(black_box(scores), batch_size=30, max_iter=5, binary_search_steps=1, random_state=0).run(X[:8])
    assert max(sizes) <= 30
    assert max(sizes) > 15


def test_samples_at_rest_leave(linear):
    clf, X = linear
    ends, goes_on = (ZooAttack(clf, abort_early=early, max_iter=300, random_state=0).run(X) for early in (True, False))
    assert ends.n_queries.sum() < 0.8 * goes_on.n_queries.sum()
    assert np.median(ends.distance / goes_on.distance) < 1.05


def test_nothing_that_is_asked_leaves_box_or_mask(linear):
    clf, X = linear
    mask = np.arange(12) % 5 != 2
    low, high = X.min(axis=0), X.max(axis=0) + 0.1
    asked = []

    def scores(rows):
        asked.append(rows.copy())
        return clf.predict_proba(rows)

    model = black_box(scores)
    ZooAttack(model, mask=mask, clip_values=(low, high), max_iter=10, random_state=0).run(X[:1])
    rows = np.concatenate(asked)
    assert_array_equal(rows[:, ~mask], np.broadcast_to(X[0, ~mask], (len(rows), (~mask).sum())))
    assert np.all((rows >= low) & (rows <= high))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"resize": 4}, r"ZooAttack: resize needs images, and a sample has shape \(12,\)"),
        ({"resize": [2, 0], "image_shape": (3, 4)}, "resize must be one positive integer or a list"),
        ({"resize": [2.5], "image_shape": (3, 4)}, "resize must be one positive integer or a list"),
        ({"image_shape": (5, 5)}, "ZooAttack: .*12"),
        ({"optimizer": "sgd"}, "'optimizer' parameter of ZooAttack"),
        ({"difference": 1.0}, "'difference' parameter"),
    ],
)
def test_errors(params, message, linear):
    clf, X = linear
    with pytest.raises(ValueError, match=message):
        ZooAttack(clf, **params).transform(X)


# ---- its parts ----------------------------------------------------------------------------------------------


def test_adam_is_that_of_torch_where_all_coordinates_are_visited():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    units = rng.random(5) + 0.5
    ours, step = np.zeros((3, 5)), Adam((3, 5), 0.1, units)
    theirs = torch.zeros(3, 5, dtype=torch.float64)
    optimizer = torch.optim.Adam([theirs], lr=0.1, eps=0.0)
    index = np.broadcast_to(np.arange(5), (3, 5))
    for _ in range(6):
        grad = rng.standard_normal((3, 5))
        ours += step.step(index, grad, None)
        theirs.grad = torch.from_numpy(grad)
        optimizer.step()
    assert_allclose(ours, theirs.numpy() * units)


def test_a_clock_for_each_coordinate():
    step = Adam((1, 3), 0.1, np.ones(3))
    first = step.step(np.array([[0, 1]]), np.array([[2.0, -3.0]]), None)
    assert_allclose(first, [[-0.1, 0.1]])
    # The third one's first visit is a first step, whenever it comes.
    later = step.step(np.array([[2, 0]]), np.array([[5.0, 0.0]]), None)
    assert_allclose(later[0, 0], -0.1)
    assert -0.1 < later[0, 1] < 0


def test_newton_ends_a_parabola_in_one_step():
    curvature, minimum = np.array([[1.0, 4.0, 0.5]]), np.array([[0.05, -0.02, 0.5]])
    grad = -curvature * minimum
    step = Newton((1, 3), 1.0, np.ones(3)).step(np.array([[0, 1, 2]]), grad, curvature)
    assert_allclose(step, [[0.05, -0.02, 0.1]])  # the third one as far as it may go
    assert_allclose(
        Newton((1, 1), 1.0, np.ones(1)).step(np.array([[0]]), np.array([[-0.03]]), np.array([[-1.0]])), [[0.03]]
    )


def test_derivatives_of_a_parabola_are_exact():
    def value(t):
        return 2 + 3 * t + 5 * t**2

    below, above = np.array([[0.1, 0.2, 0.0, 0.3]]), np.array([[0.1, 0.05, 0.3, 0.0]])
    pair = np.stack([value(-below), value(above)], axis=2)
    first, second = _derivatives(np.array([2.0]), pair, below, above)
    assert_allclose(second, [[10, 10, 0, 0]])
    # Where the ways are alike that at the point; else that of a point between.
    assert_allclose(first, 3 + 5 * (above - below))


def test_coordinates_are_drawn_by_their_weights():
    weights = np.tile([1.0, 2.0, 0.0, 5.0], (40_000, 1))
    generator = np.random.default_rng(0)
    counts = np.bincount(choose(weights, 1, generator)[:, 0], minlength=4)
    assert_allclose(counts / 40_000, [1 / 8, 2 / 8, 0, 5 / 8], atol=0.01)
    several = np.sort(choose(weights, 3, generator), axis=1)
    assert_array_equal(several, np.tile([0, 1, 3], (40_000, 1)))
