"""What an attack needs beside the samples themselves is bounded by its batches."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from skart.attacks import ProjectedGradientDescent

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4000, 64))
Y = RNG.integers(0, 10, len(X))


def peak(attack):
    tracemalloc.start()
    try:
        attack.transform(X, Y)
        return tracemalloc.get_traced_memory()[1] / X.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        (SVC(gamma=0.05), 1000 / 64),  # a kernel matrix of all samples and the 1000 support vectors
        (LogisticRegression(max_iter=50), 10),  # a gradient for each class
    ],
    ids=["SVC", "LogisticRegression"],
)
@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_peak_memory(model, whole, norm):
    model.fit(X[:1000], Y[:1000])
    attack = ProjectedGradientDescent(model, norm=norm, eps=0.5, max_iter=2, random_state=0, batch_size=50)
    # The result, what is joined to it, and a float64 copy to measure the ball: a handful of copies of the data.
    in_batches = peak(attack)
    assert in_batches < 7 < whole
    # The measure tells: one batch of all samples needs more.
    assert peak(attack.set_params(batch_size=len(X))) > 1.2 * in_batches
