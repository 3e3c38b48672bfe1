"""The oracle's answers as plain functions: gradients, logits and probabilities of a fitted estimator."""

from numbers import Integral

import numpy as np
from sklearn.utils.validation import check_is_fitted, check_scalar

from skart._core._arrays import one_hot, per_sample, to_numpy
from skart._core._objectives import LOSSES, check_loss, log_softmax
from skart.oracles._oracle import Oracle
from skart.utils._containers import Container
from skart.utils._validation import check_samples

__all__ = ["class_gradient", "logits", "loss_gradient", "proba"]


def loss_gradient(estimator, X, y, *, loss="cross_entropy", batch_size=256):
    """Gradient of the loss by the samples.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier for which a gradient rule is registered.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples.
    y : array-like of shape (n_samples,)
        Labels, entries of the model's ``classes_``.
    loss : {"cross_entropy", "margin", "dlr"}, default="cross_entropy"
        Loss, as attacks maximise it.
    batch_size : int, default=256
        Samples that are sent through the model together.

    Returns
    -------
    grad : array of the shape and dtype of ``X``
        A torch tensor for a torch tensor, else a NumPy array.

    Raises
    ------
    GradientUnavailableError
        The model, or a part of it, has no gradient.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.oracles import loss_gradient
    >>> X, y = load_iris(return_X_y=True)
    >>> loss_gradient(LogisticRegression(max_iter=200).fit(X, y), X, y).shape
    (150, 4)
    """
    if loss not in LOSSES or LOSSES[loss].needs_reference:
        raise ValueError(f"loss must be 'cross_entropy', 'margin' or 'dlr'; got {loss!r}.")
    X, oracle, container = _ask(estimator, X, "loss_gradient")
    position = oracle.find(y, X.shape[0], owner="loss_gradient")
    check_loss(loss, len(oracle.classes_), False)

    def gradient(x, labels):
        scores, pullback = oracle.vjp(x, scores=LOSSES[loss].scores)
        parts = LOSSES[loss].function(scores, oracle.xp.asarray(labels, device=oracle.device))
        grad = pullback(parts.direction)
        return grad if parts.scale is None else grad * per_sample(parts.scale, like=grad)

    return _batched(gradient, oracle, X, container, batch_size, position)


def class_gradient(estimator, X, label=None, logits=True, *, batch_size=256):
    """Gradients of class scores by the samples.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier for which a gradient rule is registered.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples.
    label : label, array-like of shape (n_samples,) or None, default=None
        Class, or the class of each sample, whose gradient is wanted. ``None``: all classes.
    logits : bool, default=True
        Gradients of the logits; ``False``: of the probabilities, the softmax of the logits.
    batch_size : int, default=256
        Samples that are sent through the model together: one forward pass, and one backward pass for each class.

    Returns
    -------
    grad : array of shape (n_samples, n_classes, ...), or of the shape of ``X`` with a ``label``
        In the dtype of ``X``; a torch tensor for a torch tensor, else a NumPy array.

    Raises
    ------
    GradientUnavailableError
        The model, or a part of it, has no gradient.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.oracles import class_gradient
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> class_gradient(clf, X[:5]).shape, class_gradient(clf, X[:5], label=2).shape
    ((5, 3, 4), (5, 4))
    """
    X, oracle, container = _ask(estimator, X, "class_gradient")
    n_classes = len(oracle.classes_)
    position = None
    if label is not None:
        labels = np.asarray(to_numpy(label))
        labels = np.broadcast_to(labels, (X.shape[0],)) if labels.ndim == 0 else labels
        position = oracle.find(labels, X.shape[0], owner="class_gradient")
    xp = oracle.xp

    def gradient(x, labels=None):
        scores, pullback = oracle.vjp(x)
        weights = None
        if not logits:
            weights = xp.exp(log_softmax(scores if oracle._bound.public is None else oracle._bound.public(scores)))

        def pull(chosen):
            cotangent = xp.astype(chosen, scores.dtype)
            if weights is not None:
                own = xp.sum(xp.where(chosen, weights, 0.0), axis=1, keepdims=True)
                cotangent = own * (cotangent - weights)
            return pullback(cotangent)

        if labels is not None:
            return pull(one_hot(xp.asarray(labels, device=oracle.device), n_classes))
        columns = [xp.full((x.shape[0],), k, dtype=xp.int64, device=oracle.device) for k in range(n_classes)]
        return xp.stack([pull(one_hot(column, n_classes)) for column in columns], axis=1)

    return _batched(gradient, oracle, X, container, batch_size, position)


def logits(estimator, X, *, batch_size=256):
    """Smooth scores of a fitted classifier.

    Log-probabilities up to a constant for each row where ``predict_proba`` is smooth and ``predict`` follows it,
    decision values otherwise; a binary margin d is the row (0, d).

    Parameters
    ----------
    estimator : estimator
        Fitted classifier.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples.
    batch_size : int, default=256
        Samples that are sent through the model together.

    Returns
    -------
    logits : array of shape (n_samples, n_classes)
        A torch tensor for a torch tensor, else a NumPy array.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> from skart.oracles import logits
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = SVC().fit(X, y)
    >>> bool((clf.predict(X) == logits(clf, X).argmax(axis=1)).all())
    True
    """
    X, oracle, container = _ask(estimator, X, "logits")
    return _batched(oracle.logits, oracle, X, container, batch_size)


def proba(estimator, X, *, batch_size=256):
    """Probabilities of a fitted classifier: its own, or the softmax of its logits where it has none.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples.
    batch_size : int, default=256
        Samples that are sent through the model together.

    Returns
    -------
    proba : array of shape (n_samples, n_classes)
        A torch tensor for a torch tensor, else a NumPy array.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import LinearSVC
    >>> from skart.oracles import proba
    >>> X, y = load_iris(return_X_y=True)
    >>> proba(LinearSVC().fit(X, y), X).shape
    (150, 3)
    """
    X, oracle, container = _ask(estimator, X, "proba")
    return _batched(oracle.proba, oracle, X, container, batch_size)


def _ask(estimator, X, owner):
    check_is_fitted(estimator)
    container = Container(X)
    X = check_samples(container.numbers(X), owner=owner, n_features=getattr(estimator, "n_features_in_", None))
    return X, Oracle(estimator, X, container=container), container


def _batched(function, oracle, X, container, batch_size, *per_row):
    check_scalar(batch_size, "batch_size", Integral, min_val=1)
    x = oracle.asarray(X)
    with oracle:
        parts = [
            function(x[k : k + batch_size], *(rows[k : k + batch_size] for rows in per_row if rows is not None))
            for k in range(0, x.shape[0], batch_size)
        ]
        whole = oracle.xp.concat(parts, axis=0)
    return container.wrap(whole) if container.kind == "torch" else to_numpy(whole)
