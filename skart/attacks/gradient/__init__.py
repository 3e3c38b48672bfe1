"""Attacks that ask for gradients."""

from skart.attacks.gradient._fgsm import FastGradientMethod
from skart.attacks.gradient._pgd import BasicIterativeMethod, ProjectedGradientDescent

__all__ = ["BasicIterativeMethod", "FastGradientMethod", "ProjectedGradientDescent"]
