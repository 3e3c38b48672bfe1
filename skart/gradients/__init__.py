"""Gradient rules: what makes a model family differentiable, one family a module.

Every module of rules is imported here, so that a worker process that unpickles a model has them too.
"""

from skart.gradients import _composition, _kernel, _linear, _mlp, _refusals, _torch
from skart.gradients._preprocessing import register_function_rule
from skart.gradients._registry import Backend, Bound, chain, register_rule

__all__ = ["Backend", "Bound", "chain", "register_function_rule", "register_rule"]
