"""Rules for Keras 3 models on the torch, JAX and TensorFlow backends.

On the torch backend a model is a torch module, and computes in torch with whatever else does. JAX and TensorFlow
convert at the model's border: their passes are compiled programs that take and give NumPy arrays.

What a model's outputs mean is told by the activation that it ends in. A softmax or sigmoid is left out where logits are
wanted, so that gradients do not vanish where probabilities are close to 0 and 1: the last layer gets a linear one for
the time of the pass (on JAX and TensorFlow: of its tracing).
"""

import contextlib
import inspect
import math
from dataclasses import replace

import numpy as np

from skart._core._arrays import to_numpy
from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.gradients._jax import JaxProgram
from skart.gradients._programs import kept, restored
from skart.gradients._registry import Bound, chain, rule
from skart.gradients._tensorflow import TensorFlowProgram
from skart.gradients._torch import evaluating, module_dtype_and_device, torch_forward

__all__ = ["KerasNet", "keras_shape", "left_as_found", "output_kind"]


@rule("scikeras.wrappers.KerasClassifier")
def scikeras_classifier(estimator, backend):
    model = estimator.model_
    n_classes = np.size(estimator.classes_)
    # The target may also be one-hot or multilabel; then `predict` gives no labels.
    if estimator.target_type_ not in ("binary", "multiclass"):
        raise GradientUnavailableError(
            f"this KerasClassifier was fitted on a target of type {estimator.target_type_!r}; skart attacks one label "
            "a sample. Fit it on labels of shape (n_samples,)."
        )
    if output_kind(model) in ("logits", "log_proba"):
        raise ValueError(
            f"the model of this KerasClassifier gives {output_kind(model)}, which scikeras takes for probabilities, in "
            "`predict_proba` and for a single output in `predict`, too. End the model with a softmax (a sigmoid for a "
            "single output), or use skart.estimators.KerasModelClassifier around it, which knows the difference."
        )
    bound = KerasNet(estimator, model, "proba", n_classes).bound(backend)
    encoder = estimator.feature_encoder_
    if getattr(encoder, "func", encoder) is not None:
        bound = chain([backend.bind(encoder, where="the feature encoder"), bound])
    # scikeras refuses samples in a wider dtype than that of its training data.
    return replace(bound, own_input=lambda X: to_numpy(X).astype(estimator.X_dtype_, copy=False))


@rule("keras.wrappers.SKLearnClassifier")
def keras_sklearn_classifier(estimator, backend):
    model = estimator.model_
    # Its scores are the model's outputs, whatever they are: `predict` takes the largest. Without a last activation to
    # tell what they are, they are as they are.
    kind = output_kind(model) or "logits"
    net = KerasNet(estimator, model, kind, len(estimator.classes_))
    return replace(net.bound(backend, compare=True), follows_predict=True)


