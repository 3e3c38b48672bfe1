"""Data and models on which attacks are tested."""

import numpy as np
import torch
from sklearn.datasets import make_blobs
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import minmax_scale
from skorch import NeuralNetClassifier


class TwoLayers(torch.nn.Module):
    """A net whose size an adapter sets."""

    def __init__(self, n_inputs=2, n_outputs=2):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(n_inputs, 8), torch.nn.Tanh(), torch.nn.Linear(8, n_outputs))

    def forward(self, X):
        return self.layers(X)


def net_of_any_size():
    """A skorch net, not trained."""
    return NeuralNetClassifier(
        TwoLayers,
        criterion=torch.nn.CrossEntropyLoss,
        lr=0.1,
        max_epochs=20,
        batch_size=10,
        train_split=None,
        verbose=0,
    )


def blobs(n_samples=60, n_classes=3, n_features=6, random_state=0):
    """Clusters in the unit cube that touch: models separate them, and attacks have something to do."""
    X, y = make_blobs(n_samples, n_features, centers=n_classes, cluster_std=3.0, random_state=random_state)
    return np.clip(minmax_scale(X), 0, 1), y


def fitted_mlp(X, y):
    """A small smooth net of scikit-learn's."""
    return MLPClassifier((8,), activation="tanh", max_iter=300, learning_rate_init=0.02, random_state=0).fit(X, y)


def as_net(mlp):
    """The same function as a float64 torch module in a skorch net."""
    layers = []
    for weights, bias in zip(mlp.coefs_, mlp.intercepts_):
        linear = torch.nn.Linear(*weights.shape, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(weights.T.copy())
        linear.bias.data = torch.from_numpy(bias.copy())
        layers += [linear, torch.nn.Tanh()]
    return wrap_module(torch.nn.Sequential(*layers[:-1]), n_classes=len(mlp.classes_))


def wrap_module(module, *, n_classes=3, criterion=torch.nn.CrossEntropyLoss, **params):
    """A module with weights of its own in a skorch net that counts as fitted."""
    net = NeuralNetClassifier(
        module, criterion=criterion, classes=np.arange(n_classes), train_split=None, verbose=0, **params
    )
    return net.initialize()


def trained_net(X, y, dtype=torch.float32):
    """A small net with ReLU and batch normalisation, trained by torch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Linear(X.shape[1], 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
        ).to(dtype)
        net = wrap_module(module, max_epochs=30, lr=0.1, batch_size=20)
        net.partial_fit(torch.as_tensor(X, dtype=dtype), torch.as_tensor(y))
    return net
