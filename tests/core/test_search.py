from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog, minimize

from skart._core._arrays import to_numpy
from skart._core._balls import make_ball
from skart._core._objectives import Evaluation, Objective
from skart._core._search import Found, best_of, minimal_step, projected_ascent, single_step

NORMS_AND_DUALS = [(1, np.inf), (2, 2), (np.inf, 1)]
norms_and_duals = pytest.mark.parametrize(("norm", "dual"), NORMS_AND_DUALS)


class Function:
    """A value and a gradient for each sample, from callables; it notes the passes and their samples."""

    def __init__(self, value, grad, adversarial=None, rows=None, passes=None):
        self._value, self._grad = value, grad
        self._adversarial = adversarial or (lambda value: value > np.inf)
        self.rows = rows
        self.passes = [] if passes is None else passes

    def __getitem__(self, rows):
        kept = to_numpy(rows)
        mine = np.flatnonzero(kept) if self.rows is None else self.rows[kept]
        return Function(self._value, self._grad, self._adversarial, mine, self.passes)

    def __call__(self, x):
        self._note("gradient", x)
        value = self._value(x)
        return Evaluation(value, self._grad(x), self._adversarial(value))

    def value(self, x):
        self._note("value", x)
        value = self._value(x)
        return Evaluation(value, None, self._adversarial(value))

    def _note(self, kind, x):
        self.passes.append((kind, list(range(x.shape[0])) if self.rows is None else self.rows.tolist()))


def linear(xp, w, adversarial=None):
    w = xp.asarray(w, dtype=xp.float64)
    return Function(lambda x: x @ w, lambda x: xp.broadcast_to(w, x.shape), adversarial)


def logistic(xp, w, bias, labels):
    """A two-class linear model with the decision ``x @ w + bias``, as the objective of an attack."""
    weights = xp.stack([xp.zeros_like(xp.asarray(w)), xp.asarray(w)], axis=1)

    def ask(x, scores):
        return x @ weights + xp.asarray([0.0, bias], dtype=x.dtype), lambda cotangent: cotangent @ weights.T

    return Objective(ask, "cross_entropy", xp.asarray(labels))


@norms_and_duals
@pytest.mark.parametrize("n_features", [2, 100])
def test_ascent_reaches_the_linear_optimum(xp, norm, dual, n_features):
    w = np.random.default_rng(0).standard_normal(n_features)
    x = xp.zeros((5, n_features), dtype=xp.float64)
    ball = make_ball(x, norm=norm, eps=0.5)
    found = projected_ascent(x, linear(xp, w), ball=ball, eps_step=0.05, max_iter=20)
    # A linear score gains at most eps * ||w||_dual inside the ball.
    assert_allclose(to_numpy(found.value), 0.5 * np.linalg.norm(w, ord=dual), rtol=1e-9)
    assert_allclose(to_numpy(found.x @ xp.asarray(w)), to_numpy(found.value))


