"""Rotations and translations of images."""

import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skart.attacks import SpatialTransformation
from skart.metrics import make_robustness_scorer
from tests.common._models import wrap_module

GRID = {"max_translation": 25.0, "num_translations": 3, "max_rotation": 40.0, "num_rotations": 5}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return SVC(C=10).fit(X[:1000], y[:1000]), X[1000:1120], y[1000:1120]


def spatial(model, **params):
    return SpatialTransformation(FrozenEstimator(model), **{**GRID, "image_shape": (8, 8), **params})


def brute_force(X, rotation, right, down, shape=(8, 8)):
    """One image at a time, by SciPy: turned, then moved, in one interpolation."""
    height, width = shape
    turn = np.deg2rad(rotation)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    offset = middle - matrix @ (middle + [down / 100 * height, right / 100 * width])
    images = X.reshape(-1, height, width)
    return np.array(
        [ndimage.affine_transform(image, matrix, offset, order=1, mode="grid-constant") for image in images]
    ).reshape(X.shape)


def whole_grid():
    shifts = np.linspace(-25, 25, 3)
    return list(product(np.linspace(-40, 40, 5), shifts, shifts))


def test_the_grid_search_is_brute_force(digits):
    clf, X, _ = digits
    clean = clf.predict(X)
    rates = {place: np.mean(clf.predict(brute_force(X, *place)) != clean) for place in whole_grid()}
    attack = spatial(clf).fit(X)
    found = (attack.rotation_, *attack.translation_)
    assert attack.fooling_rate_ == rates[found] == max(rates.values()) > 0.8
    assert_allclose(attack.transform(X), brute_force(X, *found), rtol=0, atol=1e-9)


def test_each_sample_finds_the_mildest_that_deceives(digits):
    clf, X, _ = digits
    clean = clf.predict(X)
    size = [(r / 40) ** 2 + (a / 25) ** 2 + (b / 25) ** 2 for r, a, b in whole_grid()]
    wrong = np.array([clf.predict(brute_force(X, *place)) != clean for place in whole_grid()])
    mildest = np.min(np.where(wrong, np.array(size)[:, None], np.inf), axis=0)
    few = {"max_rotation": 40.0, "num_rotations": 5}
    attack = spatial(clf, per_sample=True, **few)
    result = attack.run(X)
    assert_array_equal(result.success, np.isfinite(mildest))
    assert result.n_queries.max() <= 2 * len(size) + 6
    images = {place: brute_force(X, *place) for place in whole_grid()}
    for i in np.flatnonzero(result.success):
        same = [k for k, place in enumerate(whole_grid()) if np.allclose(images[place][i], result.X_adv[i], atol=1e-9)]
        assert any(np.isclose(size[k], mildest[i]) and wrong[k, i] for k in same)


def test_what_resists_comes_back_at_its_worst(digits):
    clf, X, _ = digits
    gentle = {"max_translation": 0.0, "num_translations": 1, "max_rotation": 8.0, "num_rotations": 5}
    result = spatial(clf, per_sample=True, **gentle).run(X)
    resists = ~result.success
    assert resists.sum() > 50
    from skart.oracles import as_oracle

    def margins(X):
        scores = as_oracle(clf, X).logits(X)
        own = scores[np.arange(len(X)), clf.predict(X)].copy()
        scores[np.arange(len(X)), clf.predict(X)] = -np.inf
        return scores.max(axis=1) - own

    every = np.array([margins(brute_force(X, angle, 0, 0)) for angle in np.linspace(-8, 8, 5)])
    assert_allclose(margins(result.X_adv)[resists], every.max(axis=0)[resists], rtol=1e-9)


class Corner(ClassifierMixin, BaseEstimator):
    """Says whether the first pixel is bright, or, as a wrapper, what its model says; labels and nothing else."""

    def __init__(self, model=None):
        self.model = model

    def fit(self, X, y=None):
        self.classes_, self.n_features_in_ = np.unique(y), X.shape[1]
        return self

    def predict(self, X):
        return np.asarray(X[:, 0] > 0.5, dtype=int) if self.model is None else self.model.predict(X)


@pytest.mark.parametrize(("right", "down"), [(20.0, 0.0), (0.0, 25.0)])
def test_both_axes_are_used(right, down):
    X = np.zeros((4, 20))
    X[:, 0] = 1.0
    model = Corner().fit(np.r_[X, 0 * X], [1] * 4 + [0] * 4)
    # One of the axes does not go far enough to hide the bright pixel from a model that looks there.
    grid = {"max_translation": right + down, "num_translations": 3, "num_rotations": 1, "image_shape": (4, 5)}
    attack = SpatialTransformation(FrozenEstimator(model), **grid).fit(X)
    assert attack.fooling_rate_ == 1
    attack.translation_ = (right, down)
    moved = attack.transform(X).reshape(4, 4, 5)
    assert_allclose(moved[:, int(down > 0), int(right > 0)], 1)
    assert_allclose(moved.sum(), 4)


def test_labels_are_enough(digits):
    clf, X, _ = digits
    labels_only = Corner(clf).fit(X, clf.predict(X))
    attack = spatial(labels_only).fit(X)
    assert attack.fooling_rate_ == spatial(clf).fit(X).fooling_rate_
    each = spatial(labels_only, per_sample=True).run(X)
    assert_array_equal(each.success, spatial(clf, per_sample=True).run(X).success)
    tree = DecisionTreeClassifier(random_state=0).fit(X, clf.predict(X))
    assert spatial(tree).fit(X).fooling_rate_ > 0.5


