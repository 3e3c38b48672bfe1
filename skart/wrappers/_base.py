"""What wrappers share: a classifier around a classifier, which is fitted with it or was fitted before."""

import copy
from contextlib import suppress

import numpy as np
from array_api_compat import is_torch_array
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import to_numpy
from skart.oracles._oracle import classes_of, find_labels
from skart.utils._containers import Container, frame
from skart.utils._sklearn_compat import HasMethods, fit_context
from skart.utils._validation import check_samples

__all__ = ["BaseWrapper", "handed_to", "is_fitted"]

FLOAT_DTYPES = (np.float64, np.float32)


class BaseWrapper(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Base class of wrappers; subclasses say what they predict."""

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"])],
        "random_state": ["random_state"],
    }

    @property
    def classes_(self):
        """Labels, in the order of the columns of ``predict_proba``."""
        return self._of_inner("classes_")

    @property
    def n_features_in_(self):
        """Number of features that the estimator takes."""
        return self._of_inner("n_features_in_")

    @property
    def feature_names_in_(self):
        """Names of the features that the estimator takes."""
        return self._of_inner("feature_names_in_")

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Fit a clone of ``estimator``; a frozen one stays as it is.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Labels.

        Returns
        -------
        self : object
        """
        learnt = copy.copy(self)  # a fit that raises leaves this one as it was
        learnt._fit(X, y)
        classes_of(learnt.estimator_)  # raises for what is no classifier
        self.__dict__ = vars(learnt)
        return self

    def _fit(self, X, y):
        self.estimator_ = clone(self.estimator).fit(X, y)

    def _parts(self):
        """Estimators that must be fitted for this one to be."""
        return [self.estimator]

    def _inner(self):
        """The fitted classifier inside."""
        if hasattr(self, "estimator_"):
            return self.estimator_
        if all(is_fitted(part) for part in self._parts()):
            return self.estimator
        raise NotFittedError(
            f"this {type(self).__name__} is not fitted, and neither is what it wraps: call `fit(X, y)`, or give "
            f"fitted {' and '.join(type(part).__name__ for part in self._parts())}."
        )

    def _of_inner(self, name):
        try:
            return getattr(self._inner(), name)
        except NotFittedError as error:
            raise AttributeError(f"{error} Until then it has no `{name}`.") from None

    def _samples(self, X):
        """Checked numbers of samples, and the container that they came in."""
        inner, container = self._inner(), Container(X)
        X = container.numbers(X)
        names = getattr(inner, "feature_names_in_", None)
        if container.is_frame and names is not None and list(map(str, container.columns)) != list(map(str, names)):
            # Says what is missing, unseen or out of order.
            validate_data(_Named(names), X, reset=False, skip_check_array=True)
        X = check_samples(X, owner=type(self).__name__, n_features=getattr(inner, "n_features_in_", None))
        return to_numpy(X), container

    def _positions(self, labels):
        """Positions in ``classes_`` of what the estimator predicted."""
        labels = np.asarray(to_numpy(labels))
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        position, known = find_labels(labels, self.classes_)
        if not known.all():
            raise ValueError(
                f"{type(self._inner()).__name__} predicted {labels[~known].tolist()[0]!r}, which is not in its "
                f"classes_ {self.classes_}. A bare skorch net knows its classes by position only; "
                "skart.estimators.SkorchClassifier around it takes labels of any kind."
            )
        return position

    def __sklearn_is_fitted__(self):
        try:
            self._inner()
        except NotFittedError:
            return False
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        with suppress(AttributeError, TypeError):  # something that tells nothing of itself
            inner = get_tags(self.estimator)
            tags.classifier_tags = inner.classifier_tags or tags.classifier_tags
            tags.input_tags = inner.input_tags
            tags.non_deterministic = inner.non_deterministic
        tags.input_tags.sparse = False
        tags.target_tags.required = not isinstance(self.estimator, FrozenEstimator)
        return tags


class _Named(BaseEstimator):
    """An estimator that was fitted on columns of these names, for scikit-learn's own words about others."""

    def __init__(self, names):
        self.feature_names_in_ = names
        self.n_features_in_ = len(names)


def handed_to(estimator, X, container):
    """Samples as the methods of ``estimator`` take them, which was asked with data of this container.

    A data frame comes back as one, and a model that was fitted on one is not warned about arrays at every question.
    """
    if X.ndim != 2:
        return X
    if container.is_frame:
        return container.data_frame(X)
    names = getattr(estimator, "feature_names_in_", None)
    return frame(X, list(names)) if names is not None and len(names) == X.shape[1] else X


def is_fitted(estimator):
    """Whether an estimator is fitted."""
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        return False
    return True


def host(X):
    """``X`` on the host, where it is a tensor."""
    return to_numpy(X) if is_torch_array(X) else X
