"""Models whose answers and gradients are known."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression

from skart._core._draws import draws_for
from skart.gradients._registry import Bound, rule


def linear(n_features=20, n_classes=3, seed=0):
    """A logistic regression with given weights."""
    rng = np.random.default_rng(seed)
    clf = LogisticRegression()
    clf.coef_ = rng.normal(size=(n_classes if n_classes > 2 else 1, n_features))
    clf.intercept_ = rng.normal(size=len(clf.coef_))
    clf.classes_ = np.arange(n_classes)
    clf.n_features_in_ = n_features
    return clf


class Decision(ClassifierMixin, BaseEstimator):
    """A linear classifier that offers its decision values alone."""

    def __init__(self, coef):
        self.coef = coef

    @property
    def classes_(self):
        return np.arange(len(self.coef))

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y):
        return self

    def decision_function(self, X):
        return X @ np.asarray(self.coef).T

    def predict(self, X):
        return self.decision_function(X).argmax(axis=1)


class Shift(TransformerMixin, BaseEstimator):
    """Adds one random number to each sample; without a rule."""

    def __init__(self, scale=0.5, random_state=None):
        self.scale = scale
        self.random_state = random_state

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X + self.scale * draws_for(self.random_state, X).normal((1,))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True
        return tags


class RuledShift(Shift):
    """The same, with a rule."""


class Noise(RuledShift):
    """Noise in each feature, the number of whose passes a list keeps."""

    def transform(self, X):
        return X + self.scale * draws_for(self.random_state, X).normal(X.shape[1:])


@rule("tests.wrappers._models.RuledShift", "tests.wrappers._models.Noise")
def shifted(step, backend):
    size = None if isinstance(step, Noise) else (1,)

    def forward(X):
        shape = X.shape[1:] if size is None else size
        numbers = draws_for(step.random_state, X).normal(shape)
        return X + step.scale * backend.asarray(numbers), lambda cotangent: cotangent

    return Bound(forward, random=True)
