"""Forward and backward passes in JAX, compiled once for a few sizes of batches."""

import numpy as np

from skart.gradients._programs import padded_size

__all__ = ["JaxProgram"]


class JaxProgram:
    """Passes of a function of weights and samples.

    Batches are padded with samples of zeros to a few sizes, since JAX compiles for each shape anew. What goes in and
    comes out are NumPy arrays.

    Parameters
    ----------
    function : callable
        ``function(weights, X)``, differentiable by JAX; the outputs of a sample depend on that sample alone.
    weights : callable
        ``weights()`` gives the weights as they are now, a pytree of JAX arrays.

    Attributes
    ----------
    n_traces : int
        Times that the function was traced, which is what compiling begins with.
    """

    def __init__(self, function, weights):
        import jax

        self.n_traces = 0
        self._weights = weights
        self._sizes = set()  # of batches, to which others are padded

        def traced(weights, X):
            self.n_traces += 1
            return function(weights, X)

        # A pullback of JAX is a pytree: it leaves one compiled function with what it has kept, and enters another.
        self._values = jax.jit(traced)
        self._forward = jax.jit(lambda weights, X: jax.vjp(lambda X: traced(weights, X), X))
        self._backward = jax.jit(lambda pullback, cotangent: pullback(cotangent)[0])

    def values(self, X):
        """The function at ``X``."""
        return np.array(self._values(self._weights(), self._padded(X))[: len(X)])

    def vjp(self, X):
        """The function at ``X``, and its pullback."""
        n_samples, padded = len(X), self._padded(X)
        values, kept = self._forward(self._weights(), padded)

        def pullback(cotangent):
            # JAX may share the memory of what it is given: a copy, which the caller cannot change.
            given = np.zeros(values.shape, dtype=values.dtype)
            given[:n_samples] = cotangent
            return np.array(self._backward(kept, given))[:n_samples]

        return np.array(values)[:n_samples], pullback

    def _padded(self, X):
        padded = np.zeros((padded_size(len(X), self._sizes), *X.shape[1:]), dtype=X.dtype)
        padded[: len(X)] = X
        return padded
