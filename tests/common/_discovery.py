"""What is public in skart, found by walking its packages, and the one table of instances that contracts are held on."""

import importlib
import importlib.util
import inspect
import pkgutil
from functools import partial

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import skart
from skart.attacks import BaseAttack, FastGradientMethod
from skart.wrappers import RandomAffine


class NearInteger:
    """A black box of six classes, from -1 to 4: the nearer to the first feature, the more probable."""

    def __init__(self, output):
        self.output = output

    def __call__(self, X):
        first = np.nan_to_num(X[:, :1].toarray() if hasattr(X, "toarray") else np.asarray(X, dtype=float)[:, :1])
        scores = np.exp(-np.abs(np.clip(first, -1, 4) - np.arange(-1, 5)))
        return scores.argmax(axis=1) - 1 if self.output == "labels" else scores / scores.sum(axis=1, keepdims=True)

    def __repr__(self):
        return "NearInteger()"  # with no address in it: names of tests are the same in every process


class KerasNet:
    """Makes a Keras model of those layers that are not computed in float32 on any backend."""

    def __call__(self, input_shape, n_classes):
        import keras

        double = {"dtype": "float64"}
        model = keras.Sequential(
            [
                keras.Input(input_shape, **double),
                keras.layers.Reshape((1, 1, *input_shape), **double),
                keras.layers.Conv2D(8, 1, activation="softplus", **double),
                keras.layers.Conv2D(n_classes, 1, **double),
                keras.layers.Flatten(**double),
                keras.layers.Softmax(**double),
            ]
        )
        model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
        return model

    def __repr__(self):
        return "KerasNet()"


def skorch_classifier(cls):
    from tests.common._models import net_of_any_size

    return cls(net_of_any_size(), n_features_param="module__n_inputs", n_classes_param="module__n_outputs")


def torch_classifier(cls):
    import torch  # which environments of other libraries do without

    # Features of any number, and labels that most checks have; weights are drawn when it is fitted.
    layer = torch.nn.LazyLinear(6, dtype=torch.float64)
    return cls(layer, [-1, 0, 1, 2, 3, 4], optimizer=partial(torch.optim.Adam, lr=0.1))


