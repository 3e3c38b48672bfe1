"""Adversarial patches."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skart.attacks import AdversarialPatch
from skart.attacks.universal._patch import _disc, _stick
from skart.exceptions import GradientUnavailableError
from skart.metrics import make_robustness_scorer
from skart.utils._images import image_layout
from tests.common._models import wrap_module


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return LogisticRegression(max_iter=1000).fit(X[:1000], y[:1000]), X[:300], X[1000:], y[1000:]


def patch(model, **params):
    defaults = {"image_shape": (8, 8), "clip_values": (0, 1), "max_iter": 60, "random_state": 0}
    return AdversarialPatch(FrozenEstimator(model), **{**defaults, **params})


@pytest.mark.parametrize("patch_type", ["circle", "square"])
def test_reaches_its_target(patch_type, digits):
    clf, X, X_test, _ = digits
    attack = patch(clf, target=3, patch_type=patch_type, scale_min=0.5, scale_max=0.7, location=(0.5, 0.5)).fit(X)
    assert np.mean(clf.predict(attack.apply_patch(X_test, scale=0.6)) == 3) > 0.9
    assert attack.fooling_rate_ == np.mean(clf.predict(attack.transform(X)) == 3)
    blank = clone(attack).set_params(max_iter=1, learning_rate=1e-9).fit(X)
    assert np.mean(clf.predict(blank.apply_patch(X_test, scale=0.6)) == 3) < 0.4


def test_other_models_too(digits):
    _, X, X_test, _ = digits
    X_all, y = load_digits(return_X_y=True)
    clf = SVC().fit(X_all[:1000] / 16, y[:1000])
    attack = patch(clf, target=8, scale_min=0.6, scale_max=0.8, patch_type="square").fit(X)
    assert attack.run(X_test).success.mean() > 0.7


def test_untargeted_is_better_than_a_grey_patch(digits):
    clf, X, X_test, _ = digits
    attack = patch(clf).fit(X)
    grey = clone(attack).set_params(max_iter=1, learning_rate=1e-9).fit(X)
    assert attack.run(X_test).success.mean() > grey.run(X_test).success.mean() + 0.15


def test_images_are_covered_as_scipy_would(digits):
    """Size, rotation and place fixed: the patch by SciPy's own interpolation, on top of the image."""
    clf, X, X_test, _ = digits
    attack = patch(clf, patch_type="square", rotation_max=0.0, location=(0.4, 0.65)).fit(X)
    patched = attack.apply_patch(X_test[:5], scale=0.5).reshape(-1, 8, 8)
    # A pixel of the image is two of the patch; centres meet at 40 % of the height and 65 % of the width.
    matrix = np.diag([2.0, 2.0])
    centre = np.array([3.5 + (0.4 - 0.5) * 8, 3.5 + (0.65 - 0.5) * 8])
    args = {"matrix": matrix, "offset": 3.5 - matrix @ centre, "order": 1, "mode": "grid-constant"}
    cover, paint = (ndimage.affine_transform(image, **args) for image in (np.ones((8, 8)), attack.patch_))
    assert_allclose(patched, X_test[:5].reshape(-1, 8, 8) * (1 - cover) + paint, rtol=0, atol=1e-12)
    assert 0.2 < cover.mean() < 0.35


def test_gradient_by_the_patch_is_right(xp):
    rng = np.random.default_rng(0)
    layout = image_layout((6, 5, 3), None, "last", owner="Test")
    attack = AdversarialPatch(rotation_max=40.0)
    move = attack._placed(rng.random((4, 4)), layout, 5, np.float64)
    x, pixels, cotangent = rng.random((4, 6, 5, 3)), rng.random((25, 3)), rng.normal(size=(4, 6, 5, 3))
    shape = _disc(5, xp.asarray(x))

    def value(pixels):
        stuck, pullback = _stick(xp.asarray(x), xp.asarray(pixels), shape, move, layout)
        return float(xp.sum(stuck * xp.asarray(cotangent))), pullback

    gradient = np.asarray(value(pixels)[1](xp.asarray(cotangent)))
    steps = np.eye(75).reshape(75, 25, 3) * 1e-4
    central = [(value(pixels + step)[0] - value(pixels - step)[0]) / 2e-4 for step in steps]
    assert_allclose(gradient.ravel(), central, rtol=0, atol=1e-8)
    assert np.abs(gradient).max() > 0.1


