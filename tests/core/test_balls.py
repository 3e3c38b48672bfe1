import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.optimize import LinearConstraint, NonlinearConstraint, linprog, minimize

from skart._core._arrays import to_numpy
from skart._core._balls import make_ball, norm_of

NORMS = [1, 2, np.inf]
N_FEATURES = 6


class Problem:
    """A random ball in NumPy, for solvers that know nothing of skart, and the same in another namespace."""

    def __init__(self, xp, norm, *, eps=0.7, box=True, mask=False, seed=0, n_samples=5, dtype="float64"):
        rng = np.random.default_rng(seed)
        self.xp, self.norm, self.rng, self.dtype = xp, norm, rng, dtype
        self.shape = (n_samples, N_FEATURES)
        self.centre = rng.uniform(0, 1, self.shape).astype(dtype)
        self.centre[0, :2] = 0, 1  # at the box
        self.eps = np.broadcast_to(eps, N_FEATURES).astype(float)
        self.low, self.high = (0.0, 1.0) if box else (-np.inf, np.inf)
        free = self.eps > 0
        self.mask = None
        if mask:
            self.mask = np.arange(N_FEATURES) % 3 != 1
            free = free & self.mask
        # In units of eps: the ball has radius 1, and features without room stand still.
        self.unit = np.where(self.eps > 0, self.eps, 1.0)
        self.lower = np.where(free, (self.low - self.centre) / self.unit, 0.0)
        self.upper = np.where(free, (self.high - self.centre) / self.unit, 0.0)
        self.ball = make_ball(
            self.asarray(self.centre), norm=norm, eps=eps, clip_values=(0.0, 1.0) if box else None, mask=self.mask
        )

    def asarray(self, values):
        return self.xp.asarray(values, dtype=getattr(self.xp, self.dtype))

    def points(self, scale=1.5):
        return (self.centre + scale * self.rng.standard_normal(self.shape)).astype(self.dtype)

    def is_inside(self, x, length=1.0):
        delta = (np.asarray(x, dtype=float) - self.centre) / self.unit
        radius = np.linalg.norm(delta, ord=self.norm, axis=1)
        return np.all((delta >= self.lower - 1e-9) & (delta <= self.upper + 1e-9), axis=1) & (radius <= length + 1e-9)


