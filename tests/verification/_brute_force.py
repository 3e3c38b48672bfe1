"""The nearest sample of another label by trying all that a small ensemble can tell apart."""

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)

from skart.oracles import get_trees

NORMS = (1, 2, np.inf)


def xgb(**params):
    params = {"n_estimators": 4, "max_depth": 3, "n_jobs": 1, "min_child_weight": 0, **params}
    return pytest.importorskip("xgboost").XGBClassifier(**params)


def lgbm():
    module = pytest.importorskip("lightgbm")
    return module.LGBMClassifier(n_estimators=4, num_leaves=5, min_child_samples=3, n_jobs=1, verbose=-1)


def catboost():
    module = pytest.importorskip("catboost")
    return module.CatBoostClassifier(n_estimators=4, depth=2, thread_count=1, verbose=0, allow_writing_files=False)


MODELS = {
    "forest": lambda: RandomForestClassifier(5, max_depth=4, random_state=0),
    "pure forest": lambda: RandomForestClassifier(4, random_state=0),  # an even number of pure votes ties
    "extra trees": lambda: ExtraTreesClassifier(4, max_depth=4, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=4, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=4, max_leaf_nodes=5, min_samples_leaf=3),
    "XGBoost": xgb,
    "LightGBM": lgbm,
    "CatBoost": catboost,
}


def samples(n_classes, n_samples=60):
    """Three features on a grid of tenths: XGBoost puts its thresholds on samples. Labels are partly noise."""
    rng = np.random.default_rng(n_classes)
    X = rng.integers(-6, 7, size=(n_samples, 3)) / 10
    score = np.floor((X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.random(n_samples)) * 3).astype(int)
    return X, score % n_classes


def predicted(model, X):
    return np.reshape(model.predict(X), -1)


def brute_force(model, X, good, *, low=-np.inf, high=np.inf, free=(True, True, True)):
    """Least distances, in each norm, to points for which ``good(labels, sample)`` holds; X in the trees' dtype."""
    trees = get_trees(model)
    kind = trees.dtype.type
    values = []
    for feature in range(3):
        t = np.unique(trees.threshold[trees.feature == feature]).astype(trees.dtype)
        t = t[np.abs(t) < 1e6]
        near = np.concatenate([np.nextafter(t, kind(-np.inf)), t, np.nextafter(t, kind(np.inf))])
        near = np.unique(near)
        values.append(near[(near >= low) & (near <= high)] if free[feature] else near[:0])
    best = {norm: np.full(len(X), np.inf) for norm in NORMS}
    for n, x in enumerate(X):
        own = [np.append(near, x[f]) for f, near in enumerate(values)]
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*own, indexing="ij")], axis=1)
        delta = (grid.astype(np.float64) - x)[good(predicted(model, grid), n)]
        if len(delta):
            for norm in NORMS:
                best[norm][n] = np.linalg.norm(delta, ord=norm, axis=1).min()
    return best
