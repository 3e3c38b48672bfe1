"""The attack on a single decision tree, which ART has in the article's form.

Nothing is differentiated, so the floor is the one pass that judges what comes back.
"""

from functools import cache, partial

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.tree import DecisionTreeClassifier

from benchmarks._harness import Passes, Row
from benchmarks._models import _arrays
from skart.attacks import DecisionTreeAttack

__all__ = ["rows"]


class Tree:
    """A decision tree, with samples scaled to [0, 1] that it was not fitted on and classifies correctly."""

    def __init__(self, data, n_samples, counts=None):
        self._model, X, y = data()
        correct = np.flatnonzero(self._model.predict(X) == y)[:n_samples]
        self.X, self.y = X[correct], y[correct]
        self.estimator = self._model
        if counts is not None:
            self.estimator = CountingTree(**self._model.get_params())
            vars(self.estimator).update(vars(self._model), counts=counts)

    def value_pass(self):
        return self._model.predict(self.X)

    def predict(self, X):
        return self._model.predict(X)


class CountingTree(DecisionTreeClassifier):
    """A tree that counts the samples that it is asked for."""

    def predict(self, X, check_input=True):
        self.counts.forward(len(X))
        return super().predict(X, check_input)

    def predict_proba(self, X, check_input=True):
        self.counts.forward(len(X))
        return super().predict_proba(X, check_input)


@cache
def _halves(load):
    X, y = load(return_X_y=True)
    low, high = X.min(axis=0), X.max(axis=0)
    X = (X - low) / np.where(high > low, high - low, 1)
    return DecisionTreeClassifier(random_state=0).fit(X[::2], y[::2]), X[1::2], y[1::2]


@cache
def _mnist():
    names = ("X_train", "y_train", "X_test", "y_test")
    data = _arrays("SKART_MNIST", "MNIST (X_train and X_test of shape (n, 28, 28) uint8, y_train, y_test)", names)
    model = DecisionTreeClassifier(random_state=0)
    model.fit(data["X_train"].reshape(-1, 784)[:20000] / 255, data["y_train"][:20000])
    return model, data["X_test"].reshape(-1, 784)[:3000] / 255, data["y_test"][:3000]


def skart(attack):
    """An attack of skart as its user calls it, with all of its checks."""

    def prepare(task):
        bound = clone(attack).set_params(estimator=task.estimator)
        return lambda: bound.transform(task.X, task.y)

    return prepare


def art(**parameters):
    """ART's attack, with labels left to the model: those that it is given are targets."""

    def prepare(task):
        from art.attacks.evasion import DecisionTreeAttack
        from art.estimators.classification.scikitlearn import ScikitlearnDecisionTreeClassifier

        attack = DecisionTreeAttack(ScikitlearnDecisionTreeClassifier(task.estimator), verbose=False, **parameters)
        return lambda: attack.generate(task.X)

    return prepare


def rows():
    data = {
        "breast-cancer": partial(_halves, load_breast_cancer),
        "digits": partial(_halves, load_digits),
        "mnist": _mnist,
    }
    contenders = {
        "skart": skart(DecisionTreeAttack()),
        "skart, path": skart(DecisionTreeAttack(method="path", offset=0.001)),
        "art": art(offset=0.001),
    }
    for name, load in data.items():
        yield Row(f"tree-{name}", partial(Tree, load), Passes(gradients=0, values=1), contenders)