def nearest(delta, lower, upper, norm):
    """Projection of ``delta`` on the unit ball and a box, by a general solver."""
    d = len(delta)
    if norm == 1:  # delta = p - q with p, q >= 0: a quadratic program
        split = minimize(
            lambda u: 0.5 * np.sum((u[:d] - u[d:] - delta) ** 2),
            np.zeros(2 * d),
            jac=lambda u: np.concatenate([u[:d] - u[d:] - delta, -(u[:d] - u[d:] - delta)]),
            bounds=list(zip(np.zeros(d), upper)) + list(zip(np.zeros(d), -lower)),
            constraints=LinearConstraint(np.ones((1, 2 * d)), -np.inf, 1.0),
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        return split.x[:d] - split.x[d:]
    constraints = () if norm == np.inf else NonlinearConstraint(lambda u: u @ u, 0, 1.0, jac=lambda u: 2 * u[None, :])
    if norm == np.inf:
        lower, upper = np.maximum(lower, -1), np.minimum(upper, 1)
    return minimize(
        lambda u: 0.5 * np.sum((u - delta) ** 2),
        np.zeros(d),
        jac=lambda u: u - delta,
        bounds=list(zip(lower, upper)),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    ).x


def highest(grad, lower, upper, norm):
    """The largest value of ``grad @ u`` in the unit ball and a box, by a general solver."""
    d = len(grad)
    if norm == 2:
        solution = minimize(
            lambda u: -grad @ u,
            np.zeros(d),
            jac=lambda u: -grad,
            bounds=list(zip(lower, upper)),
            constraints=NonlinearConstraint(lambda u: u @ u, 0, 1.0, jac=lambda u: 2 * u[None, :]),
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        return -solution.fun
    bounds = list(zip(np.zeros(d), upper)) + list(zip(np.zeros(d), -lower))
    budget = np.ones((1, 2 * d)) if norm == 1 else np.eye(2 * d)
    return -linprog(np.concatenate([-grad, grad]), A_ub=budget, b_ub=np.ones(len(budget)), bounds=bounds).fun


EPS = {
    "one": 0.7,
    "each": [0.2, 0.9, 0.5, 1.3, 0.4, 0.8],
    "zeros": [0.2, 0.0, 0.5, 1.3, 0.0, 0.8],
}
shapes_of_balls = pytest.mark.parametrize(
    ("eps", "box", "mask"),
    [
        ("one", False, False),
        ("one", True, False),
        ("one", False, True),
        ("one", True, True),
        ("each", False, False),
        ("each", True, False),
        ("zeros", False, False),
        ("zeros", True, True),
    ],
)


@pytest.mark.parametrize("norm", NORMS)
@shapes_of_balls
def test_project_is_the_nearest_point(xp, norm, eps, box, mask):
    problem = Problem(xp, norm, eps=EPS[eps], box=box, mask=mask)
    x = problem.points()
    delta = (x - problem.centre) / problem.unit
    expected = problem.centre + problem.unit * np.stack(
        [nearest(*sample, norm) for sample in zip(delta, problem.lower, problem.upper)]
    )
    projected = problem.ball.project(problem.asarray(x))
    assert_allclose(to_numpy(projected), expected, atol=1e-6)
    assert np.all(problem.is_inside(to_numpy(projected)))
    assert_allclose(to_numpy(problem.ball.project(projected)), to_numpy(projected), atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_project_leaves_points_of_the_set_as_they_are(xp, norm, dtype):
    problem = Problem(xp, norm, dtype=dtype, n_samples=50)
    x = problem.asarray(np.clip(problem.points(scale=0.1), 0, 1))
    inside = to_numpy(problem.ball.contains(x))
    assert 0 < inside.sum()
    # In the same batch as points that do move.
    x[0, ...] = 5.0
    assert_array_equal(to_numpy(problem.ball.project(x))[1:][inside[1:]], to_numpy(x)[1:][inside[1:]])


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("distance", [1.0, 1e6])
def test_project_in_float32_agrees_with_float64(norm, distance):
    # A threshold near 1e6 has a spacing of 0.06 in float32: measured from zero it would spoil a radius of 1.
    rng = np.random.default_rng(0)
    centre = np.zeros((20, 300))
    x = (distance + rng.uniform(0, 0.1, centre.shape)).astype(np.float32)
    for clip_values in (None, (-0.01, 0.01)):
        results = [
            make_ball(centre.astype(dtype), norm=norm, eps=1.0, clip_values=clip_values).project(x.astype(dtype))
            for dtype in (np.float32, np.float64)
        ]
        assert results[0].dtype == np.float32
        assert_allclose(results[0], results[1], atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@shapes_of_balls
def test_farthest_solves_the_linear_program(xp, norm, eps, box, mask):
    problem = Problem(xp, norm, eps=EPS[eps], box=box, mask=mask, seed=1)
    grad = problem.rng.standard_normal(problem.shape)
    grad[1, 2] = 0.0
    for radius in (None, 0.4):
        length = 1.0 if radius is None else radius
        if np.ndim(EPS[eps]) == 0 and radius is not None:
            length /= EPS[eps]
        end = to_numpy(problem.ball.farthest(problem.asarray(grad), radius=radius))
        assert np.all(problem.is_inside(end, length))
        gain = np.sum(grad * (end - problem.centre), axis=1)
        expected = [
            length * highest(g * problem.unit, low / length, high / length, norm)
            for g, low, high in zip(grad, problem.lower, problem.upper)
        ]
        assert_allclose(gain, expected, rtol=1e-6)
        assert end[1, 2] == problem.centre[1, 2]


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("eps", ["one", "zeros"])
def test_steepest_l1_step_solves_the_linear_program(xp, eps, box):
    problem = Problem(xp, 1, eps=EPS[eps], box=box, mask=True, seed=2)
    x = to_numpy(problem.ball.sample(np.random.default_rng(0)))
    grad = problem.rng.standard_normal(problem.shape)
    step = 0.9 * np.asarray(EPS[eps])
    moved = x + to_numpy(problem.ball.steepest(problem.asarray(grad), problem.asarray(x), step))
    if box:
        moved = np.clip(moved, 0, 1)
    moved = np.where(problem.upper > problem.lower, moved - x, 0.0) / (0.9 * problem.unit)
    free = problem.upper > problem.lower
    lower = np.where(free, (problem.low - x) / (0.9 * problem.unit), 0.0)
    upper = np.where(free, (problem.high - x) / (0.9 * problem.unit), 0.0)
    assert np.all((moved >= lower - 1e-9) & (moved <= upper + 1e-9))
    assert np.all(np.abs(moved).sum(axis=1) <= 1 + 1e-9)
    weighted = grad * 0.9 * problem.unit
    expected = [highest(*sample, 1) for sample in zip(weighted, lower, upper)]
    assert_allclose(np.sum(weighted * moved, axis=1), expected, rtol=1e-9)


@pytest.mark.parametrize("n_features", [30, 200])
def test_l1_step_that_fills_many_features(xp, n_features):
    # More features than the search for single ones goes through, with ties, against a plain loop.
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, 1, (8, n_features))
    grad = np.round(rng.standard_normal(centre.shape), 1)
    radius = n_features / 8
    ball = make_ball(xp.asarray(centre), norm=1, eps=radius, clip_values=(0.0, 1.0))
    gain = np.sum(grad * (to_numpy(ball.farthest(xp.asarray(grad))) - centre), axis=1)
    for g, c, found in zip(grad, centre, gain):
        left, expected = radius, 0.0
        for k in np.argsort(-np.abs(g)):
            room = min(left, 1 - c[k] if g[k] > 0 else c[k])
            left, expected = left - room, expected + abs(g[k]) * room
        assert found == pytest.approx(expected, rel=1e-12)


def test_steepest_l2_step_is_the_gradient_of_the_features_that_can_move(xp):
    problem = Problem(xp, 2, eps=EPS["each"])
    grad = problem.rng.standard_normal(problem.shape)
    grad[0, :2] = -1, 1  # against the box, where the centre is
    grad[1] = 0.0
    step = 0.5 * problem.eps
    moved = to_numpy(problem.ball.steepest(problem.asarray(grad), problem.asarray(problem.centre), step))
    weighted = grad * step
    weighted[0, :2] = 0
    # Of all steps d with ||d / step|| = 1 the best is that along grad * step**2.
    expected = step * weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-300)
    inside = np.clip(problem.centre + moved, 0, 1) - problem.centre
    assert_allclose(inside, np.clip(problem.centre + expected, 0, 1) - problem.centre, rtol=1e-9, atol=1e-15)
    assert np.all(moved[1] == 0)
    # Those at the box go on pushing against it, by one step at most.
    assert moved[0, 0] < 0 < moved[0, 1] <= step[1]


def test_steepest_inf_step_is_the_sign(xp):
    problem = Problem(xp, np.inf)
    grad = problem.asarray(np.tile([-3.0, 0.0, 1e-200, 2.0, 1e200, -0.0], (5, 1)))
    moved = problem.ball.steepest(grad, problem.ball.centre, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert_array_equal(to_numpy(moved), np.tile([-0.1, 0.0, 0.3, 0.4, 0.5, 0.0], (5, 1)))


@pytest.mark.parametrize("norm", NORMS)
@shapes_of_balls
def test_samples_lie_in_the_set_and_are_the_same_everywhere(xp, norm, eps, box, mask):
    problem = Problem(xp, norm, eps=EPS[eps], box=box, mask=mask, n_samples=200, dtype="float32")
    x = problem.ball.enforce(problem.ball.sample(np.random.default_rng(3)))
    assert np.all(to_numpy(problem.ball.contains(x)))
    reference = Problem(np, norm, eps=EPS[eps], box=box, mask=mask, n_samples=200, dtype="float32").ball
    assert_array_equal(to_numpy(x), reference.enforce(reference.sample(np.random.default_rng(3))))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mask", [None, [True, False, True, True, False]])
def test_samples_are_uniform(norm, mask):
    d, n_free = 5, 5 if mask is None else 3
    x = make_ball(np.zeros((20000, d)), norm=norm, eps=2.0, mask=mask).sample(np.random.default_rng(4)) / 2.0
    # Laws of one coordinate, and of the radius, of a uniform point in the unit ball of n_free dimensions.
    share, law = {
        1: (np.abs(x), stats.beta(1, n_free)),
        2: (x**2, stats.beta(0.5, (n_free + 1) / 2)),
        np.inf: (np.abs(x), stats.uniform()),
    }[norm]
    for k in (0, 2):
        assert stats.kstest(share[:, k], law.cdf).pvalue > 1e-3
        assert abs(np.mean(x[:, k] > 0) - 0.5) < 0.02
    radius = np.linalg.norm(x, ord=norm, axis=1)
    assert stats.kstest(radius, stats.beta(n_free, 1).cdf).pvalue > 1e-3
    if mask is not None:
        assert np.all(x[:, [1, 4]] == 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.3, "each"])
@pytest.mark.parametrize("size", [1e-3, 300.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_enforced_samples_keep_the_radius(xp, norm, eps, size, dtype):
    rng = np.random.default_rng(5)
    centre = (size * rng.standard_normal((300, 40))).astype(dtype)
    eps = 0.3 if eps == 0.3 else rng.uniform(0.1, 1.0, 40)
    ball = make_ball(xp.asarray(centre), norm=norm, eps=eps, clip_values=(-2000.0, 2000.0))
    x = ball.farthest(xp.asarray(rng.standard_normal(centre.shape).astype(dtype)))
    outside = measured(x, centre, eps, norm) > (eps if np.ndim(eps) == 0 else 1.0)
    held = ball.enforce(x)
    assert held.dtype == x.dtype
    length = measured(held, centre, eps, norm)
    radius = eps if np.ndim(eps) == 0 else 1.0
    # For float32 to the last bit; for float64 the measure itself rounds, in an order of its own.
    assert np.all(length <= radius * (1 if dtype == "float32" else 1 + 1e-15))
    # What is given up is rounding alone: about one spacing of the data in each feature.
    spacing = np.finfo(dtype).eps * 5 * size * 40 / np.min(eps) * radius + 1e-5 * (dtype == "float32")
    assert np.all(length >= radius - spacing - 1e-12)
    if norm != np.inf:
        assert np.ndim(eps) > 0 or outside.any()  # else the test shows nothing
    inside = to_numpy(norm_of(xp.astype(x - ball.centre, xp.float64), norm)) < 0.99 * np.min(eps)
    assert_array_equal(to_numpy(held)[inside], to_numpy(x)[inside])
    assert np.all(to_numpy(ball.contains(held)))


def measured(x, centre, eps, norm):
    delta = to_numpy(x).astype(np.float64) - centre.astype(np.float64)
    return np.linalg.norm(delta if np.ndim(eps) == 0 else delta / eps, ord=norm, axis=1)


def test_enforce_changes_only_what_is_outside(xp):
    centre = xp.zeros((3, 2), dtype=xp.float32)
    ball = make_ball(centre, norm=2, eps=1.0, clip_values=(-1.0, 1.0))
    x = xp.asarray([[0.6, 0.8], [0.6, 0.7], [0.5, 1.5]], dtype=xp.float32)
    held = to_numpy(ball.enforce(x))
    # In float32 0.6 and 0.8 are both too large; the last is clipped to (0.5, 1) first.
    assert np.all(np.linalg.norm(held.astype(np.float64), axis=1) <= 1)
    assert_allclose(held, [[0.6, 0.8], [0.6, 0.7], [1 / 5**0.5, 2 / 5**0.5]], rtol=1e-6)
    assert_array_equal(held[1], to_numpy(x)[1])


@pytest.mark.parametrize("magnitude", [1e-6, 1e-2, 1.0, 255.0, 1e4])
@pytest.mark.parametrize("eps", [0.1, 0.3, 8 / 255, [0.1, 0.3, 8 / 255, 1e-3]])
def test_inf_interval_is_the_largest_that_never_exceeds_eps(xp, magnitude, eps):
    rng = np.random.default_rng(6)
    centre = (magnitude * rng.standard_normal((500, 4))).astype(np.float32)
    ball = make_ball(xp.asarray(centre), norm=np.inf, eps=eps)
    wide = centre.astype(np.float64)
    for end, way in ((ball.lower, -np.inf), (ball.upper, np.inf)):
        end = to_numpy(end)
        assert end.dtype == np.float32
        assert np.all(np.abs(end.astype(np.float64) - wide) <= eps)
        next_one = np.nextafter(end, np.float32(way)).astype(np.float64)
        assert np.all(np.abs(next_one - wide) > eps)


@pytest.mark.filterwarnings("ignore:overflow")
def test_inf_interval_at_the_end_of_the_numbers(xp):
    # In float32 1.2e38 rounds up and 2e38 down; 3e38 plus either is past the largest.
    centre = np.asarray([[3e38, 0.0, -3e38]], dtype=np.float32)
    for eps in (1.2e38, 2e38):
        ball = make_ball(xp.asarray(centre), norm=np.inf, eps=eps)
        for end in (ball.lower, ball.upper):
            reach = np.abs(to_numpy(end).astype(np.float64) - centre)
            assert np.all(reach <= eps)
            assert reach[0, 1] >= eps * (1 - 1e-7)
        largest = np.finfo(np.float32).max
        assert_array_equal([to_numpy(ball.upper)[0, 0], to_numpy(ball.lower)[0, 2]], [largest, -largest])
    ball = make_ball(xp.asarray(centre), norm=np.inf, eps=np.inf)
    assert_array_equal(to_numpy(ball.upper), np.inf)
    assert_array_equal(to_numpy(ball.lower), -np.inf)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_sees_the_ball_the_box_and_the_mask(xp, norm):
    centre = xp.asarray([[0.5, 0.5, 0.5]] * 6, dtype=xp.float64)
    ball = make_ball(centre, norm=norm, eps=0.4, clip_values=([0, 0, 0.45], 1.0), mask=[True, False, True])
    x = xp.asarray(
        [
            [0.5, 0.5, 0.5],
            [0.899, 0.5, 0.5],
            [0.901, 0.5, 0.5],  # the ball
            [0.5, 0.501, 0.5],  # the mask
            [0.5, 0.5, 0.44],  # the box
            [0.5, 0.5, np.nan],
        ],
        dtype=xp.float64,
    )
    assert_array_equal(to_numpy(ball.contains(x)), [True, True, False, False, False, False])


@pytest.mark.parametrize("norm", NORMS)
def test_rows_of_a_ball_are_the_ball_of_the_rows(xp, norm):
    problem = Problem(xp, norm, eps=EPS["zeros"], mask=True)
    rows = xp.asarray([True, False, True, True, False])
    part = problem.ball[rows]
    x, grad = problem.asarray(problem.points()), problem.asarray(problem.points())
    kept = to_numpy(rows)
    assert_array_equal(to_numpy(part.project(x[rows])), to_numpy(problem.ball.project(x))[kept])
    assert_array_equal(to_numpy(part.farthest(grad[rows])), to_numpy(problem.ball.farthest(grad))[kept])
    assert_array_equal(part.distance(x[rows]), problem.ball.distance(x)[kept])
    assert part.sample(np.random.default_rng(0)).shape == (3, N_FEATURES)


def test_distance_is_in_the_units_of_the_data(xp):
    x = xp.asarray([[3.0, -4.0], [0.0, 1.0]], dtype=xp.float32)
    for norm, expected in ((1, [7, 1]), (2, [5, 1]), (np.inf, [4, 1])):
        ball = make_ball(xp.zeros((2, 2), dtype=xp.float32), norm=norm, eps=[10.0, 20.0])
        distance = ball.distance(x)
        assert isinstance(distance, np.ndarray)
        assert distance.dtype == np.float64
        assert_allclose(distance, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [False, True])
def test_gradients_of_any_size(xp, norm, box):
    # Zero goes nowhere; 1e-30, whose square underflows, and 1e30 go as far as 1 does.
    shape = (4, 8)
    direction = np.random.default_rng(7).standard_normal(shape)
    size = np.asarray([[0.0], [1e-30], [1.0], [1e30]])
    centre = xp.full(shape, 0.5, dtype=xp.float32)
    ball = make_ball(centre, norm=norm, eps=0.6, clip_values=(0.0, 1.0) if box else None)
    grad = xp.asarray(direction * size, dtype=xp.float32)
    unit = xp.asarray(direction * (size > 0), dtype=xp.float32)
    for act in (ball.farthest, lambda g: ball.steepest(g, centre, np.float64(0.3))):
        assert act(grad).dtype == xp.float32
        assert_allclose(to_numpy(act(grad)), to_numpy(act(unit)), rtol=1e-5)
    assert_array_equal(to_numpy(ball.farthest(grad))[0], 0.5)
    assert_array_equal(to_numpy(ball.steepest(grad, centre, 0.3))[0], 0.0)
    assert np.all(ball.distance(ball.farthest(grad))[1:] >= (0.6 if norm < np.inf or not box else 0.5) - 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_feature_without_room_hides_no_other(xp, norm):
    # The largest derivative, by far, is that of a feature that cannot follow.
    centre = xp.asarray([[1.0, 0.5, 0.5]], dtype=xp.float32)
    ball = make_ball(centre, norm=norm, eps=0.25, clip_values=(0.0, 1.0))
    grad = xp.asarray([[1e30, 1e-5, 0.0]], dtype=xp.float32)
    assert_allclose(to_numpy(ball.farthest(grad)), [[1.0, 0.75, 0.5]])
    moved = to_numpy(centre + ball.steepest(grad, centre, 0.25))
    assert_allclose(moved[:, 1:], [[0.75, 0.5]])


@pytest.mark.parametrize("norm", NORMS)
def test_no_room_at_all(xp, norm):
    centre = xp.asarray([[0.0, 1.0]] * 3, dtype=xp.float32)
    grad = xp.asarray([[-1.0, 1.0]] * 3, dtype=xp.float32)
    for limits in ({"clip_values": (0.0, 1.0)}, {"mask": [False, False]}, {"eps": 0.0}, {"eps": [0.0, 0.0]}):
        ball = make_ball(centre, norm=norm, **{"eps": 0.5, **limits})
        step = 0.2 * np.asarray(limits.get("eps", 0.5))
        for point in (
            ball.farthest(grad),
            ball.project(centre + ball.steepest(grad, centre, step)),
            ball.enforce(ball.project(centre + 3 * grad)),
        ):
            assert_array_equal(to_numpy(point), to_numpy(centre))
        assert np.all(to_numpy(ball.contains(ball.sample(np.random.default_rng(0)))))


@pytest.mark.parametrize("norm", NORMS)
def test_an_infinite_radius_leaves_the_box_alone_to_bind(xp, norm):
    centre = xp.asarray([[0.2, 0.5, 0.9]], dtype=xp.float64)
    ball = make_ball(centre, norm=norm, eps=np.inf, clip_values=(0.0, 1.0))
    assert_array_equal(to_numpy(ball.farthest(xp.asarray([[3.0, 0.0, -1e-9]], dtype=xp.float64))), [[1.0, 0.5, 0.0]])
    assert_array_equal(to_numpy(ball.project(xp.asarray([[7.0, 0.6, -1.0]], dtype=xp.float64))), [[1.0, 0.6, 0.0]])
    assert_array_equal(to_numpy(ball.enforce(centre)), to_numpy(centre))


@pytest.mark.parametrize("norm", NORMS)
def test_ties_use_up_the_radius(xp, norm):
    centre = xp.full((2, 6), 0.9, dtype=xp.float64)
    ball = make_ball(centre, norm=norm, eps=0.25, clip_values=(0.0, 1.0))
    end = ball.farthest(xp.ones_like(centre))
    # Every feature has 0.1: in the 1-norm that makes two and a half, in the others all of them (0.1 * 6**0.5 < 0.25).
    assert_allclose(to_numpy(xp.sum(end - centre, axis=1)), 0.25 if norm == 1 else 0.6)
    assert_allclose(ball.distance(end), {1: 0.25, 2: 0.1 * 6**0.5, np.inf: 0.1}[norm])


@pytest.mark.parametrize("norm", NORMS)
def test_one_feature(xp, norm):
    centre = xp.asarray([[0.5], [0.9]], dtype=xp.float64)
    ball = make_ball(centre, norm=norm, eps=0.25, clip_values=(0.0, 1.0))
    grad = xp.asarray([[-2.0], [1e-9]], dtype=xp.float64)
    assert_allclose(to_numpy(ball.farthest(grad)), [[0.25], [1.0]])
    assert_allclose(to_numpy(ball.project(xp.asarray([[3.0], [-3.0]], dtype=xp.float64))), [[0.75], [0.65]])
    assert_allclose(to_numpy(ball.project(centre + ball.steepest(grad, centre, 0.2))), [[0.3], [1.0]])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [False, True])
def test_images_are_rows_in_another_shape(xp, norm, box):
    rng = np.random.default_rng(8)
    shape = (3, 2, 4, 5)
    eps = rng.uniform(0.1, 0.5, shape[1:])
    mask = rng.random(shape[1:]) < 0.7
    centre, grad, x = (rng.uniform(0, 1, shape) for _ in range(3))
    limits = (np.zeros((1, 5)), np.ones((2, 1, 1))) if box else None
    ball = make_ball(xp.asarray(centre), norm=norm, eps=eps, clip_values=limits, mask=mask)
    rows = make_ball(
        centre.reshape(3, -1),
        norm=norm,
        eps=eps.reshape(-1),
        clip_values=(0.0, 1.0) if box else None,
        mask=mask.reshape(-1),
    )
    grad_rows, x_rows = grad.reshape(3, -1), x.reshape(3, -1)
    for image, row in (
        (ball.project(xp.asarray(x)), rows.project(x_rows)),
        (ball.farthest(xp.asarray(grad)), rows.farthest(grad_rows)),
        (ball.farthest(xp.asarray(grad), radius=0.5), rows.farthest(grad_rows, radius=0.5)),
        (ball.sample(np.random.default_rng(0)), rows.sample(np.random.default_rng(0))),
        (
            ball.steepest(xp.asarray(grad), ball.project(xp.asarray(x)), 0.3 * eps),
            rows.steepest(grad_rows, rows.project(x_rows), 0.3 * eps.reshape(-1)),
        ),
        (ball.enforce(xp.asarray(x)), rows.enforce(x_rows)),
    ):
        assert image.shape == shape
        assert_allclose(to_numpy(image).reshape(3, -1), row, rtol=1e-12, atol=1e-15)
    assert_array_equal(to_numpy(ball.contains(xp.asarray(x))), rows.contains(x_rows))
    assert_allclose(ball.distance(xp.asarray(x)), rows.distance(x_rows))


def test_float32_stays_float32(xp):
    centre = xp.full((2, 3), 0.5, dtype=xp.float32)
    grad = xp.asarray([[1.0, -2.0, 3.0]] * 2, dtype=xp.float32)
    for norm in NORMS:
        for eps in (np.float64(0.3), np.asarray([0.1, 0.2, 0.3])):
            ball = make_ball(centre, norm=norm, eps=eps, clip_values=(0.0, np.ones(3)), mask=[True, True, False])
            for point in (
                ball.project(centre + 1),
                centre + ball.steepest(grad, centre, 0.1 * eps),
                ball.farthest(grad),
                ball.farthest(grad, radius=np.float64(0.1)),
                ball.sample(np.random.default_rng(0)),
                ball.enforce(centre + 1),
            ):
                assert point.dtype == xp.float32
