"""Gradient rules: what makes a model family differentiable, one family a module.

Every module of rules is imported here, so that a worker process that unpickles a model has them too.
"""

from skart.gradients import (  # noqa: F401
    _calibration,
    _columns,
    _composition,
    _discretisation,
    _discriminant,
    _ensembles,
    _expansions,
    _gaussian_process,
    _keras,
    _kernel,
    _linear,
    _mlp,
    _multiclass,
    _naive_bayes,
    _neighbors,
    _preprocessing,
    _projections,
    _refusals,
    _scalers,
    _selection,
    _torch,
)
from skart.gradients._registry import Backend, Bound, chain, register_rule

__all__ = ["Backend", "Bound", "chain", "register_rule"]
