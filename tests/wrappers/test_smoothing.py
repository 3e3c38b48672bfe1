"""Randomized smoothing: votes, certificates that are sound, and gradients through the noise."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom, binomtest, norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skart._core._random import RandomStream
from skart.attacks import ProjectedGradientDescent
from skart.exceptions import AttackFailureWarning
from skart.oracles import as_oracle
from skart.utils import check_rule
from skart.wrappers import RandomizedSmoothing
from skart.wrappers._smoothing import lower_bound
from tests.wrappers._models import Decision, Noise, linear

X, Y = load_iris(return_X_y=True)


class Recording(LogisticRegression):
    def fit(self, X, y):
        self.seen_ = X
        return super().fit(X, y)


def half_spaces(n_samples, n_features=8, seed=0):
    """A binary linear classifier, samples around its border and their true distances to it."""
    rng = np.random.default_rng(seed)
    clf = linear(n_features, n_classes=2, seed=seed)
    x = rng.normal(size=(n_samples, n_features)) / 3
    margin = (x @ clf.coef_[0] + clf.intercept_[0]) / np.linalg.norm(clf.coef_[0])
    return clf, x, np.abs(margin)


def test_votes_are_those_of_the_theory():
    clf, x, distance = half_spaces(40)
    smooth = RandomizedSmoothing(clf, sigma=0.5, n_samples=4000, random_state=0)
    proba = smooth.predict_proba(x)
    assert_allclose(proba.sum(axis=1), 1)
    own = clf.predict(x)
    # A half-space keeps a sample with the normal distribution of its distance in units of sigma.
    assert_allclose(proba[np.arange(40), own], norm.cdf(distance / 0.5), atol=4.5 * 0.5 / np.sqrt(4000))
    assert_array_equal(smooth.predict(x), proba.argmax(axis=1))
    assert np.mean(smooth.predict(x) == own) > 0.9


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_certificates_are_not_above_the_true_radius_more_often_than_alpha_allows(alpha):
    clf, x, distance = half_spaces(3000)
    certificate = RandomizedSmoothing(clf, sigma=0.5, n_samples=50, alpha=alpha, random_state=1).certify(x)
    right = certificate.y == clf.predict(x)
    truth = np.where(right, distance, -distance)
    wrong = np.count_nonzero((certificate.radius > truth) & ~certificate.abstained)
    # One-sided test at 1e-4 of the claim that it is wrong at most with probability alpha.
    assert wrong <= binom.isf(1e-4, 3000, alpha)
    # The bound is near its level where the discrete counts let it be: not merely cautious.
    assert wrong >= 0.3 * alpha * 3000


def test_certificates_approach_the_true_radius():
    clf, x, distance = half_spaces(60)
    smooth = RandomizedSmoothing(clf, sigma=0.5, random_state=0)
    certificates = [smooth.certify(x, n_samples=n) for n in (100, 1000, 10_000)]
    near = (distance < 0.8) & (distance > 0.2)  # far ones are capped by the number of votes
    assert near.sum() > 10
    gaps = [np.mean(distance[near] - certificate.radius[near]) for certificate in certificates]
    assert gaps[0] > 1.5 * gaps[1] > 2 * gaps[2] > 0
    assert gaps[2] < 0.05
    assert_allclose(certificates[0].radius.max(), 0.5 * norm.ppf(0.001 ** (1 / 100)))
    abstained = certificates[0].abstained
    assert 0 < abstained.sum() < 30
    assert distance[abstained].max() < 0.3
    assert_array_equal(certificates[0].radius[abstained], 0)
    assert np.all(certificates[0].radius[~abstained] > 0)
    assert_array_equal(certificates[2].y, clf.predict(x))


def test_the_bound_is_that_of_clopper_and_pearson():
    votes = np.asarray([0, 1, 37, 99, 100])
    theirs = [binomtest(k, 100, alternative="greater").proportion_ci(0.99, method="exact").low for k in votes]
    assert_allclose(lower_bound(votes, 100, 0.01), theirs, atol=1e-12)


def test_noise_differs_from_sample_to_sample_and_from_purpose_to_purpose():
    seen = []

    class Watching(Decision):
        def predict(self, X):
            seen.append(X.copy())
            return super().predict(X)

    x = np.random.default_rng(0).normal(size=(5, 6))
    smooth = RandomizedSmoothing(Watching(np.eye(6)), sigma=0.5, n_samples=40, n_selection=30, random_state=0)
    smooth.certify(x)
    noise = np.concatenate([batch - np.tile(x, (len(batch) // 5, 1)) for batch in seen])
    assert noise.shape == (5 * 70, 6)
    assert len(np.unique(noise.round(12))) == noise.size
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    assert abs(noise.mean()) < 0.05
    correlation = np.corrcoef(noise[:200].reshape(40, 5, 6).transpose(1, 0, 2).reshape(5, -1)) - np.eye(5)
    assert np.abs(correlation).max() < 0.3
    seen.clear()
    # Fewer votes at a time, or some samples alone: the same noise.
    again = clone(smooth).set_params(batch_size=7)
    assert_array_equal(again.certify(x).radius, smooth.certify(x).radius)
    assert_array_equal(smooth.certify(x[:3]).radius, smooth.certify(x).radius[:3])
    assert max(map(len, seen)) > 100
    assert_array_equal(again.predict_proba(x), smooth.predict_proba(x))
    seen.clear()
    again.predict(x)
    assert max(map(len, seen)) == 7
    assert sum(map(len, seen)) == 200


def test_randomness():
    clf, x, _ = half_spaces(30)
    smooth = RandomizedSmoothing(clf, n_samples=25, sigma=0.5, random_state=0)
    assert_array_equal(smooth.predict_proba(x), smooth.predict_proba(x))
    other = RandomizedSmoothing(clf, n_samples=25, sigma=0.5)
    assert np.any(other.predict_proba(x) != other.predict_proba(x))
    oracle = as_oracle(smooth, x)
    oracle.draw_from(RandomStream(0))
    assert not np.any(oracle.logits(x) == oracle.logits(x))
    assert np.any(oracle.proba(x) != oracle.proba(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttackFailureWarning)
        ProjectedGradientDescent(other, eps=0.1, max_iter=2).run(x)


def test_soft_scores_and_their_gradient():
    clf, x, _ = half_spaces(10, n_features=4)
    smooth = RandomizedSmoothing(clf, n_samples=20_000, sigma=0.5)
    logits, pullback = as_oracle(smooth, x, check=False).vjp(x)
    # Mean sigmoid over the margin's one-dimensional noise, by quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    length = np.linalg.norm(clf.coef_[0])
    z = (x @ clf.coef_[0] + clf.intercept_[0])[:, None] + 0.5 * length * nodes
    sigmoid = 1 / (1 + np.exp(-z))
    mean = sigmoid @ weights / weights.sum()
    assert_allclose(np.exp(logits[:, 1]), mean, atol=0.015)
    slope = (sigmoid * (1 - sigmoid)) @ weights / weights.sum()
    grad = pullback(np.stack([np.zeros(10), np.exp(logits[:, 1])], axis=1))
    assert_allclose(grad, slope[:, None] * clf.coef_, atol=0.02 * np.abs(clf.coef_).max())
    check_rule(RandomizedSmoothing(linear(4), sigma=0.2, n_samples=200, random_state=0), X)
    check_rule(RandomizedSmoothing(make_pipeline(Noise(0.1), linear(4)), sigma=0.2, n_samples=200, random_state=0), X)


def test_an_attack_goes_through_the_noise():
    clf = RandomizedSmoothing(LogisticRegression(max_iter=500), sigma=0.3, n_samples=20, random_state=0).fit(X, Y)
    result = ProjectedGradientDescent(clf, eps=0.8, max_iter=5, random_state=0).run(X, Y)
    assert clf.score(X, Y) > 0.9
    assert clf.score(result.X_adv, Y) < 0.4
    assert result.success.mean() == pytest.approx(1 - clf.score(result.X_adv, Y), abs=0.05)
    # No attack gets inside a certificate: of 150, alpha lets fewer than one be wrong.
    certificate = clf.certify(X, n_samples=2000)
    ball = ProjectedGradientDescent(clf, norm=2, eps=0.25, max_iter=10, random_state=0).run(X, certificate.y)
    safe = certificate.radius > 0.3
    assert 20 < safe.sum() < 150
    votes = clone(clf).set_params(n_samples=2000, estimator=FrozenEstimator(clf.estimator_)).fit(X, Y)
    assert_array_equal(votes.predict(ball.X_adv)[safe], certificate.y[safe])


def test_fit_adds_noise_and_leaves_a_frozen_model_alone():
    names = np.asarray(["setosa", "versicolor", "virginica"])
    smooth = RandomizedSmoothing(Recording(max_iter=500), sigma=0.5, random_state=0).fit(X, names[Y])
    noise = smooth.estimator_.seen_ - X
    assert noise.std() == pytest.approx(0.5, rel=0.1)
    assert abs(noise.mean()) < 0.1
    assert set(smooth.predict(X)) == set(names)
    assert set(smooth.certify(X[:5]).y) <= set(names)
    twin = clone(smooth).fit(X, names[Y])
    assert_array_equal(twin.predict_proba(X), smooth.predict_proba(X))
    assert_array_equal(pickle.loads(pickle.dumps(smooth)).predict_proba(X), smooth.predict_proba(X))
    frozen = FrozenEstimator(smooth.estimator_)
    assert RandomizedSmoothing(frozen).fit(X, names[Y]).estimator_ is frozen
    with pytest.raises(NotFittedError, match="give fitted DecisionTreeClassifier"):
        RandomizedSmoothing(DecisionTreeClassifier()).certify(X)
    prefit = RandomizedSmoothing(KNeighborsClassifier().fit(X, names[Y]), sigma=0.1, random_state=0)
    assert prefit.score(X, names[Y]) > 0.9
    assert as_oracle(prefit, X).random


def test_pipelines_single_precision_and_images():
    clf = make_pipeline(
        StandardScaler(), RandomizedSmoothing(LogisticRegression(max_iter=500), n_samples=30, random_state=0)
    )
    clf.fit(X, Y)
    assert as_oracle(clf, X).random
    assert_array_equal(clf.predict(X.astype(np.float32)) == clf.predict(X), True)
    images = np.random.default_rng(0).random((6, 1, 4, 4)).astype(np.float32)
    torch = pytest.importorskip("torch")
    from skart.estimators import TorchClassifier

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    smooth = RandomizedSmoothing(TorchClassifier(module, ["a", "b", "c"]), sigma=0.01, n_samples=11, random_state=0)
    assert_array_equal(smooth.predict(torch.from_numpy(images)), smooth.predict(images))
    result = ProjectedGradientDescent(smooth, eps=1.0, max_iter=5, random_state=0).run(torch.from_numpy(images))
    assert isinstance(result.X_adv, torch.Tensor)
    assert result.success.mean() > 0.5


def test_data_frames_keep_columns_without_numbers():
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    frame = pandas.DataFrame(X, columns=list("abcd"))
    frame["kind"] = np.where(X[:, 0] > 5.8, "long", "short")
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"), LogisticRegression(max_iter=500)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # scikit-learn 1.6 speaks of its next version to whoever passes columns through.
        warnings.filterwarnings("ignore", r"\s*The format of the columns of the 'remainder'", FutureWarning)
        smooth = RandomizedSmoothing(model, sigma=0.2, n_samples=30, random_state=0).fit(frame, Y)
        assert smooth.score(frame, Y) > 0.9
        result = ProjectedGradientDescent(smooth, eps=0.8, max_iter=3, random_state=0).run(frame, Y)
    assert_array_equal(result.X_adv["kind"], frame["kind"])
    assert result.success.mean() > 0.3
    with pytest.raises(ValueError, match="feature names"):
        smooth.predict(frame.rename(columns={"a": "z"}))
