"""Attacks: transformers whose ``transform`` returns adversarial samples."""

from skart.attacks._base import BaseAttack
from skart.attacks._result import AttackResult
from skart.attacks.decision import BoundaryAttack, HopSkipJump
from skart.attacks.gradient import (
    BasicIterativeMethod,
    CarliniL2Method,
    CarliniLInfMethod,
    DeepFool,
    ElasticNetAttack,
    FastGradientMethod,
    HighConfidenceLowUncertainty,
    NewtonFool,
    ProjectedGradientDescent,
    SaliencyMapMethod,
    VirtualAdversarialMethod,
)
from skart.attacks.score import SquareAttack, ZooAttack
from skart.attacks.tree import DecisionTreeAttack, TreeEnsembleAttack
from skart.attacks.universal import AdversarialPatch, SpatialTransformation, UniversalPerturbation

__all__ = [
    "AdversarialPatch",
    "AttackResult",
    "BaseAttack",
    "BasicIterativeMethod",
    "BoundaryAttack",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DecisionTreeAttack",
    "DeepFool",
    "ElasticNetAttack",
    "FastGradientMethod",
    "HighConfidenceLowUncertainty",
    "HopSkipJump",
    "NewtonFool",
    "ProjectedGradientDescent",
    "SaliencyMapMethod",
    "SpatialTransformation",
    "SquareAttack",
    "TreeEnsembleAttack",
    "UniversalPerturbation",
    "VirtualAdversarialMethod",
    "ZooAttack",
]
