"""Activations: what the inner layers of a fitted estimator give.

A family joins by a function that takes the estimator and returns its :class:`Layers`, registered by
:func:`activations` under the class's public import path.
"""

from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import numpy as np
from array_api_compat import is_torch_array
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted, check_scalar

from skart._core._arrays import to_numpy
from skart.gradients._keras import model_dtype
from skart.gradients._mlp import ACTIVATIONS
from skart.gradients._registry import is_class_at
from skart.gradients._torch import dtype_and_device, kept_as_found
from skart.utils._validation import check_samples

__all__ = ["Layers", "activations", "get_activations", "layer_names", "torch_layers"]


class Layers(NamedTuple):
    """The layers of one fitted estimator.

    Attributes
    ----------
    names : list of str
        Names of the hidden layers, from input to output.
    read : callable
        ``read(X, name, training)`` gives what a layer gives for one batch, as an array of shape (n_samples, ...).
        ``X`` is a batch of the caller's samples, in the caller's form. The model is left as it was found.
    outputs : list of str
        Names of what gives the output: no hidden layers, but ``read`` knows them.
    """

    names: list
    read: Callable
    outputs: list | tuple = ()


_families: dict[str, Callable] = {}  # by public import path


def activations(*paths):
    """Register the decorated function, from an estimator to its :class:`Layers`, for the classes at these paths."""

    def decorate(function):
        for path in paths:
            _families[path] = function
        return function

    return decorate


def layer_names(estimator):
    """Names of the hidden layers of a fitted estimator, from input to output.

    Parameters
    ----------
    estimator : estimator
        A net (:class:`~skart.estimators.TorchClassifier`, :class:`~skart.estimators.SkorchClassifier`, a bare skorch
        net, :class:`~skart.estimators.KerasModelClassifier` or another wrapper of a Keras model), a
        :class:`~sklearn.neural_network.MLPClassifier`, or a Pipeline. Of a search counts the best estimator,
        of a :class:`~sklearn.frozen.FrozenEstimator` what it holds.

    Returns
    -------
    names : list of str
        See the notes.

    Raises
    ------
    TypeError
        The estimator has no layers.

    See Also
    --------
    get_activations : What a layer gives.

    Notes
    -----
    Layers of a torch net have the names of its submodules (``"conv1"``, ``"features.3"``), in the order in which the
    module defines them, a container after what it contains. What gives the output (the last submodule with parameters
    and what follows it) is no hidden layer and is not listed, but :func:`get_activations` takes its name, too.

    Layers of a :class:`~sklearn.neural_network.MLPClassifier` are ``"hidden_1"``, ``"hidden_2"`` and so on, with the
    activation function applied.

    Each step of a Pipeline that transforms is a layer of its own, with the name of the step: ``"scaler"``. Layers
    within a step follow the step's name and a slash: ``"clf/conv1"``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn.pipeline import Pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skart.oracles import layer_names
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier((8, 4), max_iter=1000, random_state=0)
    >>> layer_names(Pipeline([("scaler", StandardScaler()), ("clf", clf)]).fit(X, y))
    ['scaler', 'clf/hidden_1', 'clf/hidden_2']
    """
    return list(layers_of(estimator).names)


def get_activations(estimator, X, layer, *, batch_size=256, training=False):
    """What a layer of a fitted estimator gives for samples.

    Parameters
    ----------
    estimator : estimator
        As for :func:`layer_names`.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples, as the estimator takes them.
    layer : str or int
        Name of a layer, or its place in :func:`layer_names`; -1 is the last hidden layer.
    batch_size : int, default=256
        Samples that are sent through the model together.
    training : bool, default=False
        Whether a net is in the state in which it is trained: dropout is on (its draws are those of the framework's
        global generator), and batch normalisation goes by the batch. Mode and buffers are put back. Changes nothing
        for other estimators.

    Returns
    -------
    activations : ndarray of shape (n_samples, ...)
        In the dtype in which the layer gives them. Where a net calls a layer more than once in a pass, of the last
        call; where a layer gives a tuple, its first entry.

    Raises
    ------
    TypeError
        The estimator has no layers.
    ValueError
        There is no such layer.

    See Also
    --------
    layer_names : Names of layers.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skart.oracles import get_activations
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier((8, 4), max_iter=1000, random_state=0).fit(X, y)
    >>> get_activations(clf, X, "hidden_1").shape
    (150, 8)
    >>> get_activations(clf, X, -1).shape
    (150, 4)
    """
    check_scalar(batch_size, "batch_size", Integral, min_val=1)
    layers = layers_of(estimator)
    name = _find(layer, layers, type(estimator).__name__)
    X = X if hasattr(X, "shape") else np.asarray(X)
    n_samples = X.shape[0]
    if n_samples == 0:
        raise ValueError("get_activations got 0 samples; at least one is needed.")
    values = None
    for start in range(0, n_samples, batch_size):
        size = min(batch_size, n_samples - start)
        batch = _dense(layers.read(_rows(X, start, start + size), name, training))
        if batch.ndim == 0 or len(batch) != size:
            raise ValueError(
                f"layer {name!r} gives an array of shape {batch.shape} for {size} samples: its first axis is not that "
                "of the samples, so that activations cannot be told apart by sample."
            )
        if values is None:  # room for all of them, so that they need not be copied at the end
            values = np.empty((n_samples, *batch.shape[1:]), dtype=batch.dtype)
        values[start : start + size] = batch
    return values


