"""Expectations over transformations: the mean of answers and of gradients, on the same draws."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import rotate, shift
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from skart import loss_gradient
from skart._core._random import RandomStream
from skart.attacks import HopSkipJump, ProjectedGradientDescent
from skart.defences import FeatureSqueezing
from skart.estimators import BlackBoxClassifier
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from skart.oracles import as_oracle
from skart.utils import check_rule
from skart.wrappers import ExpectationOverTransformations, RandomAffine
from tests.wrappers._models import Noise, RuledShift, Shift, linear

X, Y = load_iris(return_X_y=True)
X = X - X.mean(axis=0)


def versions(clf, X):
    """What the classifier's transformer makes of the samples, and the derivative of each version: the identity."""
    moved = []

    def ask(version):
        moved.append(version)
        return clf.estimator.predict_proba(version)

    twin = ExpectationOverTransformations(
        BlackBoxClassifier(ask, clf.classes_), clf.transformer, n_samples=clf.n_samples, random_state=clf.random_state
    )
    twin.predict(X)
    return moved


@pytest.mark.parametrize("batch_size", [1024, 4, 30])
@pytest.mark.parametrize("step", [RuledShift(), make_pipeline(Noise(0.1), RuledShift()), FrozenEstimator(Noise())])
def test_answers_and_gradients_are_means_over_the_same_draws(step, batch_size):
    inner = linear(4)
    clf = ExpectationOverTransformations(inner, step, n_samples=6, batch_size=batch_size, random_state=0)
    moved = versions(clf, X[:10])
    assert len(np.unique([version[0, 0] for version in moved])) == 6
    assert_allclose(clf.predict_proba(X[:10]), np.mean([inner.predict_proba(v) for v in moved], axis=0))
    assert_array_equal(clf.predict(X[:10]), clf.predict_proba(X[:10]).argmax(axis=1))
    oracle = as_oracle(clf, X)
    logits, pullback = oracle.vjp(X[:10])
    assert_allclose(np.exp(logits), clf.predict_proba(X[:10]))
    # The gradient of the mean probability is the mean of the gradients of the probabilities.
    weights = np.random.default_rng(0).normal(size=(10, 3))
    singles = []
    for version in moved:
        proba = inner.predict_proba(version)
        singles.append((proba * (weights - np.sum(proba * weights, axis=1, keepdims=True))) @ inner.coef_)
    assert_allclose(pullback(np.exp(logits) * weights), np.mean(singles, axis=0))


def test_the_rule_agrees_with_central_differences():
    check_rule(ExpectationOverTransformations(linear(4), Noise(), n_samples=3, random_state=0), X)
    images, labels = load_digits(return_X_y=True)
    affine = RandomAffine(image_shape=(8, 8), random_state=0).fit(images)
    check_rule(affine, images)
    check_rule(ExpectationOverTransformations(linear(64), affine, n_samples=3, random_state=0), images / 16)


def test_draws_repeat_with_an_integer_and_are_fresh_without_and_in_an_attack():
    clf = ExpectationOverTransformations(linear(4), RuledShift(random_state=5), n_samples=4, random_state=0)
    assert_array_equal(clf.predict_proba(X), clf.predict_proba(X))
    assert_allclose(clf.predict_proba(X[:7]), clf.predict_proba(X)[:7])
    assert clf.transformer.random_state == 5
    other = ExpectationOverTransformations(linear(4), RuledShift(random_state=5), n_samples=4)
    state = np.random.get_state()[1:3]  # noqa: NPY002 - the global generator, which must stay as it is
    assert not np.any(other.predict_proba(X) == other.predict_proba(X))
    assert_array_equal(np.random.get_state()[1], state[0])  # noqa: NPY002
    assert np.random.get_state()[2] == state[1]  # noqa: NPY002
    oracle = as_oracle(clf, X)
    assert oracle.random
    oracle.draw_from(RandomStream(0))
    first, second = oracle.logits(X), oracle.logits(X)
    assert not np.any(first == second)
    assert not np.any(np.exp(first) == clf.predict_proba(X))
    results = [
        ProjectedGradientDescent(
            clf, eps=0.5, max_iter=4, random_state=0, random_start=False, batch_size=size, n_jobs=n_jobs
        ).run(X, Y)
        for size, n_jobs in ((256, None), (256, None), (40, None), (40, 2))
    ]
    for result in results[1:]:
        assert_allclose(result.X_adv, results[0].X_adv)
        assert_allclose(result.success, results[0].success)


