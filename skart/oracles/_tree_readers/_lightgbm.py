"""Trees of LightGBM: ``x <= threshold`` goes left, in float64. The prior is in the leaves of the first tree."""

import numpy as np

from skart.oracles._tree_readers._assemble import Nodes, Reading, assemble, missing_between

__all__ = ["read_lightgbm"]

# What LightGBM takes for zero: all numbers of at most this size, its kZeroThreshold.
_ZERO = float(np.float32(1e-35))


def read_lightgbm(model, read):
    """The sum of leaves, tree i for output ``i % n_outputs``.

    DART's weights are in the leaves too. Random forests (``boosting_type="rf"``) have the sum as raw score and its
    mean over rounds in the link of their probabilities; the labels are the same.
    """
    name = type(model).__name__
    # Up to the best round after early stopping, as `predict`.
    dump = model.booster_.dump_model()
    n_outputs = dump["num_tree_per_iteration"]
    n_trees = len(dump["tree_info"])
    ensemble = assemble(
        [_nodes(tree["tree_structure"], name) for tree in dump["tree_info"]],
        output=np.arange(n_trees) % n_outputs,
        bias=np.zeros(n_outputs),
        dtype=np.float64,
        n_features=dump["max_feature_idx"] + 1,
        classes=model.classes_,
        outputs="margins",
        allows_nan=True,
    )
    return Reading(ensemble, lambda X: model.predict(X, raw_score=True))


def _nodes(root, name):
    feature, threshold, nan_left, left, right, value, zero_missing = [], [], [], [], [], [], []
    stack = [(root, None, -1)]
    while stack:
        node, children, parent = stack.pop()
        number = len(feature)
        if children is not None:
            children[parent] = number
        leaf = "leaf_value" in node
        if leaf and "leaf_coeff" in node:
            raise ValueError(
                f"this {name} has linear models in its leaves (linear_tree=True); get_trees reads constants."
            )
        if not leaf and node["decision_type"] != "<=":
            raise ValueError(
                f"this {name} splits on categorical features (categorical_feature, or a frame's category dtype), which "
                "get_trees does not read. Fit it on numeric features only, one-hot encoded for example."
            )
        missing = node.get("missing_type")
        at = _at_least_zero(node.get("threshold", 0.0))
        feature.append(node.get("split_feature", 0))
        threshold.append(at)
        # Without a notion of missing values, NaN is read as 0.
        nan_left.append(at >= 0 if missing == "None" else node.get("default_left", False))
        left.append(-1)
        right.append(-1)
        value.append(node["leaf_value"] if leaf else 0.0)
        zero_missing.append(missing == "Zero")
        if not leaf:
            stack += [(node["right_child"], right, number), (node["left_child"], left, number)]
    columns = [np.array(part) for part in (feature, threshold, nan_left, left, right)]
    tree = Nodes(*columns, np.array(value)[:, None])
    zero_missing = np.array(zero_missing)
    if zero_missing.any():
        tree = missing_between(tree, -_ZERO, _ZERO, at=zero_missing, comparison="<=", dtype=np.float64)
    return tree


def _at_least_zero(threshold):
    """A threshold within what is read as zero, moved to the end that zero is on."""
    if -_ZERO <= threshold < 0:
        return float(np.nextafter(-_ZERO, -1))
    return _ZERO if 0 <= threshold < _ZERO else threshold
