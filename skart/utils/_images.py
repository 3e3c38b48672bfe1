"""Samples read as images: flat rows, (n, height, width), and channels first or last."""

import math
from typing import NamedTuple

from skart._core._arrays import array_namespace

__all__ = ["CHANNELS", "ImageLayout", "image_layout"]

CHANNELS = ("first", "last")


class ImageLayout(NamedTuple):
    """How samples hold their images; made by :func:`image_layout`.

    Attributes
    ----------
    shape : tuple of int
        Shape of a sample, as it comes and goes.
    height, width, n_channels : int
    first : bool
        Whether channels stand before rows and columns, or behind them.
    """

    shape: tuple
    height: int
    width: int
    n_channels: int
    first: bool

    def planes(self, x):
        """Samples (n, *shape) as planes, (n, n_channels, height, width)."""
        xp = array_namespace(x)
        if self.first:
            return xp.reshape(x, (x.shape[0], self.n_channels, self.height, self.width))
        images = xp.reshape(x, (x.shape[0], self.height, self.width, self.n_channels))
        return xp.permute_dims(images, (0, 3, 1, 2))

    def samples(self, planes):
        """Planes (n, n_channels, height, width) as samples (n, *shape)."""
        xp = array_namespace(planes)
        images = planes if self.first else xp.permute_dims(planes, (0, 2, 3, 1))
        return xp.reshape(images, (planes.shape[0], *self.shape))


def image_layout(shape, image_shape=None, channels=None, *, owner):
    """Read samples of ``shape`` as images.

    Parameters
    ----------
    shape : tuple of int
        Shape of a sample.
    image_shape : (height, width), a triple with the channels, or None
        Shape of the image in a sample; one entry may be -1, which means as many as there are. None takes the shape of
        the sample itself.
    channels : {"first", "last"} or None
        Where the channels stand in a shape of three entries. None looks for the end of it that is 1, 3 or 4.
    owner : str
        Who asks, for error messages.

    Returns
    -------
    ImageLayout
    """
    shape = tuple(int(n) for n in shape)
    if channels is not None and channels not in CHANNELS:
        raise ValueError(f"{owner}: channels must be 'first', 'last' or None; got {channels!r}.")
    if image_shape is None:
        if len(shape) not in (2, 3):
            raise ValueError(
                f"{owner} needs images, and a sample has shape {shape}. Say how its values make an image: image_shape="
                "(height, width), or three numbers with the channels."
            )
        full = shape
    else:
        full = _resolved(shape, image_shape, owner)
    if len(full) == 2:
        return ImageLayout(shape, full[0], full[1], 1, True)
    first = _channels_first(full, channels, owner)
    n_channels, height, width = full if first else (full[2], full[0], full[1])
    return ImageLayout(shape, height, width, n_channels, first)


def _resolved(shape, image_shape, owner):
    """``image_shape`` as positive integers that fit a sample."""
    try:
        given = tuple(int(n) for n in image_shape)
        exact = all(n == other for n, other in zip(given, image_shape, strict=True))
    except (TypeError, ValueError):
        given, exact = (), False
    open_ = [n for n in given if n == -1]
    if not exact or len(given) not in (2, 3) or len(open_) > 1 or any(n < 1 for n in given if n != -1):
        raise ValueError(
            f"{owner}: image_shape must be (height, width), or three integers with the channels, of which one may be "
            f"-1; got {image_shape!r}."
        )
    size = math.prod(shape)
    if open_:
        known = -math.prod(given)
        given = tuple(size // known if n == -1 else n for n in given)
    # A sample that has a shape already must not be read in another order.
    bare, wanted = (tuple(n for n in which if n != 1) for which in (shape, given))
    if math.prod(given) != size or (len(shape) > 1 and bare != wanted):
        raise ValueError(f"{owner}: a sample has shape {shape}, which is no image of shape {tuple(image_shape)}.")
    return given


def _channels_first(full, channels, owner):
    if channels is not None:
        return channels == "first"
    at_front, at_back = (n in (1, 3, 4) for n in (full[0], full[2]))
    if at_front == at_back:
        raise ValueError(
            f"{owner}: cannot tell where the channels stand in images of shape {full}. Give channels='first' or "
            "channels='last'."
        )
    return at_front
