"""Attack a convolutional net on MNIST: clean accuracy, and accuracy under projected gradient descent.

Run it with a file that holds the arrays X_train, y_train, X_test and y_test, or without one to fetch MNIST from
OpenML::

    python examples/mnist_net.py --data mnist.npz --weights mnist_cnn.npz

The net is trained, unless ``--weights`` names a file that exists: an .npz with the arrays of the net's state dict.
Where the file does not exist, the trained weights are written to it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import fetch_openml
from skorch import NeuralNetClassifier

from skart.attacks import ProjectedGradientDescent
from skart.metrics import robust_accuracy_score


def load_mnist(path):
    """Images of shape (n_samples, 1, 28, 28) in float32, scaled to [0, 1], and their labels."""
    if path is None:
        X, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False)
        parts = X[:60000], y[:60000], X[60000:], y[60000:]
    else:
        with np.load(path) as arrays:
            parts = tuple(arrays[name] for name in ("X_train", "y_train", "X_test", "y_test"))
    X_train, y_train, X_test, y_test = parts
    scale = 255.0 if X_train.max() > 1 else 1.0
    X_train, X_test = ((X / scale).astype(np.float32).reshape(-1, 1, 28, 28) for X in (X_train, X_test))
    return X_train, y_train.astype(np.int64), X_test, y_test.astype(np.int64)


def make_module():
    """Build a small convolutional net that returns logits."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1568, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 10),
    )


def make_net(X, y, weights, epochs):
    """Return a fitted classifier, with weights from the file if there is one, else trained on ``X`` and ``y``."""
    net = NeuralNetClassifier(
        make_module,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.001,
        max_epochs=epochs,
        train_split=None,
        classes=np.arange(10),
    )
    if weights is not None and weights.exists():
        net.initialize()
        with np.load(weights) as arrays:
            net.module_.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays})
        return net
    net.fit(X, y)
    if weights is not None:
        np.savez(weights, **{name: values.numpy() for name, values in net.module_.state_dict().items()})
    return net


def main():
    parser = argparse.ArgumentParser(description="Attack a convolutional net on MNIST.")
    parser.add_argument("--data", type=Path, help=".npz with X_train, y_train, X_test, y_test (default: from OpenML)")
    parser.add_argument("--weights", type=Path, help=".npz with the net's weights: read if it exists, else written")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of training (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="test images to attack (default: %(default)s)")
    parser.add_argument("--eps", type=float, default=0.1, help="largest change of a pixel (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps of the attack (default: %(default)s)")
    args = parser.parse_args()

    torch.manual_seed(0)
    X_train, y_train, X_test, y_test = load_mnist(args.data)
    net = make_net(X_train, y_train, args.weights, args.epochs)
    X, y = X_test[: args.samples], y_test[: args.samples]

    attack = ProjectedGradientDescent(eps=args.eps, clip_values=(0, 1), max_iter=args.steps, random_state=0)
    start = time.perf_counter()
    robust = robust_accuracy_score(net, X, y, attack=attack)
    seconds = time.perf_counter() - start
    print(f"clean accuracy   {net.score(X, y):.3f}  ({len(X)} test images)")
    print(f"robust accuracy  {robust:.3f}  (PGD, eps {args.eps}, {args.steps} steps, {seconds:.1f} s)")


if __name__ == "__main__":
    main()
