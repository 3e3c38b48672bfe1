"""The leaf of a tree to which a sample is moved: the nearest one, or the first on the way up the tree.

Leaves are boxes that bound a few features each. NumPy only, since no library keeps its trees elsewhere.
"""

import numpy as np

__all__ = ["BoxTable", "climb_order", "widened"]

# Costs (samples x boxes) that are held at once: 8 MB, which stays in the cache of most machines.
_ENTRIES = 2**20


class BoxTable:
    """Boxes, laid out so that the costs of all of them are summed up in a few passes.

    Neighbouring leaves share most of their bounds, so the cost of a bound is computed once; and the boxes are sorted
    by how many features they bound, so that those with a k-th bound are the rows from some row on.

    Parameters
    ----------
    offsets : ndarray of shape (n_boxes + 1,)
        Box b has the bounds ``offsets[b]:offsets[b + 1]``, each of another feature.
    feature : ndarray of int, shape (n_bounds,)
    least, most : ndarrays of shape (n_bounds,)
        What the feature is at least and at most, in the dtype of the samples.

    Attributes
    ----------
    order : ndarray of int, shape (n_boxes,)
        The boxes as they were given, in the order in which they stand here.
    """

    def __init__(self, offsets, feature, least, most):
        counts = np.diff(offsets)
        self.order = np.argsort(counts, kind="stable")
        self._offsets, self._feature, self._least, self._most = offsets, feature, least, most
        ranked = np.lexsort((most, least, feature))
        values = (feature[ranked], least[ranked], most[ranked])
        fresh = np.ones(len(ranked), dtype=bool)
        fresh[1:] = np.logical_or.reduce([value[1:] != value[:-1] for value in values])
        self._distinct = tuple(value[fresh] for value in values)
        which = np.empty(len(ranked), dtype=np.intp)
        which[ranked] = np.cumsum(fresh) - 1
        # The k-th bound of each box that has one, and the first of these boxes.
        starts, counts = offsets[self.order], counts[self.order]
        firsts = np.searchsorted(counts, np.arange(counts.max(initial=0)), side="right")
        self._layers = [(first, which[starts[first:] + k]) for k, first in enumerate(firsts)]

    def costs(self, x, norm, lower=None, upper=None):
        """What it costs to enter each box, infinite where that is not possible: (n_boxes, n_samples).

        The distance in float64, squared in the 2-norm.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
        norm : {1, 2, np.inf}
        lower, upper : ndarrays of the shape of ``x``, or None
            Where the samples, which lie between them, may go.
        """
        feature, least, most = self._distinct
        columns = np.ascontiguousarray(x.T, dtype=np.float64)[feature]  # (n_distinct, n_samples)
        least, most = least[:, None].astype(np.float64), most[:, None].astype(np.float64)
        gaps = least - columns
        np.maximum(gaps, np.subtract(columns, most, out=columns), out=gaps)
        np.maximum(gaps, 0.0, out=gaps)
        if lower is not None:
            gaps[(least > upper.T[feature]) | (most < lower.T[feature])] = np.inf
        if norm == 2:
            np.multiply(gaps, gaps, out=gaps)
        add = np.maximum if norm == np.inf else np.add
        total = np.zeros((len(self.order), len(x)))
        for first, bound in self._layers:
            add(total[first:], gaps[bound], out=total[first:])
        return total

    def nearest(self, x, wanted, *, norm, lower=None, upper=None, rank=None):
        """The best box of those that are wanted and that can be entered.

        Parameters
        ----------
        x, norm, lower, upper
            As for :meth:`costs`.
        wanted : callable
            ``wanted(rows)`` marks, for a slice of samples, the boxes that will do: boolean (n_boxes, n_rows).
        rank : callable, default=None
            ``rank(rows)`` gives (n_boxes, n_rows) that is least for the best box. ``None``: the costs.

        Returns
        -------
        box : ndarray of int, shape (n_samples,)
            Row of the table; -1 where there is none.
        """
        box = np.empty(len(x), dtype=np.intp)
        size = max(1, _ENTRIES // max(1, len(self.order), len(self._distinct[0])))
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            bounds = () if lower is None else (lower[rows], upper[rows])
            costs = self.costs(x[rows], norm, *bounds)
            out = ~wanted(rows) | ~np.isfinite(costs)
            if rank is not None:
                costs = rank(rows).astype(np.float64)
            costs[out] = np.inf
            best = costs.argmin(axis=0)
            box[rows] = np.where(np.take_along_axis(costs, best[None], axis=0)[0] < np.inf, best, -1)
        return box

    def enter(self, x, box, *, doors, offset=0.0, lower=None, upper=None):
        """Samples moved into their boxes: each feature as little as it takes.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_features)
        box : ndarray of int, shape (n_samples,)
            Rows of the table.
        doors : (ndarray, ndarray), each of shape (n_bounds,)
            What a feature becomes that is less than the least, or more than the most; within the bounds.
        offset : float, default=0.0
            How much farther it goes, as far as the box lets it.
        lower, upper : ndarrays of the shape of ``x``, or None
            Where the samples may go.

        Returns
        -------
        moved : ndarray of shape (n_samples, n_features)
        """
        moved = x.copy()
        start, stop = self._offsets[self.order[box]], self._offsets[self.order[box] + 1]
        counts = stop - start
        row = np.repeat(np.arange(len(x)), counts)
        bound = np.arange(counts.sum()) + np.repeat(start - (np.cumsum(counts) - counts), counts)
        feature, least, most = self._feature[bound], self._least[bound], self._most[bound]
        value = x[row, feature]
        low, high = least, most
        if lower is not None:
            low, high = np.maximum(low, lower[row, feature]), np.minimum(high, upper[row, feature])
        offset = x.dtype.type(offset)
        with np.errstate(over="ignore"):
            up = np.minimum(np.maximum(doors[0][bound], least + offset), high)
            down = np.maximum(np.minimum(doors[1][bound], most - offset), low)
        moved[row, feature] = np.where(value < least, up, np.where(value > most, down, value))
        return moved


def climb_order(steps, own):
    """Order of leaves by their place in the tree, as seen from one of them: (n_leaves, n_samples) of int.

    First come the leaves of the lowest subtree that holds the sample's own, and among these the shallow ones.

    Parameters
    ----------
    steps : ndarray of int, shape (n_leaves, depth)
        Splits on the way from the root to each leaf; -1 behind the last.
    own : ndarray of int, shape (n_samples, depth)
        The way to the leaf of each sample.
    """
    depth = steps.shape[1]
    shared = np.zeros((len(steps), len(own)), dtype=np.int32)
    same = np.ones(shared.shape, dtype=bool)
    for step, own_step in zip(steps.T, own.T):
        # Behind their ends only the ways to a leaf and to its sibling are alike, which come first in any case.
        same &= step[:, None] == own_step
        if not same.any():
            break
        shared += same
    return (depth - shared) * (depth + 1) + np.count_nonzero(steps >= 0, axis=1)[:, None]


def widened(least, most, dtype):
    """Least and largest number of ``dtype`` that lie between the bounds once they are rounded to the bounds' dtype."""
    return _first(least, np.dtype(dtype)), -_first(-most, np.dtype(dtype))


def _first(least, dtype):
    """The least number of ``dtype`` that, rounded to the dtype of ``least``, is not below it."""
    if dtype.itemsize <= least.dtype.itemsize:
        with np.errstate(over="ignore"):
            first = least.astype(dtype)
            return np.where(first < least, np.nextafter(first, dtype.type(np.inf)), first)
    # Halfway from the number before; or behind it, where ties are rounded to that one. Before the first finite number
    # there is none.
    with np.errstate(over="ignore"):
        before = np.maximum(np.nextafter(least, least.dtype.type(-np.inf)), np.finfo(least.dtype).min)
        half = before.astype(dtype) / 2 + least.astype(dtype) / 2
        rounded = half.astype(least.dtype)
    return np.where(rounded < least, np.nextafter(half, dtype.type(np.inf)), half)
