"""A local search over neighbouring leaves of an ensemble, with all samples in lock-step.

Two leaf tuples are neighbours if one move of one feature leads from the one to the other. One pass over the leaves
gives the leads after all such moves: a leaf that a single feature keeps a sample out of adds what it is worth to the
cells of that feature which it holds, and sums along the cells do the rest.
"""

import numpy as np

__all__ = ["descend_to_boundary", "leads_after_moves"]

# Numbers (samples x cells, samples x bounds) that are held at once, a few times over: it stays in the cache.
_ENTRIES = 2**21
# Ways of weighing what a move gains against what it costs, by which the first adversarial cells are sought.
_STARTS = ("gain", "rate")
# Starts from elsewhere, for samples that these leave without any.
_N_RANDOM = 4


def descend_to_boundary(grid, x, ahead, behind, *, norm, demand, max_iter, lower=None, upper=None):
    """Cells near each sample's own in which one class leads others by ``demand``.

    Parameters
    ----------
    grid : TreeGrid
    x : ndarray of shape (n_samples, n_features)
    ahead : ndarray of int, shape (n_samples,)
        The class that is to lead.
    behind, demand : ndarrays of shape (n_samples, n_behind)
        Those that it is to leave behind, and by how much.
    norm : {1, 2, np.inf}
    max_iter : int
        Moves in each of the search's stages.
    lower, upper : ndarrays of the shape of ``x``, or None
        Where the samples may go.

    Returns
    -------
    cells : ndarray of int, shape (n_samples, n_used)
        Those of the sample itself where none were found.
    cost : ndarray of shape (n_samples,)
        As in :meth:`TreeGrid.costs`, of all features together; infinite where no such cells were found.
    """
    cells, cost = np.empty((len(x), len(grid.features)), dtype=np.intp), np.empty(len(x))
    size = max(1, _ENTRIES // max(1, len(grid.low) * behind.shape[1], len(grid.first), grid.n_boxes))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        bounds = (None, None) if lower is None else (lower[rows], upper[rows])
        search = _Search(grid, x[rows], ahead[rows], behind[rows], norm, demand[rows], bounds)
        cells[rows], cost[rows] = search.run(max_iter)
    return cells, cost


class _Search:
    """The search for one batch."""

    def __init__(self, grid, x, ahead, behind, norm, demand, bounds):
        self.grid, self.norm, self.demand = grid, norm, demand
        self.ahead, self.behind = ahead, behind
        self.own = grid.cells(x)
        self.costs = grid.costs(x, norm, *bounds)

    def run(self, max_iter):
        n = len(self.own)
        best, cost = self.own.copy(), np.full(n, np.inf)
        starts = [(way, self.own) for way in _STARTS]
        far = np.full(n, np.inf)
        starts += [("gain", self.somewhere(seed, np.arange(n), far)) for seed in range(_N_RANDOM)]
        for k, (way, start) in enumerate(starts):
            # From elsewhere only where no single move gains anything, and no other way has led to a lead.
            rows = np.arange(n) if k < len(_STARTS) else np.flatnonzero(np.isinf(cost))
            if not len(rows):
                break
            found, reached = self.approach(rows, start[rows].copy(), np.full(len(rows), np.inf), way, max_iter)
            cells, total = self.shrink(found, reached, max_iter)
            better = total < cost[found]
            rows = found[better]
            best[rows], cost[rows] = cells[better], total[better]
        return best, cost

    def somewhere(self, seed, rows, limit):
        """Cells anywhere below the limit: the same share of the way through each sample's, drawn once for all."""
        index = np.arange(self.costs.shape[1])
        reach = (self.costs[rows] < limit[:, None]) | (index == self.own[rows][:, self.grid.column])
        low = np.minimum.reduceat(np.where(reach, index, index[-1]), self.grid.starts[:-1], axis=1)
        high = np.maximum.reduceat(np.where(reach, index, 0), self.grid.starts[:-1], axis=1)
        share = np.random.default_rng(seed).random(low.shape[1])
        return low + np.floor(share * (high - low + 1)).astype(np.intp)

    def total(self, rows, cells):
        """Cost of cells, over all features."""
        part = self.costs[rows[:, None], cells]
        return part.max(axis=1, initial=0.0) if self.norm == np.inf else part.sum(axis=1)

    def after(self, rows, cells):
        """Leads beyond those demanded, and totals of the costs, after each move of one feature: (n_rows, n_cells)."""
        leads, lead = leads_after_moves(self.grid, cells, self.ahead[rows], self.behind[rows])
        leads = (leads - self.demand[rows][:, :, None]).min(axis=1)
        lead = (lead - self.demand[rows]).min(axis=1)
        part = self.costs[rows[:, None], cells]  # (n_rows, n_used)
        column = self.grid.column
        if self.norm == np.inf:
            # The largest of the other features, for each.
            top = part.argmax(axis=1)
            first = part.max(axis=1)
            rest = part.copy()
            rest[np.arange(len(rows)), top] = 0.0
            others = np.repeat(first[:, None], part.shape[1], axis=1)
            others[np.arange(len(rows)), top] = rest.max(axis=1)
            return leads, np.maximum(others[:, column], self.costs[rows]), lead
        return leads, (part.sum(axis=1)[:, None] - part)[:, column] + self.costs[rows], lead

    def approach(self, rows, cells, limit, way, max_iter):
        """Move until the lead is there, at a total below the limit: the rows that got there, and their cells."""
        done_rows, done_cells = [], []
        for _ in range(max_iter):
            if not len(rows):
                break
            leads, totals, lead = self.after(rows, cells)
            there = lead >= 0
            if there.any():
                done_rows.append(rows[there])
                done_cells.append(cells[there])
                keep = ~there
                rows, cells, limit, lead = rows[keep], cells[keep], limit[keep], lead[keep]
                leads, totals = leads[keep], totals[keep]
                if not len(rows):
                    break
            now = self.total(rows, cells)
            gain = np.minimum(leads, 0.0) - lead[:, None]
            allowed = (totals < limit[:, None]) & (gain > 1e-12)
            if way == "rate":
                added = np.maximum(totals - now[:, None], 0.0)
                # What costs nothing comes first, the largest gain before all.
                floor = 1e-3 * np.maximum(now, np.median(self.costs[rows], axis=1))[:, None] + 1e-12
                gain = gain / (added + floor)
            value = np.where(allowed, gain, -np.inf)
            move = value.argmax(axis=1)
            can = np.take_along_axis(value, move[:, None], axis=1)[:, 0] > -np.inf
            rows, cells, limit, move = rows[can], cells[can], limit[can], move[can]
            cells[np.arange(len(rows)), self.grid.column[move]] = move
        if not done_rows:
            return rows[:0], cells[:0]
        return np.concatenate(done_rows), np.concatenate(done_cells)

    def shrink(self, rows, cells, max_iter):
        """Cheaper and cheaper cells that keep the lead."""
        cells = self.retreat(rows, cells, max_iter)
        total = self.total(rows, cells)
        active = np.arange(len(rows))
        for _ in range(max_iter):
            if not len(active):
                break
            fresh = self.cheaper(rows[active], cells[active], total[active], max_iter)
            cost = self.total(rows[active], fresh)
            better = cost < total[active] * (1 - 1e-12)
            active, fresh, cost = active[better], fresh[better], cost[better]
            cells[active], total[active] = fresh, cost
        return cells, total

    def retreat(self, rows, cells, max_iter):
        """Moves that save the most while the lead stays."""
        cells, active = cells.copy(), np.arange(len(rows))
        for _ in range(max_iter):
            if not len(active):
                break
            part_rows, part = rows[active], cells[active]
            leads, totals, _ = self.after(part_rows, part)
            now = self.total(part_rows, part)
            saved = now[:, None] - totals
            if self.norm == np.inf:
                # Only one of the farthest features makes the total less: what each saves by itself counts.
                saved = self.costs[part_rows[:, None], part][:, self.grid.column] - self.costs[part_rows]
            value = np.where((leads >= 0) & (saved > 0), saved, 0.0)
            move = value.argmax(axis=1)
            can = np.take_along_axis(value, move[:, None], axis=1)[:, 0] > 0
            active, move = active[can], move[can]
            cells[active, self.grid.column[move]] = move
        return cells

    def cheaper(self, rows, cells, total, max_iter):
        """Cells of less total: features drawn back until they cost less, and the lead regained elsewhere."""
        result = cells.copy()
        part = self.costs[rows[:, None], cells]
        if self.norm == np.inf:
            # All features that are at the present distance come back at once.
            back = np.where(part >= total[:, None], self.own[rows], cells)
            everyone = np.arange(len(rows))
            starts = [(everyone, back), (everyone, self.own[rows])]
            starts += [(everyone, self.somewhere(seed, rows, total)) for seed in range(_N_RANDOM)]
        else:
            # One feature comes back, each in turn: the one that costs the most first.
            starts = []
            order = np.argsort(-part, axis=1)
            for k in range(min(6, part.shape[1])):
                moved = np.flatnonzero(np.take_along_axis(part, order[:, k : k + 1], axis=1)[:, 0] > 0)
                if not len(moved):
                    break
                back = cells[moved].copy()
                column = order[moved, k]
                back[np.arange(len(moved)), column] = self.own[rows[moved], column]
                starts.append((moved, back))
        best = total.copy()
        for at, back in starts:
            if self.norm == np.inf:  # one way to less will do
                open_ = best[at] == total[at]
                at, back = at[open_], back[open_]
                if not len(at):
                    break
            at_rows = rows[at]
            for way in _STARTS:
                index = np.full(len(self.own), -1)
                index[at_rows] = at
                found, reached = self.approach(at_rows, back.copy(), best[at], way, max_iter)
                if not len(found):
                    continue
                reached = self.retreat(found, reached, max_iter)
                cost, place = self.total(found, reached), index[found]
                better = cost < best[place]
                result[place[better]], best[place[better]] = reached[better], cost[better]
        return result


def leads_after_moves(grid, cells, ahead, behind):
    """The least lead of one class over others after each move of one feature, and before any.

    Parameters
    ----------
    grid : TreeGrid
    cells : ndarray of int, shape (n_samples, n_used)
    ahead : ndarray of int, shape (n_samples,)
    behind : ndarray of int, shape (n_samples, n_behind)

    Returns
    -------
    leads : ndarray of shape (n_samples, n_behind, n_cells)
    lead : ndarray of shape (n_samples, n_behind)
    """
    n_samples, n_cells = len(cells), len(grid.low)
    width = n_cells + 1
    broken, counts = grid.violated(cells)
    inside = np.nonzero(counts == 0)[1].reshape(n_samples, -1)  # one box of each tree, in the order of trees
    some = grid.first <= grid.last  # else the box is for missing values
    row, bound = np.nonzero(broken & some & (counts == 1)[:, grid.bound_box])
    box = grid.bound_box[bound]
    home = inside[row, grid.tree[box]]
    begins, ends = row * width + grid.first[bound], row * width + grid.last[bound] + 1

    def scores(classes):
        """What the leaves add to the score of a class, and what those across a threshold add in their stead."""
        if grid.n_classes == 2:  # the first of which has no score
            worth = grid.values[:, 1] - grid.values[:, 0]
            sign = np.where(classes == 1, 0.5, -0.5)
            total = sign * (grid.bias[1] - grid.bias[0] + worth[inside].sum(axis=1))
            return total, sign[row] * (worth[box] - worth[home])
        own = classes[row]
        total = grid.bias[classes] + grid.values[inside, classes[:, None]].sum(axis=1)
        return total, grid.values[box, own] - grid.values[home, own]

    leads, lead = np.empty((n_samples, behind.shape[1], n_cells)), np.empty(behind.shape)
    first = scores(ahead)
    for k in range(behind.shape[1]):
        second = scores(behind[:, k])
        gain = first[1] - second[1]
        # Features lie side by side, and what begins in one ends there.
        steps = np.bincount(begins, gain, n_samples * width) - np.bincount(ends, gain, n_samples * width)
        lead[:, k] = first[0] - second[0]
        leads[:, k] = lead[:, k, None] + np.cumsum(steps.reshape(n_samples, width), axis=1)[:, :n_cells]
    return leads, lead
