"""Rules for linear classifiers."""

import numpy as np
from scipy.sparse import issparse

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import Bound, rule

__all__ = ["affine", "affine_scores", "log_sigmoid"]


def affine(weights, bias):
    """Forward of ``X @ weights + bias``."""

    def forward(X):
        output = X @ weights
        output += bias
        return output, lambda cotangent: cotangent @ weights.T

    return forward


def log_sigmoid(forward):
    """Forward of the logarithm of the sigmoid of another forward's output."""

    def log_forward(X):
        output, pull = forward(X)
        xp = array_namespace(output)
        zeros = xp.zeros_like(output)

        def pullback(cotangent):
            # The derivative is sigmoid(-output) = exp(-log(1 + exp(output))), which does not overflow.
            return pull(cotangent * xp.exp(-xp.logaddexp(zeros, output)))

        return -xp.logaddexp(zeros, -output), pullback

    return log_forward


def affine_scores(coef, intercept, backend):
    """Forward of decision values ``X @ coef.T + intercept``; one row of ``coef`` means the binary scores (0, d)."""
    coef = np.atleast_2d(coef.toarray() if issparse(coef) else coef)  # one row may come without its axis
    weights = backend.asarray(coef).T
    bias = backend.asarray(np.broadcast_to(intercept, (weights.shape[1],)))
    return affine(*two_columns(weights, bias))


def two_columns(weights, bias):
    """Weights and bias whose scores for a binary margin d are (0, d); those of several classes as they are."""
    if weights.shape[1] > 1:
        return weights, bias
    xp = array_namespace(weights)
    return xp.concat([xp.zeros_like(weights), weights], axis=1), xp.concat([xp.zeros_like(bias), bias])


@rule("sklearn.linear_model.LogisticRegression", "sklearn.linear_model.LogisticRegressionCV")
def logistic_regression(model, backend):
    n_classes = len(model.classes_)
    multi_class = getattr(model, "multi_class", None)  # gone since scikit-learn 1.8
    if n_classes == 2 and multi_class == "multinomial":
        # Its predict_proba is the softmax of (-d, d).
        return Bound(
            affine_scores(2 * model.coef_, 2 * model.intercept_, backend),
            decision=affine_scores(model.coef_, model.intercept_, backend),
        )
    scores = affine_scores(model.coef_, model.intercept_, backend)
    if n_classes > 2 and (
        multi_class in ("ovr", "warn") or (multi_class in ("auto", "deprecated") and model.solver == "liblinear")
    ):
        # One model for each class: predict_proba normalises their sigmoids.
        return Bound(log_sigmoid(scores), decision=scores)
    return scores


@rule("sklearn.linear_model.SGDClassifier")
def sgd_classifier(model, backend):
    scores = affine_scores(model.coef_, model.intercept_, backend)
    if model.loss == "log_loss" and len(model.classes_) > 2:
        return Bound(log_sigmoid(scores), decision=scores)
    # The probabilities of "modified_huber" are clipped.
    return Bound(scores, probabilistic=model.loss != "modified_huber")


@rule(
    "sklearn.linear_model.PassiveAggressiveClassifier",
    "sklearn.linear_model.Perceptron",
    "sklearn.svm.LinearSVC",
)
def decision_values(model, backend):
    return affine_scores(model.coef_, model.intercept_, backend)


@rule("sklearn.linear_model.RidgeClassifier", "sklearn.linear_model.RidgeClassifierCV")
def ridge_classifier(model, backend):
    # No public attribute tells several labels from several classes.
    if model._label_binarizer.y_type_.startswith("multilabel"):
        raise GradientUnavailableError(
            f"{type(model).__name__} was fitted on several labels a sample (multilabel y); skart attacks one label a "
            "sample. Fit one classifier for each label."
        )
    return affine_scores(model.coef_, model.intercept_, backend)


@rule("sklearn.discriminant_analysis.LinearDiscriminantAnalysis")
def linear_discriminant_analysis(model, backend):
    transform = None
    if model.solver != "lsqr":  # which has no `transform`
        scalings = model.scalings_[:, : model._max_components]
        shift = -model.xbar_ @ scalings if model.solver == "svd" else np.zeros(scalings.shape[1])
        transform = affine(backend.asarray(scalings), backend.asarray(shift))
    return Bound(affine_scores(model.coef_, model.intercept_, backend), transform=transform)
