"""Attacks: transformers whose ``transform`` returns adversarial samples."""

from skart.attacks._base import BaseAttack
from skart.attacks._result import AttackResult
from skart.attacks.gradient import (
    BasicIterativeMethod,
    CarliniL2Method,
    CarliniLInfMethod,
    DeepFool,
    ElasticNetAttack,
    FastGradientMethod,
    NewtonFool,
    ProjectedGradientDescent,
    SaliencyMapMethod,
    VirtualAdversarialMethod,
)
from skart.attacks.tree import DecisionTreeAttack
from skart.attacks.universal import AdversarialPatch, SpatialTransformation, UniversalPerturbation

__all__ = [
    "AdversarialPatch",
    "AttackResult",
    "BaseAttack",
    "BasicIterativeMethod",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DecisionTreeAttack",
    "DeepFool",
    "ElasticNetAttack",
    "FastGradientMethod",
    "NewtonFool",
    "ProjectedGradientDescent",
    "SaliencyMapMethod",
    "SpatialTransformation",
    "UniversalPerturbation",
    "VirtualAdversarialMethod",
]
