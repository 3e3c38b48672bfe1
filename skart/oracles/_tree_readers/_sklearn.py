"""Trees of scikit-learn: ``x <= threshold`` goes left, in float32 but for histogram boosting's float64."""

from dataclasses import replace

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.utils import get_tags

from skart.oracles._tree_readers._assemble import Nodes, Reading, assemble, join, quietly

__all__ = ["read_adaboost", "read_bagging", "read_forest", "read_gradient_boosting", "read_hist_boosting", "read_tree"]

# Of a DummyClassifier, which stands in for init=None too; the others draw at random.
_CONSTANT_STRATEGIES = ("constant", "most_frequent", "prior")


def _nodes(estimator, scale=1.0):
    tree = estimator.tree_
    return Nodes(
        tree.feature,
        tree.threshold,
        tree.missing_go_to_left != 0,
        tree.children_left,
        tree.children_right,
        tree.value[:, 0, :] * scale,
    )


def _common(model):
    """What all ensembles of `sklearn.tree` have in common."""
    return {
        "dtype": np.float32,
        "n_features": model.n_features_in_,
        "classes": model.classes_,
        "allows_nan": get_tags(model).input_tags.allow_nan,
    }


def read_tree(model, read):
    """A tree votes with the frequencies of its leaf."""
    ensemble = assemble(
        [_nodes(model)], output=[-1], bias=np.zeros(len(model.classes_)), outputs="probabilities", **_common(model)
    )
    return Reading(ensemble, model.predict_proba)


def read_forest(model, read):
    """A forest averages the votes of its trees."""
    n_trees = len(model.estimators_)
    ensemble = assemble(
        [_nodes(tree, 1 / n_trees) for tree in model.estimators_],
        output=[-1] * n_trees,
        bias=np.zeros(len(model.classes_)),
        outputs="probabilities",
        **_common(model),
    )
    return Reading(ensemble, model.predict_proba)


def read_gradient_boosting(model, read):
    """Prior plus learning rate times the sum of leaves, tree (i, k) for output k."""
    init = model.init_
    zero = isinstance(init, str) and init == "zero"
    if not zero and not (isinstance(init, DummyClassifier) and init.strategy in _CONSTANT_STRATEGIES):
        raise ValueError(
            f"this {type(model).__name__} starts from init={init!r}, whose answer depends on the sample: its margins "
            "are not those of trees alone. Fit it with init=None or init='zero'."
        )
    n_rounds, n_outputs = model.estimators_.shape
    ensemble = assemble(
        [_nodes(tree, model.learning_rate) for tree in model.estimators_.ravel()],
        output=np.tile(np.arange(n_outputs), n_rounds),
        bias=np.zeros(n_outputs),
        outputs="margins",
        **_common(model),
    )
    if not zero:
        # The link that makes a margin of the prior is private: what the trees leave over at any point is the prior.
        origin = np.zeros((1, model.n_features_in_))
        rest = np.reshape(quietly(model.decision_function, origin) - ensemble.decision_function(origin), -1)
        ensemble = replace(ensemble, bias=rest)
    return Reading(ensemble, model.decision_function)


def read_hist_boosting(model, read):
    """Baseline plus the sum of leaves, tree (i, k) for output k; compared in float64."""
    if model.is_categorical_ is not None and np.any(model.is_categorical_):
        raise ValueError(
            f"this {type(model).__name__} splits on categorical features (categorical_features), which get_trees does "
            "not read. Fit it on numeric features only, one-hot encoded for example."
        )
    # No public attribute holds the trees or the baseline.
    rounds, baseline = model._predictors, np.reshape(model._baseline_prediction, -1)
    trees = []
    for predictor in (predictor for one_round in rounds for predictor in one_round):
        nodes = predictor.nodes
        leaf = nodes["is_leaf"] != 0
        trees.append(
            Nodes(
                nodes["feature_idx"].astype(np.int64),
                nodes["num_threshold"],
                nodes["missing_go_to_left"] != 0,
                np.where(leaf, -1, nodes["left"].astype(np.int64)),
                np.where(leaf, -1, nodes["right"].astype(np.int64)),
                nodes["value"][:, None],
            )
        )
    ensemble = assemble(
        trees,
        output=np.tile(np.arange(len(baseline)), len(rounds)),
        bias=baseline,
        outputs="margins",
        **{**_common(model), "dtype": np.float64},
    )
    return Reading(ensemble, model.decision_function)


def read_bagging(model, read):
    """The average of probabilities of trees or forests, each on features of its own."""
    parts = []
    for estimator, features in zip(model.estimators_, model.estimators_features_):
        one = read(estimator).ensemble
        if one.outputs != "probabilities":
            raise ValueError(
                f"this {type(model).__name__} averages the probabilities of {type(estimator).__name__}, which are not "
                "sums over its trees. Bag decision trees or forests, or give one of its `estimators_`."
            )
        # An estimator may have missed a class in its sample; its labels are positions.
        values = np.zeros((len(one.values), len(model.classes_)))
        values[:, np.asarray(one.classes_, dtype=np.intp)] = one.values / len(model.estimators_)
        feature = np.asarray(features, dtype=np.int32)[one.feature]
        parts.append(replace(one, feature=feature, values=values, bias=np.zeros(len(model.classes_))))
    ensemble = join(parts, classes=model.classes_, n_features=model.n_features_in_)
    return Reading(ensemble, model.predict_proba)


def read_adaboost(model, read):
    """Weighted votes for the class of the leaf, and against the others (SAMME)."""
    n_classes = len(model.classes_)
    n_trees = len(model.estimators_)
    weights = np.asarray(model.estimator_weights_[:n_trees], dtype=np.float64)
    weights = weights / weights.sum()
    trees = []
    for estimator, weight in zip(model.estimators_, weights):
        if not hasattr(estimator, "tree_"):
            raise ValueError(
                f"this {type(model).__name__} boosts {type(estimator).__name__}; get_trees reads AdaBoost over "
                "decision trees, whose votes are those of single leaves."
            )
        nodes = _nodes(estimator)
        vote = np.searchsorted(model.classes_, estimator.classes_[nodes.value.argmax(axis=1)])
        if n_classes == 2:
            value = np.where(vote == 1, 2 * weight, -2 * weight)[:, None]
        else:
            value = np.full((len(vote), n_classes), -weight / (n_classes - 1))
            value[np.arange(len(vote)), vote] = weight
        trees.append(nodes._replace(value=value))
    ensemble = assemble(
        trees,
        output=[0 if n_classes == 2 else -1] * n_trees,
        bias=np.zeros(1 if n_classes == 2 else n_classes),
        outputs="margins",
        **{**_common(model), "allows_nan": False},
    )
    return Reading(ensemble, model.decision_function)
