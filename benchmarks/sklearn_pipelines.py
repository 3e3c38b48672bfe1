"""Attacks with gradients through Pipelines of scikit-learn models."""

import numpy as np
from sklearn.base import clone

from benchmarks._harness import Passes, Row
from benchmarks._models import DigitsPipeline
from skart.attacks import ProjectedGradientDescent

__all__ = ["rows"]


def skart(attack):
    """An attack of skart as its user calls it, with all of its checks."""

    def prepare(task):
        bound = clone(attack).set_params(estimator=task.estimator)
        return lambda: bound.transform(task.X, task.y)

    return prepare


def rows():
    attack = ProjectedGradientDescent(
        norm=np.inf, eps=0.1, eps_step=0.01, max_iter=40, clip_values=(0, 1), random_state=0
    )
    # The other libraries have no gradient for a Pipeline.
    yield Row("pipeline-pgd-inf", DigitsPipeline, Passes(gradients=41, values=1), {"skart": skart(attack)}, bound=1.30)
