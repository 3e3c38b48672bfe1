"""Selection of features: exact."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skart.exceptions import GradientUnavailableError
from skart.oracles import as_oracle
from skart.utils import check_rule
from tests.gradients._checks import CANCER, check_step, name, pulled

X, y = CANCER
X, y = X[:, ::3] / X[:, ::3].std(axis=0), y
CLF = LogisticRegression(max_iter=500)
SELECTORS = [
    SelectKBest(k=3),
    SelectKBest(k="all"),
    SelectPercentile(percentile=30),
    SelectFpr(),
    SelectFdr(),
    SelectFwe(alpha=1e-60),
    GenericUnivariateSelect(mode="k_best", param=4),
    VarianceThreshold(),
    SelectFromModel(CLF),
    SelectFromModel(FrozenEstimator(LogisticRegression(max_iter=500).fit(X, y)), prefit=True),
    SelectFromModel(DecisionTreeClassifier(random_state=0), max_features=4),
    SequentialFeatureSelector(CLF, n_features_to_select=2, cv=2),
    RFE(CLF, n_features_to_select=4),
    RFECV(CLF, step=3, cv=2),
]


@pytest.mark.parametrize("step", SELECTORS, ids=name)
def test_selectors(step):
    step = check_step(step, X, y)
    output, grad = pulled(step, X)
    assert_allclose(output, step.transform(X))
    assert_allclose(grad, np.broadcast_to(step.get_support(), X.shape))


@pytest.mark.parametrize("cls", [RFE, RFECV])
def test_elimination_classifies_too(cls):
    model = cls(SVC(kernel="linear")).fit(X[:150], y[:150])
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    assert_allclose(logits[:, 1], model.decision_function(X), atol=1e-8)


def test_elimination_by_a_tree():
    # What it selected is selected; only the tree itself has no gradient.
    step = RFE(DecisionTreeClassifier(random_state=0), n_features_to_select=4)
    check_rule(make_pipeline(step, CLF).fit(X, y), X)
    oracle = as_oracle(step.fit(X, y), X, check=False)
    with pytest.raises(GradientUnavailableError, match="estimator_: DecisionTreeClassifier has no gradient"):
        oracle.logits(X)
