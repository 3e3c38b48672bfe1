"""A model that is known by its answers alone: a function, a remote service, or a table of answers made beforehand."""

import copy
import threading
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length

from skart._core._arrays import to_numpy
from skart.exceptions import QueryBudgetExceeded
from skart.gradients._registry import no_gradient
from skart.oracles._oracle import find_labels
from skart.utils._sklearn_compat import Interval, StrOptions, fit_context

__all__ = ["BlackBoxClassifier"]

# Services round what they answer: rows need not sum to one more closely than this.
SUM_TOLERANCE = 1e-2


class BlackBoxClassifier(ClassifierMixin, BaseEstimator):
    """A function that answers labels or probabilities, as a fitted scikit-learn classifier.

    Whatever can be asked for its prediction on a batch of samples, a remote service for example, stands in a Pipeline,
    in ``cross_val_score`` and before an attack like a model that was trained here. There is nothing to train: it is
    fitted from the start, and it counts the samples that it is asked about.

    Parameters
    ----------
    predict_fn : callable
        ``predict_fn(X)`` answers for a batch: probabilities of shape (n_samples, n_classes), or labels of shape
        (n_samples,). It gets the samples in the form in which the caller has them (arrays of any shape, tensors, data
        frames).
    classes : array-like of shape (n_classes,)
        Labels, in the order of the columns of the probabilities.
    output : {"probabilities", "labels"}, default="probabilities"
        What the function answers. There is no ``predict_proba`` with ``"labels"``.
    batch_size : int, default=None
        Most samples in one call of the function. ``None`` hands it all at once.
    max_queries : int, default=None
        Most samples that the function may be asked about. A request that would go beyond is refused as a whole, before
        the function is called, so that it costs nothing. ``None`` sets no limit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_queries_ : int
        Samples that the function was asked about so far, those of calls that failed included.

    Notes
    -----
    ``fit`` leaves ``n_queries_`` as it is, or else it would renew the budget. A clone asks the same function (which is
    not copied) and starts at zero: ``cross_val_score`` has a budget for each fold, unless a
    :class:`~sklearn.frozen.FrozenEstimator` around the classifier lets all folds share one. A pickled copy goes on from
    the count that it was pickled with and counts for itself, which holds for workers in other processes, too.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.estimators import BlackBoxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> service = LogisticRegression(max_iter=200).fit(X, y)
    >>> clf = BlackBoxClassifier(service.predict_proba, ["setosa", "versicolor", "virginica"], max_queries=200)
    >>> clf.predict(X[:2])
    array(['setosa', 'setosa'], dtype='<U10')
    >>> clf.score(X, clf.classes_[y]) > 0.9
    True
    >>> clf.n_queries_
    152
    >>> clf.predict(X)
    Traceback (most recent call last):
        ...
    skart.exceptions.QueryBudgetExceeded: 152 of max_queries=200 queries are spent, and 150 more were wanted; ...
    """

    _parameter_constraints: dict = {
        "predict_fn": [callable],
        "classes": ["array-like"],
        "output": [StrOptions({"labels", "probabilities"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "max_queries": [Interval(Integral, 0, None, closed="left"), None],
    }

    def __init__(self, predict_fn, classes, *, output="probabilities", batch_size=None, max_queries=None):
        self.predict_fn = predict_fn
        self.classes = classes
        self.output = output
        self.batch_size = batch_size
        self.max_queries = max_queries

    @classmethod
    def from_table(cls, X, answers, classes, *, output="probabilities", max_queries=None):
        """A classifier that knows the answers for some samples, and raises for any other.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Samples. Rows are compared exactly: ask in the dtype of the table.
        answers : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels or probabilities of these samples.
        classes : array-like of shape (n_classes,)
            Labels, in the order of the columns of the probabilities.
        output : {"probabilities", "labels"}, default="probabilities"
            What ``answers`` holds.
        max_queries : int, default=None
            As for the class.

        Returns
        -------
        clf : BlackBoxClassifier
            Asked about a sample that is not in the table, it raises a ``ValueError``.

        Examples
        --------
        >>> from skart.estimators import BlackBoxClassifier
        >>> X, answers = [[0.0, 1.0], [2.0, 3.0]], ["cat", "dog"]
        >>> clf = BlackBoxClassifier.from_table(X, answers, ["cat", "dog"], output="labels")
        >>> clf.predict([[2.0, 3.0]])
        array(['dog'], dtype='<U3')
        """
        X = _samples(X, cls.__name__)
        answers = np.array(to_numpy(answers))  # a copy: the table must not change under the classifier
        clf = cls(_Table(X, answers), classes, output=output, max_queries=max_queries)
        clf._validate_params()
        clf._checked(answers, X.shape[0])  # now, and not when an attack comes across the row
        return clf

    @property
    def classes_(self):
        """Labels, in the order of the columns of ``predict_proba``."""
        classes = np.asarray(to_numpy(self.classes))
        if classes.ndim != 1 or len(classes) < 2 or len(np.unique(classes)) != len(classes):
            raise ValueError(
                "classes must be two different labels or more, in the order of the columns of the probabilities; got "
                f"{self.classes!r}."
            )
        return classes

    @property
    def n_queries_(self):
        """Samples that the function was asked about so far."""
        return self._counter.n_queries

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Check that ``y`` holds labels of the model; nothing is learnt, and the function is not asked.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,)
            Labels, entries of ``classes``.

        Returns
        -------
        self : object
        """
        X = _samples(X, type(self).__name__)
        y = column_or_1d(to_numpy(y), warn=True)
        check_consistent_length(X, y)
        check_classification_targets(y)
        known = find_labels(y, self.classes_)[1]
        if not known.all():
            raise ValueError(
                f"y holds {y[~known].tolist()[0]!r}, which is not in classes {self.classes_}. A black box learns no "
                "labels: give y as the function knows them."
            )
        self._counter  # noqa: B018 - is there from now on, so that a prediction leaves the attributes as they are
        return self

    def predict(self, X):
        """Labels of samples: those that the function answers, or the most probable ones.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        answers = self._ask(X)
        return self.classes_[answers if self.output == "labels" else answers.argmax(axis=1)]

    @available_if(lambda self: self.output != "labels")
    def predict_proba(self, X):
        """Probabilities of the classes, as the function answers them.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        return self._ask(X)

    def _ask(self, X):
        """Checked answers for samples: probabilities, or positions of labels in ``classes_``."""
        self._validate_params()
        self.classes_  # noqa: B018 - raises before anything is asked
        X = _samples(X, type(self).__name__)
        n_samples = X.shape[0]
        size = self.batch_size or n_samples
        self._counter.reserve(n_samples, self.max_queries)
        n_sent, checked = 0, []
        try:
            for start in range(0, n_samples, size):
                batch = X if size >= n_samples else _rows(X, start, start + size)
                n_sent += batch.shape[0]
                checked.append(self._checked(to_numpy(self.predict_fn(batch)), batch.shape[0]))
        finally:
            self._counter.give_back(n_samples - n_sent)
        return np.concatenate(checked)

    def _checked(self, answers, n_samples):
        """The function's answers to one call, or one error that says what is wrong with them."""
        answers = np.asarray(answers)
        if self.output == "labels":
            return self._checked_labels(answers, n_samples)
        return self._checked_probabilities(answers, n_samples)

    def _checked_labels(self, labels, n_samples):
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n_samples,):
            hint = " For probabilities, say output='probabilities'." if labels.ndim == 2 else ""
            raise ValueError(
                f"predict_fn gave an answer of shape {labels.shape} for {n_samples} samples; with output='labels' it "
                f"must be ({n_samples},), one label a sample.{hint}"
            )
        positions, known = find_labels(labels, self.classes_)
        if not known.all():
            raise ValueError(
                f"predict_fn gave the label {labels[~known].tolist()[0]!r}, which is not in classes {self.classes_}."
            )
        return positions

    def _checked_probabilities(self, proba, n_samples):
        n_classes = len(self.classes_)
        if proba.shape != (n_samples, n_classes):
            hint = ""
            if proba.ndim == 1 and proba.dtype.kind == "f" and n_classes == 2:
                hint = " For two classes give both columns: np.column_stack([1 - p, p])."
            elif proba.ndim == 1:
                hint = " For labels, say output='labels'."
            raise ValueError(
                f"predict_fn gave an answer of shape {proba.shape} for {n_samples} samples; with "
                f"output='probabilities' it must be ({n_samples}, {n_classes}), one column for each of the classes "
                f"{self.classes_}.{hint}"
            )
        if proba.dtype.kind not in "biuf":
            raise ValueError(f"predict_fn gave probabilities of dtype {proba.dtype}; they must be numbers.")
        if proba.dtype not in (np.float32, np.float64):
            proba = proba.astype(np.float64)
        if not np.isfinite(proba).all():
            raise ValueError("predict_fn gave probabilities that are NaN or infinite.")
        off = np.flatnonzero((proba.min(axis=1) < -1e-6) | (np.abs(proba.sum(axis=1) - 1) > SUM_TOLERANCE))
        if len(off):
            raise ValueError(
                f"predict_fn gave {proba[off[0]].tolist()} as probabilities; they must not be negative, and those of a "
                "sample must sum to one. Put logits or other scores through a softmax."
            )
        return proba

    @property
    def _counter(self):
        return vars(self).setdefault("_queries", _Counter())

    def __sklearn_clone__(self):
        # The function is the model, no recipe for one: a deep copy of it would copy a net, or a connection.
        twin = copy.copy(self)
        vars(twin).pop("_queries", None)
        return twin

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        # What samples must look like is the function's to say.
        tags.no_validation = True
        tags.input_tags.allow_nan = tags.input_tags.sparse = True
        # It cannot be trained, so that it may know nothing of the data at hand.
        tags.classifier_tags.poor_score = True
        return tags


no_gradient(
    "skart.estimators.BlackBoxClassifier",
    why="it is a function that is known by its answers alone",
)


class _Counter:
    """Samples asked about so far."""

    _lock = threading.Lock()  # of the class: a lock does not pickle

    def __init__(self):
        self.n_queries = 0

    def reserve(self, n_samples, limit):
        """Count ``n_samples`` that are about to be asked, or refuse them all."""
        with self._lock:
            if limit is not None and self.n_queries + n_samples > limit:
                raise QueryBudgetExceeded(
                    f"{self.n_queries} of max_queries={limit} queries are spent, and {n_samples} more were wanted; "
                    "none of them was made. Ask about fewer samples, or raise the budget with "
                    "set_params(max_queries=...)."
                )
            self.n_queries += n_samples

    def give_back(self, n_samples):
        """Take back what was reserved and not asked."""
        with self._lock:
            self.n_queries -= n_samples


class _Table:
    """The function that looks answers up."""

    def __init__(self, X, answers):
        if answers.ndim == 0 or len(answers) != X.shape[0]:
            raise ValueError(
                f"a table needs one answer for each sample; got {X.shape[0]} samples and answers of shape "
                f"{answers.shape}."
            )
        self.shape, self.answers = tuple(X.shape[1:]), answers
        self.places = {}
        for place, key in enumerate(_keys(X)):
            first = self.places.setdefault(key, place)
            if not np.array_equal(answers[first], answers[place]):
                raise ValueError(f"samples {first} and {place} of the table are equal, and their answers differ.")

    def __call__(self, X):
        if tuple(X.shape[1:]) != self.shape:
            raise ValueError(f"the table holds samples of shape {self.shape}; X has samples of shape {X.shape[1:]}.")
        places = [self.places.get(key) for key in _keys(X)]
        if None in places:
            raise ValueError(
                f"the table of {len(self.answers)} answers has none for {places.count(None)} of {len(places)} samples, "
                f"the first of them at row {places.index(None)} of this call. Rows are compared exactly: ask about the "
                "very samples of the table, in its dtype."
            )
        return self.answers[places]

    def __repr__(self):
        return f"<table of {len(self.answers)} answers>"


def _keys(X):
    """One key for each sample; equal samples have equal keys, in any dtype and namespace."""
    rows = np.asarray(to_numpy(X))
    rows = rows.reshape(len(rows), -1)
    if rows.dtype.kind in "biuf":
        # Zeros of both signs are one number and have different bytes.
        return [row.tobytes() for row in rows.astype(np.float64) + 0.0]
    return [tuple(row) for row in rows.tolist()]


def _samples(X, owner):
    """Samples as they came, or as an array where they came in lists."""
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    numeric_row = len(X.shape) == 1 and getattr(getattr(X, "dtype", None), "kind", "f") in "biufc"
    if len(X.shape) == 0 or numeric_row:
        raise ValueError(
            f"{owner} expects samples of shape (n_samples, n_features) or (n_samples, ...); got shape "
            f"{tuple(X.shape)}. Reshape your data with X.reshape(-1, 1) for one feature, X.reshape(1, -1) for one "
            "sample."
        )
    if X.shape[0] == 0:
        raise ValueError(f"{owner} got 0 samples; at least one is needed.")
    return X


def _rows(X, start, stop):
    if hasattr(X, "tocsr"):  # not every sparse format knows rows
        return X.tocsr()[start:stop]
    # A data frame's own brackets read numbers as labels where its index has floating-point ones.
    return X.iloc[start:stop] if hasattr(X, "iloc") else X[start:stop]
