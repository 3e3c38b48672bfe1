"""Models seen differently: averaged over transformations, with estimated gradients, smoothed by noise."""

from skart.wrappers._expectation import ExpectationOverTransformations
from skart.wrappers._gradient_estimation import QueryEfficientGradientEstimation
from skart.wrappers._smoothing import Certificate, RandomizedSmoothing, certified_accuracy_curve
from skart.wrappers._transformations import RandomAffine

__all__ = [
    "Certificate",
    "ExpectationOverTransformations",
    "QueryEfficientGradientEstimation",
    "RandomAffine",
    "RandomizedSmoothing",
    "certified_accuracy_curve",
]
