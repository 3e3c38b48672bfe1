"""Attacks that ask for scores and need no gradient."""

from skart.attacks.score._square import SquareAttack
from skart.attacks.score._zoo import ZooAttack

__all__ = ["SquareAttack", "ZooAttack"]