@pytest.mark.parametrize("patch_type", ["circle", "square"])
def test_all_of_it_lies_on_the_image(patch_type):
    layout = image_layout((20, 30), owner="Test")
    attack = AdversarialPatch(patch_type=patch_type, rotation_max=45.0)
    rng = np.random.default_rng(0)
    move = attack._placed(rng.random((200, 4)), layout, 20, np.float64, np.full(200, 0.5))
    opaque = np.ones(400) if patch_type == "square" else _disc(20, np.ones(1))
    covers = move(opaque).reshape(200, 20, 30)
    area = 100 if patch_type == "square" else np.pi * 25
    # Bilinear edges count by halves.
    assert_allclose(covers.sum(axis=(1, 2)), area, rtol=0.12)
    centres = [
        np.average(np.arange(n), axis=None, weights=covers.sum(axis=(0, axis))) for n, axis in ((20, 2), (30, 1))
    ]
    assert_allclose(centres, [9.5, 14.5], atol=0.8)
    # Places, sizes and rotations do vary.
    assert len(np.unique(covers.reshape(200, -1), axis=0)) == 200


def test_draws_are_those_of_the_sample(digits):
    clf, X, X_test, _ = digits
    attack = patch(clf, max_iter=3).fit(X)
    whole = attack.transform(X_test)
    for params in ({"batch_size": 7}, {"batch_size": 50, "n_jobs": 2}):
        assert_array_equal(attack.set_params(**params).transform(X_test), whole)
    assert_array_equal(attack.apply_patch(X_test), whole)
    assert_array_equal(attack.transform(X_test[:9]), whole[:9])
    twins = attack.transform(np.repeat(X_test[:1], 6, axis=0))
    assert len(np.unique(twins, axis=0)) == 6
    assert np.any(attack.set_params(random_state=1).transform(X_test) != whole)
    free = attack.set_params(random_state=None)
    assert np.any(free.transform(X_test) != free.transform(X_test))


def test_repeats_and_copies(digits):
    clf, X, X_test, _ = digits
    attack = patch(clf, max_iter=5, batch_size=64).fit(X)
    assert_array_equal(clone(attack).fit(X).patch_, attack.patch_)
    assert_array_equal(pickle.loads(pickle.dumps(attack)).transform(X_test), attack.transform(X_test))
    assert attack.n_iter_ == 5


@pytest.mark.parametrize("clip_values", [(0.2, 0.9), None, "fit"])
def test_patch_and_images_stay_in_range(clip_values, digits):
    clf, X, X_test, _ = digits
    X, X_test = 0.2 + 0.7 * X, 0.2 + 0.7 * X_test
    attack = patch(clf, clip_values=clip_values, max_iter=20).fit(X)
    assert attack.patch_.min() >= X.min() - 1e-12
    assert attack.patch_.max() <= X.max() + 1e-12
    assert np.ptp(attack.patch_) > 0.5
    X_adv = attack.transform(X_test)
    low, high = (X.min(axis=0), X.max(axis=0)) if clip_values == "fit" else (X.min() - 1e-12, X.max() + 1e-12)
    assert np.all(X_adv >= np.minimum(low, X_test))
    assert np.all(X_adv <= np.maximum(high, X_test))


def test_a_mask_hides_it(digits):
    clf, X, X_test, _ = digits
    mask = np.arange(64) % 8 < 4
    attack = patch(clf, mask=mask, max_iter=10).fit(X)
    X_adv = attack.transform(X_test)
    assert_array_equal(X_adv[:, ~mask], X_test[:, ~mask])
    assert np.any(X_adv[:, mask] != X_test[:, mask])


