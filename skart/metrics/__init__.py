"""Metrics of robustness, as functions and as scorers."""

from skart.metrics._robustness import empirical_robustness, loss_sensitivity, minimal_distances, robust_accuracy_score
from skart.metrics._scorers import make_robustness_scorer, neg_loss_sensitivity

__all__ = [
    "empirical_robustness",
    "loss_sensitivity",
    "make_robustness_scorer",
    "minimal_distances",
    "neg_loss_sensitivity",
    "robust_accuracy_score",
]
