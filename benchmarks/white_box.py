"""Attacks with gradients on the CNN for MNIST."""

import numpy as np
from sklearn.base import clone

from benchmarks._harness import Passes, Row
from benchmarks._models import MnistNet
from skart.attacks import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent

__all__ = ["rows"]

CLIP_VALUES = (0.0, 1.0)
BATCH_SIZE = 256


def skart(attack):
    """An attack of skart as its user calls it, with all of its checks."""

    def prepare(task):
        bound = clone(attack).set_params(estimator=task.estimator, clip_values=CLIP_VALUES, batch_size=BATCH_SIZE)
        return lambda: bound.transform(task.X, task.y)

    return prepare


def art(name, **parameters):
    """An attack of the Adversarial Robustness Toolbox, by the name of its class."""

    def prepare(task):
        import torch
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            task.module,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=task.X.shape[1:],
            nb_classes=task.n_classes,
            clip_values=CLIP_VALUES,
        )
        attack = getattr(evasion, name)(classifier, batch_size=BATCH_SIZE, **parameters)
        return lambda: attack.generate(task.X, task.y)

    return prepare


def rows():
    for norm, eps, eps_step in [(np.inf, 0.2, 0.01), (2, 2.0, 0.1)]:
        ball = {"norm": norm, "eps": eps}
        steps = {**ball, "eps_step": eps_step, "max_iter": 40}
        # One pass to judge what comes back; and every iterate is judged, the last one too.
        fgsm, iterated = Passes(gradients=1, values=1), Passes(gradients=41, values=1)
        yield Row(
            f"fgsm-{norm}",
            MnistNet,
            fgsm,
            {"skart": skart(FastGradientMethod(**ball)), "art": art("FastGradientMethod", **ball)},
            bound=1.15 if norm == np.inf else None,
        )
        yield Row(
            f"pgd-{norm}",
            MnistNet,
            iterated,
            {
                "skart": skart(ProjectedGradientDescent(**steps, random_state=0)),
                "art": art("ProjectedGradientDescent", **steps, num_random_init=1, verbose=False),
            },
            bound=1.10 if norm == np.inf else None,
        )
        yield Row(
            f"bim-{norm}",
            MnistNet,
            iterated,
            {
                "skart": skart(BasicIterativeMethod(**steps)),
                # Its BasicIterativeMethod is this one for the maximum norm.
                "art": art("ProjectedGradientDescent", **steps, num_random_init=0, verbose=False),
            },
        )
