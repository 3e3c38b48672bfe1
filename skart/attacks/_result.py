"""What an attack found, sample by sample."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["AttackResult"]


@dataclass(frozen=True, repr=False)
class AttackResult:
    """What an attack found, sample by sample; returned by ``run``.

    Attributes
    ----------
    X_adv : array, tensor or data frame of the caller's kind, shape (n_samples, ...)
        Adversarial samples.
    y : ndarray of shape (n_samples,)
        Labels that the attack was to leave, or classes that it aimed at.
    y_adv : ndarray of shape (n_samples,)
        What the model says of ``X_adv``.
    success : ndarray of bool, shape (n_samples,)
        Whether ``y_adv`` differs from ``y``; with a target, whether it is equal. For a model that declares itself
        random (scikit-learn's tag ``non_deterministic``), the share of ten fresh draws for which it is so, in float64.
    distance : ndarray of float64, shape (n_samples,)
        Norm of the perturbation, in the units of ``X``.
    n_queries : ndarray of int, shape (n_samples,)
        Times that the sample, in any version, was sent forward through the model, checks and verdict included.
    n_gradients : ndarray of int, shape (n_samples,)
        Times that a gradient was pulled back to the sample.
    trace : tuple of two ndarrays of shape (n_records, n_samples), or None
        Queries spent and distance of the best sample found (infinite before there is one), recorded on the way by
        attacks with ``trace=True``.
    """

    X_adv: Any
    y: np.ndarray
    y_adv: np.ndarray
    success: np.ndarray
    distance: np.ndarray
    n_queries: np.ndarray
    n_gradients: np.ndarray
    trace: tuple | None = None

    def __repr__(self):
        mostly = self.success >= 0.5  # of the draws, for a random model
        median = f"{np.median(self.distance[mostly]):.4g}" if mostly.any() else "none"
        return (
            f"AttackResult({len(self.success)} samples, success {self.success.mean():.1%}, median distance of "
            f"successes {median}, queries {self.n_queries.sum()}, gradients {self.n_gradients.sum()})"
        )
