"""Oracles: what may be asked of a fitted model."""

from skart.oracles._functions import class_gradient, logits, loss_gradient, proba
from skart.oracles._oracle import Oracle, as_oracle

__all__ = ["Oracle", "as_oracle", "class_gradient", "logits", "loss_gradient", "proba"]
