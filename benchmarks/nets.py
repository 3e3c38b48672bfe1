"""One forward-backward pass through skart's rules over the framework's own, bare one, on nets of every framework.

The net is the CNN for MNIST in shape, with weights as they are drawn. A row is skipped where its framework, or Keras on
its backend (``KERAS_BACKEND``), is not at hand: a process has one backend.
"""

import importlib.util
import os

import numpy as np

from benchmarks._harness import Passes, Row

__all__ = ["rows"]

SHAPE, N_CLASSES = (28, 28, 1), 10


class Net:
    """A net of one framework, the same samples each time, and its bare passes.

    A subclass gives ``estimator``, ``value_pass`` and ``gradient_pass``; arrays of the bare passes are the framework's
    own, made beforehand.
    """

    def __init__(self, n_samples, counts=None):
        rng = np.random.default_rng(0)
        self.X = rng.random(size=(n_samples, *SHAPE)).astype(np.float32)
        self.cotangent = rng.normal(size=(n_samples, N_CLASSES)).astype(np.float32)
        self.prepare()
        self.y = self.predict(self.X)

    def predict(self, X):
        return self.estimator.predict(np.asarray(X, dtype=np.float32))


class KerasOnTorch(Net):
    def prepare(self):
        import torch

        self.model, self.estimator = keras_cnn()
        self.x, self.c = torch.from_numpy(self.X), torch.from_numpy(self.cotangent)
        for parameter in self.model.parameters():  # the passes that attacks need leave them out of the graph
            parameter.requires_grad_(False)

    def value_pass(self):
        import torch

        with torch.no_grad():
            return self.model(self.x, training=False)

    def gradient_pass(self):
        import torch

        x = self.x.detach().requires_grad_(True)
        return torch.autograd.grad(self.model(x, training=False), x, self.c)[0]


class KerasOnJax(Net):
    def prepare(self):
        import jax

        model, self.estimator = keras_cnn()
        weights = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
        x, c = jax.numpy.asarray(self.X), jax.numpy.asarray(self.cotangent)

        def outputs(weights, x):
            return model.stateless_call(*weights, x, training=False)[0]

        def pass_(weights, x, c):
            values, pull = jax.vjp(lambda x: outputs(weights, x), x)
            return values, pull(c)[0]

        value, gradient = jax.jit(outputs), jax.jit(pass_)
        self.value_pass = lambda: value(weights, x).block_until_ready()
        self.gradient_pass = lambda: jax.block_until_ready(gradient(weights, x, c))


class TensorFlow(Net):
    def prepare(self):
        import tensorflow as tf

        self.model, self.estimator = self.make()
        x, c = tf.constant(self.X), tf.constant(self.cotangent)
        signature = [tf.TensorSpec([None, *SHAPE]), tf.TensorSpec([None, N_CLASSES])]

        @tf.function(input_signature=signature[:1])
        def value(x):
            return self.model(x, training=False)

        @tf.function(input_signature=signature)
        def gradient(x, c):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                values = self.model(x, training=False)
            return values, tape.gradient(values, x, output_gradients=c)

        self.value_pass = lambda: value(x).numpy()
        self.gradient_pass = lambda: gradient(x, c)[1].numpy()

    def make(self):
        return keras_cnn()


class TensorFlowFunction(TensorFlow):
    def make(self):
        import tensorflow as tf

        from skart.estimators import TensorFlowClassifier

        draw = np.random.default_rng(0).normal
        shapes = [(5, 5, 1, 16), (5, 5, 16, 32), (1568, 100), (100, 10)]
        kernels = [tf.Variable(0.05 * draw(size=shape).astype(np.float32)) for shape in shapes]

        def model(x, training=False):
            for kernel in kernels[:2]:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
            return tf.nn.relu(tf.reshape(x, [-1, 1568]) @ kernels[2]) @ kernels[3]

        return model, TensorFlowClassifier(model, range(N_CLASSES))


def keras_cnn():
    import keras
    from keras import layers

    from skart.estimators import KerasModelClassifier

    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 5, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 5, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(100, activation="relu"),
            layers.Dense(N_CLASSES),
        ]
    )
    return model, KerasModelClassifier(model, range(N_CLASSES))


def one_pass(task):
    """An oracle's forward and backward pass, in an oracle that is open, as it is throughout an attack."""
    from skart.oracles import Oracle

    oracle = Oracle(task.estimator, task.X)
    oracle.__enter__()  # for the life of the process, which ends with the benchmark
    x, cotangent = oracle.asarray(task.X), oracle.asarray(task.cotangent)

    def run():
        _, pull = oracle.vjp(x)
        return np.asarray(getattr(pull, "last", pull)(cotangent))  # stands for samples: what is judged means nothing

    return run


def rows():
    backend = os.environ.get("KERAS_BACKEND", "")
    tasks = {
        "net-keras-torch": (KerasOnTorch, 1.10, ("keras", "torch"), "torch"),
        "net-keras-jax": (KerasOnJax, 1.20, ("keras", "jax"), "jax"),
        "net-keras-tensorflow": (TensorFlow, 1.20, ("keras", "tensorflow"), "tensorflow"),
        "net-tensorflow": (TensorFlowFunction, 1.20, ("tensorflow",), backend),
    }
    for name, (task, bound, packages, wanted) in tasks.items():
        if wanted == backend and all(importlib.util.find_spec(package) for package in packages):
            yield Row(name, task, Passes(gradients=1, values=0), {"skart": one_pass}, bound=bound)
