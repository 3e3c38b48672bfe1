"""Verification: what no attack can undercut, by closed form and by proof."""

from skart.verification._linear import exact_linear_robustness

__all__ = ["exact_linear_robustness"]
