"""The saliency map method against brute force over all pairs of features."""

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression

from skart._core._arrays import to_numpy
from skart._core._saliency import best_pair
from skart.attacks import SaliencyMapMethod
from skart.exceptions import AttackFailureWarning
from tests.common._models import as_net, blobs, fitted_mlp


def best_product(gain, loss, domain):
    """The largest product of two features' sums, both positive, over all pairs; zero where there is none."""
    best = 0.0
    for p, q in combinations(np.flatnonzero(domain), 2):
        alpha, beta = gain[p] + gain[q], loss[p] + loss[q]
        if alpha > 0 and beta > 0:
            best = max(best, alpha * beta)
    return best


KINDS = {
    "unrelated": lambda a, b: (a, b),
    "alike": lambda a, b: (a, a + 0.3 * b),
    "opposed": lambda a, b: (a, -a + 0.2 * b),
    "on a hyperbola": lambda a, b: (np.exp(a), np.exp(-a)),
    "small": lambda a, b: (1e-30 * a, 1e-25 * b),
    "of one sign": lambda a, b: (-np.exp(a), b),
    "few values": lambda a, b: (np.round(a), np.round(b)),
    "none": lambda a, b: (0 * a, b),
}


@pytest.mark.parametrize("kind", KINDS)
def test_best_pair_is_that_of_a_search_over_all(xp, kind):
    rng = np.random.default_rng(0)
    gain, loss = KINDS[kind](rng.normal(size=(120, 11)), rng.normal(size=(120, 11)))
    domain = rng.random((120, 11)) < np.linspace(0, 1, 120)[:, None]
    pair = to_numpy(best_pair(xp.asarray(gain), xp.asarray(loss), xp.asarray(domain)))
    exact = np.array([best_product(*row) for row in zip(gain, loss, domain)])
    assert_array_equal(pair.sum(axis=1), np.where(exact > 0, 2, 0))
    assert not np.any(pair & ~domain)
    product = (gain * pair).sum(axis=1) * (loss * pair).sum(axis=1)
    assert_allclose(product, exact, rtol=1e-12)
    assert (exact > 0).any() == (kind not in ("of one sign", "none"))


def test_one_gradient_alone_gives_its_two_largest(xp):
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(100, 7)) - 0.5
    domain = rng.random((100, 7)) < np.linspace(0, 1, 100)[:, None]
    pair = to_numpy(best_pair(xp.asarray(gain), None, xp.asarray(domain)))
    exact = np.array([best_product(row, row, free) for row, free in zip(gain, domain)])
    assert_allclose(np.where(pair.any(axis=1), (gain * pair).sum(axis=1) ** 2, 0), exact, rtol=1e-12)
    assert set(pair.sum(axis=1)) == {0, 2}


def jacobian(function, x, h=1e-5):
    """Central differences: (n_features, n_outputs)."""
    return np.stack([(function(x + e) - function(x - e)) / (2 * h) for e in h * np.eye(len(x))])


@pytest.mark.parametrize("theta", [0.2, -0.2])
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.parametrize("target", [None, "least_likely"])
def test_first_step_is_the_most_salient_pair(theta, scores, target):
    X, y = blobs()
    mlp = fitted_mlp(X, y)
    low, high = 0.05, 0.95
    X = np.clip(X, low, high)
    proba = mlp.predict_proba(X)
    towards, away = proba.argmin(axis=1), proba.argmax(axis=1)
    attack = SaliencyMapMethod(mlp, theta=theta, scores=scores, target=target, max_iter=1, clip_values=(low, high))
    # As a net, whose logits are the output's own; the MLP's rule gives them up to a constant for each row.
    attack.set_params(estimator=as_net(mlp))
    module = attack.estimator.module_

    def output(x):
        logits = module(torch.as_tensor(x)[None]).detach().numpy()[0]
        return logits if scores == "logits" else np.exp(logits) / np.exp(logits).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackFailureWarning)
        X_adv = attack.transform(X)
    moved = 0
    for x, x_adv, t, k in zip(X, X_adv, towards, away):
        J = jacobian(output, x) * np.sign(theta)
        if target is None:  # the others' gain against the label's loss
            gain, loss = J.sum(axis=1) - J[:, k], -J[:, k]
        else:
            gain, loss = J[:, t], -(J.sum(axis=1) - J[:, t])
        domain = x < high if theta > 0 else x > low
        best = best_product(gain, loss, domain)
        pair = x_adv != x
        size = np.abs(gain).max() * np.abs(loss).max()
        if size < 1e-12 or 0 < best < 1e-5 * size:
            continue  # differences of such probabilities are rounding
        if best == 0:
            assert not pair.any()
            continue
        moved += 1
        assert pair.sum() == 2
        assert_allclose(gain[pair].sum() * loss[pair].sum(), best, rtol=1e-4)
        assert_allclose(x_adv[pair], np.clip(x[pair] + theta, low, high), rtol=1e-12)
    assert moved > 20


