"""Affine resampling of images as a sparse linear map.

A pixel of the result lies somewhere between four pixels of the source and takes their mean, weighted by how near they
are (bilinear interpolation); what lies outside the source counts as zero. For a given transformation that is linear
in the source, so that it is one sparse matrix, and its gradient is pulled back by the transpose of it. The matrix is
built and applied by SciPy on the host; only arrays that live on another device are multiplied there.
"""

import numpy as np
from array_api_compat import is_torch_array
from scipy.sparse import csr_array

from skart._core._arrays import array_namespace, device, to_numpy

__all__ = ["Resampling", "columns_of", "resampling"]


def resampling(source, target, *, angle=0.0, shift=(0.0, 0.0), scale=1.0, dtype=np.float64, paired=False):
    """Map that turns an image, magnifies it, and lays it on a canvas.

    Without rotation and shift the centre of the source lies on the centre of the target. All transformations may be
    given for several images at once, as arrays of shape (n,).

    Parameters
    ----------
    source, target : (height, width)
        Shapes in pixels.
    angle : float or array of shape (n,)
        Rotation in degrees, counter-clockwise.
    shift : (down, right), floats or arrays of shape (n,)
        Displacement of the centre, in pixels of the target.
    scale : float or array of shape (n,)
        Pixels of the target that a pixel of the source spans.
    dtype : dtype
        Of the weights; arrays of this dtype keep it.
    paired : bool
        Whether the n transformations have a source each, or share one.

    Returns
    -------
    Resampling
        From ``n_sources * height * width`` pixels to ``n * height * width``.
    """
    angle, down, right, scale = np.broadcast_arrays(*np.atleast_1d(np.deg2rad(angle), *shift, scale))
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    # Where the rows and columns of the target lie, seen from the centre of the image that is laid there.
    rows = np.arange(target[0]) - (target[0] - 1) / 2 - down[:, None]
    columns = np.arange(target[1]) - (target[1] - 1) / 2 - right[:, None]
    row = _sum((cosine[:, None] * rows + (source[0] - 1) / 2)[:, :, None], (sine[:, None] * columns)[:, None, :], dtype)
    column = _sum(
        (cosine[:, None] * columns + (source[1] - 1) / 2)[:, None, :], (-sine[:, None] * rows)[:, :, None], dtype
    )
    inside = (row > -1) & (row < source[0]) & (column > -1) & (column < source[1])
    start = None
    if paired:
        images = np.flatnonzero(inside) // (target[0] * target[1])
        start = images * (source[0] * source[1])
    n_sources = len(angle) if paired else 1
    return Resampling(_bilinear(row[inside], column[inside], source, inside.ravel(), start, n_sources, dtype))


def _sum(first, second, dtype):
    # In the precision of the weights: these are the largest arrays of all.
    return first.astype(dtype) + second.astype(dtype)


def _bilinear(row, column, source, inside, start, n_sources, dtype):
    """Weights of the pixels of the source, at the positions of those pixels of the target that see it."""
    height, width = source
    corner, weight = [], []
    for position, length in ((row, height), (column, width)):
        below = np.floor(position)
        above = position - below
        below = below.astype(np.int32)
        # A corner outside the source has no weight, and may stand anywhere inside of it.
        pair = (np.maximum(below, 0), np.minimum(below + 1, length - 1))
        corner.append(pair)
        weight.append(((1 - above) * (below >= 0), above * (below + 1 < length)))
    n_points = len(row)
    n_entries = 4 * n_points
    kind = np.int32 if max(n_entries, n_sources * height * width) < 2**31 else np.int64
    index = np.empty((n_points, 2, 2), dtype=kind)
    values = np.empty((n_points, 2, 2), dtype=dtype)
    for i in (0, 1):
        line = corner[0][i] * kind(width)
        if start is not None:
            line = line + start
        for j in (0, 1):
            index[:, i, j] = line + corner[1][j]
            values[:, i, j] = weight[0][i] * weight[1][j]
    pointer = np.zeros(len(inside) + 1, dtype=kind)
    np.cumsum(inside, out=pointer[1:])
    pointer *= 4
    return csr_array((values.ravel(), index.ravel(), pointer), shape=(len(inside), n_sources * height * width))


def columns_of(planes):
    """Planes (n, n_channels, height, width) as contiguous columns of pixels, (height * width, n * n_channels)."""
    xp = array_namespace(planes)
    columns = xp.reshape(xp.permute_dims(planes, (2, 3, 0, 1)), (planes.shape[2] * planes.shape[3], -1))
    if is_torch_array(columns):
        return columns.contiguous()
    return np.ascontiguousarray(columns) if isinstance(columns, np.ndarray) else columns


class Resampling:
    """A resampling; made by :func:`resampling`.

    Attributes
    ----------
    matrix : scipy.sparse.csr_array of shape (n_target_pixels, n_source_pixels)
    """

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, pixels):
        """Resample ``pixels`` of shape (n_source_pixels, ...): (n_target_pixels, ...)."""
        return _product(self.matrix, pixels)

    def pullback(self, cotangent):
        """Transpose of the map: from (n_target_pixels, ...) to (n_source_pixels, ...)."""
        return _product(self.matrix.T, cotangent)

    def coverage(self):
        """Weight of the source in each pixel of the target, (n_target_pixels,); what is left is outside."""
        return self.matrix @ np.ones(self.matrix.shape[1], dtype=self.matrix.dtype)


def _product(matrix, pixels):
    xp = array_namespace(pixels)
    rest = tuple(pixels.shape[1:])
    flat = xp.reshape(pixels, (pixels.shape[0], -1)) if len(rest) != 1 else pixels
    if is_torch_array(pixels) and pixels.device.type != "cpu":
        product = _on_device(matrix, flat)
    else:
        product = xp.asarray(matrix @ to_numpy(flat), device=device(pixels))
    return xp.reshape(product, (matrix.shape[0], *rest))


def _on_device(matrix, pixels):
    import torch

    entries = matrix.tocoo()
    place = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    sparse = torch.sparse_coo_tensor(place, torch.from_numpy(entries.data), matrix.shape, device=pixels.device)
    return torch.sparse.mm(sparse, pixels)