def test_success_is_the_mean_over_fresh_draws_and_nobody_complains():
    inner = linear(4)
    clf = ExpectationOverTransformations(inner, RuledShift(2.0), n_samples=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttackFailureWarning)
        result = ProjectedGradientDescent(clf, eps=0.3, max_iter=3, random_state=0).run(X, inner.predict(X))
    assert result.success.dtype == np.float64
    assert 10 * result.success == pytest.approx(np.round(10 * result.success))
    rng = np.random.default_rng(0)
    truth = np.mean(
        [inner.predict(result.X_adv + 2 * rng.normal(size=(150, 1))) != inner.predict(X) for _ in range(400)], axis=0
    )
    assert 0.05 < truth.mean() < 0.95
    assert result.success.mean() == pytest.approx(truth.mean(), abs=0.04)
    assert np.abs(result.success - truth).max() < 0.65
    assert 0 < np.mean((result.success > 0) & (result.success < 1))
    assert "150 samples" in repr(result)
    # A model that varies and declares nothing makes it warn.
    rng = np.random.default_rng(0)
    varying = make_pipeline(FunctionTransformer(lambda X: X + rng.normal(size=(len(X), 1))), inner)
    with pytest.warns(AttackFailureWarning, match="two answers to the same question"):
        HopSkipJump(varying, max_iter=1, random_state=0).transform(X[:5])


def test_a_step_without_rule_answers_and_refuses_gradients_only():
    clf = ExpectationOverTransformations(linear(4), Shift(), n_samples=4, random_state=0)
    assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
    assert as_oracle(clf, X).access == "scores"
    with pytest.raises(GradientUnavailableError, match="transformer Shift: no gradient rule is known for Shift"):
        loss_gradient(clf, X, Y)
    votes = ExpectationOverTransformations(LinearSVC().fit(X, Y), RuledShift(), n_samples=4, random_state=0)
    assert set(np.unique(votes.predict_proba(X))) <= {0, 0.25, 0.5, 0.75, 1}
    with pytest.raises(GradientUnavailableError, match="LinearSVC has no `predict_proba`"):
        loss_gradient(votes, X, Y)


def test_fit_and_prefit():
    names = np.asarray(["setosa", "versicolor", "virginica"])
    clf = ExpectationOverTransformations(
        LogisticRegression(max_iter=500), make_pipeline(StandardScaler(), Noise(0.1)), random_state=0
    )
    with pytest.raises(NotFittedError, match="give fitted LogisticRegression and Pipeline"):
        clf.predict(X)
    twin = clone(clf)
    assert clf.fit(X, names[Y]).score(X, names[Y]) > 0.9
    assert_array_equal(twin.fit(X, names[Y]).predict(X), clf.predict(X))
    assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), clf.predict_proba(X))
    frozen, ready = FrozenEstimator(clf.estimator_), FrozenEstimator(clf.transformer_)
    before = clf.transformer_[-1].random_state
    prefit = ExpectationOverTransformations(frozen, ready, random_state=0).fit(X, names[Y])
    assert prefit.estimator_ is frozen
    assert clf.transformer_[-1].random_state == before
    assert_array_equal(prefit.predict_proba(X), clf.predict_proba(X))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        framed = ExpectationOverTransformations(
            LogisticRegression(max_iter=500), make_pipeline(StandardScaler(), Noise(0.1)), random_state=0
        ).fit(frame, names[Y])
        assert_allclose(framed.predict_proba(frame), clf.predict_proba(X), rtol=1e-6)
    assert_array_equal(framed.feature_names_in_, list("abcd"))