def test_fewest_features_of_a_linear_model():
    X, y = make_classification(60, 20, n_informative=10, random_state=1)
    clf = LogisticRegression().fit(X, y)
    low, high = X.min(), X.max() + 1
    theta = 2 * (high - low)  # one step takes a feature to the end of its range
    for sign in (1, -1):
        result = SaliencyMapMethod(clf, theta=sign * theta, clip_values=(low, high)).run(X)
        weight = np.where(clf.predict(X) == 1, -1, 1)[:, None] * clf.coef_ * sign
        # Features in the order of their weights, two by two, until the margin is gone.
        order = np.argsort(-weight, axis=1)
        room = (high - X) if sign > 0 else (X - low)
        gained = np.cumsum(np.take_along_axis(weight * room, order, axis=1), axis=1)
        needed = np.abs(clf.decision_function(X))[:, None]
        fewest = 2 * np.ceil(((gained >= needed).argmax(axis=1) + 1) / 2)
        changed = (result.X_adv != X).sum(axis=1)
        assert_array_equal(result.success, (gained >= needed).any(axis=1))
        assert result.success.mean() > 0.95
        assert_array_equal(changed[result.success], fewest[result.success])
        assert np.all((result.X_adv >= X) if sign > 0 else (result.X_adv <= X))
        assert np.all(result.n_gradients >= fewest / 2)


@pytest.mark.parametrize("gamma", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")
def test_budget_of_features(gamma, scores):
    X, y = load_digits(return_X_y=True)
    clf = LogisticRegression(max_iter=300).fit(X, y)
    X = X[:60]
    target = (clf.predict(X) + 1) % 10
    params = {"theta": 2.0, "scores": scores, "clip_values": (0, 16), "target": "given"}
    result = SaliencyMapMethod(clf, gamma=gamma, **params).run(X, target)
    changed = (result.X_adv != X).sum(axis=1)
    assert changed.max() <= int(gamma * 64)
    if gamma < 0.3:  # which is enough for all
        assert changed.max() >= int(gamma * 64) - 1
        assert 0 < result.success.mean() < 1
    more = SaliencyMapMethod(clf, gamma=1.0, **params).run(X, target)
    assert np.all(more.success >= result.success)
    # The path is the same, as far as it goes.
    assert_array_equal(more.X_adv[result.success], result.X_adv[result.success])


def test_the_budget_is_exact_where_the_product_is_not():
    # 0.29 * 100 is 28.999999999999996.
    X, y = make_classification(20, 100, n_informative=60, random_state=0)
    clf = LogisticRegression(C=100.0).fit(X, y)
    wide = SaliencyMapMethod(clf, theta=1e-6, gamma=0.29, clip_values=(X.min(), X.max() + 1), max_iter=40)
    exact = SaliencyMapMethod(clf, theta=1e-6, gamma=0.28, clip_values=(X.min(), X.max() + 1), max_iter=40)
    assert_array_equal(wide.transform(X), exact.transform(X))
    assert SaliencyMapMethod(clf, gamma=0.29)._budget(X.shape) == 29
    assert SaliencyMapMethod(clf, gamma=0.28)._budget((5, 4, 25)) == 28


def test_without_a_range_steps_are_bounded_by_their_number():
    X, y = make_classification(30, 6, n_informative=6, n_redundant=0, random_state=0)
    clf = LogisticRegression().fit(X, y)
    assert SaliencyMapMethod(clf, theta=0.1).run(X).success.all()
    few = SaliencyMapMethod(clf, theta=1e-3, max_iter=7).run(X)
    assert_allclose(np.abs(few.X_adv - X).sum(axis=1)[~few.success], 7 * 2e-3, rtol=1e-9)
    assert_array_equal((few.X_adv != X).sum(axis=1)[~few.success], 2)
    assert_array_equal(few.n_gradients[~few.success], 7)


def test_saturated_features_are_left_alone():
    X, y = make_classification(30, 6, n_informative=6, n_redundant=0, random_state=0)
    clf = LogisticRegression().fit(X, y)
    X = np.clip(X, -1, 1)
    mask = np.array([1, 1, 1, 1, 1, 0], dtype=bool)
    result = SaliencyMapMethod(clf, theta=0.3, clip_values=(-1, 1), mask=mask).run(X)
    assert result.X_adv.max() <= 1
    assert_array_equal(result.X_adv[:, 5], X[:, 5])
    assert np.any((X < 1) & (result.X_adv == 1))


def test_certainty_does_not_blind_it():
    X, y = make_classification(30, 6, n_informative=6, n_redundant=0, random_state=0)
    clf = LogisticRegression().fit(X, y)
    plain = SaliencyMapMethod(clf, theta=0.2).run(X.astype(np.float32))
    clf.coef_, clf.intercept_ = 1e4 * clf.coef_, 1e4 * clf.intercept_
    sure = SaliencyMapMethod(clf, theta=0.2).run(X.astype(np.float32))
    assert sure.success.all()
    assert_array_equal(sure.X_adv, plain.X_adv)
    assert_array_equal(
        SaliencyMapMethod(clf, theta=0.2, scores="logits").transform(X), SaliencyMapMethod(clf, theta=0.2).transform(X)
    )
