"""SquareAttack: what it reaches on models whose optimum is known, its moves, and what it asks."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from skart._core._arrays import to_numpy
from skart._core._balls import make_ball
from skart._core._squares import hump, humps, moves_in, share_of
from skart.attacks import SquareAttack
from skart.estimators import BlackBoxClassifier
from skart.utils._images import image_layout
from tests.attacks.test_hop_skip_jump import boxes_distance, exact

IMAGE = {"image_shape": (4, 4)}
NOT_FOUND = pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")


@pytest.fixture(scope="module")
def linear():
    X, y = make_classification(200, 16, n_informative=6, random_state=1)
    return LogisticRegression().fit(X, y), X[:40]


def counting(clf):
    """A black box on the scores of ``clf``, and the list of the sizes of its calls."""
    calls = []

    def scores(X):
        calls.append(len(X))
        return clf.predict_proba(X)

    return BlackBoxClassifier(scores, list(clf.classes_), output="probabilities"), calls


# ---- strength -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{}, IMAGE], ids=["rows", "images"])
@pytest.mark.parametrize("norm", [2, np.inf])
@NOT_FOUND
def test_finds_what_a_linear_model_allows_and_nothing_else(linear, norm, layout):
    clf, X = linear
    distance = exact(clf, X, norm)
    # Humps are no direction of a linear model: squares in the Euclidean norm need a larger ball.
    margin = 1.1 if norm == np.inf or not layout else 1.5
    eps = float(np.median(distance))
    result = SquareAttack(clf, norm=norm, eps=eps, max_iter=3000, random_state=0, **layout).run(X)
    assert not result.success[distance > eps].any()
    assert result.success[distance * margin < eps].all()
    assert (distance * margin < eps).sum() >= 10


@NOT_FOUND
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_what_stays_unbroken_comes_back_with_the_highest_loss_of_the_ball(linear, loss):
    clf, X = linear
    X = X[exact(clf, X, np.inf) > 0.05]
    X_adv = SquareAttack(clf, eps=0.05, max_iter=400, loss=loss, random_state=0).transform(X)
    sign = np.where(clf.predict(X) == 1, 1, -1)[:, None]
    assert_allclose(X_adv, X - 0.05 * sign * np.sign(clf.coef_), atol=1e-12)


def test_targets():
    X, y = load_iris(return_X_y=True)
    clf = LogisticRegression(max_iter=500).fit(X, y)
    result = SquareAttack(clf, eps=4.0, target=2, max_iter=500, random_state=0).run(X)
    assert_array_equal(clf.predict(result.X_adv), 2)
    assert_allclose(result.distance[clf.predict(X) == 2], 0)


@pytest.mark.parametrize("norm", [2, np.inf])
@NOT_FOUND
def test_on_a_tree_it_keeps_to_the_exact_minimum(norm):
    X, y = load_iris(return_X_y=True)
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y)
    best = boxes_distance(tree, X, tree.predict(X), norm)
    result = SquareAttack(tree, norm=norm, eps=1.5, max_iter=500, random_state=0).run(X)
    assert not result.success[best > 1.5].any()
    # Corners of the ball, or points of the sphere, may pass by a small leaf.
    assert result.success[best < 0.75].mean() > 0.95


@NOT_FOUND
def test_restarts_find_what_a_run_has_missed():
    # Two of the ball's 256 corners are adversarial, and no other says how near they are.
    def scores(X):
        found = np.abs(X.sum(axis=1)) > 7.5
        return np.stack([~found, found], axis=1).astype(float)

    model = BlackBoxClassifier(scores, [0, 1], output="probabilities")
    X = np.zeros((100, 8))
    one, many = (
        SquareAttack(model, eps=1.0, max_iter=5, p_init=0.1, n_restarts=n, random_state=0).run(X) for n in (1, 40)
    )
    assert one.success.mean() < 0.3
    assert many.success.mean() > 0.6
    assert np.all(many.success >= one.success)


# ---- what it asks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [2, np.inf])
@NOT_FOUND
def test_queries_are_counted_and_bounded(linear, norm):
    clf, X = linear
    model, calls = counting(clf)
    result = SquareAttack(
        model, norm=norm, eps=np.median(exact(clf, X, norm)) * 1.5, max_queries=25, random_state=0
    ).run(X)
    assert result.n_queries.max() <= 25
    assert result.n_queries.min() < 25  # those that are broken leave
    assert 0 < result.success.mean() < 1
    # The clean samples' labels and the final ones are asked outside of the search, and counted as well.
    assert result.n_queries.sum() == sum(calls)


def test_several_changes_at_once_are_kept_in_the_same_order(linear):
    clf, X = linear
    model, calls = counting(clf)
    SquareAttack(model, eps=1e-3, max_iter=300, random_state=0).run(X[:2])
    # A call for two samples asks about up to sixteen changes of each: far fewer calls than steps.
    assert len(calls) < 150
    assert max(calls) == 32


def test_trace(linear):
    clf, X = linear
    result = SquareAttack(clf, eps=1.0, trace=True, random_state=0).run(X)
    queries, distances = result.trace
    assert np.all(np.diff(queries, axis=0) >= 0)
    assert np.all(np.isinf(distances[:-1]) | (distances[:-1] >= distances[1:]))
    assert_array_equal(np.isfinite(distances[-1]), result.success)


@NOT_FOUND
@pytest.mark.parametrize("layout", [{}, IMAGE], ids=["rows", "images"])
@pytest.mark.parametrize("norm", [2, np.inf])
def test_nothing_that_is_asked_leaves_ball_box_or_mask(linear, norm, layout):
    clf, X = linear
    mask = np.arange(16) % 5 != 2
    low, high = X.min(axis=0), X.max(axis=0) + 0.1
    asked = []

    def scores(rows):
        asked.append(rows.copy())
        return clf.predict_proba(rows)

    model = BlackBoxClassifier(scores, [0, 1], output="probabilities")
    SquareAttack(
        model, norm=norm, eps=0.7, mask=mask, clip_values=(low, high), max_iter=30, random_state=0, **layout
    ).run(X[:1])
    rows = np.concatenate(asked)
    assert len(rows) > 20
    assert_array_equal(rows[:, ~mask], np.broadcast_to(X[0, ~mask], (len(rows), (~mask).sum())))
    assert np.all((rows >= low) & (rows <= high))
    assert np.linalg.norm(rows - X[0], ord=norm, axis=1).max() <= 0.7 * (1 + 1e-12)


@NOT_FOUND
def test_a_radius_for_each_feature(linear):
    clf, X = linear
    eps = np.linspace(0.0, 0.5, 16)
    delta = SquareAttack(clf, eps=eps, max_iter=300, random_state=0).transform(X) - X
    assert np.all(np.abs(delta) <= eps + 1e-12)
    assert_allclose(np.abs(delta).max(axis=0), eps, atol=1e-12)
    length = np.linalg.norm(
        (SquareAttack(clf, norm=2, eps=eps, max_iter=300, random_state=0).transform(X) - X)[:, 1:] / eps[1:], axis=1
    )
    assert length.max() <= 1 + 1e-9
    assert np.median(length) > 0.99


def test_where_nothing_may_change_nothing_is_asked(linear):
    clf, X = linear
    model, calls = counting(clf)
    result = SquareAttack(model, eps=0.0).run(X)
    assert_array_equal(result.X_adv, X)
    assert sum(calls) <= 3 * len(X) + 16  # labels, scores and labels again, and a look at a few rows


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"norm": 1}, "'norm' parameter of SquareAttack"),
        ({"p_init": 0}, "'p_init' parameter"),
        ({"image_shape": (3, 5)}, r"SquareAttack: .*16"),
        ({"image_shape": (2, 2, 4), "channels": "middle"}, "'channels' parameter"),
    ],
)
def test_errors(params, message, linear):
    clf, X = linear
    with pytest.raises(ValueError, match=message):
        SquareAttack(clf, **params).transform(X)


# ---- its moves ----------------------------------------------------------------------------------------------


def test_share_is_halved_when_the_article_says():
    # Of 10 000 steps; shares before and after each of its halvings.
    for k, step in enumerate([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]):
        assert share_of(step, 10_000, 0.8) == 0.8 / 2**k
        assert share_of(step + 1, 10_000, 0.8) == 0.8 / 2 ** (k + 1)
    # Of as many as there are, in the same proportions.
    assert share_of(50, 1000, 0.8) == 0.8 / 8


@pytest.mark.parametrize("side", [3, 4, 5, 8])
def test_hump_of_a_square_is_the_articles(side):
    # Section 4.2: a sum of 1 / (n + 1 - k)^2 over k up to M(r, s) = n - max(|r - n|, |s - n|), rows from 0.
    n = side // 2
    expected = np.zeros((side, side))
    for r in range(side):
        for s in range(side):
            expected[r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(n - max(abs(r - n), abs(s - n)) + 1))
    assert_allclose(hump(side, side), expected)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 4), (1, 5), (5, 1), (1, 1)])
def test_humps_are_a_hump_and_a_dip(height, width):
    both = humps(height, width)
    assert both.shape == (height, width)
    assert np.all(both != 0)
    if height > 1 and width % 2 == 0:
        assert_allclose(both[:, : width // 2], -both[:, width // 2 :])
    assert_allclose(humps(height, width, True), humps(width, height).T if height > 1 else humps(height, width))


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_square_goes_to_one_end_in_each_channel(xp, first):
    rng = np.random.default_rng(0)
    shape = (3, 6, 8) if first else (6, 8, 3)
    X = rng.random((20, *shape))
    ball = make_ball(xp.asarray(X), norm=np.inf, eps=0.1, clip_values=(0.0, 1.0))
    moves = moves_in(ball, image_layout(shape, None, None, owner="test"))
    changed = to_numpy(moves.step(xp.asarray(X), 4 / 48, rng)) - X
    planes = changed if first else np.moveaxis(changed, 3, 1)
    X = X if first else np.moveaxis(X, 3, 1)
    for delta, x in zip(planes, X):
        rows, columns = np.nonzero(np.any(delta != 0, axis=0))
        assert len(rows) == 4  # two by two pixels
        assert np.ptp(rows) == np.ptp(columns) == 1
        for channel in range(3):
            up = np.minimum(0.1, 1 - x[channel][rows, columns])
            down = -np.minimum(0.1, x[channel][rows, columns])
            found = delta[channel][rows, columns]
            assert np.allclose(found, up) or np.allclose(found, down)


def test_squares_in_the_euclidean_norm_keep_the_length(xp):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 12, 12))
    ball = make_ball(xp.asarray(X), norm=2, eps=2.0)
    moves = moves_in(ball, image_layout((12, 12), None, None, owner="test"))
    x = moves.start(rng)
    assert_allclose(np.linalg.norm((to_numpy(x) - X).reshape(20, -1), axis=1), 2.0)
    changed = to_numpy(moves.step(x, 9 / 144, rng)) - to_numpy(x)
    assert_allclose(np.linalg.norm((to_numpy(x) + changed - X).reshape(20, -1), axis=1), 2.0)
    # Two squares of three by three change and nothing else; one of them is emptied but for where they meet.
    n_changed = np.count_nonzero(np.abs(changed) > 1e-12, axis=(1, 2))
    assert n_changed.max() <= 18
    emptied = (np.abs(to_numpy(x) + changed - X) < 1e-12).sum(axis=(1, 2))
    assert np.median(emptied) == 9


def test_rows_are_turned_in_a_subset(xp):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 12))
    ball = make_ball(xp.asarray(X), norm=2, eps=2.0)
    moves = moves_in(ball)
    x = moves.start(rng)
    before = to_numpy(x) - X
    after = to_numpy(moves.step(x, 0.25, rng)) - X
    assert_array_equal(np.count_nonzero(np.abs(after - before) > 1e-12, axis=1), 3)
    assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1))


def test_a_change_always_changes_something():
    # From a corner, half of the squares would be as they are.
    rng = np.random.default_rng(0)
    X = np.zeros((200, 6))
    moves = moves_in(make_ball(X, norm=np.inf, eps=1.0))
    x = moves.start(rng)
    assert np.all(np.any(moves.step(x, 1 / 6, rng) != x, axis=1))
