"""The searches behind the attacks with a penalty, in every namespace."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skart._core._arrays import to_numpy
from skart._core._balls import make_ball
from skart._core._bound import within_bound, within_shrinking_bound
from skart._core._descent import Adam, by_adam, by_line_search
from skart._core._fista import by_fista
from skart._core._objectives import Asker
from skart._core._penalty import Closest, Constant, Penalty, by_penalty, start
from skart._core._spaces import Free, Tanh

W = np.array([[2.0, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 0.5], [0.5, 0.5, -1.0, -1.0]]).T
B = np.array([0.1, -0.2, 0.3])


def linear_asker(xp, n_samples, shift=0.0):
    """Scores ``x @ W + B``; with a shift, logits are others, as where votes are public."""
    weights, bias = xp.asarray(W), xp.asarray(B)

    def ask(x, scores="logits"):
        out = x @ weights + bias
        if scores == "logits":
            out = out + shift * xp.asarray([0.0, 1.0, 2.0])
        return out, lambda cotangent: cotangent @ weights.T

    return Asker(ask, n_samples)


@pytest.fixture
def samples():
    x = np.random.default_rng(0).uniform(0.1, 0.9, size=(30, 4))
    return x, (x @ W + B).argmax(axis=1)


def lead(x, labels):
    scores = x @ W + B
    own = scores[np.arange(len(x)), labels].copy()
    scores[np.arange(len(x)), labels] = -np.inf
    return scores.max(axis=1) - own


@pytest.mark.parametrize("targeted", [False, True])
def test_penalty_is_what_the_lead_lacks(xp, targeted, samples):
    x, labels = samples
    targets = (labels + 1) % 3
    penalty = Penalty(
        linear_asker(xp, 30), xp.asarray(labels), xp.asarray(targets) if targeted else None, confidence=0.5
    )
    missing, pull = penalty(xp.asarray(x))
    expected = 0.5 - (-lead(x, targets) if targeted else lead(x, labels))
    assert_allclose(to_numpy(missing), expected, atol=1e-5)
    # Never less than by the confidence, so that rounding takes back no success.
    assert np.all(to_numpy(missing) > expected)
    weight = np.linspace(0.5, 2.0, 30)
    grad = to_numpy(pull(xp.asarray(weight)))
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-6
        sign, goal = (-1, targets) if targeted else (1, labels)
        up, down = (np.maximum(0.5 - sign * lead(x + h, goal), 0) for h in (step, -step))
        assert_allclose(grad[:, k], weight * (up - down) / 2e-6, atol=1e-6)


def test_penalty_is_flat_where_the_goal_is_reached(xp, samples):
    x, labels = samples
    penalty = Penalty(linear_asker(xp, 30), xp.asarray((labels + 1) % 3), confidence=0.0)
    missing, pull = penalty(xp.asarray(x))
    assert np.all(to_numpy(missing) < 0)
    assert_array_equal(to_numpy(pull(xp.ones_like(missing))), 0.0)


def test_among_pairs_one_class_must_win_all(xp, samples):
    """Where the logits are not the scores that have a gradient, these are margins: positive for who wins."""
    x, labels = samples
    # All scores of some samples are negative, as those of classes that win pairs in a circle.
    x = x + np.outer(np.linspace(0, 2, 30), np.linalg.lstsq(W.T, -np.ones(3), rcond=None)[0])
    labels = (x @ W + B).argmax(axis=1)
    votes = Penalty(linear_asker(xp, 30, shift=5.0), xp.asarray((labels + 1) % 3))
    plain = Penalty(linear_asker(xp, 30), xp.asarray((labels + 1) % 3))
    scores = (x @ W + B).max(axis=1)
    reached = to_numpy(votes(xp.asarray(x))[0]) <= 0
    assert np.all(to_numpy(plain(xp.asarray(x))[0]) <= 0)
    assert_array_equal(reached, scores > 1e-4)
    assert 0 < reached.mean() < 1
    grad = to_numpy(votes(xp.asarray(x))[1](xp.ones(30, dtype=xp.float64)))
    assert_allclose(grad[~reached], -W.T[labels][~reached])


def test_closest_keeps_the_smallest_that_reaches(xp):
    x = xp.zeros((4, 2), dtype=xp.float64)
    closest = Closest(x, xp.asarray([1.0, 1.0, xp.nan, -1.0], dtype=xp.float64))

    def keep(value, size, missing, rows=None):
        n = len(size)
        closest.keep(
            xp.full((n, 2), value, dtype=xp.float64),
            xp.asarray(size, dtype=xp.float64),
            xp.asarray(missing, dtype=xp.float64),
            rows,
        )

    keep(1.0, [5.0, 5.0, 5.0, 5.0], [0.5, -1.0, 2.0, -1.0])
    assert_array_equal(to_numpy(closest.x[:, 0]), [1, 1, 1, 0])
    keep(2.0, [1.0, 6.0, 1.0, 1.0], [0.6, -9.0, -1.0, 1.0])  # lacks more; larger; reaches; does not
    assert_array_equal(to_numpy(closest.x[:, 0]), [1, 1, 2, 0])
    keep(3.0, [4.0, 0.5], [-1.0, float("nan")], xp.asarray([False, True, True, False]))
    assert_array_equal(to_numpy(closest.x[:, 0]), [1, 3, 2, 0])
    assert_array_equal(to_numpy(closest.size), [np.inf, 4, 1, 0])
    assert_array_equal(to_numpy(closest.reached), [False, True, True, True])
    assert_array_equal(to_numpy(x), 0)


def test_constant_doubles_and_then_halves(xp):
    constant = Constant(xp.asarray([1.0, 1.0], dtype=xp.float64), 2.0)
    seen = []
    for reached in ([False, True], [False, True], [True, False], [False, True]):
        constant.update(xp.asarray(reached))
        seen.append(to_numpy(constant.value).tolist())
    assert seen == [[2.0, 0.5], [4.0, 0.25], [3.0, 0.375], [3.5, 0.3125]]
    assert_array_equal(to_numpy(constant.bracketed), [True, True])


@pytest.mark.parametrize("kind", ["tanh", "free"])
def test_variables_go_there_and_back(xp, kind, samples):
    x, _ = samples
    low, high = np.full_like(x, 0.0), np.full_like(x, 1.0)
    low[:, 1] = high[:, 1] = x[:, 1]  # a feature that stays
    x[0, 0], x[1, 0] = 0.0, 1.0  # samples on a bound
    if kind == "tanh":
        space = Tanh(xp.asarray(low), xp.asarray(high))
    else:
        space = Free(xp.asarray(x), xp.asarray(low), xp.asarray(high), xp.asarray(np.linspace(0.1, 2, 30)))
    w = space.start(xp.asarray(x))
    assert np.all(np.isfinite(to_numpy(w)))
    assert_allclose(to_numpy(space.point(w)[0]), x, atol=1e-15)
    move = 0.01 * np.random.default_rng(1).standard_normal(x.shape)
    move[:2, 0] = 0.01, -0.01  # off the bounds
    w = w + xp.asarray(move)
    cotangent = np.random.default_rng(2).standard_normal(x.shape)
    grad = to_numpy(space.pull(xp.asarray(cotangent), space.point(w)[1]))
    up, down = (to_numpy(space.point(w + h)[0]) for h in (1e-6, -1e-6))
    assert_allclose(grad, cotangent * (up - down) / 2e-6, atol=1e-7)
    assert_array_equal(grad[:, 1], 0.0)
    for far in (-100.0, 100.0):
        point = to_numpy(space.point(w + far)[0])
        assert np.all((point >= low) & (point <= high))
    rows = xp.asarray(np.arange(30) % 2 == 0)
    assert_array_equal(to_numpy(space[rows].point(w[rows])[0]), to_numpy(space.point(w)[0])[::2])


def test_adam_is_torch_s(xp):
    """With a rate that falls linearly."""
    grads = np.random.default_rng(0).standard_normal((20, 3, 5))
    w = xp.zeros((3, 5), dtype=xp.float64)
    adam = Adam(w, 0.1, 20)
    theirs = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 20)
    for grad in grads:
        adam.step(xp.asarray(grad, copy=True))
        theirs.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        schedule.step()
    # Their small constant is added to another multiple of the root.
    assert_allclose(to_numpy(adam.w), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


SEARCHES = {
    "adam": partial(by_adam, learning_rate=None, max_iter=60, abort_early=False),
    "adam, aborted": partial(by_adam, learning_rate=None, max_iter=60, abort_early=True),
    "line search": partial(by_line_search, learning_rate=0.1, max_iter=20, max_halving=5, max_doubling=5),
    "fista": partial(by_fista, beta=0.0, rule="L2", learning_rate=0.05, max_iter=60, abort_early=False),
    "fista, aborted": partial(by_fista, beta=0.0, rule="L2", learning_rate=0.05, max_iter=60, abort_early=True),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_is_near_on_a_linear_model(xp, name, samples):
    x, labels = samples
    asker = linear_asker(xp, 30)
    ball = make_ball(xp.asarray(x), norm=2, eps=np.inf)
    found = by_penalty(
        xp.asarray(x),
        Penalty(asker, xp.asarray(labels)),
        ball=ball,
        search=SEARCHES[name],
        initial_const=None,
        const_factor=2.0,
        n_searches=6,
        abort_early="aborted" in name,
    )
    found = to_numpy(found)
    assert np.all(lead(found, labels) > 0)
    rivals = np.arange(3)[None, :] != labels[:, None]
    gaps = ((x @ W + B)[np.arange(30), labels])[:, None] - (x @ W + B)
    apart = np.linalg.norm(W.T[labels][:, None, :] - W.T[None], axis=2)
    best = np.where(rivals, gaps / np.where(rivals, apart, 1.0), np.inf).min(axis=1)
    relative = np.linalg.norm(found - x, axis=1) / best
    assert relative.min() > 1 - 1e-9
    assert np.median(relative) <= 1.05


@pytest.mark.parametrize("fixed", [True, False])
def test_bounds_of_the_maximum_norm(xp, fixed, samples):
    x, labels = samples
    penalty = Penalty(linear_asker(xp, 30), xp.asarray(labels))
    gaps = ((x @ W + B)[np.arange(30), labels])[:, None] - (x @ W + B)
    apart = np.abs(W.T[labels][:, None, :] - W.T[None]).sum(axis=2)
    rivals = np.arange(3)[None, :] != labels[:, None]
    best = np.where(rivals, gaps / np.where(rivals, apart, 1.0), np.inf).min(axis=1)
    eps = float(np.quantile(best, 0.5))
    ball = make_ball(xp.asarray(x), norm=np.inf, eps=eps if fixed else np.inf)
    params = {"ball": ball, "learning_rate": 0.2, "max_iter": 50}
    if fixed:
        found = to_numpy(within_bound(xp.asarray(x), penalty, **params))
        assert np.abs(found - x).max() <= eps * (1 + 1e-12)
        sure = np.abs(best / eps - 1) > 0.02
        assert np.all((lead(found, labels) > 0)[sure & (best > eps)] == 0)
        assert np.mean((lead(found, labels) > 0)[sure & (best < eps)]) > 0.9
    else:
        found = to_numpy(within_shrinking_bound(xp.asarray(x), penalty, n_searches=8, **params))
        assert np.all(lead(found, labels) > 0)
        assert np.median(np.abs(found - x).max(axis=1) / best) <= 1.02


def test_a_start_where_all_is_done_asks_for_no_gradient(xp, samples):
    x, labels = samples
    asker = linear_asker(xp, 30)
    ball = make_ball(xp.asarray(x), norm=2, eps=np.inf)
    clean, x_adv, _ = start(xp.asarray(x), Penalty(asker, xp.asarray((labels + 1) % 3)), ball)
    assert clean is None
    assert_array_equal(to_numpy(x_adv), x)
    assert asker.ledger.n_gradients.sum() == 0
