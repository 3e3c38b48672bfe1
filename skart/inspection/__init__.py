"""Displays of robustness, in the form of scikit-learn's."""

from skart.inspection._certified_accuracy import CertifiedAccuracyDisplay
from skart.inspection._security_curve import SecurityCurveDisplay

__all__ = ["CertifiedAccuracyDisplay", "SecurityCurveDisplay"]
