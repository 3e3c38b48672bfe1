"""Rules for transformers that expand features into polynomials and splines."""

from itertools import accumulate
from numbers import Integral

import numpy as np

from skart._core._arrays import array_namespace, device
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import rule

__all__ = []


def monomials(n_features, lowest, highest, *, interaction_only, include_bias):
    """Forward of all products of features of these degrees, in scikit-learn's order.

    The products of one degree that begin with feature i are i times those of the degree below that begin with i or a
    later feature: a slice of them. So all is built, and pulled back, slice by slice.
    """
    skip = int(interaction_only)
    # For each degree from the second: where the slice of each feature begins below, and where its products go.
    plan, starts, n_terms = [], list(range(n_features + 1)), n_features
    for _ in range(2, highest + 1):
        begins = starts[skip : n_features + skip]
        starts = [0, *accumulate(n_terms - begin for begin in begins)]
        plan.append((begins, starts))
        n_terms = starts[-1]
        starts = [*starts, n_terms] if skip else starts

    def forward(X):
        xp = array_namespace(X)
        terms = [X]
        for begins, _ in plan:
            blocks = [X[:, i : i + 1] * terms[-1][:, begin:] for i, begin in enumerate(begins)]
            terms.append(xp.concat(blocks, axis=1))
        given = [xp.ones_like(X[:, :1])] if include_bias else []
        given += terms[max(lowest, 1) - 1 : highest]

        def pullback(cotangent):
            # Cotangents of the degrees that are given out, highest first.
            end = cotangent.shape[1]
            grad, carried = xp.zeros_like(X), None
            for degree in range(highest, 0, -1):
                total = carried
                if degree >= lowest:
                    begin = end - terms[degree - 1].shape[1]
                    own, end = cotangent[:, begin:end], begin
                    total = own if carried is None else carried + own
                if degree == 1:
                    return grad + total
                below = terms[degree - 2]
                carried = xp.zeros_like(below)
                begins, starts = plan[degree - 2]
                for i, begin in enumerate(begins):
                    block = total[:, starts[i] : starts[i + 1]]
                    grad[:, i] += xp.sum(block * below[:, begin:], axis=1)
                    carried[:, begin:] += X[:, i : i + 1] * block
            return grad

        return xp.concat(given, axis=1), pullback

    return forward


@rule("sklearn.preprocessing.PolynomialFeatures")
def polynomial_expansion(step, backend):
    lowest, highest = (0, step.degree) if isinstance(step.degree, Integral) else step.degree
    return monomials(
        step.n_features_in_,
        lowest,
        highest,
        interaction_only=step.interaction_only,
        include_bias=step.include_bias,
    )


def b_splines(knots, degree):
    """Values and slopes at x (n_samples, n_features) of the B-splines with these knots (n_features, n_knots).

    de Boor's recursion over all features and samples at once. Beyond the base interval the outermost polynomials go on.
    """
    xp = array_namespace(knots)
    n_knots = knots.shape[1]
    inner = knots[:, degree + 1 : n_knots - degree - 1]
    intervals = xp.arange(n_knots - 1, device=device(knots)) - degree
    # Knots that coincide leave splines of width zero, which count for nothing.
    inverse_widths = []
    for order in range(1, degree + 1):
        width = knots[:, order:] - knots[:, :-order]
        inverse_widths.append(xp.where(width > 0, 1 / xp.where(width > 0, width, 1.0), 0.0))

    def evaluate(x):
        x = x[:, :, None]
        interval = xp.sum(xp.astype(x >= inner, xp.int64), axis=2)
        values = xp.astype(interval[:, :, None] == intervals, x.dtype)
        for order, inverse_width in enumerate(inverse_widths, start=1):
            ratio = values * inverse_width
            left, right = ratio[:, :, :-1], ratio[:, :, 1:]
            if order == degree:
                slopes = degree * (left - right)
            values = (x - knots[:, : -order - 1]) * left + (knots[:, order + 1 :] - x) * right
        return values, slopes

    return evaluate


@rule("sklearn.preprocessing.SplineTransformer")
def spline_transformer(step, backend):
    xp, degree, extrapolation = backend.xp, step.degree, step.extrapolation
    if degree == 0:
        raise GradientUnavailableError(
            "SplineTransformer(degree=0) gives step functions of the input. Fit with degree >= 1, or use "
            "KBinsDiscretizer, through whose steps gradients pass straight."
        )
    if degree == 1 and extrapolation == "linear" and step.n_features_in_ > 1:
        raise GradientUnavailableError(
            'SplineTransformer(degree=1, extrapolation="linear") takes wrong knots for the borders of all features but '
            'the first, and its output is no spline. Fit with extrapolation="continue", which for this degree is the '
            "linear continuation."
        )
    # The public attribute holds the knots, those beyond the base interval too.
    knots = backend.asarray(np.stack([spline.t for spline in step.bsplines_]))
    splines = b_splines(knots, degree)
    low, high = knots[:, degree], knots[:, -degree - 1]
    period = high - low
    n_splines = step.bsplines_[0].c.shape[1]
    n_given = n_splines if step.include_bias else n_splines - 1

    def values_and_slopes(X):
        if extrapolation == "periodic":
            # A feature of one value has no period; scikit-learn puts all of it at zero.
            moves = period > 0
            x = xp.where(moves, low + (X - low) % xp.where(moves, period, 1.0), 0.0)
            values, slopes = splines(x)
            # The last splines are the first ones again.
            for array in (values, slopes):
                array[:, :, :degree] += array[:, :, n_splines:]
            return values, slopes * xp.astype(moves, X.dtype)[:, None]
        if extrapolation in ("constant", "linear"):
            x = xp.minimum(xp.maximum(X, low), high)
            values, slopes = splines(x)
            if extrapolation == "linear":
                return values + (X - x)[:, :, None] * slopes, slopes
            return values, slopes * xp.astype(x == X, X.dtype)[:, :, None]
        return splines(X)

    def forward(X):
        n_samples, n_features = X.shape
        values, slopes = (array[:, :, :n_given] for array in values_and_slopes(X))

        def pullback(cotangent):
            return xp.sum(xp.reshape(cotangent, (n_samples, n_features, n_given)) * slopes, axis=2)

        return xp.reshape(values, (n_samples, n_features * n_given)), pullback

    return forward
