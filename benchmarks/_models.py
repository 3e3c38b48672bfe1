"""The tasks: models with the samples that are attacked, and the bare passes of which attacks are made."""

import os
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skart import register_rule

__all__ = ["DigitsPipeline", "MnistNet", "mnist_images"]


class MnistNet:
    """The CNN for MNIST, with the first test images that it classifies correctly, scaled to [0, 1].

    Attributes
    ----------
    module : torch module in eval mode that gives logits
    estimator : skorch net around it
    X, y : arrays in float32, shape (n_samples, 1, 28, 28), and int64
    """

    n_classes = 10

    def __init__(self, n_samples, counts=None):
        import torch
        from skorch import NeuralNetClassifier

        self.module = _cnn().eval()
        images, labels = mnist_images()
        images, labels = images[: 2 * n_samples + 100], labels[: 2 * n_samples + 100]
        correct = np.flatnonzero(self.predict(images) == labels)[:n_samples]
        if len(correct) < n_samples:
            raise ValueError(f"the net of SKART_MNIST_CNN is right on {len(correct)} of {len(labels)} images only.")
        self.X, self.y = images[correct], labels[correct]
        self._x = torch.from_numpy(self.X)
        self._cotangent = torch.randn(n_samples, self.n_classes, generator=torch.Generator().manual_seed(0))
        # The passes that attacks need leave the parameters out of the graph.
        self._bare = _cnn().eval().requires_grad_(False)
        if counts is not None:
            self.module = _counting(self.module, counts)
        self.estimator = NeuralNetClassifier(self.module, criterion=torch.nn.CrossEntropyLoss).initialize()

    def value_pass(self):
        import torch

        with torch.no_grad():
            return self._bare(self._x)

    def gradient_pass(self):
        import torch

        x = self._x.detach().requires_grad_(True)
        return torch.autograd.grad(self._bare(x), x, self._cotangent)[0]

    def predict(self, X):
        import torch

        with torch.no_grad():
            return self.module(torch.from_numpy(np.asarray(X, dtype=np.float32))).argmax(dim=1).numpy()


class DigitsPipeline:
    """Scaler, principal components and an rbf SVC on digits, with test images that it classifies correctly.

    Its bare forward-backward pass are the matrix products of the model alone: those of the samples with the
    components, of these with the support vectors and of the kernel with the weights, and the same ones backward. The
    exponential of the kernel, the scaling and the votes are not among them. The bare forward pass judges samples, so
    it is the model's own ``predict``, for which libsvm uses no matrix products.
    """

    def __init__(self, n_samples, counts=None):
        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.5, random_state=0, stratify=y)
        model = Pipeline([("scale", StandardScaler()), ("pca", PCA()), ("svc", SVC())]).fit(X_train, y_train)
        correct = np.flatnonzero(model.predict(X_test) == y_test)[:n_samples]
        self.X, self.y = X_test[correct], y_test[correct]
        self._model = self.estimator = model
        if counts is not None:
            self.estimator = Pipeline([("count", Counter(counts)), *model.steps])
        rng = np.random.default_rng(0)
        n_classes = len(model.classes_)
        self._components = model["pca"].components_
        self._vectors = np.ascontiguousarray(model["svc"].support_vectors_)
        self._weights = rng.normal(size=(len(self._vectors), n_classes * (n_classes - 1) // 2))
        self._cotangent = rng.normal(size=(len(self.X), self._weights.shape[1]))

    def value_pass(self):
        return self._model.predict(self.X)

    def gradient_pass(self):
        ((self.X @ self._components.T) @ self._vectors.T) @ self._weights
        return ((self._cotangent @ self._weights.T) @ self._vectors) @ self._components

    def predict(self, X):
        return self._model.predict(X)


class Counter(TransformerMixin, BaseEstimator):
    """A step that changes nothing and counts the passes through it."""

    def __init__(self, counts):
        self.counts = counts

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        self.counts.forward(len(X))
        return X


@register_rule(Counter)
def counter(step, backend):
    def forward(X):
        step.counts.forward(len(X))

        def pullback(cotangent):
            step.counts.backward(len(X))
            return cotangent

        return X, pullback

    return forward


def _counting(module, counts):
    """``module`` in a module that counts its passes."""
    import torch

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            counts.forward(len(x))
            output = self.module(x)
            if output.requires_grad:
                output.register_hook(lambda cotangent: counts.backward(len(x)))
            return output

    return Counting().eval()


def _cnn():
    from torch import from_numpy, nn

    module = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    content = "the state dict of the CNN (0.weight, 0.bias, 2.*, 5.*, 7.*)"
    state = _arrays("SKART_MNIST_CNN", content, tuple(module.state_dict()))
    module.load_state_dict({name: from_numpy(values) for name, values in state.items()})
    return module


def mnist_images():
    data = _arrays("SKART_MNIST", "MNIST (X_test of shape (10000, 28, 28) uint8, y_test)", ("X_test", "y_test"))
    return (data["X_test"] / 255).astype(np.float32)[:, None], data["y_test"].astype(np.int64)


@cache
def _arrays(variable, content, names):
    """Arrays of the npz file that an environment variable names."""
    path = os.environ.get(variable)
    if not path:
        raise SystemExit(f"Set {variable} to the path of an .npz file with {content}, or choose rows that do without.")
    if not Path(path).is_file():
        raise SystemExit(f"{variable}={path} names no file; it must be an .npz file with {content}.")
    try:
        with np.load(path) as file:
            missing = [name for name in names if name not in file]
            if not missing:
                return {name: file[name] for name in names}
    except (OSError, ValueError) as error:
        raise SystemExit(f"{variable}={path} cannot be read as an .npz file ({error}).") from error
    raise SystemExit(f"{variable}={path} lacks {', '.join(missing)}; it must hold {content}.")
