"""Polynomials and splines: exact."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer

from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from tests.gradients._checks import CANCER, IRIS, check_step, name, pulled, standardised


@pytest.mark.parametrize("include_bias", [True, False])
@pytest.mark.parametrize("interaction_only", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 3, 5, (0, 2), (1, 3), (2, 2), (2, 4), (3, 3)], ids=str)
def test_polynomials(degree, interaction_only, include_bias):
    X, y = standardised(IRIS)
    step = PolynomialFeatures(degree, interaction_only=interaction_only, include_bias=include_bias).fit(X)
    check_step(step, X, y, within_pipeline=degree == 2)
    assert_allclose(pulled(step, X)[0], step.transform(X), rtol=1e-12)


def test_constant_polynomial():
    X, y = standardised(IRIS)
    output, grad = pulled(PolynomialFeatures(0).fit(X), X)
    assert_allclose(output, 1)
    assert_allclose(grad, 0)


def test_orders_of_memory():
    X, y = standardised(IRIS)
    check_step(PolynomialFeatures(2, order="F"), X, y, within_pipeline=False)


SPLINES = [
    SplineTransformer(degree=degree, knots=knots, extrapolation=extrapolation, include_bias=knots == "uniform")
    for extrapolation in ("error", "constant", "linear", "continue", "periodic")
    for degree in (1, 2, 3, 4)
    for knots in ("uniform", "quantile")
    if (degree, extrapolation) != (1, "linear")
]


@pytest.mark.parametrize("step", SPLINES, ids=name)
def test_splines(step):
    X, y = standardised(CANCER, 4)
    check_step(step, X, y, within_pipeline=step.degree == 3)


@pytest.mark.parametrize("step", [step for step in SPLINES if step.extrapolation != "error"], ids=name)
def test_splines_beyond_the_data(step):
    X, _ = standardised(CANCER, 4)
    step = step.fit(X)
    far = 3 * X[X.std(axis=1).argsort()[-20:]]
    output, grad = pulled(step, far, cotangent := np.random.default_rng(0).normal(size=step.transform(far).shape))
    assert_allclose(output, step.transform(far), rtol=1e-7, atol=1e-7)
    h = 1e-6

    def along(sign, j):
        moved = far.copy()
        moved[:, j] += sign * h
        return step.transform(moved)

    slopes = np.stack([((along(1, j) - along(-1, j)) * cotangent).sum(axis=1) / (2 * h) for j in range(4)], axis=1)
    assert_allclose(grad, slopes, rtol=1e-5, atol=1e-5 * np.abs(slopes).max())
    if step.extrapolation == "constant":
        outside = (far < X.min(axis=0)) | (far > X.max(axis=0))
        assert outside.any()
        assert_allclose(grad[outside], 0)


@pytest.mark.parametrize("extrapolation", ["constant", "linear", "continue"])
def test_splines_on_the_border(extrapolation):
    # The extremes of the data lie there; the derivative is that of the inside.
    X = np.linspace(0, 1, 11)[:, None]
    step = SplineTransformer(n_knots=4, extrapolation=extrapolation).fit(X)
    cotangent = np.arange(6.0)[None, :] ** 2
    for border, inside in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        at = pulled(step, np.array([[border]]), cotangent)[1]
        assert_allclose(at, pulled(step, np.array([[inside]]), cotangent)[1], rtol=1e-6)
        assert abs(at[0, 0]) > 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_splines_with_knots_that_coincide():
    X = np.repeat([0.0, 1.0, 2.0, 5.0], [20, 5, 3, 12])[:, None] + np.zeros((1, 2))
    step = SplineTransformer(n_knots=6, knots="quantile", extrapolation="continue").fit(X)
    inputs = np.random.default_rng(0).uniform(0.1, 4.9, size=(9, 2))
    output, grad = pulled(step, inputs)
    assert_allclose(output, step.transform(inputs), atol=1e-9)
    assert np.isfinite(grad).all()


def test_sparse_splines_in_a_pipeline():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from skart.utils import check_rule

    X, y = standardised(IRIS)
    check_rule(make_pipeline(SplineTransformer(sparse_output=True), LogisticRegression()).fit(X, y), X)


def test_splines_that_are_refused():
    X, y = standardised(IRIS)
    with pytest.raises(GradientUnavailableError, match="degree=0.*KBinsDiscretizer"):
        numpy_backend("float64").bind(SplineTransformer(degree=0).fit(X))
    linear = SplineTransformer(degree=1, extrapolation="linear")
    with pytest.raises(GradientUnavailableError, match='degree=1.*extrapolation="continue"'):
        numpy_backend("float64").bind(linear.fit(X))
    check_step(linear, X[:, :1], y)
    # What the message says: the linear continuation of the first feature is the other's.
    other = SplineTransformer(degree=1, extrapolation="continue").fit(X[:, :1])
    assert_allclose(other.transform(3 * X[:, :1]), linear.fit(X[:, :1]).transform(3 * X[:, :1]), atol=1e-9)
