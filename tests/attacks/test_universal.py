"""One perturbation for all samples."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skart.attacks import (
    AdversarialPatch,
    BasicIterativeMethod,
    FastGradientMethod,
    NewtonFool,
    ProjectedGradientDescent,
    UniversalPerturbation,
)
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from skart.metrics import make_robustness_scorer
from tests.common._discovery import distance
from tests.common._models import as_net, blobs, fitted_mlp, trained_net

NORMS = (1, 2, np.inf)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return LogisticRegression(C=0.1, max_iter=1000).fit(X[:1000], y[:1000]), X[:600], X[1000:], y[1000:]


@pytest.fixture(scope="module")
def linear():
    X, y = blobs(200, n_classes=2)
    return LogisticRegression(C=10.0).fit(X, y), X, y


def frozen(model, **params):
    return UniversalPerturbation(FrozenEstimator(model), **{"random_state": 0, **params})


@pytest.mark.parametrize("norm", NORMS)
def test_one_class_of_a_linear_model_has_a_best_perturbation(norm, linear):
    """All samples of one class want the same: the point of the ball that lowers the score most."""
    clf, X, _ = linear
    zeros = X[clf.predict(X) == 0]
    attack = frozen(clf, norm=norm, eps=0.3, delta=0.0, max_iter=40, batch_size=20).fit(zeros)
    w = clf.coef_[0]
    dual = {1: np.inf, 2: 2, np.inf: 1}[norm]
    assert np.linalg.norm(attack.perturbation_, ord=norm) <= 0.3 * (1 + 1e-12)
    assert attack.perturbation_ @ w > 0.99 * 0.3 * np.linalg.norm(w, ord=dual)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attacker", [None, BasicIterativeMethod(eps=0.3, max_iter=3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stays_in_ball_box_and_mask(norm, attacker, dtype, digits):
    clf, X, X_test, _ = digits
    mask = np.arange(64) % 5 > 0
    X, X_test = X.astype(dtype), X_test.astype(dtype)
    attack = frozen(clf, norm=norm, eps=0.4, max_iter=3, mask=mask, clip_values=(0, 1), attacker=attacker).fit(X)
    X_adv = attack.transform(X_test)
    assert X_adv.dtype == attack.perturbation_.dtype == dtype
    assert np.linalg.norm(attack.perturbation_.astype(float), ord=norm) <= 0.4 * (1 + 1e-6)
    assert_array_equal(attack.perturbation_[~mask], 0)
    assert np.any(attack.perturbation_ != 0)
    assert distance(X_test, X_adv, norm).max() <= 0.4 * (1 + 1e-6)
    assert X_adv.min() >= 0
    assert X_adv.max() <= 1
    # The same for all, but for the box.
    expected = np.clip(X_test + attack.perturbation_, 0, 1)
    assert_allclose(X_adv, expected, rtol=0, atol=1e-6)


def test_a_radius_for_each_feature(digits):
    clf, X, X_test, _ = digits
    eps = np.linspace(0, 0.3, 64)
    attack = frozen(clf, eps=eps, max_iter=3).fit(X)
    assert np.all(np.abs(attack.perturbation_) <= eps)
    assert np.mean(np.abs(attack.perturbation_) > 0.9 * eps) > 0.3
    # A smaller radius after training shortens what is added.
    assert np.abs(attack.set_params(eps=0.05).transform(X_test) - X_test).max() <= 0.05


@pytest.mark.parametrize(
    "attacker",
    [
        None,
        BasicIterativeMethod(norm=2, eps=2, max_iter=5),
    ],
)
def test_deceives_samples_it_has_not_seen(attacker, digits):
    clf, X, X_test, y_test = digits
    attack = frozen(clf, eps=0.4, delta=0.0, max_iter=3, batch_size=8, clip_values=(0, 1), attacker=attacker).fit(X)
    noise = np.random.default_rng(0).choice([-0.4, 0.4], size=64)
    by_noise = np.mean(clf.predict(np.clip(X_test + noise, 0, 1)) != clf.predict(X_test))
    success = attack.run(X_test).success.mean()
    assert success > by_noise + 0.15
    assert attack.fooling_rate_ == np.mean(clf.predict(attack.transform(X)) != clf.predict(X))
    assert attack.n_iter_ == 3


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_losses_and_targets(loss, digits):
    clf, X, X_test, _ = digits
    attack = frozen(clf, eps=0.4, max_iter=10, delta=0.02, target=3, loss=loss, clip_values=(0, 1)).fit(X)
    assert np.mean(clf.predict(attack.transform(X_test)) == 3) > 0.85
    assert attack.fooling_rate_ == np.mean(clf.predict(attack.transform(X)) == 3)


def test_targeted_attacker(digits):
    clf, X, X_test, _ = digits
    attacker = BasicIterativeMethod(eps=0.4, max_iter=10)
    attack = frozen(clf, eps=0.4, max_iter=5, target=3, attacker=attacker, clip_values=(0, 1)).fit(X)
    assert np.mean(clf.predict(attack.transform(X_test)) == 3) > 0.6
    with pytest.raises(ValueError, match="cannot be aimed"):
        attack.set_params(attacker=NewtonFool()).fit(X)


def test_stops_when_enough_are_deceived(digits):
    clf, X, _, _ = digits
    attack = frozen(clf, eps=0.5, delta=0.5, max_iter=50).fit(X)
    assert attack.n_iter_ < 10
    assert attack.fooling_rate_ >= 0.5
    # Nothing to do: as it begins, no sample is deceived, and that is enough.
    idle = frozen(clf, delta=1.0)
    with pytest.warns(AttackFailureWarning, match="came back unchanged"):
        idle.fit(X)
    assert idle.n_iter_ == 0
    assert_array_equal(idle.perturbation_, 0)


def test_batches_of_one_are_algorithm_5():
    """The paper's loop over samples, written out with an attack whose answer is known in closed form."""
    X, y = blobs(30, n_classes=2)
    clf = LogisticRegression(C=10.0).fit(X, y)
    eps, w, b = 0.25, clf.coef_[0], clf.intercept_[0]
    step = 0.2
    attack = frozen(
        clf, norm=2, eps=eps, delta=0.0, max_iter=1, batch_size=1, attacker=FastGradientMethod(norm=2, eps=step)
    ).fit(X)
    # Any order of the samples that the loop may have taken is found in the generator that it draws from.
    from skart._core._random import RandomStream

    order = RandomStream(0).generator(3, 0).permutation(30)
    v, labels = np.zeros(6), X @ w + b > 0
    for i in order:
        if (w @ (X[i] + v) + b > 0) == labels[i]:
            way = step * w / np.linalg.norm(w) * (-1 if labels[i] else 1)
            if (w @ (X[i] + v + way) + b > 0) != labels[i]:
                v = v + way
                v = v * min(1, eps / np.linalg.norm(v))
    assert np.linalg.norm(v) > 0
    assert_allclose(attack.perturbation_, v, rtol=0, atol=1e-9)


