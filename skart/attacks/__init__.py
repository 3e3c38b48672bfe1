"""Attacks: transformers whose ``transform`` returns adversarial samples."""

from skart.attacks._base import BaseAttack
from skart.attacks._result import AttackResult
from skart.attacks.gradient import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent

__all__ = ["AttackResult", "BaseAttack", "BasicIterativeMethod", "FastGradientMethod", "ProjectedGradientDescent"]
