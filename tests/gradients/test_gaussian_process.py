"""Gaussian process classifiers: exact, through the mean and the variance of the latent function."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import (
    RBF,
    ConstantKernel,
    DotProduct,
    Exponentiation,
    ExpSineSquared,
    Matern,
    PairwiseKernel,
    RationalQuadratic,
    WhiteKernel,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle
from tests.gradients._checks import IRIS, check_log_probabilities, name, pulled, standardised

SCALES = [1.0, 2.0, 0.5, 3.0]
KERNELS = [
    None,
    1.5 * RBF(2.0),
    RBF(SCALES),
    *(Matern(nu=nu) for nu in (0.5, 1.5, 2.5, np.inf)),
    2.0 * Matern(SCALES, nu=1.5),
    RationalQuadratic(2.0, 0.7),
    DotProduct(0.5),
    ConstantKernel(2.0) * (RBF() * ConstantKernel(0.5)),
    2.0 * RBF() + WhiteKernel(0.1) + 0.1 * DotProduct(0.5),
    RBF() + Matern() + 1.0,
    DotProduct() * RBF(),
    RBF() ** 3,
    Exponentiation(DotProduct(1.0) + RBF(), 2),
]
X, y = standardised(IRIS)
X, y = X[::2], np.array(["se", "ve", "vi"])[y[::2]]


@pytest.mark.parametrize("kernel", KERNELS, ids=name)
def test_kernels_with_two_classes(kernel):
    hard = y != "se"
    check_log_probabilities(GaussianProcessClassifier(kernel, optimizer=None), X[hard], y[hard])


@pytest.mark.parametrize("kernel", [None, 2.0 * Matern(SCALES, nu=2.5), DotProduct()], ids=name)
def test_one_against_the_rest(kernel):
    check_log_probabilities(GaussianProcessClassifier(kernel, optimizer=None), X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fitted_kernels_in_a_pipeline():
    kernel = 1.0 * RBF(SCALES) + WhiteKernel()
    model = make_pipeline(StandardScaler(), GaussianProcessClassifier(kernel))
    check_log_probabilities(model, IRIS[0][::4], IRIS[1][::4])


def test_kernel_that_is_constant():
    # A prediction that does not depend on the input has a gradient all the same: zero.
    for kernel in (ConstantKernel(2.0), ConstantKernel(2.0) ** 2 * ConstantKernel(0.5)):
        model = GaussianProcessClassifier(kernel, optimizer=None).fit(X[:40], y[:40])
        logits, grad = pulled(model, X)
        assert_allclose(np.exp(logits), model.predict_proba(X), atol=1e-6)
        assert_allclose(grad, 0)


def test_logits_are_equal_where_the_latent_mean_is_zero():
    # The error functions' shares add up to 1 - 1e-8, and `predict` goes by the latent mean.
    model = GaussianProcessClassifier(DotProduct(1e-5), optimizer=None)
    hard = y != "se"
    Z = X[hard] - X[hard].mean(axis=0)
    model.fit(np.concatenate([Z, -Z]), np.concatenate([y[hard], np.where(y[hard] == "ve", "vi", "ve")]))
    logits = as_oracle(model, Z).logits(np.zeros((1, 4)))
    assert_allclose(logits[0, 0], logits[0, 1], atol=1e-9)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_a_training_sample(nu, dtype):
    # Distances of zero, which rounding may take below it; the kernel of nu=0.5 has a kink there.
    model = GaussianProcessClassifier(Matern(nu=nu), optimizer=None).fit(X, y)
    here, beside = X.astype(dtype), X.astype(dtype) + dtype(1e-3)
    logits, pullback = numpy_backend(dtype).bind(model).forward(here)
    assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), model.predict_proba(X), atol=1e-3)
    grad = pullback(np.ones_like(logits))
    _, pullback = numpy_backend(dtype).bind(model).forward(beside)
    assert np.abs(grad).max() < 10 * np.abs(pullback(np.ones_like(logits))).max()


def test_far_from_the_data():
    model = GaussianProcessClassifier(DotProduct(), optimizer=None).fit(X, y)
    logits, grad = pulled(model, 1e4 * X)
    assert np.isfinite(logits).all()
    assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (ExpSineSquared(), r"the kernel ExpSineSquared\("),
        (1.0 * RBF() + Matern(nu=2.0), r"the kernel Matern\(length_scale=1, nu=2\)"),
        (PairwiseKernel(metric="laplacian") ** 2, r"the kernel PairwiseKernel\("),
        (type("RBF", (RBF,), {"__call__": lambda self, X, Y=None, eval_gradient=False: X @ X.T})(), "the kernel RBF"),
    ],
    ids=str,
)
def test_kernels_without_a_rule_are_named(kernel, message):
    model = GaussianProcessClassifier(1.0 * RBF(), optimizer=None).fit(X[:40], y[:40])
    model.base_estimator_.kernel_ = kernel
    with pytest.raises(GradientUnavailableError, match=message + ".*has no gradient rule: skart knows RBF, Matern"):
        numpy_backend("float64").bind(model)


def test_one_against_one_is_refused():
    model = GaussianProcessClassifier(multi_class="one_vs_one", optimizer=None).fit(X, y)
    with pytest.raises(GradientUnavailableError, match='one_vs_one.*Fit with multi_class="one_vs_rest"'):
        numpy_backend("float64").bind(model)