class KerasNet:
    """A Keras model as an estimator holds it, and what its outputs mean.

    Parameters
    ----------
    owner : estimator
        Who holds the model: compiled programs live as long as it does.
    model : keras.Model
    kind : {"logits", "log_proba", "proba"}
        What the model gives.
    n_classes : int
    shape : tuple of int, default=None
        Shape of a sample; ``None`` takes the model's own.
    """

    def __init__(self, owner, model, kind, n_classes, shape=None):
        check_built(model, owner=type(owner).__name__)
        self.owner, self.model, self.kind, self.n_classes = owner, model, kind, n_classes
        self.shape = keras_shape(model) if shape is None else shape
        self.dtype = model_dtype(model)

    def bound(self, backend, *, compare=False):
        """The bound rule. With ``compare``, its first answer is compared with the model's own outputs."""
        _check_differentiable(self.model)
        if _backend_name() == "torch":
            dtype, device = module_dtype_and_device(self.model, owner=type(self.owner).__name__)
            backend.require_torch(device)
            forward = torch_forward(_Inference(self), lambda logits: logits, dtype, shape=self._shaped)
            contexts = (lambda: left_as_found(self.model), lambda: evaluating(self.model))
        else:
            contexts = (lambda: left_as_found(self.model),)

            def forward(X):
                x = self.samples(X)
                logits, pull = self.program("logits", x).vjp(x)

                def pullback(cotangent):
                    grad = pull(to_numpy(cotangent))
                    return backend.xp.reshape(backend.asarray(grad), X.shape)

                return backend.asarray(logits), pullback

        return Bound(
            self._compared(forward) if compare else forward,
            contexts=contexts,
            in_process=True,
        )

    def outputs(self, X):
        """What the model gives for a batch of samples, as a NumPy array in float32 or float64."""
        if _backend_name() != "torch":
            X = self.samples(X)
            return self.program("outputs", X).values(X)
        import torch

        dtype, device = module_dtype_and_device(self.model, owner=type(self.owner).__name__)
        if isinstance(X, torch.Tensor):
            X = X.to(device=device, dtype=dtype, copy=True)
        else:
            X = torch.tensor(X, dtype=dtype, device=device)
        with torch.no_grad():
            values = to_numpy(self._call(self._shaped(X)))
        return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)

    def program(self, name, X):
        """The compiled passes of the model's logits, or of its outputs, for samples like ``X``."""
        shape = X.shape[1:] if self.shape is None else self.shape

        def make():
            if getattr(self.model, "inputs", None) is None:
                # Layers of a model of the user's own may get their weights in the first call; not while it is traced.
                import keras

                self._call(keras.ops.zeros((1, *shape), dtype=self.dtype.name))
            function = self.logits if name == "logits" else self._call
            if _backend_name() == "tensorflow":
                return TensorFlowProgram(function, shape, self.dtype, type(self.model).__name__)
            return JaxProgram(lambda weights, X: function(X, weights), self._jax_weights)

        key = (name, self.kind, self.n_classes, shape)
        return kept(self.owner, self.model, key, make, structure=_structure(self.model))

    def logits(self, X, weights=None):
        """Logits, (n_samples, n_classes), of what Keras' backend computes with."""
        if self.kind == "proba":
            with _without_activation(*last_activation(self.model)) as function:
                outputs = self._call(X, weights)
            # A softmax of one output, or a sigmoid of several, gives no probabilities of classes.
            single = len(outputs.shape) == 1 or outputs.shape[1] == 1
            if function == ("sigmoid" if single else "softmax"):
                return self._rows(outputs)
            if function is not None:
                outputs = self._call(X, weights)
        else:
            outputs = self._call(X, weights)
        return self._rows(outputs, log=self.kind == "proba")

    def _call(self, X, weights=None):
        import keras

        # A pass without state hands every argument on, which a model of the user's own may not take.
        training = {"training": False} if self._takes_training() else {}
        if weights is None:
            outputs = self.model(X, **training)
        else:
            outputs, _ = self.model.stateless_call(*weights, X, **training)
        if not keras.ops.is_tensor(outputs):
            raise TypeError(
                f"the Keras model {self.model.name!r} gives a {type(outputs).__name__}; it must give one tensor, of an "
                "output for each class. Make a keras.Model of its inputs and the output that counts."
            )
        return outputs if self.dtype == np.float64 else keras.ops.cast(outputs, "float32")

    def _takes_training(self):
        parameters = inspect.signature(self.model.call).parameters
        return "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def _rows(self, outputs, log=False):
        """Outputs, or their logarithms, one for each class; a single one are the rows (0, d)."""
        from keras import ops

        shape = tuple(outputs.shape)
        single = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if not (single and self.n_classes == 2) and (len(shape) != 2 or shape[1] != self.n_classes):
            raise ValueError(
                f"the Keras model {self.model.name!r} gives outputs of shape {('n_samples', *shape[1:])} for "
                f"{self.n_classes} classes; there must be one for each class, or a single one for two."
            )
        # Keras computes most things in float32 on torch and JAX, whatever the dtype.
        tiny = float(np.finfo(np.float32).tiny)
        if not single:
            return ops.log(ops.maximum(outputs, tiny)) if log else outputs
        d = ops.reshape(outputs, (-1,))
        if log:
            d = ops.log(ops.maximum(d, tiny)) - ops.log(ops.maximum(1 - d, tiny))
        return ops.stack([ops.zeros_like(d), d], axis=1)

    def _jax_weights(self):
        model = self.model
        return [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]

    def samples(self, X):
        """Samples as NumPy arrays in the model's own shape and dtype."""
        return self._shaped(to_numpy(X)).astype(self.dtype, copy=False)

    def _shaped(self, X):
        """Samples of the model's shape; flat rows are read as such."""
        given = tuple(X.shape[1:])
        if self.shape is None:
            return X
        if len(given) == len(self.shape) and all(own in (None, n) for own, n in zip(self.shape, given)):
            return X
        if len(given) == 1 and None not in self.shape and math.prod(self.shape) == given[0]:
            return X.reshape((X.shape[0], *self.shape))
        raise ValueError(
            f"{type(self.owner).__name__}: the Keras model takes samples of shape {self.shape}"
            + (f", or rows of {math.prod(self.shape)} features" if None not in self.shape else "")
            + f"; got X of shape {tuple(X.shape)}."
        )

    def _compared(self, forward):
        """``forward``, whose first answer must be what the model says."""
        seen = False

        def checked(X):
            nonlocal seen
            logits, pullback = forward(X)
            if not seen:
                seen = True
                self._compare(to_numpy(logits[:8]), self.outputs(X[:8]))
            return logits, pullback

        return checked

    def _compare(self, logits, outputs):
        own = outputs if self.kind == "logits" else np.log(outputs) if self.kind == "proba" else outputs
        with np.errstate(all="ignore"):
            ours, theirs = (np.exp(log_softmax(scores.astype(np.float64))) for scores in (logits, own))
        if not np.nanmax(np.abs(ours - theirs), initial=0.0) <= 1e-4:
            raise ValueError(
                f"the logits that were read off the Keras model {self.model.name!r} are not what its own outputs say. "
                "A layer that is used twice cannot end it; if yours does not, please report it."
            )


