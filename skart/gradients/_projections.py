"""Rules for linear projections, and for maps into the feature spaces of kernels."""

import math
from numbers import Integral

import numpy as np
from scipy.sparse import issparse

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._kernel import kernel_features, pairwise
from skart.gradients._linear import affine
from skart.gradients._preprocessing import normalizer, principal_components
from skart.gradients._registry import Bound, chain, rule

__all__ = []

rule("sklearn.decomposition.IncrementalPCA")(principal_components)


def projection(weights, mean, backend):
    """Forward of ``(X - mean) @ weights``; ``mean=None`` means zero."""
    shift = np.zeros(weights.shape[1]) if mean is None else -mean @ weights
    return affine(backend.asarray(weights), backend.asarray(shift))


@rule("sklearn.decomposition.TruncatedSVD")
def truncated_svd(step, backend):
    return projection(step.components_.T, None, backend)


@rule("sklearn.decomposition.FastICA")
def independent_components(step, backend):
    return projection(step.components_.T, step.mean_ if step.whiten else None, backend)


@rule("sklearn.decomposition.FactorAnalysis")
def factor_analysis(step, backend):
    # The expected latent variables, Bishop's 12.66.
    scaled = step.components_ / step.noise_variance_
    precision = np.eye(len(scaled)) + scaled @ step.components_.T
    return projection(np.linalg.solve(precision, scaled).T, step.mean_, backend)


@rule("sklearn.decomposition.MiniBatchSparsePCA", "sklearn.decomposition.SparsePCA")
def sparse_components(step, backend):
    # Components are sparse and not orthogonal: the projection is a ridge regression on them.
    components = step.components_
    gram = components @ components.T + step.ridge_alpha * np.eye(len(components))
    return projection(np.linalg.solve(gram, components).T, step.mean_, backend)


@rule(
    "sklearn.random_projection.GaussianRandomProjection",
    "sklearn.random_projection.SparseRandomProjection",
)
def random_projection(step, backend):
    components = step.components_.toarray() if issparse(step.components_) else step.components_
    return projection(components.T, None, backend)


def kernel_map(step, centres, weights, bias, backend, *, kernel, **parameters):
    """Forward of ``K(X, centres) @ weights + bias``."""
    centres = centres.toarray() if issparse(centres) else np.asarray(centres)
    if kernel == "polynomial":
        kernel = "poly"
    if kernel == "poly" and not isinstance(parameters["degree"], Integral):
        if parameters["degree"] != int(parameters["degree"]):
            raise GradientUnavailableError(
                f"{type(step).__name__} has a polynomial kernel of the degree {parameters['degree']}: skart has a rule "
                "for whole degrees. Fit with one, or register a rule of your own with `skart.register_rule`."
            )
        parameters["degree"] = int(parameters["degree"])
    if kernel == "cosine":
        from sklearn.preprocessing import Normalizer, normalize

        # The linear kernel of normalised samples.
        inner = kernel_map(step, normalize(centres), weights, bias, backend, kernel="linear")
        return chain([Bound(normalizer(Normalizer(), backend)), Bound(inner)]).forward
    features, weights = kernel_features(kernel, backend.asarray(centres), backend.asarray(weights), **parameters)
    return pairwise(features, weights, backend.asarray(bias))


@rule("sklearn.decomposition.KernelPCA")
def kernel_components(step, backend):
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(step.eigenvalues_ > 0, step.eigenvectors_ / np.sqrt(step.eigenvalues_), 0.0)
    # Centring takes from each row of the kernel its mean, and from each column that of the training samples; no public
    # attribute holds those.
    centerer = step._centerer
    bias = (centerer.K_fit_all_ - centerer.K_fit_rows_) @ weights
    return kernel_map(
        step,
        step.X_fit_,
        weights - weights.mean(axis=0),
        bias,
        backend,
        kernel=step.kernel,
        gamma=float(step.gamma_),
        coef0=float(step.coef0),
        degree=step.degree,
    )


@rule("sklearn.kernel_approximation.Nystroem")
def nystroem(step, backend):
    # What is not given has the defaults of scikit-learn's kernels.
    defaults = {"gamma": 1 / step.n_features_in_, "coef0": 1.0, "degree": 3}
    given = {name: getattr(step, name) for name in defaults if getattr(step, name) is not None}
    extra = (step.kernel_params or {}) if isinstance(step.kernel, str) else {}
    return kernel_map(
        step,
        step.components_,
        step.normalization_.T,
        np.zeros(len(step.normalization_)),
        backend,
        kernel=step.kernel,
        **{**defaults, **extra, **given},
    )


def cosines(weights, offset, scale):
    """Forward of ``scale * cos(X @ weights + offset)``."""
    back = -scale * weights.T

    def forward(X):
        xp = array_namespace(X)
        angle = X @ weights
        angle += offset
        output = xp.cos(angle)
        output *= scale

        def pullback(cotangent):
            slope = xp.sin(angle)
            slope *= cotangent
            return slope @ back

        return output, pullback

    return forward


@rule("sklearn.kernel_approximation.RBFSampler")
def random_fourier_features(step, backend):
    scale = math.sqrt(2 / step.n_components)
    return cosines(backend.asarray(step.random_weights_), backend.asarray(step.random_offset_), scale)


@rule("sklearn.kernel_approximation.SkewedChi2Sampler")
def skewed_chi2_features(step, backend):
    def logarithm(X):
        X = X + step.skewedness
        return backend.xp.log(X), lambda cotangent: cotangent / X

    return chain([Bound(logarithm), Bound(random_fourier_features(step, backend))])


@rule("sklearn.kernel_approximation.PolynomialCountSketch")
def polynomial_count_sketch(step, backend):
    """The circular convolution of several sketches of the input, each of them linear."""
    xp, n_components = backend.xp, step.n_components
    rows = np.arange(step.indexHash_.shape[1])
    sketches = np.zeros((step.degree, len(rows), n_components))
    for sketch, index, sign in zip(sketches, step.indexHash_, step.bitHash_):
        sketch[rows, index] = sign
    # A constant feature of sqrt(coef0) is the last one, where there is a coef0.
    weights = [backend.asarray(math.sqrt(step.gamma) * sketch[: step.n_features_in_]) for sketch in sketches]
    shifts = [
        backend.asarray(math.sqrt(step.coef0) * sketch[-1] if step.coef0 else np.zeros(n_components))
        for sketch in sketches
    ]
    # Where no product of features goes, transforms there and back leave rounding errors for zeros.
    used = np.fft.rfft(np.abs(sketches).sum(axis=1) > 0, axis=1).prod(axis=0)
    used = backend.asarray(np.fft.irfft(used, n=n_components) > 0.5)

    def forward(X):
        spectra = [xp.fft.rfft(X @ weight + shift, axis=1) for weight, shift in zip(weights, shifts)]
        product = spectra[0]
        for spectrum in spectra[1:]:
            product = product * spectrum

        def pullback(cotangent):
            pulled = xp.fft.rfft(cotangent * used, axis=1)
            grad = xp.zeros_like(X)
            for k, weight in enumerate(weights):
                others = pulled
                for spectrum in spectra[:k] + spectra[k + 1 :]:
                    others = others * xp.conj(spectrum)
                grad += xp.fft.irfft(others, n=n_components, axis=1) @ weight.T
            return grad

        return xp.fft.irfft(product, n=n_components, axis=1) * used, pullback

    return forward
