"""Rules for classifiers of many classes that are made of binary ones."""

from dataclasses import replace

import numpy as np
from sklearn.base import is_regressor

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._kernel import smallest_margins
from skart.gradients._linear import affine
from skart.gradients._members import (
    concatenated,
    decision_values,
    joined,
    log_probabilities,
    margin_columns,
    normalised,
)
from skart.gradients._registry import Bound, chain, rule

__all__ = []


def _bind_binary(model, backend):
    """Bound rules of the binary classifiers of a meta-estimator; None for one that answers a constant."""
    bounds = []
    for k, member in enumerate(model.estimators_):
        if is_regressor(member):
            raise GradientUnavailableError(
                f"{type(model).__name__} of a regressor ({type(member).__name__}): skart has rules for classifiers. "
                "Make it of classifiers."
            )
        # What scikit-learn puts in the place of an estimator that would see one class only.
        constant = type(member).__name__ == "_ConstantPredictor"
        bounds.append(None if constant else backend.bind(member, where=f"estimators_[{k}]"))
    return bounds


def _second_column(forward):
    """Forward of the second of two columns, as the only one."""

    def second(X):
        output, pull = forward(X)
        xp = array_namespace(output)

        def pullback(cotangent):
            return pull(xp.concat([xp.zeros_like(cotangent), cotangent], axis=1))

        return output[:, 1:], pullback

    return second


def _exp(output):
    values = array_namespace(output).exp(output)
    return values, lambda cotangent: cotangent * values


def _binary_score(name, member, bound):
    """Forward of what scikit-learn asks of a binary classifier: its margin, else the second class's probability."""
    if hasattr(member, "decision_function"):
        return decision_values(name, member, bound)
    return chain([Bound(_second_column(log_probabilities(name, member, bound))), Bound(_exp)]).forward


def _monotone(member, bound):
    """Whether the second class's probability, if there is one, follows from the margin that ``predict`` compares."""
    if not hasattr(member, "decision_function"):
        return True
    if bound.decision is not None or bound.follows_predict:
        return False
    return hasattr(member, "predict_proba") and bound.probabilistic


@rule("sklearn.multiclass.OneVsRestClassifier", frames=True, gradient="of its parts")
def one_vs_rest(model, backend):
    """Logarithms of the probabilities, where these follow from the scores that are compared; else these scores."""
    if model.multilabel_:
        raise GradientUnavailableError(
            "this OneVsRestClassifier was fitted on several labels a sample (multilabel y); skart attacks one label a "
            "sample. Fit one classifier for each label."
        )
    bounds = _bind_binary(model, backend)
    members = list(zip(range(len(bounds)), model.estimators_, bounds))
    probabilistic = all(_monotone(member, bound) for _, member, bound in members)
    if len(members) == 1:
        name, member, bound = members[0]
        if not hasattr(member, "decision_function"):
            return joined(log_probabilities(name, member, bound), bounds)
        if bound.decision is None and not bound.follows_predict:
            return replace(bound, margins=None, transform=None, own_input=None, index_labels=False)
        # `predict` compares the margin with zero, whatever the probabilities are.
        signs = affine(backend.asarray(np.array([[0.0, 1.0]])), backend.asarray(np.zeros(2)))
        margin = Bound(decision_values(name, member, bound))
        return joined(chain([margin, Bound(signs)]).forward, bounds, probabilistic=False)
    if not probabilistic:
        return joined(concatenated([decision_values(*member) for member in members]), bounds, probabilistic=False)
    scores = normalised(concatenated([_second_column(log_probabilities(*member)) for member in members]))
    decision = None
    if all(hasattr(member, "decision_function") for member in model.estimators_):
        decision = concatenated([decision_values(*member) for member in members])
    return joined(scores, bounds, decision=decision)


def _margins_of_pairs(bounds):
    """Forward of the logits' differences, pair by pair: positive for the first class of each."""
    forward = concatenated([margin_columns(bound.forward) for bound in bounds])

    def negated(X):
        output, pull = forward(X)
        return -output, lambda cotangent: pull(-cotangent)

    return negated