class _Inference:
    """A model's logits as a callable by which errors can name it."""

    def __init__(self, net):
        self.net = net

    def __call__(self, X):
        return self.net.logits(X)


def output_kind(model):
    """What a model gives by the activation that it ends in; None if it cannot be told."""
    _, function = last_activation(model)
    return {"softmax": "proba", "sigmoid": "proba", "log_softmax": "log_proba", "linear": "logits"}.get(function)


def last_activation(model):
    """The layer that a model ends in, and the name of its activation; ``(None, None)`` where that cannot be told."""
    import keras

    layer = model
    while isinstance(layer, keras.Sequential) or hasattr(layer, "operations"):
        parts = layer.layers if isinstance(layer, keras.Sequential) else layer.operations
        if not parts:
            return None, None
        layer = parts[-1]  # operations are in the order of the graph; what gives the one output comes last
    if isinstance(layer, keras.layers.Softmax):
        return (layer, "softmax") if layer.axis in (-1, 1) else (None, None)
    weighted = (keras.layers.Dense, keras.layers.EinsumDense)
    if isinstance(layer, (*weighted, keras.layers.Activation)):
        for name in ("softmax", "sigmoid", "log_softmax", "linear"):
            if layer.activation is getattr(keras.activations, name):
                return layer, name
        if layer.activation is None:
            return layer, "linear"
    return None, None


@contextlib.contextmanager
def _without_activation(layer, function):
    """Leave out the softmax or sigmoid of a layer; yields its name, or None where there is none to leave out."""
    import keras

    if function not in ("softmax", "sigmoid"):
        yield None
    elif isinstance(layer, keras.layers.Softmax):
        layer.call = lambda inputs, mask=None: inputs
        try:
            yield function
        finally:
            del layer.call
    else:
        activation, layer.activation = layer.activation, keras.activations.linear
        try:
            yield function
        finally:
            layer.activation = activation


def left_as_found(model):
    """Context that puts back what a model changes of its state (counters, moving averages), and warns of it."""
    name = _backend_name()
    # On JAX a pass gives the state that it ends in, which is dropped.
    variables = [] if name == "jax" else model.non_trainable_variables
    read = (lambda variable: to_numpy(variable.value)) if name == "torch" else np.asarray
    return restored(variables, read, f"the Keras model {model.name!r}")


def keras_shape(model):
    """Shape of a sample that a model takes, with None for lengths that are free; None where the model does not say."""
    shape = getattr(model, "input_shape", None)
    if shape is None:
        return None
    if not isinstance(shape, tuple) or not shape or isinstance(shape[0], (tuple, list)):
        raise ValueError(
            f"the Keras model {model.name!r} has inputs of shape {shape}; skart attacks models of one input. Make a "
            "keras.Model of the one to attack, with the others fixed."
        )
    return tuple(shape[1:])


def model_dtype(model):
    """NumPy dtype of a model's border: float64 if it computes in that, else float32."""
    import keras

    own = [str(variable.dtype) for variable in model.variables if "float" in str(variable.dtype)]
    return np.dtype(np.float64 if "float64" in (own or [keras.config.floatx()]) else np.float32)


def _check_differentiable(model):
    """Raise where a model takes integers."""
    for tensor in getattr(model, "inputs", None) or ():
        if "float" not in str(tensor.dtype):
            raise GradientUnavailableError(
                f"the Keras model {model.name!r} takes samples of dtype {tensor.dtype} (as an embedding does), and has "
                "no gradient by them. Attack the part of the model behind the embedding, or attack by scores."
            )


def check_built(model, *, owner):
    """Raise where a model has no weights yet."""
    if not model.built:
        raise ValueError(
            f"{owner}: the Keras model {model.name!r} is not built: its weights do not exist before it knows the shape "
            "of its input. Begin it with keras.Input(shape), or call it on a batch once."
        )


def _backend_name():
    import keras

    name = keras.backend.backend()
    if name not in ("torch", "jax", "tensorflow"):
        raise GradientUnavailableError(
            f"Keras runs on its {name} backend, which has no gradients. Set KERAS_BACKEND to torch, jax or tensorflow "
            "before Keras is imported."
        )
    return name


def _structure(model):
    """What a model is built of, to tell when it was built anew."""
    parts, left = [], [model]
    while left:
        layer = left.pop()
        parts.append((id(layer), id(getattr(layer, "activation", None))))
        left.extend(getattr(layer, "layers", ()))
    return tuple(parts)
