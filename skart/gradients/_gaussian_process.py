"""Rules for Gaussian process classifiers.

A covariance function is bound as two forwards: its values between samples and training points, and its values of
samples with themselves. Either gives a plain number, and ``None`` for a pullback, where it does not depend on the
input. Sums, products and powers treat both alike.
"""

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
from scipy.linalg import solve_triangular

from skart._core._arrays import array_namespace, device, per_sample
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import Bound, rule
from skart.gradients._special import special

__all__ = []

# Williams and Barber ("Bayesian Classification with Gaussian Processes", appendix A) put five error functions in place
# of the logistic function; these are the numbers with which scikit-learn predicts, given there to these digits.
_STEEPNESS = (0.41, 0.4, 0.37, 0.44, 0.39)
_SHARE = (-1854.8214151, 3516.89893646, 221.29346712, 128.12323805, -2010.49422654)


def constant(value):
    """Forward of a number."""
    return lambda X: (value, None)


def added(first, second):
    """Forward of the sum of two."""

    def forward(X):
        (a, pull_a), (b, pull_b) = first(X), second(X)
        if pull_a is None or pull_b is None:
            return a + b, pull_a or pull_b

        def pullback(cotangent):
            grad = pull_a(cotangent + 0)  # a copy, since pullbacks overwrite it
            return grad + pull_b(cotangent)

        return a + b, pullback

    return forward


def multiplied(first, second):
    """Forward of the product of two."""

    def forward(X):
        (a, pull_a), (b, pull_b) = first(X), second(X)
        pulls = [(pull, other) for pull, other in ((pull_a, b), (pull_b, a)) if pull is not None]
        return a * b, (lambda cotangent: sum(pull(cotangent * other) for pull, other in pulls)) if pulls else None

    return forward


def raised(base, exponent):
    """Forward of a power."""

    def forward(X):
        value, pull = base(X)
        if pull is None:
            return value**exponent, None
        return value**exponent, lambda cotangent: pull(cotangent * (exponent * value ** (exponent - 1)))

    return forward


def of_distances(centres, length_scale, profile, factor, slope_factor):
    """Forward of a function of ``u = factor * ||(x - c) / length_scale||**2``; its pullback overwrites the cotangent.

    ``profile(u, rounding)``, which may overwrite ``u``, gives the values and a call for the slopes against u, but for
    ``slope_factor``; ``rounding`` is what u may be for points that are equal.
    """
    xp = array_namespace(centres)
    # Distances do not change if all move together, and cancel less near the origin.
    origin = xp.mean(centres, axis=0)
    centres = (centres - origin) / length_scale
    one = xp.ones_like(centres[:, :1])
    squares = xp.sum(centres * centres, axis=1, keepdims=True)
    # ||x||**2 - 2 x.c + ||c||**2 is one product of (x, ||x||**2, 1) with these columns.
    columns = factor * xp.concat([-2 * centres, one, squares], axis=1)
    columns_back = slope_factor * columns[:, :-1]
    n_features = centres.shape[1]
    rounding = 32 * float(xp.finfo(centres.dtype).eps * xp.max(xp.abs(columns[:, -1])))

    def forward(X):
        X = (X - origin) / length_scale
        squares = xp.sum(X * X, axis=1, keepdims=True)
        u = xp.concat([X, squares, xp.ones_like(squares)], axis=1) @ columns.T
        values, slopes = profile(u, rounding)

        def pullback(cotangent):
            cotangent *= slopes()
            pulled = cotangent @ columns_back
            grad = X * (2 * pulled[:, n_features:])
            grad += pulled[:, :n_features]
            grad /= length_scale
            return grad

        return values, pullback

    return forward


def exponential(u, rounding):
    """``exp(u)``."""
    values = array_namespace(u).exp(u, out=u)
    return values, lambda: values


def matern_half(u, rounding):
    """``exp(-t)`` of ``t = sqrt(u)``, which has a kink at t = 0: no direction is better than another there."""
    xp = array_namespace(u)
    apart = u > rounding
    t = xp.sqrt(xp.where(apart, u, 0.0))
    values = xp.exp(-t)
    return values, lambda: xp.where(apart, values / xp.where(apart, t, 1.0), 0.0)


def matern_three_halves(u, rounding):
    """``(1 + t) exp(-t)`` of ``t = sqrt(u)``."""
    xp = array_namespace(u)
    xp.abs(u, out=u)  # rounding may take it below zero
    t = xp.sqrt(u, out=u)
    decay = xp.exp(-t)
    t += 1
    t *= decay
    return t, lambda: decay


def matern_five_halves(u, rounding):
    """``(1 + t + t**2 / 3) exp(-t)`` of ``t = sqrt(u)``."""
    xp = array_namespace(u)
    xp.abs(u, out=u)
    t = xp.sqrt(u)
    slopes = xp.exp(-t)
    u /= 3
    u *= slopes
    t += 1
    slopes *= t
    u += slopes
    return u, lambda: slopes