def layers_of(estimator):
    """The :class:`Layers` of a fitted estimator, or an error that says which estimators have some."""
    layers = _layers(estimator)
    if layers is None:
        raise TypeError(
            f"{type(estimator).__name__} has no layers. What has some: torch and skorch nets (TorchClassifier, "
            "SkorchClassifier), MLPClassifier, and Pipelines, whose steps are layers."
        )
    return layers


def _layers(estimator):
    """The same, or None."""
    if isinstance(estimator, FrozenEstimator):
        return _layers(estimator.estimator)
    if hasattr(estimator, "best_estimator_"):
        return _layers(estimator.best_estimator_)
    for ancestor in type(estimator).__mro__:
        for path, family in _families.items():
            if is_class_at(path, ancestor):
                check_is_fitted(estimator)
                return family(estimator)
    return None


def _find(layer, layers, owner):
    """Name of the layer that is meant."""
    known = [*layers.names, *layers.outputs]
    if isinstance(layer, str) and layer in known:
        return layer
    if isinstance(layer, Integral) and not isinstance(layer, bool) and -len(layers.names) <= layer < len(layers.names):
        return layers.names[layer]
    shown = ", ".join(repr(name) for name in layers.names[:50]) + (", ..." if len(layers.names) > 50 else "")
    raise ValueError(
        f"{owner} has no layer {layer!r}. It has {len(layers.names)} hidden layers"
        + (f", from 0 to {len(layers.names) - 1}: {shown}." if layers.names else ".")
        + (f" Its output is given by {', '.join(map(repr, layers.outputs))}." if layers.outputs else "")
    )


def _rows(X, start, stop):
    if hasattr(X, "tocsr"):  # not every sparse format knows rows
        return X.tocsr()[start:stop]
    # A data frame's own brackets read numbers as labels where its index has floating-point ones.
    return X.iloc[start:stop] if hasattr(X, "iloc") else X[start:stop]


def _dense(values):
    if hasattr(values, "toarray"):
        return values.toarray()
    return values.to_numpy() if hasattr(values, "to_numpy") else to_numpy(values)


@activations("sklearn.pipeline.Pipeline")
def pipeline(model):
    # Steps that change the number of samples are passed over in prediction.
    steps = [
        (name, step)
        for name, step in model.steps
        if step is not None and not isinstance(step, str) and not hasattr(step, "fit_resample")
    ]
    places, outputs = {}, []  # of each layer: step, and the layer within it
    for place, (name, step) in enumerate(steps):
        inner = _layers(step)
        if inner is not None:
            places.update({f"{name}/{layer}": (place, inner, layer) for layer in (*inner.names, *inner.outputs)})
            outputs += [f"{name}/{layer}" for layer in inner.outputs]
        if step is not model.steps[-1][1] or not hasattr(step, "predict"):
            places[name] = (place, None, None)

    def read(X, name, training):
        place, inner, layer = places[name]
        for _, step in steps[:place]:
            X = step.transform(X)
        return steps[place][1].transform(X) if inner is None else inner.read(X, layer, training)

    return Layers([name for name in places if name not in outputs], read, outputs)


@activations("sklearn.neural_network.MLPClassifier")
def multi_layer_perceptron(model):
    names = [f"hidden_{k + 1}" for k in range(model.n_layers_ - 2)]

    def read(X, name, training):
        hidden = to_numpy(check_samples(X, owner=type(model).__name__, n_features=model.n_features_in_))
        for weights, bias in zip(model.coefs_[: names.index(name) + 1], model.intercepts_):
            hidden = ACTIVATIONS[model.activation](hidden @ weights + bias)[0]
        return hidden

    return Layers(names, read)


