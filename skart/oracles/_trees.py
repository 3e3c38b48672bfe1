"""What stands inside a classifier made of trees: :func:`get_trees`."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skart.gradients._registry import is_class_at
from skart.oracles._oracle import classes_of
from skart.oracles._tree_readers._assemble import quietly
from skart.oracles._tree_readers._catboost import read_catboost
from skart.oracles._tree_readers._lightgbm import read_lightgbm
from skart.oracles._tree_readers._sklearn import (
    read_adaboost,
    read_bagging,
    read_forest,
    read_gradient_boosting,
    read_hist_boosting,
    read_tree,
)
from skart.oracles._tree_readers._xgboost import read_xgboost

__all__ = ["get_trees"]

# A reader takes the fitted model and the function that reads its parts.
_READERS = {
    "catboost.CatBoostClassifier": read_catboost,
    "lightgbm.LGBMClassifier": read_lightgbm,
    "sklearn.ensemble.AdaBoostClassifier": read_adaboost,
    "sklearn.ensemble.BaggingClassifier": read_bagging,
    "sklearn.ensemble.ExtraTreesClassifier": read_forest,
    "sklearn.ensemble.GradientBoostingClassifier": read_gradient_boosting,
    "sklearn.ensemble.HistGradientBoostingClassifier": read_hist_boosting,
    "sklearn.ensemble.RandomForestClassifier": read_forest,
    "sklearn.tree.DecisionTreeClassifier": read_tree,
    "sklearn.tree.ExtraTreeClassifier": read_tree,
    "xgboost.XGBClassifier": read_xgboost,
    "xgboost.XGBRFClassifier": read_xgboost,
}
_SEARCHES = (
    "sklearn.model_selection.GridSearchCV",
    "sklearn.model_selection.HalvingGridSearchCV",
    "sklearn.model_selection.HalvingRandomSearchCV",
    "sklearn.model_selection.RandomizedSearchCV",
)

# Points at which what was read is compared with the model, all of their values on thresholds.
N_CHECKED = 64


def get_trees(estimator):
    """Read the trees of a fitted classifier into flat arrays.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier made of trees: scikit-learn's ``DecisionTreeClassifier``, ``ExtraTreeClassifier``,
        ``RandomForestClassifier``, ``ExtraTreesClassifier``, ``GradientBoostingClassifier`` and
        ``HistGradientBoostingClassifier``, ``BaggingClassifier`` and ``AdaBoostClassifier`` over decision trees,
        ``XGBClassifier``, ``XGBRFClassifier``, ``LGBMClassifier`` or ``CatBoostClassifier``. A
        :class:`~sklearn.frozen.FrozenEstimator` and a fitted search are looked through.

    Returns
    -------
    TreeEnsemble
        Its ``decision_function`` is the library's own margin (the probabilities of trees, forests and bags), computed
        in float64 with the library's comparisons.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The estimator is not fitted.
    TypeError
        The estimator is not one of these classifiers.
    ValueError
        It is one, but was fitted with what is not read: categorical splits, DART (XGBoost), linear models in leaves,
        several labels a sample, a prior that depends on the sample.

    Notes
    -----
    What was read is compared with the model's own scores and labels at points on its thresholds, so that a release of
    a library that keeps its trees in another way raises an error, and never reads as robustness.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from skart.oracles import get_trees
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X, y)
    >>> trees = get_trees(model)
    >>> trees.n_trees
    10
    >>> np.allclose(trees.decision_function(X), model.decision_function(X))
    True
    """
    estimator = _look_through(estimator)
    reading = _read(estimator)
    classes_of(estimator)  # two classes or more
    _check(estimator, reading)
    return reading.ensemble


def _look_through(estimator):
    """What a frozen estimator, a search or a Pipeline that transforms nothing holds."""
    if isinstance(estimator, type):
        raise TypeError(f"get_trees takes a fitted classifier; got the class {estimator.__name__}.")
    cls = type(estimator)
    if is_class_at("sklearn.frozen.FrozenEstimator", cls):
        return _look_through(estimator.estimator)
    if any(is_class_at(path, cls) for path in _SEARCHES):
        check_is_fitted(estimator)
        if not hasattr(estimator, "best_estimator_"):
            raise ValueError(
                f"this {cls.__name__} has no `best_estimator_`: it was made with refit={estimator.refit!r}. Search "
                "with refit=True, or give an estimator fitted with `best_params_`."
            )
        return _look_through(estimator.best_estimator_)
    if any(is_class_at("sklearn.pipeline.Pipeline", ancestor) for ancestor in cls.__mro__):
        *before, (name, last) = estimator.steps
        transforms = [step for step, transformer in before if transformer not in (None, "passthrough")]
        if transforms:
            raise TypeError(
                f"the thresholds of step {name!r} are in the space of what step {transforms[-1]!r} gives, not of the "
                f"{cls.__name__}'s own samples. Pass that step, `pipeline.named_steps[{name!r}]`, and transform the "
                "samples by `pipeline[:-1]`."
            )
        return _look_through(last)
    return estimator


def _read(estimator):
    for ancestor in type(estimator).__mro__:
        for path, reader in _READERS.items():
            if is_class_at(path, ancestor):
                check_is_fitted(estimator)
                if getattr(estimator, "n_outputs_", 1) > 1:
                    raise ValueError(
                        f"this {type(estimator).__name__} has several labels a sample; get_trees reads one label."
                    )
                return reader(estimator, _read)
    names = sorted(path.rpartition(".")[2] for path in _READERS)
    raise TypeError(f"get_trees reads fitted classifiers made of trees ({', '.join(names)}); got {estimator!r}.")


def _check(estimator, reading):
    """Compare what was read with what the model says, at points on its thresholds."""
    trees = reading.ensemble
    X = _points_on_thresholds(trees)
    own, ours = quietly(reading.scores, X), trees.decision_function(X)
    # Libraries add up in float32: their error grows with what is added.
    largest = np.maximum.reduceat(np.abs(trees.values).max(axis=1), trees.leaf_offsets[:-1])
    size = 1 + largest.sum() + np.abs(trees.bias).max()
    if own.shape == ours.shape:
        difference = np.abs(own - ours).max() / size
        if difference < 1e-5 and _same_labels(quietly(estimator.predict, X), ours, trees.classes_, 1e-5 * size):
            return
    raise ValueError(
        f"the trees read from this {type(estimator).__name__} do not give its own answers. If its class overrides how "
        "it predicts, pass an estimator of the library's own class; else please report it, with the versions of the "
        "library and of skart."
    )


def _points_on_thresholds(trees):
    rng = np.random.default_rng(0)
    X = np.zeros((N_CHECKED, trees.n_features), dtype=trees.dtype)
    finite = np.isfinite(trees.threshold)
    feature, threshold = trees.feature[finite], trees.threshold[finite]
    order = np.argsort(feature, kind="stable")
    used, starts, counts = np.unique(feature[order], return_index=True, return_counts=True)
    drawn = starts + np.floor(rng.random((N_CHECKED, len(used))) * counts).astype(np.intp)
    with np.errstate(over="ignore"):
        X[:, used] = np.nan_to_num(threshold[order][drawn].astype(trees.dtype), posinf=0, neginf=0)
    return X


def _same_labels(labels, scores, classes, tolerance):
    """Whether labels follow scores, but for ties."""
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    first, second = np.partition(scores, -2, axis=1)[:, :-3:-1].T
    same = np.asarray(labels).reshape(-1) == classes[scores.argmax(axis=1)]
    return bool(np.all(same | (first - second <= tolerance)))
