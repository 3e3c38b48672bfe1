"""Small nets for tests."""

import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier

from skart.estimators import SkorchClassifier


class MLP(torch.nn.Module):
    """One hidden layer; as many inputs and outputs as it is told."""

    def __init__(self, n_inputs=4, n_outputs=3, n_hidden=16, dtype=torch.float32):
        super().__init__()
        self.hidden = torch.nn.Linear(n_inputs, n_hidden, dtype=dtype)
        self.out = torch.nn.Linear(n_hidden, n_outputs, dtype=dtype)

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(x)))


class LazyMLP(MLP):
    """The same, which learns its number of inputs from the first batch."""

    def __init__(self, n_outputs=3):
        super().__init__(1, n_outputs)
        self.hidden = torch.nn.LazyLinear(16)


def small_net(module=MLP, **params):
    """A net that learns simple things in no time."""
    defaults = {
        "criterion": torch.nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 0.02,
        "max_epochs": 15,
        "batch_size": 16,
        "train_split": None,
        "verbose": 0,
    }
    return NeuralNetClassifier(module, **{**defaults, **params})


def binary_net(module=MLP, **params):
    """The same with a single output for two classes."""
    defaults = {
        "optimizer": torch.optim.Adam,
        "lr": 0.02,
        "max_epochs": 15,
        "batch_size": 16,
        "train_split": None,
        "verbose": 0,
    }
    if module is MLP:
        defaults["module__n_outputs"] = 1
    return NeuralNetBinaryClassifier(module, **{**defaults, **params})


def adaptable(net=None, **params):
    """An adapter whose net takes the shape of its training data."""
    return SkorchClassifier(
        small_net(max_epochs=40) if net is None else net,
        n_features_param="module__n_inputs",
        n_classes_param="module__n_outputs",
        random_state=0,
        **params,
    )
