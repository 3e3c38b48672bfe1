"""The rule for calibrated classifiers.

Each of the fitted pairs maps a classifier's scores to probabilities, and the mean of these is the model's. The scores
are ``decision_function`` where the classifier has one, else ``predict_proba``.
"""

import math

import numpy as np

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._linear import affine, log_sigmoid
from skart.gradients._members import decision_values, joined, log_mixture, log_probabilities, normalised
from skart.gradients._registry import Bound, chain, rule

__all__ = ["interpolated"]


def interpolated(knots, values, backend):
    """Forward of the piecewise linear function through these points, which rises, and is constant outside of them."""
    if len(knots) == 1:
        knots, values = np.append(knots, knots[0] + 1), np.append(values, values[0])
    slopes = backend.asarray(np.diff(values) / np.diff(knots))
    knots, values = backend.asarray(knots), backend.asarray(values)
    n_pieces = len(slopes)

    def forward(t):
        xp = array_namespace(t)
        piece = xp.clip(xp.searchsorted(knots, t, side="right") - 1, 0, n_pieces - 1)
        low, high, slope = values[piece], values[piece + 1], slopes[piece]
        inside = xp.astype((t >= knots[0]) & (t <= knots[-1]), t.dtype)
        slope = slope * inside
        # Rounding is not to leave the piece: it may be steep.
        output = xp.minimum(xp.maximum(low + slope * (t - knots[piece]), low), high)
        output = xp.where(t > knots[-1], values[-1], output)
        return output, lambda cotangent: cotangent * slope

    return forward


def log_isotonic(calibrators, backend):
    """Forward of the logarithm of each column, put through its calibrator."""
    curves = [interpolated(c.X_thresholds_, c.y_thresholds_, backend) for c in calibrators]

    def forward(scores):
        xp = array_namespace(scores)
        # torch warns when it searches for what is not contiguous, as a sum is.
        columns, pulls = zip(*(curve(scores[:, k] + 0) for k, curve in enumerate(curves)))
        proba = xp.stack(columns, axis=1)
        if len(curves) == 1:  # of two classes
            proba = xp.concat([1 - proba, proba], axis=1)
        # What is less comes of rounding in the interpolation.
        least = float(xp.finfo(proba.dtype).eps)
        floored = xp.clip(proba, least, None)
        alive = xp.astype(proba > least, proba.dtype)

        def pullback(cotangent):
            cotangent = cotangent * alive / floored
            if len(curves) == 1:
                cotangent = cotangent[:, 1:] - cotangent[:, :1]
            grad = xp.stack([pull(cotangent[:, k]) for k, pull in enumerate(pulls)], axis=1)
            return _padded(grad, scores)

        return xp.log(floored), pullback

    return forward


def log_platt(calibrators, backend):
    """Forward of the logarithm of ``expit(-(a * score + b))`` of each column, or of that and its complement."""
    slopes = backend.asarray(np.asarray([-float(c.a_) for c in calibrators]))
    biases = backend.asarray(np.asarray([-float(c.b_) for c in calibrators]))
    n_columns = len(calibrators)

    def scaled(scores):
        xp = array_namespace(scores)
        margins = scores[:, :n_columns] * slopes + biases
        if n_columns > 1:
            return margins, lambda cotangent: _padded(cotangent * slopes, scores)
        both = xp.concat([-margins, margins], axis=1)
        return both, lambda cotangent: (cotangent[:, 1:] - cotangent[:, :1]) * slopes

    return log_sigmoid(scaled)


def _padded(grad, scores):
    """Zero for the columns that have no calibrator (a member that scores pairs of classes has more of them)."""
    xp = array_namespace(scores)
    rest = scores[:, grad.shape[1] :]
    return xp.concat([grad, xp.zeros_like(rest)], axis=1) if rest.shape[1] else grad


def _added_epsilon(forward):
    """Forward of ``log(exp(output) + 1e-12)``, which is how scikit-learn takes the logarithm of probabilities."""

    def log_forward(X):
        output, pull = forward(X)
        xp = array_namespace(output)
        proba = xp.exp(output)
        shifted = proba + 1e-12
        return xp.log(shifted), lambda cotangent: pull(cotangent * proba / shifted)

    return log_forward


def _tempered(member, bound, calibrator, backend):
    """Forward of the logits of temperature scaling."""
    beta = float(np.asarray(calibrator.beta_))
    if not hasattr(member, "decision_function"):
        logits = _added_epsilon(log_probabilities("estimator", member, bound))
    else:
        logits = decision_values("estimator", member, bound)
        if len(member.classes_) == 2:
            # A binary margin d counts as the scores (-d, d).
            signs = affine(backend.asarray(np.array([[-1.0, 1.0]])), backend.asarray(np.zeros(2)))
            logits = chain([Bound(logits), Bound(signs)]).forward

    def forward(X):
        output, pull = logits(X)
        return beta * output, lambda cotangent: pull(beta * cotangent)

    return forward


def _probability_scores(member, bound):
    """Forward of the columns of ``predict_proba`` that calibrators take: of two classes, the second."""
    log_proba = log_probabilities("estimator", member, bound)

    def forward(X):
        output, pull = log_proba(X)
        xp = array_namespace(output)
        proba = xp.exp(output)
        binary = proba.shape[1] == 2

        def pullback(cotangent):
            if binary:
                cotangent = xp.concat([xp.zeros_like(cotangent), cotangent], axis=1)
            return pull(cotangent * proba)

        return (proba[:, 1:] if binary else proba), pullback

    return forward


@rule("sklearn.calibration.CalibratedClassifierCV", frames=True, gradient="of its parts")
def calibrated(model, backend):
    n_classes = len(model.classes_)
    bounds, parts, columns = [], [], []
    for pair in model.calibrated_classifiers_:
        member = pair.estimator
        bound = backend.bind(member, where="estimator")
        bounds.append(bound)
        if pair.method == "temperature":
            parts.append(normalised(_tempered(member, bound, pair.calibrators[0], backend)))
            columns.append(None)
            continue
        if n_classes > 2 and len(member.classes_) == 2:
            raise GradientUnavailableError(
                f"a fold of this {type(model).__name__} has seen two of the {n_classes} classes only, and its members "
                "are of no use. Fit with folds that hold all classes, or with ensemble=False."
            )
        has_decision = hasattr(member, "decision_function")
        scores = decision_values("estimator", member, bound) if has_decision else _probability_scores(member, bound)
        # Scores and calibrators are paired in the order of the member's classes, of which a fold may lack some.
        calibrators = list(pair.calibrators)[: len(member.classes_)]
        curve = (log_platt if pair.method == "sigmoid" else log_isotonic)(calibrators, backend)
        log_proba = normalised(chain([Bound(scores), Bound(curve)]).forward)
        parts.append(log_proba)
        known = np.searchsorted(model.classes_, member.classes_)
        columns.append(None if n_classes == 2 or len(known) == n_classes else known)
    return joined(log_mixture(parts, [-math.log(len(parts))] * len(parts), columns, n_classes), bounds)
