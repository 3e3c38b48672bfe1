"""The attacks of Carlini and Wagner."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits, load_iris, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, minmax_scale
from sklearn.svm import SVC

from skart import register_rule
from skart.attacks import CarliniL2Method, CarliniLInfMethod
from skart.exceptions import AttackFailureWarning
from tests.common._discovery import distance
from tests.common._models import trained_net, wrap_module

BOTH = [CarliniL2Method, CarliniLInfMethod]
both = pytest.mark.parametrize("attack", BOTH)


@pytest.fixture(scope="module")
def binary():
    """A linear model of two classes, with samples in the unit cube that it gets right."""
    X, y = make_classification(80, 5, n_informative=5, n_redundant=0, random_state=1)
    X = np.clip(minmax_scale(X), 0, 1)
    clf = LogisticRegression(C=10.0).fit(X, y)
    right = clf.predict(X) == y
    return clf, X[right][:40], y[right][:40]


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    clf = LogisticRegression(C=0.1, max_iter=1000).fit(X[500:] / 16, y[500:])
    right = clf.predict(X[:80] / 16) == y[:80]
    return clf, X[:80][right] / 16, y[:80][right]


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    return SVC(gamma=0.5).fit(X, y), X, y


def half_space_distance(w, gap, x, norm, low=-np.inf, high=np.inf):
    """Least norm of a perturbation in the box that raises ``w @ x`` by ``gap``, by bisection of its multiplier."""
    room = np.where(w > 0, high - x, x - low)
    size = np.abs(w)

    def shares(level):
        return np.minimum(level if norm == np.inf else level * size, room)

    if np.isfinite(room).all() and size @ room < gap:
        return np.inf
    below, above = 0.0, 1.0
    while size @ shares(above) < gap:
        above *= 2
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (middle, above) if size @ shares(middle) < gap else (below, middle)
    return np.linalg.norm(shares(above) * np.ones_like(x), ord=norm)


def linear_optimum(clf, X, y, norm, box):
    """Distance of each sample to the nearest point of another class: the nearest of the half-spaces of its rivals."""
    low, high = box or (-np.inf, np.inf)
    W, b = clf.coef_, clf.intercept_
    if len(W) == 1:
        W, b = np.vstack([np.zeros_like(W), W]), np.append(0.0, b)

    def nearest(x, own):
        gaps = (W[own] - W) @ x + b[own] - b
        rivals = [k for k in range(len(W)) if k != own]
        return min(half_space_distance(W[k] - W[own], gaps[k], x, norm, low, high) for k in rivals)

    return np.array([nearest(x, own) for x, own in zip(X, y)])


@both
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_is_nearest_on_a_linear_model(attack, box, scale, binary):
    clf, X, y = binary
    norm = 2 if attack is CarliniL2Method else np.inf
    # The same model of data in other units.
    scaled = LogisticRegression()
    scaled.classes_, scaled.coef_, scaled.intercept_ = clf.classes_, clf.coef_ / scale, clf.intercept_
    best = linear_optimum(clf, X, y, norm, box)
    box = None if box is None else (0.0, scale)
    result = attack(scaled, clip_values=box).run(X * scale, y)
    assert result.success.all()
    assert_allclose(result.distance, distance(X * scale, result.X_adv, norm), rtol=1e-9)
    relative = result.distance / (best * scale)
    assert relative.min() >= 1 - 1e-9
    assert relative.max() <= 1.05
    assert np.median(relative) <= 1.005


@both
def test_the_nearest_of_many_classes(attack, digits):
    clf, X, y = digits
    norm = 2 if attack is CarliniL2Method else np.inf
    best = linear_optimum(clf, X, y, norm, (0, 1))
    result = attack(clf, clip_values=(0, 1)).run(X, y)
    assert result.success.all()
    relative = result.distance / best
    assert relative.min() >= 1 - 1e-9
    assert np.median(relative) <= 1.02
    # Descent may go to another class than the one that comes nearest in the end.
    assert np.mean(relative <= 1.05) >= 0.8
    assert relative.max() <= 1.35
    assert result.X_adv.min() >= 0
    assert result.X_adv.max() <= 1


def test_targeted_is_nearest(digits):
    """Against a general solver for the region of the target, which is an intersection of half-spaces."""
    clf, X, y = digits
    X, y = X[:12], y[:12]
    target = (y + 1) % 10
    result = CarliniL2Method(clf, target="given").run(X, target)
    assert result.success.all()
    best = []
    for x, goal in zip(X, target):
        W, b = clf.coef_[goal] - clf.coef_, clf.intercept_[goal] - clf.intercept_
        keep = np.arange(10) != goal
        bounds = {"type": "ineq", "fun": lambda d, x=x, W=W[keep], b=b[keep]: W @ (x + d) + b}
        solved = minimize(lambda d: d @ d, result.X_adv[len(best)] - x, jac=lambda d: 2 * d, constraints=bounds)
        assert solved.success
        best.append(np.sqrt(solved.fun))
    assert np.all(result.distance >= np.array(best) * (1 - 1e-6))
    assert (result.distance / best).max() <= 1.05


@both
def test_targeted_in_the_maximum_norm_and_two_classes(attack, binary):
    """With two classes, aiming at the other one and leaving the own one are the same."""
    clf, X, y = binary
    aimed, left = attack(clf, target="given").run(X, 1 - y), attack(clf).run(X, y)
    assert_array_equal(aimed.X_adv, left.X_adv)
    assert aimed.success.all()


@both
def test_confidence_is_reached(attack, digits):
    clf, X, y = digits
    distances = []
    for confidence in (0.0, 1.0, 3.0):
        result = attack(clf, confidence=confidence, clip_values=(0, 1)).run(X, y)
        scores = clf.decision_function(result.X_adv)
        own = scores[np.arange(len(y)), y].copy()
        scores[np.arange(len(y)), y] = -np.inf
        lead = scores.max(axis=1) - own
        assert lead.min() >= confidence
        assert np.median(lead) <= confidence + 0.15  # no more than asked for
        distances.append(np.median(result.distance))
    assert distances[0] < distances[1] < distances[2]


@both
def test_what_is_adversarial_stays_unchanged(attack, digits):
    clf, X, y = digits
    wrong = np.where(np.arange(len(y)) % 2, (y + 1) % 10, y)
    result = attack(clf, clip_values=(0, 1)).run(X, wrong)
    assert_array_equal(result.X_adv[wrong != y], X[wrong != y])
    assert result.success.all()
    # One pass of the attack, one for the verdict and the checks; and no sample but the others goes on.
    assert np.all(result.n_queries[8:][(wrong != y)[8:]] == 2)
    assert np.all(result.n_queries[wrong == y] > 20)
    # What has the goal but not the lead is attacked all the same.
    sure = attack(clf, confidence=100.0).run(X, wrong)
    assert np.any(sure.X_adv[wrong != y] != X[wrong != y])


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_success_outlives_rounding(attack, dtype, iris):
    """What was judged is what comes back: the nearest points lie on the boundary but for the last digits."""
    _, X, y = iris
    net = trained_net(X, y)
    for model, own in [(net, np.float32), (SVC(gamma=0.5).fit(X.astype(dtype), y), dtype)]:
        right = model.predict(X.astype(own)) == y
        result = attack(model).run(X[right].astype(dtype), y[right])
        assert result.X_adv.dtype == dtype
        assert result.success.mean() > 0.8
        # Where it failed it was far from success. One by one, since that rounds otherwise than a batch.
        single = np.array([model.predict(row[None].astype(own))[0] for row in result.X_adv])
        assert_array_equal(single != y[right], result.success)
        if model is net:
            assert result.success.all()
        else:
            least = attack(model, confidence=0.01).run(X[right].astype(dtype), y[right])
            assert_array_equal(least.success, result.success)


@both
def test_mask_and_a_range_for_each_feature(attack, digits):
    clf, X, y = digits
    mask = np.arange(64) % 2 == 0
    low, high = X.min(axis=0), X.max(axis=0)  # of width zero for some
    result = attack(clf, mask=mask, clip_values=(low, high)).run(X, y)
    assert_array_equal(result.X_adv[:, ~mask], X[:, ~mask])
    assert np.all((result.X_adv >= low) & (result.X_adv <= high))
    assert result.success.mean() > 0.9
    assert np.median(result.distance) > np.median(attack(clf, clip_values=(low, high)).run(X, y).distance)
    unbounded = attack(clf, mask=mask).run(X, y)
    assert_array_equal(unbounded.X_adv[:, ~mask], X[:, ~mask])
    assert unbounded.success.all()


def test_a_range_with_infinite_ends(binary):
    clf, X, y = binary
    low = np.array([0.0, 0.0, -np.inf, 0.0, 0.0])
    high = np.array([np.inf, np.inf, np.inf, 1.0, np.inf])
    result = CarliniL2Method(clf, clip_values=(low, high)).run(X, y)
    assert result.success.all()
    assert np.all((result.X_adv >= low) & (result.X_adv <= high))
    best = [
        half_space_distance(s * clf.coef_[0], abs(m), x, 2, low, high)
        for s, m, x in zip(np.where(y == 1, -1, 1), clf.decision_function(X), X)
    ]
    assert np.median(result.distance / best) <= 1.01
    assert (result.distance / best).max() <= 1.05


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8)])
def test_samples_of_any_shape(shape):
    X, y = load_digits(return_X_y=True)
    X = (X[:40] / 16).astype(np.float32)
    flat = trained_net(X, y[:40] % 3)
    image = torch.nn.Sequential(torch.nn.Flatten(), flat.module_)
    net = wrap_module(image)
    for attack in (CarliniL2Method(net, max_iter=20), CarliniLInfMethod(net, max_iter=20)):
        alone = type(attack)(flat, max_iter=20).run(X)
        result = attack.run(X.reshape(-1, *shape))
        assert result.X_adv.shape == (40, *shape)
        assert_allclose(result.X_adv.reshape(40, -1), alone.X_adv, atol=1e-5)


def test_the_line_search_is_near(digits):
    clf, X, y = digits
    best = linear_optimum(clf, X, y, 2, None)
    result = CarliniL2Method(clf, optimizer="line_search", max_iter=10).run(X, y)
    assert result.success.all()
    assert np.median(result.distance / best) <= 1.05
    # Neither halvings nor doublings: plain gradient descent, for less and farther off.
    plain = CarliniL2Method(clf, optimizer="line_search", max_iter=10, max_halving=0, max_doubling=0).run(X, y)
    assert plain.n_queries.mean() < result.n_queries.mean()
    assert plain.success.mean() < 1 or np.median(plain.distance) > np.median(result.distance)
    boxed = CarliniL2Method(clf, optimizer="line_search", max_iter=10, clip_values=(0, 1)).run(X, y)
    assert boxed.success.mean() > 0.95
    assert boxed.X_adv.min() >= 0


def test_early_abort_costs_less_and_changes_little(digits):
    clf, X, y = digits
    full, early = (CarliniL2Method(clf, clip_values=(0, 1), abort_early=early).run(X, y) for early in (False, True))
    assert full.success.all()
    assert early.success.all()
    assert early.n_gradients.mean() < 0.7 * full.n_gradients.mean()
    assert (early.distance / full.distance).max() <= 1.05
    # One pass at the start; every search judges each of its steps, and needs no gradient at the last.
    assert np.all(full.n_gradients == 1 + 5 * 99)
    assert np.all(full.n_queries[8:] == 1 + 5 * 100 + 1)


@both
def test_first_weights_of_any_size_and_few_steps(attack, digits):
    clf, X, y = digits
    default = attack(clf, clip_values=(0, 1)).run(X, y)
    if attack is CarliniL2Method:
        for const in (0.01, 10.0):
            other = attack(clf, clip_values=(0, 1), initial_const=const, const_factor=10.0).run(X, y)
            assert other.success.all()
            assert np.median(other.distance) <= 1.05 * np.median(default.distance)
    few = attack(clf, clip_values=(0, 1), max_iter=10).run(X, y)
    assert few.success.mean() > 0.95
    assert few.n_queries.mean() < default.n_queries.mean() / 2


def test_weights_go_up_where_they_are_too_small(digits):
    clf, X, y = digits
    params = {"initial_const": 1e-4, "clip_values": (0, 1)}
    assert not CarliniL2Method(clf, binary_search_steps=1, **params).run(X, y).success.any()
    grown = CarliniL2Method(clf, binary_search_steps=8, const_factor=10.0, **params).run(X, y)
    assert grown.success.all()
    # What failed comes back as the point that came closest, not as it went in.
    failed = CarliniL2Method(clf, binary_search_steps=1, **params).run(X, y)
    own = np.arange(len(y)), y
    assert np.all(failed.distance > 0)
    assert np.all(clf.decision_function(failed.X_adv)[own] < clf.decision_function(X)[own])


@pytest.mark.parametrize("eps", [0.03, 0.1])
def test_a_fixed_bound_breaks_what_can_be_broken(eps, digits):
    clf, X, y = digits
    best = linear_optimum(clf, X, y, np.inf, (0, 1))
    result = CarliniLInfMethod(clf, eps=eps, clip_values=(0, 1)).run(X, y)
    assert np.abs(result.X_adv - X).max() <= eps
    assert_array_equal(result.success[np.abs(best / eps - 1) > 0.02], (best <= eps)[np.abs(best / eps - 1) > 0.02])
    assert 0.05 < result.success.mean() < 0.95
    # Who succeeds leaves: of the steps that are left there is no trace in the counts.
    assert result.n_gradients[result.success].mean() < 0.5 * result.n_gradients[~result.success].mean()
    assert np.all(result.n_gradients[~result.success] == 100)


def test_a_bound_for_each_feature(binary):
    clf, X, y = binary
    eps = np.array([0.08, 0.02, 0.0, 0.06, 0.04])
    result = CarliniLInfMethod(clf, eps=eps).run(X, y)
    assert np.all(np.abs(result.X_adv - X) <= eps)
    breakable = np.abs(clf.decision_function(X)) < 0.98 * (np.abs(clf.coef_[0]) @ eps)
    assert 0.1 < breakable.mean() < 1
    assert result.success[breakable].all()


def test_more_bounds_come_nearer(iris):
    clf, X, y = iris
    few, many = (CarliniLInfMethod(clf, binary_search_steps=k).run(X, y) for k in (2, 12))
    assert np.all(many.success >= few.success)
    assert np.all(many.distance[few.success] <= few.distance[few.success])
    assert np.median(many.distance) < 0.95 * np.median(few.distance)


@both
def test_nearest_by_brute_force(attack):
    """In two dimensions, against all points of a fine grid."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X[:, 2:])
    clf = SVC(gamma=1.0).fit(X, y)
    norm = 2 if attack is CarliniL2Method else np.inf
    side = np.linspace(-2.5, 2.5, 251)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    lengths = np.linalg.norm(grid, ord=norm, axis=1)
    right = np.flatnonzero(clf.predict(X) == y)[::4]
    best = np.array([lengths[clf.predict(X[i] + grid) != y[i]].min() for i in right])
    result = attack(clf).run(X[right], y[right])
    assert result.success.mean() > 0.8  # elsewhere the gradient leads away from all other classes
    distances, best = result.distance[result.success], best[result.success]
    assert np.all(distances >= best - 0.03)  # the grid's own error
    relative = distances / (best + 0.01)
    # Descent ends at the nearest point of the way it takes, which may lead to another side.
    assert np.median(relative) <= (1.02 if norm == 2 else 1.2)
    assert relative.max() <= (1.5 if norm == 2 else 2.1)


