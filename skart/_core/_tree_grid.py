"""The space of samples as an ensemble of trees sees it: a grid of cells, each leaf a block of them.

Between two neighbouring thresholds of a feature no tree can tell values apart. A sample is one cell of each feature,
a leaf is a first and a last cell of each feature that it bounds, and a move to another cell costs the gap to it.
NumPy only, since no library keeps its trees elsewhere.
"""

import numpy as np

__all__ = ["TreeGrid"]


class TreeGrid:
    """Cells of the features that an ensemble looks at.

    Cells are numbered through, feature by feature, each feature's in ascending order.

    Parameters
    ----------
    offsets : ndarray of shape (n_boxes + 1,)
        Box b has the bounds ``offsets[b]:offsets[b + 1]``, each of another feature.
    feature : ndarray of int, shape (n_bounds,)
    least, most : ndarrays of shape (n_bounds,)
        What the feature is at least and at most, in the dtype in which the library compares.
    tree : ndarray of int, shape (n_boxes,)
        Tree of each box. The boxes of a tree are disjoint and hold every sample.
    values : ndarray of float64, shape (n_boxes, n_classes)
        What each box adds to the scores.
    bias : ndarray of float64, shape (n_classes,)
    doors : (ndarray, ndarray), each of shape (n_bounds,), default=None
        What a feature becomes that is less than the least, or more than the most. ``None``: these themselves.

    Attributes
    ----------
    features : ndarray of int, shape (n_used,)
        Columns that the trees look at, ascending.
    starts : ndarray of int, shape (n_used + 1,)
        Feature k has the cells ``starts[k]:starts[k + 1]``.
    low, high : ndarrays of shape (n_cells,)
        Least and largest number of each cell.
    column : ndarray of int, shape (n_cells,)
        Position among ``features``.
    bound_column, first, last : ndarrays of int, shape (n_bounds,)
        Position among ``features`` of the feature that is bound, and its first and last cell.
    bound_box : ndarray of int, shape (n_bounds,)
        Box of each bound.
    """

    def __init__(self, offsets, feature, least, most, *, tree, values, bias, doors=None):
        self.dtype = least.dtype
        self.offsets, self.tree, self.values, self.bias = offsets, tree, values, bias
        self.n_boxes, self.n_classes = values.shape
        self.features, self.bound_column = np.unique(feature, return_inverse=True)
        down, up = self.dtype.type(-np.inf), self.dtype.type(np.inf)
        with np.errstate(over="ignore"):
            behind = np.nextafter(most, up)
        # Cells begin where a box begins, and behind where one ends.
        edges = np.concatenate([least, behind])
        columns = np.tile(self.bound_column, 2)
        inner = np.isfinite(edges) & (np.tile(least <= most, 2))
        edges = np.concatenate([edges[inner], np.full(len(self.features), down)])
        columns = np.concatenate([columns[inner], np.arange(len(self.features))])
        order = np.lexsort((edges, columns))
        edges, columns = edges[order], columns[order]
        fresh = np.ones(len(edges), dtype=bool)
        fresh[1:] = (edges[1:] != edges[:-1]) | (columns[1:] != columns[:-1])
        self.low, self.column = edges[fresh], columns[fresh]
        self.starts = np.searchsorted(self.column, np.arange(len(self.features) + 1))
        self.high = np.full(len(self.low), up)
        within = self.column[1:] == self.column[:-1]
        self.high[:-1][within] = np.nextafter(self.low[1:], down)[within]
        self.bound_box = np.repeat(np.arange(self.n_boxes), np.diff(offsets))
        self.first, self.last = self._cell(self.bound_column, least), self._cell(self.bound_column, most)
        self.door_up, self.door_down = self.low.copy(), self.high.copy()
        if doors is not None:
            np.maximum.at(self.door_up, self.first, doors[0])
            np.minimum.at(self.door_down, self.last, doors[1])
            self.door_up, self.door_down = np.minimum(self.door_up, self.high), np.maximum(self.door_down, self.low)
        self.last[least > most] = -1  # holds missing values only

    def _cell(self, column, value):
        """Cells in which values of the given columns lie."""
        cell = np.empty(len(value), dtype=np.intp)
        order = np.argsort(column, kind="stable")
        ends = np.searchsorted(column[order], np.arange(len(self.features) + 1))
        for k, (start, stop) in enumerate(zip(self.starts, self.starts[1:])):
            part = order[ends[k] : ends[k + 1]]
            cell[part] = start + np.searchsorted(self.low[start:stop], value[part], side="right") - 1
        return cell

    def cells(self, x):
        """The cell of each used feature of each sample: (n_samples, n_used)."""
        n_used = len(self.features)
        columns = np.tile(np.arange(n_used), len(x))
        return self._cell(columns, x[:, self.features].reshape(-1)).reshape(len(x), n_used)

    def costs(self, x, norm, lower=None, upper=None):
        """What it costs to be in each cell: (n_samples, n_cells), infinite where that is not possible.

        The distance of the feature, squared in the 2-norm.
        """
        own = x[:, self.features].astype(np.float64)[:, self.column]
        gaps = np.maximum(np.maximum(self.low - own, own - self.high), 0.0)
        if norm == 2:
            gaps *= gaps
        if lower is not None:
            low, high = lower[:, self.features][:, self.column], upper[:, self.features][:, self.column]
            gaps[(self.low > high) | (self.high < low)] = np.inf
        return gaps

    def points(self, x, cells, lower=None, upper=None):
        """The samples, each moved into its cells as little as it takes."""
        moved, value = x.copy(), x[:, self.features]
        up, down = self.door_up[cells], self.door_down[cells]
        if lower is not None:  # which the cells themselves reach into
            up, down = np.minimum(up, upper[:, self.features]), np.maximum(down, lower[:, self.features])
        moved[:, self.features] = np.where(value < self.low[cells], up, np.where(value > self.high[cells], down, value))
        return moved

    def violated(self, cells):
        """Bounds that do not hold, (n_samples, n_bounds), and how many of each box, (n_samples, n_boxes)."""
        at = cells[:, self.bound_column]
        broken = (at < self.first) | (at > self.last)
        counts = np.zeros((len(cells), self.n_boxes), dtype=np.int16)
        some = np.flatnonzero(np.diff(self.offsets))  # reduceat takes no empty runs
        if len(some):
            counts[:, some] = np.add.reduceat(broken, self.offsets[some], axis=1, dtype=np.int16)
        return broken, counts

    def scores(self, cells):
        """Scores of samples in the given cells: (n_samples, n_classes)."""
        return self._sums(self.violated(cells)[1] == 0)

    def _sums(self, inside):
        return self.bias + inside.astype(np.float64) @ self.values