def rational_quadratic(alpha):
    """``(1 + u)**-alpha``."""

    def profile(u, rounding):
        u += 1
        values = u**-alpha
        return values, lambda: values / u

    return profile


def dot_product(centres, shift):
    """Forward of ``x.c + shift``."""

    def forward(X):
        values = X @ centres.T
        values += shift
        return values, lambda cotangent: cotangent @ centres

    return forward


def squared_norm(shift):
    """Forward of ``x.x + shift``."""

    def forward(X):
        xp = array_namespace(X)
        return xp.sum(X * X, axis=1) + shift, lambda cotangent: 2 * per_sample(cotangent, like=X) * X

    return forward


# Profiles of the kernels by distance, with the factors of their arguments and of their slopes.
_RBF = (exponential, -1 / 2, 1)
_MATERN = {
    0.5: (matern_half, 1, -1 / 2),
    1.5: (matern_three_halves, 3, -1 / 2),
    2.5: (matern_five_halves, 5, -1 / 6),
    np.inf: _RBF,
}


def name_of(kernel):
    """Name of a kernel's class, or None if it is not scikit-learn's own."""
    cls = type(kernel)
    return cls.__name__ if cls.__module__ == "sklearn.gaussian_process.kernels" else None


def covariance(kernel, centres, backend):
    """Bind a fitted kernel: its forwards with the training points ``centres``, and with itself."""
    name = name_of(kernel)
    if name in ("Sum", "Product"):
        combine = added if name == "Sum" else multiplied
        first, second = (covariance(part, centres, backend) for part in (kernel.k1, kernel.k2))
        return combine(first[0], second[0]), combine(first[1], second[1])
    if name == "Exponentiation":
        cross, own = covariance(kernel.kernel, centres, backend)
        return raised(cross, float(kernel.exponent)), raised(own, float(kernel.exponent))
    if name == "ConstantKernel":
        return (constant(float(kernel.constant_value)),) * 2
    if name == "WhiteKernel":
        # Noise of one sample has nothing to do with that of another.
        return constant(0.0), constant(float(kernel.noise_level))
    if name == "DotProduct":
        shift = float(kernel.sigma_0) ** 2
        return dot_product(backend.asarray(centres), shift), squared_norm(shift)
    if name == "RBF":
        profile = _RBF
    elif name == "Matern" and kernel.nu in _MATERN:
        profile = _MATERN[kernel.nu]
    elif name == "RationalQuadratic":
        alpha = float(kernel.alpha)
        profile = (rational_quadratic(alpha), 1 / (2 * alpha), -alpha)
    else:
        raise GradientUnavailableError(
            f"the kernel {kernel} has no gradient rule: skart knows RBF, Matern with nu 0.5, 1.5, 2.5 or inf, "
            "RationalQuadratic, DotProduct, ConstantKernel, WhiteKernel, and their sums, products and powers. Fit with "
            "one of these, or register a rule of your own with `skart.register_rule`."
        )
    length_scale = backend.asarray(np.atleast_1d(kernel.length_scale))
    return of_distances(backend.asarray(centres), length_scale, *profile), constant(1.0)


def peeled(kernel):
    """A kernel without the constant that multiplies it, and that constant."""
    if name_of(kernel) == "Product":
        for scale, other in ((kernel.k1, kernel.k2), (kernel.k2, kernel.k1)):
            if name_of(scale) == "ConstantKernel":
                other, inner = peeled(other)
                return other, inner * float(scale.constant_value)
    return kernel, 1.0


def latent(model, backend):
    """Forward of mean and variance of the latent function of a binary classifier; its pullback takes two cotangents."""
    xp = backend.xp
    # A constant in front goes into the weights, which are smaller than the kernel's values of a batch.
    kernel, scale = peeled(model.kernel_)
    cross, own = covariance(kernel, model.X_train_, backend)
    slope = backend.asarray(scale * (model.y_train_ - model.pi_))
    # The variance is k(x, x) - k W^(1/2) B^(-1) W^(1/2) k with B = L L^T. B is no smaller than one, so that the matrix
    # in between loses no digits, and the pullback needs no product but the kernel's own.
    half = scale * solve_triangular(model.L_, np.diag(model.W_sr_), lower=True)
    middle = backend.asarray(half.T @ half)

    def forward(X):
        kernel, pull = cross(X)
        if pull is None:
            kernel = xp.zeros((X.shape[0], slope.shape[0]), dtype=X.dtype, device=backend.device) + kernel
        shrinkage = kernel @ middle
        alone, pull_alone = own(X)
        mean, variance = kernel @ slope, scale * alone - xp.vecdot(kernel, shrinkage)

        def pullback(to_mean, to_variance):
            grad = xp.zeros_like(X)
            if pull is not None:
                cotangent = shrinkage * (-2 * to_variance)[:, None]
                cotangent += to_mean[:, None] * slope
                grad += pull(cotangent)
            if pull_alone is not None:
                grad += pull_alone(scale * to_variance)
            return grad

        return (mean, variance), pullback

    return forward


