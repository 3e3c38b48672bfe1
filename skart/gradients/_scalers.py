"""Rules for transformers that work feature by feature."""

import math

import numpy as np

from skart._core._arrays import array_namespace
from skart.gradients._preprocessing import centred_and_scaled
from skart.gradients._registry import Bound, chain, elementwise, rule
from skart.gradients._special import special

__all__ = []


@rule("sklearn.preprocessing.MaxAbsScaler")
def max_abs_scaler(scaler, backend):
    factor = backend.asarray(1 / scaler.scale_)
    if not getattr(scaler, "clip", False):  # since scikit-learn 1.8
        return elementwise(lambda X: (X * factor, lambda cotangent: cotangent * factor))
    # On the border the derivative is that of the inside: the extremes of the data lie there.
    border = 1 + 4 * float(backend.xp.finfo(backend.dtype).eps)

    def forward(X):
        xp = array_namespace(X)
        output = X * factor
        slope = xp.astype(xp.abs(output) <= border, output.dtype) * factor
        return xp.clip(output, -1.0, 1.0), lambda cotangent: cotangent * slope

    return elementwise(forward)


@rule("sklearn.preprocessing.RobustScaler")
def robust_scaler(scaler, backend):
    return centred_and_scaled(
        scaler.center_ if scaler.with_centering else None, scaler.scale_ if scaler.with_scaling else None, backend
    )


def power(logarithm, exponent):
    """Value and slope, against the base, of ``(base**exponent - 1) / exponent`` from the base's logarithm."""
    xp = array_namespace(logarithm)
    return xp.expm1(exponent * logarithm) / exponent, xp.exp((exponent - 1) * logarithm)


@rule("sklearn.preprocessing.PowerTransformer")
def power_transformer(step, backend):
    lambdas = np.asarray(step.lambdas_)

    def nonzero(exponents):
        # The limit at zero is the logarithm, which an exponent this small gives to the last digit.
        return backend.asarray(np.where(np.abs(exponents) < 1e-30, 1e-30, exponents))

    upper, lower = nonzero(lambdas), nonzero(2 - lambdas)

    def box_cox(X):
        output, slope = power(backend.xp.log(X), upper)
        return output, lambda cotangent: cotangent * slope

    def yeo_johnson(X):
        xp = array_namespace(X)
        # What happens above zero to 1 + x with one exponent happens below to 1 - x with another, and the sign turned.
        output, slope = power(xp.log1p(xp.abs(X)), xp.where(X >= 0, upper, lower))
        return xp.where(X >= 0, output, -output), lambda cotangent: cotangent * slope

    transform = Bound(box_cox if step.method == "box-cox" else yeo_johnson)
    # No public attribute holds the scaler that comes after.
    return chain([transform, backend.bind(step._scaler)]) if step.standardize else transform


# scikit-learn keeps probabilities this far from 0 and 1 before it takes normal quantiles.
_PROBABILITY_MARGIN = 1e-7


def quantile_curve(quantiles, references, backend):
    """Bind the map of one feature to probabilities; returns its forward and whether it is continuous.

    Forward gives probabilities, their slopes, and for each sample the two ends of its segment.

    A value that repeats in the data repeats among the quantiles, and the map jumps there. All that happens in features
    of few values happens in these jumps, so the slope beside one is that of the line from the middle of one to the
    middle of the next (straight-through); without jumps it is the derivative.
    """
    knots, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    below, above = references[first], references[first + count - 1]
    middle = (below + above) / 2
    middle[-1], middle[0] = 1.0, 0.0
    if len(knots) == 1:
        # One value only: all lies below, at, or above it.
        edges, steps = backend.asarray(knots), None
    else:
        widths = np.diff(knots)
        jumps = above > below
        edges = backend.asarray(knots)
        steps = [
            backend.asarray(values)
            for values in (
                above[:-1],
                (below[1:] - above[:-1]) / widths,
                np.diff(middle) / widths,
                middle[:-1],
                middle[1:],
                widths,
                jumps[:-1] | jumps[1:],
            )
        ]
    middle = backend.asarray(middle)
    n_knots = len(knots)

    def forward(x):
        xp = array_namespace(x)
        if steps is None:
            return xp.astype(x > edges[0], x.dtype), xp.zeros_like(x), None
        position = xp.searchsorted(edges, x, side="right") - 1
        segment = xp.clip(position, 0, n_knots - 2)
        start, rate, secant, low, high, width, jump = (values[segment] for values in steps)
        position = xp.clip(position, 0, n_knots - 1)
        value = start + rate * (x - edges[segment])
        value = xp.where(x == edges[position], middle[position], value)
        value = xp.where(x < edges[0], 0.0, xp.where(x > edges[-1], 1.0, value))
        inside = (x >= edges[0]) & (x <= edges[-1])
        return value, xp.where(inside, secant, 0.0), (rate, low, high, width, jump > 0)

    return forward, steps is not None and not jumps.any()