def test_it_composes_with_other_defences_and_wrappers():
    inner = make_pipeline(FeatureSqueezing(clip_values="fit"), LogisticRegression(max_iter=500)).fit(X, Y)
    clf = make_pipeline(StandardScaler(), ExpectationOverTransformations(inner, Noise(0.1), n_samples=4))
    clf.fit(X, Y)
    result = ProjectedGradientDescent(clf, eps=0.8, max_iter=5, random_state=0).run(X, Y)
    assert result.success.mean() > 0.5


def test_random_affine_moves_images_as_scipy_does():
    images = load_digits().images[:20]
    turned = RandomAffine(30, translation=0, scaling=0, random_state=0).fit(images)
    moved = RandomAffine(0, translation=20, scaling=0, fill=3, random_state=0).fit(images)
    for step, X_moved in ((turned, turned.transform(images)), (moved, moved.transform(images))):
        assert X_moved.shape == images.shape
        assert_array_equal(step.transform(images[:7]), X_moved[:7])
        flat = clone(step).set_params(image_shape=(8, 8)).fit(images.reshape(20, 64))
        assert_array_equal(flat.transform(images.reshape(20, 64)), X_moved.reshape(20, 64))
    # Each image is some rotation, or some shift, of itself, and not the same one.
    angles = np.linspace(-30, 30, 601)
    found = []
    for image, result in zip(images[:3], turned.transform(images)):
        errors = [np.abs(rotate(image, a, order=1, reshape=False, mode="grid-constant") - result).max() for a in angles]
        assert min(errors) < 0.3
        found.append(angles[np.argmin(errors)])
    assert len(np.unique(found)) == 3
    grid = np.linspace(-1.6, 1.6, 65)
    for image, result in zip(images[:2], moved.transform(images)):
        errors = [
            np.abs(shift(image, (a, b), order=1, mode="grid-constant", cval=3) - result).max()
            for a in grid
            for b in grid
        ]
        assert min(errors) < 1.2  # of 16, on a grid of a twentieth of a pixel
    same = RandomAffine(0, translation=0, scaling=0).fit(images)
    assert_allclose(same.transform(images), images)
    wider = RandomAffine(0, translation=0, scaling=0.5, random_state=0).fit(images)
    assert len(np.unique(wider.transform(np.ones((20, 8, 8))).mean(axis=(1, 2)))) > 5
    with pytest.raises(ValueError, match="RandomAffine needs images"):
        RandomAffine().fit(X)


@pytest.mark.parametrize("shape", [(20, 1, 8, 8), (20, 8, 8, 3), (20, 3, 8, 8)])
def test_random_affine_pulls_back_by_the_transpose(shape):
    rng = np.random.default_rng(0)
    images = rng.random(shape).astype(np.float32)
    step = RandomAffine(random_state=0, fill=0.5).fit(images)
    output, pullback = step._moved(images)
    assert output.dtype == np.float32
    cotangent, direction = rng.random(shape), rng.random(shape)
    second, _ = step._moved(images + direction.astype(np.float32))
    assert_allclose(np.sum((second - output) * cotangent), np.sum(pullback(cotangent) * direction), rtol=1e-4)
    assert pullback(cotangent).shape == shape
    if shape[1] == 3:  # all channels of an image move alike
        grey = np.repeat(images[:, :1], 3, axis=1)
        moved = step.transform(grey)
        assert_allclose(moved[:, 0], moved[:, 2], atol=1e-6)


def test_random_numbers_within_the_estimator_are_others_for_each_version():
    # The estimator is random, too: with one set of its numbers for all versions, its own noise would not average out.
    inner = make_pipeline(Noise(3.0, random_state=0), linear(4))
    clf = ExpectationOverTransformations(inner, RuledShift(1e-9), n_samples=200, random_state=0)
    expected = np.mean(
        [linear(4).predict_proba(X + 3 * np.random.default_rng(k).normal(size=X.shape)) for k in range(200)], axis=0
    )
    assert np.abs(clf.predict_proba(X) - expected).max() < 0.2
    for batch_size in (1024, 333):
        oracle = as_oracle(clf.set_params(batch_size=batch_size), X)  # compares the rule with the answers
        assert not oracle.varies
        assert_allclose(np.exp(oracle.logits(X)), clf.predict_proba(X))