class Rounded(ClassifierMixin, BaseEstimator):
    """A model that rounds its input, with the true derivative: zero."""

    def __init__(self, clf=None):
        self.clf = clf

    def fit(self, X, y):
        self.classes_ = self.clf.classes_
        return self

    def decision_function(self, X):
        return self.clf.decision_function(np.round(X))

    def predict(self, X):
        return self.clf.predict(np.round(X))


@register_rule(Rounded)
def rounded_rule(model, backend):
    inner = backend.bind(model.clf).forward

    def forward(X):
        scores, pull = inner(backend.xp.round(X))
        return scores, lambda cotangent: 0 * pull(cotangent)

    return forward


@both
def test_a_blind_attack_warns(attack, iris):
    _, X, y = iris
    model = Rounded(LogisticRegression().fit(X, y)).fit(X, y)
    with pytest.warns(AttackFailureWarning, match="gradient is zero"):
        attack(model, max_iter=5).run(X)


@both
def test_a_sound_attack_says_nothing(attack, digits):
    clf, X, y = digits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(clf, clip_values=(0, 1), max_iter=20).run(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"confidence": -1.0}, "confidence"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"const_factor": 1.0}, "const_factor"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"binary_search_steps": 0}, "binary_search_steps"),
    ],
)
def test_parameters_that_do_not_fit(params, message, binary):
    clf, X, _ = binary
    with pytest.raises(ValueError, match=message):
        CarliniL2Method(clf, **params).transform(X)
