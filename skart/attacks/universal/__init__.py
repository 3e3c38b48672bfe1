"""Attacks that learn one thing for all samples: a perturbation, a rotation and translation, a patch."""

from skart.attacks.universal._patch import AdversarialPatch
from skart.attacks.universal._spatial import SpatialTransformation
from skart.attacks.universal._universal import UniversalPerturbation

__all__ = ["AdversarialPatch", "SpatialTransformation", "UniversalPerturbation"]
