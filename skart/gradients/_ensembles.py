"""Rules for ensembles: members that vote, are bagged or stacked, and transformers side by side.

Members may be anything that has a rule. What an ensemble asks of them, probabilities or decision values, it asks in
logarithms as long as it can, so that saturated members keep their gradients.
"""

import math
from dataclasses import replace

import numpy as np

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._composition import _transformer, refuse_coded
from skart.gradients._members import (
    bind_members,
    concatenated,
    decision_values,
    joined,
    log_mixture,
    log_probabilities,
)
from skart.gradients._preprocessing import identity
from skart.gradients._registry import Bound, chain, elementwise, rule

__all__ = []


def exponential(forward):
    """Forward of the exponential of another forward's output."""

    def exp_forward(X):
        output, pull = forward(X)
        values = array_namespace(output).exp(output)
        return values, lambda cotangent: pull(cotangent * values)

    return exp_forward


def without_first(forward):
    """Forward of all columns but the first of another forward."""

    def rest(X):
        output, pull = forward(X)
        xp = array_namespace(output)

        def pullback(cotangent):
            return pull(xp.concat([xp.zeros_like(cotangent[:, :1]), cotangent], axis=1))

        return output[:, 1:], pullback

    return rest


def drawn(features, n_features, backend):
    """Forward of the features at these positions, some of which may be drawn several times."""
    features = np.asarray(features)
    if np.array_equal(features, np.arange(n_features)):
        return identity
    # Positions among the drawn, by how often their feature stands before them: within one such group all differ.
    order = np.argsort(features, kind="stable")
    repeats = np.arange(len(features)) - np.searchsorted(features[order], features[order])
    groups = [order[repeats == r] for r in range(repeats.max() + 1)]

    def as_index(positions):
        return backend.xp.asarray(positions, device=backend.device)

    index = as_index(features)
    groups = [(as_index(features[group]), as_index(group)) for group in groups]

    def forward(X):
        def pullback(cotangent):
            grad = backend.xp.zeros_like(X)
            for to, at in groups:
                grad[:, to] += cotangent[:, at]
            return grad

        return X[:, index], pullback

    return forward


@rule("sklearn.ensemble.VotingClassifier", frames=True, gradient="of its parts")
def voting(model, backend):
    """The logarithm of the weighted mean of the members' probabilities."""
    if model.voting == "hard":
        raise GradientUnavailableError(
            "VotingClassifier(voting='hard') counts its members' labels, which are step functions of the input. Set "
            "voting='soft' (no need to fit again), or attack by labels."
        )
    names = [name for name, member in model.estimators if not isinstance(member, str)]
    members = list(zip(names, model.estimators_))
    weights = np.ones(len(members)) if model.weights is None else _kept_weights(model)
    if (weights < 0).any():
        raise GradientUnavailableError(
            f"VotingClassifier with negative weights {model.weights} has no logarithm of probabilities to "
            "differentiate. Give weights that are not negative."
        )
    bounds = bind_members(members, backend)
    parts = [log_probabilities(*member, bound) for member, bound in zip(members, bounds)]
    counted = [
        (part, math.log(weight)) for part, weight in zip(parts, weights / weights.sum()) if weight > 0
    ]  # a weight of zero has no logarithm
    mixture = log_mixture(*zip(*counted), [None] * len(counted), len(model.classes_))
    transform = concatenated([exponential(part) for part in parts]) if model.flatten_transform else None
    return joined(mixture, bounds, transform=transform)


def _kept_weights(model):
    """Weights of the members that are not dropped."""
    return np.asarray([w for (_, member), w in zip(model.estimators, model.weights) if not isinstance(member, str)])


