"""BoundaryAttack: how near it comes, and its steps. What it shares with HopSkipJump is tested there."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from skart._core._arrays import to_numpy
from skart.attacks import BoundaryAttack
from skart.attacks.decision._boundary import _adapted, _around, boundary_walk
from tests.attacks.test_hop_skip_jump import black_box, boxes_distance, exact, region_of


@pytest.fixture(scope="module")
def linear():
    X, y = make_classification(200, 12, n_informative=6, random_state=1)
    return LogisticRegression().fit(X, y), X[:40]


def test_ends_near_the_hyperplane(linear):
    clf, X = linear
    result = BoundaryAttack(clf, max_queries=3000, random_state=0).run(X)
    ratio = result.distance / exact(clf, X, 2)
    assert ratio.min() >= 1 - 1e-9
    assert np.median(ratio) < 1.02
    assert ratio.max() < 1.1


def test_features_of_unlike_scale(linear):
    clf, X = linear
    scale = np.geomspace(1e-3, 1e3, X.shape[1])
    wide = black_box(lambda X: clf.predict(X / scale))
    X_adv = BoundaryAttack(wide, scale=scale, max_queries=3000, random_state=0).transform(X * scale)
    assert np.median(np.linalg.norm(X_adv / scale - X, axis=1) / exact(clf, X, 2)) < 1.02


def test_is_not_far_from_the_optimum_on_a_tree():
    X, y = load_iris(return_X_y=True)
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y)
    result = BoundaryAttack(tree, max_queries=3000, random_state=0).run(X)
    best = boxes_distance(tree, X, tree.predict(X), 2)
    assert result.success.all()
    assert np.all(result.distance >= best * (1 - 1e-5))  # trees compare in single precision
    # Where it starts decides in which leaf it ends: a few samples have a nearer one.
    assert np.quantile(result.distance / best, 0.7) < 1.01


def test_a_target_is_reached():
    X, y = load_iris(return_X_y=True)
    clf = LogisticRegression(max_iter=500).fit(X, y)
    result = BoundaryAttack(clf, target=2, max_queries=1000, random_state=0).run(X)
    assert_array_equal(clf.predict(result.X_adv), 2)
    assert_allclose(result.distance[clf.predict(X) == 2], 0)
    lead = X @ (clf.coef_[1] - clf.coef_[2]) + clf.intercept_[1] - clf.intercept_[2]
    near = clf.predict(X) == 1
    ratio = (result.distance * np.linalg.norm(clf.coef_[1] - clf.coef_[2]) / lead)[near]
    assert ratio.min() >= 1 - 1e-9
    assert np.median(ratio) < 1.05


def test_a_sample_is_done_when_its_steps_are_short(linear):
    clf, X = linear
    service = black_box(clf.predict)
    # In this many steps the walk settles at the optimum, and steps become short.
    result = BoundaryAttack(service, min_epsilon=1e-3, max_iter=5000, random_state=0).run(X)
    assert result.n_queries.max() < 20_000
    assert np.ptp(result.n_queries) > 0
    finer = BoundaryAttack(service, min_epsilon=1e-5, max_iter=5000, random_state=0).run(X)
    assert np.median(finer.n_queries) > 1.2 * np.median(result.n_queries)


def test_steps_around_stay_on_the_sphere(xp):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4, 9))
    mask = np.arange(9) != 3
    region = region_of(xp, X, lambda rows: np.zeros(len(rows), dtype=int), mask=mask)
    delta = np.array([0.01, 0.1, 0.5, 1.0])
    x = X + rng.standard_normal((4, 9)) * mask
    points = to_numpy(_around(xp.asarray(x), region, delta, 30, rng))
    out = x - X
    length = np.linalg.norm(out, axis=1)
    assert_allclose(np.linalg.norm(points - X[:, None], axis=2), np.broadcast_to(length[:, None], (4, 30)))
    assert_array_equal(points[:, :, 3], np.broadcast_to(X[:, [3]], (4, 30)))
    # The tangent of the angle between the old and the new direction is the length of the step.
    cosine = np.einsum("nd,nkd->nk", out, points - X[:, None]) / length[:, None] ** 2
    assert_allclose(np.tan(np.arccos(cosine)), np.broadcast_to(delta[:, None], (4, 30)), rtol=1e-6)
    assert len(np.unique(points[:, :, 0])) == 120


def test_steps_follow_the_share_of_successes():
    tried = np.array([10, 10, 10, 10, 0])
    size = _adapted(np.ones(5), np.array([1, 2, 5, 6, 0]), tried, 0.5)
    assert_array_equal(size, [0.5, 1.0, 1.0, 2.0, 1.0])


def test_the_walk_stays_adversarial(xp):
    X = np.zeros((3, 4))
    region = region_of(xp, X, lambda rows: (rows.sum(axis=1) > 1).astype(int))
    start = np.array([[3.0, 0, 0, 0], [0, 0, 2.0, 2.0], [9.0, -1, 0, 0]])
    x = to_numpy(
        boundary_walk(
            xp.asarray(start),
            region,
            delta=0.1,
            epsilon=0.1,
            step_adapt=0.667,
            max_iter=200,
            sample_size=10,
            min_epsilon=0,
            generator=np.random.default_rng(0),
        )
    )
    assert np.all(x.sum(axis=1) > 1)
    assert_allclose(np.linalg.norm(x, axis=1), 0.5, rtol=0.02)
