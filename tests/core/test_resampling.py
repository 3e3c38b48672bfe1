"""Affine resampling as a sparse linear map, against SciPy's own resampling of one image."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from skart._core._arrays import to_numpy
from skart._core._resampling import columns_of, resampling

SHAPES = [(9, 7), (6, 6), (1, 8)]


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [-170.0, -30.0, 12.5, 90.0])
def test_rotation(xp, shape, angle):
    expected = ndimage.rotate(image(shape), angle, reshape=False, order=1, mode="grid-constant")
    turned = resampling(shape, shape, angle=angle)(xp.asarray(image(shape).ravel()))
    assert_allclose(to_numpy(turned), expected.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [(2, -1), (0.3, 1.6), (-0.5, 0), (20, 0)])
def test_translation(shape, shift):
    moved = resampling(shape, shape, shift=shift)(image(shape).ravel())
    expected = ndimage.shift(image(shape), shift, order=1, mode="grid-constant")
    assert_allclose(moved, expected.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_everything_at_once(scale):
    source, target, angle, shift = (5, 5), (8, 10), 25.0, (0.7, -1.2)
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / scale
    middle = np.array([3.5, 4.5]) + shift
    expected = ndimage.affine_transform(
        image(source), matrix, offset=np.array([2.0, 2.0]) - matrix @ middle, output_shape=target, order=1,
        mode="grid-constant",
    )  # fmt: skip
    moved = resampling(source, target, angle=angle, shift=shift, scale=scale)(image(source).ravel())
    assert_allclose(moved, expected.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identity_is_exact(xp, dtype):
    x = xp.asarray(image((9, 7)).astype(dtype).reshape(-1, 1))
    same = resampling((9, 7), (9, 7), dtype=dtype)(x)
    assert same.dtype == x.dtype
    assert_array_equal(to_numpy(same), to_numpy(x))


@pytest.mark.parametrize("paired", [False, True])
def test_pullback_is_the_transpose(xp, paired):
    rng = np.random.default_rng(1)
    n = 4
    move = resampling(
        (5, 6), (7, 4), angle=rng.uniform(-90, 90, n), shift=rng.uniform(-2, 2, (2, n)), scale=rng.uniform(0.5, 2, n),
        paired=paired,
    )  # fmt: skip
    x, y = rng.normal(size=(30 * (n if paired else 1), 2)), rng.normal(size=(28 * n, 2))
    forward, back = to_numpy(move(xp.asarray(x))), to_numpy(move.pullback(xp.asarray(y)))
    assert (forward.shape, back.shape) == (y.shape, x.shape)
    assert_allclose(np.sum(forward * y), np.sum(x * back), rtol=1e-12)
    assert np.abs(forward).max() > 0.1


@pytest.mark.parametrize("paired", [False, True])
def test_several_maps_are_those_one_by_one(paired):
    angles, down, right = [0.0, 40.0, -75.0], [0.0, 1.5, -2.0], [1.0, 0.2, -0.3]
    sources = [image((5, 6), seed) for seed in ((0, 1, 2) if paired else (0, 0, 0))]
    stacked = np.concatenate([source.ravel() for source in sources]) if paired else sources[0].ravel()
    together = resampling((5, 6), (5, 6), angle=angles, shift=(down, right), paired=paired)(stacked)
    alone = [
        resampling((5, 6), (5, 6), angle=a, shift=(d, r))(source.ravel())
        for a, d, r, source in zip(angles, down, right, sources)
    ]
    assert_array_equal(together, np.concatenate(alone))


def test_coverage_is_what_an_image_of_ones_becomes():
    move = resampling((6, 6), (6, 6), angle=30.0, shift=(1.4, 0))
    assert_array_equal(move.coverage(), move(np.ones(36)))
    assert_allclose(move.coverage().max(), 1)
    assert move.coverage().min() == 0


def test_single_precision_is_as_near_as_it_can_be():
    x = image((28, 28)).ravel()
    exact = resampling((28, 28), (28, 28), angle=33.0, shift=(1.2, 0.7))(x)
    single = resampling((28, 28), (28, 28), angle=33.0, shift=(1.2, 0.7), dtype=np.float32)(x.astype(np.float32))
    assert single.dtype == np.float32
    assert_allclose(single, exact, rtol=0, atol=1e-4)


def test_columns_are_planes(xp):
    planes = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    columns = to_numpy(columns_of(xp.asarray(planes)))
    assert columns.shape == (20, 6)
    assert_array_equal(columns[:, 4], planes[1, 1].ravel())
