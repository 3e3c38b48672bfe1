"""Adapters that make foreign models scikit-learn classifiers."""

from skart.estimators._blackbox import BlackBoxClassifier
from skart.estimators._gpy import GPyClassifier
from skart.estimators._keras import KerasModelClassifier
from skart.estimators._mxnet import MXNetClassifier
from skart.estimators._skorch import SkorchClassifier
from skart.estimators._tensorflow import TensorFlowClassifier
from skart.estimators._tensorflow_v1 import TensorFlowV1Classifier
from skart.estimators._torch import TorchClassifier

__all__ = [
    "BlackBoxClassifier",
    "GPyClassifier",
    "KerasModelClassifier",
    "MXNetClassifier",
    "SkorchClassifier",
    "TensorFlowClassifier",
    "TensorFlowV1Classifier",
    "TorchClassifier",
]
