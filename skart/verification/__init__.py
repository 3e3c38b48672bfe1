"""Verification: what no attack can undercut, by closed form and by proof."""

from skart.verification._exact_trees import ExactTreeRobustness, exact_tree_robustness
from skart.verification._linear import exact_linear_robustness

__all__ = ["ExactTreeRobustness", "exact_linear_robustness", "exact_tree_robustness"]
