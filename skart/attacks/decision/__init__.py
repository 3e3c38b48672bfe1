from skart.attacks.decision._boundary import BoundaryAttack
from skart.attacks.decision._hop_skip_jump import HopSkipJump

__all__ = ["BoundaryAttack", "HopSkipJump"]