def test_targets(digits):
    clf, X, _ = digits
    rates = {place: np.mean(clf.predict(brute_force(X, *place)) == 8) for place in whole_grid()}
    attack = spatial(clf, target=8).fit(X)
    assert attack.fooling_rate_ == max(rates.values())
    each = spatial(clf, target="runner_up", per_sample=True).run(X)
    assert_array_equal(each.success, each.y_adv == each.y)
    assert 0.2 < each.success.mean() < 1
    with pytest.raises(ValueError, match="None or one class label"):
        spatial(clf, target="runner_up").fit(X)


def test_the_identity_is_exact(digits):
    clf, X, _ = digits
    still = {"max_translation": 0.0, "num_translations": 1, "max_rotation": 0.0, "num_rotations": 1}
    with pytest.warns(Warning, match="came back unchanged"):
        assert_array_equal(spatial(clf, **still).fit(X).transform(X), X)


@pytest.mark.parametrize("per_sample", [False, True])
def test_stays_in_the_box(per_sample, digits):
    clf, X, _ = digits
    low, high = X.min(axis=0), X.max(axis=0) + 1e-9
    X_adv = spatial(clf, clip_values=(low, high), per_sample=per_sample).fit(X).transform(X)
    assert np.all(X_adv >= low)
    assert np.all(X_adv <= high)
    filled = spatial(clf, fill=100.0, clip_values=(0, 16), per_sample=per_sample).fit(X).transform(X)
    assert filled.max() == 16


def test_fill_comes_in_from_outside(digits):
    clf, X, _ = digits
    plain, filled = (spatial(clf, fill=fill, max_rotation=0.0, num_rotations=1).fit(X) for fill in (0.0, 3.0))
    place = (plain.rotation_, *plain.translation_)
    filled.rotation_, filled.translation_ = plain.rotation_, plain.translation_
    expected = brute_force(X - 3, *place) + 3
    assert_allclose(filled.transform(X), expected, rtol=0, atol=1e-9)


def test_channels(digits):
    """A pixel goes the same way in each channel, wherever the channels stand."""
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(30, 3, 6, 5)).astype(np.float32)
    torch.manual_seed(0)
    net = wrap_module(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 3)))
    expected = None
    for per_sample in (False, True):
        first = SpatialTransformation(FrozenEstimator(net), per_sample=per_sample, channels="first", **GRID).fit(planes)
        moved = first.transform(planes)
        assert (moved.shape, moved.dtype) == (planes.shape, planes.dtype)
        if not per_sample:
            place = (first.rotation_, *first.translation_)
            expected = brute_force(planes.reshape(90, 6, 5).astype(float), *place, shape=(6, 5)).reshape(planes.shape)
            assert_allclose(moved, expected, rtol=0, atol=1e-5)
        rows = SpatialTransformation(
            FrozenEstimator(net), per_sample=per_sample, channels="first", image_shape=(3, 6, 5), **GRID
        ).fit(planes.reshape(30, -1))
        assert_array_equal(rows.transform(planes.reshape(30, -1)).reshape(planes.shape), moved)
        tensors = first.transform(torch.from_numpy(planes))
        assert_array_equal(tensors.numpy(), moved)


def test_batches_and_processes_change_nothing(digits):
    clf, X, _ = digits
    for per_sample in (False, True):
        whole = spatial(clf, per_sample=per_sample).fit(X)
        parts = spatial(clf, per_sample=per_sample, batch_size=17, n_jobs=2).fit(X)
        assert_array_equal(parts.transform(X), whole.transform(X))
        assert_array_equal(parts.run(X).n_queries.sum(), parts.set_params(n_jobs=1).run(X).n_queries.sum())


def test_what_is_learnt_and_what_is_not(digits):
    clf, X, y = digits
    with pytest.raises(NotFittedError, match=r"call `fit\(X, y\)` first"):
        SpatialTransformation(clf, image_shape=(8, 8)).transform(X)
    # There is nothing to learn where each sample is searched for.
    each = SpatialTransformation(clf, per_sample=True, image_shape=(8, 8), **GRID)
    assert np.mean(clf.predict(each.transform(X)) != y) > 0.9
    recipe = SpatialTransformation(image_shape=(8, 8), **GRID)
    with pytest.raises(NotFittedError, match="learnt nothing"):
        make_robustness_scorer(recipe)(clf, X, y)
    recipe.fit(X, y)
    place = (recipe.rotation_, *recipe.translation_)
    stays = (clf.predict(brute_force(X, *place)) == y) & (clf.predict(X) == y)
    assert make_robustness_scorer(recipe)(clf, X, y) == np.mean(stays)
    recipe.set_params(per_sample=True).fit(X, y)
    assert not hasattr(recipe, "rotation_")


def test_frames_of_pixels_go_round(digits):
    clf, X, _ = digits
    frame = pd.DataFrame(X, columns=[f"pixel{k}" for k in range(64)], index=np.arange(len(X)) * 2)
    model = SVC().fit(frame, clf.predict(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack = spatial(model).fit(frame)
        moved = attack.transform(frame)
    assert_array_equal(moved.columns, frame.columns)
    assert_array_equal(moved.index, frame.index)
    assert_array_equal(moved.to_numpy(), attack.transform(frame).to_numpy())


def test_what_does_not_fit(digits):
    clf, X, _ = digits
    with pytest.raises(ValueError, match=r"SpatialTransformation needs images.*image_shape=\(height, width\)"):
        spatial(clf, image_shape=None).fit(X)
    with pytest.raises(ValueError, match="no image of shape"):
        spatial(clf, image_shape=(8, 9)).fit(X)
    with pytest.raises(TypeError, match="mask"):
        spatial(clf, mask=[0])
    for name, value in {
        "max_rotation": 200.0,
        "max_translation": -1.0,
        "num_rotations": 0,
        "channels": "middle",
    }.items():
        with pytest.raises(ValueError, match=name):
            spatial(clf, **{name: value}).fit(X)
