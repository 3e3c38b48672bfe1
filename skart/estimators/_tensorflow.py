"""A TensorFlow 2 model or function as a scikit-learn classifier."""

import copy
import inspect

import numpy as np
from array_api_compat import is_torch_array
from sklearn.utils.validation import validate_data

from skart._core._arrays import to_numpy
from skart.estimators._nets import FLOAT_DTYPES, NetClassifier, check_n_outputs, encode, shape_samples
from skart.gradients._programs import kept, restored
from skart.gradients._registry import Bound, rule
from skart.gradients._tensorflow import TensorFlowProgram
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import Options, fit_context

__all__ = ["TensorFlowClassifier"]


class TensorFlowClassifier(NetClassifier):
    """A model or function of TensorFlow 2, as it is, as a fitted scikit-learn classifier.

    It answers from the start, for samples in any floating-point dtype, as arrays or data frames, and in the caller's
    labels. Attacks go through it with exact gradients. The model is compiled once, for batches of any size, and its
    variables are read anew in every pass.

    Parameters
    ----------
    model : callable
        A ``tf.Module``, a model of ``tf.keras`` (or of the older ``tf_keras``), a ``tf.function``, or any function of
        a tensor of samples that is made of TensorFlow's operations. What takes an argument ``training`` is asked with
        ``training=False``.
    classes : array-like of shape (n_classes,)
        Labels, in the order of the model's outputs.
    output : {"logits", "log_proba", "proba"}, default="logits"
        What the model gives: logits, logarithms of probabilities, or probabilities, each of shape
        (n_samples, n_classes). For two classes a single logit or probability is enough, that of the second class, of
        shape (n_samples,) or (n_samples, 1).
    input_shape : tuple of int, default=None
        Shape of a sample that the model takes, for example ``(28, 28, 1)``; flat rows of as many features are read as
        such samples. ``None`` hands samples on as they come.
    batch_size : int, default=128
        Most samples that are sent through the model together by predictions.
    dtype : {"float32", "float64"}, default=None
        Floating-point dtype in which the model takes samples. ``None`` takes that of the model's ``variables``, where
        it has some, and else float32.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    See Also
    --------
    KerasModelClassifier : Keras models, on any backend, that ``fit`` can train.

    Notes
    -----
    There is nothing to train: ``fit`` checks the labels only. A clone asks the same model, which is not copied. The
    classifier pickles if the model does: a ``tf.function`` does not, a function of a module does.

    Where a model gives probabilities by a softmax or sigmoid as its last operation, and is not compiled by itself,
    gradients start from what goes into it, so that they do not vanish where probabilities are close to 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.estimators import TensorFlowClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> linear = LogisticRegression(max_iter=200).fit(X, y)
    >>> weights, bias = tf.Variable(linear.coef_.T), tf.Variable(linear.intercept_)
    >>> def model(x):
    ...     return x @ weights + bias
    >>> clf = TensorFlowClassifier(model, ["setosa", "versicolor", "virginica"], dtype="float64")
    >>> clf.predict(X[:2])
    array(['setosa', 'setosa'], dtype='<U10')
    >>> attack = FastGradientMethod(clf, eps=0.8)
    >>> bool(np.allclose(attack.transform(X), FastGradientMethod(linear, eps=0.8).transform(X)))
    True
    """

    _parameter_constraints: dict = {
        "model": [callable],
        **NetClassifier._parameter_constraints,
        "dtype": [Options(str, {"float32", "float64"}), None],
    }

    def __init__(self, model, classes, *, output="logits", input_shape=None, batch_size=128, dtype=None):
        self.model = model
        self.classes = classes
        self.output = output
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.dtype = dtype

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Check that ``y`` holds labels of the model, and note the features; nothing is learnt.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,)
            Labels, entries of ``classes``.

        Returns
        -------
        self : object
        """
        X, y = (to_numpy(values) if is_torch_array(values) else values for values in (X, y))
        X, y = validate_data(self, X, y, dtype=FLOAT_DTYPES, allow_nd=True)
        encode(y, self.classes_)
        return self

    def _outputs(self, X):
        X = to_numpy(X)
        batches = (X[start : start + self.batch_size] for start in range(0, len(X), self.batch_size))
        with self._left_as_found():
            outputs = np.concatenate([self._program("outputs", batch).values(batch) for batch in batches])
        return outputs if outputs.dtype == np.float64 else outputs.astype(np.float32, copy=False)

    def _program(self, name, X):
        """The compiled passes of the logits, or of the outputs, for samples like ``X``."""
        import_optional("tensorflow", extra="tensorflow", purpose="TensorFlowClassifier")
        shape, dtype, model_name = (
            X.shape[1:],
            self._dtype(),
            getattr(self.model, "__name__", type(self.model).__name__),
        )

        def make():
            function = self._call if name == "outputs" else self._logits
            return TensorFlowProgram(function, shape, dtype, model_name)

        return kept(self, self.model, (name, self.output, np.size(self.classes), shape, dtype.name), make)

    def _dtype(self):
        if self.dtype is not None:
            return np.dtype(self.dtype)
        own = {
            str(getattr(variable.dtype, "name", variable.dtype)) for variable in getattr(self.model, "variables", ())
        }
        return np.dtype(np.float64 if "float64" in own else np.float32)

    def _call(self, X):
        import tensorflow as tf

        outputs = self.model(X, training=False) if _takes_training(self.model) else self.model(X)
        if not tf.is_tensor(outputs):
            raise TypeError(
                f"TensorFlowClassifier: the model gives a {type(outputs).__name__}; it must give one tensor, of an "
                "output for each class. Wrap it in a function that returns the one that counts."
            )
        return outputs

    def _logits(self, X):
        """Logits, (n_samples, n_classes), in TensorFlow."""
        return as_logits(self._call(X), self.output, self.classes_, owner=type(self).__name__)

    def _left_as_found(self):
        """Context that puts back what the model changes of its state."""
        variables = getattr(self.model, "non_trainable_variables", ())
        return restored(variables, np.asarray, f"the model {type(self.model).__name__}")

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_clone__(self):
        # The model is no recipe for one: a deep copy of it would copy a net.
        return copy.copy(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        # It cannot be trained, so that it may know nothing of the data at hand.
        tags.classifier_tags.poor_score = True
        tags.classifier_tags.multi_class = np.size(self.classes) > 2
        return tags


@rule("skart.estimators.TensorFlowClassifier")
def tensorflow_classifier(estimator, backend):
    def forward(X):
        x = shape_samples(to_numpy(X), estimator.input_shape, owner=type(estimator).__name__)
        logits, pull = estimator._program("logits", x).vjp(x)

        def pullback(cotangent):
            return backend.xp.reshape(backend.asarray(pull(to_numpy(cotangent))), X.shape)

        return backend.asarray(logits), pullback

    return Bound(forward, own_input=lambda X: X, contexts=(estimator._left_as_found,), in_process=True)


def as_logits(outputs, kind, classes, *, owner):
    """Logits, (n_samples, n_classes), of a tensor of outputs of this kind, in its graph.

    Of probabilities that a softmax or sigmoid gives, what goes into that.
    """
    import tensorflow as tf

    check_n_outputs(tuple(outputs.shape), kind, classes, owner=owner)
    single = len(outputs.shape) == 1 or outputs.shape[1] == 1
    ending = _last_operation(outputs)
    if kind == "logits" and single and ending.type == "Sigmoid":
        raise ValueError(
            f"{owner}: output='logits' says that the model gives a logit; it ends in a sigmoid, and gives "
            "probabilities. Say output='proba'."
        )
    if kind == "proba":
        if ending.type == ("Sigmoid" if single else "Softmax"):
            outputs = ending.inputs[0]
        else:
            tiny = outputs.dtype.as_numpy_dtype(np.finfo(outputs.dtype.as_numpy_dtype).tiny)
            d = tf.math.log(tf.maximum(outputs, tiny))
            outputs = d - tf.math.log(tf.maximum(1 - outputs, tiny)) if single else d
    if single:
        d = tf.reshape(outputs, [-1])
        outputs = tf.stack([tf.zeros_like(d), d], axis=1)
    return outputs


def _takes_training(model):
    """Whether a model takes an argument ``training``."""
    try:
        return "training" in inspect.signature(model).parameters
    except (TypeError, ValueError):
        return False


def _last_operation(tensor):
    """The operation of a graph that computed a tensor, apart from copies."""
    operation = tensor.op
    while operation.type == "Identity":
        operation = operation.inputs[0].op
    return operation
