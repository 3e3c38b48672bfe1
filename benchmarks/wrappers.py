"""The cost of certificates: randomized smoothing of the CNN for MNIST."""

import numpy as np

from benchmarks._harness import Passes, Row
from benchmarks._models import MnistNet
from skart.estimators import TorchClassifier
from skart.wrappers import RandomizedSmoothing

__all__ = ["rows"]

N_VOTES, N_SELECTION, SIGMA = 1000, 100, 0.25
BATCH_SIZE = 500


class Smoothed(MnistNet):
    """The CNN with at most 100 images; a value pass is what the classifier itself needs for all votes on them.

    The noisy images of that pass are there already, and the same ones for every image.
    """

    def __init__(self, n_samples, counts=None):
        super().__init__(min(n_samples, 100), counts)
        self.estimator = TorchClassifier(self.module, np.arange(self.n_classes), batch_size=BATCH_SIZE)
        noise = np.random.default_rng(0).normal(scale=SIGMA, size=(BATCH_SIZE, *self.X.shape[1:]))
        self._noisy = (self.X[:1] + noise).astype(np.float32)

    def value_pass(self):
        n_votes = len(self.X) * (N_VOTES + N_SELECTION)
        for start in range(0, n_votes, BATCH_SIZE):
            self.estimator.predict(self._noisy[: n_votes - start])


def skart(task):
    smooth = RandomizedSmoothing(
        task.estimator, sigma=SIGMA, n_selection=N_SELECTION, batch_size=BATCH_SIZE, random_state=0
    )

    def run():
        smooth.certify(task.X, n_samples=N_VOTES)
        return task.X  # nothing is attacked

    return run


def rows():
    yield Row("certify", Smoothed, Passes(gradients=0, values=1), {"skart": skart}, bound=1.2)
