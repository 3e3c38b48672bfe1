"""Attacks from labels alone: on the CNN for MNIST, and on models where a call costs more than the arithmetic around it.

skart has a budget of queries that is not above what the Adversarial Robustness Toolbox asks; the passes that are
counted tell. The floor are as many bare forward passes.
"""

import importlib
from functools import partial

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import minmax_scale
from sklearn.svm import SVC

from benchmarks._contenders import foolbox
from benchmarks._harness import Passes, Row
from benchmarks._models import MnistNet
from skart.attacks import BoundaryAttack, HopSkipJump
from skart.estimators import BlackBoxClassifier

__all__ = ["rows"]

CLIP_VALUES = (0.0, 1.0)


class Table:
    """A model of breast_cancer, scaled to [0, 1], with test samples that it classifies correctly."""

    def __init__(self, make_model, n_samples, counts=None):
        X, y = load_breast_cancer(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(
            minmax_scale(X), y, test_size=0.5, random_state=0, stratify=y
        )
        self.model = make_model().fit(np.clip(X_train, 0, 1), y_train)
        X_test = np.clip(X_test, 0, 1)
        correct = np.flatnonzero(self.model.predict(X_test) == y_test)[:n_samples]
        self.X, self.y, self.n_classes = X_test[correct], y_test[correct], len(np.unique(y))
        self._counts = counts
        self.estimator = self.model
        if counts is not None:
            self.estimator = BlackBoxClassifier(self.predict, np.unique(y), output="labels")

    def value_pass(self):
        return self.model.predict(self.X)

    def predict(self, X):
        if self._counts is not None:
            self._counts.forward(len(X))
        return self.model.predict(X)


def forest():
    return RandomForestClassifier(50, random_state=0)


def boosting():
    return importlib.import_module("xgboost").XGBClassifier(n_estimators=50, n_jobs=1, random_state=0)


def skart(attack):
    """An attack of skart as its user calls it, with all of its checks."""

    def prepare(task):
        bound = clone(attack).set_params(estimator=task.estimator, clip_values=CLIP_VALUES, random_state=0)
        return lambda: bound.transform(task.X, task.y)

    return prepare


def art(name, **parameters):
    """An attack of the Adversarial Robustness Toolbox, by the name of its class, on a net or on a table."""

    def prepare(task):
        from art.attacks import evasion

        attack = getattr(evasion, name)(_art_classifier(task), verbose=False, **parameters)
        targets = {"targeted": False} if name == "BoundaryAttack" else {}
        attack.set_params(**targets)

        def run():
            np.random.seed(0)  # noqa: NPY002 - its only source of random numbers
            return attack.generate(task.X, task.y)

        return run

    return prepare


def _art_classifier(task):
    if isinstance(task, Table):
        from art.estimators.classification import BlackBoxClassifier as ArtBlackBox

        def one_hot(X):
            return np.eye(task.n_classes)[task.predict(X)]

        return ArtBlackBox(one_hot, task.X.shape[1:], task.n_classes, clip_values=CLIP_VALUES)
    import torch
    from art.estimators.classification import PyTorchClassifier

    class Single(torch.nn.Module):
        """The net, for candidates that come in double precision."""

        def __init__(self):
            super().__init__()
            self.module = task.module

        def forward(self, x):
            return self.module(x.float())

    return PyTorchClassifier(
        Single(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=task.X.shape[1:],
        nb_classes=task.n_classes,
        clip_values=CLIP_VALUES,
    )


def rows():
    for norm, n_queries in [(2, 2380), (np.inf, 2430)]:
        contenders = {
            "skart": skart(HopSkipJump(norm=norm, max_queries=n_queries)),
            "art": art("HopSkipJump", norm=2 if norm == 2 else "inf", max_iter=10),
            "foolbox": foolbox("HopSkipJumpAttack", steps=10, constraint="l2" if norm == 2 else "linf"),
        }
        yield Row(f"hop-skip-jump-{norm}", MnistNet, Passes(gradients=0, values=n_queries), contenders)
    contenders = {
        "skart": skart(BoundaryAttack(max_queries=2900)),
        "art": art("BoundaryAttack", max_iter=100),
        # It asks about one candidate for each sample at a time.
        "foolbox": foolbox("BoundaryAttack", steps=2000),
    }
    yield Row("boundary", MnistNet, Passes(gradients=0, values=2900), contenders)
    models = [
        ("forest", forest),
        ("boosting", boosting),
        ("svc", SVC),
    ]
    for name, make_model in models:
        task = partial(Table, make_model)
        contenders = {
            "skart": skart(HopSkipJump(max_queries=660)),
            "art": art("HopSkipJump", max_iter=4),
        }
        if name == "boosting":  # where its bisection may never end
            del contenders["art"]
        yield Row(f"hop-skip-jump-{name}", task, Passes(gradients=0, values=660), contenders)
        contenders = {
            "skart": skart(BoundaryAttack(max_queries=800)),
            "art": art("BoundaryAttack", max_iter=25),
        }
        yield Row(f"boundary-{name}", task, Passes(gradients=0, values=800), contenders)
