"""Transformers of single features."""

import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MaxAbsScaler, PowerTransformer, QuantileTransformer, RobustScaler

from skart.gradients._registry import numpy_backend
from tests.gradients._checks import CANCER, DIGITS, IRIS, check_step, name, pulled, standardised

CLIPS = "clip" in inspect.signature(MaxAbsScaler).parameters  # since scikit-learn 1.8


@pytest.mark.parametrize(
    "step",
    [
        MaxAbsScaler(),
        *([MaxAbsScaler(clip=True)] if CLIPS else []),
        RobustScaler(),
        RobustScaler(with_centering=False),
        RobustScaler(with_scaling=False),
        RobustScaler(with_centering=False, with_scaling=False),
        RobustScaler(quantile_range=(5, 95), unit_variance=True),
        PowerTransformer(),
        PowerTransformer(standardize=False),
    ],
    ids=name,
)
def test_scalers(step):
    check_step(step, *standardised(IRIS))


@pytest.mark.skipif(not CLIPS, reason="scikit-learn 1.8 brought MaxAbsScaler(clip=True)")
def test_clipped_range():
    step = MaxAbsScaler(clip=True).fit([[-10.0], [5.0]])
    X = np.array([[-11.0], [-10.0], [5.0], [10.0], [11.0]])
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X))
    # The border counts as inside, or no extreme pixel would ever move.
    assert_allclose(grad[:, 0], [0, 0.1, 0.1, 0.1, 0])


@pytest.mark.parametrize("standardize", [True, False])
def test_box_cox(standardize):
    check_step(PowerTransformer("box-cox", standardize=standardize), *IRIS)


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("method", ["box-cox", "yeo-johnson"])
def test_exponents(exponent, method):
    # Where they are 0, or 2 below zero, the power becomes a logarithm.
    step = PowerTransformer(method, standardize=False).fit(IRIS[0])
    step.lambdas_ = np.full(4, exponent)
    X = np.random.default_rng(0).uniform(0.1 if method == "box-cox" else -1, 1, size=(5, 4))
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X), rtol=1e-9)
    h = 1e-6
    assert_allclose(grad, (step.transform(X + h) - step.transform(X - h)) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_quantiles(distribution):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 2, size=60)
    step = check_step(QuantileTransformer(n_quantiles=10, output_distribution=distribution), X, y)
    assert numpy_backend("float64").bind(step).continuous
    # Beyond the data nothing changes.
    far = np.array([[-9.0, 9.0, -9.0, 9.0]])
    output, grad = pulled(step, far)
    assert_allclose(output, step.transform(far))
    assert_allclose(grad, 0)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_quantiles_of_few_values(distribution):
    # Pixels: the map jumps at every value that the data have, and many are zero.
    X, y = DIGITS
    step = check_step(QuantileTransformer(n_quantiles=100, output_distribution=distribution), X[:200], y[:200])
    assert not numpy_backend("float64").bind(step).continuous
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X), atol=1e-9)
    # Gradients are those of the line through the middles of the jumps, so they say how values rise on the whole.
    moves = X.std(axis=0) > 1
    inside = (X > 0) & (X < X[:200].max(axis=0))
    assert (grad[inside & moves] > 0).all()
    assert np.isfinite(grad).all()


def test_quantiles_of_one_jump():
    step = QuantileTransformer(n_quantiles=5).fit(np.array([[0.0], [1.0], [1.0], [1.0], [2.0]]))
    X = np.array([[-1.0], [0.0], [0.5], [1.0], [1.5], [2.0], [3.0]])
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X))
    assert_allclose(output[:, 0], [0, 0, 0.125, 0.5, 0.875, 1, 1])
    assert_allclose(grad[:, 0], [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0])  # not the 0.25 between the jumps


def test_normal_quantiles_on_the_border():
    # There the density is 1e-6, and a gradient that is the derivative would drown all other features.
    step = QuantileTransformer(n_quantiles=11, output_distribution="normal").fit(np.linspace(0, 1, 11)[:, None])
    output, grad = pulled(step, np.array([[0.0], [0.5], [1.0]]))
    edge = norm.ppf(1 - 1e-7)
    assert_allclose(output[:, 0], [-edge, 0, edge], rtol=1e-6, atol=1e-6)
    slope = (norm.ppf(0.1) + edge) / 0.1
    assert_allclose(grad[:, 0], [slope, np.sqrt(2 * np.pi), slope], rtol=1e-5)


def test_quantiles_of_a_constant_feature():
    step = QuantileTransformer(n_quantiles=4).fit(np.ones((4, 1)))
    X = np.array([[0.0], [1.0], [2.0]])
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X))
    assert_allclose(grad, 0)


@pytest.mark.parametrize("add_indicator", [False, True])
@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
def test_imputer(strategy, add_indicator):
    X, y = CANCER
    X = X[:, :6].copy()
    check_step(SimpleImputer(strategy=strategy, add_indicator=add_indicator), X, y)
    X[::7, 1] = X[::5, 4] = np.nan
    for keep_empty_features in (False, True):
        step = SimpleImputer(strategy=strategy, add_indicator=add_indicator, keep_empty_features=keep_empty_features)
        step.fit(X)
        output, grad = pulled(step, X)
        assert_allclose(output, step.transform(X))
        # What is filled in, and the marks, do not change with X.
        assert_allclose(grad, ~np.isnan(X))


@pytest.mark.filterwarnings("ignore:Skipping features:UserWarning")
@pytest.mark.parametrize("keep_empty_features", [False, True])
def test_imputer_of_empty_features(keep_empty_features):
    X = np.array([[1.0, np.nan, 2.0], [3.0, np.nan, np.nan]])
    step = SimpleImputer(keep_empty_features=keep_empty_features).fit(X)
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X))
    assert_allclose(grad, ~np.isnan(X))


def test_imputer_of_a_number():
    X = np.array([[1.0, -1.0], [3.0, 5.0]])
    step = SimpleImputer(missing_values=-1).fit(X)
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X))
    assert_allclose(grad, [[1, 0], [1, 1]])
