"""Rules for preprocessing steps."""

import numpy as np

from skart._core._arrays import one_hot
from skart.exceptions import GradientUnavailableError
from skart.gradients._linear import affine
from skart.gradients._registry import elementwise, rule, user_rules

__all__ = []


def identity(X):
    """Forward of what changes nothing."""
    return X, lambda cotangent: cotangent


def centred_and_scaled(centre, scale, backend):
    """The bound rule of ``(X - centre) / scale``; ``None`` leaves out the one or the other."""
    centre = None if centre is None else backend.asarray(centre)
    factor = None if scale is None else backend.asarray(1 / scale)

    def forward(X):
        if centre is not None:
            X = X - centre
        if factor is None:
            return X, lambda cotangent: cotangent
        return X * factor, lambda cotangent: cotangent * factor

    return elementwise(forward)


@rule("sklearn.preprocessing.StandardScaler")
def standard_scaler(scaler, backend):
    return centred_and_scaled(
        scaler.mean_ if scaler.with_mean else None, scaler.scale_ if scaler.with_std else None, backend
    )


@rule("sklearn.preprocessing.MinMaxScaler")
def min_max_scaler(scaler, backend):
    factor, shift = backend.asarray(scaler.scale_), backend.asarray(scaler.min_)
    low, high = scaler.feature_range
    # On the border the derivative is that of the inside: the blank pixels of images lie there.
    slack = 4 * backend.xp.finfo(backend.dtype).eps * max(abs(low), abs(high))

    def forward(X):
        output = X * factor
        output += shift
        if not scaler.clip:
            return output, lambda cotangent: cotangent * factor
        xp = backend.xp
        slope = xp.astype((output >= low - slack) & (output <= high + slack), output.dtype) * factor
        return xp.clip(output, low, high), lambda cotangent: cotangent * slope

    return elementwise(forward)


@rule("sklearn.preprocessing.Normalizer")
def normalizer(step, backend):
    norm, xp = step.norm, backend.xp
    # scikit-learn divides rows whose norm is below this by one.
    negligible = 10 * xp.finfo(backend.dtype).eps

    def forward(X):
        size = xp.abs(X)
        if norm == "l1":
            length, slope = xp.sum(size, axis=1, keepdims=True), xp.sign(X)
        elif norm == "l2":
            length, slope = xp.sqrt(xp.sum(X * X, axis=1, keepdims=True)), None
        else:
            length = xp.max(size, axis=1, keepdims=True)
            slope = xp.where(one_hot(xp.argmax(size, axis=1), X.shape[1]), xp.sign(X), 0.0)
        length = xp.where(length < negligible, 1.0, length)
        output = X / length

        def pullback(cotangent):
            along = xp.sum(cotangent * output, axis=1, keepdims=True)
            return (cotangent - along * (output if slope is None else slope)) / length

        return output, pullback

    return forward


@rule("sklearn.decomposition.PCA")
def principal_components(pca, backend):
    weights = pca.components_.T
    if pca.whiten:
        scale = np.sqrt(pca.explained_variance_)
        # As scikit-learn does, which keeps components without variance finite.
        weights = weights / np.maximum(scale, np.finfo(scale.dtype).eps)
    return affine(backend.asarray(weights), backend.asarray(-pca.mean_ @ weights))


@rule("sklearn.preprocessing.FunctionTransformer")
def function_transformer(step, backend):
    if step.func is None:
        return elementwise(identity)
    try:
        function_rule = user_rules().get(step.func) or _FUNCTIONS.get(step.func)
    except TypeError:  # not hashable
        function_rule = None
    if function_rule is None:
        name = getattr(step.func, "__name__", None) or repr(step.func)
        raise GradientUnavailableError(
            f"the derivative of {name}, which this FunctionTransformer applies, is not known. Register it: "
            f"`skart.register_rule({name}, rule)`, where `rule(step, backend)` returns `forward`, and `forward(X)` "
            "returns the output and the function that maps a cotangent of the output to one of X."
        )
    return function_rule(step, backend)


def _elementwise(name, derivative):
    def function_rule(step, backend):
        def forward(X):
            output = getattr(backend.xp, name)(X)
            return output, lambda cotangent: cotangent * derivative(X, output)

        return forward

    return function_rule


_FUNCTIONS = {
    np.exp: _elementwise("exp", lambda x, y: y),
    np.expm1: _elementwise("expm1", lambda x, y: y + 1),
    np.log: _elementwise("log", lambda x, y: 1 / x),
    np.log1p: _elementwise("log1p", lambda x, y: 1 / (1 + x)),
    np.sqrt: _elementwise("sqrt", lambda x, y: 0.5 / y),
    np.square: _elementwise("square", lambda x, y: 2 * x),
    np.tanh: _elementwise("tanh", lambda x, y: 1 - y * y),
}
