"""One forward-backward pass of each family of scikit-learn models, beside the matrix products that it needs at least.

The model is fitted on digits, enlarged so that the products matter; the samples are its first test images.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, KernelPCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import VotingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from benchmarks._harness import Passes, Row
from skart.oracles import as_oracle

__all__ = ["rows"]

BOUND = 1.5


class Family:
    """A fitted model whose bare forward-backward pass are the products with ``matrices(model)``, there and back.

    ``matrices`` returns chains of matrices: samples are multiplied with the first of a chain, the result with the
    second, and so on; each chain begins anew with the samples. A one-element list in place of a matrix stands for one
    that is needed on the way there alone.
    """

    def __init__(self, model, matrices, n_samples, counts=None):
        X, y = load_digits(return_X_y=True)
        X = np.kron(X.reshape(-1, 8, 8) / 16, np.ones((3, 3))).reshape(len(X), -1)
        X += 0.05 * np.random.default_rng(0).standard_normal(X.shape)
        self.estimator = model.fit(X[-700:], y[-700:])
        self.X, self.y = X[:n_samples], y[:n_samples]
        self._there = [[matrix[0] if isinstance(matrix, list) else matrix for matrix in c] for c in matrices(model)]
        self._back = [[matrix for matrix in c if not isinstance(matrix, list)] for c in matrices(model)]
        self._cotangent = np.random.default_rng(0).standard_normal((len(self.X), 10))
        self.counts = counts

    def value_pass(self):
        for chain in self._there:
            output = self.X
            for matrix in chain:
                output = output @ matrix
        return output

    def gradient_pass(self):
        self.value_pass()
        for chain in self._back:
            back = np.resize(self._cotangent, (len(self.X), chain[-1].shape[1]))
            for matrix in reversed(chain):
                back = back @ matrix.T
        return back

    def predict(self, X):
        return self.estimator.predict(X)


def forward_backward(task):
    """skart's pass, through the oracle."""
    oracle = as_oracle(task.estimator, task.X)
    cotangent = np.random.default_rng(0).standard_normal((len(task.X), len(oracle.classes_)))

    def run():
        with oracle:
            _, pullback = oracle.vjp(task.X, scores="margins")
            getattr(pullback, "last", pullback)(cotangent)
        if task.counts is not None:
            task.counts.forward(len(task.X))
            task.counts.backward(len(task.X))
        return task.X

    return run


def linear(model):
    return [[model.coef_.T]]


def layers(model):
    return [model.coefs_]


def support_vectors(model):
    n_classes = len(model.classes_)
    weights = np.ones((len(model.support_vectors_), n_classes * (n_classes - 1) // 2))
    return [[model.support_vectors_.T, weights]]


def rotations(model):
    first = model[0].components_.T
    return [[first, np.hstack(model[1].rotations_)]]


def squares(model):
    return [[model.theta_.T], [model.var_.T]]


def training_samples(model):
    # One kernel matrix for each of the one-vs-rest classifiers, since each has a length scale of its own; the variance
    # needs a product with a matrix of the size of the training data, whose result serves the way back.
    binary = model.base_estimator_.estimators_
    return [[one.X_train_.T, [one.L_], np.ones((len(one.X_train_), 1))] for one in binary]


def landmarks(model):
    step = model[0]
    return [[step.components_.T, step.normalization_.T, model[1].coef_.T]]


def kernel_components(model):
    step = model[0]
    return [[step.X_fit_.T, step.eigenvectors_, model[1].coef_.T]]


def components(model):
    return [[model[0].components_.T, model[1].coef_.T]]


def random_weights(model):
    return [[model[0].random_weights_, model[1].coef_.T]]


def members(model):
    return [chain for member, find in zip(model.estimators_, (linear, layers)) for chain in find(member)]


def families():
    """Name, model, its matrices, and whether the bound is set for it."""
    logistic = LogisticRegression(max_iter=300)
    net = MLPClassifier((256, 128), max_iter=15, random_state=0)
    yield "linear", logistic, linear, True
    yield "mlp", net, layers, True
    yield "svc", SVC(), support_vectors, True
    yield "qda", make_pipeline(PCA(50), QuadraticDiscriminantAnalysis(reg_param=0.1)), rotations, True
    yield "naive-bayes", GaussianNB(), squares, True
    yield "gaussian-process", GaussianProcessClassifier(5 * RBF(5.0), optimizer=None), training_samples, True
    yield "pca", make_pipeline(PCA(100), logistic), components, True
    yield "kernel-pca", make_pipeline(KernelPCA(100, kernel="rbf"), logistic), kernel_components, True
    yield "nystroem", make_pipeline(Nystroem(n_components=300, random_state=0), logistic), landmarks, True
    yield "rbf-sampler", make_pipeline(RBFSampler(n_components=300, random_state=0), logistic), random_weights, True
    yield "voting", VotingClassifier([("linear", logistic), ("net", net)], voting="soft"), members, True


def rows():
    for name, model, matrices, bounded in families():

        def task(n_samples, counts, model=model, matrices=matrices):
            return Family(model, matrices, n_samples, counts)

        yield Row(
            f"family-{name}",
            task,
            Passes(gradients=1, values=0),
            {"skart": forward_backward},
            bound=BOUND if bounded else None,
        )