def _votes(margins, confidences, n_classes, backend):
    """Forward of scikit-learn's votes, with the sums of the confidences, bounded, to break ties.

    ``margins`` tell who wins a pair and ``confidences`` are what its classifier says for the second class.
    """
    xp = backend.xp
    first, second = np.triu_indices(n_classes, 1)
    for_first, for_second = (backend.asarray(np.eye(n_classes)[index]) for index in (first, second))
    signs = for_second - for_first

    def forward(X):
        first_wins = xp.astype(margins(X)[0] >= 0, X.dtype)
        values, pull = confidences(X)
        confidence = values @ signs
        slope = 1 / (1 + xp.abs(confidence))
        scores = first_wins @ for_first + (1 - first_wins) @ for_second + confidence * slope / 3

        def pullback(cotangent):
            # Votes are flat almost everywhere; s / (3 (1 + |s|)) has the derivative 1 / (3 (1 + |s|)**2).
            return pull((cotangent * slope * slope / 3) @ signs.T)

        return scores, pullback

    return forward


@rule("sklearn.multiclass.OneVsOneClassifier", frames=True, gradient="of its parts")
def one_vs_one(model, backend):
    """The votes, which are a staircase, and as margins the least of those of each class over its rivals."""
    n_classes = len(model.classes_)
    bounds = _bind_binary(model, backend)
    pairs = _margins_of_pairs(bounds)
    confidences = concatenated([_binary_score(k, *pair) for k, pair in enumerate(zip(model.estimators_, bounds))])
    votes = _votes(pairs, confidences, n_classes, backend)
    eye, zeros = backend.asarray(np.eye(len(bounds))), backend.asarray(np.zeros(len(bounds)))
    margins = smallest_margins(pairs, eye, zeros, n_classes)
    if n_classes > 2:
        return joined(votes, bounds, margins=margins)
    # Of two classes the score is that of the second one, and `predict` compares it with 0 or, for probabilities, 1/2.
    threshold = 0.0 if hasattr(model.estimators_[0], "decision_function") else 0.5

    def forward(X):
        scores, pull = votes(X)
        xp = array_namespace(scores)
        second = scores[:, 1:] - threshold
        shifted = xp.concat([xp.zeros_like(second), second], axis=1)
        return shifted, lambda cotangent: pull(xp.concat([xp.zeros_like(second), cotangent[:, 1:]], axis=1))

    def public(logits):
        shift = np.array([[0.0, threshold]]) if isinstance(logits, np.ndarray) else backend.asarray([[0.0, threshold]])
        return logits + shift

    return joined(forward, bounds, margins=margins, public=public if threshold else None)


@rule("sklearn.multiclass.OutputCodeClassifier", frames=True, gradient="of its parts")
def output_code(model, backend):
    """Minus the squared distances to the code words, but for the part that all classes share.

    ``predict`` takes the nearest code word; there are no other public scores.
    """
    bounds = _bind_binary(model, backend)
    kept = np.array([bound is not None for bound in bounds])
    if not kept.any():
        raise GradientUnavailableError(
            "all estimators of this OutputCodeClassifier answer a constant: its code book has one value only in each "
            "column. Fit with a larger code_size or another random_state."
        )
    codes = np.asarray(model.code_book_, dtype=np.float64)
    # -||s - c||**2 + ||s||**2 = 2 s.c - ||c||**2; a constant estimator has the same code for all classes.
    codes = codes[:, kept]
    distances = affine(backend.asarray(2 * codes.T), backend.asarray(-np.sum(codes**2, axis=1)))
    members = [(k, model.estimators_[k], bounds[k]) for k in np.flatnonzero(kept)]
    bounds = [bound for bound in bounds if bound is not None]
    scores = concatenated([_binary_score(*member) for member in members])
    return joined(chain([Bound(scores), Bound(distances)]).forward, bounds)