@rule("sklearn.ensemble.BaggingClassifier", gradient="of its parts")
def bagging(model, backend):
    """The logarithm of the mean of the members' probabilities; each sees the features that it was fitted on."""
    members = list(enumerate(model.estimators_))
    if not hasattr(model.estimators_[0], "predict_proba"):
        raise GradientUnavailableError(
            f"BaggingClassifier of {type(model.estimators_[0]).__name__}, which has no `predict_proba`, counts its "
            "members' labels, which are step functions of the input. Bag members that have it, for example "
            "`sklearn.calibration.CalibratedClassifierCV(estimator, ensemble=False)`."
        )
    bounds = bind_members(members, backend)
    subsets = [Bound(drawn(features, model.n_features_in_, backend)) for features in model.estimators_features_]
    parts, columns = [], []
    for (name, member), bound, subset in zip(members, bounds, subsets):
        parts.append(chain([subset, Bound(log_probabilities(name, member, bound))]).forward)
        # Members are fitted on positions, some of which a draw of samples may miss.
        columns.append(None if len(member.classes_) == len(model.classes_) else member.classes_)
    mixture = log_mixture(parts, [-math.log(len(parts))] * len(parts), columns, len(model.classes_))
    if not hasattr(model, "decision_function") or any(index is not None for index in columns):
        return joined(mixture, bounds)
    values = [decision_values(*member, bound) for member, bound in zip(members, bounds)]
    values = [chain([subset, Bound(value)]).forward for subset, value in zip(subsets, values)]
    return joined(mixture, bounds, decision=_mean_decision(values))


def _mean_decision(forwards):
    """Forward of the mean of decision values, a binary margin d as the row (0, d)."""

    def forward(X):
        outputs, pulls = zip(*(part(X) for part in forwards))
        xp = array_namespace(X)
        mean = sum(outputs) / len(outputs)
        binary = mean.shape[1] == 1

        def pullback(cotangent):
            cotangent = (cotangent[:, 1:] if binary else cotangent) / len(pulls)
            return sum(pull(cotangent) for pull in pulls)

        return (xp.concat([xp.zeros_like(mean), mean], axis=1) if binary else mean), pullback

    return forward


@rule("sklearn.ensemble.StackingClassifier", frames=True, gradient="of its parts")
def stacking(model, backend):
    if isinstance(model.classes_, list):
        raise GradientUnavailableError(
            "this StackingClassifier was fitted on several labels a sample (multilabel y); skart attacks one label a "
            "sample. Fit one classifier for each label."
        )
    names = [name for name, member in model.estimators if not isinstance(member, str)]
    members = list(zip(names, model.estimators_))
    for name, method in zip(names, model.stack_method_):
        if method == "predict":
            raise GradientUnavailableError(
                f"member {name!r}: StackingClassifier hands its labels (stack_method 'predict') to the final "
                "estimator, and these are step functions of the input. Stack by 'predict_proba' or "
                "'decision_function'."
            )
    bounds = bind_members(members, backend)
    parts = []
    for (name, member), bound, method in zip(members, bounds, model.stack_method_):
        if method == "decision_function":
            parts.append(decision_values(name, member, bound))
            continue
        probabilities = exponential(log_probabilities(name, member, bound))
        parts.append(without_first(probabilities) if len(model.classes_) == 2 else probabilities)
    if model.passthrough:
        refuse_coded(backend, "StackingClassifier")
        parts.append(identity)
    features = concatenated(parts)
    final = backend.on(None).bind(model.final_estimator_, where="final_estimator_")
    # Whatever the final estimator's labels are: it is fitted on positions, and stacking gives the labels back.
    return replace(chain([joined(features, bounds), final]), transform=features, index_labels=False)


@rule("sklearn.pipeline.FeatureUnion", frames=True, gradient="of its parts")
def feature_union(model, backend):
    weights = model.transformer_weights or {}
    parts, bounds = [], []
    for name, step in model.transformer_list:
        if isinstance(step, str) and step == "drop":
            continue
        if isinstance(step, str):  # "passthrough"
            refuse_coded(backend, "FeatureUnion")
            bound = elementwise(identity)
        else:
            bound = _transformer(name, step, backend.bind(step, where=f"transformer {name!r}"))
        bounds.append(bound)
        weight = weights.get(name)
        parts.append(bound.forward if weight is None else _times(bound.forward, float(weight)))
    if not parts:
        return lambda X: (X[:, :0], lambda cotangent: backend.xp.zeros_like(X))
    return joined(concatenated(parts), bounds)


def _times(forward, weight):
    def scaled(X):
        output, pull = forward(X)
        return output * weight, lambda cotangent: pull(cotangent * weight)

    return scaled
