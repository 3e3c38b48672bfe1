"""Helpers for authors of gradient rules."""

from skart.utils._check_rule import check_rule

__all__ = ["check_rule"]
