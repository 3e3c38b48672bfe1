"""skart: adversarial robustness for people who use scikit-learn.

Attacks and defences are Transformers, metrics are scorers, and all of them compose in a Pipeline. Public names are
imported when they are first used, so that ``import skart`` stays light.
"""

import importlib

__version__ = "0.1.0"

_PACKAGES = (
    "attacks",
    "defences",
    "estimators",
    "exceptions",
    "gradients",
    "inspection",
    "metrics",
    "oracles",
    "utils",
    "verification",
    "wrappers",
)
_NAMES = {
    "AttackFailureWarning": "exceptions",
    "GradientUnavailableError": "exceptions",
    "QueryBudgetExceeded": "exceptions",
    "class_gradient": "oracles",
    "logits": "oracles",
    "loss_gradient": "oracles",
    "proba": "oracles",
    "register_rule": "gradients",
}

__all__ = sorted([*_NAMES, *_PACKAGES])


def __getattr__(name):
    if name in _PACKAGES:
        return importlib.import_module(f"skart.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"skart.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'skart' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
