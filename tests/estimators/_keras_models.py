"""Small Keras models for tests, on whatever backend this process has."""

import keras

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)  # for models in float64

BACKEND = keras.backend.backend()
layers = keras.layers


def mlp(input_shape, n_classes, ending="softmax", width=16, n_outputs=None):
    """A function for the adapter: one hidden layer."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(width, activation="softplus"),  # no kinks for central differences
            layers.Dense(n_classes if n_outputs is None else n_outputs, activation=ending),
        ]
    )


def smooth(n_outputs, *endings, n_features=4, scale=1.0):
    """A smooth model in float64, of those layers that Keras does not compute in float32 on torch or JAX."""
    double = {"dtype": "float64"}
    model = keras.Sequential(
        [
            keras.Input((n_features,), **double),
            layers.Reshape((1, 1, n_features), **double),
            layers.Conv2D(8, 1, activation="softplus", kernel_initializer=seeded(1), **double),
            layers.Conv2D(n_outputs, 1, kernel_initializer=seeded(2, scale), **double),
            layers.Flatten(**double),
            *endings,
        ]
    )
    return model


def seeded(seed, scale=1.0):
    return keras.initializers.RandomNormal(stddev=scale, seed=seed)


def copy_of(perceptron, ending="softmax", dtype="float32"):
    """An MLPClassifier as a Keras model."""
    double = {"dtype": dtype}
    activation = {"logistic": "sigmoid", "identity": "linear"}.get(perceptron.activation, perceptron.activation)
    widths = [len(bias) for bias in perceptron.intercepts_]
    model = keras.Sequential(
        [
            keras.Input((perceptron.n_features_in_,), **double),
            *(layers.Dense(width, activation=activation, **double) for width in widths[:-1]),
            layers.Dense(widths[-1], activation=ending, **double),
        ]
    )
    model.set_weights([array for pair in zip(perceptron.coefs_, perceptron.intercepts_) for array in pair])
    return model


@keras.saving.register_keras_serializable("skart_tests")
class Subclassed(keras.Model):
    """A model whose ending nobody can see."""

    def __init__(self, n_outputs=3, ending=None, **more):
        super().__init__(**more)
        self.n_outputs, self.ending = n_outputs, ending
        self.dense = layers.Dense(n_outputs)

    def call(self, x):
        scores = self.dense(x)
        return getattr(keras.ops, self.ending)(scores) if self.ending else scores

    def get_config(self):
        return {"n_outputs": self.n_outputs, "ending": self.ending}


class Counting(layers.Layer):
    """Counts its passes, in training or not; fails when told to."""

    def build(self, input_shape):
        self.passes = self.add_weight(name="passes", shape=(), initializer="zeros", trainable=False)
        self.fail = False

    def call(self, x):
        if self.fail:
            raise ArithmeticError("no more")
        self.passes.assign(self.passes + 1)
        return x
