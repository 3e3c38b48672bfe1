"""Attacks on decision trees and their ensembles, which read the trees themselves."""

from skart.attacks.tree._decision_tree import DecisionTreeAttack
from skart.attacks.tree._tree_ensemble import TreeEnsembleAttack

__all__ = ["DecisionTreeAttack", "TreeEnsembleAttack"]
