"""An adapter between scikit-learn's conventions and skorch's."""

from dataclasses import replace

import numpy as np
from array_api_compat import is_torch_array
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import to_numpy
from skart.estimators._nets import FLOAT_DTYPES, distinct_classes, encode
from skart.estimators._torch import seeded
from skart.gradients._registry import rule
from skart.gradients._torch import dtype_and_device, evaluating, is_binary, own_input, skorch_head
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import HasMethods, fit_context
from skart.utils._validation import check_samples

__all__ = ["SkorchClassifier"]


class SkorchClassifier(ClassifierMixin, BaseEstimator):
    """A skorch net as a scikit-learn classifier like any other.

    On their own, skorch's nets stumble over float64 samples, data frames and labels that are not the positions of
    the net's outputs. This adapter hands the net what it takes, and gives back what the caller's labels were, so that a
    net stands in a Pipeline, in ``GridSearchCV`` (parameters are those of the net, ``net__lr``) and in
    ``cross_val_score`` without more ado. Attacks go through it with exact gradients.

    Parameters
    ----------
    net : skorch.NeuralNetClassifier or skorch.NeuralNetBinaryClassifier
        The net. ``fit`` trains a clone. A net that is trained already stays as it is inside a
        :class:`~sklearn.frozen.FrozenEstimator`; ``fit`` then learns the labels only.
    classes : array-like of shape (n_classes,), default=None
        Labels, in the order of the net's outputs. ``None`` takes the sorted labels that ``fit`` sees. With given
        classes and a trained net, the adapter counts as fitted without ``fit``.
    n_features_param, n_classes_param : str, default=None
        Names of parameters of the net (``"module__n_inputs"``) to which ``fit`` sets the numbers of features and of
        classes in the training data. ``None`` leaves them to the module, whose number of outputs must then be that of
        the classes.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights of a module given as a class (an instance keeps those that it has) and the order
        of batches, and leaves torch's global generator as it was. ``None`` draws from that generator.

    Attributes
    ----------
    net_ : skorch.NeuralNetClassifier or skorch.NeuralNetBinaryClassifier
        The trained net; its ``history`` tells of the training.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    Examples
    --------
    >>> from skorch import NeuralNetClassifier
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from torch import nn
    >>> from skart.estimators import SkorchClassifier
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> species = y.map({0: "setosa", 1: "versicolor", 2: "virginica"})
    >>> module = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> net = NeuralNetClassifier(
    ...     module, criterion=nn.CrossEntropyLoss, lr=0.2, max_epochs=30, batch_size=16, verbose=0
    ... )
    >>> clf = make_pipeline(StandardScaler(), SkorchClassifier(net, random_state=0)).fit(X, species)
    >>> clf.score(X, species) > 0.9
    True

    A net that is trained already, with the labels of its outputs:

    >>> trained = SkorchClassifier(clf[-1].net_, classes=clf.classes_)
    >>> trained.predict(clf[:-1].transform(X))[:2]
    array(['setosa', 'setosa'], dtype=object)
    """

    _parameter_constraints: dict = {
        "net": [HasMethods(["fit", "predict", "predict_proba"])],
        "classes": ["array-like", None],
        "n_features_param": [str, None],
        "n_classes_param": [str, None],
        "random_state": ["random_state"],
    }

    def __init__(self, net, *, classes=None, n_features_param=None, n_classes_param=None, random_state=None):
        self.net = net
        self.classes = classes
        self.n_features_param = n_features_param
        self.n_classes_param = n_classes_param
        self.random_state = random_state

    @property
    def classes_(self):
        """Labels, in the order of the columns of ``predict_proba``."""
        if "_classes" in vars(self):
            return self._classes
        if self.classes is not None and _is_trained(self.net):
            return distinct_classes(self.classes)
        raise AttributeError(f"this {type(self).__name__} has no classes_ before `fit`.")

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Train a clone of the net; with a frozen one, learn the labels.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels of any kind.

        Returns
        -------
        self : object
        """
        frozen = isinstance(self.net, FrozenEstimator)
        _check_net(self.net)
        X, y = validate_data(self, _host(X), _host(y), dtype=FLOAT_DTYPES, allow_nd=True)
        check_classification_targets(y)
        classes, position = self._encode(y)
        net = clone(self.net)
        names = {self.n_features_param: X.shape[1], self.n_classes_param: len(classes)}
        names.pop(None, None)
        if names and frozen:
            raise ValueError("n_features_param and n_classes_param shape a net that is trained; this one is frozen.")
        net.set_params(**names)
        with seeded(self.random_state, getattr(net, "device", None) or "cpu"):
            if frozen:
                model = _thawed(net)
                with evaluating(model.module_, model.criterion_):
                    _check_outputs(model, own_input(model, X[:2], dtype_and_device(model)[0]), classes)
            else:
                _train(net, X, position, classes)
        self.net_ = _thawed(net)
        self._classes = classes
        return self

    def predict(self, X):
        """Labels of samples, as the net decides.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        net, classes, X = self._ready(X)
        position = np.asarray(net.predict(X), dtype=np.int64)
        if position.max() >= len(classes):
            raise ValueError(_mismatch(net, f"at least {position.max() + 1}", classes))
        return classes[position]

    def predict_proba(self, X):
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        net, classes, X = self._ready(X)
        proba = net.predict_proba(X)
        if proba.ndim != 2 or proba.shape[1] != len(classes):
            raise ValueError(_mismatch(net, proba.shape[-1], classes))
        return proba

    def _encode(self, y):
        """Classes, and the positions of ``y`` among them."""
        if self.classes is None:
            classes, position = np.unique(y, return_inverse=True)
        else:
            classes = distinct_classes(self.classes)
            position = encode(y, classes)
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs two classes at least; y holds one class only, {classes.tolist()[0]!r}."
            )
        if len(classes) > 2 and is_binary(_thawed(self.net)):
            raise ValueError(
                f"Only binary classification is supported by {type(_thawed(self.net)).__name__}. The type of the "
                f"target is multiclass: y holds {len(classes)} classes. Use skorch.NeuralNetClassifier."
            )
        return classes, position.astype(np.int64)

    def _ready(self, X):
        """The net that predicts, its labels, and samples in the form in which it takes them."""
        check_is_fitted(self)
        net = self.net_ if hasattr(self, "net_") else _thawed(self.net)
        if is_torch_array(X) or not hasattr(self, "n_features_in_"):
            X = check_samples(X, owner=type(self).__name__, n_features=getattr(self, "n_features_in_", None))
        else:
            X = validate_data(self, X, dtype=FLOAT_DTYPES, allow_nd=True, reset=False)
        return net, self.classes_, own_input(net, X, dtype_and_device(net)[0])

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_") or (self.classes is not None and _is_trained(self.net))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        net = _thawed(self.net)
        tags.classifier_tags.multi_class = not (hasattr(net, "initialized_") and is_binary(net))
        return tags


