"""Adapters that make foreign models scikit-learn classifiers."""

from skart.estimators._blackbox import BlackBoxClassifier
from skart.estimators._skorch import SkorchClassifier

__all__ = ["BlackBoxClassifier", "SkorchClassifier"]
