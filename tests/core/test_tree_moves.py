"""Leads after moves on the grid of an ensemble, against the model's own scores."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skart._core._tree_moves import descend_to_boundary, leads_after_moves
from skart.oracles import get_trees
from skart.oracles._tree_cells import grid_of
from tests.verification._brute_force import MODELS, samples

each_model = pytest.mark.parametrize("name", MODELS)


def scores_of(trees, x):
    scores = trees.decision_function(x)
    return np.column_stack([0 * scores, scores]) if scores.ndim == 1 else scores


@each_model
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_leads_after_every_move_are_those_of_the_trees(name, n_classes, dtype):
    X, y = samples(n_classes)
    trees = get_trees(MODELS[name]().fit(X, y))
    X = X[:6].astype(dtype)
    grid = grid_of(trees, dtype)
    cells = grid.cells(X)
    assert_allclose(grid.scores(cells), scores_of(trees, X), atol=1e-12)
    assert_array_equal(grid.points(X, cells), X)
    ahead = np.arange(6) % n_classes
    behind = (ahead[:, None] + np.arange(1, n_classes)) % n_classes
    leads, lead = leads_after_moves(grid, cells, ahead, behind)
    rows = np.arange(6)[:, None]
    own = scores_of(trees, X)
    assert_allclose(lead, own[rows, ahead[:, None]] - own[rows, behind], atol=1e-12)
    for cell in range(len(grid.low)):
        moved = cells.copy()
        moved[:, grid.column[cell]] = cell
        points = grid.points(X, moved)
        assert points.dtype == X.dtype
        there = scores_of(trees, points)
        assert_allclose(leads[:, :, cell], there[rows, ahead[:, None]] - there[rows, behind], atol=1e-12)
        # The gap is what the point has been moved; a door may be farther, by what float32 rounds.
        gap = np.sqrt(grid.costs(X, 2)[:, cell])
        assert_allclose(gap, np.linalg.norm(points.astype(float) - X, axis=1), atol=1e-7)


@each_model
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_the_search_meets_its_demand_at_the_cost_it_tells(name, norm):
    X, y = samples(3)
    trees = get_trees(MODELS[name]().fit(X, y))
    X = X.astype(trees.dtype)
    grid = grid_of(trees, trees.dtype)
    goal = scores_of(trees, X).argmin(axis=1)
    others = (goal[:, None] + [1, 2]) % 3
    demand = np.full(others.shape, 1e-6)
    lower, upper = np.full(X.shape, -0.65, X.dtype), np.full(X.shape, 0.65, X.dtype)
    anywhere = descend_to_boundary(grid, X, goal, others, norm=norm, demand=demand, max_iter=30)
    inside = descend_to_boundary(grid, X, goal, others, norm=norm, demand=demand, max_iter=30, lower=lower, upper=upper)
    assert np.isfinite(anywhere[1]).mean() > 0.9
    for (cells, cost), limits in [(anywhere, ()), (inside, (lower, upper))]:
        found = np.isfinite(cost)
        points = grid.points(X, cells, *limits)
        assert_array_equal(points[~found], X[~found])
        there = scores_of(trees, points)[found]
        rows = np.arange(len(there))[:, None]
        assert np.all(there[rows, goal[found, None]] - there[rows, others[found]] >= 1e-6 - 1e-12)
        delta = np.linalg.norm(points.astype(float) - X, ord=norm, axis=1)[found]
        assert_allclose(delta**2 if norm == 2 else delta, cost[found], rtol=1e-6)
        if limits:
            assert np.all(np.abs(points) <= np.float32(0.65))
