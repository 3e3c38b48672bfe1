"""Samples read as images."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skart._core._arrays import to_numpy
from skart.utils._images import image_layout

IMAGES = np.arange(2 * 3 * 6 * 5.0).reshape(2, 3, 6, 5)  # (n, channels, height, width)
LAST = IMAGES.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("X", "image_shape", "channels"),
    [
        (IMAGES, None, "first"),
        (IMAGES, None, None),
        (IMAGES, (3, 6, 5), None),
        (IMAGES.reshape(2, -1), (3, 6, 5), "first"),
        (IMAGES.reshape(2, -1), (3, 6, -1), "first"),
        (LAST, None, "last"),
        (LAST, None, None),
        (LAST.reshape(2, -1), (6, 5, 3), "last"),
        (LAST.reshape(2, -1), [6, -1, 3], None),
    ],
)
def test_three_channels(xp, X, image_shape, channels):
    layout = image_layout(X.shape[1:], image_shape, channels, owner="Test")
    assert (layout.height, layout.width, layout.n_channels) == (6, 5, 3)
    planes = layout.planes(xp.asarray(np.ascontiguousarray(X)))
    assert_array_equal(to_numpy(planes), IMAGES)
    assert_array_equal(to_numpy(layout.samples(planes)), X)


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((30,), (6, 5)), ((30,), (6, -1)), ((6, 5), None), ((1, 6, 5), None), ((6, 5, 1), None), ((1, 6, 5), (6, 5))],
)
def test_one_channel(shape, image_shape):
    X = IMAGES[:, 0].reshape(2, *shape)
    layout = image_layout(shape, image_shape, owner="Test")
    assert layout.n_channels == 1
    assert_array_equal(layout.planes(X)[:, 0], IMAGES[:, 0])
    assert_array_equal(layout.samples(layout.planes(X)), X)


@pytest.mark.parametrize(
    ("shape", "image_shape", "channels", "message"),
    [
        ((20,), None, None, r"Test needs images, and a sample has shape \(20,\).*image_shape=\(height, width\)"),
        ((20,), (4, 4), None, r"shape \(20,\), which is no image of shape \(4, 4\)"),
        ((20,), (3, -1), None, "which is no image"),
        ((20,), (-1, -1), None, "one may be -1"),
        ((20,), (4, 5.5), None, "three integers"),
        ((20,), (0, 5), None, "three integers"),
        ((20,), 20, None, "three integers"),
        ((4, 5), (5, 4), None, "which is no image"),
        ((3, 28, 3), None, None, "cannot tell where the channels stand"),
        ((28, 28, 7), None, None, "cannot tell where the channels stand"),
        ((60,), (3, 4, 5), "middle", "channels must be"),
    ],
)
def test_what_does_not_fit(shape, image_shape, channels, message):
    with pytest.raises(ValueError, match=message):
        image_layout(shape, image_shape, channels, owner="Test")