@pytest.mark.parametrize("channels", ["first", "last"])
def test_channels(channels):
    rng = np.random.default_rng(0)
    shape = (3, 8, 6) if channels == "first" else (8, 6, 3)
    X = rng.random((40, *shape), dtype=np.float32)
    torch.manual_seed(0)
    net = wrap_module(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)))
    params = {"channels": channels, "clip_values": (0, 1), "target": 0, "max_iter": 60, "random_state": 0}
    attack = AdversarialPatch(FrozenEstimator(net), scale_min=0.9, scale_max=1.0, patch_type="square", **params).fit(X)
    assert attack.patch_.shape == ((3, 6, 6) if channels == "first" else (6, 6, 3))
    assert attack.patch_.dtype == np.float32
    assert attack.run(X).success.mean() > np.mean(net.predict(X) == 0) + 0.3
    rows = attack.set_params(image_shape=shape).fit(X.reshape(40, -1))
    X_adv = rows.transform(torch.from_numpy(X.reshape(40, -1)))
    assert isinstance(X_adv, torch.Tensor)
    # The same map in every channel: pixels that stay do so in all of them.
    moved = (X_adv.numpy().reshape(X.shape) != X).all(axis=1 if channels == "first" else -1)
    assert 0.2 < moved.mean() < 0.95
    with pytest.raises(ValueError, match="where these images want"):
        rows.set_params(image_shape=(12, 12)).transform(X.reshape(40, -1))


def test_a_recipe_keeps_what_it_learnt(digits):
    clf, X, X_test, y_test = digits
    recipe = patch(clf, location=(0.5, 0.5)).set_params(estimator=None)
    with pytest.raises(NotFittedError, match="learnt nothing"):
        make_robustness_scorer(recipe)(clf, X_test, y_test)
    with pytest.raises(NotFittedError, match="learnt nothing"):
        recipe.apply_patch(X_test)
    recipe.fit(X, clf.predict(X))
    stays = (clf.predict(recipe.apply_patch(X_test)) == y_test) & (clf.predict(X_test) == y_test)
    assert make_robustness_scorer(recipe)(clf, X_test, y_test) == np.mean(stays)


def test_frames_of_pixels_go_round(digits):
    clf, X, X_test, _ = digits
    columns = [f"pixel{k}" for k in range(64)]
    model = LogisticRegression(max_iter=500).fit(pd.DataFrame(X, columns=columns), clf.predict(X))
    frame = pd.DataFrame(X_test, columns=columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack = patch(model, max_iter=3).fit(pd.DataFrame(X, columns=columns))
        patched, alone = attack.transform(frame), attack.apply_patch(frame)
    assert_array_equal(patched.columns, columns)
    assert patched.equals(alone)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scale_min": 0.8, "scale_max": 0.5}, "scale_min=0.8 is larger than scale_max=0.5"),
        ({"location": (0.5,)}, "two shares"),
        ({"location": (0.5, 3)}, "two shares"),
        ({"image_shape": None}, "AdversarialPatch needs images"),
        ({"target": "random"}, "None or one class label"),
        ({"patch_type": "star"}, "patch_type"),
    ],
)
def test_what_does_not_fit(params, message, digits):
    clf, X, _, _ = digits
    with pytest.raises(ValueError, match=message):
        patch(clf, **params).fit(X)


def test_needs_gradients_to_learn_and_none_to_apply(digits):
    clf, X, X_test, _ = digits
    tree = DecisionTreeClassifier(random_state=0).fit(X, clf.predict(X))
    with pytest.raises(GradientUnavailableError, match="needs gradients to learn"):
        patch(tree).fit(X)
    recipe = patch(clf).set_params(estimator=None).fit(X, clf.predict(X))
    assert 0 <= make_robustness_scorer(recipe)(tree, X_test, tree.predict(X_test)) < 1
    with pytest.raises(ValueError, match="scale must lie"):
        recipe.apply_patch(X_test, scale=1.5)
