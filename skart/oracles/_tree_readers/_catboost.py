"""Trees of CatBoost: ``x <= border`` goes left, in float32.

Read from the JSON model: symmetric trees, where split i is bit i of the leaf's number, or nested ones
(``grow_policy="Depthwise"`` and ``"Lossguide"``).
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from skart.oracles._tree_readers._assemble import Nodes, Reading, assemble

__all__ = ["read_catboost"]


def read_catboost(model, read):
    """Bias plus scale times the sum of leaves, each of them a vector of the outputs."""
    _refuse(model)
    # The JSON form is written to files only.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        saved = json.loads(path.read_text(encoding="utf-8"))
    floats = saved["features_info"]["float_features"]
    column = {feature["feature_index"]: feature["flat_feature_index"] for feature in floats}
    # "AsIs" means that no value was missing in training: NaN is then not larger than any border.
    nan_right = {feature["feature_index"]: feature["nan_value_treatment"] == "AsTrue" for feature in floats}
    scale, bias = saved["scale_and_bias"]
    bias = np.atleast_1d(np.asarray(bias, dtype=np.float64))
    symmetric = "oblivious_trees" in saved
    make = _symmetric if symmetric else _nested
    trees = [
        make(tree, column, nan_right, len(bias), scale) for tree in saved["oblivious_trees" if symmetric else "trees"]
    ]
    ensemble = assemble(
        trees,
        output=[0 if len(bias) == 1 else -1] * len(trees),
        bias=bias,
        dtype=np.float32,
        n_features=len(model.feature_names_),  # `n_features_in_` stays what the first of several fits saw
        classes=model.classes_,
        outputs="margins",
        allows_nan=True,
    )
    return Reading(ensemble, lambda X: model.predict(X, prediction_type="RawFormulaVal"))


def _refuse(model):
    name = type(model).__name__
    for kind in ("cat", "text", "embedding"):
        if len(getattr(model, f"get_{kind}_feature_indices")()):
            raise ValueError(
                f"this {name} was fitted with {kind}_features, which get_trees does not read. Fit it on numeric "
                "features only, one-hot encoded for example."
            )
    loss = model.get_all_params().get("loss_function")
    if loss in ("MultiLogloss", "MultiCrossEntropy"):
        raise ValueError(f"this {name} has several labels a sample (loss_function={loss!r}); get_trees reads one.")
    if len(model.classes_) == 2 and model.get_probability_threshold() != 0.5:
        raise ValueError(
            f"this {name} predicts by a probability threshold of {model.get_probability_threshold()} rather than 0.5, "
            "so that its labels do not follow the sign of the margin. Call `set_probability_threshold(0.5)`."
        )


def _symmetric(tree, column, nan_right, n_outputs, scale):
    """All nodes of a level have the same split; those whose outcome the levels above have decided are left out."""
    splits = tree["splits"] or []
    index = [split["float_feature_index"] for split in splits]
    border = np.array([_border(split) for split in splits])
    n_levels = len(splits)
    leaves = np.arange(2**n_levels)
    bits = (leaves[:, None] >> np.arange(n_levels)) & 1  # (n_leaves, n_levels); 1 is right
    possible = np.ones(len(leaves), dtype=bool)
    for one in range(n_levels):
        for other in range(n_levels):
            if index[one] == index[other] and border[one] <= border[other]:
                # Above the larger border is above the smaller one. So it is for NaN, which goes one way at all of them.
                possible &= bits[:, one] >= bits[:, other]
    values = np.reshape(np.asarray(tree["leaf_values"], dtype=np.float64), (-1, n_outputs)) * scale
    # The node of level i that leads to leaf l is number l % 2**i of that level; leaves stand last.
    starts = 2 ** np.arange(n_levels + 1) - 1
    reference = starts[-1] + leaves
    left = np.full(starts[-1] + len(leaves), -1)
    right = left.copy()
    for level in range(n_levels)[::-1]:
        half = 2**level
        here = starts[level] + np.arange(half)
        left[here], right[here] = reference[:half], reference[half:]
        go_left, go_right = possible[:half], possible[half:]
        reference = np.where(go_left & go_right, here, np.where(go_left, reference[:half], reference[half:]))
        possible = go_left | go_right
    level_of = np.repeat(np.arange(n_levels), 2 ** np.arange(n_levels))
    pad = np.zeros(len(leaves), dtype=np.int64)
    return Nodes(
        np.concatenate([np.array([column[one] for one in index], dtype=np.int64)[level_of], pad]),
        np.concatenate([border[level_of], pad]),
        np.concatenate([~np.array([nan_right[one] for one in index], dtype=bool)[level_of], pad]).astype(bool),
        left,
        right,
        np.concatenate([np.zeros((starts[-1], n_outputs)), values]),
    )


def _nested(tree, column, nan_right, n_outputs, scale):
    feature, threshold, nan_left, left, right, value = [], [], [], [], [], []
    stack = [(tree, None, -1)]
    while stack:
        node, children, parent = stack.pop()
        number = len(feature)
        if children is not None:
            children[parent] = number
        split = node.get("split")
        left.append(-1)
        right.append(-1)
        if split is None:
            feature.append(0)
            threshold.append(0.0)
            nan_left.append(False)
            value.append(np.broadcast_to(node["value"], n_outputs) * scale)
        else:
            feature.append(column[split["float_feature_index"]])
            threshold.append(_border(split))
            nan_left.append(not nan_right[split["float_feature_index"]])
            value.append(np.zeros(n_outputs))
            stack += [(node["right"], right, number), (node["left"], left, number)]
    return Nodes(*(np.array(part) for part in (feature, threshold, nan_left, left, right, value)))


def _border(split):
    if split["split_type"] != "FloatFeature":
        raise ValueError(
            f"get_trees does not read CatBoost's splits of type {split['split_type']!r}, numeric ones only."
        )
    # A float32 number, in however many decimals it is printed.
    return float(np.float32(split["border"]))
