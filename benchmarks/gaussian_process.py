"""High confidence at low uncertainty, on one Gaussian process of GPy: skart, and ART, which wraps the same model.

ART minimises the sum of absolute changes, takes gradients by differences, one sample after another, and judges by
nothing what comes back. So beside the costs the row shows how many samples keep both bounds: success here is a
probability of the other class of at least ``CONFIDENCE``, at a variance not over the clean sample's, to one part in a
thousand; distances are those of such samples.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import minmax_scale

from benchmarks._harness import Passes, Row
from skart.attacks import HighConfidenceLowUncertainty
from skart.estimators import GPyClassifier
from skart.oracles import as_oracle

__all__ = ["rows"]

CONFIDENCE = 0.9
N_TRAIN = 120


@cache
def _digits():
    X, y = load_digits(return_X_y=True)
    chosen = (y == 3) | (y == 8)
    return _fitted(X[chosen] / 16, y[chosen])


@cache
def _cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return _fitted(np.clip(minmax_scale(X), 0, 1), y)


def _fitted(X, y):
    return GPyClassifier(max_iter=20, random_state=0).fit(X[:N_TRAIN], y[:N_TRAIN]), X[N_TRAIN:]


class Process:
    """A Gaussian process with samples that it was not fitted on; at most 24, of which ART takes a second each."""

    def __init__(self, data, n_samples, counts=None):
        self.estimator, X = data()
        self.X = X[: min(n_samples, 24)]
        self.y = self.estimator.predict(self.X)
        self._variance = self.estimator.predictive_variance(self.X)
        self._oracle = as_oracle(self.estimator, self.X)
        self._counts = counts

    def value_pass(self):
        return self._oracle.vjp(self.X, scores="uncertainty")[0]

    def gradient_pass(self):
        values, pull = self._oracle.vjp(self.X, scores="uncertainty")
        return pull(values)

    def predict(self, X):
        """Labels; the old one where a bound is broken."""
        other = 1 - np.searchsorted(self.estimator.classes_, self.y)
        sure = self.estimator.predict_proba(X)[np.arange(len(X)), other] >= CONFIDENCE * (1 - 1e-3)
        kept = self.estimator.predictive_variance(X) <= self._variance * (1 + 1e-3)
        return np.where(sure & kept, self.estimator.classes_[other], self.y)


def skart(task):
    attack = HighConfidenceLowUncertainty(task.estimator, confidence=CONFIDENCE, clip_values=(0, 1))
    return lambda: attack.transform(task.X)


def art(task):
    from art.attacks.evasion import HighConfidenceLowUncertainty
    from art.estimators.classification.GPy import GPyGaussianProcessClassifier

    model = GPyGaussianProcessClassifier(task.estimator.models_[0], clip_values=(0, 1))
    attack = HighConfidenceLowUncertainty(
        model, conf=CONFIDENCE, unc_increase=1.0, min_val=0.0, max_val=1.0, verbose=False
    )
    return lambda: attack.generate(task.X)


def rows():
    for name, data in {"breast-cancer": _cancer, "digits": _digits}.items():
        yield Row(
            f"hclu-{name}",
            lambda n_samples, counts, data=data: Process(data, n_samples, counts),
            Passes(gradients=1, values=0),
            {"skart": skart, "art": art},
        )
