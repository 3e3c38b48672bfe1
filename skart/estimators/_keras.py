"""A Keras model as a scikit-learn classifier."""

import contextlib
import copy
import random
import sys
from dataclasses import replace
from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skart._core._arrays import to_numpy
from skart.estimators._nets import (
    FLOAT_DTYPES,
    NetClassifier,
    check_outputs,
    distinct_classes,
    encode,
    shape_samples,
)
from skart.estimators._torch import seeded
from skart.gradients._keras import KerasNet, keras_shape, left_as_found, output_kind
from skart.gradients._registry import rule
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import Interval, StrOptions, fit_context

__all__ = ["KerasModelClassifier"]


class KerasModelClassifier(NetClassifier):
    """A Keras model, as it is or trained by ``fit``, as a scikit-learn classifier.

    It takes samples in any floating-point dtype, as arrays, tensors or data frames, and speaks the caller's labels.
    Attacks go through it with exact gradients on Keras' torch, JAX and TensorFlow backends. The model is asked with
    ``training=False`` and left as it was found. The backend is Keras' own choice: set ``KERAS_BACKEND`` before Keras is
    imported.

    Parameters
    ----------
    model : keras.Model or callable
        A built model of one input and one output; or a function ``model(input_shape, n_classes)`` that makes one for
        ``fit`` to train.
    classes : array-like of shape (n_classes,), default=None
        Labels, in the order of the model's outputs. With given classes, a model counts as fitted from the start.
        ``None`` takes the sorted labels that ``fit`` sees.
    output : {"auto", "logits", "log_proba", "proba"}, default="auto"
        What the model gives, each of shape (n_samples, n_classes). For two classes a single logit or probability is
        enough, that of the second class. ``"auto"`` reads it off the activation of the model's last layer, where that
        is a softmax, sigmoid, log-softmax or linear one.
    input_shape : tuple of int, default=None
        Shape of a sample that the model takes, for example ``(28, 28, 1)``; flat rows of as many features are read as
        such samples. ``None`` takes the shape that the model was built for (``fit`` with a function: that of the data).
    batch_size : int, default=128
        Most samples that are sent through the model together.
    optimizer : str or keras.optimizers.Optimizer, default=None
        What ``fit`` trains with. ``None`` takes the one that a function's model was compiled with; a model that is
        given as it is is trained already then, and ``fit`` refuses.
    max_epochs : int, default=20
        Number of passes over the training data in ``fit``.
    fit_params : dict, default=None
        More arguments for the ``fit`` of the Keras model: ``callbacks``, ``class_weight``, ``verbose``, and
        ``validation_data``, whose labels are positions among the classes.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights that a function's model draws, the order of training samples and the draws of
        dropout, and leaves global generators as they were. ``None`` draws anew in each call.

    Attributes
    ----------
    model_ : keras.Model
        The trained model, after ``fit``.
    history_ : dict
        What Keras recorded in each epoch, after ``fit``.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    See Also
    --------
    TorchClassifier : The same for torch modules.
    TensorFlowClassifier : The same for functions and modules of TensorFlow.

    Notes
    -----
    ``fit`` trains by the cross-entropy, whatever loss a model is compiled with, and trains a copy of a given model,
    from the weights that it has. A clone has a copy of the model with its weights: it is as fitted as the original.
    What fits its estimators (``cross_val_score``, the ``fit`` of a Pipeline or an attack) takes a trained model in a
    :class:`~sklearn.frozen.FrozenEstimator`, as it takes any trained model.

    A model pickles as Keras saves it: layers and functions of your own need ``keras.saving``'s decorator
    ``register_keras_serializable``.

    Gradients start from what goes into the last softmax or sigmoid of a model, so that they do not vanish where
    probabilities are close to 0 and 1.

    Examples
    --------
    >>> import os
    >>> _ = os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported
    >>> import keras
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.estimators import KerasModelClassifier
    >>> def mlp(input_shape, n_classes):
    ...     hidden = keras.layers.Dense(16, activation="relu")
    ...     out = keras.layers.Dense(n_classes, activation="softmax")
    ...     return keras.Sequential([keras.Input(input_shape), hidden, out])
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = KerasModelClassifier(mlp, optimizer=keras.optimizers.Adam(0.02), batch_size=16, random_state=0)
    >>> clf = make_pipeline(StandardScaler(), clf).fit(X, y)
    >>> clf.score(X, y) > 0.9
    True

    The same model, trained, as a classifier of other labels, under attack:

    >>> trained = KerasModelClassifier(clf[-1].model_, ["setosa", "versicolor", "virginica"])
    >>> trained.predict(clf[:-1].transform(X[:2]))
    array(['setosa', 'setosa'], dtype='<U10')
    >>> bool(FastGradientMethod(clf, eps=0.8).run(X).success.mean() > 0.4)
    True
    """

    _parameter_constraints: dict = {
        "model": "no_validation",  # Keras may be missing
        **NetClassifier._parameter_constraints,
        "classes": ["array-like", None],
        "output": [StrOptions({"auto", "logits", "log_proba", "proba"})],
        "optimizer": "no_validation",
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "fit_params": [dict, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        model,
        classes=None,
        *,
        output="auto",
        input_shape=None,
        batch_size=128,
        optimizer=None,
        max_epochs=20,
        fit_params=None,
        random_state=None,
    ):
        self.model = model
        self.classes = classes
        self.output = output
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.max_epochs = max_epochs
        self.fit_params = fit_params
        self.random_state = random_state

    @property
    def classes_(self):
        """Labels, in the order of the model's outputs."""
        if self.classes is not None:
            return distinct_classes(self.classes)
        if "_classes" in vars(self):
            return self._classes
        raise AttributeError(f"this {type(self).__name__} has no classes_ before `fit`; give its labels as classes.")

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Train a model: the one that the function makes, or a copy of the given one, where an optimizer is given.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels; entries of ``classes``, where these are given.

        Returns
        -------
        self : object
        """
        if _is_model(self.model) and self.optimizer is None:
            raise ValueError(
                f"this {type(self).__name__} holds a trained model, and has no optimizer to train it with. To have it "
                "taken as it is, wrap it: FrozenEstimator(clf). To train it, give optimizer='adam' or another one."
            )
        learnt = copy.copy(self)  # a fit that raises leaves this one as it was
        learnt._train(X, y, self.max_epochs, fresh=True)
        self.__dict__ = vars(learnt)
        return self

    @available_if(lambda self: self.optimizer is not None or not _is_model(self.model))
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None):
        """Train on, for one pass over the data.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels.
        classes : array-like, default=None
            All labels, needed in the first call where the parameter ``classes`` is not given.

        Returns
        -------
        self : object
        """
        fresh, learnt = not hasattr(self, "model_"), copy.copy(self)
        if classes is not None:
            if fresh and self.classes is None:
                learnt._classes = distinct_classes(np.unique(classes))
            encode(np.asarray(classes), learnt.classes_)
        elif fresh and self.classes is None:
            raise ValueError(f"the first partial_fit of {type(self).__name__} needs all labels, as classes.")
        learnt._train(X, y, 1, fresh=fresh, learn_classes=False)
        self.__dict__ = vars(learnt)
        return self

    def _train(self, X, y, n_epochs, *, fresh, learn_classes=True):
        keras = _import_keras()
        X, y = (to_numpy(values) if is_torch_array(values) else values for values in (X, y))
        X, y = validate_data(self, X, y, dtype=FLOAT_DTYPES, allow_nd=True, reset=fresh)
        if learn_classes and self.classes is None:
            self._classes = _seen_classes(y, owner=type(self).__name__)
        position = encode(y, self.classes_)
        X = shape_samples(X, self.input_shape, owner=type(self).__name__)
        rng = check_random_state(self.random_state)
        with _seeded(None if self.random_state is None else rng):
            model = self._made(keras, X) if fresh else self.model_
            net = self._net(model)
            X = net.samples(X)
            check_outputs(net.outputs(X[:2]), net.kind, self.classes_, owner=type(self).__name__)
            history = model.fit(
                _batches(keras, X, position.astype(X.dtype), self.batch_size, rng),
                epochs=n_epochs,
                shuffle=False,
                **{"verbose": 0, **(self.fit_params or {})},
            )
        self.model_, self.history_ = model, history.history

    def _made(self, keras, X):
        """A model to train, compiled with a loss that suits its outputs."""
        name = type(self).__name__
        if _is_model(self.model):
            model = copy.deepcopy(self.model)
        elif callable(self.model):
            model = self.model(tuple(X.shape[1:]), len(self.classes_))
            _check_model(model, made=True)
        else:
            _check_model(self.model)
        if not model.built:
            model.build((None, *X.shape[1:]))
        optimizer = getattr(model, "optimizer", None) if self.optimizer is None else self.optimizer
        if optimizer is None:
            raise ValueError(
                f"{name}: the function makes a model that is not compiled, and optimizer=None says to take the "
                "optimizer that it was compiled with. Give optimizer='adam', or another one."
            )
        if not isinstance(optimizer, str):  # one that has no state yet
            optimizer = type(optimizer).from_config(optimizer.get_config())
        kind = self._kind(model)
        shape = self._net(model).outputs(X[:1]).shape
        if len(shape) == 1 or shape[1] == 1:
            loss = keras.losses.BinaryCrossentropy(from_logits=kind == "logits")
        else:
            # The softmax of log-probabilities are the probabilities.
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=kind != "proba")
        model.compile(optimizer=optimizer, loss=loss)
        return model

    def _outputs(self, X):
        net = self._net()
        with left_as_found(net.model):
            return np.concatenate(
                [net.outputs(X[start : start + self.batch_size]) for start in range(0, X.shape[0], self.batch_size)]
            )

    def _net(self, model=None):
        """The model that answers, or another one, with all that is known of it."""
        if model is None and not hasattr(self, "model_"):
            _check_model(self.model)
        model = getattr(self, "model_", self.model) if model is None else model
        shape = keras_shape(model)
        if shape is None and self.input_shape is not None:
            shape = tuple(self.input_shape)
        return KerasNet(self, model, self._kind(model), len(self.classes_), shape)

    def _kind(self, model=None):
        """What a model gives: "logits", "log_proba" or "proba"."""
        model = getattr(self, "model_", self.model) if model is None else model
        told = output_kind(model)
        if self.output == "auto":
            if told is None:
                raise ValueError(
                    f"{type(self).__name__}: what the Keras model {model.name!r} gives cannot be told from its last "
                    "layer (it ends in no softmax, sigmoid, log-softmax or linear activation). Say output='logits', "
                    "'log_proba' or 'proba'."
                )
            return told
        if told == "proba" and self.output != "proba":
            raise ValueError(
                f"{type(self).__name__}: output={self.output!r} says that the model gives "
                f"{'logits' if self.output == 'logits' else 'logarithms of probabilities'}; it ends in a softmax or a "
                "sigmoid, and gives probabilities. Say output='proba', or 'auto'."
            )
        return self.output

    def __sklearn_is_fitted__(self):
        # What is no model at all is reported where it is used.
        return hasattr(self, "model_") or (self.classes is not None and not _is_function(self.model))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = not self.__sklearn_is_fitted__()
        tags.classifier_tags.multi_class = self.classes is None or np.size(self.classes) > 2
        return tags


@rule("skart.estimators.KerasModelClassifier")
def keras_model_classifier(estimator, backend):
    if not hasattr(estimator, "model_"):
        _check_model(estimator.model)
    # The adapter takes tensors on any device.
    return replace(estimator._net().bound(backend), own_input=lambda X: X)


def _import_keras():
    return import_optional("keras", extra="keras", purpose="KerasModelClassifier")


def _is_model(model):
    """Whether this is a Keras model; nothing is, where Keras was never imported."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def _is_function(model):
    return callable(model) and not _is_model(model)


def _check_model(model, *, made=False):
    _import_keras()
    if not _is_model(model):
        hint = "the function did not return one" if made else "a trained one with its classes, or a function to fit"
        raise TypeError(
            f"KerasModelClassifier takes a keras.Model; got {model!r} ({hint}). A function of TensorFlow goes into "
            "TensorFlowClassifier, a torch module into TorchClassifier."
        )


def _seen_classes(y, owner):
    """The sorted labels in ``y``."""
    check_classification_targets(y)
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"{owner} needs two classes at least; y holds one class only, {classes.tolist()[0]!r}.")
    return classes


def _batches(keras, X, y, batch_size, rng):
    """Training data as Keras takes it on every backend, in an order that follows ``rng``, anew in each epoch."""
    # Of about the same size: a last batch of a single sample is too few for batch normalisation.
    n_batches = -(-len(X) // batch_size)

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.on_epoch_end()

        def __len__(self):
            return n_batches

        def __getitem__(self, index):
            return X[self.rows[index]], y[self.rows[index]]

        def on_epoch_end(self):
            self.rows = np.array_split(rng.permutation(len(X)), n_batches)

    return Batches()


@contextlib.contextmanager
def _seeded(rng):
    """Draws that follow ``rng``, the global generators as they were afterwards; None changes nothing."""
    if rng is None:
        yield
        return
    before = random.getstate()
    # Keras draws the seeds of initializers and of dropout from Python's generator.
    random.seed(rng.randint(np.iinfo(np.int32).max))
    try:
        with _seeded_torch(rng):
            yield
    finally:
        random.setstate(before)


def _seeded_torch(rng):
    """The same for torch, where Keras computes with it."""
    if _import_keras().backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return seeded(rng, "cuda" if torch.cuda.is_available() else "cpu")
