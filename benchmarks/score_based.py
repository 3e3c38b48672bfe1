"""Attacks that ask for scores alone: on the CNN for MNIST, and on models of scikit-learn and XGBoost for digits."""

from functools import partial

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from benchmarks._contenders import torchattacks
from benchmarks._harness import Passes, Row
from benchmarks._models import MnistNet
from benchmarks.universal import art_classifier
from skart.attacks import SquareAttack, ZooAttack

__all__ = ["rows"]

CLIP_VALUES = (0.0, 1.0)
# Its defaults change no sample at all: a difference of 1e-4 says nothing of a tree, and the first constant is 1e-3.
ART_ZOO = {
    "learning_rate": 0.1,
    "initial_const": 1.0,
    "variable_h": 0.1,
    "use_resize": False,
    "use_importance": False,
}


class Digits:
    """A classifier on digits as flat rows in [0, 1], with test images that it classifies correctly."""

    n_classes = 10

    def __init__(self, make, n_samples, counts=None):
        X, y = load_digits(return_X_y=True)
        X = (X / 16).astype(np.float32)
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)
        self.estimator = make().fit(X_train, y_train)
        correct = np.flatnonzero(self.predict(X_test) == y_test)[:n_samples]
        self.X, self.y = X_test[correct], y_test[correct]
        if counts is not None:
            for name in ("predict", "predict_proba", "decision_function"):
                if hasattr(self.estimator, name):
                    setattr(self.estimator, name, partial(_counted, getattr(self.estimator, name), counts))

    def value_pass(self):
        return self.scores(self.X)

    def scores(self, X):
        if hasattr(self.estimator, "predict_proba"):
            return self.estimator.predict_proba(X)
        return self.estimator.decision_function(X)

    def predict(self, X):
        return self.estimator.predict(np.reshape(X, (len(X), -1)))


def _counted(method, counts, X):
    counts.forward(len(X))
    return method(X)


def _xgboost():
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=50, n_jobs=1)


MODELS = {
    "forest": partial(RandomForestClassifier, n_estimators=50, random_state=0),
    "xgboost": _xgboost,
    "svc": SVC,
}


def skart(attack):
    """An attack of skart as its user calls it, with all of its checks."""

    def prepare(task):
        bound = clone(attack).set_params(estimator=task.estimator, clip_values=CLIP_VALUES)
        return lambda: bound.transform(task.X, task.y)

    return prepare


def art(name, shape=None, **parameters):
    """An attack of ART, by the name of its class; ``shape`` is what it wants rows to look like."""

    def prepare(task):
        from art.attacks import evasion
        from art.estimators import classification

        if hasattr(task, "module"):
            model, X = art_classifier(task), task.X
        else:
            X = task.X if shape is None else task.X.reshape(-1, *shape)
            # The square attack takes nothing but what calls itself a net.
            kind = (
                classification.BlackBoxClassifier if shape is None else classification.BlackBoxClassifierNeuralNetwork
            )
            model = kind(
                lambda images: task.scores(images.reshape(len(images), -1)), X.shape[1:], 10, clip_values=CLIP_VALUES
            )
        attack = getattr(evasion, name)(model, verbose=False, **parameters)
        return lambda: attack.generate(X, np.eye(10)[task.y]).reshape(task.X.shape)

    return prepare


def rows():
    n_steps = 500
    for eps in (0.2, 0.3):
        yield Row(
            f"square-inf-{eps}",
            MnistNet,
            Passes(gradients=0, values=n_steps),
            {
                "skart": skart(SquareAttack(eps=eps, max_iter=n_steps, random_state=0)),
                "torchattacks": torchattacks("Square", norm="Linf", eps=eps, n_queries=n_steps, p_init=0.8),
                "art": art("SquareAttack", eps=eps, max_iter=n_steps, nb_restarts=1, batch_size=1024),
            },
        )
    yield Row(
        "square-2",
        MnistNet,
        Passes(gradients=0, values=n_steps),
        {
            "skart": skart(SquareAttack(norm=2, eps=2.0, max_iter=n_steps, random_state=0)),
            "torchattacks": torchattacks("Square", norm="L2", eps=2.0, n_queries=n_steps, p_init=0.8),
            "art": art("SquareAttack", norm=2, eps=2.0, max_iter=n_steps, nb_restarts=1, batch_size=1024),
        },
    )
    for name, make in MODELS.items():
        yield Row(
            f"square-{name}",
            partial(Digits, make),
            Passes(gradients=0, values=200),
            {
                "skart": skart(SquareAttack(eps=0.15, max_iter=200, image_shape=(8, 8), random_state=0)),
                "rows": skart(SquareAttack(eps=0.15, max_iter=200, random_state=0)),
                "art": art("SquareAttack", shape=(1, 8, 8), eps=0.15, max_iter=200, nb_restarts=1, batch_size=1024),
            },
        )
    n_steps, n_searches = 20, 2
    zoo = {"max_iter": n_steps, "binary_search_steps": n_searches}
    # Probes of 128 coordinates, or of the 64 that there are, above and below; and one query to judge each step.
    yield Row(
        "zoo",
        MnistNet,
        Passes(gradients=0, values=n_steps * n_searches * (2 * 128 + 1)),
        {
            "skart": skart(ZooAttack(n_coordinates=128, random_state=0, **zoo)),
            "newton": skart(ZooAttack(n_coordinates=128, optimizer="newton", random_state=0, **zoo)),
            "art": art("ZooAttack", nb_parallel=128, batch_size=1, **ART_ZOO, **zoo),
        },
    )
    for name, make in MODELS.items():
        yield Row(
            f"zoo-{name}",
            partial(Digits, make),
            Passes(gradients=0, values=n_steps * n_searches * (2 * 64 + 1)),
            {
                "skart": skart(ZooAttack(n_coordinates=64, random_state=0, **zoo)),
                "art": art("ZooAttack", nb_parallel=64, batch_size=1, **ART_ZOO, **zoo),
            },
        )
