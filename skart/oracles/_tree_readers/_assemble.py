"""The common end of all readers: nodes of single trees become one flat ensemble.

A reader gives each tree as :class:`Nodes`, numbered from the root, 0, as its library numbers them; it need know nothing
of the flat form.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from skart.oracles._tree_ensemble import TreeEnsemble

__all__ = ["Nodes", "Reading", "assemble", "join", "missing_between", "quietly"]


class Nodes(NamedTuple):
    """Nodes of one tree; the root is the first. Leaves have children of -1, inner nodes any value."""

    feature: np.ndarray
    threshold: np.ndarray
    nan_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray  # (n_nodes, 1), or (n_nodes, n_outputs) where a tree adds to all outputs


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Attributes
    ----------
    ensemble : TreeEnsemble
    scores : callable
        The library's own margins or probabilities of an array, to check the ensemble with.
    """

    ensemble: TreeEnsemble
    scores: Any


def assemble(trees, *, output, bias, comparison="<=", dtype, n_features, classes, outputs, allows_nan):
    """One ensemble of the given :class:`Nodes`; nodes that no path reaches are dropped."""
    sizes = np.array([len(tree.left) for tree in trees], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shift = np.repeat(starts[:-1], sizes)
    feature, threshold, nan_left, left, right, value = (np.concatenate(part) for part in zip(*trees))
    is_leaf = left < 0
    left, right = left + shift, right + shift
    reached = np.zeros(len(feature), dtype=bool)
    frontier = starts[:-1]
    while len(frontier):
        reached[frontier] = True
        frontier = frontier[~is_leaf[frontier]]
        frontier = np.unique(np.concatenate([left[frontier], right[frontier]]))
    splits, leaves = reached & ~is_leaf, reached & is_leaf
    n_splits, n_leaves = (np.concatenate([[0], np.cumsum(kind)]) for kind in (splits, leaves))
    reference = np.where(is_leaf, ~n_leaves[:-1], n_splits[:-1]).astype(np.int32)
    return TreeEnsemble(
        feature=feature[splits].astype(np.int32),
        threshold=threshold[splits].astype(np.float64),
        nan_left=nan_left[splits].astype(bool),
        left=reference[left[splits]],
        right=reference[right[splits]],
        roots=reference[starts[:-1]],
        split_offsets=n_splits[starts].astype(np.int32),
        leaf_offsets=n_leaves[starts].astype(np.int32),
        values=value[leaves].astype(np.float64),
        output=np.asarray(output, dtype=np.int32),
        bias=np.asarray(bias, dtype=np.float64),
        comparison=comparison,
        dtype=np.dtype(dtype),
        n_features=int(n_features),
        classes_=np.asarray(classes),
        outputs=outputs,
        allows_nan=bool(allows_nan),
    )


def join(ensembles, *, classes, n_features):
    """The sum of ensembles that have the same outputs and comparison, as one."""
    first = ensembles[0]

    def offsets(sizes):
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)

    at_split = offsets([len(one.feature) for one in ensembles])
    at_leaf = offsets([len(one.values) for one in ensembles])

    def references(name):
        moved = []
        for one, split, leaf in zip(ensembles, at_split, at_leaf):
            reference = getattr(one, name)
            moved.append(np.where(reference >= 0, reference + split, reference - leaf))
        return np.concatenate(moved)

    def joined(name):
        return np.concatenate([getattr(one, name) for one in ensembles])

    return replace(
        first,
        **{name: joined(name) for name in ("feature", "threshold", "nan_left", "values", "output")},
        **{name: references(name) for name in ("left", "right", "roots")},
        split_offsets=offsets(np.concatenate([np.diff(one.split_offsets) for one in ensembles])),
        leaf_offsets=offsets(np.concatenate([np.diff(one.leaf_offsets) for one in ensembles])),
        bias=np.sum([one.bias for one in ensembles], axis=0),
        classes_=np.asarray(classes),
        n_features=n_features,
    )


def missing_between(tree, first, last, *, at, comparison, dtype):
    """Splits that read the numbers from ``first`` to ``last`` as missing, rebuilt of plain splits.

    Such a split sends these numbers where it sends NaN, whatever its threshold. Where that is not the side on which
    they lie anyway, they are cut out of that side by two more splits of the same feature.

    Parameters
    ----------
    tree : Nodes
    first, last : float
        Numbers of ``dtype``.
    at : ndarray of shape (n_nodes,), bool
        Which splits.
    comparison : {"<", "<="}
    dtype : dtype
    """
    # Thresholds that have on their left what is smaller than `first`, and what is not larger than `last`.
    first, last = np.asarray(first, dtype), np.asarray(last, dtype)
    if comparison == "<=":
        before, behind = float(np.nextafter(first, np.asarray(-np.inf, dtype))), float(last)
    else:
        before, behind = float(first), float(np.nextafter(last, np.asarray(np.inf, dtype)))
    tree = Nodes(*(np.array(part) for part in tree))
    split = at & (tree.left >= 0)
    within = split & (tree.threshold > before) & (tree.threshold < behind)
    tree.threshold[within] = np.where(tree.nan_left[within], behind, before)
    extra = []  # nodes to append: feature, threshold, nan_left, left, right

    def append(feature, threshold, nan_left, left, right):
        extra.append((feature, threshold, nan_left, left, right))
        return len(tree.left) + len(extra) - 1

    for node in np.flatnonzero(split & ~within):
        feature, threshold, nan_left, left, right = (part[node] for part in tree[:5])
        if threshold >= behind and not nan_left:
            # left | missing -> right | left | threshold | right
            upper = append(feature, threshold, True, left, right)
            middle = append(feature, behind, True, right, upper)
            tree.threshold[node], tree.right[node] = before, middle
        elif threshold <= before and nan_left:
            # left | threshold | right | missing -> left | right
            upper = append(feature, behind, True, left, right)
            tree.right[node] = append(feature, before, False, right, upper)
    if not extra:
        return tree
    columns = [np.concatenate([part, np.array(more)]) for part, more in zip(tree[:5], zip(*extra))]
    return Nodes(*columns, np.concatenate([tree.value, np.zeros((len(extra), tree.value.shape[1]))]))


def quietly(method, X):
    """Ask a method that may have been fitted on a data frame with an array, without a warning for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*feature names", UserWarning)
        return np.asarray(method(X))