def test_a_batch_moves_with_those_that_its_attacks_deceive():
    """Two samples near the boundary can be deceived and ten on its other side cannot: the two are followed."""
    near, far = np.array([[-0.1, 0.0], [-0.1, 0.3]]), np.column_stack([np.full(10, 2.0), np.linspace(-1, 1, 10)])
    X = np.concatenate([near, far])
    clf = LogisticRegression(C=100.0).fit(X, [0, 0] + [1] * 10)
    clf.coef_, clf.intercept_ = np.array([[1.0, 0.0]]), np.zeros(1)
    attack = frozen(clf, norm=2, eps=1.0, max_iter=1, attacker=FastGradientMethod(norm=2, eps=0.25)).fit(X)
    assert_allclose(attack.perturbation_, [0.25, 0.0], atol=1e-12)
    assert attack.fooling_rate_ == 2 / 12


def test_the_best_pass_is_kept(digits):
    clf, X, _, _ = digits
    attacker = ProjectedGradientDescent(eps=0.3, max_iter=3)
    rates = [
        frozen(clf, eps=0.4, delta=0.0, max_iter=k, attacker=attacker, clip_values=(0, 1)).fit(X).fooling_rate_
        for k in range(1, 9)
    ]
    assert np.all(np.diff(rates) >= 0)
    assert rates[-1] > rates[0]


@pytest.mark.parametrize("norm", [2, np.inf])
def test_nothing_is_spent_where_the_box_holds_everybody_back(norm):
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(40), np.zeros(40), rng.random((40, 4)) * 0.4])
    clf = LogisticRegression().fit(X, np.arange(40) % 2)
    clf.coef_, clf.intercept_ = np.array([[3.0, -3.0, 1.0, 1.0, 1.0, 1.0]]), np.array([-5.0])
    attack = frozen(clf, norm=norm, eps=0.3, delta=0.0, max_iter=5, clip_values=(0, 1)).fit(X)
    assert_array_equal(attack.perturbation_[:2], 0)
    assert np.all(attack.perturbation_[2:] > 0.1)


def test_a_tree_is_attacked_by_way_of_a_surrogate_only(digits):
    _, X, _, _ = digits
    tree = DecisionTreeClassifier(max_depth=5, random_state=0).fit(X, np.arange(600) % 3)
    with pytest.raises(GradientUnavailableError, match=r"needs gradients where no `attacker`.*DecisionTree"):
        frozen(tree).fit(X)


def test_a_recipe_keeps_what_it_learnt(digits):
    clf, X, X_test, y_test = digits
    recipe = UniversalPerturbation(eps=0.3, random_state=0, clip_values=(0, 1))
    scorer = make_robustness_scorer(recipe)
    with pytest.raises(NotFittedError, match="learnt nothing yet"):
        scorer(clf, X_test, y_test)
    recipe.fit(X, clf.predict(X))
    learnt = recipe.perturbation_.copy()
    svc = SVC().fit(X, clf.predict(X))
    score = make_robustness_scorer(recipe)(svc, X_test, y_test)
    stays = svc.predict(np.clip(X_test + learnt, 0, 1)) == y_test
    assert score == np.mean(stays & (svc.predict(X_test) == y_test))
    assert_array_equal(recipe.perturbation_, learnt)