@rule("sklearn.preprocessing.QuantileTransformer", gradient="almost everywhere")
def quantile_transformer(step, backend):
    xp = backend.xp
    curves, continuous = zip(
        *(quantile_curve(quantiles, step.references_, backend) for quantiles in np.asarray(step.quantiles_).T)
    )
    normal = step.output_distribution == "normal"
    lowest, highest = (backend.asarray(quantiles) for quantiles in np.asarray(step.quantiles_)[[0, -1]])
    bound = float(-special("ndtri", _PROBABILITY_MARGIN - np.spacing(1)))

    def to_normal(probability):
        # Infinite at 0 and 1, until it is clipped.
        return xp.clip(special("ndtri", probability), -bound, bound)

    def column(j, x):
        value, slope, ends = curves[j](x)
        if not normal:
            return value, slope
        value = xp.where(x + _PROBABILITY_MARGIN > highest[j], 1.0, value)
        value = xp.where(x - _PROBABILITY_MARGIN < lowest[j], 0.0, value)
        output = to_normal(value)
        if ends is None:
            return output, slope
        rate, low, high, width, jump = ends
        # Where the map jumps or is clipped, the line across the segment again: the density at its ends is 1e-6.
        secant = (to_normal(high) - to_normal(low)) / width
        exact = rate * (math.sqrt(2 * math.pi) * xp.exp(output * output / 2))
        slope_inside = xp.where(jump | (xp.abs(output) >= bound), secant, exact)
        return output, xp.where(slope != 0, slope_inside, 0.0)

    def forward(X):
        outputs, slopes = zip(*(column(j, xp.asarray(X[:, j], copy=True)) for j in range(len(curves))))
        slope = xp.stack(slopes, axis=1)
        return xp.stack(outputs, axis=1), lambda cotangent: cotangent * slope

    return Bound(forward, continuous=all(continuous))


@rule("sklearn.impute.SimpleImputer")
def simple_imputer(imputer, backend):
    xp = backend.xp
    statistics = np.asarray(imputer.statistics_, dtype=np.float64)
    # Features without any value are dropped, unless they are to be kept.
    empty = np.isnan(statistics) & (not imputer.keep_empty_features)
    kept = np.flatnonzero(~empty)
    kept = None if len(kept) == len(statistics) else xp.asarray(kept, device=backend.device)
    marked = imputer.indicator_.features_ if imputer.add_indicator else ()
    marked = xp.asarray(np.asarray(marked, dtype=np.int64), device=backend.device) if len(marked) else None
    values = backend.asarray(statistics)
    missing_values = imputer.missing_values
    marks_nan = isinstance(missing_values, float) and math.isnan(missing_values)

    def forward(X):
        missing = xp.isnan(X) if marks_nan else X == missing_values
        output = xp.where(missing, values, X)
        output = output if kept is None else output[:, kept]
        n_kept = output.shape[1]
        if marked is not None:
            output = xp.concat([output, xp.astype(missing[:, marked], X.dtype)], axis=1)

        def pullback(cotangent):
            # What is filled in, and the marks that tell so, do not change with X.
            cotangent = cotangent[:, :n_kept]
            if kept is not None:
                grad = xp.zeros_like(X)
                grad[:, kept] = cotangent
                cotangent = grad
            return xp.where(missing, 0.0, cotangent)

        return output, pullback

    return elementwise(forward) if kept is None and marked is None else forward
