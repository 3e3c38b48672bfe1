"""A fitted ensemble on the grid of its thresholds, in the dtype of the samples that are to be moved."""

from dataclasses import replace

import numpy as np

from skart._core._leaves import widened
from skart._core._tree_grid import TreeGrid

__all__ = ["grid_of", "hopeful_demand", "rounding_of"]


def grid_of(trees, dtype):
    """The grid of a :class:`TreeEnsemble`, its cells in numbers of ``dtype``; a binary margin d scores (0, d)."""
    boxes, dtype = trees.leaf_boxes(), np.dtype(dtype)
    doors = least, most = replace(boxes, dtype=dtype).representable()
    if dtype.itemsize > boxes.dtype.itemsize:
        # What the model rounds across a threshold is beyond it; but nobody need rely on that.
        least, most = widened(*boxes.representable(), dtype)
        doors = np.maximum(doors[0], least), np.minimum(doors[1], most)
    tree = np.repeat(np.arange(trees.n_trees), np.diff(boxes.tree_offsets))
    values, bias = trees.values[boxes.leaf], trees.bias
    if trees.n_outputs == 1:
        values, bias = np.column_stack([np.zeros(len(values)), values]), np.concatenate([[0.0], bias])
    elif values.shape[1] < trees.n_outputs:
        values = values * (trees.output[tree][:, None] == np.arange(trees.n_outputs))
    return TreeGrid(boxes.offsets, boxes.feature, least, most, tree=tree, values=values, bias=bias, doors=doors)


def rounding_of(trees):
    """Leads that the library's own sums may turn, at most and usually; leads of less may be ties."""
    largest = np.maximum.reduceat(np.abs(trees.values).max(axis=1), trees.leaf_offsets[:-1])
    size = 1 + largest.sum() + np.abs(trees.bias).max()
    if trees.outputs == "probabilities":
        # Trees whose leaves are pure vote, and leads are whole numbers of votes.
        votes = trees.values * trees.n_trees
        slack = 0.5 / trees.n_trees if np.allclose(votes, np.round(votes), rtol=0, atol=1e-9) else 1e-9
        return slack, slack
    unit = 2.0**-24 if trees.comparison == "<" else 2.0**-53  # XGBoost adds up in float32
    return max(1e-9, trees.n_trees * unit * size), max(1e-9, 4 * unit * size)


def hopeful_demand(trees, ahead, behind):
    """The least lead for which the model most likely says ``ahead``; of tied probabilities the first class wins."""
    usual = rounding_of(trees)[1]
    if trees.outputs == "probabilities":
        return np.where(ahead > behind, usual, -usual)
    return np.full(np.broadcast_shapes(np.shape(ahead), np.shape(behind)), usual)