def test_unfitted_raises_even_on_a_fitted_model(digits):
    clf, X, _, _ = digits
    with pytest.raises(NotFittedError, match=r"call `fit\(X, y\)` first.*FrozenEstimator"):
        UniversalPerturbation(clf).transform(X)


def test_repeats_and_copies(digits):
    clf, X, X_test, _ = digits
    attack = frozen(clf, max_iter=2, eps=0.2, attacker=ProjectedGradientDescent(eps=0.2, max_iter=3)).fit(X)
    again = clone(attack).fit(X)
    assert_array_equal(again.perturbation_, attack.perturbation_)
    assert np.any(clone(attack).set_params(random_state=1).fit(X).perturbation_ != attack.perturbation_)
    copied = pickle.loads(pickle.dumps(attack))
    for other in (copied, clone(attack).set_params(n_jobs=2).fit(X)):
        assert_array_equal(other.transform(X_test), attack.transform(X_test))
    assert_array_equal(attack.set_params(batch_size=7).transform(X_test), copied.transform(X_test))


def test_numpy_and_torch_learn_the_same():
    X, y = blobs(100)
    mlp = fitted_mlp(X, y)
    for params in ({}, {"attacker": BasicIterativeMethod(eps=0.2, max_iter=3)}, {"norm": 1, "eps": 1.0}):
        of_numpy = frozen(mlp, max_iter=3, clip_values=(0, 1), **params).fit(X)
        of_torch = frozen(as_net(mlp), max_iter=3, clip_values=(0, 1), **params).fit(X)
        assert_allclose(of_torch.perturbation_, of_numpy.perturbation_, rtol=0, atol=1e-6)


def test_frames_go_round(digits):
    clf, X, X_test, _ = digits
    columns = [f"pixel{k}" for k in range(64)]
    frame = pd.DataFrame(X_test, columns=columns, index=np.arange(len(X_test)) + 3)
    params = {"max_iter": 2, "mask": columns[:40], "clip_values": "fit"}
    attack = frozen(
        LogisticRegression(max_iter=500).fit(pd.DataFrame(X, columns=columns), np.arange(600) % 4), **params
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = attack.fit(pd.DataFrame(X, columns=columns)).transform(frame)
    assert_array_equal(moved.columns, columns)
    assert_array_equal(moved.index, frame.index)
    assert_array_equal(moved.iloc[:, 40:], frame.iloc[:, 40:])
    assert np.any(moved.iloc[:, :40] != frame.iloc[:, :40])


def test_images_keep_their_shape():
    X, y = blobs(60, n_features=16)
    net = trained_net(X, y)
    import torch

    net.module_ = torch.nn.Sequential(torch.nn.Flatten(), net.module_)
    images = X.reshape(60, 1, 4, 4).astype(np.float32)
    attack = frozen(net, max_iter=2).fit(images)
    assert attack.perturbation_.shape == (1, 4, 4)
    assert attack.transform(images).shape == images.shape
    with pytest.raises(ValueError, match=r"perturbation has shape \(1, 4, 4\).*shape \(1, 2, 8\)"):
        attack.transform(images.reshape(60, 1, 2, 8))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"attacker": FastGradientMethod(LogisticRegression())}, ValueError, "its estimator must be None"),
        ({"attacker": LogisticRegression()}, (TypeError, ValueError), "attacker"),
        ({"attacker": AdversarialPatch()}, TypeError, "one by one"),
        ({"target": "least_likely"}, ValueError, "None or one class label"),
        ({"target": "given"}, ValueError, "None or one class label"),
        ({"target": 11}, ValueError, "no class of the model"),
        ({"loss": "kl"}, ValueError, "loss"),
        ({"delta": 1.5}, ValueError, "delta"),
    ],
)
def test_what_does_not_fit(params, error, message, digits):
    clf, X, _, _ = digits
    attack = frozen(clf, **params)
    before = dict(vars(attack))
    with pytest.raises(error, match=message):
        attack.fit(X)
    assert vars(attack) == before


def test_a_blind_attack_says_so(digits):
    clf, X, _, _ = digits
    sure = LogisticRegression().fit(X[:50], np.arange(50) % 3)
    sure.coef_ = np.zeros_like(sure.coef_)
    with pytest.warns(AttackFailureWarning, match="gradient is zero"):
        frozen(sure, max_iter=2).fit(X)


def test_saturated_models_are_no_obstacle(digits):
    clf, X, X_test, _ = digits
    sure = LogisticRegression().fit(X[:50], np.arange(50) % 10)
    sure.coef_, sure.intercept_ = clf.coef_ * 1e4, clf.intercept_ * 1e4
    attack = frozen(sure, eps=0.3, delta=0.0, max_iter=3).fit(X.astype(np.float32))
    assert attack.run(X_test.astype(np.float32)).success.mean() > 0.6
