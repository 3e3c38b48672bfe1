import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import rel_entr

from skart._core._arrays import to_numpy
from skart._core._objectives import LOSSES, Objective, check_loss, log_softmax


def defined(loss, n_classes, targeted):
    return n_classes >= LOSSES[loss].n_classes[targeted]


CASES = [
    (loss, n_classes, targeted)
    for loss in LOSSES
    for n_classes in (2, 3, 4, 10)
    for targeted in (False, True)
    if defined(loss, n_classes, targeted)
]


def draw(n_classes, n_samples=6, seed=0):
    """Scores, labels, targets that differ from the labels, and other scores."""
    rng = np.random.default_rng(seed)
    scores, reference = 3 * rng.standard_normal((2, n_samples, n_classes))
    labels = rng.integers(n_classes, size=n_samples)
    targets = (labels + rng.integers(1, n_classes, size=n_samples)) % n_classes
    return scores, labels, targets, reference


def evaluate(xp, name, scores, labels, targets=None, reference=None):
    """The loss as NumPy arrays, its derivative multiplied out."""
    convert = lambda values: None if values is None else xp.asarray(values)
    loss = LOSSES[name].function(convert(scores), convert(labels), convert(targets), convert(reference))
    scale = 1.0 if loss.scale is None else to_numpy(loss.scale)[:, None]
    return to_numpy(loss.value), scale * to_numpy(loss.direction)


