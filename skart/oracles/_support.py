"""What may be asked of which family, as the registry has it: a table for the documentation, held true by a test."""

from typing import NamedTuple

from skart.gradients._registry import _rules
from skart.oracles._trees import _READERS

__all__ = ["Supported", "support_table"]

_TRANSFORM_ONLY = {"sklearn.ensemble.RandomTreesEmbedding"}  # of those without gradient
_SEVERAL_LABELS = {"sklearn.multioutput.ClassifierChain", "sklearn.multioutput.MultiOutputClassifier"}


class Supported(NamedTuple):
    """One family's row.

    Attributes
    ----------
    path : str
        Public import path of the class.
    access : {"gradients", "scores", "none"}
        The most that may be asked of it.
    gradient : str
        How good the gradient is, or why there is none.
    structure : bool
        Whether :func:`skart.oracles.get_trees` reads it.
    """

    path: str
    access: str
    gradient: str
    structure: bool


def support_table():
    """One row for each registered family, sorted by import path."""
    rows = []
    for path, entry in _rules.items():
        access = "gradients"
        if entry.rule is None:
            access = "none" if path in _TRANSFORM_ONLY | _SEVERAL_LABELS else "scores"
        rows.append(Supported(path, access, entry.why or entry.gradient, path in _READERS))
    return sorted(rows)
