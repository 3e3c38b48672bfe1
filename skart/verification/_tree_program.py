"""The nearest sample of another class as a mixed-integer program, for one sample of one ensemble.

The variables are those of Kantchelian, Tygar and Joseph: a binary one for each threshold that can be crossed, and for
each leaf how much of its tree's sample it holds, which is 0 or 1 as soon as the binaries are. What is farther than a
known adversarial sample is left out before the program is written down: thresholds, leaves, and trees of which one
leaf is left.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

__all__ = ["Answer", "nearest_cells"]

# HiGHS accepts rows that are violated by 1e-6. The row that demands the lead is multiplied until that is little.
_WEIGHT = 30.0


class Answer(NamedTuple):
    """What the program said."""

    cells: np.ndarray | None  # (n_used,), of the best point found
    bound: float  # no cells of less cost will do; infinite: none below the limit
    boxes: np.ndarray | None  # in which that point is, of the trees that are not the same for all points


def nearest_cells(grid, own, costs, ahead, behind, *, norm, demand, limit, excluded, time_limit):
    """The cells of least cost, below ``limit``, in which ``ahead`` leads ``behind`` by ``demand``.

    Parameters
    ----------
    grid : TreeGrid
    own : ndarray of int, shape (n_used,)
        Cells of the sample.
    costs : ndarray of shape (n_cells,)
    ahead, behind : int
        Classes.
    norm : {1, 2, np.inf}
    demand, limit : float
    excluded : list of ndarray of int
        Boxes, in which all at once no point is wanted.
    time_limit : float
        Seconds.

    Returns
    -------
    Answer
    """
    low, high = _reach(grid, own, costs, limit)
    first, last = np.maximum(grid.first, low[grid.bound_column]), np.minimum(grid.last, high[grid.bound_column])
    open_ = np.ones(grid.n_boxes, dtype=bool)
    open_[grid.bound_box[first > last]] = False
    worth = grid.values[:, ahead] - grid.values[:, behind]
    n_open = np.bincount(grid.tree[open_], minlength=grid.tree[-1] + 1)
    alone = open_ & (n_open == 1)[grid.tree]
    need = demand - (grid.bias[ahead] - grid.bias[behind]) - worth[alone].sum()
    boxes = np.flatnonzero(open_ & ~alone)
    if len(boxes) == 0:  # all is as in the sample itself, which has the label
        return Answer(None, np.inf, None)
    heads = np.flatnonzero(np.diff(grid.tree[boxes], prepend=-1))
    if np.maximum.reduceat(worth[boxes], heads).sum() < need - 1e-9 * max(1.0, abs(need)):
        return Answer(None, np.inf, None)
    place = np.full(grid.n_boxes, -1)
    place[boxes] = np.arange(len(boxes))
    # What the boxes say of thresholds within reach: for each, its first cell beyond and the sides that it wants.
    kept = np.flatnonzero(place[grid.bound_box] >= 0)
    column, where = grid.bound_column[kept], place[grid.bound_box[kept]]
    first, last = first[kept], last[kept]
    tree = grid.tree[boxes][where]
    cuts = _Cuts(own, costs, low, high, column, first, last)
    rows = _Rows()
    n_cuts, n_boxes = len(cuts.cell), len(boxes)
    leaf = n_cuts + np.arange(n_boxes)
    n_variables = n_cuts + n_boxes + (norm == np.inf)
    # One leaf of each tree.
    rows.add(np.cumsum(np.diff(grid.tree[boxes], prepend=grid.tree[boxes[0]]) > 0), leaf, 1.0, lower=1.0, upper=1.0)
    # Farther thresholds of a feature come after nearer ones, and only on one side of the sample.
    rows.add(*cuts.ordered())
    for wanted in (True, False):
        pair, cut, box = cuts.demanded(grid, tree, column, first, last, where, wanted)
        if len(pair):
            heads = np.flatnonzero(np.diff(pair, prepend=-1))
            rows.add(
                np.concatenate([pair, pair[heads]]),
                np.concatenate([n_cuts + box, cut[heads]]),
                np.concatenate([np.ones(len(pair)), np.full(len(heads), -1.0 if wanted else 1.0)]),
                upper=0.0 if wanted else 1.0,
            )
    weight = _WEIGHT / max(np.abs(worth[boxes]).max(), 1e-300)
    rows.add(np.zeros(n_boxes, dtype=int), leaf, weight * worth[boxes], lower=weight * need, upper=np.inf)
    for group in excluded:
        if np.all(open_[group]):
            inside = place[group]
            inside = inside[inside >= 0]
            if len(inside) == 0:  # of the trees that were not the same for all points, none is left
                return Answer(None, np.inf, None)
            rows.add(np.zeros(len(inside), dtype=int), n_cuts + inside, 1.0, upper=len(inside) - 1.0)
    unit = max(cuts.cost.max(initial=0.0), 1e-300)
    prices = cuts.increments() / unit
    objective = np.zeros(n_variables)
    if norm == np.inf:
        objective[-1] = 1.0
        used, columns = np.unique(cuts.column, return_inverse=True)
        rows.add(
            np.concatenate([columns, np.arange(len(used))]),
            np.concatenate([np.arange(n_cuts), np.full(len(used), n_variables - 1)]),
            np.concatenate([prices, np.full(len(used), -1.0)]),
            upper=0.0,
        )
    else:
        objective[:n_cuts] = prices
        if np.isfinite(limit):
            rows.add(np.zeros(n_cuts, dtype=int), np.arange(n_cuts), prices, upper=limit / unit)
    integrality = np.zeros(n_variables)
    integrality[:n_cuts] = 1
    done = milp(
        objective,
        integrality=integrality,
        bounds=Bounds(0.0, 1.0),
        constraints=rows.constraint(n_variables),
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    if done.status == 2:  # infeasible
        return Answer(None, np.inf, None)
    bound = 0.0 if done.mip_dual_bound is None else max(0.0, done.mip_dual_bound * unit)
    if done.x is None:
        return Answer(None, bound, None)
    cells = cuts.chosen(own, done.x[:n_cuts] > 0.5)
    inside = (grid.violated(cells[None])[1][0] == 0) & (place >= 0)
    return Answer(cells, bound, np.flatnonzero(inside))


def _reach(grid, own, costs, limit):
    """The first and the last cell of each feature that cost less than the limit."""
    allowed = costs < limit
    index = np.arange(len(costs))
    low = np.minimum.reduceat(np.where(allowed, index, len(costs)), grid.starts[:-1])
    high = np.maximum.reduceat(np.where(allowed, index, -1), grid.starts[:-1])
    return np.minimum(low, own), np.maximum(high, own)


class _Cuts:
    """Thresholds within reach. One is crossed if the sample ends on the other side of it."""

    def __init__(self, own, costs, low, high, column, first, last):
        begins, ends = first > low[column], last < high[column]
        cells = np.concatenate([first[begins], last[ends] + 1])
        self.cell, at = np.unique(cells, return_index=True)  # the first cell behind it
        self.column = np.concatenate([column[begins], column[ends]])[at]
        self.above = self.cell > own[self.column]  # the sample is before it
        self.beyond = np.where(self.above, self.cell, self.cell - 1)  # the first cell on the other side
        self.cost = costs[self.beyond]

    def ordered(self):
        """Rows, variables, factors and (zero) bounds of what crossing one says of another."""
        same = self.column[1:] == self.column[:-1]
        here = np.flatnonzero(same)
        # Neighbours: both above, the second is farther; both below, the first is; else not both of them.
        both_above, both_below = self.above[here], ~self.above[here + 1]
        sign_first = np.where(both_above, -1.0, 1.0)
        sign_second = np.where(both_below, -1.0, 1.0)
        row = np.arange(len(here))
        upper = np.where(both_above | both_below, 0.0, 1.0)
        return (
            np.concatenate([row, row]),
            np.concatenate([here, here + 1]),
            np.concatenate([sign_first, sign_second]),
            -np.inf,
            upper,
        )

    def demanded(self, grid, tree, column, first, last, where, wanted):
        """Which boxes of a tree are on the other side (or, not wanted, on the sample's side) of which thresholds.

        For each pair of a tree and a threshold that it has: its number, the threshold, and each of those boxes.
        """
        n_used = len(grid.features)
        key = tree * n_used + column
        order = np.argsort(key, kind="stable")
        key, first, last, where = key[order], first[order], last[order], where[order]
        # Thresholds of each tree and feature.
        of_cell = np.full(len(grid.low) + 1, -1)
        of_cell[self.cell] = np.arange(len(self.cell))
        cut = np.concatenate([of_cell[first], of_cell[last + 1]])
        pairs = np.stack([np.concatenate([key, key]), cut])[:, cut >= 0]
        # A first cell may be where the reach of its feature begins, which is no threshold of it.
        pairs = pairs[:, self.column[pairs[1]] == pairs[0] % n_used]
        pairs = np.unique(pairs, axis=1)
        start, stop = np.searchsorted(key, pairs[0]), np.searchsorted(key, pairs[0], side="right")
        counts = stop - start
        pair = np.repeat(np.arange(pairs.shape[1]), counts)
        entry = np.arange(counts.sum()) + np.repeat(start - (np.cumsum(counts) - counts), counts)
        cut = pairs[1][pair]
        behind, before = first[entry] >= self.cell[cut], last[entry] < self.cell[cut]
        above = self.above[cut]
        chosen = np.where(above == wanted, behind, before)
        return pair[chosen], cut[chosen], where[entry[chosen]]

    def increments(self):
        """What crossing a threshold adds to crossing those before it."""
        cost, prices = self.cost, self.cost.copy()
        same = self.column[1:] == self.column[:-1]
        both_above, both_below = same & self.above[:-1], same & ~self.above[1:]
        prices[1:][both_above] -= cost[:-1][both_above]
        prices[:-1][both_below] -= cost[1:][both_below]
        return prices

    def chosen(self, own, crossed):
        """The cells of a sample that crosses these thresholds."""
        cells = own.copy()
        up, down = crossed & self.above, crossed & ~self.above
        np.maximum.at(cells, self.column[up], self.beyond[up])
        np.minimum.at(cells, self.column[down], self.beyond[down])
        return cells


class _Rows:
    """Constraints, gathered in blocks."""

    def __init__(self):
        self.parts, self.n = [], 0

    def add(self, row, variable, factor, lower=-np.inf, upper=np.inf):
        if len(row):
            _, row = np.unique(row, return_inverse=True)
            n = int(row.max()) + 1
            bounds = (np.broadcast_to(np.asarray(bound, dtype=float), (n,)) for bound in (lower, upper))
            self.parts.append((row + self.n, variable, np.broadcast_to(factor, row.shape), *bounds))
            self.n += n

    def constraint(self, n_variables):
        row, variable, factor, lower, upper = (np.concatenate(part) for part in zip(*self.parts))
        matrix = coo_array((factor, (row, variable)), shape=(self.n, n_variables)).tocsr()
        return LinearConstraint(matrix, lower, upper)
