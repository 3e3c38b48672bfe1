"""Attacks on decision trees, which read the tree itself."""

from skart.attacks.tree._decision_tree import DecisionTreeAttack

__all__ = ["DecisionTreeAttack"]
