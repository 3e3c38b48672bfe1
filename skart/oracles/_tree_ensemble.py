"""Trees of any library as flat arrays: what a split does, what a leaf adds, and the box of inputs that a leaf holds."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils import check_array

from skart._core._arrays import to_numpy

__all__ = ["LeafBoxes", "TreeEnsemble"]

# Entries (samples x trees x values of a leaf) that one pass over the trees holds at once: some tens of megabytes.
_ENTRIES = 2**20


@dataclass(frozen=True, eq=False, repr=False)
class TreeEnsemble:
    """A fitted classifier made of trees, as flat arrays; made by :func:`get_trees`.

    Splits and leaves of all trees are numbered through. A reference to a node is the number of a split where it is
    not negative, and the complement ``~leaf`` of the number of a leaf where it is. Sample x goes left at split s if
    ``x[feature[s]]``, rounded to ``dtype``, is ``comparison`` to ``threshold[s]``; a missing value (NaN) goes left if
    ``nan_left[s]``. Scores are ``bias`` plus the values of one leaf of each tree: learning rates, weights and averages
    are already in the values, priors and base scores in the bias.

    Attributes
    ----------
    feature : ndarray of shape (n_splits,), int32
        Column of ``X`` that a split looks at.
    threshold : ndarray of shape (n_splits,), float64
        Exactly the number that the library compares with; it need not be a float32 where ``dtype`` is.
    nan_left : ndarray of shape (n_splits,), bool
        Where a missing value goes.
    left, right : ndarray of shape (n_splits,), int32
        References to children. A child may have several parents in its tree (a library that reads a number as
        missing cuts it out by more splits than one).
    roots : ndarray of shape (n_trees,), int32
        References to the roots; a tree may be a single leaf.
    split_offsets, leaf_offsets : ndarray of shape (n_trees + 1,), int32
        Tree t has the splits ``split_offsets[t]:split_offsets[t + 1]`` and the leaves likewise.
    values : ndarray of shape (n_leaves, 1) or (n_leaves, n_outputs), float64
        What a leaf adds: to the one output of its tree, or to all outputs.
    output : ndarray of shape (n_trees,), int32
        The output that the tree adds to; -1 for all of them.
    bias : ndarray of shape (n_outputs,), float64
        Scores of an ensemble without trees.
    comparison : {"<", "<="}
        Holds where a sample goes left.
    dtype : numpy.dtype
        float32 or float64: what values of ``X`` are rounded to before they are compared.
    n_features : int
        Number of columns of ``X``.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    outputs : {"margins", "probabilities"}
        What the scores are. The largest is the prediction; a single margin is that of the second class against the
        first, with the border at zero.
    allows_nan : bool
        Whether the library takes missing values.

    See Also
    --------
    get_trees : Read the trees of a fitted classifier.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from skart.oracles import get_trees
    >>> X, y = load_iris(return_X_y=True)
    >>> trees = get_trees(DecisionTreeClassifier(max_leaf_nodes=3, random_state=0).fit(X, y))
    >>> trees
    <TreeEnsemble: 1 tree, 2 splits, 3 leaves, 4 features, 3 outputs (probabilities), x <= t in float32>
    >>> trees.decision_function(X[:1])
    array([[1., 0., 0.]])
    """

    feature: np.ndarray
    threshold: np.ndarray
    nan_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    roots: np.ndarray
    split_offsets: np.ndarray
    leaf_offsets: np.ndarray
    values: np.ndarray
    output: np.ndarray
    bias: np.ndarray
    comparison: str
    dtype: np.dtype
    n_features: int
    classes_: np.ndarray
    outputs: str
    allows_nan: bool

    def __repr__(self):
        counts = [(self.n_trees, "tree"), (len(self.feature), "split"), (len(self.values), "leaf")]
        counts += [(self.n_features, "feature"), (self.n_outputs, "output")]
        words = [f"{n} {'leaves' if (name, n > 1) == ('leaf', True) else name + 's' * (n != 1)}" for n, name in counts]
        return f"<TreeEnsemble: {', '.join(words)} ({self.outputs}), x {self.comparison} t in {self.dtype}>"

    @property
    def n_trees(self):
        """Number of trees."""
        return len(self.roots)

    @property
    def n_outputs(self):
        """Number of scores: that of the classes, or 1 for a binary margin."""
        return len(self.bias)

    def decision_function(self, X):
        """The library's own margins, or probabilities where trees vote with them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; NaN is a missing value where the library takes them.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
        """
        X = self._check(X)
        scores = np.tile(self.bias, (len(X), 1))
        adds_to = self.output[:, None] == np.arange(self.n_outputs)  # (n_trees, n_outputs)
        for rows in self._batches(len(X)):
            leaf = self._descend(X[rows])
            if self.values.shape[1] < self.n_outputs:
                scores[rows] += self.values[:, 0][leaf] @ adds_to.astype(np.float64)
            else:
                scores[rows] += self.values[leaf].sum(axis=1)
        return scores[:, 0] if self.n_outputs == 1 else scores

    def apply(self, X):
        """The leaf in which each sample ends in each tree.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        leaves : ndarray of shape (n_samples, n_trees), int32
            Rows of ``values``.
        """
        X = self._check(X)
        leaves = np.empty((len(X), self.n_trees), dtype=np.int32)
        for rows in self._batches(len(X)):
            leaves[rows] = self._descend(X[rows])
        return leaves

    def leaf_boxes(self):
        """The leaves as boxes, each with the few features that it bounds.

        Returns
        -------
        LeafBoxes
        """
        leaf, splits, went_left = self._paths()
        n_boxes = len(leaf)
        box, step = np.nonzero(splits >= 0)
        splits, went_left = splits[box, step], went_left[box, step]
        feature, threshold = self.feature[splits], self.threshold[splits]
        order = np.lexsort((feature, box))
        box, feature, threshold, went_left = box[order], feature[order], threshold[order], went_left[order]
        same_way = self.nan_left[splits[order]] == went_left
        # One entry for each run of the same feature in the same box.
        first = np.flatnonzero(np.diff(box, prepend=-1) | np.diff(feature, prepend=-1))
        box, feature = box[first], feature[first]
        lower, upper, nan_inside = np.empty(0), np.empty(0), np.empty(0, dtype=bool)
        if len(first):  # reduceat wants at least one run
            lower = np.maximum.reduceat(np.where(went_left, -np.inf, threshold), first)
            upper = np.minimum.reduceat(np.where(went_left, threshold, np.inf), first)
            nan_inside = np.logical_and.reduceat(same_way, first) & self.allows_nan
        least, most = _representable(lower, upper, self.comparison, self.dtype)
        # A split at an infinity tells missing values from all others.
        empty = (least > most) | (lower == np.inf if self.comparison == "<=" else upper == -np.inf)
        lower[empty], upper[empty] = np.inf, -np.inf
        unreachable = np.zeros(n_boxes, dtype=bool)
        unreachable[box[empty & ~nan_inside]] = True
        kept = ~unreachable[box]
        counts = np.bincount(box[kept], minlength=n_boxes)[~unreachable]
        leaf = leaf[~unreachable]
        return LeafBoxes(
            leaf=leaf,
            tree_offsets=np.searchsorted(leaf, self.leaf_offsets).astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            feature=feature[kept],
            lower=lower[kept],
            upper=upper[kept],
            nan_inside=nan_inside[kept],
            comparison=self.comparison,
            dtype=self.dtype,
        )

    def _check(self, X):
        if not hasattr(X, "__dataframe__") and not hasattr(X, "toarray"):
            X = to_numpy(X)
        with np.errstate(over="ignore"):  # beyond float32 is infinite for the library too
            X = check_array(X, dtype=self.dtype, ensure_all_finite=False, ensure_min_samples=0, input_name="X")
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]} features, but the trees were read from a model of {self.n_features}.")
        if not self.allows_nan and np.isnan(X).any():
            raise ValueError("X contains NaN, and the model that the trees were read from takes no missing values.")
        return X

    def _batches(self, n_samples):
        size = max(1, _ENTRIES // max(1, self.n_trees * self.values.shape[1]))
        return [slice(start, start + size) for start in range(0, n_samples, size)]

    def _descend(self, X):
        """All samples through all trees at once, a level at a time: leaves of shape (n_samples, n_trees)."""
        n_samples, n_features = X.shape
        node = np.tile(self.roots, n_samples)
        active = np.flatnonzero(node >= 0)
        row = active // max(1, self.n_trees) * n_features  # where the sample starts in the flat X
        flat = X.reshape(-1)
        has_nan = bool(np.isnan(flat).any())
        at = node[active]
        while len(active):
            x = flat[row + self.feature[at]]
            threshold = self.threshold[at]
            # float32 against float64 is compared as float64: exactly.
            goes_left = x < threshold if self.comparison == "<" else x <= threshold
            if has_nan:
                goes_left = np.where(np.isnan(x), self.nan_left[at], goes_left)
            at = np.where(goes_left, self.left[at], self.right[at])
            node[active] = at
            inner = at >= 0
            active, row, at = active[inner], row[inner], at[inner]
        return ~node.reshape(n_samples, self.n_trees)

    def _paths(self):
        """Leaf of each path from a root, and its splits (-1 for none) with the side taken; sorted by leaf."""
        node = self.roots
        splits = np.empty((len(node), 0), dtype=np.int32)
        went_left = np.empty((len(node), 0), dtype=bool)
        done = []
        while len(node):
            at_leaf = node < 0
            done.append((~node[at_leaf], splits[at_leaf], went_left[at_leaf]))
            node, splits, went_left = node[~at_leaf], splits[~at_leaf], went_left[~at_leaf]
            splits = np.tile(np.column_stack([splits, node]), (2, 1))
            sides = np.repeat([True, False], len(node))
            went_left = np.column_stack([np.tile(went_left, (2, 1)), sides])
            node = np.where(sides, self.left[splits[:, -1]], self.right[splits[:, -1]])
        depth = max((splits.shape[1] for _, splits, _ in done), default=0)
        leaf = np.concatenate([part[0] for part in done]) if done else np.empty(0, dtype=np.int32)
        all_splits = np.full((len(leaf), depth), -1, dtype=np.int32)
        all_sides = np.zeros((len(leaf), depth), dtype=bool)
        start = 0
        for leaves, splits, sides in done:
            stop = start + len(leaves)
            all_splits[start:stop, : splits.shape[1]] = splits
            all_sides[start:stop, : splits.shape[1]] = sides
            start = stop
        order = np.argsort(leaf, kind="stable")
        return leaf[order], all_splits[order], all_sides[order]


@dataclass(frozen=True, eq=False)
class LeafBoxes:
    """The leaves of a :class:`TreeEnsemble` as boxes in the space of samples.

    Box b holds the samples that end in the leaf ``leaf[b]``. It bounds the features ``feature[i]`` for i in
    ``offsets[b]:offsets[b + 1]`` (in ascending order), by ``lower[i] < x <= upper[i]`` where the comparison of the
    splits is ``<=``, and by ``lower[i] <= x < upper[i]`` where it is ``<``. Boxes that no sample reaches are left
    out. The boxes of one tree are disjoint and hold every sample.

    Attributes
    ----------
    leaf : ndarray of shape (n_boxes,), int32
        Row of the ensemble's ``values``, ascending. A leaf has more than one box where it has more than one parent.
    tree_offsets : ndarray of shape (n_trees + 1,), int32
        Tree t has the boxes ``tree_offsets[t]:tree_offsets[t + 1]``.
    offsets : ndarray of shape (n_boxes + 1,)
        Where the bounds of a box begin and end.
    feature : ndarray of shape (n_bounds,), int32
        Column of ``X``.
    lower, upper : ndarray of shape (n_bounds,), float64
        Thresholds, or infinite; ``inf`` and ``-inf`` where the box holds none but missing values.
    nan_inside : ndarray of shape (n_bounds,), bool
        Whether a sample that lacks this feature may be in the box.
    comparison : {"<", "<="}
        Comparison of the splits.
    dtype : numpy.dtype
        What values of samples are rounded to before they are compared.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from skart.oracles import get_trees
    >>> X, y = load_iris(return_X_y=True)
    >>> boxes = get_trees(DecisionTreeClassifier(max_depth=1, random_state=0).fit(X, y)).leaf_boxes()
    >>> boxes.leaf, boxes.feature, boxes.upper
    (array([0, 1], dtype=int32), array([3, 3], dtype=int32), array([0.8..., inf]))
    """

    leaf: np.ndarray
    tree_offsets: np.ndarray
    offsets: np.ndarray
    feature: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    nan_inside: np.ndarray
    comparison: str
    dtype: np.dtype

    def representable(self):
        """The smallest and the largest number of ``dtype`` within each bound.

        A sample in ``dtype`` is in the box if and only if its values are between them, both included: what a search
        or a proof needs that is to hold for numbers rather than for the reals.

        Returns
        -------
        least, most : ndarray of shape (n_bounds,), of ``dtype``
            ``least > most`` where the box holds none but missing values.
        """
        return _representable(self.lower, self.upper, self.comparison, self.dtype)


def _representable(lower, upper, comparison, dtype):
    """Least and largest number of ``dtype`` in ``(lower, upper]`` (by ``<=``) or ``[lower, upper)`` (by ``<``)."""
    up, down = np.asarray(np.inf, dtype), np.asarray(-np.inf, dtype)
    with np.errstate(over="ignore"):  # a threshold may be the largest number of float32, or be beyond it
        least, most = lower.astype(dtype), upper.astype(dtype)
        above, below = np.nextafter(least, up), np.nextafter(most, down)
    # Compared as float64, where the rounding to `dtype` shows.
    if comparison == "<=":
        least = np.where((least.astype(np.float64) <= lower) & (lower > -np.inf), above, least)
        most = np.where(most.astype(np.float64) > upper, below, most)
    else:
        least = np.where(least.astype(np.float64) < lower, above, least)
        most = np.where((most.astype(np.float64) >= upper) & (upper < np.inf), below, most)
    return least, most
