"""Strength on a real net: the figures that a user compares with other libraries.

``SKART_MNIST`` and ``SKART_MNIST_CNN`` name the data and the weights. Where they are not set these tests are skipped;
where they are set and wrong, they fail.
"""

import os

import numpy as np
import pytest

from skart.attacks import FastGradientMethod, ProjectedGradientDescent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def victim():
    """A CNN of 99 % accuracy in a skorch net, and 256 test images that it classifies correctly."""
    missing = [name for name in ("SKART_MNIST", "SKART_MNIST_CNN") if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not set")
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    from torch import nn

    data, weights = np.load(os.environ["SKART_MNIST"]), np.load(os.environ["SKART_MNIST_CNN"])

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(
                *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU()),
                *(nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten()),
                *(nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
            )

    net = skorch.NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss).initialize()
    net.module_.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    X, y = data["X_test"][:300, None].astype(np.float32) / 255, data["y_test"][:300].astype(np.int64)
    right = np.flatnonzero(net.predict(X) == y)[:256]
    return net, X[right], y[right]


def test_pgd_is_as_strong_as_known(victim):
    net, X, y = victim
    attack = ProjectedGradientDescent(net, eps=0.2, eps_step=0.01, max_iter=40, clip_values=(0, 1), random_state=0)
    result = attack.run(X, y)
    # Other libraries reach 99.6 % with these parameters.
    assert result.success.mean() >= 0.99
    assert np.array_equal(net.predict(result.X_adv) != y, result.success)
    assert np.abs(result.X_adv - X).max() <= np.float32(0.2)
    assert result.n_gradients.tolist() == [40] * len(X)


def test_early_stop_breaks_the_same_samples_for_fewer_passes(victim):
    net, X, y = victim
    settings = dict(eps=0.15, eps_step=0.01, max_iter=40, clip_values=(0, 1), random_state=0)
    whole = ProjectedGradientDescent(net, **settings).run(X, y)
    short = ProjectedGradientDescent(net, **settings, early_stop=True).run(X, y)
    assert np.mean(whole.success != short.success) <= 0.01  # convolutions round differently in smaller batches
    assert short.n_gradients.sum() < 0.6 * whole.n_gradients.sum()


@pytest.mark.parametrize(("norm", "eps", "least"), [(2, 2.0, 0.90), (1, 10.0, 0.70)])
def test_other_norms(victim, norm, eps, least):
    net, X, y = victim
    attack = ProjectedGradientDescent(net, norm=norm, eps=eps, clip_values=(0, 1), random_state=0)
    result = attack.run(X, y)
    assert result.success.mean() >= least
    assert result.distance.max() <= eps * (1 + 1e-6)


def test_smallest_fast_gradient_steps(victim):
    net, X, y = victim
    result = FastGradientMethod(net, minimal=True, eps_step=0.01, clip_values=(0, 1)).run(X, y)
    assert result.success.all()
    assert 0.08 <= np.median(result.distance) <= 0.13