def logistic(mean, variance, *, both):
    """Logarithms of the two probabilities, or of the second alone, by mean and variance of the latent function.

    The mean of the logistic function under a normal distribution is the sum of ``_SHARE * (1 + erf(z)) / 2``, where
    ``z = l * mean / sqrt(1 + 2 * l**2 * variance)``. The shares cancel to four digits: this is done in float64, which
    costs nothing beside the kernel. They add up to one but for 1e-8; taking the probability of the other class from
    its own sum leaves that aside, and makes the logits equal where the latent mean is zero, as ``predict`` has it.
    """
    xp, dtype = array_namespace(mean), mean.dtype
    steepness, share = (xp.asarray(values, dtype=xp.float64, device=device(mean)) for values in (_STEEPNESS, _SHARE))
    mean, variance = xp.astype(mean, xp.float64)[:, None], xp.astype(variance, xp.float64)[:, None]
    slope = steepness / xp.sqrt(1 + 2 * steepness**2 * variance)
    z = mean * slope
    tiny = float(xp.finfo(xp.float64).smallest_normal)
    signs = (-1.0, 1.0) if both else (1.0,)
    probability = xp.stack([xp.clip(special("erfc", -sign * z) @ share / 2, tiny, None) for sign in signs], axis=1)

    def pullback(cotangent):
        density = xp.exp(-z * z) * share / math.sqrt(math.pi)
        weight = xp.astype(cotangent, xp.float64) / probability
        weight = weight[:, 1] - weight[:, 0] if both else weight[:, 0]
        to_mean = weight * xp.sum(density * slope, axis=1)
        to_variance = -weight * xp.sum(density * z * slope**2, axis=1)
        return xp.astype(to_mean, dtype), xp.astype(to_variance, dtype)

    return xp.astype(xp.log(probability), dtype), pullback


def log_probabilities(latents, link, *, variances=False):
    """Forward of the logarithms of probabilities from latent functions, one for two classes or one for each class.

    ``link(mean, variance)`` gives the columns of one function, and what pulls their cotangent back to both. With
    ``variances``, those of the functions are further columns.
    """

    def forward(X):
        xp = array_namespace(X)
        values, pulls = zip(*(latent_forward(X) for latent_forward in latents))
        columns, links = zip(*(link(*pair) for pair in values))
        width, n_logits = columns[0].shape[1], sum(part.shape[1] for part in columns)
        if variances:
            columns += tuple(variance[:, None] for _, variance in values)

        def pullback(cotangent):
            grad = xp.zeros_like(X)
            for k, (pull, back) in enumerate(zip(pulls, links)):
                to_mean, to_variance = back(cotangent[:, k * width : (k + 1) * width])
                if variances:
                    to_variance = to_variance + cotangent[:, n_logits + k]
                # A constraint on one function asks nothing of the others.
                if len(pulls) == 1 or bool(xp.any((to_mean != 0) | (to_variance != 0))):
                    grad += pull(to_mean, to_variance)
            return grad

        return xp.concat(columns, axis=1), pullback

    return forward


def in_double(forward):
    """``forward`` in float64, whatever the dtype of its input; what comes out has that dtype again."""

    def cast(X):
        xp, dtype = array_namespace(X), X.dtype
        output, pull = forward(xp.astype(X, xp.float64))
        return xp.astype(output, dtype), lambda cotangent: xp.astype(pull(xp.astype(cotangent, xp.float64)), dtype)

    return cast


@rule("sklearn.gaussian_process.GaussianProcessClassifier")
def gaussian_process_classifier(model, backend):
    if model.n_classes_ > 2 and model.multi_class == "one_vs_one":
        raise GradientUnavailableError(
            'GaussianProcessClassifier(multi_class="one_vs_one") has no probabilities and answers labels by votes. Fit '
            'with multi_class="one_vs_rest".'
        )
    # predict_proba divides the probabilities of each class against the rest by their sum.
    parts = [model.base_estimator_] if model.n_classes_ == 2 else model.base_estimator_.estimators_
    link = partial(logistic, both=model.n_classes_ == 2)

    @cache
    def uncertain():
        # Small variances are differences of large numbers. They are bound only for who asks for them.
        precise = replace(backend, dtype=backend.xp.float64)
        return in_double(log_probabilities([latent(part, precise) for part in parts], link, variances=True))

    forward = log_probabilities([latent(part, backend) for part in parts], link)
    return Bound(forward, uncertainty=lambda X: uncertain()(X))
