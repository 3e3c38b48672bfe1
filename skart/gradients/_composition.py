"""Rules for estimators that are made of others."""

from dataclasses import replace

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import chain, rule

__all__ = []


@rule("sklearn.pipeline.Pipeline", frames=True, gradient="of its parts")
def pipeline(model, backend):
    steps = [(name, step) for name, step in model.steps if step is not None and not isinstance(step, str)]
    # What a step hands on is an array, whatever the first one is asked with.
    backends = [backend] + [backend.on(None)] * len(steps)
    bounds = [part.bind(step, where=f"step {name!r}") for part, (name, step) in zip(backends, steps)]
    if not bounds:
        return lambda X: (X, lambda cotangent: cotangent)
    # "passthrough" may stand last: then all steps transform.
    n_inner = len(steps) - (steps[-1][1] is model.steps[-1][1])
    bounds[:n_inner] = [_transformer(*step, bound) for step, bound in zip(steps, bounds[:n_inner])]
    return chain(bounds)


def _transformer(name, step, bound):
    """The bound rule of what a step's ``transform`` computes."""
    if bound.transform is not None:
        return replace(bound, forward=bound.transform, margins=None, transform=None)
    if hasattr(step, "classes_") and hasattr(step, "predict"):
        raise GradientUnavailableError(
            f"step {name!r}: {type(step).__name__} is a classifier used as a transformer, and its gradient rule "
            "describes its scores only. Put a transformer with a rule of its own there."
        )
    return bound


def refuse_coded(backend, owner):
    """Raise where ``owner`` passes on, as it is, a column that holds no numbers."""
    coded = [] if backend.container is None else backend.container.coded
    if coded:
        raise GradientUnavailableError(
            f"column {coded[0]!r} holds no numbers and passes through the {owner} as it is. Encode it, or drop it."
        )


def fixed_features(model, backend):
    """Features that a classifier without gradient wants fixed, as far as its steps before it have rules.

    Returns
    -------
    fixed : ndarray of bool, True or None
        As in :class:`Bound`.
    """
    while hasattr(model, "best_estimator_") or isinstance(model, FrozenEstimator):
        model = model.estimator if isinstance(model, FrozenEstimator) else model.best_estimator_
    if not isinstance(model, Pipeline):
        return getattr(model, "is_categorical_", None)  # scikit-learn's histogram-based boosting
    bounds = []
    for name, step in model.steps[:-1]:
        if step is None or isinstance(step, str):
            continue
        try:
            bound = _transformer(name, step, backend.bind(step))
        except GradientUnavailableError:
            break
        bounds.append(bound)
        backend = backend.on(None)
    return chain(bounds).fixed if bounds else fixed_features(model.steps[-1][1], backend)


@rule("sklearn.frozen.FrozenEstimator", frames=True, gradient="of its parts")
def frozen_estimator(model, backend):
    return backend.bind(model.estimator)


@rule(
    "sklearn.model_selection.GridSearchCV",
    "sklearn.model_selection.HalvingGridSearchCV",
    "sklearn.model_selection.HalvingRandomSearchCV",
    "sklearn.model_selection.RandomizedSearchCV",
    frames=True,
    gradient="of its parts",
)
def search(model, backend):
    if not hasattr(model, "best_estimator_"):
        raise GradientUnavailableError(
            f"this {type(model).__name__} has no `best_estimator_`: it was made with refit={model.refit!r}. Search "
            "with refit=True, or attack an estimator fitted with `best_params_`."
        )
    return backend.bind(model.best_estimator_, where="best_estimator_")