@pytest.mark.parametrize(("name", "n_classes", "targeted"), CASES)
def test_derivative_meets_central_differences(xp, name, n_classes, targeted):
    scores, labels, targets, reference = draw(n_classes)
    goal = {"targets": targets if targeted else None, "reference": reference}
    value, derivative = evaluate(xp, name, scores, labels, **goal)
    assert value.shape == (6,)
    step = 1e-5
    for k in range(n_classes):
        shift = step * (np.arange(n_classes) == k)
        above, _ = evaluate(xp, name, scores + shift, labels, **goal)
        below, _ = evaluate(xp, name, scores - shift, labels, **goal)
        assert_allclose(derivative[:, k], (above - below) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_cross_entropy_is_minus_the_log_of_the_probability(xp, n_classes, targeted):
    scores, labels, targets, _ = draw(n_classes)
    value, _ = evaluate(xp, "cross_entropy", scores, labels, targets if targeted else None)
    log_proba = scipy_log_softmax(scores, axis=1)[np.arange(6), targets if targeted else labels]
    assert_allclose(value, log_proba if targeted else -log_proba, rtol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("lead", [-500.0, -90.0, 0.0, 90.0, 500.0])
def test_cross_entropy_of_a_sure_model(xp, lead, targeted):
    scores = np.asarray([[lead, 0.0, -1.0], [0.0, -lead, -lead - 1.0]], dtype=np.float32)
    labels = xp.asarray([0, 0])
    loss = LOSSES["cross_entropy"].function(xp.asarray(scores), labels, labels if targeted else None)
    expected = -scipy_log_softmax(scores.astype(np.float64), axis=1)[:, 0]
    # The value of a sure and right model is tiny, not zero, as long as float32 can hold it.
    assert_allclose(to_numpy(loss.value), -expected if targeted else expected, rtol=1e-5, atol=1e-38)
    direction = to_numpy(loss.direction)
    assert direction.dtype == np.float32
    away = np.asarray([-1.0, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])
    assert_allclose(direction, np.tile(-away if targeted else away, (2, 1)), rtol=1e-5)
    assert_allclose(to_numpy(loss.scale), -np.expm1(-expected), rtol=1e-4, atol=1e-37)


def test_cross_entropy_where_a_class_is_impossible(xp):
    # Log-probabilities may be minus infinity.
    scores = xp.asarray([[-xp.inf, 0.0, 0.0], [0.0, -xp.inf, 0.0]], dtype=xp.float64)
    loss = LOSSES["cross_entropy"].function(scores, xp.asarray([0, 0]))
    assert_allclose(to_numpy(loss.value), [np.inf, np.log(2)])
    assert_allclose(to_numpy(loss.scale)[:, None] * to_numpy(loss.direction), [[-1, 0.5, 0.5], [-0.5, 0, 0.5]])


def test_log_softmax(xp):
    scores = np.asarray([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]])
    assert_allclose(to_numpy(log_softmax(xp.asarray(scores))), scipy_log_softmax(scores, axis=1), rtol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_margin(xp, n_classes):
    scores, labels, targets, _ = draw(n_classes)
    for goal, sign in ((None, 1), (targets, -1)):
        chosen = labels if goal is None else goal
        others = np.where(np.arange(n_classes) == chosen[:, None], -np.inf, scores).max(axis=1)
        value, _ = evaluate(xp, "margin", scores, labels, goal)
        assert_allclose(value, sign * (others - scores[np.arange(6), chosen]))


def test_kl_divergence(xp):
    scores, labels, _, reference = draw(5)
    p, q = (np.exp(scipy_log_softmax(values, axis=1)) for values in (reference, scores))
    value, _ = evaluate(xp, "kl", scores, labels, reference=reference)
    assert_allclose(value, rel_entr(p, q).sum(axis=1), rtol=1e-10)
    value, derivative = evaluate(xp, "kl", reference + 7.0, labels, reference=reference)
    assert_allclose(value, 0, atol=1e-12)
    assert_allclose(derivative, 0, atol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_is_the_published_formula(xp, targeted):
    scores, labels, targets, _ = draw(6)
    expected = []
    for z, y, t in zip(scores, labels, targets):
        ranked = np.sort(z)[::-1]
        if targeted:  # Croce and Hein (2020), equation 7
            expected.append(-(z[y] - z[t]) / (ranked[0] - (ranked[2] + ranked[3]) / 2))
        else:  # equation 6
            expected.append(-(z[y] - np.delete(z, y).max()) / (ranked[0] - ranked[2]))
    for scaled in (scores, 1e3 * scores + 5, 1e-3 * scores):
        value, _ = evaluate(xp, "dlr", scaled, labels, targets if targeted else None)
        assert_allclose(value, expected, rtol=1e-8)


def test_tied_scores_give_finite_losses(xp):
    for name, entry in LOSSES.items():
        scores = xp.zeros((1, 4), dtype=xp.float32)
        for targets in (None, xp.asarray([1])):
            loss = entry.function(scores, xp.asarray([0]), targets, scores)
            assert np.all(np.isfinite(to_numpy(loss.value))), name
            assert np.all(np.isfinite(to_numpy(loss.direction))), name


@pytest.mark.parametrize(
    ("name", "n_classes", "targeted", "fewest"), [("dlr", 2, False, 3), ("dlr", 3, True, 4), ("margin", 1, False, 2)]
)
def test_a_loss_that_needs_more_classes(name, n_classes, targeted, fewest):
    with pytest.raises(ValueError, match=f"loss='{name}' needs at least {fewest} classes.*the model has {n_classes}"):
        check_loss(name, n_classes, targeted)
    check_loss(name, fewest, targeted)


class Scripted:
    """A linear model that notes what it is asked, and returns a gradient from a script instead of its own."""

    def __init__(self, xp, weights, script=()):
        self.xp, self.weights, self.script, self.cotangents = xp, weights, list(script), []

    def __call__(self, x, scores):
        self.scores = scores

        def pullback(cotangent):
            self.cotangents.append(to_numpy(cotangent))
            grad = cotangent @ self.weights.T
            return self.script.pop(0)(grad) if self.script else grad

        return x @ self.weights, pullback


def identity(xp):
    return xp.eye(3, dtype=xp.float64)


def test_objective_evaluates_and_counts(xp):
    model = Scripted(xp, identity(xp))
    objective = Objective(model, "margin", xp.asarray([0, 1, 2, 0]))
    x = xp.asarray([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 9.0], [0.0, 2.0, 1.0]], dtype=xp.float64)
    here = objective(x)
    assert model.scores == "margins"
    assert_array_equal(to_numpy(here.value), [-2, 2, -9, 2])
    assert_array_equal(to_numpy(here.adversarial), [False, True, False, True])
    assert_array_equal(to_numpy(here.grad), [[-1, 1, 0], [1, -1, 0], [1, 0, -1], [-1, 1, 0]])
    there = objective.value(x)
    assert there.grad is None
    assert_array_equal(to_numpy(there.value), to_numpy(here.value))
    part = objective[xp.asarray([True, False, True, False])]
    part(x[:2, :])
    inner = part[xp.asarray([False, True])]
    assert_array_equal(to_numpy(inner.value(x[2:3, :]).value), [-9])
    assert_array_equal(objective.ledger.n_queries, [3, 2, 4, 2])
    assert_array_equal(objective.ledger.n_gradients, [2, 1, 2, 1])


def test_objective_with_targets_and_reference(xp):
    x = xp.asarray([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]], dtype=xp.float64)
    targets = xp.asarray([0, 1])
    objective = Objective(Scripted(xp, identity(xp)), "margin", xp.asarray([1, 0]), targets=targets)
    here = objective(x)
    assert_array_equal(to_numpy(here.value), [2, -1])
    assert_array_equal(to_numpy(here.adversarial), [True, False])
    assert_array_equal(to_numpy(objective[xp.asarray([False, True])](x[1:, :]).grad), [[0, 1, -1]])
    divergence = Objective(Scripted(xp, identity(xp)), "kl", targets, reference=x)
    assert_allclose(to_numpy(divergence(x).value), 0, atol=1e-15)
    assert_allclose(to_numpy(divergence[xp.asarray([False, True])](x[1:, :]).value), 0, atol=1e-15)


def test_the_pullback_gets_the_direction_without_its_scale(xp):
    # At a margin of 1000 the derivative is zero in float64; what searches follow is not.
    model = Scripted(xp, identity(xp))
    here = Objective(model, "cross_entropy", xp.asarray([0]))(xp.asarray([[1000.0, 0.0, 0.0]], dtype=xp.float64))
    assert_allclose(model.cotangents[0], [[-1.0, 0.5, 0.5]])
    assert_allclose(to_numpy(here.grad), [[-1.0, 0.5, 0.5]])


def test_gradients_that_are_not_finite_are_noted_and_replaced(xp):
    def spoil(grad):
        grad = xp.asarray(grad, copy=True)
        grad[0, 0], grad[1, 2] = np.nan, -np.inf
        grad[3, ...] = np.nan
        return grad

    objective = Objective(Scripted(xp, identity(xp), [spoil]), "margin", xp.asarray([0, 0, 0, 0]))
    x = xp.asarray([[3.0, 1.0, 0.0]] * 4, dtype=xp.float64)
    assert_array_equal(to_numpy(objective(x).grad), [[0, 1, 0], [-1, 1, 0], [-1, 1, 0], [0, 0, 0]])
    assert_array_equal(objective.ledger.bad_gradient, [True, True, False, True])
    # One cause, one warning: a gradient of NaN is not also one of zeros.
    assert not objective.ledger.zero_gradient.any()
    assert_array_equal(to_numpy(objective(x).grad), [[-1, 1, 0]] * 4)
    assert_array_equal(objective.ledger.bad_gradient, [True, True, False, True])


def test_finite_gradients_whose_sum_overflows_are_not_bad(xp):
    objective = Objective(Scripted(xp, identity(xp), [lambda grad: grad * 1.5e308]), "margin", xp.asarray([0, 0]))
    grad = objective(xp.asarray([[3.0, 1.0, 0.0]] * 2, dtype=xp.float64)).grad
    assert_array_equal(to_numpy(grad), [[-1.5e308, 1.5e308, 0]] * 2)
    assert not objective.ledger.bad_gradient.any()


def test_a_gradient_is_reported_as_zero_until_one_is_not(xp):
    def flat_at(*rows):
        def flatten(grad):
            grad = xp.asarray(grad, copy=True)
            for row in rows:
                grad[row, ...] = 0.0
            return grad

        return flatten

    model = Scripted(xp, identity(xp), [flat_at(0), flat_at(0), flat_at(0, 1), flat_at()])
    objective = Objective(model, "margin", xp.asarray([0, 0, 0]))
    x = xp.asarray([[3.0, 1.0, 0.0]] * 3, dtype=xp.float64)
    objective[xp.asarray([True, True, False])](x[:2, :])
    assert_array_equal(objective.ledger.zero_gradient, [True, False, False])
    objective[xp.asarray([False, True, True])](x[:2, :])  # the second gradient of the second, the first of the third
    assert_array_equal(objective.ledger.zero_gradient, [True, False, False])
    objective(x)
    assert_array_equal(objective.ledger.zero_gradient, [True, False, False])
    objective(x)  # the first has one at last; the zero of the second came too late to count
    assert_array_equal(objective.ledger.zero_gradient, [False, False, False])


@pytest.mark.filterwarnings("ignore:overflow")
def test_scores_that_are_not_finite_are_noted(xp):
    objective = Objective(Scripted(xp, identity(xp)), "margin", xp.asarray([0, 0, 0]))
    objective.value(xp.asarray([[3.0, 1.0, 0.0], [1.0, np.nan, 0.0], [1e308, 1e308, 1e308]], dtype=xp.float64))
    # Products with NaN spread over the row; the sum of the last row overflows, its scores do not.
    assert_array_equal(objective.ledger.bad_scores, [False, True, False])
