"""What all tests and doctests need, before anything is imported."""

import importlib.util
import os

# Keras reads this when it is imported, and its own default is TensorFlow. Other backends have processes of their own.
os.environ.setdefault("KERAS_BACKEND", "torch")

# Modules whose examples need a package that this environment may do without.
_NEEDS = {
    "skart/estimators/_gpy.py": "GPy",
    "skart/estimators/_keras.py": "keras",
    "skart/estimators/_mxnet.py": "mxnet",
    "skart/estimators/_tensorflow.py": "tensorflow",
    "skart/estimators/_tensorflow_v1.py": "tensorflow",
}
collect_ignore = [path for path, package in _NEEDS.items() if importlib.util.find_spec(package) is None]
