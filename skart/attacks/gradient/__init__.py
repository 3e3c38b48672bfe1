"""Attacks that ask for gradients."""

from skart.attacks.gradient._carlini import CarliniL2Method, CarliniLInfMethod
from skart.attacks.gradient._deepfool import DeepFool
from skart.attacks.gradient._elastic_net import ElasticNetAttack
from skart.attacks.gradient._fgsm import FastGradientMethod
from skart.attacks.gradient._hclu import HighConfidenceLowUncertainty
from skart.attacks.gradient._newtonfool import NewtonFool
from skart.attacks.gradient._pgd import BasicIterativeMethod, ProjectedGradientDescent
from skart.attacks.gradient._saliency import SaliencyMapMethod
from skart.attacks.gradient._virtual import VirtualAdversarialMethod

__all__ = [
    "BasicIterativeMethod",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DeepFool",
    "ElasticNetAttack",
    "FastGradientMethod",
    "HighConfidenceLowUncertainty",
    "NewtonFool",
    "ProjectedGradientDescent",
    "SaliencyMapMethod",
    "VirtualAdversarialMethod",
]
