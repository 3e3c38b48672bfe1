"""The table of supported models is true: each row is fitted, attacked by FGSM, or says why not."""

import importlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import minmax_scale

from skart.attacks import FastGradientMethod
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle, get_trees
from skart.oracles._support import _SEVERAL_LABELS as SEVERAL_LABELS
from skart.oracles._support import support_table
from tests.common._discovery import instances, public_estimators
from tests.common.test_rule_contract import TABLE as RULES

public_estimators()  # imports the packages, whose own rules join the registry
# Names that came or went with releases of scikit-learn; everything else must resolve where its package is installed.
COME_AND_GO = {"sklearn.linear_model.PassiveAggressiveClassifier"}
QUIET = {
    "catboost.CatBoostClassifier": {"verbose": 0, "allow_writing_files": False},
    "lightgbm.LGBMClassifier": {"verbose": -1},
}
SMALL = {"n_estimators": 5, "iterations": 5, "max_iter": 60}
X, Y = load_iris(return_X_y=True)
X = minmax_scale(X, (0.05, 0.95))


# Classes that need arguments and have no rule.
TABLE = {
    **RULES,
    "ClassifierChain": lambda cls: [cls(LogisticRegression())],
    "FrozenEstimator": lambda cls: [cls(LogisticRegression().fit(X, Y))],
    "MultiOutputClassifier": lambda cls: [cls(LogisticRegression())],
}


def made(path):
    package, _, name = path.rpartition(".")
    pytest.importorskip(path.partition(".")[0])
    cls = getattr(importlib.import_module(package), name, None)
    if cls is None and path in COME_AND_GO:
        pytest.skip(f"this release has no {name}")
    assert cls is not None, f"{path} is registered and does not exist"
    some = instances(cls, TABLE)
    if not some:
        pytest.skip(f"{name} has no instance to fit here; its own tests fit it")
    estimator = some[0]
    if path in QUIET:
        estimator.set_params(**QUIET[path])
    if path.startswith(("sklearn.ensemble", "catboost", "lightgbm", "xgboost")):
        own = estimator.get_params(deep=False)
        estimator.set_params(**{key: value for key, value in SMALL.items() if key in own})
    return estimator


def data_for(path):
    """Samples, and labels of the shape that the class takes."""
    name = path.rpartition(".")[2]
    codes = "Encoder" in name or name == "CategoricalNB"
    return np.round(4 * X) if codes else X, np.stack([Y, Y], axis=1) if path in SEVERAL_LABELS else Y


@pytest.mark.parametrize("row", support_table(), ids=lambda row: row.path)
@pytest.mark.filterwarnings("ignore")
def test_row(row):
    data, y = data_for(row.path)
    estimator = made(row.path).fit(data, y)
    if row.structure:
        trees = type(estimator)(max_samples=0.5).fit(data, Y) if "Bagging" in row.path else estimator  # of trees
        assert_array_equal(get_trees(trees).classes_, trees.classes_)
    classifies = hasattr(estimator, "predict") and (
        hasattr(estimator, "classes_") or not hasattr(estimator, "transform")
    )
    model = estimator if classifies else make_pipeline(estimator, LogisticRegression()).fit(data, Y)
    if row.access == "none":
        with pytest.raises((GradientUnavailableError, TypeError), match="no gradient|several outputs"):
            FastGradientMethod(model).transform(data)
        return
    if row.access == "scores":
        assert as_oracle(model, data).access == "scores"
        with pytest.raises(GradientUnavailableError) as caught:
            FastGradientMethod(model).transform(data)
        assert row.gradient in str(caught.value)
        return
    if row.gradient == "none, held fixed":
        with pytest.raises(ValueError, match="all 4 features stand for categories"):
            FastGradientMethod(model).transform(data)
        return
    oracle = as_oracle(model, data)
    assert oracle.access == "gradients"
    if not oracle.runs_in_process:
        continuous = numpy_backend("float64").bind(estimator).continuous
        if row.gradient != "almost everywhere":  # a kink may be a jump, where quantiles tie
            assert continuous == (row.gradient not in ("straight-through", "estimated"))
    result = FastGradientMethod(model, eps=0.6).run(data, Y)
    assert result.success.mean() > 0.3
    if not oracle.random:  # the success on which is a mean over draws
        assert model.score(result.X_adv, Y) == pytest.approx(1 - result.success.mean())
