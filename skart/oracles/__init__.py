"""Oracles: what may be asked of a fitted model."""

from skart.oracles._activations import get_activations, layer_names
from skart.oracles._functions import class_gradient, logits, loss_gradient, proba
from skart.oracles._oracle import Oracle, as_oracle
from skart.oracles._tree_ensemble import LeafBoxes, TreeEnsemble
from skart.oracles._trees import get_trees

__all__ = [
    "LeafBoxes",
    "Oracle",
    "TreeEnsemble",
    "as_oracle",
    "class_gradient",
    "get_activations",
    "get_trees",
    "layer_names",
    "logits",
    "loss_gradient",
    "proba",
]
