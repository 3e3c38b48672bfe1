"""Linear projections and kernel features: exact."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix
from sklearn.decomposition import (
    FactorAnalysis,
    FastICA,
    IncrementalPCA,
    KernelPCA,
    MiniBatchSparsePCA,
    SparsePCA,
    TruncatedSVD,
)
from sklearn.kernel_approximation import Nystroem, PolynomialCountSketch, RBFSampler, SkewedChi2Sampler
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from tests.gradients._checks import CANCER, check_step, name, pulled, standardised

X, y = standardised(CANCER, 8)
X, y = X[::4] + 0.1, y[::4]  # not centred
SEED = {"random_state": 0}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "step",
    [
        TruncatedSVD(3, **SEED),
        TruncatedSVD(3, algorithm="arpack", **SEED),
        FactorAnalysis(3, max_iter=5),
        FactorAnalysis(3, max_iter=5, rotation="varimax"),
        FastICA(3, max_iter=5, **SEED),
        FastICA(3, max_iter=5, whiten="arbitrary-variance", **SEED),
        FastICA(max_iter=5, whiten=False, **SEED),
        IncrementalPCA(3),
        IncrementalPCA(3, whiten=True),
        SparsePCA(3, max_iter=3, **SEED),
        SparsePCA(3, max_iter=3, ridge_alpha=1.0, alpha=3, **SEED),
        MiniBatchSparsePCA(3, max_iter=3, **SEED),
        GaussianRandomProjection(3, **SEED),
        SparseRandomProjection(3, **SEED),
        SparseRandomProjection(3, dense_output=True, density=1.0, **SEED),
    ],
    ids=name,
)
def test_projections(step):
    check_step(step, X, y)


@pytest.mark.parametrize(
    "step",
    [
        *(KernelPCA(3, kernel=kernel) for kernel in ("linear", "poly", "rbf", "cosine")),
        KernelPCA(3, kernel="sigmoid", gamma=0.02, coef0=0.1),
        KernelPCA(3, kernel="poly", degree=2.0, gamma=0.3, coef0=0),
        KernelPCA(3, kernel="rbf", gamma=0.2, fit_inverse_transform=True),
        KernelPCA(kernel="linear"),  # whose null space is dropped
        *(Nystroem(kernel, n_components=9, **SEED) for kernel in ("poly", "polynomial", "rbf", "cosine")),
        Nystroem("linear", n_components=5, **SEED),
        Nystroem("sigmoid", gamma=0.02, coef0=0.1, n_components=9, **SEED),
        Nystroem("poly", degree=2, gamma=0.1, coef0=0.5, n_components=9, **SEED),
        Nystroem("rbf", kernel_params={"gamma": 0.07}, n_components=9, **SEED),
        RBFSampler(gamma=0.1, n_components=20, **SEED),
        RBFSampler(gamma="scale", n_components=20, **SEED),
        SkewedChi2Sampler(skewedness=9.0, n_components=20, **SEED),
        PolynomialCountSketch(n_components=20, **SEED),
        PolynomialCountSketch(degree=3, gamma=0.3, coef0=2.0, n_components=21, **SEED),
        PolynomialCountSketch(degree=1, coef0=1.0, n_components=50, **SEED),
    ],
    ids=name,
)
def test_kernel_features(step):
    check_step(step, X, y)


def test_samples_fitted_as_a_sparse_matrix():
    sparse, rng = csr_matrix(X), np.random.default_rng(0)
    cotangent = rng.normal(size=(len(X), 3))
    dense = KernelPCA(3, kernel="rbf", eigen_solver="dense").fit(X)
    other = KernelPCA(3, kernel="rbf", eigen_solver="dense").fit(sparse)
    for ours, theirs in zip(pulled(dense, X, cotangent), pulled(other, X, cotangent)):
        assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (KernelPCA(kernel=lambda a, b: a @ b), "kernel=<lambda> has no gradient rule"),
        (KernelPCA(kernel="poly", degree=2.5), "of the degree 2.5.*whole degrees"),
        (Nystroem("laplacian", n_components=5), "kernel='laplacian' has no gradient rule"),
        (Nystroem(lambda a, b: a @ b, n_components=5), "kernel=<lambda> has no gradient rule"),
    ],
    # Not by `repr`: that of a function holds its address, which differs from one test worker to the next.
    ids=["callable", "fractional degree", "unknown", "callable in Nystroem"],
)
def test_kernels_without_a_rule_are_named(step, message):
    step.fit(np.abs(X))
    with pytest.raises(GradientUnavailableError, match=message):
        numpy_backend("float64").bind(step)
