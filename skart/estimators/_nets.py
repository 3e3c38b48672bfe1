"""What the adapters of nets share, whatever the framework: labels, shapes, and what a net's outputs mean.

An adapter derives from :class:`NetClassifier` and says how its net is asked (``_outputs``); predictions, checks and
errors are here. Everything in this module is NumPy: outputs have left their framework when they come here.
"""

import math
from abc import ABC, abstractmethod
from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import to_numpy
from skart._core._objectives import log_softmax
from skart.oracles._oracle import find_labels
from skart.utils._sklearn_compat import Interval, StrOptions
from skart.utils._validation import check_samples

__all__ = ["NetClassifier", "check_outputs", "distinct_classes", "encode", "net_samples", "to_logits", "to_proba"]

FLOAT_DTYPES = (np.float64, np.float32)


class NetClassifier(ClassifierMixin, BaseEstimator, ABC):
    """Base of adapters around a net that may be trained already.

    A subclass has the parameters ``classes``, ``output``, ``input_shape`` and ``batch_size``, implements
    :meth:`_outputs`, and says in ``__sklearn_is_fitted__`` when its net can be asked.
    """

    _parameter_constraints: dict = {
        "classes": ["array-like"],
        "output": [StrOptions({"logits", "log_proba", "proba"})],
        "input_shape": ["array-like", None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    @abstractmethod
    def _outputs(self, X):
        """What the net gives for checked floating-point samples in the shape that it takes.

        NumPy arrays or torch tensors come in; a NumPy array in float32 or float64, of shape (n_samples, n_outputs) or
        (n_samples,), goes out. The net is asked in batches, in eval mode, and left as it was found.
        """

    def _kind(self):
        """What the net's outputs are: "logits", "log_proba" or "proba"."""
        return self.output

    @property
    def classes_(self):
        """Labels, in the order of the net's outputs."""
        return distinct_classes(self.classes)

    def predict(self, X):
        """Labels of samples: those of the largest outputs.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        outputs, classes = self._checked_outputs(X)
        if outputs.ndim == 1:
            return classes[(outputs > (0.5 if self._kind() == "proba" else 0)).astype(np.intp)]
        return classes[outputs.argmax(axis=1)]

    def predict_proba(self, X):
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        return to_proba(self._checked_outputs(X)[0], self._kind())

    def decision_function(self, X):
        """Logits of the classes; logarithms of the probabilities, where the net gives those.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes, how much more the second one's logit is than the first one's.
        """
        logits = to_logits(self._checked_outputs(X)[0], self._kind())
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def _checked_outputs(self, X):
        """Outputs for the caller's samples, (n_samples, n_classes) or (n_samples,), and the labels that they mean."""
        self._validate_params()
        check_is_fitted(self)
        classes, owner = self.classes_, type(self).__name__
        outputs = self._outputs(net_samples(self, X))
        return check_outputs(outputs, self._kind(), classes, owner=owner), classes


def distinct_classes(classes):
    """Labels as an array, checked to be two different ones or more."""
    labels = np.asarray(to_numpy(classes))
    if labels.ndim != 1 or len(labels) < 2 or len(np.unique(labels)) != len(labels):
        raise ValueError(
            "classes must be two or more different labels, in the order of the net's outputs (for a single output: the "
            f"negative one first); got {classes!r}."
        )
    return labels


def encode(y, classes):
    """Positions of the labels ``y`` in ``classes``."""
    check_classification_targets(y)
    position, known = find_labels(y, classes)
    if not known.all():
        raise ValueError(f"y holds {y[~known].tolist()[0]!r}, which is not in the given classes {classes}.")
    return position.astype(np.int64)


def net_samples(estimator, X, *, reset=False):
    """Samples for the net of ``estimator``, checked, and in the net's own shape.

    Flat rows take the shape ``estimator.input_shape``, where it is given. Tensors stay tensors.
    """
    n_features = getattr(estimator, "n_features_in_", None)
    if not reset and (is_torch_array(X) or n_features is None):
        X = check_samples(X, owner=type(estimator).__name__, n_features=n_features)
    else:
        X = to_numpy(X) if is_torch_array(X) else X
        X = validate_data(estimator, X, dtype=FLOAT_DTYPES, allow_nd=True, reset=reset)
    return shape_samples(X, estimator.input_shape, owner=type(estimator).__name__)


def shape_samples(X, input_shape, *, owner):
    """``X`` (an array of any framework) with samples of shape ``input_shape``, which flat rows are read as."""
    if input_shape is None:
        return X
    shape = tuple(int(length) for length in input_shape)
    if tuple(X.shape[1:]) == shape:
        return X
    if len(X.shape) != 2 or X.shape[1] != math.prod(shape):
        raise ValueError(
            f"{owner} with input_shape={shape} takes samples of that shape, or rows of {math.prod(shape)} features; "
            f"got X of shape {tuple(X.shape)}."
        )
    return X.reshape((X.shape[0], *shape))


def check_outputs(outputs, kind, classes, *, owner):
    """Outputs as (n_samples, n_classes), or (n_samples,) for a single one, if they are what ``kind`` says.

    Parameters
    ----------
    outputs : ndarray
        What a net gave.
    kind : {"logits", "log_proba", "proba"}
    classes : ndarray of shape (n_classes,)
    owner : str
        Who asks, for error messages.
    """
    check_n_outputs(outputs.shape, kind, classes, owner=owner)
    single = outputs.ndim == 1 or outputs.shape[1] == 1
    if single:
        outputs = outputs.reshape(-1)
    if not np.isfinite(outputs).all():
        # Minus infinity is the logarithm of 0, and a broken net is reported as one by the attacks.
        return outputs
    tolerance = max(1e-3, float(np.finfo(outputs.dtype).eps) ** 0.5)
    if single:
        if kind == "proba" and (outputs.min() < -tolerance or outputs.max() > 1 + tolerance):
            raise ValueError(
                f"{owner}: output='proba' says that the net gives the probability of the second class; it gives values "
                f"from {outputs.min():.3g} to {outputs.max():.3g}. Say output='logits' if these are logits."
            )
        return outputs
    # Logits that sum to one in every row are probabilities, taken for logits: the commonest mistake with nets.
    seem = {
        "proba": _are_probabilities(outputs, 1e-5 if kind == "logits" else tolerance),
        "log_proba": _are_probabilities(np.exp(np.minimum(outputs, 1)), tolerance),
    }
    if kind == "logits" and seem["proba"]:
        raise ValueError(
            f"{owner}: output='logits' says that the net gives logits; its outputs are probabilities (none is "
            "negative, and each row sums to one), as after a softmax. Say output='proba'."
        )
    if not seem.get(kind, True):
        other = next((name for name, is_one in seem.items() if is_one), "logits")
        what, row = ("probabilities", outputs[0])
        if kind == "log_proba":
            what, row = "logarithms of probabilities", np.exp(outputs[0])
        raise ValueError(
            f"{owner}: output={kind!r} says that the net gives {what}; its values are none (the first row of the "
            f"probabilities would sum to {row.sum():.3g}, the smallest would be {row.min():.3g}). They look like "
            f"{other}: say output={other!r}."
        )
    return outputs


def check_n_outputs(shape, kind, classes, *, owner):
    """Raise where outputs of this shape are not one for each class, or a single one for two classes."""
    n_classes = len(classes)
    if len(shape) == 2 and shape[1] == n_classes:
        return
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        if n_classes == 2 and kind != "log_proba":
            return
        if n_classes == 2:
            raise ValueError(
                f"{owner}: the net gives a single output; with output='log_proba' it must give one for each class."
            )
    came = f"{shape[1]} outputs" if len(shape) == 2 else f"outputs of shape {tuple(shape)}"
    raise ValueError(
        f"{owner}: the net gives {came} for {n_classes} classes, {classes}; there must be one for each class, in their "
        "order, or a single one for two classes. Give the labels of all outputs as `classes`."
    )


def _are_probabilities(rows, tolerance):
    return bool(rows.min() >= -tolerance and np.abs(rows.sum(axis=1) - 1).max() <= tolerance)


def to_logits(outputs, kind):
    """Checked outputs as logits, (n_samples, n_classes); those of a single one are the rows (0, d)."""
    if kind == "proba":
        proba = to_proba(outputs, kind)
        logits = np.log(np.maximum(proba, np.finfo(proba.dtype).tiny))
        return logits if outputs.ndim == 2 else logits - logits[:, :1]
    return outputs if outputs.ndim == 2 else np.stack([np.zeros_like(outputs), outputs], axis=1)


def to_proba(outputs, kind):
    """Checked outputs as probabilities, (n_samples, n_classes)."""
    if kind == "proba":
        return outputs if outputs.ndim == 2 else np.stack([1 - outputs, outputs], axis=1)
    return np.exp(log_softmax(to_logits(outputs, kind)))