@activations("skart.estimators.SkorchClassifier")
def skorch_classifier(model):
    return layers_of(model.net_ if hasattr(model, "net_") else model.net)


@activations("skorch.NeuralNet")
def skorch_net(net):
    dtype, device = dtype_and_device(net)
    return torch_layers(net.module_, lambda X: check_samples(X, owner=type(net).__name__), dtype, device)


@activations(
    "skart.estimators.KerasModelClassifier",
    "scikeras.wrappers.KerasClassifier",
    "keras.wrappers.SKLearnClassifier",
)
def keras_net(model):
    return keras_layers(getattr(model, "model_", model.model), owner=type(model).__name__)


def keras_layers(model, *, owner):
    """Layers of a Keras model that is a graph of layers (functional or sequential)."""
    import keras

    if not getattr(model, "inputs", None):
        raise ValueError(
            f"the layers of the Keras model {model.name!r} in this {owner} cannot be told: it is no graph of layers. "
            "Give a functional or sequential model that is built."
        )
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    weighted = [k for k, layer in enumerate(layers) if layer.weights]
    last = weighted[-1] if weighted else len(layers) - 1  # what follows it only reshapes its output
    names = [layer.name for layer in layers]

    def read(X, name, training):
        shape = tuple(model.inputs[0].shape[1:])
        x = to_numpy(check_samples(X, owner=owner)).astype(model_dtype(model))
        x = x.reshape((len(x), *shape)) if None not in shape else x
        part = keras.Model(model.inputs[0] if len(model.inputs) == 1 else model.inputs, model.get_layer(name).output)
        # Moving averages, and what dropout draws from.
        state = model.non_trainable_variables
        kept = [(variable, np.array(keras.ops.convert_to_numpy(variable))) for variable in state]
        try:
            return keras.ops.convert_to_numpy(part(x, training=training))
        finally:
            for variable, value in kept:
                variable.assign(value)

    return Layers(names[:last], read, names[last:])


def torch_layers(module, prepare, dtype, device):
    """Layers of a torch module that computes in ``dtype`` on ``device``.

    ``prepare`` turns the caller's samples into an array, or a tensor, of the shape that the module takes.
    """
    module = getattr(module, "_orig_mod", module)  # a compiled module does not run its parts one by one
    parts = dict(_submodules(module, "", {module}))
    hidden = _hidden(parts)

    def read(X, name, training):
        import torch

        X = prepare(X)
        # Always a copy: some modules work in place.
        x = X.to(device, dtype, copy=True) if is_torch_array(X) else torch.tensor(X, device=device, dtype=dtype)
        given = []

        def keep(part, args, output):
            # A copy again, since what follows may work in place, too.
            output = output[0] if isinstance(output, tuple) else output
            given[:] = [output.detach().clone() if isinstance(output, torch.Tensor) else output]

        handle = parts[name].register_forward_hook(keep)
        try:
            with kept_as_found(module, training=training), torch.no_grad():
                module(x)
        finally:
            handle.remove()
        if not given or not isinstance(given[0], torch.Tensor):
            what = f"gives a {type(given[0]).__name__}" if given else "is not called as a module in a forward pass"
            raise ValueError(f"layer {name!r} of {type(module).__name__} {what}: it has no activations to read.")
        return given[0].float() if given[0].dtype is torch.bfloat16 else given[0]  # NumPy has no such numbers

    return Layers(hidden, read, [name for name in parts if name not in hidden])


def _submodules(module, prefix, seen):
    """Names and submodules of a module, as it defines them, each after its own parts and only once."""
    for name, part in module.named_children():
        if part not in seen:
            seen.add(part)
            yield from _submodules(part, f"{prefix}{name}.", seen)
            yield prefix + name, part


def _hidden(parts):
    """Names of parts but for those that seem to give the output: the last one with parameters, and what follows it."""
    leaves = [name for name, part in parts.items() if not any(True for _ in part.children())]
    weighted = [name for name in leaves if any(True for _ in parts[name].parameters())]
    if not weighted:
        return list(parts)
    last = leaves[leaves.index(weighted[-1]) :]
    return [name for name in parts if name not in last and not any(leaf.startswith(f"{name}.") for leaf in last)]