def best_in_box(w, x, norm, eps):
    """Largest gain of ``w @ delta`` with ``x + delta`` in [0, 1], by a general solver."""
    d = len(w)
    if norm == 2:
        solution = minimize(
            lambda delta: -w @ delta,
            np.zeros(d),
            jac=lambda delta: -w,
            bounds=list(zip(-x, 1 - x)),
            constraints={"type": "ineq", "fun": lambda u: eps**2 - u @ u, "jac": lambda u: -2 * u},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return -solution.fun
    bounds = list(zip(np.zeros(d), 1 - x)) + list(zip(np.zeros(d), x))
    rows = np.ones((1, 2 * d)) if norm == 1 else np.eye(2 * d)
    return -linprog(np.concatenate([-w, w]), A_ub=rows, b_ub=np.full(len(rows), eps), bounds=bounds).fun


@norms_and_duals
@pytest.mark.parametrize("from_sample", [False, True])
def test_ascent_reaches_the_linear_optimum_in_a_box(xp, norm, dual, from_sample):
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal(8), rng.uniform(0, 1, (6, 8))
    eps = {1: 2.0, 2: 0.8, np.inf: 0.3}[norm]
    expected = [best_in_box(w, sample, norm, eps) for sample in x]
    ball = make_ball(xp.asarray(x), norm=norm, eps=eps, clip_values=(0.0, 1.0))
    start = ball.sample(np.random.default_rng(2)) if from_sample else ball.centre
    found = projected_ascent(start, linear(xp, w), ball=ball, eps_step=eps / 5, max_iter=60)
    assert_allclose(to_numpy(found.value) - x @ w, expected, rtol=1e-4)
    assert np.all(to_numpy(found.value) - x @ w <= np.asarray(expected) * (1 + 1e-6))
    assert_allclose((to_numpy(single_step(start, linear(xp, w), ball=ball)) - x) @ w, expected, rtol=1e-6)


@pytest.mark.parametrize("max_iter", [1, 2, 7])
def test_ascent_makes_the_passes_it_says(xp, max_iter):
    x = xp.zeros((3, 2), dtype=xp.float64)
    function = linear(xp, [1.0, -2.0])
    projected_ascent(x, function, ball=make_ball(x, norm=2, eps=1.0), eps_step=0.1, max_iter=max_iter)
    assert [kind for kind, _ in function.passes] == ["gradient"] * max_iter + ["value"]
    function = linear(xp, [1.0, -2.0])
    single_step(x, function, ball=make_ball(x, norm=2, eps=1.0))
    assert [kind for kind, _ in function.passes] == ["gradient"]


def test_ascent_keeps_the_best_iterate(xp):
    # Steps of 1 from 0.4 towards the top at 0 go to -0.6, to 0.4 and so on; from 0.9 to -0.1 and to 0.9.
    function = Function(lambda x: -xp.abs(x[:, 0]), lambda x: -x)
    x = xp.asarray([[0.4], [0.9]], dtype=xp.float64)
    for max_iter in (1, 2, 3, 4):
        found = projected_ascent(x, function, ball=make_ball(x, norm=2, eps=9.0), eps_step=1.0, max_iter=max_iter)
        assert_allclose(to_numpy(found.x), [[0.4], [-0.1]])
        assert_allclose(to_numpy(found.value), [-0.4, -0.1])


def test_adversarial_comes_before_value(xp):
    held = Found(xp.asarray([[1.0]] * 4), xp.asarray([5.0, 5.0, 1.0, 1.0]), xp.asarray([False, True, True, False]))
    there = Evaluation(xp.asarray([1.0, 9.0, 2.0, 1.0]), None, xp.asarray([True, False, True, False]))
    kept = held.keep_better(xp.asarray([[2.0]] * 4), there)
    assert_array_equal(to_numpy(kept.x)[:, 0], [2, 1, 2, 2])
    assert_array_equal(to_numpy(kept.value), [1, 5, 2, 1])
    assert_array_equal(to_numpy(kept.adversarial), [True, True, True, False])


@norms_and_duals
def test_early_stop_finds_the_same_samples_and_asks_less(xp, norm, dual):
    rng = np.random.default_rng(3)
    w, x = rng.standard_normal(5), rng.standard_normal((40, 5))
    eps = 1.0 / np.linalg.norm(w, ord=dual)
    decision = x @ w + 0.2
    labels = (decision > 0).astype(int)
    labels[:3] = 1 - labels[:3]  # wrong as they come
    distance = np.where(labels == 1, decision, -decision)  # in units of what eps can move
    found, ledgers = [], []
    for early_stop in (False, True):
        objective = logistic(xp, w, 0.2, labels)
        ball = make_ball(xp.asarray(x), norm=norm, eps=eps)
        found.append(
            projected_ascent(ball.centre, objective, ball=ball, eps_step=eps / 8, max_iter=10, early_stop=early_stop)
        )
        ledgers.append(objective.ledger)
    for each in found:
        assert_array_equal(to_numpy(each.adversarial), distance < 1)
    assert 5 < np.sum(distance < 1) < 35
    assert_array_equal(ledgers[0].n_queries, 11)
    assert_array_equal(ledgers[0].n_gradients, 10)
    # A step moves the decision by an eighth; the first evaluation is that of the clean sample.
    needed = np.maximum(np.floor(distance * 8) + 1, 0) + 1
    assert_array_equal(ledgers[1].n_queries, np.where(distance < 1, needed, 11))
    assert_array_equal(to_numpy(found[1].x)[:3], x[:3])
    moved = to_numpy(found[1].x) @ w + 0.2
    assert_array_equal((moved > 0) != labels, distance < 1)
    # Those that resist have gone all the way in both.
    assert_allclose(to_numpy(found[1].x)[distance >= 1], to_numpy(found[0].x)[distance >= 1])


def test_early_stop_ends_with_the_last_sample(xp):
    x = xp.asarray([[0.0, 0.0], [-0.25, 0.0]], dtype=xp.float64)
    function = linear(xp, [1.0, 0.0], adversarial=lambda value: value > 0.5)
    ball = make_ball(x, norm=np.inf, eps=9.0)
    found = projected_ascent(x, function, ball=ball, eps_step=0.3, max_iter=50, early_stop=True)
    assert_allclose(to_numpy(found.x)[:, 0], [0.6, 0.65])
    assert [rows for _, rows in function.passes] == [[0, 1], [0, 1], [0, 1], [1]]


@norms_and_duals
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_minimal_step_is_the_first_that_flips(xp, norm, dual, dtype):
    rng = np.random.default_rng(4)
    w, x = rng.standard_normal(6), rng.standard_normal((50, 6)).astype(dtype)
    w, bias, eps_step = (w / np.linalg.norm(w, ord=dual)).astype(dtype), 0.1, 0.07
    decision = x @ w + bias
    labels = (decision > 0).astype(int)
    labels[:4] = 1 - labels[:4]
    objective = logistic(xp, w, bias, labels)
    ball = make_ball(xp.asarray(x), norm=norm, eps=1.05)
    found = minimal_step(ball.centre, objective, ball=ball, eps_step=eps_step, eps_max=1.05)
    # With ||w||_dual = 1 the distance to the other side is |decision|.
    n_steps = np.floor(np.abs(decision) / eps_step) + 1
    n_steps[:4] = 0
    flips = n_steps <= 15
    assert 10 < flips.sum() < 50
    assert_array_equal(to_numpy(found.adversarial), flips)
    assert_allclose(ball.distance(found.x), eps_step * np.minimum(n_steps, 15), rtol=1e-5)
    assert_array_equal(to_numpy(found.x)[:4], x[:4])
    assert_array_equal(objective.ledger.n_gradients, 1)
    assert_array_equal(objective.ledger.n_queries, 1 + np.minimum(n_steps, 15))


def test_minimal_step_tries_the_last_multiple(xp):
    # 0.1 * 3 > 0.3 and 0.3 / 0.1 < 3 in floating point: three steps all the same.
    x = xp.zeros((1, 1), dtype=xp.float64)
    for eps_step, eps_max, last in ((0.1, 0.3, 0.3), (0.1, 1.0, 1.0), (0.3, 1.0, 0.9), (0.1, 0.7, 0.7)):
        ball = make_ball(x, norm=np.inf, eps=eps_max)
        found = minimal_step(x, linear(xp, [1.0]), ball=ball, eps_step=eps_step, eps_max=eps_max)
        assert_allclose(to_numpy(found.x), [[last]], rtol=1e-15)


def test_best_of_leaves_out_what_is_broken(xp):
    # A search that stays where it starts shows what the starts gave.
    def stay(x, objective, *, ball):
        assert ball.centre.shape == x.shape
        here = objective.value(x)
        return Found(x, here.value, here.adversarial)

    starts = [
        xp.asarray(start, dtype=xp.float64) for start in ([[3.0], [1.0], [2.0]], [[9.0], [5.0], [1.0]], [[9.0]] * 3)
    ]
    function = Function(lambda x: x[:, 0], None, adversarial=lambda value: (value > 2.5) & (value < 8))
    found = best_of(iter(starts), function, stay, ball=make_ball(starts[0], norm=2, eps=1.0))
    assert [rows for _, rows in function.passes] == [[0, 1, 2], [1, 2], [2]]
    assert_array_equal(to_numpy(found.x)[:, 0], [3, 5, 9])
    assert_array_equal(to_numpy(found.value), [3, 5, 9])
    assert_array_equal(to_numpy(found.adversarial), [True, True, False])


def test_best_of_stops_when_all_are_broken(xp):
    x = xp.zeros((2, 2), dtype=xp.float64)

    def starts():
        yield x
        yield x + 1
        raise AssertionError("a start that nothing needs")

    function = linear(xp, [1.0, 1.0], adversarial=lambda value: value > 1.5)
    search = partial(projected_ascent, eps_step=0.1, max_iter=2)
    found = best_of(starts(), function, search, ball=make_ball(x, norm=np.inf, eps=1.0))
    assert np.all(to_numpy(found.adversarial))
    assert_allclose(to_numpy(found.x), 1.0)


@norms_and_duals
def test_float32_in_float32_out(xp, norm, dual):
    x = xp.asarray(np.random.default_rng(5).standard_normal((4, 3)), dtype=xp.float32)
    w = np.asarray([1.0, -2.0, 0.5], dtype=np.float32)
    ball = make_ball(x, norm=norm, eps=0.5)
    for found in (
        projected_ascent(x, logistic(xp, w, 0.0, [0, 1, 0, 1]), ball=ball, eps_step=np.float64(0.1), max_iter=3),
        projected_ascent(x, logistic(xp, w, 0.0, [0, 1, 0, 1]), ball=ball, eps_step=0.1, max_iter=3, early_stop=True),
        minimal_step(x, logistic(xp, w, 0.0, [0, 1, 0, 1]), ball=ball, eps_step=np.float64(0.1), eps_max=0.5),
    ):
        assert found.x.dtype == xp.float32
        assert found.value.dtype == xp.float32
    assert single_step(x, logistic(xp, w, 0.0, [0, 1, 0, 1]), ball=ball).dtype == xp.float32


def test_inputs_are_left_alone(xp):
    x = xp.asarray(np.random.default_rng(6).standard_normal((6, 3)))
    before = to_numpy(x).copy()
    function = linear(xp, [1.0, 2.0, -1.0], adversarial=lambda value: value > 0.5)
    ball = make_ball(x, norm=2, eps=1.0)
    projected_ascent(x, function, ball=ball, eps_step=0.3, max_iter=5, early_stop=True)
    minimal_step(x, function, ball=ball, eps_step=0.3, eps_max=1.0)
    best_of([x, x], function, partial(projected_ascent, eps_step=0.1, max_iter=1), ball=ball)
    assert_array_equal(to_numpy(x), before)
    assert_array_equal(to_numpy(ball.centre), before)