# Instances for classes that need arguments, or whose defaults do not suit the checks; each class stands once. An entry
# takes the class and returns a list. What is not named here is made without arguments.
INSTANCES = {
    # Data of the checks lies far outside the default range, (0, 1): a range from the data, and a range that holds it.
    "FeatureSqueezing": lambda cls: [cls(clip_values="fit"), cls(clip_values=(-200, 200))],
    # Few steps, for speed; and without its random start, so that the checks on the order of samples are met once.
    "ProjectedGradientDescent": lambda cls: [cls(max_iter=4), cls(max_iter=4, random_start=False, clip_values="fit")],
    "BasicIterativeMethod": lambda cls: [cls(max_iter=4)],
    # Classes that hold the labels of most checks.
    "BlackBoxClassifier": lambda cls: [
        cls(NearInteger("probabilities"), [-1, 0, 1, 2, 3, 4]),
        cls(NearInteger("labels"), [-1, 0, 1, 2, 3, 4], output="labels", batch_size=7),
    ],
    "SkorchClassifier": lambda cls: [skorch_classifier(cls)],
    "TorchClassifier": lambda cls: [torch_classifier(cls)],
    "KerasModelClassifier": lambda cls: [
        cls(KerasNet(), max_epochs=5, batch_size=16) for _ in range(importlib.util.find_spec("keras") is not None)
    ],
    # As the kernel is: choosing its parameters is tested by itself, and takes long.
    "GPyClassifier": lambda cls: [cls(optimize=False) for _ in range(importlib.util.find_spec("GPy") is not None)],
    "TensorFlowClassifier": lambda cls: [],  # in an environment of its own, tests/estimators/test_tensorflow.py
    "RandomAffine": lambda cls: [cls(image_shape=(1, -1))],
    "ExpectationOverTransformations": lambda cls: [
        cls(LogisticRegression(), RandomAffine(2, translation=1, scaling=0.01, image_shape=(1, -1)), n_samples=5)
    ],
    "QueryEfficientGradientEstimation": lambda cls: [cls(LogisticRegression(), n_samples=20)],
    "RandomizedSmoothing": lambda cls: [cls(LogisticRegression(), n_samples=20)],
    "TensorFlowV1Classifier": lambda cls: [],  # there, too
    "MXNetClassifier": lambda cls: [],  # likewise, tests/estimators/test_mxnet.py
    "FastGradientMethod": lambda cls: [cls(), cls(minimal=True), cls(norm=2, clip_values="fit")],
    "CarliniL2Method": lambda cls: [
        cls(max_iter=4, binary_search_steps=2),
        cls(max_iter=4, binary_search_steps=2, optimizer="line_search", clip_values="fit"),
    ],
    "CarliniLInfMethod": lambda cls: [
        cls(max_iter=4, binary_search_steps=2, clip_values="fit"),
        cls(max_iter=4, eps=0.3),
    ],
    # One row of pixels, as many as the data of a check have features.
    "SpatialTransformation": lambda cls: [
        cls(image_shape=(1, -1), num_rotations=3, num_translations=3, per_sample=per_sample)
        for per_sample in (False, True)
    ],
    "AdversarialPatch": lambda cls: [cls(image_shape=(1, -1), max_iter=3)],
    "UniversalPerturbation": lambda cls: [
        cls(max_iter=2),
        cls(attacker=FastGradientMethod(eps=1.0), max_iter=2, clip_values="fit"),
    ],
    # One of a given tree, and one of the tree that it grows by itself.
    "DecisionTreeAttack": lambda cls: [
        cls(DecisionTreeClassifier(max_depth=4, random_state=0)),
        cls(method="path", offset=0.1, clip_values="fit"),
    ],
    "TreeEnsembleAttack": lambda cls: [
        cls(RandomForestClassifier(3, max_depth=3, random_state=0), max_iter=5),
        cls(norm=2, max_iter=5, clip_values="fit"),
    ],
    "HopSkipJump": lambda cls: [
        cls(max_iter=2, init_eval=10),
        cls(max_iter=2, init_eval=10, norm=np.inf, max_queries=60, clip_values="fit", trace=True),
    ],
    "BoundaryAttack": lambda cls: [cls(max_iter=3, sample_size=5)],
    "SquareAttack": lambda cls: [cls(max_iter=5), cls(norm=2, image_shape=(1, -1), clip_values="fit", max_iter=5)],
    "ZooAttack": lambda cls: [
        cls(max_iter=3, binary_search_steps=2, n_coordinates=2),
        cls(max_iter=3, binary_search_steps=2, optimizer="newton", clip_values="fit"),
    ],
    "ElasticNetAttack": lambda cls: [cls(max_iter=4, binary_search_steps=2)],
}


def public_modules():
    """Names of skart's public modules and packages."""
    names = ["skart"]
    for module in pkgutil.walk_packages(skart.__path__, "skart."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            names.append(module.name)
    return sorted(names)


def public_objects():
    """Public classes and functions by qualified name, each once."""
    found = {}
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def public_estimators():
    """Public estimator classes that can be instantiated."""
    return [
        thing
        for thing in public_objects().values()
        if inspect.isclass(thing) and issubclass(thing, BaseEstimator) and not inspect.isabstract(thing)
    ]


def public_attacks():
    """Public attack classes."""
    return [cls for cls in public_estimators() if issubclass(cls, BaseAttack)]


def learns(cls):
    """Whether ``fit`` learns what ``transform`` applies, so that it must come first."""
    return cls._learn is not BaseAttack._learn


def takes_any_model(cls):
    """Whether an attack takes any family that its access allows; one with a surrogate of its own takes that family."""
    return cls._surrogate is BaseAttack._surrogate


def instances(cls, table=INSTANCES):
    """Instances of an estimator class on which contracts are held."""
    if cls.__name__ in table:
        return table[cls.__name__](cls)
    try:
        return [cls()]
    except TypeError as error:
        raise AssertionError(
            f"{cls.__name__} cannot be made without arguments ({error}), and tests/common/_discovery.py has no entry "
            "for it: add one to INSTANCES."
        ) from None


def make_attack(cls, estimator=None, **params):
    """An attack of this class with those of the parameters that it has, and a fixed random state."""
    names = inspect.signature(cls).parameters
    params = {"random_state": 0, **params}
    return cls(estimator, **{name: value for name, value in params.items() if name in names})


def has(cls, *names):
    """Whether a class takes all of these parameters."""
    return set(names) <= set(inspect.signature(cls).parameters)


def distance(X, X_adv, norm):
    """Norm of each perturbation, computed in float64 by NumPy alone."""
    delta = np.asarray(X_adv, dtype=np.float64) - np.asarray(X, dtype=np.float64)
    return np.linalg.norm(delta.reshape(len(delta), -1), ord=norm, axis=1)
