"""Trees of XGBoost: ``x < threshold`` goes left, in float32.

Read from ``save_raw("json")``, which keeps thresholds to the bit; ``dump_model`` prints them in fewer decimals.
"""

import json

import numpy as np

from skart.oracles._tree_readers._assemble import Nodes, Reading, assemble, missing_between

__all__ = ["read_xgboost"]

# Objectives that keep `base_score` as a probability.
_LOGISTIC = ("binary:logistic", "reg:logistic")


def read_xgboost(model, read):
    """Base score plus the sum of leaves; which output a tree adds to is told by ``tree_info``."""
    name = type(model).__name__
    learner = json.loads(model.get_booster().save_raw("json").decode())["learner"]
    booster, objective = learner["gradient_booster"], learner["objective"]["name"]
    params = learner["learner_model_param"]
    _refuse(name, booster["name"], objective, params, learner)
    if booster["name"] == "gbtree":
        booster = booster["model"]
    trees = booster["trees"]
    if any(any(tree["split_type"]) for tree in trees) or "c" in learner.get("feature_types", ()):
        raise ValueError(
            f"this {name} splits on categorical features (enable_categorical), which get_trees does not read. Fit it "
            "on numeric features only, one-hot encoded for example."
        )
    n_outputs = max(1, int(params["num_class"]))
    n_trees = len(trees)
    try:
        # After early stopping, `predict` stops at the best round.
        n_rounds = model.best_iteration + 1
    except AttributeError:
        pass
    else:
        n_trees = min(n_trees, n_rounds * n_outputs * int(booster["gbtree_model_param"]["num_parallel_tree"]))
    nodes = [_nodes(tree) for tree in trees[:n_trees]]
    missing = np.float32(model.missing)
    if not np.isnan(missing):
        nodes = [
            missing_between(one, missing, missing, at=one.left >= 0, comparison="<", dtype=np.float32) for one in nodes
        ]
    base_score = np.atleast_1d(np.array(json.loads(params["base_score"]), dtype=np.float32))
    if objective in _LOGISTIC:
        base_score = -np.log(1 / base_score - 1)
    ensemble = assemble(
        nodes,
        output=booster["tree_info"][:n_trees],
        bias=np.broadcast_to(base_score, (n_outputs,)),
        comparison="<",
        dtype=np.float32,
        n_features=model.n_features_in_,
        classes=model.classes_,
        outputs="margins",
        allows_nan=True,
    )
    return Reading(ensemble, lambda X: model.predict(X, output_margin=True))


def _nodes(tree):
    condition = np.array(tree["split_conditions"], dtype=np.float32)  # of a leaf, its value
    return Nodes(
        np.array(tree["split_indices"]),
        condition.astype(np.float64),
        np.array(tree["default_left"], dtype=bool),
        np.array(tree["left_children"]),
        np.array(tree["right_children"]),
        condition.astype(np.float64)[:, None],
    )


def _refuse(name, booster, objective, params, learner):
    if booster != "gbtree":
        why = {"dart": "drops trees at random (booster='dart')", "gblinear": "is linear (booster='gblinear')"}
        raise ValueError(
            f"this {name} {why.get(booster, f'has booster={booster!r}')}; get_trees reads booster='gbtree' only."
        )
    if int(params.get("num_target", 1)) > 1:
        raise ValueError(f"this {name} has several labels a sample; get_trees reads one label a sample.")
    sizes = {int(tree["tree_param"]["size_leaf_vector"]) for tree in learner["gradient_booster"]["model"]["trees"]}
    if max(sizes, default=1) > 1:
        raise ValueError(
            f"this {name} grows multi-output trees (multi_strategy='multi_output_tree'); get_trees reads "
            "multi_strategy='one_output_per_tree' only."
        )
    if objective == "binary:logitraw":
        raise ValueError(
            f"this {name} has objective='binary:logitraw': its `predict` puts the border at a margin of 0.5 rather "
            "than 0. Fit it with objective='binary:logistic'."
        )
