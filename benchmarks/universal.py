"""Attacks that learn one thing for all samples, on the CNN for MNIST: they learn on the samples and are judged on them.

A row is timed from ``fit`` to the changed samples. A contender counts as successful where the model's answer changes;
for patches, where it is the target, and the samples are those of other classes.
"""

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from benchmarks._harness import Passes, Row
from benchmarks._models import MnistNet
from skart.attacks import AdversarialPatch, DeepFool, SpatialTransformation, UniversalPerturbation

__all__ = ["rows"]

CLIP_VALUES = (0.0, 1.0)
TARGET = 8
GRID = {"max_translation": 10.0, "num_translations": 3, "max_rotation": 30.0, "num_rotations": 11}
N_STEPS = 50


class PatchedNet(MnistNet):
    """The task of a patch: images of other classes than the target, which is what a success is taken for."""

    def __init__(self, n_samples, counts=None):
        super().__init__(n_samples + n_samples // 4, counts)
        import torch

        others = np.flatnonzero(self.y != TARGET)[:n_samples]
        self.X, self.y = self.X[others], self.y[others]
        self._x, self._cotangent = torch.from_numpy(self.X), self._cotangent[: len(others)]

    def predict(self, X):
        said = super().predict(X)
        # What is neither right nor the target is no success here.
        labels = getattr(self, "y", None)
        return said if labels is None or len(labels) != len(said) else np.where(said == TARGET, TARGET, labels)


def skart(attack, apply=None):
    """An attack of skart: ``fit`` on the net as it is, then ``transform``, or what ``apply`` does."""

    def prepare(task):
        task.estimator.classes = np.arange(task.n_classes)  # a net that was not fitted by skorch knows none
        bound = clone(attack).set_params(estimator=FrozenEstimator(task.estimator), clip_values=CLIP_VALUES)

        def run():
            bound.fit(task.X)
            return bound.transform(task.X) if apply is None else apply(bound, task.X)

        return run

    return prepare


def art_classifier(task):
    import torch
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        task.module,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=task.X.shape[1:],
        nb_classes=task.n_classes,
        clip_values=CLIP_VALUES,
    )


def art(name, **parameters):
    def prepare(task):
        from art.attacks import evasion

        attack = getattr(evasion, name)(art_classifier(task), verbose=False, **parameters)
        return lambda: attack.generate(task.X)

    return prepare


def rows():
    ball = {"eps": 0.3, "delta": 0.0, "max_iter": 2, "random_state": 0}
    yield Row(
        "universal-inf",
        MnistNet,
        # Two passes that learn and are judged; the labels and the verdict, in fit and again in transform.
        Passes(gradients=2, values=2 + 2 + 2),
        {
            "skart": skart(UniversalPerturbation(**ball)),
            "deepfool": skart(UniversalPerturbation(attacker=DeepFool(), batch_size=16, **ball)),
            "art": art(
                "UniversalPerturbation",
                eps=0.3,
                norm=np.inf,
                max_iter=2,
                delta=0.0,
                attacker="deepfool",
                attacker_params={"verbose": False},
            ),
        },
    )
    n_places = 99
    yield Row(
        "spatial",
        MnistNet,
        # The grid; the labels and the verdict, in fit and again in transform.
        Passes(gradients=0, values=n_places + 4),
        {
            "skart": skart(SpatialTransformation(channels="first", **GRID)),
            "art": art("SpatialTransformation", **GRID),
        },
        bound=1.2,
    )
    patch = {"target": TARGET, "scale_min": 0.4, "scale_max": 0.6, "max_iter": N_STEPS, "channels": "first"}
    for name, parameters in {"patch": {}, "patch-centre": {"location": (0.5, 0.5)}}.items():
        attack = AdversarialPatch(**patch, **parameters, random_state=0)
        contenders = {
            "skart": skart(attack, lambda bound, X: bound.apply_patch(X, scale=0.5)),
            "square": skart(
                clone(attack).set_params(patch_type="square"), lambda bound, X: bound.apply_patch(X, scale=0.5)
            ),
        }
        # ART 1.20.1 cannot construct its own.
        # The labels before and the verdict of fit.
        yield Row(name, PatchedNet, Passes(gradients=N_STEPS, values=2), contenders, bound=1.3)