@rule("skart.estimators.SkorchClassifier", gradient="almost everywhere")
def skorch_classifier(model, backend):
    net = model.net_ if hasattr(model, "net_") else model.net
    # The adapter takes tensors on any device, and speaks the caller's labels.
    return replace(backend.bind(net), own_input=lambda X: X, index_labels=False)


def _train(net, X, position, classes):
    """Train a net that is not initialized yet."""
    net.initialize()
    # skorch trains on what it is given: samples in the module's dtype, and for one output labels in it, too.
    X = X.astype(str(dtype_and_device(net, lazy=True)[0]).removeprefix("torch."), copy=False)
    _check_outputs(net, X[:2], classes)
    net.partial_fit(X, position.astype(X.dtype) if _has_float_labels(net) else position)


def _check_outputs(net, X, classes):
    """Raise where the net's outputs are not what its criterion and the classes want, before it is trained."""
    output = net.forward(X)
    n_outputs = skorch_head(net)(output[0] if isinstance(output, tuple) else output).shape[1]
    if n_outputs != len(classes):
        raise ValueError(_mismatch(net, n_outputs, classes))


def _mismatch(net, n_outputs, classes):
    return (
        f"the module of this {type(net).__name__} has {n_outputs} outputs for {len(classes)} classes, {classes}; there "
        "must be one for each class, in their order. Change the module, name the parameter of the net that sets its "
        "outputs as n_classes_param, or give all labels as classes."
    )


def _has_float_labels(net):
    import torch

    return is_binary(net) or isinstance(net.criterion_, (torch.nn.BCELoss, torch.nn.BCEWithLogitsLoss))


def _check_net(net):
    """Raise where ``net`` is no skorch classifier, or a frozen one that is not trained."""
    skorch = import_optional("skorch", extra="torch", purpose="SkorchClassifier")
    if not isinstance(_thawed(net), (skorch.NeuralNetClassifier, skorch.NeuralNetBinaryClassifier)):
        raise TypeError(
            "SkorchClassifier takes a skorch.NeuralNetClassifier or a skorch.NeuralNetBinaryClassifier, or one of them "
            f"in a FrozenEstimator; got {net!r}. A torch module goes into NeuralNetClassifier(module, criterion=...)."
        )
    if isinstance(net, FrozenEstimator) and not _is_trained(net):
        raise NotFittedError("the net in this FrozenEstimator is not trained; call its `fit`, or load its weights.")


def _thawed(net):
    return net.estimator if isinstance(net, FrozenEstimator) else net


def _is_trained(net):
    try:
        check_is_fitted(net)
    except (NotFittedError, TypeError):
        return False
    return True


def _host(values):
    return to_numpy(values) if is_torch_array(values) else values
