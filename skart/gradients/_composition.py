"""Rules for estimators that are made of others."""

from dataclasses import replace

from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import chain, rule

__all__ = []


@rule("sklearn.pipeline.Pipeline")
def pipeline(model, backend):
    steps = [(name, step) for name, step in model.steps if step is not None and not isinstance(step, str)]
    bounds = [backend.bind(step, where=f"step {name!r}") for name, step in steps]
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


@rule("sklearn.frozen.FrozenEstimator")
def frozen_estimator(model, backend):
    return backend.bind(model.estimator)


@rule(
    "sklearn.model_selection.GridSearchCV",
    "sklearn.model_selection.HalvingGridSearchCV",
    "sklearn.model_selection.HalvingRandomSearchCV",
    "sklearn.model_selection.RandomizedSearchCV",
)
def search(model, backend):
    if not hasattr(model, "best_estimator_"):
        raise GradientUnavailableError(
            f"this {type(model).__name__} has no `best_estimator_`: it was made with refit={model.refit!r}. Search "
            "with refit=True, or attack an estimator fitted with `best_params_`."
        )
    return backend.bind(model.best_estimator_, where="best_estimator_")
