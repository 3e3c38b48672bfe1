"""Forward and backward passes in TensorFlow 2, each a graph that takes batches of any size.

A tape that is recorded around a compiled function would pull back to every weight, too, at half the price again. So
both passes are traced in one graph, gradients by the samples alone, which is then cut in two where the backward part
reads what the forward part has computed.
"""

import numpy as np

from skart.exceptions import GradientUnavailableError

__all__ = ["TensorFlowProgram"]


class TensorFlowProgram:
    """Passes of a function of samples. What goes in and comes out are NumPy arrays.

    Parameters
    ----------
    function : callable
        Function of a tensor of samples, made of TensorFlow's operations. Variables that it reads may change; it must
        have made them before.
    shape : tuple
        Shape of a sample.
    dtype : dtype of the samples
    name : str
        What the function is called in errors.

    Attributes
    ----------
    n_traces : int
        Times that the function was traced.
    """

    def __init__(self, function, shape, dtype, name):
        import tensorflow as tf

        self.n_traces = 0
        self.name = name
        self._dtype = np.dtype(dtype)
        self._signature = [tf.TensorSpec([None, *shape], self._dtype)]

        def traced(X):
            self.n_traces += 1
            return function(X)

        self._function = traced
        self._compiled = self._cut = None

    def values(self, X):
        """The function at ``X``."""
        import tensorflow as tf

        if self._compiled is None:
            self._compiled = tf.function(self._function, input_signature=self._signature)
        return self._compiled(self._tensor(X)).numpy()

    def vjp(self, X):
        """The function at ``X``, and its pullback."""
        if self._cut is None:
            self._cut = self._trace()
        forward, backward, dtype = self._cut
        values, *between = forward(self._tensor(X))

        def pullback(cotangent):
            if backward is None:
                raise GradientUnavailableError(
                    f"{self.name}: the output does not depend on the input through differentiable operations (a "
                    "`stop_gradient`, a rounding, an `argmax`, or a detour over NumPy cuts the graph). Give that "
                    "operation a `tf.custom_gradient` with the backward pass to use, or attack by scores."
                )
            return backward(*between, self._tensor(cotangent, dtype)).numpy()

        return values.numpy(), pullback

    def _tensor(self, X, dtype=None):
        import tensorflow as tf

        # TensorFlow may share the memory of what it is given: a copy, which the caller cannot change.
        return tf.constant(np.array(X, dtype=self._dtype if dtype is None else dtype))

    def _trace(self):
        """The compiled forward and backward pass, and the dtype of the values; None where there is no gradient."""
        import tensorflow as tf

        # Compiled by itself, so that Python's control flow on tensors is understood.
        inner, ends = tf.function(self._function), {}

        def both(X):
            values = inner(X)
            graph = tf.compat.v1.get_default_graph()
            known = set(graph.get_operations())
            cotangent = tf.compat.v1.placeholder(values.dtype, values.shape)
            try:
                (grad,) = tf.gradients(values, X, cotangent)
            except LookupError as error:
                raise GradientUnavailableError(f"{self.name}: {error}") from None
            if grad is not None:
                grad = tf.convert_to_tensor(grad)
                ends.update(grad=grad, between=_read_between(grad, known))
            ends.update(X=X, values=values, cotangent=cotangent)
            return values

        whole = tf.compat.v1.wrap_function(both, self._signature)
        between = ends.get("between", [])
        forward = whole.prune([ends["X"]], [ends["values"], *between])
        # Compiled again, which optimises them; by themselves they would run as they were traced.
        forward = tf.function(forward, input_signature=self._signature)
        dtype = ends["values"].dtype.as_numpy_dtype
        if "grad" not in ends:
            return forward, None, dtype
        backward = whole.prune([*between, ends["cotangent"]], ends["grad"])
        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in (*between, ends["cotangent"])]
        return forward, tf.function(backward, input_signature=signature), dtype


def _read_between(grad, known):
    """Tensors of the operations in ``known`` that those behind ``grad`` read."""
    import tensorflow as tf

    between, seen, left = {}, set(), [grad.op]
    while left:
        operation = left.pop()
        if operation in seen:
            continue
        seen.add(operation)
        for tensor in operation.inputs:
            if tensor.op not in known:
                left.append(tensor.op)
            elif tensor.dtype != tf.resource:  # handles of variables are no values; both parts have them
                between[tensor.ref()] = tensor
    return list(between.values())
