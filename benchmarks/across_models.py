"""The same attacks on models of several families, which no other library can attack: success and time.

The floor of these rows is made of passes through the oracle, not of bare products; `families.py` compares the two.
"""

import numpy as np
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks._harness import Passes, Row
from benchmarks._models import mnist_images
from skart.attacks import CarliniL2Method, CarliniLInfMethod, DeepFool, FastGradientMethod, ProjectedGradientDescent
from skart.oracles import as_oracle

__all__ = ["rows"]


class Fitted:
    """A fitted classifier with test samples that it gets right; passes go through its oracle."""

    def __init__(self, model, data, n_samples, counts=None):
        X_train, X_test, y_train, y_test = data()
        self.estimator = model.fit(X_train, y_train)
        correct = np.flatnonzero(model.predict(X_test) == y_test)[:n_samples]
        self.X, self.y = X_test[correct], y_test[correct]
        self._oracle = as_oracle(model, self.X)
        self._cotangent = np.random.default_rng(0).standard_normal((len(self.X), len(model.classes_)))
        self._cotangent = self._oracle.asarray(self._cotangent)

    def value_pass(self):
        return self.estimator.predict(self.X)

    def gradient_pass(self):
        with self._oracle:
            _, pullback = self._oracle.vjp(self._oracle.asarray(self.X), scores="margins")
            return getattr(pullback, "last", pullback)(self._cotangent)

    def predict(self, X):
        return self.estimator.predict(X)


def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.5, random_state=0, stratify=y)


def mnist():
    """2000 images to train on, and the first others to attack."""
    X, y = mnist_images()
    X = X.reshape(len(X), -1).astype(np.float64)
    return X[-2000:], X[:2000], y[-2000:], y[:2000]


def skart(attack):
    def prepare(task):
        bound = clone(attack).set_params(estimator=task.estimator, clip_values=(0, 1))
        return lambda: bound.transform(task.X, task.y)

    return prepare


def art(task):
    """Projected gradient descent of the Adversarial Robustness Toolbox on an SVC."""
    from art.attacks.evasion import ProjectedGradientDescent as Attack
    from art.estimators.classification import SklearnClassifier

    classifier = SklearnClassifier(task.estimator, clip_values=(0.0, 1.0))
    attack = Attack(classifier, norm=np.inf, eps=0.1, eps_step=0.01, max_iter=40, batch_size=256, verbose=False)
    labels = np.eye(10)[task.y]
    return lambda: attack.generate(task.X, labels)


def models():
    voting = [
        ("linear", LogisticRegression(max_iter=300)),
        ("svc", CalibratedClassifierCV(SVC(), ensemble=False)),
        ("net", MLPClassifier((64,), max_iter=200, random_state=0)),
    ]
    yield "pipeline-svc", make_pipeline(StandardScaler(), PCA(), SVC())
    yield "mlp", MLPClassifier((64, 64), max_iter=200, random_state=0)
    yield "voting", VotingClassifier(voting, voting="soft")
    try:
        import keras
    except ImportError:
        return
    from skart.estimators import KerasModelClassifier

    def net(input_shape, n_classes):
        dense = keras.layers.Dense
        layers = [keras.Input(input_shape), dense(64, activation="relu"), dense(64, activation="relu")]
        return keras.Sequential([*layers, dense(n_classes)])

    yield "keras", KerasModelClassifier(net, optimizer="adam", max_epochs=30, random_state=0)


def rows():
    pgd = ProjectedGradientDescent(eps=0.1, eps_step=0.01, max_iter=40, random_state=0)
    attacks = {
        "fgsm": (FastGradientMethod(eps=0.1), Passes(1, 1)),
        "pgd": (pgd, Passes(41, 1)),
        "deepfool": (DeepFool(), Passes(50, 1)),
        "carlini-l2": (CarliniL2Method(max_iter=100, binary_search_steps=5), Passes(500, 1)),
        "carlini-linf": (CarliniLInfMethod(eps=None), Passes(500, 1)),
    }
    for model_name, model in models():

        def task(n_samples, counts, model=model):
            return Fitted(clone(model), digits, n_samples, counts)

        for attack_name, (attack, floor) in attacks.items():
            yield Row(f"across-{model_name}-{attack_name}", task, floor, {"skart": skart(attack)})

    def svc(n_samples, counts):
        return Fitted(SVC(probability=True, random_state=0), mnist, min(n_samples, 64), counts)  # as ART wants it

    # The other library's gradient of an SVC of several classes is wrong, and it asks sample by sample.
    yield Row("mnist-svc-pgd", svc, Passes(41, 1), {"skart": skart(pgd), "art": art})
