"""The rule for scikit-learn's multi-layer perceptron."""

from skart._core._arrays import array_namespace
from skart.exceptions import GradientUnavailableError
from skart.gradients._linear import affine, two_columns
from skart.gradients._registry import Bound, chain, rule

__all__ = ["ACTIVATIONS"]


def identity(z):
    """Activation that changes nothing."""
    return z, lambda cotangent: cotangent


def logistic(z):
    """``1 / (1 + exp(-z))``, by way of tanh, which does not overflow."""
    h = z
    h *= 0.5
    array_namespace(z).tanh(h, out=h)
    h += 1
    h *= 0.5

    def pullback(cotangent):
        slope = h * h
        slope -= h
        slope *= cotangent
        return -slope

    return h, pullback


def tanh(z):
    """Hyperbolic tangent."""
    h = array_namespace(z).tanh(z, out=z)

    def pullback(cotangent):
        slope = h * h
        slope -= 1
        slope *= cotangent
        return -slope

    return h, pullback


def relu(z):
    """Positive part, with derivative 0 at 0."""
    xp = array_namespace(z)
    on = xp.astype(z > 0, z.dtype)
    z *= on
    return z, lambda cotangent: cotangent * on


# Each takes an array that is its own to change: the product that it follows.
ACTIVATIONS = {"identity": identity, "logistic": logistic, "relu": relu, "tanh": tanh}


@rule("sklearn.neural_network.MLPClassifier", gradient="almost everywhere")
def multi_layer_perceptron(model, backend):
    if model.out_activation_ == "logistic" and model.n_outputs_ > 1:
        raise GradientUnavailableError(
            f"this {type(model).__name__} was fitted on several labels a sample (multilabel y); skart attacks one "
            "label a sample. Fit one classifier for each label."
        )
    *hidden, last = [
        (backend.asarray(weights), backend.asarray(bias)) for weights, bias in zip(model.coefs_, model.intercepts_)
    ]
    layers = []
    for weights, bias in hidden:
        layers += [affine(weights, bias), ACTIVATIONS[model.activation]]
    layers.append(affine(*two_columns(*last)))
    return chain([Bound(layer) for layer in layers])
