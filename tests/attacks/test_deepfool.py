"""DeepFool and its steps against linear programs, closed forms and brute force."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog, nnls
from sklearn.datasets import load_iris, make_blobs, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from skart._core._arrays import to_numpy
from skart._core._balls import make_ball
from skart._core._linearised import nearest_boundary, smallest_step
from skart._core._objectives import Asker
from skart.attacks import DeepFool
from skart.exceptions import AttackFailureWarning
from tests.common._discovery import distance
from tests.common._models import as_net, blobs, fitted_mlp

NORMS = (1, 2, np.inf)
DUAL = {1: np.inf, 2: 2, np.inf: 1}


@pytest.fixture(scope="module")
def classes():
    X, y = make_blobs(80, 6, centers=4, cluster_std=3.0, random_state=0)
    return LogisticRegression(max_iter=1000).fit(X, y), X


@pytest.fixture(scope="module")
def binary():
    X, y = make_classification(60, 5, n_informative=5, n_redundant=0, random_state=1)
    return LogisticRegression().fit(X, y), X


def least_norm(A, b, norm, low, high):
    """Norm of the shortest r between low and high with A r >= b, by a solver; None where there is none."""
    n = A.shape[1]
    if norm == 2:
        # Lawson and Hanson: the least distance to a polyhedron is a non-negative least squares problem.
        G, h = np.vstack([A, np.eye(n), -np.eye(n)]), np.concatenate([b, low, -high])
        E, f = np.vstack([G.T, h]), np.eye(n + 1)[-1]
        u, residual = nnls(E, f)
        r = E @ u - f
        return np.linalg.norm(r[:-1] / r[-1]) if residual > 1e-9 else None
    # r = up - down, and for the maximum norm both below a common bound, which is the last variable.
    one = norm == 1
    cost = np.r_[np.full(2 * n, float(one)), float(not one)]
    rows = [np.hstack([-A, A, np.zeros((len(A), 1))])]
    if not one:
        rows.append(np.hstack([np.eye(2 * n), -np.ones((2 * n, 1))]))
    bounds = [(0, v) for v in high] + [(0, -v) for v in low] + [(0, None)]
    found = linprog(cost, np.vstack(rows), np.r_[-b, np.zeros(0 if one else 2 * n)], bounds=bounds)
    return found.fun if found.status == 0 else None


# ---- one step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_smallest_step_is_the_solvers(xp, norm, boxed):
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(40, 5))
    X[:20, 0], X[:20, 1] = 0.0, 1.0  # at the box
    grad = rng.normal(size=X.shape)
    grad[5, 2] = 0.0
    gain = rng.uniform(0.05, 1.5, size=40)
    free = np.array([True, True, True, False, True]) if boxed else None
    ball = make_ball(xp.asarray(X), norm=norm, eps=np.inf, clip_values=(0.0, 1.0) if boxed else None, mask=free)
    step, length = map(to_numpy, smallest_step(xp.asarray(grad), xp.asarray(X), xp.asarray(gain), ball))
    reached = 0
    for x, g, goal, r, reach in zip(X, grad, gain, step, length):
        low, high = (np.where(free, -x, 0), np.where(free, 1 - x, 0)) if boxed else (np.full(5, -1e3), np.full(5, 1e3))
        best = least_norm(g[None], np.array([goal]), norm, low, high)
        assert np.all(r >= low - 1e-12)
        assert np.all(r <= high + 1e-12)
        if best is None:  # it goes as far as it can
            assert_allclose(r @ g, np.maximum(g * low, g * high).sum(), rtol=1e-9)
            assert reach > np.linalg.norm(r, ord=norm)
            continue
        reached += 1
        assert_allclose(r @ g, goal, rtol=1e-9)
        assert_allclose(np.linalg.norm(r, ord=norm), best, rtol=1e-5)
        assert_allclose(reach, best, rtol=1e-5)
    assert reached == 40 if not boxed else 10 < reached < 40


def test_smallest_step_of_tiny_gradients_and_none(xp):
    X = xp.zeros((3, 4), dtype=xp.float32)
    grad = xp.asarray([[3e-30, 4e-30, 0, 0], [0.0, 0, 0, 0], [1.0, 0, 0, 0]], dtype=xp.float32)
    gain = xp.asarray([5e-30, 1.0, float("nan")], dtype=xp.float32)
    step, length = map(to_numpy, smallest_step(grad, X, gain, make_ball(X, norm=2, eps=np.inf)))
    assert_allclose(step[0], [0.6, 0.8, 0, 0], rtol=1e-5)
    assert_allclose(length[0], 1.0, rtol=1e-5)
    assert_array_equal(step[1:], 0)
    assert np.isinf(length[1:]).all()
    assert step.dtype == np.float32


# ---- linear models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("step_size", [0.3, 0.5, 1.0])
def test_nearest_of_all_boundaries(norm, step_size, classes):
    clf, X = classes
    W, scores = clf.coef_, clf.decision_function(X)
    label = scores.argmax(axis=1)
    rows = np.arange(len(X))[:, None]
    # The distance of a point from a hyperplane is the difference of the scores over the dual norm of the weights'.
    lead = scores[rows, label[:, None]] - scores
    slopes = np.linalg.norm(W[label][:, None] - W[None], ord=DUAL[norm], axis=2)
    slopes[rows[:, 0], label] = np.nan
    exact = np.nanmin(lead / slopes, axis=1)
    result = DeepFool(clf, norm=norm, step_size=step_size, overshoot=0.01).run(X)
    assert result.success.all()
    assert np.all(result.distance >= exact * (1 - 1e-9))
    assert np.all(result.distance <= exact * 1.01 * (1 + 1e-6))
    assert_allclose(result.distance, distance(X, result.X_adv, norm))
    if step_size == 1.0:
        assert_array_equal(result.n_gradients, 3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_overshoot_it_is_adversarial_all_the_same(norm, dtype, binary):
    clf, X = binary
    X = X.astype(dtype)
    exact = np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0], ord=DUAL[norm])
    for target in (None, "runner_up"):
        result = DeepFool(clf, norm=norm, overshoot=0.0, target=target).run(X)
        assert result.success.all()
        assert np.all(clf.predict(result.X_adv) != clf.predict(X))
        assert_allclose(result.distance, exact, rtol=1e-3 if dtype == "float32" else 1e-9, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("step_size", [0.5, 1.0])
def test_nearest_in_box_and_mask(norm, step_size, classes):
    clf, X = classes
    low, high = X.min(axis=0), X.max(axis=0)
    free = np.array([True, False, True, True, True, True])
    attack = DeepFool(clf, norm=norm, step_size=step_size, overshoot=0.0, clip_values=(low, high), mask=free)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackFailureWarning)  # some samples cannot leave their class in this box
        result = attack.run(X)
    label = clf.predict(X)
    found = 0
    for x, k, reach, success in zip(X, label, result.distance, result.success):
        best = [
            least_norm(
                (clf.coef_[j] - clf.coef_[k])[None],
                -np.array([(clf.coef_[j] - clf.coef_[k]) @ x + clf.intercept_[j] - clf.intercept_[k]]),
                norm,
                np.where(free, low - x, 0),
                np.where(free, high - x, 0),
            )
            for j in range(4)
            if j != k
        ]
        best = [value for value in best if value is not None]
        assert success == bool(best)
        if best:
            found += 1
            assert_allclose(reach, min(best), rtol=1e-5)
    assert found > 60
    assert np.all((result.X_adv >= low) & (result.X_adv <= high))
    assert_array_equal(result.X_adv[:, 1], X[:, 1])


@pytest.mark.parametrize("norm", NORMS)
def test_target_is_reached_and_not_from_afar(norm, classes):
    clf, X = classes
    target = (clf.predict(X) + 1 + np.arange(len(X)) % 3) % 4
    result = DeepFool(clf, norm=norm, overshoot=0.0, target="given").run(X, target)
    assert result.success.all()
    ratio = []
    for x, k, reach in zip(X, target, result.distance):
        A = clf.coef_[k] - np.delete(clf.coef_, k, axis=0)
        lead = clf.decision_function(x[None])[0]
        best = least_norm(A, -(lead[k] - np.delete(lead, k)), norm, np.full(6, -1e3), np.full(6, 1e3))
        ratio.append(reach / best)
    # Where one rival stands between the sample and its target the way is the shortest; in a corner it need not be.
    assert min(ratio) > 1 - 1e-5
    assert np.mean(np.array(ratio) < 1.05) > 0.7
    assert max(ratio) < 2


def test_a_lead_of_rounding_is_none(xp):
    weights = xp.asarray([[1.0, 0.0], [0.0, 1.0]], dtype=xp.float64)
    x = xp.asarray([[1.0, 1.0 + 2.0**-52], [1.0, 1.5]], dtype=xp.float64)

    def forward(x, scores):
        return x @ weights, lambda cotangent: cotangent @ weights

    found = nearest_boundary(
        x,
        Asker(forward, 2),
        xp.asarray([0, 0]),
        ball=make_ball(x, norm=2, eps=np.inf),
        n_candidates=1,
        step_size=1.0,
        overshoot=0.0,
        max_iter=5,
    )
    found = to_numpy(found)
    assert 1e-15 < found[0, 1] - found[0, 0] < 1e-12
    assert_array_equal(found[1], [1.0, 1.5])


# ---- curved models ------------------------------------------------------------------------------------------


def test_votes_do_not_blind_it():
    """Brute force in two dimensions, on a model whose public scores are votes."""
    X, y = load_iris(return_X_y=True)
    X = X[:, 2:]
    clf = SVC(gamma=0.1).fit(X, y)
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    label, nearest = clf.predict(X), np.full(len(X), np.inf)
    for radius in np.arange(0.02, 3, 0.02):
        moved = (X[:, None] + radius * circle).reshape(-1, 2)
        changed = (clf.predict(moved).reshape(len(X), -1) != label[:, None]).any(axis=1)
        nearest = np.where(changed, np.minimum(nearest, radius), nearest)
    result = DeepFool(clf).run(X)
    # On its plateaus an rbf kernel's gradient may lead away from all other classes.
    assert result.success.mean() > 0.95
    ratio = (result.distance / nearest)[result.success]
    assert np.all(result.distance >= nearest - 0.021)
    assert np.median(ratio) < 1.05
    assert np.quantile(ratio, 0.8) < 1.1


def test_a_step_from_a_plateau_is_shortened():
    """A narrow kernel: the gradient in the middle of a class says that the boundary is far away."""
    X, y = load_iris(return_X_y=True)
    X = X[:, 2:]
    clf = SVC(C=10.0).fit(X, y)
    result = DeepFool(clf, target=0).run(X)
    rows = result.success & (clf.predict(X) != 0)
    shorter = X + 0.93 * (result.X_adv - X)
    assert rows.sum() > 20
    # Nine tenths of the way are not enough; without shortening they are, for most.
    assert np.mean(clf.predict(shorter[rows]) == 0) < 0.05


def test_half_steps_end_nearer():
    X, y = blobs()
    mlp = fitted_mlp(X, y)
    half, whole = DeepFool(mlp).run(X), DeepFool(mlp, step_size=1.0).run(X)
    assert half.success.all()
    assert whole.success.all()
    assert np.median(half.distance) < np.median(whole.distance)
    assert half.n_gradients.sum() > whole.n_gradients.sum()


# ---- work ---------------------------------------------------------------------------------------------------


def test_fewer_candidates_cost_less(classes):
    clf, X = classes
    all_, one = (DeepFool(clf, step_size=1.0, n_candidates=k).run(X) for k in (3, 1))
    assert_array_equal(one.n_gradients, 1)
    assert_array_equal(all_.n_gradients, 3)
    assert one.success.all()
    assert np.all(one.distance >= all_.distance * (1 - 1e-9))
    assert np.any(one.distance > all_.distance * 1.05)


def test_samples_leave_the_batch():
    X, y = blobs()
    mlp = fitted_mlp(X, y)
    for model in (mlp, as_net(mlp)):
        alone = np.array([DeepFool(model).run(x[None]).n_gradients[0] for x in X])
        together = DeepFool(model).run(X)
        assert len(np.unique(alone)) > 2
        # A sample may have to wait for company before it leaves, one step for each two pullbacks that it is spared.
        assert np.all(together.n_gradients >= alone)
        assert together.n_gradients.sum() < alone.sum() * 1.2
        assert together.n_gradients.sum() < alone.max() * len(X) * 0.9


def test_what_is_wrong_already_stays(classes):
    clf, X = classes
    result = DeepFool(clf).run(X, (clf.predict(X) + 1) % 4)
    assert_array_equal(result.X_adv, X)
    assert result.success.all()
    assert_array_equal(result.n_gradients, 0)


def test_a_flat_model_is_left_at_once(binary):
    clf, X = binary
    flat = LogisticRegression().fit(X, clf.predict(X))
    flat.coef_ = np.zeros_like(flat.coef_)
    flat.intercept_ = np.array([1.0])
    with pytest.warns(AttackFailureWarning, match="gradient is zero"):
        result = DeepFool(flat).run(X)
    assert_array_equal(result.X_adv, X)
    assert_array_equal(result.n_gradients, 1)
