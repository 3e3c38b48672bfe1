"""Defences: transformers that stand in a Pipeline in front of a model."""

from skart.defences._squeezing import FeatureSqueezing

__all__ = ["FeatureSqueezing"]
